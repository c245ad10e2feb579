//! Sessions of clients that want locks, or to lead: a lease that is kept alive as long as it is needed, or is let die.
//!
//! Invariants:
//! - A session is known to be alive only while its time lasts, which counts from when the last renewal that was answered
//!   left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate_proto::v1;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tonic::{Request, Status};

use crate::clients::Client;
use crate::way::{Way, ask};

/// How long a member tries for a caller, who may have gone before.
const SERVED: (u64, u64) = (500, 4_000);
/// How long the caller waits for one member.
const PATIENCE: (u64, u64) = (200, 2_500);
const ATTEMPTS: usize = 6;
/// A session counts as over so long before its time is.
const MARGIN: Duration = Duration::from_millis(100);

/// A lease that is kept alive until it is dropped.
pub struct Session {
    pub lease: i64,
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
    /// The client's session of this number.
    pub async fn begin(client: &mut Client, number: u64) -> Option<Self> {
        let ttl_ms = *client.dice.of(&[1_000, 1_500, 3_000]);
        let lease = i64::try_from(client.id * 1_000 + number).unwrap();
        let sent = client.town.recorder.trace.now_us();
        let grant = v1::GrantRequest { id: None, ttl_ms, lease_id: lease };
        let mut leases = v1::lease_client::LeaseClient::new(client.way());
        let granted = ask(Duration::from_secs(1), grant, |request| async move { leases.grant(request).await }).await;
        if granted.is_err() {
            client.move_on();
            return None;
        }
        let alive_until = Arc::new(AtomicU64::new(sent + ttl_ms * 1_000));
        // Some sessions are let die.
        let renewals = if client.dice.happens(250) { client.dice.below(4) } else { usize::MAX };
        // Of the same id, with dice and a member of its own.
        let another =
            |client: &Client| Client::new(client.id, client.town.clone(), client.dice.named(("session", number)));
        let keep = keep_alive(another(client), lease, ttl_ms, renewals, Arc::clone(&alive_until));
        let keeping = tokio::spawn(keep).abort_handle();
        let over = Arc::<AtomicBool>::default();
        let dies = client.dice.happens(200);
        let dying = dies.then(|| {
            let dying = die_when_released(another(client), lease, Arc::clone(&over));
            tokio::spawn(dying).abort_handle()
        });
        Some(Self { lease, alive_until, over, keeping, dying })
    }

    pub fn is_alive(&self, client: &Client) -> bool {
        let margin = u64::try_from(MARGIN.as_micros()).unwrap();
        !self.is_over() && client.town.recorder.trace.now_us() + margin < self.alive_until.load(Ordering::Relaxed)
    }

    /// Whether its own client has ended it.
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// It is not to end any more while others let go.
    pub fn live_on(&self) {
        if let Some(dying) = &self.dying {
            dying.abort();
        }
    }

    /// Makes one attempt after the other, each at another member, until one is answered or it is enough: the answer, and
    /// which attempt it was. An attempt says to the member how long it is to try.
    pub async fn attempts<T, F: Future<Output = Result<T, Status>>>(
        &self,
        client: &mut Client,
        what: &str,
        attempt: impl Fn(Way, Timed) -> F,
    ) -> Option<(T, usize)> {
        for number in 0..ATTEMPTS {
            if client.town.is_over() || self.is_over() {
                return None;
            }
            let timed = Timed(client.dice.between_ms(SERVED.0, SERVED.1));
            let patience = client.dice.between_ms(PATIENCE.0, PATIENCE.1);
            let answer = timeout(patience, attempt(client.way(), timed)).await;
            let told = match &answer {
                Ok(Ok(_)) => "done",
                Ok(Err(status)) => status.message(),
                Err(_) => "given up",
            };
            client.town.recorder.trace.note(format!("client {}: {what} {} → {told:?}", client.id, self.lease));
            if let Ok(Ok(answer)) = answer {
                return Some((answer, number));
            }
            client.move_on();
            sleep(client.dice.between_ms(0, 50)).await;
        }
        None
    }
}

/// How long a member is to try.
#[derive(Clone, Copy)]
pub struct Timed(Duration);

impl Timed {
    pub fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.0);
        request
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

async fn renew(way: Way, lease: i64) -> Result<u64, Status> {
    let requests = tokio_stream::once(v1::KeepAliveRequest { lease_id: lease });
    let mut answers = v1::lease_client::LeaseClient::new(way).keep_alive(requests).await?.into_inner();
    Ok(answers.message().await?.map_or(0, |answer| answer.ttl_ms))
}
