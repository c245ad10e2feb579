//! A leader is cut off from all members, but not from a client that keeps its lease alive there. The others have another
//! leader, which ends the lease when its time is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::{between, leads, roles, until, until_gone};
use crate::clients::key;
use crate::holders::Holder;
use crate::world::World;

const TTL_MS: u64 = 1_500;
const LEASE: i64 = 1_011_001;
const PATIENCE: Duration = Duration::from_secs(6);

pub async fn tell(world: &mut World) {
    let (leader, others) = roles(world);
    let mut keeper = Holder::new(world.client(1011).at(leader, PATIENCE));
    let Some(held) = keeper.begin(LEASE, TTL_MS).await else { return super::astray(world, "no lease") };
    world.surroundings.net.cut(between(&[leader], &others));
    let over = Arc::new(AtomicBool::new(false));
    let keeping = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            while !over.load(Ordering::Relaxed) {
                keeper.renew(LEASE, TTL_MS).await;
                sleep(Duration::from_millis(TTL_MS / 5)).await;
            }
        }
    });
    until(world, "another leads", || others.iter().any(|id| leads(world, *id))).await;
    let mut looker = Holder::new(world.client(1012).at(others[0], PATIENCE));
    until_gone(world, &mut looker, &held, LEASE).await;
    over.store(true, Ordering::Relaxed);
    keeping.await.unwrap();
    world.surroundings.net.heal();
    world.settle().await;
    world.client(1001).at(leader, PATIENCE).put(&key(0)).await;
}
