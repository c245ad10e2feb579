//! The only place where openraft's async state machine meets the synchronous one: entries go to the apply thread,
//! outcomes come back to whoever waits for them.
//!
//! Invariants:
//! - Apply never runs on the Raft runtime: a long command must not delay a heartbeat.
//! - Entries of one store write are bounded by count and bytes, so that the first of many is not kept waiting.
//! - A fault ends the thread, and with it the member; nothing is applied after it.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::consensus::apply_thread::ApplyThread;
use crate::consensus::scrub::Scrubs;
use crate::consensus::snapshot::{Builder, Snapshots};
use crate::consensus::state_dir::CurrentStore;
use crate::consensus::types::{
    Entry, EntryPayload, LogId, Snapshot, SnapshotDir, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::sync::watch;
use crate::tasks::Tasks;

/// Entries of one write.
const CHUNK_ENTRIES_MAX: usize = 64;
/// Bytes of one write; at least one entry.
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// openraft's handle on the state machine.
pub struct Applier {
    jobs: mpsc::Sender<ApplyJob>,
    shared: Arc<AppliedState>,
    snapshots: Arc<Snapshots>,
    tasks: Tasks,
}

/// What the apply thread tells everybody else.
pub struct AppliedState {
    /// The store in force.
    pub store: Arc<CurrentStore>,
    /// How far it is.
    pub mark: watch::Sender<AppliedMark>,
    /// Last applied position and membership, as openraft wants them.
    pub positions: Mutex<(Option<LogId>, StoredMembership)>,
    /// Walks over the whole content.
    pub scrubs: Arc<Scrubs>,
}

/// How far the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppliedMark {
    /// Index after the last applied entry; 0 when nothing was applied.
    pub next_index: u64,
    /// Term of the last applied entry.
    pub term: u64,
    /// The store's revision.
    pub revision: i64,
    /// Version of apply's behaviour in force.
    pub state_version: u32,
}

/// Work for the apply thread.
pub enum ApplyJob {
    /// Apply these, in order.
    Apply {
        /// Committed entries with those who wait for them.
        entries: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>,
        /// When they are in the store.
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Replace the store.
    Install {
        /// What the snapshot must contain.
        meta: SnapshotMeta,
        /// Its files.
        snapshot: SnapshotDir,
        /// When it is in force.
        done: oneshot::Sender<io::Result<()>>,
    },
}

impl Applier {
    /// The thread must be run by the caller.
    pub fn new(thread: &ApplyThread, jobs: mpsc::Sender<ApplyJob>, tasks: Tasks) -> Self {
        Self { jobs, shared: thread.shared(), snapshots: thread.snapshots(), tasks }
    }

    fn builder(&self) -> Builder {
        Builder::new(self.shared.store.clone(), self.snapshots.clone(), self.tasks.clone())
    }

    async fn run(&self, job: impl FnOnce(oneshot::Sender<io::Result<()>>) -> ApplyJob) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(job(done)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotDir;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.shared.positions.lock().clone())
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if let EntryPayload::Normal(batch) = &entry.payload {
                bytes += batch.0.len();
            }
            chunk.push((entry, responder));
            if chunk.len() >= CHUNK_ENTRIES_MAX || bytes >= CHUNK_BYTES_MAX {
                let entries = std::mem::take(&mut chunk);
                bytes = 0;
                self.run(|done| ApplyJob::Apply { entries, done }).await?;
            }
        }
        if chunk.is_empty() { Ok(()) } else { self.run(|done| ApplyJob::Apply { entries: chunk, done }).await }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.builder())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotDir) -> Result<(), io::Error> {
        let meta = meta.clone();
        self.run(|done| ApplyJob::Install { meta, snapshot, done }).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current())
    }
}

fn ended() -> io::Error {
    io::Error::other("the apply thread has ended")
}
