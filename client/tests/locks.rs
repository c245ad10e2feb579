//! Locks, elections and recipes against a real member in this process: what the documentation says, seen.
//!
//! Invariants:
//! - Each test has a member of its own.

#![expect(clippy::unwrap_used, reason = "the functions that tests share are tests too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use quorate::{Client, ErrorKind, Leaders, LockGuard, LockMode, Lost, Op, Reason, Token};
use quorate_server::Ephemeral;

const PATIENCE: Duration = Duration::from_secs(30);

async fn member() -> (Ephemeral, Client) {
    let member = quorate_server::ephemeral().await.unwrap();
    let client = Client::connect([member.endpoint()]).await.unwrap();
    (member, client)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// Waits until so many wait for the lock.
async fn waiting(client: &Client, lock: &str, count: u64) {
    within(async {
        while client.lock_info(lock).await.unwrap().waiting != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_lock_is_held_by_one_at_a_time_in_the_order_of_coming() {
    let (_member, client) = member().await;
    let first = client.lock("jobs").owner("first").acquire().await.unwrap();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for nth in 0..5u64 {
        let (client, order) = (client.clone(), order.clone());
        let task = client.clone();
        tasks.push(tokio::spawn(async move {
            let guard = task.lock("jobs").owner(format!("{nth}")).acquire().await.unwrap();
            order.lock().push((nth, guard.token()));
            guard.check().unwrap();
            guard.release().await.unwrap();
        }));
        waiting(&client, "jobs", nth + 1).await;
    }
    let info = client.lock_info("jobs").waiters_max(2).await.unwrap();
    assert_eq!((info.holders[0].owner.as_str(), info.holders[0].token), ("first", Some(first.token())));
    let shown: Vec<_> = info.waiters.iter().map(|each| (each.owner.as_str(), each.token)).collect();
    assert_eq!((shown, info.waiting), (vec![("0", None), ("1", None)], 5));

    first.release().await.unwrap();
    within(join_all(tasks)).await.into_iter().for_each(|task| task.unwrap());
    let order = order.lock().clone();
    assert_eq!(order.iter().map(|each| each.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(order.windows(2).all(|pair| pair[0].1 < pair[1].1), "tokens grow: {order:?}");
    assert!(client.lock_info("jobs").await.unwrap().holders.is_empty());
    assert!(client.leases().await.unwrap().is_empty(), "sessions end with their locks");
}

#[tokio::test]
async fn what_is_held_is_busy_for_others() {
    let (_member, client) = member().await;
    let guard = client.lock("jobs").acquire().await.unwrap();
    assert!(client.lock("jobs").try_acquire().await.unwrap().is_none());
    let error = client.lock("jobs").wait(Duration::from_millis(100)).acquire().await.unwrap_err();
    assert_eq!((error.reason(), error.kind()), (Some(Reason::LockBusy), ErrorKind::Retry));
    // Dropped, it is given back in the background.
    drop(guard);
    let guard = within(client.lock("jobs").acquire()).await.unwrap();
    // A wait that is dropped is not in the way.
    let dropped = tokio::time::timeout(Duration::from_millis(100), client.lock("jobs").acquire()).await;
    assert!(dropped.is_err());
    waiting(&client, "jobs", 0).await;
    guard.release().await.unwrap();
}

#[tokio::test]
async fn shared_holds_and_permits_go_together() {
    let (_member, client) = member().await;
    let one = client.lock("doc").shared().acquire().await.unwrap();
    let two = client.lock("doc").shared().acquire().await.unwrap();
    assert!(client.lock("doc").try_acquire().await.unwrap().is_none());
    one.release().await.unwrap();
    two.release().await.unwrap();

    let mut exclusive = client.lock("doc").acquire().await.unwrap();
    assert!(client.lock("doc").shared().try_acquire().await.unwrap().is_none());
    let token = exclusive.token();
    exclusive.downgrade().await.unwrap();
    assert_eq!((exclusive.mode(), exclusive.token()), (LockMode::Shared, token));
    let beside = client.lock("doc").shared().try_acquire().await.unwrap().unwrap();
    assert!(client.txn(exclusive.txn().then(Op::put("/d", "1"))).await.unwrap().succeeded);
    beside.release().await.unwrap();
    exclusive.release().await.unwrap();

    let permits = join_all((0..3).map(|_| client.lock("pool").permits(3).acquire())).await;
    assert!(permits.iter().all(Result::is_ok));
    assert!(client.lock("pool").permits(3).try_acquire().await.unwrap().is_none());
    let error = client.lock("pool").permits(4).try_acquire().await.unwrap_err();
    assert_eq!((error.reason(), error.kind()), (Some(Reason::LockConflict), ErrorKind::FixRequest));
}

#[tokio::test]
async fn a_hold_is_joined_again_by_the_same_session_and_owner() {
    let (_member, client) = member().await;
    let session = client.lease(PATIENCE).grant().await.unwrap();
    let asked = || client.lock("jobs").session(&session).owner("me").reentrant();
    let (one, two) = (asked().acquire().await.unwrap(), within(asked().acquire()).await.unwrap());
    assert_eq!((one.token(), one.key()), (two.token(), two.key()));
    one.release().await.unwrap();
    two.check().unwrap();
    assert!(client.lock("jobs").try_acquire().await.unwrap().is_none(), "one of two holds it still");
    two.release().await.unwrap();
    client.lock("jobs").try_acquire().await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn who_lost_a_lock_is_told_and_writes_nothing_fenced() {
    let (_member, client) = member().await;
    let write = |guard: &LockGuard, value: &'static str| client.txn(guard.txn().then(Op::put("/stock", value)));
    let guard = client.lock("jobs").acquire().await.unwrap();
    assert!(write(&guard, "1").await.unwrap().succeeded);

    // By force, while another waits.
    let next = tokio::spawn({
        let client = client.clone();
        async move { client.lock("jobs").acquire().await }
    });
    waiting(&client, "jobs", 1).await;
    let taken = client.lock_force_release("jobs").token(guard.token()).await.unwrap().unwrap();
    assert_eq!(taken.token, Some(guard.token()));
    assert_eq!(within(guard.lost()).await, Lost::Taken);
    assert!(!write(&guard, "late").await.unwrap().succeeded);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::Reacquire);
    let next = within(next).await.unwrap().unwrap();
    assert!(write(&next, "2").await.unwrap().succeeded);

    // By the end of its lease.
    client.lease_revoke(next.lease()).await.unwrap();
    assert_eq!(within(next.lost()).await, Lost::Gone);
    assert!(!write(&next, "late").await.unwrap().succeeded);
    assert_eq!(client.get("/stock").await.unwrap().into_value().unwrap(), "2");
}

#[tokio::test]
async fn a_lock_delay_outlasts_a_lost_session_but_not_a_release() {
    let (_member, client) = member().await;
    let asked = || client.lock("jobs").ttl(Duration::from_millis(600)).lock_delay(Duration::from_secs(1));
    asked().acquire().await.unwrap().release().await.unwrap();
    let guard = within(asked().acquire()).await.unwrap();
    client.lease_revoke(guard.lease()).await.unwrap();
    assert_eq!(within(guard.lost()).await, Lost::Gone);
    let info = client.lock_info("jobs").await.unwrap();
    assert!(info.holders[0].delaying, "{info:?}");
    assert!(client.lock("jobs").try_acquire().await.unwrap().is_none());
    drop(guard);
    within(client.lock("jobs").acquire()).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn many_increment_under_a_lock_and_none_is_lost() {
    let (member, client) = member().await;
    let inside = Arc::new(AtomicUsize::new(0));
    let tasks = (0..8).map(|_| {
        let (endpoint, inside) = (member.endpoint().clone(), inside.clone());
        tokio::spawn(async move {
            let client = Client::connect([endpoint]).await.unwrap();
            for _ in 0..10 {
                let work = async |guard: &LockGuard| {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
                    let now = client.get("/n").await.unwrap().into_value().unwrap_or_else(|| "0".into());
                    let next = std::str::from_utf8(&now).unwrap().parse::<i64>().unwrap() + 1;
                    let txn = guard.txn().then(Op::put("/n", next.to_string()));
                    assert!(client.txn(txn).await.unwrap().succeeded);
                    inside.fetch_sub(1, Ordering::SeqCst);
                };
                client.with_lock("n", work).await.unwrap();
            }
        })
    });
    within(join_all(tasks.collect::<Vec<_>>())).await.into_iter().for_each(|task| task.unwrap());
    assert_eq!(client.get("/n").await.unwrap().into_value().unwrap(), "80");
}

async fn next(leaders: &mut Leaders) -> Option<(String, Token)> {
    let leader = within(leaders.next()).await.unwrap().unwrap();
    leader.map(|leader| (leader.value_text().into_owned(), leader.term))
}

#[tokio::test]
async fn an_election_has_one_leader_and_tells_who() {
    let (_member, client) = member().await;
    let election = client.election("db");
    let mut leaders = election.observe();
    assert_eq!(next(&mut leaders).await, None);
    let one = election.campaign("one").await.unwrap();
    assert_eq!(next(&mut leaders).await, Some(("one".to_owned(), one.term())));
    let error = election.clone().wait(Duration::from_millis(50)).campaign("impatient").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::LockBusy));
    one.proclaim("one, warm").await.unwrap();
    assert_eq!(next(&mut leaders).await, Some(("one, warm".to_owned(), one.term())));
    assert_eq!(election.leader().await.unwrap().unwrap().value_text(), "one, warm");

    let two = tokio::spawn({
        let election = election.clone();
        async move { election.campaign("two").await }
    });
    within(async {
        while client.prefix("db/").count().await.unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let term = one.term();
    one.resign().await.unwrap();
    let two = within(two).await.unwrap().unwrap();
    assert!(two.term() > term);
    let next_leader = loop {
        if let Some(leader) = next(&mut leaders).await {
            break leader;
        }
    };
    assert_eq!(next_leader, ("two".to_owned(), two.term()));
    client.lease_revoke(two.lease()).await.unwrap();
    assert_eq!(next(&mut leaders).await, None);
    // It had waited, so its client looks for the key first, which may have gone by then.
    assert!(matches!(within(two.lost()).await, Lost::Gone | Lost::Taken));
    assert_eq!(two.proclaim("still two").await.unwrap_err().kind(), ErrorKind::Reacquire);
    assert!(!client.txn(two.txn().then(Op::put("/late", "1"))).await.unwrap().succeeded);
}

#[tokio::test]
async fn several_locks_are_held_all_or_none() {
    let (_member, client) = member().await;
    let both = client.multi_lock(["b", "a", "b"]).acquire().await.unwrap();
    assert_eq!(both.locks().iter().map(LockGuard::name).collect::<Vec<_>>(), [b"a", b"b"]);
    assert!(client.txn(both.txn().then(Op::put("/x", "1"))).await.unwrap().succeeded);
    let c = client.lock("c").acquire().await.unwrap();
    assert!(client.multi_lock(["0", "a"]).try_acquire().await.unwrap().is_none());
    assert!(client.lock("0").try_acquire().await.unwrap().is_some(), "what it had is given back");
    both.release().await.unwrap();
    assert!(client.multi_lock(["a", "b", "c"]).try_acquire().await.unwrap().is_none());
    c.release().await.unwrap();
    // In every order, and nobody waits for ever.
    let names = [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]];
    let tasks = (0..12).map(|nth| {
        let (client, names) = (client.clone(), names[nth % 3]);
        tokio::spawn(async move { client.multi_lock(names).acquire().await.unwrap().release().await.unwrap() })
    });
    within(join_all(tasks.collect::<Vec<_>>())).await.into_iter().for_each(|task| task.unwrap());
    let lost = client.multi_lock(["a", "b"]).acquire().await.unwrap();
    client.lock_force_release("b").token(lost.locks()[1].token()).await.unwrap();
    assert_eq!(within(lost.lost()).await, Lost::Taken);
    assert_eq!(lost.release().await.unwrap_err().kind(), ErrorKind::Reacquire);
}

#[tokio::test]
async fn a_barrier_holds_all_until_it_is_lifted() {
    let (_member, client) = member().await;
    let barrier = client.barrier("/stop");
    within(barrier.wait()).await.unwrap();
    assert!(barrier.raise().await.unwrap() && !barrier.raise().await.unwrap());
    let waits = tokio::spawn({
        let barrier = barrier.clone();
        async move { barrier.wait().await }
    });
    assert!(tokio::time::timeout(Duration::from_millis(50), barrier.wait()).await.is_err());
    assert!(barrier.lift().await.unwrap() && !barrier.lift().await.unwrap());
    within(waits).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_double_barrier_begins_and_ends_together_round_after_round() {
    let (_member, client) = member().await;
    let inside = Arc::new(AtomicUsize::new(0));
    let tasks = (0..4).map(|_| {
        let (client, inside) = (client.clone(), inside.clone());
        tokio::spawn(async move {
            let session = client.lease(PATIENCE).grant().await.unwrap();
            let mut barrier = client.double_barrier("/round", 4);
            for round in 0..5 {
                inside.fetch_add(1, Ordering::SeqCst);
                barrier.enter(&session).await.unwrap();
                assert!(inside.load(Ordering::SeqCst) >= 4 * (round + 1), "nobody begins before all are there");
                barrier.leave().await.unwrap();
            }
        })
    });
    within(join_all(tasks.collect::<Vec<_>>())).await.into_iter().for_each(|task| task.unwrap());
    assert_eq!(client.prefix("/round/").count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_counter_counts_each_call_once() {
    let (_member, client) = member().await;
    let counter = client.counter("/n");
    assert_eq!(counter.get().await.unwrap(), 0);
    let adds = (0..40).map(|_| client.counter("/n"));
    let seen = within(join_all(adds.map(|counter| async move { counter.add(1).await.unwrap() }))).await;
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=40).collect::<Vec<_>>(), "everybody gets a number of their own");
    assert_eq!(counter.compare_and_set(7, 0).await.unwrap(), Err(40));
    assert_eq!(counter.compare_and_set(40, -3).await.unwrap(), Ok(()));
    assert_eq!(counter.add(-2).await.unwrap(), -5);
    counter.compare_and_set(-5, i64::MAX).await.unwrap().unwrap();
    assert_eq!(counter.add(1).await.unwrap_err().kind(), ErrorKind::FixRequest);
    client.put("/n", "many").await.unwrap();
    assert!(counter.get().await.unwrap_err().to_string().contains("no counter"));
}

#[tokio::test]
async fn a_queue_gives_each_item_to_one_consumer_in_order_and_is_never_overfull() {
    let (_member, client) = member().await;
    let queue = client.queue("/q").capacity(5);
    assert!(queue.try_pop().await.unwrap().is_none());
    let (most, popped) = (Arc::new(AtomicI64::new(0)), Arc::new(parking_lot::Mutex::new(Vec::new())));
    let producers = (0..3).map(|producer| {
        let queue = queue.clone();
        tokio::spawn(async move {
            for nth in 0..20 {
                queue.push(format!("{producer}:{nth:02}")).await.unwrap();
            }
        })
    });
    let consumers = (0..2).map(|_| {
        let (queue, most, popped) = (queue.clone(), most.clone(), popped.clone());
        tokio::spawn(async move {
            for _ in 0..30 {
                most.fetch_max(i64::try_from(queue.len().await.unwrap()).unwrap(), Ordering::SeqCst);
                let item = queue.pop().await.unwrap();
                popped.lock().push(String::from_utf8(item.to_vec()).unwrap());
            }
        })
    });
    let all: Vec<_> = producers.collect::<Vec<_>>().into_iter().chain(consumers.collect::<Vec<_>>()).collect();
    within(join_all(all)).await.into_iter().for_each(|task| task.unwrap());
    assert!(most.load(Ordering::SeqCst) <= 5);
    let mut items = popped.lock().clone();
    items.sort();
    items.dedup();
    assert_eq!(items.len(), 60, "each once");

    // One consumer sees the order of each producer.
    for nth in 0..5 {
        queue.try_push(nth.to_string()).await.unwrap().unwrap();
    }
    assert_eq!(queue.try_push("6").await.unwrap().unwrap_err().items, 5);
    assert!(tokio::time::timeout(Duration::from_millis(50), queue.push("7")).await.is_err());
    for nth in 0..5 {
        assert_eq!(queue.pop().await.unwrap(), nth.to_string());
    }
    assert!(queue.try_pop().await.unwrap().is_none(), "a push that was dropped while it waited pushed nothing");
}
