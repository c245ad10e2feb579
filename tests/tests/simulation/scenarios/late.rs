//! A contender waits for a lock; its connection breaks, and it asks again at another member, which grants it the lock. The
//! first member cleans up after it while it holds.

use std::time::Duration;

use quorate_proto::v1;
use quorate_tests::checkers::history::{Hold, Mode};
use tokio::time::{Instant, sleep_until, timeout};

use super::{revision, roles, until};
use crate::clients::Client;
use crate::lockers::DIRECTORY;
use crate::way::{Way, ask};
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(10);
const TTL_MS: u64 = 60_000;
/// A member gives a caller whose connection broke two seconds to come back.
const HELD: Duration = Duration::from_secs(3);

pub async fn tell(world: &mut World) {
    let (leader, others) = roles(world);
    let (first, second) = (others[0], others[1]);
    let at = |id: u64, member: u64| Contender::new(world.client(id).at(member, PATIENCE));
    let (holder, contender, waiter) = (at(1031, leader), at(1032, second), at(1033, leader));
    for one in [&holder, &contender, &waiter] {
        if !one.has_session().await {
            return super::astray(world, "no session");
        }
    }
    let held = holder.acquire().await;
    let asked = contender.client.town.recorder.trace.moment();
    // Its first attempt is at a member whose connection breaks.
    let before = revision(world, first);
    let attempt = at(1032, first);
    let broken = tokio::spawn(async move { attempt.ask(true).await });
    until(world, "the contender waits", || revision(world, first) > before).await;
    broken.abort();
    let broke = Instant::now();
    let before = revision(world, first);
    let again = tokio::spawn(async move { (contender.acquire_since(asked).await, contender) });
    until(world, "it waits for the second member", || revision(world, first) > before).await;
    holder.release(held).await;
    let (granted, contender) = again.await.unwrap();
    let waiting = tokio::spawn(async move { (waiter.acquire().await, waiter) });
    sleep_until(broke + HELD).await;
    contender.release(granted).await;
    let (granted, waiter) = waiting.await.unwrap();
    waiter.release(granted).await;
}

/// A client with a session and one acquire.
struct Contender {
    client: Client,
}

impl Contender {
    fn new(client: Client) -> Self {
        Self { client }
    }

    fn lease(&self) -> i64 {
        i64::try_from(self.client.id).unwrap() * 1_000
    }

    async fn has_session(&self) -> bool {
        let grant = v1::GrantRequest { id: None, ttl_ms: TTL_MS, lease_id: self.lease() };
        let mut leases = v1::lease_client::LeaseClient::new(self.client.way());
        ask(PATIENCE, grant, |request| async move { leases.grant(request).await }).await.is_ok()
    }

    /// One attempt. Dropped, its connection breaks, if it is to.
    async fn ask(&self, breaks: bool) -> Option<v1::AcquireResponse> {
        let request = v1::AcquireRequest {
            name: lock().into(),
            lease_id: self.lease(),
            acquire_id: self.client.id,
            ..Default::default()
        };
        let mut locks = v1::lock_client::LockClient::new(Way { breaks, ..self.client.way() });
        timeout(PATIENCE, locks.acquire(request)).await.ok()?.ok().map(tonic::Response::into_inner)
    }

    async fn acquire(&self) -> Hold {
        let asked = self.client.town.recorder.trace.moment();
        self.acquire_since(asked).await
    }

    async fn acquire_since(&self, invoked: u64) -> Hold {
        let answer = self.ask(false).await;
        let completed = self.client.town.recorder.trace.moment();
        let answered = answer.as_ref();
        Hold {
            lock: lock().as_str().into(),
            client: self.client.id,
            mode: Mode::Exclusive,
            key: answered.map_or_else(Vec::new, |answer| answer.key.to_vec()).into(),
            invoked,
            completed,
            token: answered.map(|answer| answer.token),
            revision: answered.and_then(|answer| answer.header).map(|header| header.revision),
            downgraded: None,
            ended: Some(completed),
        }
    }

    /// It was claimed until now.
    async fn release(&self, hold: Hold) {
        let recorder = &self.client.town.recorder;
        let Some(token) = hold.token else { return recorder.hold(hold) };
        recorder.hold(Hold { ended: Some(recorder.trace.moment()), ..hold });
        let request =
            v1::ReleaseRequest { name: lock().into(), lease_id: self.lease(), acquire_id: self.client.id, token };
        let mut locks = v1::lock_client::LockClient::new(self.client.way());
        // Whatever comes of it: it is not claimed any more.
        let _ = ask(PATIENCE, request, |request| async move { locks.release(request).await }).await;
    }
}

fn lock() -> String {
    format!("{DIRECTORY}/0")
}
