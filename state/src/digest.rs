//! The running digest: one number that says what all applied commands did.
//!
//! Invariants:
//! - The digest after an entry = xxh3-64 of (digest before, log index, logical effects in order): changes with
//!   metadata and values, leases, compaction mark, state version, decisions of requests. Encodings of records,
//!   purges and entries without commands have no part in it.
//! - Every [`MARK_INTERVAL`] log indexes the pair (index, digest) is stored; the last [`MARKS_KEPT`] are kept.

use bytes::Bytes;
use quorate_proto::{LeaseId, Revision};
use xxhash_rust::xxh3::Xxh3;

use crate::codec::{keys, records};
use crate::outcome::{Change, ChangeKind, Fault, LeaseChange};
use crate::store::{Cursor, Overlay, Read};

/// Log indexes between stored pairs.
pub const MARK_INTERVAL: u64 = 1024;

/// Pairs kept.
pub const MARKS_KEPT: u64 = 64;

/// The digest after a log index. Members compare those of equal indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DigestMark {
    /// Log index.
    pub index: u64,
    /// Digest after it.
    pub digest: u64,
}

/// The digest of one entry, under way.
pub(crate) struct Digest(Xxh3);

impl Digest {
    pub(crate) fn new(before: u64, log_index: u64) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&before.to_le_bytes());
        hash.update(&log_index.to_le_bytes());
        Self(hash)
    }

    /// A kind of effect and its numbers, in one update.
    fn numbers<const N: usize>(&mut self, kind: u8, numbers: [i64; N]) {
        self.0.update(&[kind]);
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(bytes);
    }

    pub(crate) fn change(&mut self, revision: Revision, change: &Change) {
        match &change.kind {
            ChangeKind::Put { meta, value } => {
                let lease = LeaseId::wire(meta.lease);
                let (created, modified) = (meta.created_ms, meta.modified_ms);
                let numbers =
                    [revision.0, change.previous.0, meta.create_revision.0, meta.version, lease, created, modified];
                self.numbers(1, numbers);
                self.bytes(value);
            }
            ChangeKind::Delete { lease_ended } => {
                self.numbers(2, [revision.0, change.previous.0, i64::from(*lease_ended)]);
            }
        }
        self.bytes(change.key.as_bytes());
    }

    pub(crate) fn lease(&mut self, change: &LeaseChange) {
        match change {
            LeaseChange::Granted { lease, ttl_ms } => self.numbers(3, [lease.get(), ttl_ms.cast_signed()]),
            LeaseChange::Ended { lease } => self.numbers(4, [lease.get()]),
            LeaseChange::Checkpointed { lease, remaining_ms } => {
                let remaining = remaining_ms.map_or(-1, u64::cast_signed);
                self.numbers(5, [lease.get(), remaining]);
            }
        }
    }

    pub(crate) fn compacted(&mut self, mark: Revision) {
        self.numbers(6, [mark.0]);
    }

    pub(crate) fn state_version(&mut self, version: u32) {
        self.numbers(7, [i64::from(version)]);
    }

    pub(crate) fn request(&mut self, request: &records::RequestEntry) {
        let client = request.client.get().cast_signed();
        self.numbers(8, [client, request.sequence.cast_signed(), request.lowest.cast_signed()]);
        self.bytes(&request.memory);
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// Stores the pair of this index when it is due, and drops the one that is too old.
pub(crate) fn mark<R: Read>(overlay: &mut Overlay<'_, R>, index: u64, digest: u64) {
    if index.is_multiple_of(MARK_INTERVAL) {
        cov_mark::hit!(digest_mark_stored);
        overlay.put(keys::digest(index), records::number(digest));
        if let Some(old) = index.checked_sub(MARK_INTERVAL * MARKS_KEPT) {
            overlay.delete(keys::digest(old));
        }
    }
}

/// The stored pairs, oldest first.
pub(crate) fn marks<R: Read>(read: &R) -> Result<Vec<DigestMark>, Fault> {
    let mut cursor = read.cursor(true);
    cursor.seek(keys::DIGEST_PREFIX);
    let mut marks = Vec::new();
    while let Some((key, value)) = cursor.entry() {
        if !key.starts_with(keys::DIGEST_PREFIX) {
            break;
        }
        let digest = records::read_number(&Bytes::copy_from_slice(value))?;
        marks.push(DigestMark { index: keys::split_digest(key)?, digest });
        cursor.next();
    }
    cursor.status()?;
    Ok(marks)
}
