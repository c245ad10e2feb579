//! Members with their doors open, in this process, on free ports.
//!
//! Invariants:
//! - All rooms are the real ones; only the network between members is the tests' own.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub mod etcd;
pub mod three;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::{Key, MemberId, Revision};
use quorate_server::api::{self, Identity, Rooms};
use quorate_server::config::Timing;
use quorate_server::config::{AutoCompaction, Config, Limits};
use quorate_server::consensus::backlog::Backlog;
use quorate_server::consensus::disk_watch::DiskSpace;
use quorate_server::consensus::hot::Caches;
use quorate_server::consensus::log_disk::RocksLogDisk;
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::consensus::{Consensus, Leadership, Params};
use quorate_server::leader::{LeaderJobs, Lessor};
use quorate_server::recipes::discovery::{Discovery, Networks};
use quorate_server::serve;
use quorate_server::tasks::Tasks;
use quorate_server::watch::{Hub, Listeners};
use quorate_state::store::Store as _;
use quorate_state::view::View;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::support::net::{Link, Net, TestPeers};
use crate::support::{ended, member_id, node};

pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

/// A member with open doors.
pub struct Doors {
    pub consensus: Arc<Consensus>,
    pub rooms: Arc<Rooms>,
    pub discovery: Arc<Discovery>,
    pub serving: serve::Doors,
    pub tasks: Tasks,
    channel: Channel,
    dir: Option<tempfile::TempDir>,
}

impl Doors {
    /// A cluster of one.
    pub async fn single() -> Self {
        Self::single_with(Limits::default()).await
    }

    /// A cluster of one with other limits.
    pub async fn single_with(limits: Limits) -> Self {
        Self::single_of(limits, loopback()).await
    }

    /// A cluster of one whose health checks go only where they may by default.
    pub async fn single_guarded() -> Self {
        Self::single_of(Limits::default(), Config::default().check_networks).await
    }

    async fn single_of(limits: Limits, networks: Networks) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut doors = Start { limits, networks, ..Start::new(1, dir.path(), &Net::new()) }.run().await;
        doors.dir = Some(dir);
        doors.consensus.initialise([(member_id(1), node(1))].into()).await.unwrap();
        let mut leadership = doors.consensus.leadership();
        leadership.wait_for(|now| matches!(now, Leadership::Leading { .. })).await.unwrap();
        doors
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn kv(&self) -> v1::kv_client::KvClient<Channel> {
        v1::kv_client::KvClient::new(self.channel()).max_encoding_message_size(32 << 20)
    }

    pub fn lease(&self) -> v1::lease_client::LeaseClient<Channel> {
        v1::lease_client::LeaseClient::new(self.channel())
    }

    pub fn admin(&self) -> v1::admin_client::AdminClient<Channel> {
        v1::admin_client::AdminClient::new(self.channel())
    }

    pub fn leads(&self) -> bool {
        matches!(*self.consensus.leadership().borrow(), Leadership::Leading { .. })
    }

    /// Version of a key in the local store; 0 when it is not there.
    pub fn version_of(&self, key: &str) -> i64 {
        let store = self.consensus.store();
        let view = View::new(store.snapshot()).unwrap();
        view.get(&Key::new(key.to_owned()).unwrap(), None).unwrap().map_or(0, |kv| kv.meta.version)
    }

    pub async fn drain(&self) {
        self.rooms.close();
        self.serving.drain(Duration::from_secs(5)).await;
    }

    /// Ends in good order.
    pub async fn stop(self) {
        self.consensus.stop().await;
        let tasks = self.tasks.clone();
        drop(self);
        ended(&tasks).await;
    }
}

/// How a member is started.
struct Start {
    id: u64,
    path: PathBuf,
    net: Arc<Net>,
    limits: Limits,
    networks: Networks,
    snapshot_rules: SnapshotRules,
}

impl Start {
    fn new(id: u64, path: &Path, net: &Arc<Net>) -> Self {
        let (limits, networks, snapshot_rules) = (Limits::default(), loopback(), SnapshotRules::default());
        Self { id, path: path.to_owned(), net: Arc::clone(net), limits, networks, snapshot_rules }
    }

    async fn run(self) -> Doors {
        let Self { id, path, net, limits, networks, snapshot_rules } = self;
        let tasks = Tasks::default();
        std::fs::create_dir_all(&path).unwrap();
        let (hub, lessor) = (Arc::new(Hub::default()), Arc::new(Lessor::default()));
        let consensus = Consensus::start(Params {
            id: member_id(id),
            state: path.join("state"),
            snapshots: path.join("snapshots"),
            log: Arc::new(RocksLogDisk::open(&path.join("log")).unwrap()),
            caches: Caches::new(16 << 20),
            tasks: tasks.clone(),
            runtime: Handle::current(),
            sink: Arc::new(Listeners::new(hub.clone(), lessor.clone())),
            backlog: Backlog::default(),
            network: Link::factory(net.clone(), id),
            peers: Arc::new(TestPeers::new(net.clone(), id)),
            disk: Arc::new(DiskSpace::new(path.clone(), 1 << 20)),
            timing: Timing::default(),
            snapshot_rules,
        })
        .await
        .unwrap();
        net.add(id, consensus.clone());
        let consensus = Arc::new(consensus);
        hub.begin(Revision(consensus.applied().borrow().revision));
        let jobs = LeaderJobs {
            consensus: consensus.clone(),
            lessor,
            retention: AutoCompaction { age: None, revisions: None },
        };
        jobs.start(&tasks, &Handle::current());
        api::watch_contact(consensus.clone(), hub.clone(), ELECTION_TIMEOUT, &tasks, &Handle::current());
        let identity = Identity { cluster_id: 0xc1, member_id: MemberId::new(id).unwrap() };
        let rooms = Rooms::new(consensus.clone(), hub, identity, limits, ELECTION_TIMEOUT, tasks.clone());
        let rooms = Arc::new(rooms);
        consensus.run();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let discovery = Discovery::start(&rooms, networks).unwrap();
        let routes = api::native::with_reflection(api::native::routes(&rooms, &discovery)).unwrap();
        let serving = serve::open(listener, &routes, 2, &tasks, &Handle::current()).unwrap();
        let channel = Endpoint::new(format!("http://{}", serving.address())).unwrap().connect_lazy();
        Doors { consensus, rooms, discovery, serving, tasks, channel, dir: None }
    }
}

/// Where tests' own listeners are.
fn loopback() -> Networks {
    Networks(vec!["127.0.0.0/8".parse().unwrap()])
}

/// What travels with a refusal.
pub fn detail(status: &tonic::Status) -> v1::ErrorDetail {
    v1::ErrorDetail::decode(status.details()).unwrap()
}

/// A watch stream.
pub struct Events {
    sender: mpsc::Sender<v1::WatchRequest>,
    answers: Streaming<v1::WatchResponse>,
}

impl Events {
    pub async fn open(doors: &Doors) -> Self {
        let (sender, requests) = mpsc::channel(16);
        let mut client = v1::watch_client::WatchClient::new(doors.channel());
        let answers = client.watch(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { sender, answers }
    }

    pub async fn send(&self, request: v1::watch_request::Request) {
        self.sender.send(v1::WatchRequest { request: Some(request) }).await.unwrap();
    }

    /// Creates a watch and awaits that it exists.
    pub async fn create(&mut self, create: v1::WatchCreate) {
        self.send(v1::watch_request::Request::Create(create)).await;
        let answer = self.next().await;
        assert!(answer.created, "{answer:?}");
    }

    pub async fn try_next(&mut self) -> Result<v1::WatchResponse, tonic::Status> {
        let message = timeout(Duration::from_secs(20), self.answers.message()).await.expect("a message comes");
        message.map(|message| message.expect("the stream goes on"))
    }

    pub async fn next(&mut self) -> v1::WatchResponse {
        self.try_next().await.unwrap()
    }

    /// The next events, so many of them.
    pub async fn next_events(&mut self, count: usize) -> Vec<v1::Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.events);
        }
        assert_eq!(events.len(), count);
        events
    }
}
