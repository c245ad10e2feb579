//! The synchronous store that the machine works on: ordered bytes, snapshots, one atomic write.
//!
//! Invariants:
//! - A [`Batch`](WriteBatch) is written whole or not at all, also across a crash; and what survives a crash is a
//!   prefix of the batches written.
//! - A snapshot never changes.
//! - After a failed write a store refuses everything until it is opened again.

mod gaps;
mod memory;
mod overlay;
mod pinned;

pub use gaps::{Gapped, GappedCursor, Gaps};
pub use memory::{MemoryCursor, MemorySnapshot, MemoryStore};
pub use overlay::{Overlay, OverlayCursor};
pub use pinned::{Pinned, PinnedCursor};

use std::sync::Arc;

use bytes::Bytes;

/// Reading, from the store itself or from a snapshot.
pub trait Read {
    /// A position in the ordered keys.
    type Cursor<'a>: Cursor
    where
        Self: 'a;

    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Values of many keys, in the order asked for. Stores that can do better than one by one override it.
    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// A cursor that stands nowhere yet. `fill_cache` is false for long background scans.
    fn cursor(&self, fill_cache: bool) -> Self::Cursor<'_>;
}

/// A movable position. After each move: `entry()` is `Some`, or the end (or an error, see `status`) was reached.
pub trait Cursor {
    /// To the first key ≥ `key`.
    fn seek(&mut self, key: &[u8]);
    /// To the last key ≤ `key`.
    fn seek_for_prev(&mut self, key: &[u8]);
    /// To the next key. Only when `entry()` is `Some`.
    fn next(&mut self);
    /// To the key before. Only when `entry()` is `Some`.
    fn prev(&mut self);
    /// Key and value here.
    fn entry(&self) -> Option<(&[u8], &[u8])>;
    /// Whether the last `None` of `entry()` was an error rather than the end.
    fn status(&self) -> Result<(), StoreError>;
}

/// A store.
pub trait Store: Read {
    /// An unchanging picture of the store.
    type Snapshot<'a>: Read
    where
        Self: 'a;

    /// A picture of what is there now.
    fn snapshot(&self) -> Self::Snapshot<'_>;

    /// Writes all of it, or nothing.
    fn write(&self, batch: WriteBatch) -> Result<(), StoreError>;
}

macro_rules! store_behind {
    ($pointer:ty) => {
        impl<S: Read> Read for $pointer {
            type Cursor<'a>
                = S::Cursor<'a>
            where
                Self: 'a;

            fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
                (**self).get(key)
            }

            fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
                (**self).multi_get(keys)
            }

            fn cursor(&self, fill_cache: bool) -> Self::Cursor<'_> {
                (**self).cursor(fill_cache)
            }
        }

        impl<S: Store> Store for $pointer {
            type Snapshot<'a>
                = S::Snapshot<'a>
            where
                Self: 'a;

            fn snapshot(&self) -> Self::Snapshot<'_> {
                (**self).snapshot()
            }

            fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
                (**self).write(batch)
            }
        }
    };
}

store_behind!(&S);
store_behind!(Arc<S>);

/// Writes in order: a later one wins over an earlier one of the same key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// The writes.
    pub writes: Vec<Write>,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Set a key.
    Put {
        /// Key.
        key: Vec<u8>,
        /// Value.
        value: Bytes,
    },
    /// Remove a key.
    Delete {
        /// Key.
        key: Vec<u8>,
    },
    /// Remove all keys in `[start, end)`. Purging only; never in a batch of apply.
    DeleteRange {
        /// Inclusive.
        start: Vec<u8>,
        /// Exclusive.
        end: Vec<u8>,
    },
}

impl WriteBatch {
    /// Adds a put.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.writes.push(Write::Put { key: key.into(), value: value.into() });
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.writes.push(Write::Delete { key: key.into() });
    }

    /// Adds a delete of `[start, end)`.
    pub fn delete_range(&mut self, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) {
        self.writes.push(Write::DeleteRange { start: start.into(), end: end.into() });
    }
}

/// The disk, or what stands for it, failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{0}")]
    Io(String),
    /// A write failed before; nothing is taken until the store is opened again.
    #[error("the store failed before and is closed")]
    Latched,
    /// Only what is at hand was wanted, and this is not: it is to be asked for again, of a snapshot.
    #[error("what was asked is not at hand")]
    NotAtHand,
}
