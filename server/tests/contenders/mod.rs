//! What tests of locks and elections say and ask for.
//!
//! Invariants:
//! - Who waits is known to wait by what the store shows, not by time.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::future::Future;
use std::time::Duration;

use prost::Message as _;
use quorate_proto::v1;
use quorate_server::recipes::Cost;
use tokio::io::copy_bidirectional;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::doors::Doors;

pub type Acquired = Result<v1::AcquireResponse, Status>;

const PATIENCE: Duration = Duration::from_secs(20);

pub fn lock(doors: &Doors) -> v1::lock_client::LockClient<Channel> {
    v1::lock_client::LockClient::new(doors.channel())
}

pub fn election(doors: &Doors) -> v1::election_client::ElectionClient<Channel> {
    v1::election_client::ElectionClient::new(doors.channel())
}

pub fn detail_of(status: &Status) -> v1::ErrorDetail {
    v1::ErrorDetail::decode(status.details()).unwrap()
}

pub async fn grant(doors: &Doors, ttl_ms: u64) -> i64 {
    doors.lease().grant(v1::GrantRequest { ttl_ms, ..Default::default() }).await.unwrap().into_inner().lease_id
}

pub fn wish(name: &str, lease_id: i64, acquire_id: u64) -> v1::AcquireRequest {
    v1::AcquireRequest { name: name.to_owned().into(), lease_id, acquire_id, ..Default::default() }
}

fn wanted(doors: &Doors, request: v1::AcquireRequest) -> impl Future<Output = Acquired> + use<> {
    let mut client = lock(doors);
    async move { client.acquire(request).await.map(tonic::Response::into_inner) }
}

/// Asks again, as a client does, where the member has no contact to its leader: on a starved machine that happens.
pub fn patiently(doors: &Doors, request: v1::AcquireRequest) -> impl Future<Output = Acquired> + use<> {
    let mut client = lock(doors);
    async move {
        loop {
            match client.acquire(request.clone()).await.map(tonic::Response::into_inner) {
                Err(status) if detail_of(&status).kind() == v1::error_detail::Kind::NoQuorum => {}
                acquired => return acquired,
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

pub fn acquire(doors: &Doors, name: &str, lease: i64, id: u64) -> impl Future<Output = Acquired> + use<> {
    patiently(doors, wish(name, lease, id))
}

/// Asks once.
pub fn acquire_once(doors: &Doors, name: &str, lease: i64, id: u64) -> impl Future<Output = Acquired> + use<> {
    wanted(doors, wish(name, lease, id))
}

pub fn shared(doors: &Doors, name: &str, lease: i64, id: u64) -> impl Future<Output = Acquired> + use<> {
    wanted(doors, v1::AcquireRequest { mode: v1::LockMode::Shared.into(), ..wish(name, lease, id) })
}

pub fn permit(doors: &Doors, name: &str, lease: i64, id: u64, permits: u32) -> impl Future<Output = Acquired> + use<> {
    wanted(doors, v1::AcquireRequest { mode: v1::LockMode::Permit.into(), permits, ..wish(name, lease, id) })
}

pub async fn release(doors: &Doors, name: &str, lease_id: i64, acquire_id: u64, token: i64) -> bool {
    let request = v1::ReleaseRequest { name: name.to_owned().into(), lease_id, acquire_id, token };
    lock(doors).release(request).await.unwrap().into_inner().released
}

pub async fn describe(doors: &Doors, name: &str) -> v1::DescribeLockResponse {
    let request = v1::DescribeLockRequest { name: name.to_owned().into(), ..Default::default() };
    lock(doors).describe(request).await.unwrap().into_inner()
}

/// Campaigns for `e`.
pub fn campaign(
    doors: &Doors,
    lease_id: i64,
    campaign_id: u64,
    value: &str,
) -> JoinHandle<Result<v1::CampaignResponse, Status>> {
    let mut client = election(doors);
    let value = value.to_owned().into();
    let request = v1::CampaignRequest { name: "e".into(), lease_id, campaign_id, value, ..Default::default() };
    tokio::spawn(async move { client.campaign(request).await.map(tonic::Response::into_inner) })
}

/// Who leads `e`, as it changes.
pub async fn observe(doors: &Doors, min_revision: i64) -> Streaming<v1::LeaderResponse> {
    let request = v1::ObserveRequest { name: "e".into(), min_revision };
    election(doors).observe(request).await.unwrap().into_inner()
}

/// The next leader: `term=value`, or `nobody`.
pub async fn next(stream: &mut Streaming<v1::LeaderResponse>) -> String {
    let told = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().expect("the stream goes on");
    told.leader.map_or("nobody".into(), |leader| format!("{}={}", leader.term, leader.value.escape_ascii()))
}

/// Begins to acquire, and returns once so many wait.
pub async fn waits<T: Send + 'static>(
    doors: &Doors,
    acquire: impl Future<Output = T> + Send + 'static,
    name: &str,
    waiting: u64,
) -> JoinHandle<T> {
    let wait = tokio::spawn(acquire);
    until_waiting(doors, name, waiting).await;
    wait
}

pub async fn until_waiting(doors: &Doors, name: &str, waiting: u64) {
    let until = async {
        while describe(doors, name).await.waiting < waiting {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("they come to wait");
}

/// Acquire ids in the order in which they wait.
pub async fn order(doors: &Doors, name: &str) -> Vec<u64> {
    let request = v1::DescribeLockRequest { name: name.to_owned().into(), waiters_max: 10_000, ..Default::default() };
    let shown = lock(doors).describe(request).await.unwrap().into_inner();
    let id = |waiter: v1::Contender| {
        let key = String::from_utf8(waiter.key.to_vec()).unwrap();
        u64::from_str_radix(key.rsplit_once('-').unwrap().1, 16).unwrap()
    };
    shown.waiters.into_iter().map(id).collect()
}

/// What the lines cost, once nothing has moved for a moment.
pub async fn settled(doors: &Doors) -> Cost {
    let mut before = doors.rooms.lines.cost();
    loop {
        sleep(Duration::from_millis(30)).await;
        let now = doors.rooms.lines.cost();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// Returns once the key is not there any more.
pub async fn gone(doors: &Doors, key: &str) {
    let until = async {
        while doors.version_of(key) != 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("the key goes");
}

/// A client with a connection of its own, which can be cut.
pub struct Client {
    pub channel: Channel,
    relay: JoinHandle<()>,
}

impl Client {
    pub async fn connect(doors: &Doors) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, member) = (listener.local_addr().unwrap(), doors.serving.address());
        let relay = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut member = tokio::net::TcpStream::connect(member).await.unwrap();
            // Whatever ends it, it is over.
            let _ = copy_bidirectional(&mut client, &mut member).await;
        });
        let channel = Endpoint::new(format!("http://{address}")).unwrap().connect_lazy();
        Self { channel, relay }
    }

    pub fn acquire(&self, name: &str, lease: i64, id: u64) -> impl Future<Output = Acquired> + use<> {
        let mut client = v1::lock_client::LockClient::new(self.channel.clone());
        let request = wish(name, lease, id);
        async move { client.acquire(request).await.map(tonic::Response::into_inner) }
    }

    /// Both sides see their connection end.
    pub fn cut(&self) {
        self.relay.abort();
    }
}
