//! Locks on three members: retries elsewhere, late clean-ups, elections of leaders, members that stop.
//!
//! Invariants:
//! - A hold that was told stays until it is released, or its lease ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod contenders;
mod doors;
mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use contenders::{
    Acquired, Client, acquire, acquire_once, campaign, describe, detail_of, election, grant, next, observe, patiently,
    release, settled, until_waiting, waits, wish,
};
use doors::Doors;
use doors::three::Three;
use openraft::async_runtime::watch::WatchReceiver as _;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::{Happened, Kind};
use quorate_server::consensus::snapshotter::SnapshotRules;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(20);

/// A lock `l` that acquire 1 holds, for which 2 waits at one member and 3 behind it at another.
struct Queue {
    lease: i64,
    held: v1::AcquireResponse,
    second: JoinHandle<Acquired>,
    third: JoinHandle<Acquired>,
}

impl Queue {
    async fn form(at: &Doors, behind_at: &Doors) -> Self {
        let lease = grant(behind_at, 60_000).await;
        let held = acquire(behind_at, "l", lease, 1).await.unwrap();
        let second = waits(at, acquire_once(at, "l", lease, 2), "l", 1).await;
        let third = waits(behind_at, acquire(behind_at, "l", lease, 3), "l", 2).await;
        Self { lease, held, second, third }
    }

    /// The second asks again at another member; once the first has released, it holds, and not who was behind.
    async fn second_asks_again(&self, at: &Doors) -> v1::AcquireResponse {
        let again = tokio::spawn(acquire(at, "l", self.lease, 2));
        assert!(release(at, "l", self.lease, 1, self.held.token).await);
        let second = timeout(PATIENCE, again).await.unwrap().unwrap().unwrap();
        assert!(second.token > self.held.token && !self.third.is_finished());
        second
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_at_another_member_keeps_its_place_and_no_late_clean_up_takes_it() {
    let three = Three::start().await;
    let [one, two] = three.followers().await;
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
    let second = timeout(PATIENCE, retried).await.unwrap().unwrap().unwrap();
    assert!(!behind.is_finished());
    // The hold is told again to who asks again, at any member.
    assert_eq!(acquire(one, "l", lease, 2).await.unwrap().token, second.token);
    assert!(release(two, "l", lease, 2, second.token).await);
    assert!(behind.await.unwrap().unwrap().token > second.token);
    three.stop().await;
}

/// Of those who hold `l`.
async fn tokens(doors: &Doors) -> Vec<i64> {
    describe(doors, "l").await.holders.iter().map(|holder| holder.token).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_a_retry_was_told_of_survives_the_first_members_clean_up() {
    let three = Three::start().await;
    let [one, two] = three.followers().await;
    let lease = grant(one, 60_000).await;
    let held = acquire(one, "l", lease, 1).await.unwrap();
    let client = Client::connect(one).await;
    let broken = waits(one, client.acquire("l", lease, 2), "l", 1).await;
    client.cut();
    broken.await.unwrap().unwrap_err();
    assert!(release(two, "l", lease, 1, held.token).await);
    let retried = timeout(PATIENCE, acquire(two, "l", lease, 2)).await.unwrap().unwrap();
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(tokens(one).await, [retried.token]);
    three.stop().await;
}

/// The retry of a re-entrant acquire found its own hold and was told of it without a write; so the first attempt, whose
/// outcome was late, took the hold away again.
#[tokio::test(flavor = "multi_thread")]
async fn a_reentrant_hold_that_a_retry_was_told_of_survives_the_first_members_clean_up() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let slow = three.others(leader)[0];
    let (leads, member) = (&three.members[&leader], &three.members[&slow]);
    let lease = grant(leads, 60_000).await;
    let wish = v1::AcquireRequest { reentrant: true, owner: "me".into(), ..wish("l", lease, 2) };
    let client = Client::connect(member).await;
    let mut first = v1::lock_client::LockClient::new(client.channel.clone());
    first.describe(v1::DescribeLockRequest { name: "l".into(), ..Default::default() }).await.unwrap();
    // It is put, but the member does not hear of that, by whatever leader, before its client has gone elsewhere.
    three.net.part(&[slow], &three.others(leader)[1..]);
    three.net.cut(leader, slow);
    let asked = wish.clone();
    let broken = tokio::spawn(async move { first.acquire(asked).await });
    let key = format!("l/{lease:x}-2");
    let put = async {
        while leads.version_of(&key) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, put).await.expect("the contender is put");
    client.cut();
    broken.await.unwrap().unwrap_err();
    let held = timeout(PATIENCE, patiently(leads, wish)).await.unwrap().unwrap();
    three.net.heal();
    // The clean-up comes two seconds after the outcome.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(tokens(leads).await, [held.token]);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_over_elections_of_leaders_and_waits_go_on() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let others = three.others(leader);
    let (one, two) = (&three.members[&others[0]], &three.members[&others[1]]);
    let lease = grant(one, 60_000).await;
    let held = acquire(one, "l", lease, 1).await.unwrap();
    let waiting = waits(two, acquire(two, "l", lease, 2), "l", 1).await;
    three.net.part(&[leader], &others);
    three.leader_among(&others).await;
    assert!(release(one, "l", lease, 1, held.token).await);
    let next = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
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
    let leader = three.leader().await;
    let alone = three.others(leader)[0];
    let rest = three.others(alone);
    let (member, other) = (&three.members[&alone], &three.members[&leader]);
    let mut queue = Queue::form(member, other).await;
    three.net.part(&[alone], &rest);
    let status = timeout(PATIENCE, &mut queue.second).await.unwrap().unwrap().unwrap_err();
    let detail = detail_of(&status);
    assert_eq!((status.code(), detail.kind()), (Code::Unavailable, Kind::NoQuorum), "{status}");
    assert_eq!(detail.happened(), Happened::Unknown);
    let second = queue.second_asks_again(other).await;
    three.net.heal();
    assert!(release(member, "l", queue.lease, 2, second.token).await);
    queue.third.await.unwrap().unwrap();
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_leaves_the_places_of_its_waiters() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let others = three.others(leader);
    let (stops, stays) = (&three.members[&others[0]], &three.members[&others[1]]);
    let mut queue = Queue::form(stops, stays).await;
    stops.drain().await;
    let status = (&mut queue.second).await.unwrap().unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::Unavailable, Kind::ShuttingDown), "{status}");
    queue.second_asks_again(stays).await;
    queue.third.abort();
    three.stop().await;
}

/// Writes until all that was written before is no longer in the leader's log.
async fn until_purged(leads: &Doors) {
    let raft = leads.consensus.raft().clone();
    let applied = raft.metrics().borrow_watched().last_applied.unwrap().index;
    while raft.metrics().borrow_watched().purged.is_none_or(|purged| purged.index <= applied) {
        leads.kv().put(v1::PutRequest { key: "/a".into(), ..Default::default() }).await.unwrap();
    }
}

/// A member gets a snapshot while lines are followed there: whoever waits there is told what became of him by the time
/// of the snapshot, in order and once. Where history is compacted besides, the lines are begun anew. False: another led
/// meanwhile, and nothing was shown.
async fn a_snapshot_comes_under_those_who_wait(compacts: bool) -> bool {
    let (every_entries, keep_entries, keep_bytes) = (50, 5, 1);
    let interval = Duration::from_millis(20);
    let rules = SnapshotRules { every_entries, keep_entries, keep_bytes, interval, ..SnapshotRules::default() };
    let three = Three::with_rules(rules).await;
    let leader = three.leader().await;
    let (leads, behind) = (&three.members[&leader], &three.members[&three.others(leader)[0]]);
    let queue = Queue::form(behind, leads).await;
    let (lease, other) = (queue.lease, grant(leads, 60_000).await);
    let fourth = waits(behind, acquire(behind, "l", lease, 4), "l", 3).await;
    let lost = waits(behind, acquire(behind, "l", other, 5), "l", 4).await;
    let led = campaign(leads, lease, 1, "one").await.unwrap().unwrap();
    let campaigns = campaign(behind, lease, 2, "two");
    until_waiting(leads, "e", 1).await;
    let mut terms = observe(behind, 0).await;
    assert_eq!(next(&mut terms).await, format!("{}=one", led.term));
    let before = settled(behind).await;

    let leadership = *leads.consensus.leadership().borrow();
    three.net.starve(three.others(leader)[0]);
    let sent = three.net.snapshots_sent.load(Ordering::Relaxed);
    assert!(release(leads, "l", lease, 1, queue.held.token).await);
    leads.lease().revoke(v1::RevokeRequest { lease_id: other, ..Default::default() }).await.unwrap();
    let resign = v1::ResignRequest { name: "e".into(), lease_id: lease, campaign_id: 1, term: led.term };
    assert!(election(leads).resign(resign).await.unwrap().into_inner().resigned);
    if compacts {
        let revision = leads.rooms.hub.revision().get();
        leads.kv().compact(v1::CompactRequest { revision, ..Default::default() }).await.unwrap();
    }
    until_purged(leads).await;
    let heard = queue.second.is_finished();
    three.net.heal();
    let second = timeout(PATIENCE, queue.second).await.unwrap().unwrap();
    let lost_contact = |status: &Status| detail_of(status).kind() == Kind::NoQuorum;
    if *leads.consensus.leadership().borrow() != leadership || second.as_ref().is_err_and(lost_contact) {
        three.stop().await;
        return false;
    }
    let second = second.unwrap();
    assert!(!heard && three.net.snapshots_sent.load(Ordering::Relaxed) > sent, "by snapshot");
    assert!(second.token > queue.held.token && !queue.third.is_finished() && !fourth.is_finished());
    let status = timeout(PATIENCE, lost).await.unwrap().unwrap().unwrap_err();
    assert_eq!(detail_of(&status).kind(), Kind::LockLost, "{status}");
    let two = timeout(PATIENCE, campaigns).await.unwrap().unwrap().unwrap();
    // Between the terms may have been another; where that cannot be known, the stream says so.
    let told = timeout(PATIENCE, terms.message()).await.unwrap();
    match (compacts, told) {
        (false, Ok(Some(told))) => assert_eq!(told.leader.unwrap().term, two.term),
        (true, Err(status)) => assert_eq!(detail_of(&status).kind(), Kind::Overloaded, "{status}"),
        (_, told) => panic!("{told:?}"),
    }
    // That it holds, that its key is gone, that it leads.
    assert_eq!(settled(behind).await.wakes - before.wakes, 3, "each is told once");
    assert!(release(behind, "l", lease, 2, second.token).await);
    let third = timeout(PATIENCE, queue.third).await.unwrap().unwrap().unwrap();
    assert!(release(behind, "l", lease, 3, third.token).await);
    let fourth = timeout(PATIENCE, fourth).await.unwrap().unwrap().unwrap();
    assert!(second.token < third.token && third.token < fourth.token);
    three.stop().await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_under_those_who_wait_costs_nobody_his_turn() {
    while !a_snapshot_comes_under_those_who_wait(false).await {}
}

/// A stream of leaders passed over the terms that a compaction had taken from the line that was begun anew, and went on
/// as if there had been none.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_begun_anew_costs_nobody_his_turn_and_hides_no_term() {
    while !a_snapshot_comes_under_those_who_wait(true).await {}
}

/// The leader's word that a lock is held came before the entry, and whoever gave it back at once waited for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_given_back_at_a_member_that_does_not_have_it_yet() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let (leads, behind) = (&three.members[&leader], &three.members[&three.others(leader)[0]]);
    let lease = grant(leads, 60_000).await;
    three.net.starve(three.others(leader)[0]);
    let held = patiently(behind, wish("l", lease, 1)).await.unwrap();
    assert!(behind.rooms.hub.revision().get() < held.token);
    assert!(release(behind, "l", lease, 1, held.token).await);
    assert!(behind.rooms.hub.revision().get() < held.token, "nothing was waited for");
    // Given back and taken by another elsewhere: what is remembered takes nothing away.
    let held = patiently(behind, wish("l", lease, 1)).await.unwrap();
    assert!(behind.rooms.hub.revision().get() < held.token);
    assert!(release(leads, "l", lease, 1, held.token).await);
    let next = acquire(leads, "l", lease, 2).await.unwrap();
    let before = leads.consensus.status().applied_index;
    let (again, ()) = tokio::join!(release(behind, "l", lease, 1, held.token), async {
        // Its first try is an entry of the log, and the second waits for what is lost on its way.
        let first_try = async {
            while leads.consensus.status().applied_index == before {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, first_try).await.unwrap();
        three.net.heal();
    });
    assert!(!again);
    assert_eq!(describe(leads, "l").await.holders[0].token, next.token);
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
