//! Real members in one process: each has a runtime, a data directory and ports on loopback of its own.
//!
//! Invariants:
//! - Killing a member ends its runtime at once: connections break, nothing is flushed or handed over.

#![allow(
    dead_code,
    missing_docs,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

pub mod gate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::v1;
use quorate_proto::v1::cluster_server::{Cluster as ClusterService, ClusterServer};
use quorate_proto::{ClientId, ClusterId, Key, MemberId, Revision};
use quorate_server::config::{Start, Timing};
use quorate_server::consensus::assemble::{Assembled, Assembly};
use quorate_server::consensus::bootstrap::BootstrapError;
use quorate_server::consensus::digests::Comparison;
use quorate_server::consensus::hot::Caches;
use quorate_server::consensus::leader_end::Verdicts;
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::consensus::{ApplySink, Consensus, Haste, Leadership, Member, Proposed};
use quorate_server::data_dir::{DataDir, DataDirError};
use quorate_server::error::ConsensusError;
use quorate_server::sync::watch;
use quorate_server::tasks::Tasks;
use quorate_state::command::{Command, Envelope, Expect, Owner, Principal, Put, RequestId};
use quorate_state::outcome::{Changes, KeyValue, LeaseChange};
use quorate_state::store::{Read, Store, WriteBatch};
use quorate_state::versions::STATE_VERSION;
use quorate_state::view::View;
use quorate_tests::address::free;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

struct Deaf;

impl ApplySink for Deaf {
    fn applied(&self, _: Changes, _: &[LeaseChange]) {}
    fn installed(&self, _: Revision, _: Revision) {}
}

/// A member: where it lives, and what runs of it.
pub struct Peer {
    pub name: String,
    pub dir: PathBuf,
    /// Where it listens to members.
    pub members_at: SocketAddr,
    /// Where members are told that it listens.
    pub told_at: SocketAddr,
    pub clients_at: SocketAddr,
    pub rules: SnapshotRules,
    pub timing: Timing,
    /// What it says that it knows.
    pub state_version_max: u32,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    consensus: Consensus,
    comparison: Comparison,
    tasks: Tasks,
    cluster: watch::Receiver<Result<Option<ClusterId>, String>>,
    verdicts: watch::Receiver<Verdicts>,
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Members called a, b, c, …, not started.
pub fn peers(root: &tempfile::TempDir, count: usize) -> Vec<Peer> {
    let name = |n: usize| char::from(b'a' + u8::try_from(n).unwrap()).to_string();
    (0..count)
        .map(|n| {
            let members_at = SocketAddr::from(free());
            Peer {
                name: name(n),
                dir: root.path().join(name(n)),
                members_at,
                told_at: members_at,
                clients_at: free().into(),
                rules: SnapshotRules::default(),
                timing: Timing::default(),
                state_version_max: STATE_VERSION,
                running: None,
            }
        })
        .collect()
}

/// `--cluster` with these members.
pub fn cluster_of(peers: &[Peer]) -> Start {
    Start::Cluster(peers.iter().map(|peer| (peer.name.clone(), peer.told_at.to_string())).collect())
}

/// Three members that are a cluster.
pub async fn three(root: &tempfile::TempDir) -> Vec<Peer> {
    let mut three = peers(root, 3);
    let start = cluster_of(&three);
    for peer in &mut three {
        peer.start(start.clone()).await;
    }
    for peer in &three {
        peer.belongs().await.unwrap();
    }
    leader(&three).await;
    for peer in &three {
        // A leader is known before what it appended has come.
        let members = peer.consensus().raft().wait(Some(Duration::from_secs(20)));
        members.metrics(|metrics| metrics.membership_config.voter_ids().count() == 3, "the members").await.unwrap();
    }
    three
}

impl Peer {
    /// Starts it; whether it comes into a cluster is told by `belongs`.
    pub async fn start(&mut self, start: Start) {
        self.try_start(start).await.unwrap();
    }

    pub async fn try_start(&mut self, start: Start) -> Result<(), DataDirError> {
        let data_dir = self.open().await?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let tasks = Tasks::default();
        let (peer, told, client) = (self.members_at, self.told_at, self.clients_at);
        let (rules, timing, state_version_max) = (self.rules, self.timing, self.state_version_max);
        let (says, cluster) = watch::channel(Ok(None));
        let (handle, members_tasks) = (runtime.handle().clone(), tasks.clone());
        let (consensus, comparison, verdicts) = runtime
            .spawn(async move {
                let assembly = Assembly {
                    data_dir: Arc::new(data_dir),
                    peer_listener: bind(peer).await,
                    peer_address: told.to_string(),
                    client_address: client.to_string(),
                    start,
                    timing,
                    tasks: members_tasks,
                    runtime: handle,
                    sink: Arc::new(Deaf),
                    caches: Caches::new(8 << 20),
                    disk_reserve_bytes: 1 << 20,
                    snapshot_rules: rules,
                    state_version_max,
                };
                let Assembled { consensus, local, bootstrap, comparison, verdicts } = assembly.start().await.unwrap();
                let door = Door { consensus: consensus.clone(), local: local.clone() };
                tokio::spawn(serve_clients(bind(client).await, door));
                tokio::spawn(async move {
                    let done = bootstrap.run().await;
                    let _ = says.send(match done {
                        Ok(()) => Ok(local.cluster()),
                        Err(BootstrapError::Stopped) => Err("stopped".to_owned()),
                        Err(error) => Err(error.to_string()),
                    });
                });
                (consensus, comparison, verdicts)
            })
            .await
            .unwrap();
        self.running = Some(Running { runtime, consensus, comparison, tasks, cluster, verdicts });
        Ok(())
    }

    /// Nothing runs on its runtime, Raft neither, until what is returned is dropped.
    pub async fn keep_busy(&self) -> Vec<std::sync::mpsc::Sender<()>> {
        let runtime = &self.running.as_ref().expect("it runs").runtime;
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let occupy = |_| {
            let (end, ended) = std::sync::mpsc::channel();
            let begun = begun.clone();
            runtime.spawn(async move {
                begun.send(()).expect("who waits for it is there");
                // An error is the end of it.
                let _ = ended.recv();
            });
            end
        };
        let ends = (0..runtime.metrics().num_workers()).map(occupy).collect();
        for _ in 0..runtime.metrics().num_workers() {
            begins.recv().await.expect("all begin");
        }
        ends
    }

    /// The files of a killed member are let go a moment later.
    async fn open(&self) -> Result<DataDir, DataDirError> {
        let deadline = soon();
        loop {
            match DataDir::open(&self.dir, &self.name) {
                Err(DataDirError::InUse { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(data_dir) => {
                    let database = data_dir.log().join("LOCK");
                    while std::fs::File::open(&database).is_ok() && rocksdb_is_open(&data_dir) {
                        assert!(Instant::now() < deadline, "the log of a killed member stays open");
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    return Ok(data_dir);
                }
                other => return other,
            }
        }
    }

    /// Ends it as kill -9 would, as far as the network sees.
    pub fn kill(&mut self) {
        let running = self.running.take().unwrap();
        // Threads that are no tasks of the runtime end when their queues do; a log that is mid-write finishes it.
        running.tasks.stop();
        running.runtime.shutdown_background();
    }

    /// Ends it in good order.
    pub async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        let (consensus, tasks) = (running.consensus, running.tasks);
        running.runtime.spawn(async move { consensus.stop().await }).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), tasks.ended()).await.expect("all tasks end");
        running.runtime.shutdown_background();
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub fn consensus(&self) -> &Consensus {
        &self.running.as_ref().unwrap().consensus
    }

    /// What it made of streams to leaders that ended.
    pub fn verdicts(&self) -> watch::Receiver<Verdicts> {
        self.running.as_ref().unwrap().verdicts.clone()
    }

    /// Compares digests once.
    pub async fn compare(&self) {
        self.running.as_ref().unwrap().comparison.once().await;
    }

    /// Pretends that the digest at an index was this.
    pub fn plant_digest(&self, log_index: u64, digest: u8) {
        assert!(digest < 0x80, "one byte of a varint");
        let mut batch = WriteBatch::default();
        batch.put([b"sdigest/".as_slice(), &log_index.to_be_bytes()].concat(), vec![1, digest]);
        self.consensus().store().write(batch).unwrap();
    }

    /// Changes the newest version of a key in the store, as a disk or a memory that rots would, past all checksums.
    pub fn rot(&self, key: &str) {
        let store = self.consensus().store();
        let kv = View::new(store.snapshot()).unwrap().get(&Key::new(key.to_owned()).unwrap(), None).unwrap().unwrap();
        let revision = !kv.meta.mod_revision.get().cast_unsigned();
        let stored = [b"h", key.as_bytes(), b"\0\x01", &revision.to_be_bytes()].concat();
        let mut value = store.get(&stored).unwrap().unwrap().to_vec();
        *value.last_mut().unwrap() ^= 1;
        let mut batch = WriteBatch::default();
        batch.put(stored, value);
        store.write(batch).unwrap();
    }

    /// The scrub's hash at a log index, once it is there.
    pub async fn scrubbed(&self, log_index: u64) -> u64 {
        let deadline = soon();
        loop {
            let pairs = self.consensus().said().unwrap().scrubs.pairs;
            if let Some((_, hash)) = pairs.into_iter().find(|(index, _)| *index == log_index) {
                return hash;
            }
            assert!(Instant::now() < deadline, "no scrub at {log_index}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this state version is in force here.
    pub async fn at_state_version(&self, version: u32) {
        let mut applied = self.consensus().applied();
        let reached = applied.wait_for(|mark| mark.state_version >= version);
        tokio::time::timeout(Duration::from_secs(20), reached).await.expect("the version rises").unwrap();
    }

    pub fn id(&self) -> MemberId {
        self.consensus().id()
    }

    /// Waits until it is in a cluster, or refuses.
    pub async fn belongs(&self) -> Result<ClusterId, String> {
        let mut cluster = self.running.as_ref().unwrap().cluster.clone();
        let seen = tokio::time::timeout(Duration::from_secs(20), async {
            cluster.wait_for(|now| !matches!(now, Ok(None))).await.unwrap().clone()
        });
        seen.await.expect("it comes into a cluster or refuses").map(Option::unwrap)
    }

    /// Why it ended itself.
    pub async fn failed(&self) -> String {
        let mut failed = self.running.as_ref().unwrap().tasks.failed();
        let seen = tokio::time::timeout(Duration::from_secs(20), async {
            failed.wait_for(Option::is_some).await.unwrap().clone().unwrap()
        });
        seen.await.expect("it ends itself")
    }

    pub async fn put(&self, key: &str, value: &str) -> Result<Proposed, ConsensusError> {
        self.put_as(key, value, None).await
    }

    pub async fn put_as(&self, key: &str, value: &str, request: Option<RequestId>) -> Result<Proposed, ConsensusError> {
        self.consensus().propose(put(key, value, request), Haste::AtOnce, soon()).await
    }

    /// A linearizable read.
    pub async fn get(&self, key: &str) -> Option<KeyValue> {
        self.consensus().read_barrier(soon()).await.unwrap();
        let store = self.consensus().store();
        let view = View::new(store.snapshot()).unwrap();
        view.get(&Key::new(key.to_owned()).unwrap(), None).unwrap()
    }

    pub async fn value(&self, key: &str) -> Option<String> {
        self.get(key).await.map(|kv| String::from_utf8(kv.value.into()).unwrap())
    }

    pub fn voters(&self) -> Vec<String> {
        let members = self.consensus().status().members;
        let mut names: Vec<_> =
            members.into_iter().filter(|member| !member.learner).map(|member| member.name).collect();
        names.sort();
        names
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.tasks.stop();
        let tasks = running.tasks.clone();
        drop((running.consensus, running.comparison));
        running.runtime.shutdown_background();
        // Threads that use a database must not outlive the process's own end.
        tokio::task::block_in_place(|| futures::executor::block_on(tasks.ended()));
    }
}

fn rocksdb_is_open(data_dir: &DataDir) -> bool {
    [data_dir.log()].iter().any(|path| match rocksdb::DB::open_default(path) {
        Ok(_) => false,
        Err(error) => error.to_string().contains("lock"),
    })
}

/// A port that a killed member had may be in use a moment longer.
pub async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = soon();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Index of the member that leads, once one does and all running ones know it.
pub async fn leader(peers: &[Peer]) -> usize {
    let deadline = soon();
    loop {
        let leading = peers.iter().position(|peer| {
            peer.is_running() && matches!(*peer.consensus().leadership().borrow(), Leadership::Leading { .. })
        });
        if let Some(leading) = leading {
            let id = peers[leading].id();
            let all =
                peers.iter().filter(|peer| peer.is_running()).all(|peer| peer.consensus().status().leader == Some(id));
            if all {
                return leading;
            }
        }
        assert!(Instant::now() < deadline, "no leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A command of the cluster's own.
pub fn bare(command: Command) -> Envelope {
    Envelope { request: None, principal: Principal::default(), command }
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
    RequestId { client: ClientId::new(client).unwrap(), sequence, lowest_unacknowledged: 1, seen_index: 0 }
}

/// Just enough of the native API to be joined.
struct Door {
    consensus: Consensus,
    local: Arc<quorate_server::consensus::links::LocalMember>,
}

async fn serve_clients(listener: TcpListener, door: Door) {
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(ClusterServer::new(door));
    let _ = server.serve_with_incoming(incoming).await;
}

#[tonic::async_trait]
impl ClusterService for Door {
    async fn member_add(
        &self,
        request: Request<v1::MemberAddRequest>,
    ) -> Result<Response<v1::MemberAddResponse>, Status> {
        let v1::MemberAddRequest { member, state_version_max } = request.into_inner();
        let member = member.unwrap();
        let member = Member {
            id: MemberId::new(member.id).unwrap(),
            name: member.name,
            peer_address: member.peer_address,
            client_address: member.client_address,
            learner: true,
        };
        match self.consensus.add_learner(member, state_version_max, soon()).await {
            Ok(_) => {
                let cluster_id = self.local.cluster().unwrap().get();
                let header = Some(v1::Header { cluster_id, ..v1::Header::default() });
                Ok(Response::new(v1::MemberAddResponse { header, members: vec![] }))
            }
            Err(ConsensusError::Membership { reason }) => Err(Status::failed_precondition(reason)),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn member_list(&self, _: Request<v1::MemberListRequest>) -> Result<Response<v1::MemberListResponse>, Status> {
        Err(Status::unimplemented("in this test"))
    }

    async fn member_promote(
        &self,
        _: Request<v1::MemberPromoteRequest>,
    ) -> Result<Response<v1::MemberPromoteResponse>, Status> {
        Err(Status::unimplemented("in this test"))
    }

    async fn member_remove(
        &self,
        _: Request<v1::MemberRemoveRequest>,
    ) -> Result<Response<v1::MemberRemoveResponse>, Status> {
        Err(Status::unimplemented("in this test"))
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        Err(Status::unimplemented("in this test"))
    }
}
