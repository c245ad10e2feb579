//! The remaining time of a lease is noted; then its holder renews it, and the leader goes. The next one has the renewal
//! from nowhere but the log.

use std::time::Duration;

use quorate_proto::LeaseId;
use quorate_state::store::Store as _;
use quorate_state::view::View;

use super::{leads, roles, until, until_gone};
use crate::holders::Holder;
use crate::world::World;

/// So long that one of the leader's rounds comes by in its second half.
const TTL_MS: u64 = 12_000;
const LEASE: i64 = 1_011_001;
const PATIENCE: Duration = Duration::from_secs(6);

pub async fn tell(world: &mut World) {
    let (leader, others) = roles(world);
    let mut holder = Holder::new(world.client(1011).at(others[0], PATIENCE));
    let Some(held) = holder.begin(LEASE, TTL_MS).await else { return super::astray(world, "no lease") };
    until(world, "all have the note", || world.running.keys().all(|id| is_noted(world, *id))).await;
    holder.renew(LEASE, TTL_MS).await;
    world.crash(leader);
    until(world, "another leads", || others.iter().any(|id| leads(world, *id))).await;
    world.start(leader).await;
    until_gone(world, &mut holder, &held, LEASE).await;
}

fn is_noted(world: &World, id: u64) -> bool {
    let store = world.running[&id].consensus.store();
    let lease = View::new(store.snapshot()).unwrap().lease(LeaseId::new(LEASE).unwrap()).unwrap();
    lease.is_some_and(|lease| lease.remaining_ms.is_some())
}
