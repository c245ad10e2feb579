//! A store in memory: an ordered map behind a lock, copied when written while a snapshot of it lives.
//!
//! Invariants:
//! - A snapshot and a cursor hold the map as it was when they were taken.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::{Cursor, Read, Store, StoreError, Write, WriteBatch};

type Map = BTreeMap<Vec<u8>, Bytes>;

/// A store in memory. Clones of it are independent.
#[derive(Debug, Default)]
pub struct MemoryStore {
    map: RwLock<Arc<Map>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every key and value, in order.
    pub fn entries(&self) -> Vec<(Vec<u8>, Bytes)> {
        self.map().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self { map: RwLock::new(self.map()) }
    }
}

impl Read for MemoryStore {
    type Cursor<'a> = MemoryCursor;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.map.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn cursor(&self, _fill_cache: bool) -> MemoryCursor {
        MemoryCursor { map: self.map(), here: None }
    }
}

impl Store for MemoryStore {
    type Snapshot<'a> = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot { map: self.map() }
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut guard = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let map = Arc::make_mut(&mut guard);
        for write in batch.writes {
            match write {
                Write::Put { key, value } => {
                    map.insert(key, value);
                }
                Write::Delete { key } => {
                    map.remove(&key);
                }
                Write::DeleteRange { start, end } => {
                    let gone: Vec<_> = map.range(start..end).map(|(key, _)| key.clone()).collect();
                    for key in gone {
                        map.remove(&key);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a [`MemoryStore`] held at one moment.
#[derive(Debug, Clone)]
pub struct MemorySnapshot {
    map: Arc<Map>,
}

impl Read for MemorySnapshot {
    type Cursor<'a> = MemoryCursor;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.map.get(key).cloned())
    }

    fn cursor(&self, _fill_cache: bool) -> MemoryCursor {
        MemoryCursor { map: self.map.clone(), here: None }
    }
}

/// A position in a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryCursor {
    map: Arc<Map>,
    here: Option<(Vec<u8>, Bytes)>,
}

impl MemoryCursor {
    fn owned(entry: Option<(&Vec<u8>, &Bytes)>) -> Option<(Vec<u8>, Bytes)> {
        entry.map(|(key, value)| (key.clone(), value.clone()))
    }
}

impl Cursor for MemoryCursor {
    fn seek(&mut self, key: &[u8]) {
        self.here = Self::owned(self.map.range::<[u8], _>((Bound::Included(key), Bound::Unbounded)).next());
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        self.here = Self::owned(self.map.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back());
    }

    fn next(&mut self) {
        if let Some((key, _)) = self.here.take() {
            self.here = Self::owned(self.map.range::<[u8], _>((Bound::Excluded(&key[..]), Bound::Unbounded)).next());
        }
    }

    fn prev(&mut self) {
        if let Some((key, _)) = self.here.take() {
            self.here =
                Self::owned(self.map.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&key[..]))).next_back());
        }
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.here.as_ref().map(|(key, value)| (&key[..], &value[..]))
    }

    fn status(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
