//! A follower hears nothing of its leader any more, which still takes and commits what the follower sends. Then the
//! follower is left alone for longer than its client waits: it cannot know what became of the write.

use std::time::Duration;

use super::{revision, roles, until};
use crate::clients::key;
use crate::world::World;

/// Longer than a member takes to call a stream to its leader broken.
const PATIENCE: Duration = Duration::from_secs(4);

pub async fn tell(world: &mut World) {
    let (leader, others) = roles(world);
    let (left, third) = (others[0], others[1]);
    let before = revision(world, leader);
    world.surroundings.net.cut([(leader, left)]);
    let mut writer = world.client(1001).at(left, PATIENCE);
    let writing = tokio::spawn(async move { writer.put_if_unchanged(&key(0)).await });
    until(world, "the write is committed", || revision(world, leader) > before).await;
    world.crash(leader);
    world.crash(third);
    writing.await.unwrap();
    world.surroundings.net.heal();
    world.start(leader).await;
    world.start(third).await;
    world.settle().await;
    world.client(1002).at(left, PATIENCE).get(&key(0), false).await;
}
