//! Clusters of members in one process, over an in-process network that can be cut.
//!
//! Invariants:
//! - A cut loses requests and answers alike: what arrives after a cut began is not delivered.
//! - A killed member loses what it had only in memory and was not flushed: its files are copied while it still runs.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub mod net;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use quorate_proto::{ClientId, Key, MemberId, Revision};
use quorate_server::config::Timing;
use quorate_server::consensus::backlog::Backlog;
use quorate_server::consensus::disk_watch::DiskSpace;
use quorate_server::consensus::hot::Caches;
use quorate_server::consensus::log_disk::{LogDisk, LogLoad, LogOp, RocksLogDisk};
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::consensus::types::Entry;
use quorate_server::consensus::types::Node;
use quorate_server::consensus::{ApplySink, Consensus, Haste, Leadership, Params, Proposed};
use quorate_server::error::ConsensusError;
use quorate_server::tasks::Tasks;
use quorate_state::command::{Command, Envelope, Expect, Owner, Principal, Put, RequestId};
use quorate_state::outcome::{Changes, LeaseChange};
use quorate_state::store::Store;
use quorate_state::view::View;
use tokio::runtime::Handle;
use tokio::time::Instant;

use net::{Link, Net, TestPeers};

/// Everything that was published, in order.
#[derive(Default)]
pub struct Recorder {
    pub applied: Mutex<Vec<Changes>>,
    pub installed: Mutex<Vec<(Revision, Revision)>>,
}

impl ApplySink for Recorder {
    fn applied(&self, changes: Changes, _leases: &[LeaseChange]) {
        self.applied.lock().push(changes);
    }
    fn installed(&self, revision: Revision, compact_revision: Revision) {
        self.installed.lock().push((revision, compact_revision));
    }
}

/// A member that runs.
#[derive(Clone)]
pub struct TestMember {
    pub id: u64,
    pub consensus: Consensus,
    pub tasks: Tasks,
    pub recorder: Arc<Recorder>,
    pub disk: Arc<FaultyDisk>,
}

/// A log's disk whose writes fail once it is told so.
pub struct FaultyDisk {
    disk: RocksLogDisk,
    pub broken: AtomicBool,
}

impl LogDisk for FaultyDisk {
    fn load(&self) -> std::io::Result<LogLoad> {
        self.disk.load()
    }
    fn write(&self, ops: &[LogOp], sync: bool) -> std::io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("the disk is broken"));
        }
        self.disk.write(ops, sync)
    }
    fn read(&self, start: u64, end: u64, bytes_max: u64) -> std::io::Result<Vec<Entry>> {
        self.disk.read(start, end, bytes_max)
    }
    fn bytes(&self) -> u64 {
        self.disk.bytes()
    }
}

/// A cluster in one process.
pub struct Cluster {
    pub net: Arc<Net>,
    pub dir: tempfile::TempDir,
    pub rules: SnapshotRules,
    pub running: BTreeMap<u64, TestMember>,
    generation: u64,
    paths: BTreeMap<u64, PathBuf>,
}

pub fn member_id(id: u64) -> MemberId {
    MemberId::new(id).unwrap()
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

impl Cluster {
    /// Starts members 1 to `count` and makes them a cluster.
    pub async fn new(count: u64) -> Self {
        Self::with_rules(count, SnapshotRules::default()).await
    }

    pub async fn with_rules(count: u64, rules: SnapshotRules) -> Self {
        let mut cluster = Self {
            net: Net::new(),
            dir: tempfile::tempdir().unwrap(),
            rules,
            running: BTreeMap::new(),
            generation: 0,
            paths: BTreeMap::new(),
        };
        for id in 1..=count {
            cluster.start(id).await;
        }
        let members = (1..=count).map(|id| (member_id(id), node(id))).collect();
        cluster.running[&1].consensus.initialise(members).await.unwrap();
        cluster.leader().await;
        cluster
    }

    /// Starts a member on what its directory has.
    pub async fn start(&mut self, id: u64) -> TestMember {
        let path = self.paths.entry(id).or_insert_with(|| self.dir.path().join(format!("{id}"))).clone();
        let member = start(id, &path, &self.net, self.rules).await;
        self.running.insert(id, member.clone());
        member
    }

    /// Ends a member as a crash would: what its state had not flushed is gone, what its log had synced is not.
    pub async fn kill(&mut self, id: u64) {
        self.net.remove(id);
        let member = self.running.remove(&id).unwrap();
        self.generation += 1;
        let old = self.paths[&id].clone();
        let new = self.dir.path().join(format!("{id}-{}", self.generation));
        copy_as_of_one_moment(&old, &new).await;
        self.paths.insert(id, new);
        member.tasks.stop();
        member.consensus.raft().shutdown().await.unwrap();
        let tasks = member.tasks.clone();
        drop(member);
        ended(&tasks).await;
    }

    /// Ends a member in good order.
    pub async fn stop(&mut self, id: u64) {
        let member = self.running.remove(&id).unwrap();
        member.consensus.stop().await;
        self.net.remove(id);
        let tasks = member.tasks.clone();
        drop(member);
        ended(&tasks).await;
    }

    /// The member that leads, once one does and is not cut off.
    pub async fn leader(&self) -> TestMember {
        self.leader_among(&self.running.keys().copied().collect::<Vec<_>>()).await
    }

    pub async fn leader_among(&self, ids: &[u64]) -> TestMember {
        let deadline = soon();
        loop {
            let mut best: Option<(u64, &TestMember)> = None;
            for member in ids.iter().filter_map(|id| self.running.get(id)) {
                if let Leadership::Leading { term } = *member.consensus.leadership().borrow()
                    && best.is_none_or(|(other, _)| term > other)
                {
                    best = Some((term, member));
                }
            }
            if let Some((_, member)) = best {
                return member.clone();
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn followers(&self, leader: u64) -> Vec<TestMember> {
        self.running.values().filter(|member| member.id != leader).cloned().collect()
    }

    /// Waits until all running members have applied the same, and checks that they hold the same.
    pub async fn agree(&self) {
        let deadline = soon();
        loop {
            let digests: BTreeSet<_> = self.running.values().map(TestMember::digest).collect();
            if digests.len() == 1 {
                return;
            }
            assert!(Instant::now() < deadline, "members do not agree: {digests:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl TestMember {
    pub async fn put(&self, key: &str, value: &str, deadline: Instant) -> Result<Proposed, ConsensusError> {
        self.consensus.propose(put(key, value, None), Haste::AtOnce, deadline).await
    }

    /// What the local store has.
    pub fn local(&self, key: &str) -> Option<String> {
        let store = self.consensus.store();
        let view = View::new(store.snapshot()).unwrap();
        let found = view.get(&Key::new(key.to_owned()).unwrap(), None).unwrap();
        found.map(|kv| String::from_utf8(kv.value.into()).unwrap())
    }

    /// A linearizable read.
    pub async fn get(&self, key: &str, deadline: Instant) -> Result<Option<String>, ConsensusError> {
        self.consensus.read_barrier(deadline).await?;
        Ok(self.local(key))
    }

    /// Two while the membership is being changed.
    pub fn voter_sets(&self) -> usize {
        self.consensus.raft().metrics().borrow_watched().membership_config.membership().get_joint_config().len()
    }

    pub fn revision(&self) -> i64 {
        self.consensus.applied().borrow().revision
    }

    fn digest(&self) -> (u64, u64) {
        let store = self.consensus.store();
        let mark = View::new(store.snapshot()).unwrap().digest();
        (mark.index, mark.digest)
    }
}

pub fn put(key: &str, value: &str, request: Option<RequestId>) -> Envelope {
    let put = Put {
        key: Key::new(key.to_owned()).unwrap(),
        value: Some(Bytes::from(value.to_owned())),
        owner: Owner::None,
        expect: Expect::Anything,
        return_previous: false,
        must_have_parent: false,
        sequential: false,
    };
    Envelope { request, principal: Principal::default(), command: Command::Put(put) }
}

pub fn request(client: u64, sequence: u64) -> RequestId {
    RequestId { client: ClientId::new(client).unwrap(), sequence, lowest_unacknowledged: sequence, seen_index: 0 }
}

pub fn node(id: u64) -> Node {
    Node { name: format!("m{id}"), peer_address: format!("m{id}:1"), client_address: format!("m{id}:2") }
}

pub async fn start(id: u64, path: &Path, net: &Arc<Net>, rules: SnapshotRules) -> TestMember {
    let tasks = Tasks::default();
    let recorder = Arc::new(Recorder::default());
    std::fs::create_dir_all(path).unwrap();
    let log = RocksLogDisk::open(&path.join("log")).unwrap();
    let disk = Arc::new(FaultyDisk { disk: log, broken: AtomicBool::new(false) });
    let consensus = Consensus::start(Params {
        id: member_id(id),
        state: path.join("state"),
        snapshots: path.join("snapshots"),
        log: disk.clone(),
        caches: Caches::new(16 << 20),
        tasks: tasks.clone(),
        runtime: Handle::current(),
        sink: recorder.clone(),
        backlog: Backlog::default(),
        network: Link::factory(net.clone(), id),
        peers: Arc::new(TestPeers::new(net.clone(), id)),
        disk: Arc::new(DiskSpace::new(path.to_owned(), 1 << 20)),
        timing: Timing::default(),
        snapshot_rules: rules,
    })
    .await
    .unwrap();
    net.add(id, consensus.clone());
    consensus.run();
    TestMember { id, consensus, tasks, recorder, disk }
}

pub async fn ended(tasks: &Tasks) {
    tasks.stop();
    tokio::time::timeout(Duration::from_secs(20), tasks.ended()).await.expect("all tasks end");
}

/// Copies a directory that is in use as a crash would leave it: as it was at one moment. A copy during which
/// anything changed holds files of different moments, which no crash leaves; it is made again.
async fn copy_as_of_one_moment(from: &Path, to: &Path) {
    let deadline = soon();
    loop {
        let before = listing(from);
        let copied = before.is_some() && copy_dir(from, to).is_ok();
        if copied && before == listing(from) {
            return;
        }
        assert!(Instant::now() < deadline, "{} never holds still", from.display());
        // Not made yet, if the listing before it already failed.
        if to.exists() {
            std::fs::remove_dir_all(to).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is in a directory, each file with what changes when it is written to. None if it changed while it was read.
fn listing(dir: &Path) -> Option<BTreeMap<PathBuf, (u64, u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    for item in std::fs::read_dir(dir).ok()? {
        let path = item.ok()?.path();
        let meta = std::fs::symlink_metadata(&path).ok()?;
        if meta.is_dir() {
            found.extend(listing(&path)?);
        }
        found.insert(path, (meta.ino(), meta.len(), meta.modified().ok()?));
    }
    Some(found)
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for item in std::fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy_dir(&item.path(), &target)?;
        } else if item.file_name() != "LOCK" {
            std::fs::copy(item.path(), &target)?;
        }
    }
    Ok(())
}
