//! The machine: committed log entries in, outcomes and changes out, one atomic write for all that was asked at once.
//!
//! Invariants:
//! - What an entry does depends on the store and the entry alone; how entries are grouped into calls leaves no trace.
//! - Outcome, data, digest and applied position are in the same write.
//! - Entries come without gaps. After a fault the machine refuses everything until it is opened again.

use std::cell::RefCell;

use bytes::Bytes;
use quorate_proto::Revision;

use crate::codec::{keys, records};
use crate::command::{Batch, Envelope};
use crate::dedup::{Verdict, Window};
use crate::digest::{self, Digest, DigestMark};
use crate::draft::Draft;
use crate::flaw::Flaw;
use crate::outcome::{Change, ChangeKind, Changes, Fault, LeaseChange, Outcome, RevisionChanges};
use crate::store::{Gapped, Gaps, Read, Store, WriteBatch};
use crate::versions::STATE_VERSION;
use crate::view;

/// Where an entry stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Index.
    pub index: u64,
}

/// What an entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: the first entry of a leader.
    Blank,
    /// The members, in bytes that only consensus reads.
    Membership(Bytes),
    /// Commands.
    Batch(Batch),
}

/// A committed log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub position: LogPosition,
    /// What it carries.
    pub payload: Payload,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// One for each command, in order.
    pub outcomes: Vec<Outcome>,
    /// What changed, for watchers.
    pub changes: Changes,
    /// What happened to leases, for the leader's clocks.
    pub leases: Vec<LeaseChange>,
    /// The compaction mark, if it moved.
    pub compacted: Option<Revision>,
    /// The version of apply's behaviour, if it rose.
    pub state_version: Option<u32>,
}

/// Entries that are decided and not yet in the store.
#[must_use]
#[derive(Debug)]
pub struct Decided {
    batch: WriteBatch,
    head: records::Head,
    applied: Vec<Applied>,
}

/// Where keys come and go.
const GAPS_IN: &[u8] = &[keys::table::CURRENT, keys::table::CHILD, keys::table::ATTACHED];

/// The state machine over a store, which nobody else writes to in the tables of keys.
#[derive(Debug)]
pub struct Machine<S> {
    store: S,
    gaps: RefCell<Gaps>,
    pub(crate) head: records::Head,
    membership: Option<(LogPosition, Bytes)>,
    window: Window,
    /// Entries were decided and not written.
    latched: bool,
}

impl<S: Store> Machine<S> {
    /// Opens what is there; an empty store is fine. Rebuilds the memory of request ids.
    pub fn open(store: S) -> Result<Self, Fault> {
        let head = check_format(&store)?;
        let membership = view::membership(&store)?;
        let window = Window::rebuild(&store, &head)?;
        if head.state_version > STATE_VERSION {
            return Err(Fault::NewerFormat { found: head.state_version, known: STATE_VERSION });
        }
        Ok(Self { store, gaps: RefCell::new(Gaps::of(GAPS_IN)), head, membership, window, latched: false })
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Version of apply's behaviour in force.
    pub fn state_version(&self) -> u32 {
        self.head.state_version
    }

    /// Position of the last applied entry, and position and bytes of the last membership.
    pub fn applied(&self) -> (Option<LogPosition>, Option<(LogPosition, Bytes)>) {
        (self.head.applied, self.membership.clone())
    }

    /// Revision of the store.
    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    /// The digest after the last applied entry.
    pub fn digest(&self) -> DigestMark {
        DigestMark { index: self.head.applied.map_or(0, |position| position.index), digest: self.head.digest }
    }

    /// Applies entries, in order, in one write of the store. Each has its own change record, digest step and outcomes.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Applied>, Fault> {
        let decided = self.decide(entries)?;
        self.write(decided)
    }

    /// The first step of [`Self::apply`], which leaves the store as it is. What it gives must be written.
    pub fn decide(&mut self, entries: &[Entry]) -> Result<Decided, Fault> {
        // Until it is written: what is remembered of requests is ahead of the store.
        if std::mem::replace(&mut self.latched, true) {
            return Err(Fault::Latched);
        }
        let known = Gapped::new(&self.store, &self.gaps);
        let mut draft = Draft::new(&known, self.head);
        let mut applied = Vec::with_capacity(entries.len());
        for entry in entries {
            applied.push(apply_entry(&mut draft, &mut self.window, entry)?);
            if let Payload::Membership(members) = &entry.payload {
                self.membership = Some((entry.position, members.clone()));
            }
        }
        let head = draft.head;
        if !entries.is_empty() {
            if self.head.applied.is_none() {
                draft.store.put(keys::FORMAT.to_vec(), records::number(u64::from(records::STORE_FORMAT)));
            }
            let stored = if Flaw::AppliesAgain.is_put_in() {
                records::Head { applied: self.head.applied, ..head }
            } else {
                head
            };
            draft.store.put(keys::HEAD.to_vec(), stored.encode());
        }
        Ok(Decided { batch: draft.store.into_batch(), head, applied })
    }

    /// The second step.
    pub fn write(&mut self, decided: Decided) -> Result<Vec<Applied>, Fault> {
        let Decided { batch, head, applied } = decided;
        self.gaps.get_mut().note(&batch);
        self.store.write(batch)?;
        self.head = head;
        self.latched = false;
        Ok(applied)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn set_window(&mut self, indexes: u64, bytes: usize) {
        self.window.set_bounds(indexes, u64::MAX, bytes);
    }

    /// What is remembered of requests, in a form to compare.
    #[cfg(any(test, feature = "testing"))]
    pub fn dump_requests(&self) -> Vec<(quorate_proto::ClientId, u64, u64, Bytes)> {
        self.window.dump()
    }
}

/// Refuses a store of another or newer format. Gives its head, the default for an empty store.
pub(crate) fn check_format<R: Read>(read: &R) -> Result<records::Head, Fault> {
    let head = read.get(keys::HEAD)?;
    match (view::number(read, keys::FORMAT)?, head) {
        (None, None) => Ok(records::Head::default()),
        (Some(found), Some(head)) if found == u64::from(records::STORE_FORMAT) => Ok(records::Head::decode(&head)?),
        (Some(found), _) if found > u64::from(records::STORE_FORMAT) => {
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            Err(Fault::NewerFormat { found, known: records::STORE_FORMAT })
        }
        (format, head) => {
            let (format, head) = (format.is_some(), head.is_some());
            Err(Fault::Corrupt(format!("of format and head only one is there or known ({format}, {head})")))
        }
    }
}

fn apply_entry<S: Read>(draft: &mut Draft<'_, S>, window: &mut Window, entry: &Entry) -> Result<Applied, Fault> {
    let index = entry.position.index;
    if let Some(last) = draft.head.applied
        && (last.index.checked_add(1) != Some(index) || entry.position.term < last.term)
    {
        return Err(Fault::Corrupt(format!("entry {:?} does not follow {last:?}", entry.position)));
    }
    draft.head.applied = Some(entry.position);
    let mut applied = Applied { changes: Changes { log_index: index, ..Changes::default() }, ..Applied::default() };
    match &entry.payload {
        Payload::Blank => {}
        Payload::Membership(members) => {
            draft.store.put(keys::MEMBERSHIP.to_vec(), records::membership(entry.position, members));
        }
        Payload::Batch(batch) => BatchUnderWay::new(draft, window, index).run(batch, &mut applied)?,
    }
    window.forget(index, &mut draft.head);
    digest::mark(&mut draft.store, index, draft.head.digest);
    Ok(applied)
}

/// One batch while it is decided.
struct BatchUnderWay<'d, 's, S> {
    draft: &'d mut Draft<'s, S>,
    window: &'d mut Window,
    index: u64,
    first_revision: Revision,
    digest: Digest,
    record: records::ChangeRecord,
}

impl<'d, 's, S: Read> BatchUnderWay<'d, 's, S> {
    fn new(draft: &'d mut Draft<'s, S>, window: &'d mut Window, index: u64) -> Self {
        let (first_revision, digest) = (draft.head.revision.next(), Digest::new(draft.head.digest, index));
        Self { draft, window, index, first_revision, digest, record: records::ChangeRecord::default() }
    }

    fn run(mut self, batch: &Batch, applied: &mut Applied) -> Result<(), Fault> {
        self.draft.begin_batch(batch.stamp_ms);
        applied.outcomes.reserve_exact(batch.commands.len());
        for envelope in &batch.commands {
            let outcome = self.command(envelope, applied)?;
            applied.outcomes.push(outcome);
        }
        applied.compacted = self.draft.moved_mark;
        applied.state_version = self.draft.raised_version;
        if let Some(mark) = applied.compacted {
            self.digest.compacted(mark);
        }
        if let Some(version) = applied.state_version {
            self.digest.state_version(version);
        }
        if !self.record.revisions.is_empty() || !self.record.requests.is_empty() {
            self.draft.store.put(keys::record(self.first_revision, self.index), self.record.encode());
        }
        self.draft.head.digest = self.digest.finish();
        Ok(())
    }

    fn command(&mut self, envelope: &Envelope, applied: &mut Applied) -> Result<Outcome, Fault> {
        if let Some(request) = &envelope.request {
            match self.window.judge(&self.draft.head, request, &envelope.command)? {
                Verdict::Answer(outcome) => return Ok(outcome),
                Verdict::New => {}
            }
        }
        let result = self.draft.decide(&envelope.command)?;
        if !self.draft.changes.is_empty() {
            // Of the size that they have: watchers keep them for long.
            let changes = self.draft.changes.drain(..).collect();
            self.publish(changes, applied);
        }
        let lease_changes = std::mem::take(&mut self.draft.lease_changes);
        for change in &lease_changes {
            self.digest.lease(change);
        }
        applied.leases.extend(lease_changes);
        let outcome = Outcome { revision: self.draft.head.revision, replayed: false, result };
        if let Some(request) = &envelope.request {
            let entry = self.window.remember(self.index, self.first_revision, request, &envelope.command, &outcome);
            self.digest.request(&entry);
            self.record.requests.push(entry);
        }
        Ok(outcome)
    }

    /// The changes of one transaction become a revision.
    fn publish(&mut self, changes: Vec<Change>, applied: &mut Applied) {
        let revision = self.draft.head.revision.next();
        if !(Flaw::ReusesRevision.is_put_in() && revision.get() % 64 == 0) {
            self.draft.head.revision = revision;
        }
        let entry_of = |change: &Change| records::ChangeEntry {
            kind: match change.kind {
                ChangeKind::Put { .. } => records::ChangeTag::Put,
                ChangeKind::Delete { lease_ended: false } => records::ChangeTag::Delete,
                ChangeKind::Delete { lease_ended: true } => records::ChangeTag::LeaseEnded,
            },
            key: change.key.clone(),
            previous: change.previous,
        };
        self.record.revisions.push(changes.iter().map(entry_of).collect());
        for change in &changes {
            self.digest.change(revision, change);
        }
        applied.changes.revisions.push(RevisionChanges { revision, changes });
    }
}
