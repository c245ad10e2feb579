//! Writes that are decided but not yet in the store, laid over it: commands of one entry, and entries of one
//! write, see each other's effects through it.
//!
//! Invariants:
//! - Reading through the overlay gives what reading the store would give after [`Overlay::into_batch`] was written.
//! - [`Overlay::rollback`] leaves exactly what stood at the last [`Overlay::begin`].

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Cursor, Read, StoreError, WriteBatch};

/// A pending write: a value, or `None` for a delete.
type Pending = Option<Bytes>;

type Writes = BTreeMap<Vec<u8>, Pending>;

/// Pending writes over a base.
#[derive(Debug)]
pub struct Overlay<'b, R> {
    base: &'b R,
    writes: Writes,
    /// What the keys written since `begin` had before; `None` while nothing may be rolled back.
    journal: Option<Vec<(Vec<u8>, Option<Pending>)>>,
}

impl<'b, R: Read> Overlay<'b, R> {
    /// Nothing pending.
    pub fn new(base: &'b R) -> Self {
        Self { base, writes: Writes::new(), journal: None }
    }

    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: impl Into<Bytes>) {
        self.set(key, Some(value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.set(key, None);
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        if let Some(journal) = &mut self.journal {
            let before = self.writes.insert(key.clone(), value);
            journal.push((key, before));
        } else {
            self.writes.insert(key, value);
        }
    }

    /// From here on writes can be rolled back.
    pub fn begin(&mut self) {
        self.journal = Some(Vec::new());
    }

    /// Keeps the writes since `begin`.
    pub fn commit(&mut self) {
        self.journal = None;
    }

    /// Undoes the writes since `begin`.
    pub fn rollback(&mut self) {
        for (key, before) in self.journal.take().unwrap_or_default().into_iter().rev() {
            match before {
                Some(value) => self.writes.insert(key, value),
                None => self.writes.remove(&key),
            };
        }
    }

    /// The pending writes, in key order.
    pub fn into_batch(self) -> WriteBatch {
        let mut batch = WriteBatch { writes: Vec::with_capacity(self.writes.len()) };
        for (key, value) in self.writes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch
    }
}

impl<R: Read> Read for Overlay<'_, R> {
    type Cursor<'a>
        = OverlayCursor<'a, R>
    where
        Self: 'a;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn cursor(&self, fill_cache: bool) -> OverlayCursor<'_, R> {
        OverlayCursor {
            base: self.base.cursor(fill_cache),
            writes: &self.writes,
            pending: None,
            here: Here::Nowhere,
            backward: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    Nowhere,
    Base,
    Pending,
    /// The pending write hides an entry of the base with the same key.
    Both,
}

/// A position in the merged order of base and pending writes.
pub struct OverlayCursor<'a, R: Read + 'a> {
    base: R::Cursor<'a>,
    writes: &'a Writes,
    pending: Option<(&'a [u8], &'a Option<Bytes>)>,
    here: Here,
    backward: bool,
}

impl<'a, R: Read> OverlayCursor<'a, R> {
    fn pending_from(&self, key: Bound<&[u8]>) -> Option<(&'a [u8], &'a Option<Bytes>)> {
        self.writes.range::<[u8], _>((key, Bound::Unbounded)).next().map(|(key, value)| (&key[..], value))
    }

    fn pending_until(&self, key: Bound<&[u8]>) -> Option<(&'a [u8], &'a Option<Bytes>)> {
        self.writes.range::<[u8], _>((Bound::Unbounded, key)).next_back().map(|(key, value)| (&key[..], value))
    }

    /// Takes the nearer of the two sides; steps over pending deletes and what they hide.
    fn settle(&mut self) {
        loop {
            self.here = match (self.base.entry(), self.pending) {
                (None, None) => Here::Nowhere,
                (Some(_), None) => Here::Base,
                (Some((base, _)), Some((pending, _))) if base == pending => Here::Both,
                (Some((base, _)), Some((pending, _))) if (base < pending) != self.backward => Here::Base,
                _ => Here::Pending,
            };
            // A base that failed must not look like a base that ended.
            if self.base.status().is_err() {
                self.here = Here::Nowhere;
                return;
            }
            match (self.here, self.pending) {
                (Here::Pending | Here::Both, Some((_, None))) => self.step(),
                _ => return,
            }
        }
    }

    /// Moves the sides that stand at the current entry.
    fn step(&mut self) {
        if matches!(self.here, Here::Base | Here::Both) {
            if self.backward { self.base.prev() } else { self.base.next() }
        }
        if let (Here::Pending | Here::Both, Some((key, _))) = (self.here, self.pending) {
            self.pending = if self.backward {
                self.pending_until(Bound::Excluded(key))
            } else {
                self.pending_from(Bound::Excluded(key))
            };
        }
    }
}

impl<R: Read> Cursor for OverlayCursor<'_, R> {
    fn seek(&mut self, key: &[u8]) {
        self.backward = false;
        self.base.seek(key);
        self.pending = self.pending_from(Bound::Included(key));
        self.settle();
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        self.backward = true;
        self.base.seek_for_prev(key);
        self.pending = self.pending_until(Bound::Included(key));
        self.settle();
    }

    fn next(&mut self) {
        if self.backward {
            let Some(mut key) = self.entry().map(|(key, _)| key.to_vec()) else { return };
            key.push(0);
            self.seek(&key);
        } else {
            self.step();
            self.settle();
        }
    }

    fn prev(&mut self) {
        if !self.backward {
            let Some(key) = self.entry().map(|(key, _)| key.to_vec()) else { return };
            self.seek_for_prev(&key);
        }
        self.step();
        self.settle();
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        match self.here {
            Here::Nowhere => None,
            Here::Base => self.base.entry(),
            Here::Pending | Here::Both => match self.pending {
                Some((key, Some(value))) => Some((key, &value[..])),
                _ => None,
            },
        }
    }

    fn status(&self) -> Result<(), StoreError> {
        self.base.status()
    }
}

#[cfg(test)]
mod tests;
