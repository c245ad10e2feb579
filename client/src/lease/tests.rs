//! Leases against fakes.
//!
//! Invariants:
//! - A guard never believes in its lease for longer than the cluster may keep it.

use std::time::{Duration, Instant};

use super::clock::BootInstant;
use crate::fake::{Fake, Script};
use crate::{Client, Error, ErrorKind, LeaseGuard, LeaseId, Lost};

const TTL: Duration = Duration::from_millis(600);

async fn until(what: impl Fn() -> bool) {
    let within = tokio::time::timeout(Duration::from_secs(5), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    within.await.unwrap();
}

fn keep_alives(fake: &Fake) -> usize {
    fake.script.seen.lock().keep_alives.len()
}

#[tokio::test]
async fn a_held_lease_is_kept_alive_on_one_stream() {
    let fake = Script::default().on_keep_alive(|_, _| Some(600)).start();
    let guard = fake.client().lease(TTL).grant().await.unwrap();
    let granted = Instant::now();
    until(|| keep_alives(&fake) >= 6).await;
    assert!(granted.elapsed() >= Duration::from_millis(900), "every third of its time, not more often");
    guard.check().unwrap();
    assert!(guard.remaining() > TTL / 3);
    assert_eq!(fake.script.seen.lock().keep_alive_streams, 1);
}

#[tokio::test]
async fn it_is_lost_when_the_cluster_says_so() {
    let fake = Script::default().on_keep_alive(|nth, _| Some(if nth == 0 { 600 } else { 0 })).start();
    let guard = fake.client().lease(TTL).grant().await.unwrap();
    assert_eq!(tokio::time::timeout(TTL, guard.lost()).await.unwrap(), Lost::Gone);
    match guard.check() {
        Err(error @ Error::LeaseLost { reason: Lost::Gone, .. }) => assert_eq!(error.kind(), ErrorKind::Reacquire),
        other => panic!("{other:?}"),
    }
    drop(guard);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(fake.script.seen.lock().revoked.is_empty(), "there is nothing left to revoke");
}

#[tokio::test]
async fn it_is_lost_before_its_time_when_nothing_is_confirmed() {
    let fake = Script::default().on_keep_alive(|_, _| None).start();
    let before = Instant::now();
    let guard = fake.client().lease(TTL).grant().await.unwrap();
    assert_eq!(guard.lost().await, Lost::NotConfirmed);
    let elapsed = before.elapsed();
    assert!(elapsed < TTL, "{elapsed:?} counted from before the grant was sent");
    assert!(elapsed >= TTL * 8 / 10, "{elapsed:?}");
    let sent = keep_alives(&fake);
    assert!(sent >= 2, "it tried again");
    tokio::time::sleep(TTL).await;
    assert!(keep_alives(&fake) <= sent + 1, "and stopped when it was lost");
}

#[tokio::test]
async fn a_silent_member_is_left_for_another() {
    let silent = Script::default().on_keep_alive(|_, _| None).start();
    let alive = Script::default().on_keep_alive(|_, _| Some(600)).start();
    for _ in 0..4 {
        let client = Client::builder().endpoints([&silent.address, &alive.address]).build().unwrap();
        let guard = client.lease(TTL).grant().await.unwrap();
        tokio::time::sleep(TTL * 2).await;
        guard.check().unwrap();
    }
}

#[tokio::test]
async fn many_leases_share_the_stream_and_each_has_its_own_time() {
    let fake = Script::default().on_keep_alive(|_, lease| Some(if lease == 1 { 0 } else { 600 })).start();
    let client = fake.client();
    let mut guards = Vec::new();
    for id in 1..=50 {
        guards.push(LeaseGuard::new(&client, LeaseId::new(id).unwrap(), TTL, BootInstant::now()));
    }
    assert_eq!(guards[0].lost().await, Lost::Gone);
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(guards.iter().filter(|guard| guard.check().is_ok()).count(), 49);
    assert_eq!(fake.script.seen.lock().keep_alive_streams, 1);
    drop(guards);
}

#[tokio::test]
async fn dropping_revokes_and_leaving_does_not() {
    let fake = Script::default().start();
    let client = fake.client();
    drop(client.lease(TTL).grant().await.unwrap());
    until(|| fake.script.seen.lock().revoked == [7]).await;

    let guard = client.lease(TTL).grant().await.unwrap();
    assert_eq!(guard.leave().get(), 7);
    let guard = client.lease(TTL).grant().await.unwrap();
    assert_eq!(guard.revoke().await.unwrap(), 3);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fake.script.seen.lock().revoked, [7, 7], "once for the drop, once as asked");
}

#[tokio::test]
async fn renewing_a_lease_that_is_gone_is_an_error() {
    let fake = Script::default().on_keep_alive(|_, _| Some(0)).start();
    let error = fake.client().lease_keep_alive(LeaseId::new(7).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reacquire);
}
