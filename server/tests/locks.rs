//! Locks over real sockets, on a single member and on three: every promise of `quorate.v1.Lock`.
//!
//! Invariants:
//! - Nothing waits for a time to pass where there is an event to wait for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod contenders;
mod doors;
mod support;

use std::time::Duration;

use contenders::{Client, acquire, describe, detail_of, gone, grant, permit, release, shared, waits};
use doors::Doors;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::{Happened, Kind};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_without_others_is_held_at_once_by_one_write() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let before = doors.rooms.lines.cost();
    let held = acquire(&doors, "jobs", lease, 0x1c).await.unwrap();
    assert_eq!(held.key, format!("jobs/{lease:x}-1c"));
    assert_eq!((held.lease_id, held.delay_lease_id), (lease, 0));
    assert_eq!(held.token, held.header.unwrap().revision);
    assert_eq!(doors.rooms.lines.cost(), before, "no barrier, no read, nobody follows");
    assert!(release(&doors, "jobs", lease, 0x1c, held.token).await);
    assert!(!release(&doors, "jobs", lease, 0x1c, held.token).await, "it is gone");
    let again = acquire(&doors, "jobs", lease, 0x1d).await.unwrap();
    assert!(again.token > held.token);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_served_in_the_order_in_which_they_came() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let first = acquire(&doors, "l", lease, 1).await.unwrap();
    let mut waiting = Vec::new();
    for id in 2..=6 {
        waiting.push(waits(&doors, acquire(&doors, "l", lease, id), "l", id - 1).await);
    }
    let shown = describe(&doors, "l").await;
    assert_eq!((shown.holders.len(), shown.waiters.len(), shown.waiting), (1, 5, 5));
    assert_eq!(shown.holders[0].token, first.token);
    assert!(shown.waiters.iter().all(|waiter| waiter.token == 0), "tokens are the holders'");
    let mut token = first.token;
    for (id, next) in (2..).zip(waiting) {
        assert!(!next.is_finished());
        assert!(release(&doors, "l", lease, id - 1, token).await);
        let held = timeout(Duration::from_secs(20), next).await.unwrap().unwrap().unwrap();
        assert!(held.token > token, "a token is larger than the one before");
        token = held.token;
    }
    let unhurried = doors.rooms.lines.cost().unhurried;
    assert!(unhurried > 0, "who came behind those who wait was in no hurry");
    acquire(&doors, "others", lease, 7).await.unwrap();
    assert!(release(&doors, "l", lease, 6, token).await);
    acquire(&doors, "l", lease, 8).await.unwrap();
    assert_eq!(doors.rooms.lines.cost().unhurried, unhurried, "nobody waits any more, and nobody has for another lock");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_lease_is_lost_never_succeeds() {
    let doors = Doors::single().await;
    let (holder, lost) = (grant(&doors, 60_000).await, grant(&doors, 60_000).await);
    let held = acquire(&doors, "l", holder, 1).await.unwrap();
    let waiting = waits(&doors, acquire(&doors, "l", lost, 2), "l", 1).await;
    doors.lease().revoke(v1::RevokeRequest { lease_id: lost, ..Default::default() }).await.unwrap();
    let status = timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::Aborted, Kind::LockLost), "{status}");
    assert!(release(&doors, "l", holder, 1, held.token).await);
    assert!(describe(&doors, "l").await.holders.is_empty());
    // Nor does one whose lease is not there at all.
    let status = acquire(&doors, "l", lost, 3).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::NotFound, Kind::LeaseNotFound), "{status}");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_holders_hold_together_and_wait_behind_an_exclusive_one() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let one = shared(&doors, "l", lease, 1).await.unwrap();
    let two = shared(&doors, "l", lease, 2).await.unwrap();
    let exclusive = waits(&doors, acquire(&doors, "l", lease, 3), "l", 1).await;
    let late = waits(&doors, shared(&doors, "l", lease, 4), "l", 2).await;
    assert_eq!(describe(&doors, "l").await.holders.len(), 2);
    assert!(release(&doors, "l", lease, 1, one.token).await && release(&doors, "l", lease, 2, two.token).await);
    let held = exclusive.await.unwrap().unwrap();
    assert!(!late.is_finished());
    assert!(release(&doors, "l", lease, 3, held.token).await);
    assert!(late.await.unwrap().unwrap().token > held.token);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_are_so_many_and_all_must_say_the_same_number() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let one = permit(&doors, "l", lease, 1, 2).await.unwrap();
    permit(&doors, "l", lease, 2, 2).await.unwrap();
    let status = permit(&doors, "l", lease, 3, 5).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::FailedPrecondition, Kind::LockConflict), "{status}");
    let third = waits(&doors, permit(&doors, "l", lease, 4, 2), "l", 1).await;
    assert!(release(&doors, "l", lease, 1, one.token).await);
    third.await.unwrap().unwrap();
    assert_eq!(describe(&doors, "l").await.waiting, 0, "who was refused has left");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_never_waits() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let attempt = |id, mode: v1::LockMode, permits| {
        let request =
            v1::AcquireRequest { try_only: true, mode: mode.into(), permits, ..contenders::wish("l", lease, id) };
        let mut client = contenders::lock(&doors);
        async move { client.acquire(request).await.map(tonic::Response::into_inner) }
    };
    let held = attempt(1, v1::LockMode::Exclusive, 0).await.unwrap();
    for mode in [v1::LockMode::Exclusive, v1::LockMode::Shared] {
        let status = attempt(2, mode, 0).await.unwrap_err();
        let detail = detail_of(&status);
        assert_eq!((status.code(), detail.kind()), (Code::FailedPrecondition, Kind::LockBusy), "{status}");
        assert_eq!(detail.happened(), Happened::No);
    }
    assert_eq!(attempt(1, v1::LockMode::Exclusive, 0).await.unwrap().token, held.token, "the same again");
    assert_eq!(describe(&doors, "l").await.waiting, 0);
    assert!(release(&doors, "l", lease, 1, held.token).await);
    attempt(3, v1::LockMode::Shared, 0).await.unwrap();
    attempt(4, v1::LockMode::Shared, 0).await.unwrap();
    attempt(5, v1::LockMode::Exclusive, 0).await.unwrap_err();
    attempt(6, v1::LockMode::Permit, 2).await.unwrap_err();
    assert_eq!(describe(&doors, "l").await.holders.len(), 2);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_time_is_over_leaves_the_line() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    acquire(&doors, "l", lease, 1).await.unwrap();
    // That it has left is known in time, unless the machine is starved.
    let mut happened = Happened::Unknown;
    while happened != Happened::No {
        let request = v1::AcquireRequest { wait_ms: 100, ..contenders::wish("l", lease, 2) };
        let status = contenders::lock(&doors).acquire(request).await.unwrap_err();
        let detail = detail_of(&status);
        happened = detail.happened();
        let kind = if happened == Happened::No { Kind::LockBusy } else { Kind::Deadline };
        assert_eq!(detail.kind(), kind, "{status}");
    }
    happened = Happened::Unknown;
    while happened != Happened::No {
        let mut request = Request::new(contenders::wish("l", lease, 3));
        request.metadata_mut().insert("grpc-timeout", "800m".parse().unwrap());
        let began = Instant::now();
        let status = contenders::lock(&doors).acquire(request).await.unwrap_err();
        let detail = detail_of(&status);
        assert_eq!((status.code(), detail.kind()), (Code::DeadlineExceeded, Kind::Deadline), "{status}");
        assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
        happened = detail.happened();
    }
    assert_eq!(describe(&doors, "l").await.waiting, 0);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explicit_cancel_leaves_at_once_and_a_broken_connection_after_two_seconds() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    acquire(&doors, "l", lease, 1).await.unwrap();
    // The connection stays: dropping the call cancels it.
    let keeps = Client::connect(&doors).await;
    let cancelled = waits(&doors, keeps.acquire("l", lease, 2), "l", 1).await;
    let began = Instant::now();
    cancelled.abort();
    gone(&doors, &format!("l/{lease:x}-2")).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // The connection ends under the call.
    let breaks = Client::connect(&doors).await;
    let broken = waits(&doors, breaks.acquire("l", lease, 3), "l", 1).await;
    let began = Instant::now();
    breaks.cut();
    let status = broken.await.unwrap().unwrap_err();
    assert!(detail_of(&status).kind() == Kind::Unspecified, "{status}");
    gone(&doors, &format!("l/{lease:x}-3")).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_contenders_cost_one_message_a_release() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 600_000).await;
    let mut token = acquire(&doors, "l", lease, 1).await.unwrap().token;
    let mut waiting = Vec::new();
    for id in 2..=1_001u64 {
        waiting.push(tokio::spawn(acquire(&doors, "l", lease, id)));
    }
    contenders::until_waiting(&doors, "l", 1_000).await;
    assert_eq!(doors.rooms.lines.len(), 1, "one follower for all of them");
    // Who waits is asked for through the line, which has heard of all of them now.
    let mut waiting: std::collections::HashMap<u64, _> = (2..).zip(waiting).collect();
    let order: Vec<u64> = contenders::order(&doors, "l").await;
    let mut held_by = 1;
    for next in order.into_iter().take(20) {
        let before = contenders::settled(&doors).await;
        assert!(release(&doors, "l", lease, held_by, token).await);
        token = waiting.remove(&next).unwrap().await.unwrap().unwrap().token;
        held_by = next;
        let cost = doors.rooms.lines.cost();
        let spent = (cost.events - before.events, cost.wakes - before.wakes, cost.barriers - before.barriers);
        assert_eq!(spent, (1, 1, 1), "the release is seen, one is told, one asks for a barrier");
        assert!(cost.reads - before.reads <= 2, "a look at the released key, and one at the own key");
    }
    for wait in waiting.into_values() {
        wait.abort();
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reentrant_acquire_joins_the_hold_which_ends_with_the_last_release() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let wish = |id, mode: v1::LockMode| {
        let wish = contenders::wish("l", lease, id);
        let request = v1::AcquireRequest { reentrant: true, owner: "me".into(), mode: mode.into(), ..wish };
        let mut client = contenders::lock(&doors);
        async move { client.acquire(request).await.map(tonic::Response::into_inner) }
    };
    let first = wish(1, v1::LockMode::Exclusive).await.unwrap();
    let second = wish(2, v1::LockMode::Exclusive).await.unwrap();
    assert_eq!((&second.key, second.token), (&first.key, first.token), "the same fence");
    assert_eq!(wish(2, v1::LockMode::Exclusive).await.unwrap().token, first.token, "idempotent");
    let other = waits(&doors, acquire(&doors, "l", lease, 9), "l", 1).await;
    assert!(release(&doors, "l", lease, 1, first.token).await, "the first one goes, the hold stays");
    assert_eq!(describe(&doors, "l").await.holders[0].token, first.token);
    assert!(!release(&doors, "l", lease, 1, first.token).await);
    assert!(release(&doors, "l", lease, 2, first.token).await);
    assert!(other.await.unwrap().unwrap().token > first.token);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_joined_a_thousand_times_at_most() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let acquires: Vec<String> = (1..=1_000).map(|id| format!("{id:x}")).collect();
    let value = serde_json::json!({"lock": 1, "mode": "exclusive", "owner": "me", "acquires": acquires}).to_string();
    let owner = Some(v1::put_request::Owner::LeaseId(lease));
    let put = v1::PutRequest { key: format!("l/{lease:x}-1").into(), value: value.into(), owner, ..Default::default() };
    doors.kv().put(put).await.unwrap();
    let wish = |id| {
        let request = v1::AcquireRequest { reentrant: true, owner: "me".into(), ..contenders::wish("l", lease, id) };
        let mut client = contenders::lock(&doors);
        async move { client.acquire(request).await.map(tonic::Response::into_inner) }
    };
    let status = wish(1_001).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::FailedPrecondition, Kind::LockConflict), "{status}");
    let held = wish(1_000).await.unwrap();
    assert!(release(&doors, "l", lease, 7, held.token).await);
    assert_eq!(wish(1_001).await.unwrap().token, held.token);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_lets_others_in_without_letting_go_and_an_upgrade_is_refused() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let mine = |mode: v1::LockMode, id| {
        let wish = contenders::wish("l", lease, id);
        v1::AcquireRequest { reentrant: true, owner: "me".into(), mode: mode.into(), ..wish }
    };
    let mut lock = contenders::lock(&doors);
    let held = lock.acquire(mine(v1::LockMode::Exclusive, 1)).await.unwrap().into_inner();
    let reader = waits(&doors, shared(&doors, "l", lease, 2), "l", 1).await;
    let writer = waits(&doors, acquire(&doors, "l", lease, 3), "l", 2).await;
    let down = v1::DowngradeRequest { name: "l".into(), lease_id: lease, acquire_id: 1, token: held.token };
    lock.downgrade(down.clone()).await.unwrap();
    reader.await.unwrap().unwrap();
    lock.downgrade(down.clone()).await.unwrap();
    assert_eq!(describe(&doors, "l").await.holders[0].token, held.token, "the token stays");
    let status = lock.acquire(mine(v1::LockMode::Exclusive, 4)).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::FailedPrecondition, Kind::LockConflict), "{status}");
    assert!(!writer.is_finished());
    assert!(release(&doors, "l", lease, 1, held.token).await && release(&doors, "l", lease, 2, 0).await);
    writer.await.unwrap().unwrap();
    let status = lock.downgrade(down).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::Aborted, Kind::LockLost), "{status}");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_delay_holds_others_off_after_a_loss_and_not_after_a_release() {
    let doors = Doors::single().await;
    let (lost, other) = (grant(&doors, 60_000).await, grant(&doors, 60_000).await);
    let wish = |lease, id| {
        let request = v1::AcquireRequest { lock_delay_ms: 30_000, ..contenders::wish("l", lease, id) };
        let mut client = contenders::lock(&doors);
        async move { client.acquire(request).await.map(tonic::Response::into_inner) }
    };
    let held = wish(lost, 1).await.unwrap();
    assert!(held.delay_lease_id != 0 && held.delay_lease_id != lost);
    let ask = v1::TimeToLiveRequest { lease_id: held.delay_lease_id, ..Default::default() };
    assert_eq!(doors.lease().time_to_live(ask.clone()).await.unwrap().into_inner().granted_ttl_ms, 90_000);
    assert!(release(&doors, "l", lost, 1, held.token).await);
    assert_eq!(doors.lease().time_to_live(ask).await.unwrap().into_inner().granted_ttl_ms, 0, "a clean release");
    let held = wish(lost, 2).await.unwrap();
    let waiting = waits(&doors, acquire(&doors, "l", other, 3), "l", 1).await;
    doors.lease().revoke(v1::RevokeRequest { lease_id: lost, ..Default::default() }).await.unwrap();
    let shown = describe(&doors, "l").await;
    assert!(shown.holders.len() == 1 && shown.holders[0].delaying, "{shown:?}");
    assert_eq!((shown.holders[0].token, shown.waiting), (held.token, 1));
    assert!(!waiting.is_finished());
    doors.lease().revoke(v1::RevokeRequest { lease_id: held.delay_lease_id, ..Default::default() }).await.unwrap();
    waiting.await.unwrap().unwrap();
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_taken_away_by_token_and_a_place_by_key() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let mut lock = contenders::lock(&doors);
    let metadata = [("host".to_owned(), "a".to_owned())].into();
    let request = v1::AcquireRequest { owner: "me".into(), metadata, ..contenders::wish("l", lease, 1) };
    let held = lock.acquire(request).await.unwrap().into_inner();
    let placed = waits(&doors, acquire(&doors, "l", lease, 2), "l", 1).await;
    let next = waits(&doors, acquire(&doors, "l", lease, 3), "l", 2).await;
    let take = |which| v1::ForceReleaseRequest { name: "l".into(), which: Some(which) };
    let by_key = take(v1::force_release_request::Which::Key(format!("l/{lease:x}-2").into()));
    assert_eq!(lock.force_release(by_key).await.unwrap().into_inner().released.unwrap().token, 0);
    assert_eq!(detail_of(&placed.await.unwrap().unwrap_err()).kind(), Kind::LockLost);
    let by_token = take(v1::force_release_request::Which::Token(held.token));
    let taken = lock.force_release(by_token.clone()).await.unwrap().into_inner().released.unwrap();
    assert_eq!((taken.token, taken.owner.as_str(), taken.metadata["host"].as_str()), (held.token, "me", "a"));
    next.await.unwrap().unwrap();
    assert_eq!(lock.force_release(by_token).await.unwrap().into_inner().released, None);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_its_own_lives_while_the_call_waits_and_ends_with_the_contender() {
    let doors = Doors::single().await;
    let holder = grant(&doors, 60_000).await;
    let held = acquire(&doors, "l", holder, 1).await.unwrap();
    let request = v1::AcquireRequest { ttl_ms: 600, ..contenders::wish("l", 0, 2) };
    let mut client = contenders::lock(&doors);
    let waiting = async move { client.acquire(request).await.map(tonic::Response::into_inner) };
    let waiting = waits(&doors, waiting, "l", 1).await;
    // Three times as long as the lease would live by itself.
    tokio::time::sleep(Duration::from_millis(1_800)).await;
    assert!(release(&doors, "l", holder, 1, held.token).await);
    let own = waiting.await.unwrap().unwrap();
    let ask = v1::TimeToLiveRequest { lease_id: own.lease_id, ..Default::default() };
    assert_eq!(doors.lease().time_to_live(ask.clone()).await.unwrap().into_inner().granted_ttl_ms, 600);
    assert!(release(&doors, "l", 0, 2, own.token).await);
    assert_eq!(doors.lease().time_to_live(ask).await.unwrap().into_inner().granted_ttl_ms, 0);
    // The same again is the same contender.
    let first = acquire(&doors, "m", 0, 7).await.unwrap();
    let again = acquire(&doors, "m", 0, 7).await.unwrap();
    assert_eq!((again.key, again.token, again.lease_id), (first.key, first.token, first.lease_id));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_do_not_nest_and_requests_that_make_no_sense_are_refused() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    acquire(&doors, "a/b", lease, 1).await.unwrap();
    let status = acquire(&doors, "a", lease, 2).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::FailedPrecondition, Kind::LockConflict));
    assert!(status.message().contains("do not nest") && status.message().contains("a/b/"), "{status}");
    gone(&doors, &format!("a/{lease:x}-2")).await;
    // A name inside that of a lock which is held is not looked for; it harms neither who holds nor who waits already.
    let outer = acquire(&doors, "o", lease, 3).await.unwrap();
    let waiting = waits(&doors, acquire(&doors, "o", lease, 4), "o", 1).await;
    let inner = acquire(&doors, "o/i", lease, 5).await.unwrap();
    assert_eq!(acquire(&doors, "o", lease, 3).await.unwrap().token, outer.token);
    assert!(release(&doors, "o", lease, 3, outer.token).await);
    let next = waiting.await.unwrap().unwrap();
    assert!(outer.token < next.token && next.token < inner.token, "its fence stands: nobody below is older");
    acquire(&doors, "o", lease, 6).await.unwrap_err();
    assert!(release(&doors, "o/i", lease, 5, inner.token).await);
    let last = waits(&doors, acquire(&doors, "o", lease, 7), "o", 1).await;
    assert!(release(&doors, "o", lease, 4, next.token).await);
    last.await.unwrap().unwrap();
    let wish = contenders::wish("l", lease, 1);
    let wrong = [
        v1::AcquireRequest { name: "".into(), ..wish.clone() },
        v1::AcquireRequest { name: "l/".into(), ..wish.clone() },
        v1::AcquireRequest { name: "x".repeat(4_090).into(), ..wish.clone() },
        v1::AcquireRequest { acquire_id: 0, ..wish.clone() },
        v1::AcquireRequest { mode: 9, ..wish.clone() },
        v1::AcquireRequest { permits: 2, ..wish.clone() },
        v1::AcquireRequest { mode: 2, permits: 0, ..wish.clone() },
        v1::AcquireRequest { mode: 2, permits: 1_000_001, ..wish.clone() },
        v1::AcquireRequest { reentrant: true, ..wish.clone() },
        v1::AcquireRequest { owner: "x".repeat(257), ..wish.clone() },
        v1::AcquireRequest { ttl_ms: 5_000, ..wish.clone() },
        v1::AcquireRequest { ttl_ms: 5, lease_id: 0, ..wish.clone() },
        v1::AcquireRequest { lock_delay_ms: u64::MAX, ..wish.clone() },
        v1::AcquireRequest { metadata: [("k".into(), "v".repeat(4_096))].into(), ..wish.clone() },
    ];
    for request in wrong {
        let status = contenders::lock(&doors).acquire(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}: {status}");
    }
    doors.stop().await;
}
