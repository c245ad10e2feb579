//! The thread that owns the state machine: applies entries, publishes what changed, answers who waits, and swaps the
//! store when a snapshot is installed.
//!
//! Invariants:
//! - Order for each entry: in the store, then published, then visible as applied, then answered.
//! - What is applied but not flushed is bounded in bytes, entries and commands, so that a restart after a crash
//!   replays within two seconds.
//! - A scrub sees the store exactly after the entry that asks for it: nothing is applied until it has its snapshot.
//! - A fault is the end: the thread returns it, which ends the member.

use std::io;
use std::sync::Arc;

use openraft::storage::ApplyResponder;
use parking_lot::Mutex;
use quorate_proto::Revision;
use quorate_state::apply::{Applied, Entry as StateEntry, LogPosition, Machine, Payload};
use quorate_state::codec::decode_batch;
use quorate_state::command::Command;
use quorate_state::flaw::{self, Flaw};
use quorate_state::outcome::{Done, Fault};
use quorate_state::store::{Store, StoreError};
use quorate_state::view::View;
use tokio::sync::mpsc;

use crate::consensus::ApplySink;
use crate::consensus::applier::{AppliedMark, AppliedState, ApplyJob};
use crate::consensus::codec;
use crate::consensus::hot::Caches;
use crate::consensus::scrub::Pins;
use crate::consensus::snapshot::{Snapshots, meta_of};
use crate::consensus::state_dir::{CurrentStore, Opened, StateDir, open_error};
use crate::consensus::types::{
    Entry, EntryPayload, EntryResult, SnapshotDir, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::store_rocks::RocksStore;
use crate::sync::watch;
use crate::tasks::{Tasks, Work};

/// Log applied since the last flush, at most.
const UNFLUSHED_BYTES_MAX: usize = 24 << 20;
const UNFLUSHED_ENTRIES_MAX: usize = 10_000;
const UNFLUSHED_COMMANDS_MAX: usize = 40_000;

/// The thread's state.
pub struct ApplyThread {
    machine: Machine<Arc<RocksStore>>,
    dir: StateDir,
    caches: Caches,
    shared: Arc<AppliedState>,
    snapshots: Arc<Snapshots>,
    sink: Arc<dyn ApplySink>,
    pins: Pins,
    unflushed: Unflushed,
}

#[derive(Default)]
struct Unflushed {
    bytes: usize,
    entries: usize,
    commands: usize,
}

impl ApplyThread {
    /// Opens the store in force.
    pub fn open(
        dir: StateDir,
        snapshots: Arc<Snapshots>,
        caches: Caches,
        sink: Arc<dyn ApplySink>,
        pins: Pins,
    ) -> io::Result<Self> {
        let path = dir.path();
        let store = Arc::new(RocksStore::open(&path, &caches.blocks).map_err(|error| open_error(&path, &error))?);
        let machine =
            Machine::open(store.clone()).map_err(|fault| open_error(&path, &StoreError::Io(fault.to_string())))?;
        let meta = meta_of(&store)?;
        let shared = Arc::new(AppliedState {
            store: Arc::new(CurrentStore::new(Opened::of(&machine, caches.picture_bytes))),
            mark: watch::Sender::new(mark_of(&machine)),
            positions: Mutex::new((meta.last_log_id, meta.last_membership)),
            scrubs: pins.scrubs(),
        });
        Ok(Self { machine, dir, caches, shared, snapshots, sink, pins, unflushed: Unflushed::default() })
    }

    /// What others see of it.
    pub fn shared(&self) -> Arc<AppliedState> {
        self.shared.clone()
    }

    /// The snapshots that it takes in.
    pub fn snapshots(&self) -> Arc<Snapshots> {
        self.snapshots.clone()
    }

    /// Works until the last sender is gone; then flushes, so that the next start replays nothing. Blocks on disk.
    pub async fn run(mut self, mut jobs: mpsc::Receiver<ApplyJob>, tasks: Tasks) -> io::Result<()> {
        while let Some(job) = jobs.recv().await {
            tasks.takes(Work::Apply).await;
            let (done, result) = match job {
                ApplyJob::Apply { entries, done } => (done, self.apply(entries).await),
                ApplyJob::Install { meta, snapshot, done } => (done, self.install(&meta, &snapshot)),
            };
            let end = result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
            // openraft may have ended meanwhile.
            let _ = done.send(result);
            end?;
        }
        self.machine.store().flush(true).map_err(io::Error::other)
    }

    async fn apply(&mut self, entries: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>) -> io::Result<()> {
        let mut decoded = Vec::with_capacity(entries.len());
        let mut membership = None;
        let mut responders = Vec::with_capacity(entries.len());
        let mut last = None;
        for (entry, responder) in entries {
            last = Some(entry.log_id);
            if let EntryPayload::Membership(changed) = &entry.payload {
                membership = Some(StoredMembership::new(Some(entry.log_id), changed.clone()));
            }
            decoded.push(self.decode(entry)?);
            responders.push(responder);
        }
        let applied = self.decide(&decoded).await?;
        let outcomes = self.publish(applied);
        {
            let mut positions = self.shared.positions.lock();
            positions.0 = last.or(positions.0);
            if let Some(membership) = membership {
                positions.1 = membership;
            }
        }
        self.shared.mark.send_replace(mark_of(&self.machine));
        for (responder, outcomes) in responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        self.flush_when_due()
    }

    /// All in one write, but for scrubs: the store stands still after the entry of one until the scrub has its snapshot.
    async fn decide(&mut self, entries: &[StateEntry]) -> io::Result<Vec<Applied>> {
        let mut applied = Vec::with_capacity(entries.len());
        for part in entries.split_inclusive(asks_for_scrub) {
            let decided = self.machine.decide(part).map_err(io::Error::other)?;
            let written = self.shared.store.opened().hot.write(&mut self.machine, decided);
            applied.extend(written.map_err(io::Error::other)?);
            let scrub = |last: &Applied| last.outcomes.iter().any(|outcome| outcome.result == Ok(Done::Scrub));
            if let Some(last) = part.last().filter(|_| applied.last().is_some_and(scrub)) {
                self.pins.pin(self.machine.store(), last.position.index).await;
            }
        }
        Ok(applied)
    }

    fn decode(&mut self, entry: Entry) -> io::Result<StateEntry> {
        self.unflushed.entries += 1;
        if let EntryPayload::Normal(batch) = &entry.payload {
            self.unflushed.bytes += batch.0.len();
        }
        let entry = state_entry(entry)?;
        if let Payload::Batch(batch) = &entry.payload {
            self.unflushed.commands += batch.commands.len();
        }
        Ok(entry)
    }

    fn publish(&self, applied: Vec<Applied>) -> Vec<EntryResult> {
        let publish = |applied: Applied| {
            self.sink.applied(applied.changes, &applied.leases);
            EntryResult { outcomes: applied.outcomes }
        };
        applied.into_iter().map(publish).collect()
    }

    fn flush_when_due(&mut self) -> io::Result<()> {
        let due = self.unflushed.bytes >= UNFLUSHED_BYTES_MAX
            || self.unflushed.entries >= UNFLUSHED_ENTRIES_MAX
            || self.unflushed.commands >= UNFLUSHED_COMMANDS_MAX;
        if due {
            self.unflushed = Unflushed::default();
            self.machine.store().flush(false).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn install(&mut self, meta: &SnapshotMeta, snapshot: &SnapshotDir) -> io::Result<()> {
        let path = self.dir.stage(snapshot)?;
        let store = Arc::new(RocksStore::open(&path, &self.caches.blocks).map_err(io::Error::other)?);
        let found = meta_of(&store)?;
        if found.last_log_id != meta.last_log_id {
            store.retire();
            let text = format!("the snapshot has {:?}, its sender said {:?}", found.last_log_id, meta.last_log_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if Flaw::HalfSnapshot.is_put_in() {
            store.write(flaw::half_of_a_store()).map_err(io::Error::other)?;
        }
        let machine = Machine::open(store.clone()).map_err(io::Error::other)?;
        let compacted = View::new(store.snapshot()).map_err(io::Error::other)?.compact_revision();
        self.dir.advance()?;
        self.machine = machine;
        self.unflushed = Unflushed::default();
        self.snapshots.adopt(meta, snapshot)?;
        self.shared.store.replace(Opened::of(&self.machine, self.caches.picture_bytes));
        *self.shared.positions.lock() = (found.last_log_id, found.last_membership);
        self.sink.installed(self.machine.revision(), compacted);
        self.shared.mark.send_replace(mark_of(&self.machine));
        tracing::info!(revision = %self.machine.revision(), "snapshot installed");
        Ok(())
    }
}

fn asks_for_scrub(entry: &StateEntry) -> bool {
    match &entry.payload {
        Payload::Batch(batch) => batch.commands.iter().any(|envelope| matches!(envelope.command, Command::Scrub)),
        Payload::Blank | Payload::Membership(_) => false,
    }
}

fn mark_of<S: Store>(machine: &Machine<S>) -> AppliedMark {
    let (applied, _) = machine.applied();
    let Revision(revision) = machine.revision();
    AppliedMark {
        next_index: applied.as_ref().map_or(0, |at| at.index + 1),
        term: applied.as_ref().map_or(0, |at| at.term),
        revision,
        state_version: machine.state_version(),
    }
}

/// A log entry in the machine's terms.
pub fn state_entry(entry: Entry) -> io::Result<StateEntry> {
    let position = LogPosition { term: entry.log_id.leader_id.term, index: entry.log_id.index };
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Membership(membership) => Payload::Membership(codec::encode_membership(&membership)),
        EntryPayload::Normal(batch) => Payload::Batch(decode_batch(&batch.0).map_err(|error| {
            let text = format!("log entry {} cannot be read: {error}", entry.log_id.index);
            io::Error::other(Fault::Corrupt(text))
        })?),
    };
    Ok(StateEntry { position, payload })
}
