//! A watch reads history slowly, at a member whose window holds one revision. Two are written after the read, before the
//! watch hears of it: the window begins one revision after where the watch has to go on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{revision, roles, until};
use crate::clients::key;
use crate::world::{Watching, World};

const PATIENCE: Duration = Duration::from_secs(6);
/// A page takes so long, before it is read and once more after: longer than two writes.
const SLOW_MS: u64 = 500;

pub async fn tell(world: &mut World, watching: &mut Watching) {
    let (leader, others) = roles(world);
    let slow = others[0];
    let mut writer = world.client(1001).at(leader, PATIENCE);
    for number in 0..3 {
        writer.put_if_unchanged(&key(number)).await;
    }
    let written = revision(world, leader);
    until(world, "all have what was written", || revision(world, slow) == written).await;
    let machine = &world.machines[&slow].conditions;
    machine.read_ms.0.store(SLOW_MS, Ordering::Relaxed);
    machine.read_ms.1.store(SLOW_MS, Ordering::Relaxed);
    let reads = machine.reads.load(Ordering::Relaxed);
    watching.add(world.client(1021).at(slow, PATIENCE), false);
    until(world, "the page is read, and on its way", || machine.reads.load(Ordering::Relaxed) == reads + 2).await;
    writer.put_if_unchanged(&key(3)).await;
    writer.put_if_unchanged(&key(4)).await;
    until(world, "both are in the window, one after the other", || revision(world, slow) == written + 2).await;
    until(world, "the page has come", || machine.reads.load(Ordering::Relaxed) > reads + 2).await;
    machine.read_ms.0.store(0, Ordering::Relaxed);
    machine.read_ms.1.store(0, Ordering::Relaxed);
    writer.put_if_unchanged(&key(5)).await;
}
