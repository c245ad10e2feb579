//! Decisions under way: one command after another, over an overlay on the store, until all is written at once.
//!
//! Invariants:
//! - A command that is rejected leaves no write behind.
//! - A key's metadata in `c`, its version in `h`, its place in the tree, its attachment to a lease and the counts
//!   change together, here and nowhere else.
//! - Overwriting an existing key that has no lease before or after reads `c` and writes `c` and `h`; nothing else.

use bytes::Bytes;
use quorate_proto::{Key, LeaseId, Path, Revision};

use crate::codec::{DecodeError, keys, records};
use crate::command::{Command, Delete, Expect, Owner, Put, Span};
use crate::copies::Copies;
use crate::flaw::Flaw;
use crate::history;
use crate::outcome::{Change, ChangeKind, DeleteDone, Done, Fault, LeaseChange, Meta, PutDone, Rejection};
use crate::store::{Overlay, Read, StoreError};
use crate::txn::Touched;
use crate::versions::{self, STATE_VERSION};
use crate::{leases, tree};

/// Why a decision ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command is refused.
    Rejected(Rejection),
    /// The member cannot go on.
    Fault(Fault),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<DecodeError> for Stop {
    fn from(error: DecodeError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Draft<'s, S> {
    pub(crate) store: Overlay<'s, S>,
    pub(crate) head: records::Head,
    /// Changes of the command being decided.
    pub(crate) changes: Vec<Change>,
    /// Lease changes of the command being decided.
    pub(crate) lease_changes: Vec<LeaseChange>,
    /// Where the batch moved the compaction mark to.
    pub(crate) moved_mark: Option<Revision>,
    /// To what the batch raised the state version.
    pub(crate) raised_version: Option<u32>,
    /// What the transaction under way has changed.
    pub(crate) touched: Option<Touched>,
}

/// What becomes of a lease that belongs to one key when the key lets go of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnLease {
    Ends,
    Stays,
}

impl<'s, S: Read> Draft<'s, S> {
    pub(crate) fn new(store: &'s S, head: records::Head) -> Self {
        Self {
            store: Overlay::new(store),
            head,
            changes: Vec::new(),
            lease_changes: Vec::new(),
            moved_mark: None,
            raised_version: None,
            touched: None,
        }
    }

    pub(crate) fn begin_batch(&mut self, stamp_ms: i64) {
        self.head.stamp_ms = self.head.stamp_ms.max(stamp_ms);
        if Flaw::MembersDiffer.happens(100) {
            self.head.stamp_ms += 1;
        }
        self.moved_mark = None;
        self.raised_version = None;
    }

    /// Revision of the command being decided, if it changes anything.
    pub(crate) fn revision(&self) -> Revision {
        self.head.revision.next()
    }

    /// Decides a command: done or rejected.
    pub(crate) fn decide(&mut self, command: &Command) -> Result<Result<Done, Rejection>, Fault> {
        let (since, in_force) = (versions::since(command), self.head.state_version);
        if since > in_force {
            cov_mark::hit!(command_above_version);
            let reason = format!("the command is of state version {since}, in force is {in_force}");
            return Ok(Err(Rejection::Invalid(reason)));
        }
        let done = match command {
            Command::Put(put) => self.put(put).map(Done::Put),
            Command::Delete(delete) => self.delete(delete).map(Done::Delete),
            Command::Txn(txn) => self.txn(txn).map(Done::Txn),
            Command::CopyTree(copy) => self.copy_tree(copy).map(Done::CopyTree),
            Command::LeaseGrant { lease, ttl_ms } => {
                self.grant_asked(*lease, *ttl_ms).map(|()| Done::LeaseGrant { lease: *lease, ttl_ms: *ttl_ms })
            }
            Command::LeaseRevoke { leases, cause } => {
                self.revoke(leases, *cause).map(|deleted| Done::LeaseRevoke { deleted })
            }
            Command::LeaseCheckpoint(notes) => self.checkpoint(notes).map(|()| Done::LeaseCheckpoint),
            Command::Compact { revision, only_forward } => {
                self.compact(*revision, *only_forward).map(|()| Done::Compact)
            }
            Command::SetStateVersion(version) => self.set_state_version(*version).map(Done::StateVersion),
            Command::Scrub => Ok(Done::Scrub),
        };
        match done {
            Ok(done) => Ok(Ok(done)),
            Err(Stop::Rejected(rejection)) => {
                if self.changes.is_empty() && self.lease_changes.is_empty() {
                    return Ok(Err(rejection));
                }
                Err(Fault::Corrupt(format!("a rejected command left changes behind: {rejection}")))
            }
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    pub(crate) fn put(&mut self, put: &Put) -> Result<PutDone, Stop> {
        let (key, sequence) = if put.sequential {
            let (key, sequence) = tree::sequence_key(&self.store, put)?;
            (key, Some(sequence))
        } else {
            (put.key.clone(), None)
        };
        if put.must_have_parent {
            tree::check_parent(&self.store, &key)?;
        }
        let before = history::current(&self.store, key.as_bytes())?;
        check_expect(&key, before.as_ref(), put.expect)?;
        // The lease before the value: the etcd wire says so.
        let lease = self.check_owner(put.owner, before.as_ref())?;
        let mut previous = None;
        if let Some(meta) = before.filter(|_| put.return_previous || put.value.is_none()) {
            previous = Some(history::value_of(&self.store, &key, &meta)?);
        }
        let value = match (&put.value, &previous) {
            (Some(value), _) => value.clone(),
            (None, Some(kv)) => kv.value.clone(),
            (None, None) => {
                cov_mark::hit!(put_keep_value_of_missing_key);
                return Err(Rejection::KeyNotFound { key }.into());
            }
        };
        if let Some(touched) = &mut self.touched {
            touched.put(&key)?;
        }
        // From here on nothing is rejected any more.
        if let Some(sequence) = sequence {
            tree::take_sequence(&mut self.store, put.key.as_bytes(), sequence)?;
        }
        if let Owner::Ttl { lease, ttl_ms } = put.owner {
            self.grant(lease, ttl_ms, true);
        }
        self.write(&key, before.as_ref(), &value, lease, OwnLease::Ends)?;
        Ok(PutDone { key, lease, previous: previous.filter(|_| put.return_previous) })
    }

    /// Writes a key's next version.
    pub(crate) fn write(
        &mut self,
        key: &Key,
        before: Option<&Meta>,
        value: &Bytes,
        lease: Option<LeaseId>,
        own: OwnLease,
    ) -> Result<(), Fault> {
        let (revision, stamp_ms) = (self.revision(), self.head.stamp_ms);
        let meta = Meta {
            create_revision: before.map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |before| before.version.saturating_add(1)),
            lease,
            created_ms: before.map_or(stamp_ms, |before| before.created_ms),
            modified_ms: stamp_ms,
        };
        let previous = before.map_or(Revision::ZERO, |before| before.mod_revision);
        if previous >= revision || self.changes.last().is_some_and(|last| last.key == *key) {
            return Err(Fault::Corrupt(format!("key {key} would change twice at revision {revision}")));
        }
        self.store.put(keys::current(key.as_bytes()), records::current(&meta));
        self.store.put(keys::history(key.as_bytes(), revision), records::version(&meta, value));
        if before.is_none() {
            cov_mark::hit!(key_created);
            tree::enter(&mut self.store, key, revision)?;
            self.head.keys += 1;
        }
        let lease_before = before.and_then(|before| before.lease);
        if lease_before != lease {
            if let Some(lease) = lease {
                self.store.put(keys::attached(lease, key.as_bytes()), Bytes::new());
            }
            if let Some(old) = lease_before {
                self.let_go(old, key, own)?;
            }
        }
        let kind = ChangeKind::Put { meta, value: value.clone() };
        self.changes.push(Change { kind, key: key.clone(), previous });
        Ok(())
    }

    /// Deletes a key that exists.
    pub(crate) fn remove(&mut self, key: &Key, meta: &Meta, lease_ended: bool, own: OwnLease) -> Result<(), Fault> {
        let revision = self.revision();
        if meta.mod_revision >= revision {
            return Err(Fault::Corrupt(format!("key {key} would change twice at revision {revision}")));
        }
        self.store.delete(keys::current(key.as_bytes()));
        self.store.put(keys::history(key.as_bytes(), revision), records::tombstone());
        tree::leave(&mut self.store, key, revision)?;
        self.head.keys =
            self.head.keys.checked_sub(1).ok_or_else(|| Fault::Corrupt("fewer keys than deletions".into()))?;
        if let Some(lease) = meta.lease {
            self.let_go(lease, key, own)?;
        }
        let kind = ChangeKind::Delete { lease_ended };
        self.changes.push(Change { kind, key: key.clone(), previous: meta.mod_revision });
        Ok(())
    }

    /// A key no longer belongs to a lease.
    fn let_go(&mut self, lease: LeaseId, key: &Key, own: OwnLease) -> Result<(), Fault> {
        self.store.delete(keys::attached(lease, key.as_bytes()));
        if own == OwnLease::Stays {
            return Ok(());
        }
        let record = leases::lease(&self.store, lease)?;
        let record =
            record.ok_or_else(|| Fault::Corrupt(format!("key {key} has lease {lease}, which is not there")))?;
        if record.own_key {
            cov_mark::hit!(own_lease_ends_with_its_key);
            self.end_lease(lease)?;
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, delete: &Delete) -> Result<DeleteDone, Stop> {
        if let Span::Key(key) = &delete.span {
            let meta = history::current(&self.store, key.as_bytes())?;
            check_expect(key, meta.as_ref(), delete.expect)?;
        } else if delete.expect != Expect::Anything {
            return Err(Rejection::Invalid("an expectation needs a single key".into()).into());
        }
        if delete.must_be_empty {
            tree::check_empty(&self.store, &delete.span)?;
        }
        let found = self.existing(&delete.span, delete.limit)?;
        if let Some(touched) = &mut self.touched {
            touched.delete(&delete.span)?;
        }
        let mut done = DeleteDone::default();
        for (key, meta) in &found {
            if delete.return_previous {
                done.previous.push(history::value_of(&self.store, key, meta)?);
            }
            self.remove(key, meta, false, OwnLease::Ends)?;
            done.deleted += 1;
        }
        Ok(done)
    }

    /// The keys of a span, in order; rejected when there are more than `limit`.
    pub(crate) fn existing(&self, span: &Span, limit: Option<u64>) -> Result<Vec<(Key, Meta)>, Stop> {
        if let Span::Key(key) = span {
            let meta = history::current(&self.store, key.as_bytes())?;
            return Ok(meta.map(|meta| (key.clone(), meta)).into_iter().collect());
        }
        let limit = limit.unwrap_or(u64::MAX);
        let (mut found, mut count, mut copies) = (Vec::new(), 0, Copies::default());
        for bounds in history::bounds_of(span) {
            history::scan_current(&self.store, &bounds, false, |key, meta| {
                count += 1;
                found.push((history::key_of(copies.of(key))?, meta));
                Ok(count <= limit)
            })?;
        }
        if count > limit {
            cov_mark::hit!(too_many_changes);
            return Err(Rejection::TooManyChanges { limit }.into());
        }
        Ok(found)
    }

    fn compact(&mut self, mark: Revision, only_forward: bool) -> Result<(), Stop> {
        let there = only_forward && mark == self.head.compacted && mark > Revision::ZERO;
        if mark < self.head.compacted || there {
            cov_mark::hit!(compact_below_mark);
            return Err(Rejection::Compacted { asked: mark, compacted: self.head.compacted }.into());
        }
        if mark > self.head.revision {
            cov_mark::hit!(compact_in_future);
            return Err(Rejection::FutureRevision { asked: mark, current: self.head.revision }.into());
        }
        if mark > self.head.compacted {
            self.head.compacted = mark;
            self.moved_mark = Some(mark);
        }
        Ok(())
    }

    fn set_state_version(&mut self, version: u32) -> Result<u32, Stop> {
        if version > STATE_VERSION {
            return Err(Fault::NewerFormat { found: version, known: STATE_VERSION }.into());
        }
        if version > self.head.state_version {
            self.head.state_version = version;
            self.raised_version = Some(version);
        }
        Ok(self.head.state_version)
    }
}

/// Refuses when what stands there is not what was expected.
fn check_expect(key: &Key, before: Option<&Meta>, expect: Expect) -> Result<(), Rejection> {
    let current = before.map_or(Revision::ZERO, |meta| meta.mod_revision);
    let reason = match expect {
        Expect::Absent if before.is_some() => format!("it must not exist, it was written at revision {current}"),
        Expect::Present if before.is_none() => "it must exist, it does not".to_owned(),
        Expect::ModRevision(asked) if asked != current => {
            format!("its mod revision must be {asked}, it is {current}")
        }
        _ => return Ok(()),
    };
    cov_mark::hit!(expect_failed);
    Err(Rejection::Precondition { key: key.clone(), reason, current })
}

/// A key as a path, or the rejection that says it must be one.
pub(crate) fn path_of(key: &Key) -> Result<Path, Rejection> {
    Path::of(key).ok_or_else(|| {
        cov_mark::hit!(not_a_path);
        Rejection::NotAPath { key: key.clone() }
    })
}
