//! Five members. An entry of a leader reaches one other. A leader of the rest has the first one discard it, by an entry
//! that reaches nobody else; then that leader is cut off, and the member that has the entry leads, and commits it. What
//! was discarded happens.

use std::time::Duration;

use super::{between, entry_reaches, leads, roles, until};
use crate::clients::key;
use crate::world::World;

/// Shorter than all of it takes, longer than until the entry is discarded.
const PATIENCE: Duration = Duration::from_secs(6);

pub async fn tell(world: &mut World) {
    let (leader, others) = roles(world);
    let (keeper, rest) = (others[0], &others[1..]);
    let net = &world.surroundings.net;
    let platter = |id: u64| &world.machines[&id].platter;
    let last = platter(leader).last();
    net.cut(between(&[leader, keeper], rest));
    let mut writer = world.client(1001).at(leader, PATIENCE);
    let writing = tokio::spawn(async move { writer.put_if_unchanged(&key(0)).await });
    let entry = entry_reaches(world, last, leader, keeper).await;
    net.cut(between(&[leader], &[keeper]));
    // The rest elect one of them, whose entries reach the former leader only.
    net.lose_appends(between(rest, rest));
    net.lose_appends(rest.iter().map(|id| (leader, *id)));
    net.open(between(&[leader], rest));
    until(world, "the entry is discarded", || platter(leader).last() > entry).await;
    let usurper = rest.iter().copied().find(|id| platter(*id).last() == platter(leader).last());
    let Some(usurper) = usurper else { return super::astray(world, "nobody has the entry that came instead") };
    let voters: Vec<u64> = rest.iter().copied().filter(|id| *id != usurper).collect();
    net.cut(between(&[leader, usurper], &others));
    net.cut(between(&[usurper], &[leader]));
    net.carry_appends();
    net.open(between(&[keeper], &voters));
    until(world, "who has the entry leads", || leads(world, keeper)).await;
    writing.await.unwrap();
    world.client(1002).at(keeper, PATIENCE).get(&key(0), false).await;
    net.heal();
    world.settle().await;
    world.client(1003).at(leader, PATIENCE).get(&key(0), false).await;
}
