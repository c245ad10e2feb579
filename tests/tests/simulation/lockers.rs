//! Clients of both wires that want locks: each has a session, asks for a lock until it has it or has had enough, holds it
//! for a while and lets go of it. A lock is one whatever wire it is asked for by.
//!
//! Invariants:
//! - A hold is claimed only while the session is known to be alive.
//! - Attempts at one hold share their id, or on etcd's wire their lease, and go to another member each.

use std::time::Duration;

use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::v3lockpb;
use quorate_proto::v1;
use quorate_tests::checkers::history::{Hold, Mode};
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::clients::Client;
use crate::sessions::{Session, Timed};
use crate::way::{Way, ask};

/// Locks that all want, so few that many wait.
const LOCKS: usize = 1;
/// Directory of the locks.
pub const DIRECTORY: &str = "/locks";
/// For one request that is not to wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Native,
    Etcd,
}

/// Wants locks, one after the other, until it is over.
pub struct Locker {
    client: Client,
    wire: Wire,
    count: u64,
}

/// What somebody was told who holds.
#[derive(Debug)]
pub struct Grant {
    pub key: Vec<u8>,
    pub token: i64,
    /// The store's in the answer.
    pub revision: i64,
}

impl From<v1::AcquireResponse> for Grant {
    fn from(answer: v1::AcquireResponse) -> Self {
        let revision = answer.header.map_or(0, |header| header.revision);
        Self { key: answer.key.into(), token: answer.token, revision }
    }
}

/// What an attempt came to; without a grant, nothing.
pub fn hold_of(lock: &str, client: u64, grant: Option<&Grant>, invoked: u64, completed: u64) -> Hold {
    let mut hold = Hold::wanted(lock, client, Mode::Exclusive, invoked, completed);
    if let Some(grant) = grant {
        (hold.key, hold.token) = (grant.key.clone().into(), Some(grant.token));
        hold.revision = Some(grant.revision);
    }
    hold
}

impl Locker {
    pub fn new(client: Client, wire: Wire) -> Self {
        Self { client, wire, count: 0 }
    }

    pub async fn live(mut self) {
        while !self.client.town.is_over() {
            self.client.think().await;
            self.count += 1;
            if let Some(session) = Session::begin(&mut self.client, self.count).await {
                self.hold(&session).await;
            }
        }
    }

    /// Asks for a lock, and holds it for a while.
    async fn hold(&mut self, session: &Session) {
        let lock = format!("{DIRECTORY}/{}", self.client.dice.below(LOCKS));
        let acquire_id = self.client.id * 1_000 + self.count;
        let recorder = self.client.town.recorder.clone();
        let invoked = recorder.trace.moment();
        let (wire, lease) = (self.wire, session.lease);
        let attempt = |way, timed| ask_for(wire, way, timed, lock.clone(), lease, acquire_id);
        let acquired = session.attempts(&mut self.client, &lock, attempt).await;
        let grant = acquired.map(|(grant, _)| grant);
        session.live_on();
        let completed = recorder.trace.moment();
        let mut hold = hold_of(&lock, self.client.id, grant.as_ref(), invoked, completed);
        let Some(grant) = grant else { return recorder.hold(hold) };
        if !session.is_alive(&self.client) {
            // Whoever knows that its session is over claims nothing.
            hold.ended = Some(invoked);
            return recorder.hold(hold);
        }
        let until = Instant::now() + self.client.dice.between_ms(20, 1_500);
        while session.is_alive(&self.client) && Instant::now() < until && !self.client.town.is_over() {
            sleep(Duration::from_millis(20)).await;
        }
        // Nothing was awaited since it was last known to be alive, but for less than the margin.
        hold.ended = Some(recorder.trace.moment());
        recorder.hold(hold);
        self.client.town.released.notify_waiters();
        let released = match self.wire {
            Wire::Native => self.release(&lock, acquire_id, lease, grant.token).await,
            Wire::Etcd => self.unlock(grant.key).await,
        };
        if released.is_err() {
            self.client.move_on();
        }
    }

    async fn release(&self, lock: &str, acquire_id: u64, lease_id: i64, token: i64) -> Result<(), Status> {
        let request = v1::ReleaseRequest { name: lock.to_owned().into(), lease_id, acquire_id, token };
        let mut locks = v1::lock_client::LockClient::new(self.client.way());
        ask(PATIENCE, request, |request| async move { locks.release(request).await }).await.map(drop)
    }

    async fn unlock(&self, key: Vec<u8>) -> Result<(), Status> {
        let request = v3lockpb::UnlockRequest { key: key.into() };
        let mut locks = v3lockpb::lock_client::LockClient::new(self.client.way());
        ask(PATIENCE, request, |request| async move { locks.unlock(request).await }).await.map(drop)
    }
}

async fn ask_for(
    wire: Wire,
    way: Way,
    timed: Timed,
    lock: String,
    lease: i64,
    acquire_id: u64,
) -> Result<Grant, Status> {
    match wire {
        Wire::Native => {
            let (name, lease_id) = (lock.into(), lease);
            let message = v1::AcquireRequest { name, lease_id, acquire_id, ..Default::default() };
            let mut locks = v1::lock_client::LockClient::new(way);
            Ok(locks.acquire(timed.request(message)).await?.into_inner().into())
        }
        Wire::Etcd => {
            let message = v3lockpb::LockRequest { name: lock.into(), lease };
            let mut locks = v3lockpb::lock_client::LockClient::new(way.clone());
            let locked = locks.lock(timed.request(message)).await?.into_inner();
            let revision = locked.header.map_or(0, |header| header.revision);
            // The token is not told: it is read as of when the lock was held. If nobody was there by then, the hold is
            // recorded all the same, with a token that nobody has.
            let read = pb::RangeRequest { key: locked.key.clone(), revision, ..Default::default() };
            let found = pb::kv_client::KvClient::new(way).range(timed.request(read)).await?.into_inner();
            let token = found.kvs.first().map_or(revision, |contender| contender.create_revision);
            Ok(Grant { key: locked.key.into(), token, revision })
        }
    }
}
