//! Locks on three members: retries elsewhere, late clean-ups, elections of leaders, members that stop.
//!
//! Invariants:
//! - A hold that was told stays until it is released, or its lease ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod contenders;
mod doors;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use contenders::{Client, acquire, describe, detail_of, grant, release, waits};
use doors::Doors;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::{Happened, Kind};
use support::net::Net;
use tokio::time::{sleep, timeout};
use tonic::Code;

struct Three {
    members: BTreeMap<u64, Doors>,
    net: Arc<Net>,
    _dir: tempfile::TempDir,
}

impl Three {
    async fn start() -> Self {
        let (members, net, dir) = Doors::three().await;
        let three = Self { members, net, _dir: dir };
        three.leader(&[1, 2, 3]).await;
        three
    }

    async fn leader(&self, among: &[u64]) -> u64 {
        let find = async {
            loop {
                if let Some(id) = among.iter().find(|id| self.members[id].leads()) {
                    return *id;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), find).await.expect("a leader")
    }

    fn others(&self, id: u64) -> Vec<u64> {
        self.members.keys().copied().filter(|other| *other != id).collect()
    }

    async fn stop(self) {
        futures::future::join_all(self.members.into_values().map(Doors::stop)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_at_another_member_keeps_its_place_and_no_late_clean_up_takes_it() {
    let three = Three::start().await;
    let leader = three.leader(&[1, 2, 3]).await;
    let others = three.others(leader);
    let (one, two) = (&three.members[&others[0]], &three.members[&others[1]]);
    let lease = grant(one, 60_000).await;
    let held = acquire(one, "l", lease, 1).await.unwrap();
    let client = Client::connect(one).await;
    let broken = waits(one, client.acquire("l", lease, 2), "l", 1).await;
    let behind = waits(one, acquire(one, "l", lease, 3), "l", 2).await;
    client.cut();
    broken.await.unwrap().unwrap_err();
    // The same acquire at another member, at once: ahead of the third all the same.
    let retried = tokio::spawn(acquire(two, "l", lease, 2));
    // The first member's clean-up comes two seconds after the break, and finds that the place is another's.
    sleep(Duration::from_millis(2_500)).await;
    assert!(!retried.is_finished());
    assert_eq!(describe(one, "l").await.waiting, 2);
    assert!(release(one, "l", lease, 1, held.token).await);
    let second = timeout(Duration::from_secs(20), retried).await.unwrap().unwrap().unwrap();
    assert!(!behind.is_finished());
    // The hold is told again to who asks again, at any member.
    assert_eq!(acquire(one, "l", lease, 2).await.unwrap().token, second.token);
    assert!(release(two, "l", lease, 2, second.token).await);
    assert!(behind.await.unwrap().unwrap().token > second.token);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_a_retry_was_told_of_survives_the_first_members_clean_up() {
    let three = Three::start().await;
    let leader = three.leader(&[1, 2, 3]).await;
    let others = three.others(leader);
    let (one, two) = (&three.members[&others[0]], &three.members[&others[1]]);
    let lease = grant(one, 60_000).await;
    let held = acquire(one, "l", lease, 1).await.unwrap();
    let client = Client::connect(one).await;
    let broken = waits(one, client.acquire("l", lease, 2), "l", 1).await;
    client.cut();
    broken.await.unwrap().unwrap_err();
    assert!(release(two, "l", lease, 1, held.token).await);
    let retried = timeout(Duration::from_secs(20), acquire(two, "l", lease, 2)).await.unwrap().unwrap();
    sleep(Duration::from_millis(2_500)).await;
    let shown = describe(one, "l").await;
    assert_eq!(shown.holders.iter().map(|holder| holder.token).collect::<Vec<_>>(), [retried.token]);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_over_elections_of_leaders_and_waits_go_on() {
    let three = Three::start().await;
    let leader = three.leader(&[1, 2, 3]).await;
    let others = three.others(leader);
    let (one, two) = (&three.members[&others[0]], &three.members[&others[1]]);
    let lease = grant(one, 60_000).await;
    let held = acquire(one, "l", lease, 1).await.unwrap();
    let waiting = waits(two, acquire(two, "l", lease, 2), "l", 1).await;
    three.net.part(&[leader], &others);
    three.leader(&others).await;
    assert!(release(one, "l", lease, 1, held.token).await);
    let next = timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap();
    assert!(next.token > held.token);
    assert!(release(two, "l", lease, 2, next.token).await);
    // Nothing is left of the lock, and its tokens go on.
    let scope = v1::delete_request::Scope::Range.into();
    one.kv().delete(v1::DeleteRequest { key: "l".into(), end: "m".into(), scope, ..Default::default() }).await.unwrap();
    assert!(acquire(one, "l", lease, 3).await.unwrap().token > next.token);
    three.net.heal();
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_cut_off_sends_its_waiters_elsewhere_and_keeps_their_places() {
    let three = Three::start().await;
    let leader = three.leader(&[1, 2, 3]).await;
    let alone = three.others(leader)[0];
    let rest = three.others(alone);
    let lease = grant(&three.members[&leader], 60_000).await;
    let held = acquire(&three.members[&leader], "l", lease, 1).await.unwrap();
    let member = &three.members[&alone];
    let waiting = waits(member, acquire(member, "l", lease, 2), "l", 1).await;
    let behind = &three.members[&rest[1]];
    let third = waits(behind, acquire(behind, "l", lease, 3), "l", 2).await;
    three.net.part(&[alone], &rest);
    let status = timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap_err();
    let detail = detail_of(&status);
    assert_eq!((status.code(), detail.kind()), (Code::Unavailable, Kind::NoQuorum), "{status}");
    assert_eq!(detail.happened(), Happened::Unknown);
    let retried = tokio::spawn(acquire(&three.members[&leader], "l", lease, 2));
    assert!(release(&three.members[&leader], "l", lease, 1, held.token).await);
    let second = timeout(Duration::from_secs(20), retried).await.unwrap().unwrap().unwrap();
    three.net.heal();
    assert!(!third.is_finished());
    assert!(release(member, "l", lease, 2, second.token).await);
    third.await.unwrap().unwrap();
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_leaves_the_places_of_its_waiters() {
    let three = Three::start().await;
    let leader = three.leader(&[1, 2, 3]).await;
    let others = three.others(leader);
    let (stops, stays) = (&three.members[&others[0]], &three.members[&others[1]]);
    let lease = grant(stays, 60_000).await;
    let held = acquire(stays, "l", lease, 1).await.unwrap();
    let waiting = waits(stops, acquire(stops, "l", lease, 2), "l", 1).await;
    let behind = waits(stays, acquire(stays, "l", lease, 3), "l", 2).await;
    stops.drain().await;
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::Unavailable, Kind::ShuttingDown), "{status}");
    let retried = tokio::spawn(acquire(stays, "l", lease, 2));
    assert!(release(stays, "l", lease, 1, held.token).await);
    timeout(Duration::from_secs(20), retried).await.unwrap().unwrap().unwrap();
    assert!(!behind.is_finished());
    behind.abort();
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_can_be_fenced_by_a_hold() {
    let three = Three::start().await;
    let member = &three.members[&1];
    let lease = grant(member, 60_000).await;
    let held = acquire(member, "l", lease, 1).await.unwrap();
    let behind = waits(member, acquire(member, "l", lease, 2), "l", 1).await;
    let fenced = |key: bytes::Bytes, token: i64, value: &str| {
        let compare = |key, range_end, relation: v1::compare::Relation, revision| v1::Compare {
            key,
            range_end,
            relation: relation.into(),
            target: Some(v1::compare::Target::CreateRevision(revision)),
            ..Default::default()
        };
        let put = v1::PutRequest { key: "/data".into(), value: value.to_owned().into(), ..Default::default() };
        v1::TxnRequest {
            compares: vec![
                compare(key, "".into(), v1::compare::Relation::Equal, token),
                compare("l/".into(), "l0".into(), v1::compare::Relation::Greater, token - 1),
            ],
            then: vec![v1::TxnOp { op: Some(v1::txn_op::Op::Put(put)) }],
            ..Default::default()
        }
    };
    let txn = fenced(held.key.clone(), held.token, "1");
    assert!(member.kv().txn(txn.clone()).await.unwrap().into_inner().succeeded);
    // One that waits is not let through, even if it knew its create_revision.
    let waiter = format!("l/{lease:x}-2");
    let kv = member.kv().get(v1::GetRequest { key: waiter.clone().into(), ..Default::default() }).await.unwrap();
    let created = kv.into_inner().kv.unwrap().create_revision;
    assert!(!member.kv().txn(fenced(waiter.into(), created, "2")).await.unwrap().into_inner().succeeded);
    assert!(release(member, "l", lease, 1, held.token).await);
    let next = behind.await.unwrap().unwrap();
    assert!(!member.kv().txn(txn).await.unwrap().into_inner().succeeded, "the old holder's");
    assert!(member.kv().txn(fenced(next.key, next.token, "3")).await.unwrap().into_inner().succeeded);
    three.stop().await;
}
