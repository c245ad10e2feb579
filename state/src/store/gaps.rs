//! Where a store is known to hold nothing.
//!
//! A store keeps tombstones of deleted keys until it merges its files, and its cursor passes over each of them. Where keys
//! come and go, as contenders of a lock do, that becomes most of the work of whoever asks what is there. So stretches that
//! were seen to be empty are remembered, and a cursor leaps over them.
//!
//! Invariants:
//! - No key of the store lies in a gap: a write is noted before anybody reads what it wrote.
//! - Gaps do not overlap or touch, and lie within the tables that are watched: keys that begin with their byte.
//! - They change nothing of what is read. They are bounded: when there are too many all are forgotten, which costs time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use quorate_proto::Key;

use super::{Cursor, Read, StoreError, Write, WriteBatch};

/// Gaps, at most.
const COUNT_MAX: usize = 16 * 1024;
/// Bytes of their ends, at most.
const BYTES_MAX: usize = 4 << 20;

/// Empty stretches of a store: from the first of each, inclusive, to its end, exclusive.
#[derive(Debug)]
pub struct Gaps {
    tables: &'static [u8],
    /// The end of each, by its first key.
    ends: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl Gaps {
    /// Nothing is known yet of these tables.
    pub fn of(tables: &'static [u8]) -> Self {
        Self { tables, ends: BTreeMap::new(), bytes: 0 }
    }

    /// Takes note of what is about to be written.
    pub fn note(&mut self, batch: &WriteBatch) {
        for write in &batch.writes {
            match write {
                Write::Put { key, .. } if self.watches(key) => self.came(key),
                Write::Delete { key } if self.watches(key) => self.went(key),
                // Of another table, or it leaves no more there than is known.
                Write::Put { .. } | Write::Delete { .. } | Write::DeleteRange { .. } => {}
            }
        }
    }

    fn watches(&self, key: &[u8]) -> bool {
        key.first().is_some_and(|table| self.tables.contains(table))
    }

    /// The gap that begins at `key`, or last before it.
    fn last_until(&self, key: &[u8]) -> Option<(&Vec<u8>, &Vec<u8>)> {
        self.ends.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
    }

    /// The gap that `key` lies in.
    fn around(&self, key: &[u8]) -> Option<(&Vec<u8>, &Vec<u8>)> {
        self.last_until(key).filter(|(_, end)| &end[..] > key)
    }

    /// The gap that `key` lies in or follows upon.
    fn reaching(&self, key: &[u8]) -> Option<(&Vec<u8>, &Vec<u8>)> {
        self.last_until(key).filter(|(_, end)| &end[..] >= key)
    }

    fn came(&mut self, key: &[u8]) {
        let Some(start) = self.around(key).map(|(start, _)| start.clone()) else { return };
        let Some(end) = self.remove(&start) else { return };
        if start[..] < *key {
            self.insert(start, key.to_vec());
        }
        let after = Key::after(key);
        if after < end {
            self.insert(after, end);
        }
    }

    fn went(&mut self, key: &[u8]) {
        let (mut start, mut end) = (key.to_vec(), Key::after(key));
        if let Some(before) = self.reaching(key).map(|(before, _)| before.clone())
            && let Some(until) = self.remove(&before)
        {
            (start, end) = (before, end.max(until));
        }
        if let Some(until) = self.remove(&end) {
            end = until;
        }
        self.insert(start, end);
    }

    /// A cursor moved from `from` to `to` without finding anything between; `None`: to the end of the store.
    fn passed(&mut self, from: &[u8], to: Option<&[u8]>) {
        let Some(table) = from.first().filter(|_| self.watches(from)) else { return };
        let end_of_table = [table + 1];
        let to = to.filter(|to| *to < &end_of_table[..]).unwrap_or(&end_of_table);
        let start = self.reaching(from).map_or(from, |(start, _)| start);
        if start >= to {
            return;
        }
        let within = || self.ends.range::<[u8], _>((Bound::Included(start), Bound::Excluded(to)));
        // With less than two, nothing was passed over that will not be leapt over.
        if within().nth(1).is_none() {
            return;
        }
        let (within, start): (Vec<_>, _) = (within().map(|(start, _)| start.clone()).collect(), start.to_vec());
        for gap in &within {
            self.remove(gap);
        }
        self.insert(start, to.to_vec());
    }

    fn insert(&mut self, start: Vec<u8>, end: Vec<u8>) {
        self.bytes += start.len() + end.len();
        self.ends.insert(start, end);
        if self.ends.len() > COUNT_MAX || self.bytes > BYTES_MAX {
            self.ends.clear();
            self.bytes = 0;
        }
    }

    fn remove(&mut self, start: &[u8]) -> Option<Vec<u8>> {
        let end = self.ends.remove(start)?;
        self.bytes -= start.len() + end.len();
        Some(end)
    }
}

/// A store, read with what is known of its gaps. They must be those of this store as it is now.
#[derive(Debug)]
pub struct Gapped<'s, S> {
    store: &'s S,
    gaps: &'s RefCell<Gaps>,
}

impl<'s, S> Gapped<'s, S> {
    /// Reads `store`.
    pub fn new(store: &'s S, gaps: &'s RefCell<Gaps>) -> Self {
        Self { store, gaps }
    }
}

impl<S: Read> Read for Gapped<'_, S> {
    type Cursor<'a>
        = GappedCursor<'a, S::Cursor<'a>>
    where
        Self: 'a;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(key)
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.store.multi_get(keys)
    }

    fn cursor(&self, fill_cache: bool) -> Self::Cursor<'_> {
        GappedCursor { cursor: self.store.cursor(fill_cache), gaps: self.gaps }
    }
}

/// A position that leaps over gaps on its way forward.
pub struct GappedCursor<'a, C> {
    cursor: C,
    gaps: &'a RefCell<Gaps>,
}

impl<C: Cursor> GappedCursor<'_, C> {
    /// To the first key from `from` on, which is where `step` leads as well.
    fn advance(&mut self, from: &[u8], step: impl FnOnce(&mut C)) {
        match self.gaps.borrow().around(from) {
            Some((_, end)) => {
                cov_mark::hit!(gap_leapt_over);
                self.cursor.seek(end);
            }
            None => step(&mut self.cursor),
        }
        if self.cursor.status().is_ok() {
            self.gaps.borrow_mut().passed(from, self.cursor.entry().map(|(key, _)| key));
        }
    }
}

impl<C: Cursor> Cursor for GappedCursor<'_, C> {
    fn seek(&mut self, key: &[u8]) {
        self.advance(key, |cursor| cursor.seek(key));
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        self.cursor.seek_for_prev(key);
    }

    fn next(&mut self) {
        // Most of the time, and then it costs nothing.
        if self.gaps.borrow().ends.is_empty() {
            return self.cursor.next();
        }
        let Some(from) = self.cursor.entry().map(|(key, _)| Key::after(key)) else { return };
        self.advance(&from, C::next);
    }

    fn prev(&mut self) {
        self.cursor.prev();
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.entry()
    }

    fn status(&self) -> Result<(), StoreError> {
        self.cursor.status()
    }
}

#[cfg(test)]
mod tests;
