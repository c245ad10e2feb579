//! A contender waits for a lock; its connection breaks, and it asks again at another member, which grants it the lock. The
//! first member cleans up after it while it holds.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::contender::{Contender, PATIENCE};
use super::{revision, roles, until};
use crate::world::World;

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
