//! A contender's turn comes at a member whose leader does not hear it any more, so that the hold cannot be confirmed. Then
//! its disk breaks, and its Raft ends while it asks.

use std::time::Duration;

use tokio::time::sleep;

use super::contender::{Contender, PATIENCE};
use super::{roles, until};
use crate::clients::key;
use crate::world::World;

/// No round of a barrier takes so long, so it is asked for one again.
const ROUND_MAX: Duration = Duration::from_millis(1_500);

pub async fn tell(world: &mut World) {
    let (leader, others) = roles(world);
    let unheard = others[0];
    let holder = Contender::new(world.client(1031).at(leader, PATIENCE));
    let waiter = Contender::new(world.client(1032).at(unheard, PATIENCE));
    for one in [&holder, &waiter] {
        if !one.has_session().await {
            return super::astray(world, "no session");
        }
    }
    let held = holder.acquire().await;
    let line = |world: &World| world.running[&unheard].line();
    let before = line(world).reads;
    let waiting = tokio::spawn(async move { (waiter.acquire().await, waiter) });
    until(world, "it waits in the line", || line(world).reads > before).await;
    world.surroundings.net.cut([(unheard, leader)]);
    let before = line(world).barriers;
    holder.release(held).await;
    until(world, "its turn has come", || line(world).barriers > before).await;
    let process = world.running[&unheard].clone();
    world.may_fail.lock().push((process.origin.id, process.origin.process));
    world.machines[&unheard].platter.fail();
    world.client(1001).at(leader, PATIENCE).put(&key(0)).await;
    until(world, "its Raft has ended", || process.tasks.failed().borrow().is_some()).await;
    drop(process);
    sleep(ROUND_MAX).await;
    world.crash(unheard);
    world.surroundings.net.heal();
    world.start(unheard).await;
    let (granted, waiter) = waiting.await.unwrap();
    waiter.release(granted).await;
}
