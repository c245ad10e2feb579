//! A store that keeps each write apart, so that a test can fail one, or lose the last ones.
//!
//! Invariants:
//! - What survives is a prefix of the writes.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::store::{MemoryCursor, MemorySnapshot, MemoryStore, Read, Store, StoreError, WriteBatch};

/// A store in memory that can fail.
#[derive(Debug, Default)]
pub struct CrashStore {
    store: MemoryStore,
    state: Mutex<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    written: Vec<WriteBatch>,
    fail_at: Option<usize>,
    latched: bool,
}

impl CrashStore {
    /// An empty store that never fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose write number `at` (from 0) fails, and all after it.
    pub fn failing_at(at: usize) -> Self {
        let store = Self::new();
        store.writes().fail_at = Some(at);
        store
    }

    fn writes(&self) -> std::sync::MutexGuard<'_, Writes> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many writes there were.
    pub fn count(&self) -> usize {
        self.writes().written.len()
    }

    /// The last write.
    pub fn last_write(&self) -> Option<WriteBatch> {
        self.writes().written.last().cloned()
    }

    /// What a crash leaves that lost all but the first `kept` writes.
    pub fn after_crash(&self, kept: usize) -> MemoryStore {
        let survivor = MemoryStore::new();
        for batch in self.writes().written.iter().take(kept) {
            survivor.write(batch.clone()).expect("memory takes every write");
        }
        survivor
    }
}

impl Read for CrashStore {
    type Cursor<'a> = MemoryCursor;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(key)
    }

    fn cursor(&self, fill_cache: bool) -> MemoryCursor {
        self.store.cursor(fill_cache)
    }
}

impl Store for CrashStore {
    type Snapshot<'a> = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        self.store.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut writes = self.writes();
        if writes.latched {
            return Err(StoreError::Latched);
        }
        if writes.fail_at == Some(writes.written.len()) {
            writes.latched = true;
            return Err(StoreError::Io("the test's disk failed".into()));
        }
        writes.written.push(batch.clone());
        self.store.write(batch)
    }
}
