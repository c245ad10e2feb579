//! Puts a member's consensus together with its way to the other members: data directory, links, forwarder, peer door,
//! Raft and the way into the cluster.
//!
//! Invariants:
//! - The peer door answers Hello before anything else runs: an empty member must be found by the others.
//! - Databases are opened before the cluster id is set, so that a member of a cluster always has a log.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::config::{Start, Timing};
use crate::consensus::backlog::Backlog;
use crate::consensus::bootstrap::{Bootstrap, heed_removal};
use crate::consensus::digests::Comparison;
use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::forward::Forwarder;
use crate::consensus::hot::Caches;
use crate::consensus::leader_end::{LeaderEnd, Verdicts};
use crate::consensus::links::{Links, LocalMember};
use crate::consensus::log_disk::{LogDisk, RocksLogDisk};
use crate::consensus::network::NetworkFactory;
use crate::consensus::peer_door::PeerDoor;
use crate::consensus::snapshot_send::Receiver;
use crate::consensus::snapshotter::SnapshotRules;
use crate::consensus::state_version::VersionRaise;
use crate::consensus::{ApplySink, Consensus, Params, StartError};
use crate::data_dir::DataDir;
use crate::sync::watch;
use crate::tasks::{Task, Tasks};

/// What a member's consensus is made of.
pub struct Assembly {
    /// Its directory, held.
    pub data_dir: Arc<DataDir>,
    /// Where other members connect.
    pub peer_listener: TcpListener,
    /// Where they are told to.
    pub peer_address: String,
    /// Where clients are told to connect.
    pub client_address: String,
    /// How it begins when it is empty.
    pub start: Start,
    /// Raft's clocks.
    pub timing: Timing,
    /// Who runs the tasks.
    pub tasks: Tasks,
    /// Where Raft and the peer port run.
    pub runtime: Handle,
    /// Told of what is applied.
    pub sink: Arc<dyn ApplySink>,
    /// Of the state.
    pub caches: Caches,
    /// Below so many free bytes, growing writes are refused.
    pub disk_reserve_bytes: u64,
    /// Snapshots and purges.
    pub snapshot_rules: SnapshotRules,
    /// The highest state version that it says it knows.
    pub state_version_max: u32,
}

/// A member's consensus, running; it belongs to a cluster once `bootstrap` has run.
pub struct Assembled {
    /// The handle.
    pub consensus: Consensus,
    /// This member as the others see it: its id, and its cluster once it has one.
    pub local: Arc<LocalMember>,
    /// To be run next.
    pub bootstrap: Bootstrap,
    /// Compares digests, every now and then by itself.
    pub comparison: Comparison,
    /// What was made of streams to leaders that ended.
    pub verdicts: watch::Receiver<Verdicts>,
}

impl Assembly {
    /// Starts everything. Serve clients while [`Bootstrap::run`] waits, or after it, as you like.
    pub async fn start(self) -> Result<Assembled, StartError> {
        let (tasks, runtime) = (self.tasks.clone(), self.runtime.clone());
        let identity = self.data_dir.identity();
        let local = LocalMember::new(identity.member, identity.name, self.client_address, identity.cluster);
        let local = Arc::new(local.with_state_version_max(self.state_version_max));
        let links = Arc::new(Links::new(local.clone(), self.timing));
        let disk = Arc::new(DiskSpace::new(self.data_dir.path().to_owned(), self.disk_reserve_bytes));
        let (verdicts, verdicts_seen) = watch::channel(Verdicts::default());
        let (forwarder, forward_task) = Forwarder::new(links.clone(), disk.clone(), tasks.clone(), &runtime);
        let ends = forwarder.ends();
        let receiver = Receiver::new(self.data_dir.snapshots());
        let door = PeerDoor::new(links.clone(), forwarder.clone(), receiver, tasks.clone());
        tasks.spawn(Task::PeerDoor, &runtime, door.clone().serve(self.peer_listener));

        let path = self.data_dir.log();
        let log = tokio::task::spawn_blocking(move || RocksLogDisk::open(&path)).await.map_err(io::Error::other)??;
        let backlog = Backlog::default();
        let consensus = Consensus::start(Params {
            id: identity.member,
            state: self.data_dir.state(),
            snapshots: self.data_dir.snapshots(),
            log: Arc::new(log) as Arc<dyn LogDisk>,
            caches: self.caches,
            tasks: tasks.clone(),
            runtime: runtime.clone(),
            sink: self.sink,
            network: NetworkFactory::new(links.clone(), backlog.clone()),
            backlog,
            peers: Arc::new(forwarder),
            disk,
            timing: self.timing,
            snapshot_rules: self.snapshot_rules,
        })
        .await?;
        door.open(consensus.clone());
        tasks.spawn(Task::Forwarder, &runtime, forward_task.run(consensus.raft().clone(), tasks.clone()));
        let (raft, contacts) = (consensus.raft().clone(), consensus.contacts().clone());
        let leader_end = LeaderEnd { id: identity.member, raft, contacts, timing: self.timing, ends, verdicts };
        tasks.spawn(Task::LeaderEnd, &runtime, leader_end.run(tasks.clone()));
        let removal = heed_removal(consensus.clone(), local.clone(), self.data_dir.clone(), tasks.clone());
        tasks.spawn(Task::Removal, &runtime, removal);
        let comparison = Comparison { consensus: consensus.clone(), links: links.clone(), tasks: tasks.clone() };
        tasks.spawn(Task::DigestCompare, &runtime, comparison.clone().run());
        let raise = VersionRaise { consensus: consensus.clone(), links: links.clone() };
        tasks.spawn(Task::StateVersion, &runtime, raise.run(tasks.clone()));
        consensus.run();
        let bootstrap = Bootstrap {
            consensus: consensus.clone(),
            links,
            data_dir: self.data_dir,
            peer_address: self.peer_address,
            start: self.start,
            tasks,
            runtime,
        };
        Ok(Assembled { consensus, local, bootstrap, comparison, verdicts: verdicts_seen })
    }
}
