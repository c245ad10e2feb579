//! Clients that want the lock of all through etcd's wire, by the crate `etcd-client`, which knows leases and keys, and guards
//! nothing by itself.
//!
//! Invariants:
//! - A hold is claimed for less time than its lease lives, from before its last renewal left.
//! - The token is the revision at which the contender's key came into being, read once it holds.

use std::time::Duration;

use etcd_client::{Client, LeaseGrantOptions, LockOptions};
use futures::FutureExt as _;
use quorate_checkers::history::{Done, Hold, Mode, Moment, Outcome};
use tokio::time::timeout;

use crate::etcd::{Etcd, Failed, PATIENCE, revision};
use crate::holders::{Learnt, renew_etcd};

/// Long enough that one renewal covers a wait and a hold.
const TTL_S: i64 = 3;

/// Wants the lock again and again until it is over.
pub(crate) async fn live(mut etcd: Etcd) {
    while etcd.town.think(&mut etcd.dice, 10).await {
        let Some(mut client) = etcd.client().await else { continue };
        let lease = rand::random_range(1..i64::MAX);
        let granting = client.lease_grant(TTL_S, Some(LeaseGrantOptions::new().with_id(lease)));
        if matches!(timeout(PATIENCE, granting.boxed()).await, Ok(Ok(_))) {
            hold(&mut etcd, &mut client, lease).await;
        } else {
            etcd.move_on();
        }
    }
}

async fn hold(etcd: &mut Etcd, client: &mut Client, lease: i64) {
    let recorder = etcd.town.recorder.clone();
    let lock = etcd.town.one_lock();
    let wait = etcd.dice.between_ms(500, 4_000);
    let invoked = recorder.moment();
    let locking = client.lock(lock.as_str(), Some(LockOptions::new().with_lease(lease)));
    let locked = timeout(wait, locking.boxed()).await;
    let completed = recorder.moment();
    let mut hold = Hold::wanted(lock.as_str(), etcd.id, Mode::Exclusive, invoked, completed);
    match locked {
        Ok(Ok(answer)) => {
            hold.key = answer.key().into();
            hold.revision = revision(answer.header()).ok();
            if let Some(until) = sure_until(etcd, lease).await {
                hold.token = token(etcd, client, answer.key()).await;
                if hold.token.is_some() {
                    keep(etcd, &mut hold, until).await;
                }
            }
            recorder.hold(hold);
            if !matches!(timeout(PATIENCE, client.unlock(answer.key()).boxed()).await, Ok(Ok(_))) {
                etcd.move_on();
            }
        }
        Ok(Err(error)) => {
            // Looks whether it says that something is broken.
            Failed::from(error).outcome(&recorder);
            etcd.move_on();
            recorder.hold(hold);
        }
        Err(_) => recorder.hold(hold),
    }
    // Without it, one that gave up would stand in the line till its lease ends.
    if !matches!(timeout(PATIENCE, client.lease_revoke(lease).boxed()).await, Ok(Ok(_))) {
        etcd.move_on();
    }
}

/// Renews the lease; the moment up to which it surely lives then.
async fn sure_until(etcd: &mut Etcd, lease: i64) -> Option<Moment> {
    let asked = etcd.town.recorder.moment();
    match renew_etcd(etcd, quorate::LeaseId::new(lease)?).await {
        // A tenth less, as the clocks of two machines differ.
        Ok(Learnt::Alive(ttl_ms)) => Some(asked + ttl_ms * 900),
        Ok(Learnt::No | Learnt::Maybe) => None,
        Err(_) => {
            etcd.move_on();
            None
        }
    }
}

/// The revision of creation of the contender's key, if that is there.
async fn token(etcd: &mut Etcd, client: &Client, key: &[u8]) -> Option<i64> {
    let key = std::str::from_utf8(key).ok()?;
    let Outcome::Done { answer, .. } = etcd.get(client.clone(), key).await else { return None };
    match answer.results.first() {
        Some(Done::Read(found)) => found.first().map(|kv| kv.create_revision),
        _ => None,
    }
}

/// Claims the hold for a while, no longer than it is sure of it.
async fn keep(etcd: &mut Etcd, hold: &mut Hold, until: Moment) {
    let wanted = etcd.dice.between_ms(5, 2_500).as_micros();
    let enough = etcd.town.recorder.moment() + u64::try_from(wanted).unwrap_or(Moment::MAX);
    loop {
        let now = etcd.town.recorder.moment();
        if now >= until {
            return;
        }
        hold.ended = Some(now);
        if now >= enough || etcd.town.is_over() {
            return;
        }
        etcd.town.pause(Duration::from_millis(10)).await;
    }
}
