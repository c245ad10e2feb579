//! A snapshot to read from, or the promise of one: a read that a picture answers takes none.
//!
//! Invariants:
//! - What a promised snapshot shows is what its picture shows: it is refused once the store has moved on.
//! - A promised one gives values, and no cursor: a scan may be long, and is not for where it is tried first.

use std::cell::OnceCell;

use bytes::Bytes;

use super::{Cursor, Read, Store, StoreError};
use crate::apply::LogPosition;
use crate::view;

/// See the module.
pub struct Pinned<'s, S: Store>(Source<'s, S>);

enum Source<'s, S: Store> {
    There(S::Snapshot<'s>),
    Promised {
        store: &'s S,
        /// The last entry of what it has to show.
        applied: Option<LogPosition>,
        snapshot: OnceCell<S::Snapshot<'s>>,
    },
}

/// The cursor of a [`Pinned`].
pub enum PinnedCursor<C> {
    /// Of a snapshot.
    There(C),
    /// Refused.
    Refused,
}

impl<'s, S: Store> Pinned<'s, S> {
    /// What the store shows now.
    pub fn now(store: &'s S) -> Self {
        Self(Source::There(store.snapshot()))
    }

    /// What the store shows after this entry, if it still does when it is asked.
    pub fn promised(store: &'s S, applied: Option<LogPosition>) -> Self {
        Self(Source::Promised { store, applied, snapshot: OnceCell::new() })
    }

    fn snapshot(&self) -> Result<&S::Snapshot<'s>, StoreError> {
        let (store, applied, kept) = match &self.0 {
            Source::There(snapshot) => return Ok(snapshot),
            Source::Promised { store, applied, snapshot } => (*store, applied, snapshot),
        };
        if let Some(snapshot) = kept.get() {
            return Ok(snapshot);
        }
        let snapshot = store.snapshot();
        let head = view::head(&snapshot).map_err(|fault| StoreError::Io(fault.to_string()))?;
        if head.applied == *applied { Ok(kept.get_or_init(|| snapshot)) } else { Err(StoreError::NotAtHand) }
    }
}

impl<'s, S: Store> Read for Pinned<'s, S> {
    type Cursor<'a>
        = PinnedCursor<<<S as Store>::Snapshot<'s> as Read>::Cursor<'a>>
    where
        Self: 'a;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.snapshot()?.get(key)
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.snapshot()?.multi_get(keys)
    }

    fn cursor(&self, fill_cache: bool) -> Self::Cursor<'_> {
        match &self.0 {
            Source::There(snapshot) => PinnedCursor::There(snapshot.cursor(fill_cache)),
            Source::Promised { .. } => PinnedCursor::Refused,
        }
    }
}

impl<C: Cursor> Cursor for PinnedCursor<C> {
    fn seek(&mut self, key: &[u8]) {
        if let Self::There(cursor) = self {
            cursor.seek(key);
        }
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        if let Self::There(cursor) = self {
            cursor.seek_for_prev(key);
        }
    }

    fn next(&mut self) {
        if let Self::There(cursor) = self {
            cursor.next();
        }
    }

    fn prev(&mut self) {
        if let Self::There(cursor) = self {
            cursor.prev();
        }
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        match self {
            Self::There(cursor) => cursor.entry(),
            Self::Refused => None,
        }
    }

    fn status(&self) -> Result<(), StoreError> {
        match self {
            Self::There(cursor) => cursor.status(),
            Self::Refused => Err(StoreError::NotAtHand),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Entry, Machine, Payload};
    use crate::store::MemoryStore;

    #[test]
    fn a_promise_is_kept_until_the_store_moves_on_and_gives_no_cursor() {
        let store = MemoryStore::new();
        let mut machine = Machine::open(&store).unwrap();
        let blank = |index| Entry { position: LogPosition { term: 1, index }, payload: Payload::Blank };
        machine.apply(&[blank(1)]).unwrap();
        let at = Some(LogPosition { term: 1, index: 1 });
        let (kept, late) = (Pinned::promised(&store, at), Pinned::promised(&store, at));
        let head = kept.get(crate::codec::keys::HEAD).unwrap();
        assert!(head.is_some());
        let mut cursor = kept.cursor(true);
        cursor.seek(b"");
        assert!(cursor.entry().is_none() && matches!(cursor.status(), Err(StoreError::NotAtHand)));
        machine.apply(&[blank(2)]).unwrap();
        assert_eq!(kept.get(crate::codec::keys::HEAD).unwrap(), head);
        assert!(matches!(late.get(b"k"), Err(StoreError::NotAtHand)));
        let now = Pinned::now(&store);
        let mut cursor = now.cursor(true);
        cursor.seek(b"");
        assert!(cursor.entry().is_some());
    }
}
