//! Reads on a snapshot of the store: what the doors and the watch room see.
//!
//! Invariants:
//! - A view pins revision and compaction mark from the very snapshot that it reads, so a purge under way is
//!   never seen: what it removes is no answer to a read at or above the mark.
//! - A read below the mark is refused as compacted, one above the revision as future.
//! - A transaction's changes are given whole: a chunk of history ends between revisions.

use std::cell::RefCell;

use bytes::Bytes;
use quorate_proto::{Key, LeaseId, Path, Revision};

use crate::apply::LogPosition;
use crate::codec::{keys, records};
use crate::command::{RangeQuery, Txn};
use crate::digest::{self, DigestMark};
use crate::draft::Stop;
use crate::flaw::Flaw;
use crate::history::{self, NEWEST};
use crate::outcome::{Change, ChangeKind, Fault, KeyValue, Meta, RangeDone, Rejection, RevisionChanges, TxnDone};
use crate::picture::{Found, Picture};
use crate::store::{Cursor, Read, StoreError};

/// Why a read gives no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// What was asked for is gone.
    #[error("revision {asked} is compacted; the oldest readable revision is {compacted}")]
    Compacted {
        /// Asked for.
        asked: Revision,
        /// The mark.
        compacted: Revision,
    },
    /// What was asked for is not there yet.
    #[error("revision {asked} is in the future; the store is at {current}")]
    Future {
        /// Asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ReadError {
    /// Only what is at hand was wanted, and not all of it was.
    pub fn is_not_at_hand(&self) -> bool {
        matches!(self, Self::Fault(Fault::Store(error)) if matches!(**error, StoreError::NotAtHand))
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<crate::codec::DecodeError> for ReadError {
    fn from(error: crate::codec::DecodeError) -> Self {
        Self::Fault(error.into())
    }
}

/// An unchanging state to read from.
#[derive(Debug)]
pub struct View<R> {
    pub(crate) read: R,
    pub(crate) head: records::Head,
    /// Has a part of it in memory.
    picture: Option<Picture>,
    /// What was read of the store, for another picture, if that is wanted.
    found: Option<RefCell<Vec<Found>>>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Keys that exist.
    pub keys: u64,
    /// Leases that exist.
    pub leases: u64,
}

/// A lease as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Its time to live.
    pub ttl_ms: u64,
    /// Noted by the last leader that did; a new leader starts with this instead of the TTL.
    pub remaining_ms: Option<u64>,
    /// Revision of the store when it was granted.
    pub granted_revision: Revision,
    /// Made for one key by a put with a TTL; ends when that key gets another owner.
    pub own_key: bool,
}

/// Which children to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Bytes of a path, or `/`.
    pub dir: Bytes,
    /// Only names after this one.
    pub after: Option<Bytes>,
    /// At most so many children.
    pub limit: usize,
    /// Fill [`Child::kv`] with value; without it `kv` is `None`.
    pub with_values: bool,
    /// As of when; `None`: the newest. A past revision costs a scan of what lies below the directory.
    pub revision: Option<Revision>,
}

/// Some children of a directory, in order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListDone {
    /// The children.
    pub children: Vec<Child>,
    /// There are more after the last one.
    pub more: bool,
    /// The revision that this shows.
    pub revision: Revision,
}

/// A direct child of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Last segment of the path.
    pub name: Bytes,
    /// There is a key of this path.
    pub is_key: bool,
    /// There are keys below this path.
    pub is_directory: bool,
    /// The key, when asked for and when it is one.
    pub kv: Option<KeyValue>,
}

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// The key at the path and the length of its value.
    pub meta: Option<(Meta, u64)>,
    /// The directory at the path: it has children, or handed out a sequence once.
    pub directory: Option<Directory>,
}

/// What is known of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// Direct children.
    pub children: u64,
    /// Revision at which a direct child last came or went; never goes back.
    pub children_revision: Revision,
    /// The next sequence that it hands out.
    pub next_sequence: u64,
}

/// A stretch of history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryChunk {
    /// Revisions with wanted changes, whole as far as wanted, values filled.
    pub revisions: Vec<RevisionChanges>,
    /// First revision that is not covered.
    pub next: Revision,
}

impl<R: Read> View<R> {
    /// Pins what `read` shows. `read` must not change: a snapshot, or a store that nobody writes meanwhile.
    pub fn new(read: R) -> Result<Self, Fault> {
        let head = head(&read)?;
        Ok(Self { read, head, picture: None, found: None })
    }

    /// What a picture shows; it answers what it can. `read` shows the same, or refuses what it is asked.
    pub fn of_picture(picture: Picture, read: R) -> Self {
        Self { read, head: picture.head, picture: Some(picture), found: None }
    }

    /// Remembers what is read of the store.
    #[must_use]
    pub fn remembering(self) -> Self {
        Self { found: Some(RefCell::default()), ..self }
    }

    /// What it remembers, for a picture.
    pub fn found(self) -> Vec<Found> {
        self.found.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Revision of the store.
    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    /// The oldest readable revision; zero when nothing was ever compacted.
    pub fn compact_revision(&self) -> Revision {
        self.head.compacted
    }

    /// Version of apply's behaviour in force.
    pub fn state_version(&self) -> u32 {
        self.head.state_version
    }

    /// The last applied log entry.
    pub fn applied(&self) -> Option<LogPosition> {
        self.head.applied
    }

    /// Position and bytes of the last applied membership.
    pub fn membership(&self) -> Result<Option<(LogPosition, Bytes)>, Fault> {
        membership(&self.read)
    }

    /// The digest after the last applied entry.
    pub fn digest(&self) -> DigestMark {
        DigestMark { index: self.head.applied.map_or(0, |position| position.index), digest: self.head.digest }
    }

    /// The stored pairs, oldest first.
    pub fn digests(&self) -> Result<Vec<DigestMark>, Fault> {
        digest::marks(&self.read)
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        Counts { keys: self.head.keys, leases: self.head.leases }
    }

    /// A revision that may be read, as the scans want it.
    pub(crate) fn readable(&self, at: Option<Revision>) -> Result<Revision, ReadError> {
        match at {
            None => Ok(NEWEST),
            Some(asked) if asked > self.head.revision => Err(ReadError::Future { asked, current: self.head.revision }),
            Some(asked) if asked < self.head.compacted && !Flaw::ServesCompacted.is_put_in() => {
                Err(ReadError::Compacted { asked, compacted: self.head.compacted })
            }
            // The newest revision reads the dense tables.
            Some(asked) if asked == self.head.revision => Ok(NEWEST),
            Some(asked) => Ok(asked),
        }
    }

    /// A key as of a revision, or now.
    pub fn get(&self, key: &Key, at: Option<Revision>) -> Result<Option<KeyValue>, ReadError> {
        let revision = self.readable(at)?;
        if revision != NEWEST {
            return Ok(history::at(&self.read, key, revision)?);
        }
        if let Some(Ok(known)) = self.picture.as_ref().map(|picture| picture.get(key.as_bytes())) {
            return Ok(known.cloned());
        }
        let kv = history::newest(&self.read, key)?;
        self.remember(|| [Found::of_key(self.head, key, kv.as_ref())]);
        Ok(kv)
    }

    /// Keys in order.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeDone, ReadError> {
        let revision = self.readable(query.revision)?;
        if revision != NEWEST {
            return Ok(history::range(&self.read, query, revision)?);
        }
        if let Some(Ok(done)) = self.picture.as_ref().map(|picture| picture.range(query)) {
            return Ok(done);
        }
        let done = history::range(&self.read, query, revision)?;
        self.remember(|| Found::in_answer(self.head, query, &done));
        Ok(done)
    }

    fn remember<I: IntoIterator<Item = Found>>(&self, found: impl FnOnce() -> I) {
        if let Some(remembered) = &self.found {
            remembered.borrow_mut().extend(found());
        }
    }

    /// Decides a transaction that only reads; [`Rejection::Invalid`] when it would write.
    pub fn txn(&self, txn: &Txn) -> Result<Result<TxnDone, Rejection>, Fault> {
        match crate::txn::read_only(&self.read, &self.head, txn) {
            Ok(done) => Ok(Ok(done)),
            Err(Stop::Rejected(rejection)) => Ok(Err(rejection)),
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    /// A hash of all that may be read up to a revision (`None`: the newest), equal on all members with the same
    /// compaction mark.
    pub fn content_hash(&self, at: Option<Revision>) -> Result<u64, ReadError> {
        let at = at.unwrap_or(self.head.revision);
        self.readable(Some(at))?;
        Ok(crate::content_hash::of(&self.read, at, self.head.compacted)?)
    }

    /// What is known of a path, or of the root `/`.
    pub fn stat(&self, path: &[u8]) -> Result<Stat, ReadError> {
        let mut stat = Stat::default();
        if let Ok(path) = Path::new(Bytes::copy_from_slice(path)) {
            let kv = history::newest(&self.read, path.as_key())?;
            stat.meta = kv.map(|kv| (kv.meta, u64::try_from(kv.value.len()).unwrap_or(u64::MAX)));
        }
        stat.directory = crate::tree::directory(&self.read, path)?.map(|record| Directory {
            children: record.children,
            children_revision: record.children_revision,
            next_sequence: record.next_sequence,
        });
        Ok(stat)
    }

    /// A lease.
    pub fn lease(&self, lease: LeaseId) -> Result<Option<LeaseRecord>, Fault> {
        crate::leases::lease(&self.read, lease)
    }

    /// Leases in order of their ids, after one of them.
    pub fn leases(&self, after: Option<LeaseId>, limit: usize) -> Result<Vec<(LeaseId, LeaseRecord)>, Fault> {
        let mut cursor = self.read.cursor(true);
        let start = after.map_or_else(|| vec![keys::table::LEASE], |lease| Key::after(&keys::lease(lease)));
        cursor.seek(&start);
        let mut leases = Vec::new();
        while let Some((key, value)) = cursor.entry() {
            if key.first() != Some(&keys::table::LEASE) || leases.len() >= limit {
                return Ok(leases);
            }
            leases.push((keys::split_lease(key)?, records::read_lease(value)?));
            cursor.next();
        }
        cursor.status()?;
        Ok(leases)
    }

    /// Keys of a lease, in order, after one of them, at most `limit`.
    pub fn lease_keys(&self, lease: LeaseId, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Fault> {
        crate::leases::keys_of(&self.read, lease, after, limit)
    }

    /// The version that a change at `changed` replaced, by [`Change::previous`]; `None` when it created the key, or when
    /// the revision before it is compacted: then nothing is told, whether a purge has come by or not.
    pub fn previous(&self, key: &Key, previous: Revision, changed: Revision) -> Result<Option<KeyValue>, ReadError> {
        if previous == Revision::ZERO || changed <= self.head.compacted {
            return Ok(None);
        }
        Ok(history::version(&self.read, key, previous)?)
    }

    /// Changes from a revision on that `wanted` says yes to, until about `bytes_max` are gathered.
    /// Starting at the compaction mark is legal.
    pub fn changes(
        &self,
        from: Revision,
        bytes_max: usize,
        mut wanted: impl FnMut(&Key) -> bool,
    ) -> Result<HistoryChunk, ReadError> {
        if from < self.head.compacted && !Flaw::ServesCompacted.is_put_in() {
            return Err(ReadError::Compacted { asked: from, compacted: self.head.compacted });
        }
        let mut chunk = HistoryChunk { revisions: Vec::new(), next: from };
        let mut budget = Budget { bytes: bytes_max.max(1), changes: SCANNED_CHANGES_MAX };
        let mut cursor = self.read.cursor(true);
        cursor.seek_for_prev(&keys::record(from, u64::MAX));
        if cursor.entry().is_none_or(|(key, _)| key.first() != Some(&keys::table::RECORD)) {
            cursor.status()?;
            cursor.seek(&keys::record(from, 0));
        }
        while let Some((key, value)) = cursor.entry() {
            if key.first() != Some(&keys::table::RECORD) {
                break;
            }
            let (first, _) = keys::split_record(key)?;
            let record = records::ChangeRecord::decode(value)?;
            for (entries, revision) in record.revisions.iter().zip(first.0..).map(|(e, r)| (e, Revision(r))) {
                if revision < from {
                    continue;
                }
                if budget.is_spent() {
                    return Ok(chunk);
                }
                let changes = self.fill(revision, entries, &mut wanted, &mut budget)?;
                if !changes.is_empty() {
                    chunk.revisions.push(RevisionChanges { revision, changes });
                }
                chunk.next = revision.next();
            }
            cursor.next();
        }
        cursor.status()?;
        chunk.next = chunk.next.max(self.head.revision.next());
        Ok(chunk)
    }

    /// The wanted ones among the changes of one revision, with their values.
    fn fill(
        &self,
        revision: Revision,
        entries: &[records::ChangeEntry],
        wanted: &mut impl FnMut(&Key) -> bool,
        budget: &mut Budget,
    ) -> Result<Vec<Change>, ReadError> {
        budget.changes = budget.changes.saturating_sub(entries.len());
        let entries: Vec<_> = entries.iter().filter(|entry| wanted(&entry.key)).collect();
        let puts = entries.iter().filter(|entry| entry.kind == records::ChangeTag::Put);
        let stored: Vec<_> = puts.map(|entry| keys::history(entry.key.as_bytes(), revision)).collect();
        let mut versions = self.read.multi_get(&stored)?.into_iter();
        let mut changes = Vec::with_capacity(entries.len());
        for entry in entries {
            let kind = match entry.kind {
                records::ChangeTag::Delete => ChangeKind::Delete { lease_ended: false },
                records::ChangeTag::LeaseEnded => ChangeKind::Delete { lease_ended: true },
                records::ChangeTag::Put => {
                    let version = versions.next().flatten().map(|bytes| records::read_version(&bytes)).transpose()?;
                    let Some((meta, value)) = version.flatten() else {
                        let key = &entry.key;
                        return Err(Fault::Corrupt(format!("key {key} has no version at revision {revision}")).into());
                    };
                    budget.bytes = budget.bytes.saturating_sub(value.len());
                    ChangeKind::Put { meta, value }
                }
            };
            budget.bytes = budget.bytes.saturating_sub(entry.key.as_bytes().len() + CHANGE_OVERHEAD_BYTES);
            changes.push(Change { kind, key: entry.key.clone(), previous: entry.previous });
        }
        Ok(changes)
    }
}

/// A chunk of history that finds little still ends, so that its view is not held for long.
const SCANNED_CHANGES_MAX: usize = 100_000;

/// What a change costs besides key and value, roughly.
const CHANGE_OVERHEAD_BYTES: usize = 32;

struct Budget {
    bytes: usize,
    changes: usize,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.bytes == 0 || self.changes == 0
    }
}

/// The head, the default one for an empty store.
pub(crate) fn head<R: Read>(read: &R) -> Result<records::Head, Fault> {
    Ok(read.get(keys::HEAD)?.map(|bytes| records::Head::decode(&bytes)).transpose()?.unwrap_or_default())
}

pub(crate) fn number<R: Read>(read: &R, key: &[u8]) -> Result<Option<u64>, Fault> {
    Ok(read.get(key)?.map(|bytes| records::read_number(&bytes)).transpose()?)
}

pub(crate) fn membership<R: Read>(read: &R) -> Result<Option<(LogPosition, Bytes)>, Fault> {
    Ok(read.get(keys::MEMBERSHIP)?.map(|bytes| records::read_membership(&bytes)).transpose()?)
}
