//! The scrub: one hash of the whole content at one log index, which members compare. It finds what the running digest
//! cannot: a store that rotted, or was changed, behind the machine's back.
//!
//! Invariants:
//! - Equal histories give equal hashes, however far a member has purged: what a purge may remove is passed over.
//! - It covers what is stored, not how: values are decoded, and their meaning is hashed.
//! - Not in it: the members (consensus compares those), the stored pairs of digests and scrubs, how far the purge came.
//! - The hash is xxh3-64 of the tables in the order `h c d e l a r`, then the head; after each table its letter and
//!   the number of entries. Numbers are 8 bytes, little-endian; bytes have their length before them. Whoever changes what
//!   is hashed raises [`DEFINITION`]: hashes of different definitions are not compared.

use quorate_proto::{LeaseId, Revision};
use xxhash_rust::xxh3::Xxh3;

use crate::codec::keys::table;
use crate::codec::{keys, records};
use crate::content_hash::visit_readable;
use crate::digest::DigestMark;
use crate::outcome::{Fault, Meta};
use crate::store::{Cursor, Read, Store, WriteBatch};
use crate::view::{LeaseRecord, View};

/// What is hashed, and how.
pub const DEFINITION: u32 = 1;

/// Pairs kept.
pub const MARKS_KEPT: usize = 4;

impl<R: Read> View<R> {
    /// Hashes the whole content. `go_on` is asked at each stored entry, with its bytes, and may take its time; once it
    /// says no, there is no hash.
    pub fn scrub(&self, mut go_on: impl FnMut(usize) -> bool) -> Result<Option<DigestMark>, Fault> {
        let mut walk = Walk { read: &self.read, hash: Hash(Xxh3::new()), go_on: &mut go_on };
        let all = walk.history(&self.head)?
            && walk.table(&[table::CURRENT], current)?
            && walk.table(&[table::DIRECTORY], directory)?
            && walk.table(&[table::CHILD], child)?
            && walk.table(&[table::LEASE], lease)?
            && walk.table(&[table::ATTACHED], attached)?
            && walk.table(&records_from(&self.read, &self.head)?, record)?;
        walk.hash.head(&self.head);
        Ok(all.then(|| DigestMark { index: self.digest().index, digest: walk.hash.0.digest() }))
    }

    /// The stored pairs of scrubs, oldest first.
    pub fn scrubs(&self) -> Result<Vec<DigestMark>, Fault> {
        marks(&self.read)
    }
}

/// Stores a pair for later comparison, and drops those that are too old.
pub fn keep<S: Store>(store: &S, mark: DigestMark) -> Result<(), Fault> {
    let mut batch = WriteBatch::default();
    let others: Vec<_> = marks(store)?.into_iter().filter(|other| other.index != mark.index).collect();
    for old in others.iter().rev().skip(MARKS_KEPT - 1) {
        batch.delete(keys::scrub(old.index));
    }
    batch.put(keys::scrub(mark.index), records::number(mark.digest));
    Ok(store.write(batch)?)
}

pub(crate) fn marks<R: Read>(read: &R) -> Result<Vec<DigestMark>, Fault> {
    let mut cursor = read.cursor(true);
    cursor.seek(keys::SCRUB_PREFIX);
    let mut marks = Vec::new();
    while let Some((key, value)) = cursor.entry().filter(|(key, _)| key.starts_with(keys::SCRUB_PREFIX)) {
        marks.push(DigestMark { index: keys::split_scrub(key)?, digest: records::read_number(value)? });
        cursor.next();
    }
    cursor.status()?;
    Ok(marks)
}

/// The first record of changes that no member may have dropped: the one that holds the mark, or the oldest with
/// requests that are remembered.
fn records_from<R: Read>(read: &R, head: &records::Head) -> Result<Vec<u8>, Fault> {
    let mut cursor = read.cursor(false);
    cursor.seek_for_prev(&keys::record(head.compacted, u64::MAX));
    let Some((key, _)) = cursor.entry().filter(|(key, _)| key.first() == Some(&table::RECORD)) else {
        cursor.status()?;
        return Ok(vec![table::RECORD]);
    };
    let window = (head.window_revision, head.forgotten_index.saturating_add(1));
    let (revision, index) = keys::split_record(key)?.min(window);
    Ok(keys::record(revision, index))
}

struct Walk<'r, R, F> {
    read: &'r R,
    hash: Hash,
    go_on: &'r mut F,
}

impl<R: Read, F: FnMut(usize) -> bool> Walk<'_, R, F> {
    /// What may be read of `h`. False: told to stop.
    fn history(&mut self, head: &records::Head) -> Result<bool, Fault> {
        let mut entries = 0;
        let Self { read, hash, go_on } = self;
        let all = visit_readable(*read, head.revision, head.compacted, &mut **go_on, |key, revision, version| {
            entries += 1;
            hash.bytes(key);
            hash.numbers([revision.0, i64::from(version.is_some())]);
            if let Some((meta, value)) = version {
                hash.meta(meta);
                hash.bytes(value);
            }
        })?;
        self.hash.end(table::HISTORY, entries);
        Ok(all)
    }

    /// The rest of a table from a key on. False: told to stop.
    fn table(
        &mut self,
        from: &[u8],
        entry: impl Fn(&mut Hash, &[u8], &[u8]) -> Result<(), Fault>,
    ) -> Result<bool, Fault> {
        let (table, mut entries) = (from[0], 0);
        let mut cursor = self.read.cursor(false);
        cursor.seek(from);
        while let Some((key, value)) = cursor.entry().filter(|(key, _)| key.first() == Some(&table)) {
            if !(self.go_on)(key.len() + value.len()) {
                return Ok(false);
            }
            entries += 1;
            entry(&mut self.hash, key, value)?;
            cursor.next();
        }
        cursor.status()?;
        self.hash.end(table, entries);
        Ok(true)
    }
}

fn current(hash: &mut Hash, key: &[u8], value: &[u8]) -> Result<(), Fault> {
    hash.bytes(&key[1..]);
    hash.meta(&records::read_current(value)?);
    Ok(())
}

fn directory(hash: &mut Hash, key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let record = records::DirectoryRecord::decode(value)?;
    hash.bytes(&key[1..]);
    hash.numbers([record.children.cast_signed(), record.children_revision.0, record.next_sequence.cast_signed()]);
    Ok(())
}

fn child(hash: &mut Hash, key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let (directory, name) = keys::split_child(key)?;
    let bits = records::ChildBits::decode(value)?;
    hash.bytes(&directory);
    hash.bytes(name);
    hash.numbers([i64::from(bits.is_key), i64::from(bits.is_directory)]);
    Ok(())
}

fn lease(hash: &mut Hash, key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let LeaseRecord { ttl_ms, remaining_ms, granted_revision, own_key } = records::read_lease(value)?;
    let remaining = remaining_ms.map_or(-1, u64::cast_signed);
    let numbers = [ttl_ms.cast_signed(), remaining, granted_revision.0, i64::from(own_key)];
    hash.numbers([keys::split_lease(key)?.get()]);
    hash.numbers(numbers);
    Ok(())
}

fn attached(hash: &mut Hash, key: &[u8], _: &[u8]) -> Result<(), Fault> {
    hash.numbers([keys::split_lease(key)?.get()]);
    hash.bytes(&key[9..]);
    Ok(())
}

fn record(hash: &mut Hash, key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let (first, index) = keys::split_record(key)?;
    hash.numbers([first.0, index.cast_signed()]);
    let mut changes = 0;
    records::visit_changes(value, first, |revision, _, change| {
        changes += 1;
        hash.numbers([revision.0, change.kind as i64, change.previous.0]);
        hash.bytes(change.key);
        true
    })?;
    hash.numbers([changes]);
    records::visit_requests(value, |request| {
        let client = request.client.get().cast_signed();
        hash.numbers([client, request.sequence.cast_signed(), request.lowest.cast_signed()]);
        hash.bytes(request.memory);
    })?;
    Ok(())
}

struct Hash(Xxh3);

impl Hash {
    fn numbers<const N: usize>(&mut self, numbers: [i64; N]) {
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(bytes);
    }

    fn meta(&mut self, meta: &Meta) {
        let Meta { create_revision, mod_revision, version, lease, created_ms, modified_ms } = *meta;
        self.numbers([create_revision.0, mod_revision.0, version, LeaseId::wire(lease), created_ms, modified_ms]);
    }

    fn end(&mut self, table: u8, entries: i64) {
        self.0.update(&[table]);
        self.numbers([entries]);
    }

    fn head(&mut self, head: &records::Head) {
        let records::Head {
            revision: Revision(revision),
            applied,
            digest,
            stamp_ms,
            keys,
            leases,
            forgotten_index,
            window_revision: Revision(window),
            compacted: Revision(compacted),
            state_version,
        } = *head;
        let (term, index) = applied.map_or((0, 0), |at| (at.term.cast_signed(), at.index.cast_signed()));
        let counts =
            [keys.cast_signed(), leases.cast_signed(), forgotten_index.cast_signed(), i64::from(state_version)];
        self.numbers([revision, term, index, digest.cast_signed(), stamp_ms, window, compacted]);
        self.numbers(counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn the_last_pairs_are_kept() {
        let store = MemoryStore::new();
        let mark = |index| DigestMark { index, digest: index ^ 1 << 63 };
        for index in [5, 7, 300, 301, 302, 70_000, 70_000] {
            keep(&store, mark(index)).unwrap();
        }
        assert_eq!(marks(&store).unwrap(), [300, 301, 302, 70_000].map(mark));
    }
}
