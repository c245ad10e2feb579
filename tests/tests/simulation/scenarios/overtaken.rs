//! A leader's last entry reaches another member, and the leader never hears of it. It is cut off; the other leads and
//! commits the entry. The third shortens its log and leads then: what the former leader gets is a snapshot, and it has to
//! drop an entry of which it cannot tell that it was committed.

use std::time::Duration;

use super::{between, entry_reaches, leads, revision, roles, until};
use crate::clients::key;
use crate::faults::shorten_log;
use crate::world::World;

/// Longer than all of it takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// A snapshot is made within this.
const SNAPSHOT: Duration = Duration::from_millis(200);

pub async fn tell(world: &mut World) {
    let (leader, others) = roles(world);
    let (second, third) = (others[0], others[1]);
    let net = &world.surroundings.net;
    let platter = |id: u64| &world.machines[&id].platter;
    let last = platter(leader).last();
    net.cut([(second, leader), (third, leader), (leader, third)]);
    let mut writer = world.client(1001).at(leader, PATIENCE);
    let writing = tokio::spawn(async move { writer.put_if_unchanged(&key(0)).await });
    let entry = entry_reaches(world, last, leader, second).await;
    net.cut(between(&[leader], &[second, third]));
    until(world, "the other leads", || leads(world, second)).await;
    world.client(1002).at(second, PATIENCE).put(&key(1)).await;
    let seen = revision(world, second);
    until(world, "the third has all", || revision(world, third) == seen).await;
    // A leader may keep what is on its way to somebody; a follower does not.
    shorten_log(&world.running[&third], SNAPSHOT).await;
    until(world, "the third has a shorter log", || platter(third).purged() >= entry).await;
    world.crash(second);
    world.surroundings.net.heal();
    until(world, "the third leads", || leads(world, third)).await;
    until(world, "the former leader has what the others have", || revision(world, leader) >= seen).await;
    writing.await.unwrap();
    world.start(second).await;
    world.settle().await;
    world.client(1003).at(third, PATIENCE).get(&key(0), false).await;
}
