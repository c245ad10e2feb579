//! Starting and stopping consensus: puts the parts together, in the order in which they depend on each other.
//!
//! Invariants:
//! - Leadership is handed over before the core stops; databases are closed after it, by the threads that own them.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::network::NetSnapshot;
use openraft::{Config, RaftNetworkFactory, SnapshotPolicy};
use parking_lot::Mutex;
use quorate_proto::MemberId;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::Timing;
use crate::consensus::applier::{AppliedState, Applier};
use crate::consensus::apply_thread::ApplyThread;
use crate::consensus::backlog::Backlog;
use crate::consensus::barrier::BarrierHandle;
use crate::consensus::disk_watch::{Databases, DiskSpace};
use crate::consensus::handle::{Consensus, Parts, no_leader};
use crate::consensus::hot::Caches;
use crate::consensus::log::{LogReader, LogStore, TAIL_BYTES_MAX};
use crate::consensus::log_disk::LogDisk;
use crate::consensus::membership::is_reachable;
use crate::consensus::observer::Observer;
use crate::consensus::peers::Peers;
use crate::consensus::proposer::{ProposerContext, ProposerHandle};
use crate::consensus::purger::purge;
use crate::consensus::reclaim::Reclaimer;
use crate::consensus::scrub::{Pins, Scrubber};
use crate::consensus::snapshot::Snapshots;
use crate::consensus::snapshotter::{SnapshotRules, Snapshotter};
use crate::consensus::state_dir::{CurrentStore, StateDir, with_advice};
use crate::consensus::types::{Node, Raft, SnapshotDir, TypeConfig};
use crate::consensus::{ApplySink, Leadership};
use crate::error::ConsensusError;
use crate::sync::watch;
use crate::tasks::{Task, Tasks};

/// Jobs that wait for the apply thread; openraft sends one at a time.
const APPLY_JOBS_MAX: usize = 8;

/// What consensus is started with.
pub struct Params<N> {
    /// This member.
    pub id: MemberId,
    /// Directory of the state's store.
    pub state: PathBuf,
    /// Directory of snapshots, on the same file system.
    pub snapshots: PathBuf,
    /// The log's disk.
    pub log: Arc<dyn LogDisk>,
    /// Of the state.
    pub caches: Caches,
    /// Who runs the tasks.
    pub tasks: Tasks,
    /// Where Raft runs.
    pub runtime: Handle,
    /// Told of what is applied.
    pub sink: Arc<dyn ApplySink>,
    /// openraft's way to the other members.
    pub network: N,
    /// Told of what waits to be packed.
    pub backlog: Backlog,
    /// The way of requests to the leader.
    pub peers: Arc<dyn Peers>,
    /// Free disk space.
    pub disk: Arc<DiskSpace>,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Snapshots and purges.
    pub snapshot_rules: SnapshotRules,
}

/// Why consensus could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A disk, or what is on it.
    #[error("{}", with_advice(&.0.to_string()))]
    Io(#[from] io::Error),
    /// Timing that cannot work.
    #[error("the timing of heartbeats and elections cannot work: {0}")]
    Timing(#[from] openraft::ConfigError),
    /// openraft refused what it found.
    #[error("consensus cannot start: {0}")]
    Raft(String),
}

impl Consensus {
    /// Opens log and state, replays what was committed, and joins in.
    pub async fn start<N>(params: Params<N>) -> Result<Self, StartError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotDir>,
    {
        let (tasks, runtime) = (params.tasks.clone(), params.runtime.clone());
        let config = Arc::new(config(&params.timing).validate()?);
        let snapshots = Arc::new(Snapshots::open(params.snapshots, params.caches.blocks.clone())?);
        let (pins, scrubber) = Pins::new();
        let dir = StateDir::open(params.state)?;
        let thread = ApplyThread::open(dir, snapshots.clone(), params.caches, params.sink, pins)?;
        let (applied, state_machine) = run_apply(thread, scrubber, params.disk.clone(), &tasks, &runtime)?;
        let (log_store, writer) = LogStore::open(params.log, TAIL_BYTES_MAX, tasks.clone())?;
        let log = log_store.reader();
        tasks.spawn_thread(Task::LogWriter, &runtime, writer.run())?;

        let id = params.id;
        let build = Raft::build(id.get(), config, params.network, log_store, state_machine);
        let done = runtime.spawn(build).await.map_err(|error| StartError::Raft(error.to_string()))?;
        let raft = done.map_err(|error| StartError::Raft(error.to_string()))?;

        let (leadership, leadership_seen) = watch::channel(Leadership::Following { leader: None });
        let (removed, removed_seen) = watch::channel(false);
        let observer = Observer { id, raft: raft.clone(), applied: applied.mark.subscribe(), leadership, removed };
        let (proposer, proposer_task) = ProposerHandle::new(ProposerContext {
            id,
            raft: raft.clone(),
            leadership: leadership_seen.clone(),
            applied: applied.mark.subscribe(),
            disk: params.disk.clone(),
            peers: params.peers.clone(),
            backlog: params.backlog,
        });
        let (barrier_here, barrier_here_task) = BarrierHandle::new(raft.clone(), params.peers.clone());
        let (barrier_at_leader, barrier_at_leader_task) = BarrierHandle::new(raft.clone(), params.peers.clone());
        let disk = params.disk.clone();
        let snapshotter = Snapshotter { raft: raft.clone(), log: log.clone(), rules: params.snapshot_rules, disk };

        tasks.spawn(Task::RaftObserver, &runtime, observer.run(tasks.clone()));
        tasks.spawn(Task::Proposer, &runtime, proposer_task.run(tasks.clone()));
        tasks.spawn(Task::Barrier, &runtime, barrier_here_task.run(tasks.clone()));
        tasks.spawn(Task::Barrier, &runtime, barrier_at_leader_task.run(tasks.clone()));
        tend_disk(snapshotter, applied.store.clone(), snapshots.clone(), &tasks, &runtime);
        tasks.spawn(Task::Purger, &runtime, purge(applied.store.clone(), params.disk.clone(), tasks.clone()));
        let parts = Parts {
            id,
            raft,
            log,
            applied,
            snapshots,
            leadership: leadership_seen,
            removed: removed_seen,
            proposer,
            barrier_here,
            barrier_at_leader,
            peers: params.peers,
            disk: params.disk,
            lease_clock: OnceLock::new(),
            contacts: Arc::default(),
            diverged: Mutex::new(None),
            tasks,
            runtime,
        };
        Ok(Self { parts: Arc::new(parts) }.watched())
    }

    fn watched(self) -> Self {
        let (tasks, runtime) = (&self.parts.tasks, &self.parts.runtime);
        tasks.spawn(Task::MembershipWatch, runtime, self.clone().watch_membership(tasks.clone()));
        self
    }

    /// Begins to take part. Call it once the peer door can hand messages to [`Consensus::raft`].
    pub fn run(&self) {
        let _runtime = self.parts.runtime.enter();
        self.parts.raft.run();
    }

    /// Makes the cluster: these members, all voters. Once, at one of them, when all are empty.
    pub async fn initialise(&self, members: BTreeMap<MemberId, Node>) -> Result<(), ConsensusError> {
        let members: BTreeMap<u64, Node> = members.into_iter().map(|(id, node)| (id.get(), node)).collect();
        let done = self.parts.raft.initialize(members).await;
        done.map_err(|error| ConsensusError::Membership { reason: error.to_string() })
    }

    /// Waits until what was committed before a restart is applied again; before that, local reads may go back in time.
    pub async fn recovered(&self, deadline: Instant) -> Result<(), ConsensusError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let done = self.parts.raft.wait_for_recovery(Some(left)).await;
        done.map(drop).map_err(|error| no_leader(&error.to_string()))
    }

    /// Hands leadership to the most caught-up voter that answers, waiting at most `patience`. True when this member does
    /// not lead. Gives up at once when nobody is there to lead.
    pub async fn hand_over(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let again = Duration::from_millis(self.parts.raft.config().election_timeout_min);
        let mut metrics = self.parts.raft.server_metrics();
        let mut leadership = self.parts.leadership.clone();
        while metrics.borrow_and_update().state.is_leader() {
            let now = Instant::now();
            let Some(to) = self.best_successor().filter(|_| now < until) else { return false };
            // The message may be lost, or refused while the receiver's log is not flushed; or the receiver may end.
            if self.parts.raft.trigger().transfer_leader(to).await.is_err() {
                return false;
            }
            let ask_at = until.min(now + again);
            while metrics.borrow_and_update().state.is_leader() {
                if !matches!(tokio::time::timeout_at(ask_at, metrics.changed()).await, Ok(Ok(()))) {
                    break;
                }
            }
        }
        // The observer sees it a moment later.
        let gone = leadership.wait_for(|now| !matches!(now, Leadership::Leading { .. }));
        tokio::time::timeout_at(until, gone).await.is_ok_and(|gone| gone.is_ok())
    }

    /// The voter, besides this member, that has most of the log among those that answered a heartbeat lately. None when
    /// there is none, or when this member does not lead.
    pub fn best_successor(&self) -> Option<u64> {
        // Several heartbeats were missed by whoever did not answer for so long.
        let recent = Duration::from_millis(self.parts.raft.config().election_timeout_min);
        let metrics = self.parts.raft.metrics();
        let now = metrics.borrow_watched();
        let replication = now.replication.as_ref()?;
        let others = now.membership_config.voter_ids().filter(|id| *id != self.parts.id.get());
        others
            .filter(|id| is_reachable(&now, *id, recent))
            .max_by_key(|id| replication.get(id).and_then(|matched| matched.as_ref().map(|at| at.index)))
    }

    /// Stops consensus: hands over leadership (2 s at most), ends openraft. The caller then stops and awaits all tasks.
    pub async fn stop(&self) {
        if self.parts.raft.is_leader() && !self.hand_over(Duration::from_secs(2)).await {
            tracing::info!("leadership was not taken over in time");
        }
        self.parts.tasks.stop();
        if let Err(error) = self.parts.raft.shutdown().await {
            tracing::warn!(%error, "openraft did not end cleanly");
        }
    }
}

/// Starts the threads that have the state's store.
fn run_apply(
    thread: ApplyThread,
    scrubber: Scrubber,
    disk: Arc<DiskSpace>,
    tasks: &Tasks,
    runtime: &Handle,
) -> io::Result<(Arc<AppliedState>, Applier)> {
    let applied = thread.shared();
    tasks.spawn_thread(Task::Scrubber, runtime, scrubber.run(applied.store.clone(), disk, tasks.clone()))?;
    let (jobs_sender, jobs) = mpsc::channel(APPLY_JOBS_MAX);
    let state_machine = Applier::new(&thread, jobs_sender, tasks.clone());
    tasks.spawn_thread(Task::Apply, runtime, thread.run(jobs, tasks.clone()))?;
    Ok((applied, state_machine))
}

/// The two databases of a member.
struct Stored {
    state: Arc<CurrentStore>,
    log: LogReader,
}

impl Databases for Stored {
    fn owed_bytes(&self) -> u64 {
        self.state.get().unflushed_bytes() + self.log.disk().unflushed_bytes()
    }

    fn merge_within(&self, room: u64) -> io::Result<()> {
        let taken = self.log.disk().merge_within(room);
        let left = taken.as_ref().map_or(0, |taken| room.saturating_sub(*taken));
        self.state.get().merge_within(left).map_err(io::Error::other)?;
        taken.map(drop)
    }
}

/// Keeps the log short, looks at the space that is free, and gets some back when it is short.
fn tend_disk(
    snapshotter: Snapshotter,
    store: Arc<CurrentStore>,
    snapshots: Arc<Snapshots>,
    tasks: &Tasks,
    runtime: &Handle,
) {
    let (disk, log) = (snapshotter.disk.clone(), snapshotter.log.clone());
    disk.share_among(Stored { state: store.clone(), log: log.clone() });
    let reclaimer = Reclaimer { disk: disk.clone(), store, snapshots, log };
    tasks.spawn(Task::Snapshotter, runtime, snapshotter.run(tasks.clone()));
    tasks.spawn(Task::Reclaimer, runtime, reclaimer.run(tasks.clone()));
    tasks.spawn(Task::DiskWatch, runtime, disk.watch(tasks.clone()));
}

fn config(timing: &Timing) -> Config {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "quorate".to_owned(),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
        enable_pre_vote: Some(true),
        // A restarted leader's state may be behind what it acknowledged; and a new term means a new leader process.
        enable_leader_restore: Some(false),
        // Else a leader that reaches a minority keeps the rest from electing.
        quorum_loss_probe_interval: Some(ms(timing.election_max * 2)),
        // One entry is a whole batch: the snapshotter counts bytes instead.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX >> 1,
        replication_lag_threshold: u64::MAX >> 1,
        purge_batch_size: 1,
        max_payload_entries: 64,
        install_snapshot_timeout: 600_000,
        backoff: "50ms 100ms 200ms ..500ms".to_owned(),
        ..Config::default()
    }
}
