//! Clients that want locks: each has a session, asks for a lock until it has it or has had enough, holds it for a while
//! and lets go of it.
//!
//! Invariants:
//! - A hold is claimed only while the session is known to be alive: its time counts from when the last renewal that was
//!   answered left.
//! - Attempts at one hold share their id, and go to another member each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate_proto::v1;
use quorate_tests::checkers::history::{Hold, Mode};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;

use crate::clients::Client;
use crate::way::{Way, ask};

/// Locks that all want, so few that many wait.
const LOCKS: usize = 1;
/// Directory of the locks.
pub const DIRECTORY: &str = "/locks";
/// How long a member tries for a caller, who may have gone before.
const SERVED: (u64, u64) = (500, 4_000);
/// How long the caller waits for one member.
const PATIENCE: (u64, u64) = (200, 2_500);
const ATTEMPTS: usize = 6;
/// A session counts as over so long before its time is.
const MARGIN: Duration = Duration::from_millis(100);

/// Wants locks, one after the other, until it is over.
pub struct Locker {
    client: Client,
    count: u64,
}

/// A lease that is kept alive until it is dropped.
struct Session {
    lease: i64,
    /// In µs of the run's time.
    alive_until: Arc<AtomicU64>,
    /// Its own client ends it.
    over: Arc<AtomicBool>,
    keeping: AbortHandle,
    /// Ends it when somebody lets go of a lock, which may be just when its turn has come.
    dying: Option<AbortHandle>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeping.abort();
        self.live_on();
    }
}

impl Session {
    fn is_alive(&self, client: &Client) -> bool {
        let margin = u64::try_from(MARGIN.as_micros()).unwrap();
        !self.over.load(Ordering::Relaxed)
            && client.town.recorder.trace.now_us() + margin < self.alive_until.load(Ordering::Relaxed)
    }

    /// It is not to end any more while others let go.
    fn live_on(&self) {
        if let Some(dying) = &self.dying {
            dying.abort();
        }
    }
}

/// What an acquire came to; without an answer, nothing.
pub fn hold_of(lock: &str, client: u64, answer: Option<&v1::AcquireResponse>, invoked: u64, completed: u64) -> Hold {
    let mut hold = Hold::wanted(lock, client, Mode::Exclusive, invoked, completed);
    if let Some(answer) = answer {
        (hold.key, hold.token) = (answer.key.to_vec().into(), Some(answer.token));
        hold.revision = answer.header.map(|header| header.revision);
    }
    hold
}

impl Locker {
    pub fn new(client: Client) -> Self {
        Self { client, count: 0 }
    }

    pub async fn live(mut self) {
        while !self.client.town.is_over() {
            self.client.think().await;
            self.count += 1;
            if let Some(session) = self.session().await {
                self.hold(&session).await;
            }
        }
    }

    async fn session(&mut self) -> Option<Session> {
        let ttl_ms = *self.client.dice.of(&[1_000, 1_500, 3_000]);
        let lease = i64::try_from(self.client.id * 1_000 + self.count).unwrap();
        let sent = self.client.town.recorder.trace.now_us();
        let grant = v1::GrantRequest { id: None, ttl_ms, lease_id: lease };
        let mut leases = v1::lease_client::LeaseClient::new(self.client.way());
        let granted = ask(Duration::from_secs(1), grant, |request| async move { leases.grant(request).await }).await;
        if granted.is_err() {
            self.client.move_on();
            return None;
        }
        let alive_until = Arc::new(AtomicU64::new(sent + ttl_ms * 1_000));
        // Some sessions are let die.
        let renewals = if self.client.dice.happens(250) { self.client.dice.below(4) } else { usize::MAX };
        let keep = keep_alive(self.another_client(), lease, ttl_ms, renewals, Arc::clone(&alive_until));
        let keeping = tokio::spawn(keep).abort_handle();
        let over = Arc::<AtomicBool>::default();
        let dies = self.client.dice.happens(200);
        let dying = dies.then(|| {
            let dying = die_when_released(self.another_client(), lease, Arc::clone(&over));
            tokio::spawn(dying).abort_handle()
        });
        Some(Session { lease, alive_until, over, keeping, dying })
    }

    /// Of the same id, with dice and a member of its own.
    fn another_client(&self) -> Client {
        Client::new(self.client.id, self.client.town.clone(), self.client.dice.named(("session", self.count)))
    }

    /// Asks for a lock, and holds it for a while.
    async fn hold(&mut self, session: &Session) {
        let lock = format!("{DIRECTORY}/{}", self.client.dice.below(LOCKS));
        let acquire_id = self.client.id * 1_000 + self.count;
        let recorder = self.client.town.recorder.clone();
        let invoked = recorder.trace.moment();
        let acquired = self.acquire(&lock, acquire_id, session).await;
        session.live_on();
        let completed = recorder.trace.moment();
        let mut hold = hold_of(&lock, self.client.id, acquired.as_ref(), invoked, completed);
        let Some(acquired) = acquired else { return recorder.hold(hold) };
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
        self.release(&lock, acquire_id, session, acquired.token).await;
    }

    async fn acquire(&mut self, lock: &str, acquire_id: u64, session: &Session) -> Option<v1::AcquireResponse> {
        for _ in 0..ATTEMPTS {
            if self.client.town.is_over() || session.over.load(Ordering::Relaxed) {
                return None;
            }
            let message = v1::AcquireRequest {
                name: lock.to_owned().into(),
                lease_id: session.lease,
                acquire_id,
                ..Default::default()
            };
            let mut request = Request::new(message);
            request.set_timeout(self.client.dice.between_ms(SERVED.0, SERVED.1));
            let patience = self.client.dice.between_ms(PATIENCE.0, PATIENCE.1);
            let mut locks = v1::lock_client::LockClient::new(self.client.way());
            let answer = timeout(patience, locks.acquire(request)).await;
            let trace = &self.client.town.recorder.trace;
            trace.note(format!("client {}: {lock} {acquire_id} → {:?}", self.client.id, told(&answer)));
            if let Ok(Ok(acquired)) = answer {
                return Some(acquired.into_inner());
            }
            self.client.move_on();
            sleep(self.client.dice.between_ms(0, 50)).await;
        }
        None
    }

    async fn release(&mut self, lock: &str, acquire_id: u64, session: &Session, token: i64) {
        let request = v1::ReleaseRequest { name: lock.to_owned().into(), lease_id: session.lease, acquire_id, token };
        let mut locks = v1::lock_client::LockClient::new(self.client.way());
        let released =
            ask(Duration::from_secs(1), request, |request| async move { locks.release(request).await }).await;
        if released.is_err() {
            self.client.move_on();
        }
    }
}

fn told(
    answer: &Result<Result<tonic::Response<v1::AcquireResponse>, tonic::Status>, tokio::time::error::Elapsed>,
) -> Result<i64, String> {
    match answer {
        Ok(Ok(acquired)) => Ok(acquired.get_ref().token),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("given up".to_owned()),
    }
}

/// Renews a lease so many times; its time counts from when the request left.
async fn keep_alive(mut client: Client, lease: i64, ttl_ms: u64, renewals: usize, alive_until: Arc<AtomicU64>) {
    for _ in 0..renewals {
        sleep(Duration::from_millis(ttl_ms / 4)).await;
        let sent = client.town.recorder.trace.now_us();
        match timeout(Duration::from_millis(ttl_ms / 3), renew(client.way(), lease)).await {
            Ok(Ok(0)) => {
                alive_until.store(0, Ordering::Relaxed);
                return;
            }
            Ok(Ok(_)) => drop(alive_until.fetch_max(sent + ttl_ms * 1_000, Ordering::Relaxed)),
            Ok(Err(_)) | Err(_) => client.move_on(),
        }
    }
}

/// Ends a lease at the time when the next lock is let go of.
async fn die_when_released(client: Client, lease: i64, over: Arc<AtomicBool>) {
    client.town.released.notified().await;
    sleep(client.dice.between_ms(0, 12)).await;
    over.store(true, Ordering::Relaxed);
    let mut leases = v1::lease_client::LeaseClient::new(client.way());
    let request = v1::RevokeRequest { id: None, lease_id: lease };
    // Whatever comes of it: its client does not use it any more.
    let _ = ask(Duration::from_secs(1), request, |request| async move { leases.revoke(request).await }).await;
}

async fn renew(way: Way, lease: i64) -> Result<u64, tonic::Status> {
    let requests = tokio_stream::once(v1::KeepAliveRequest { lease_id: lease });
    let mut answers = v1::lease_client::LeaseClient::new(way).keep_alive(requests).await?.into_inner();
    Ok(answers.message().await?.map_or(0, |answer| answer.ttl_ms))
}
