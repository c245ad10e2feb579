//! Calls against fakes: failover, retries, request ids, deadlines.
//!
//! Invariants:
//! - Every test names in its story what the member does and what the caller must see.

use std::time::{Duration, Instant};

use quorate_proto::v1::error_detail::{Happened as WireHappened, Kind as WireKind};

use crate::fake::{Reply, Script, refusal, usual};
use crate::{Client, ErrorKind, Happened, Member, Op, Reason, Txn};

fn client_of(addresses: &[&String]) -> Client {
    Client::builder().endpoints(addresses).build().unwrap()
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let alive = Script::default().start();
    let dead = Script::default().start();
    let dead_address = dead.address.clone();
    drop(dead);
    // Whichever the client begins with.
    for _ in 0..8 {
        let client = client_of(&[&dead_address, &alive.address]);
        client.put("/a", "1").await.unwrap();
        assert!(client.get("/a").await.unwrap().kv.is_none());
    }
}

#[tokio::test]
async fn when_its_member_dies_the_client_goes_on_with_another() {
    let (one, two) = (Script::default().start(), Script::default().start());
    let client = client_of(&[&one.address, &two.address]);
    client.put("/a", "1").await.unwrap();
    let (used, left) = if one.put_ids().is_empty() { (two, one) } else { (one, two) };
    drop(used);
    for _ in 0..20 {
        client.put("/a", "2").await.unwrap();
    }
    assert_eq!(left.put_ids().len(), 20);
}

#[tokio::test]
async fn a_write_in_doubt_is_sent_again_under_its_id() {
    for batching in [true, false] {
        let fake = Script::default()
            .on_item(|nth, item| if nth < 2 { Reply::Break } else { Reply::Answer(usual(item)) })
            .start();
        let client = Client::builder().endpoints([&fake.address]).batching(batching).build().unwrap();
        client.put("/a", "1").await.unwrap();
        client.put("/b", "1").await.unwrap();
        let ids = fake.put_ids();
        assert_eq!(ids.iter().map(|id| id.sequence).collect::<Vec<_>>(), [1, 1, 1, 2]);
        assert!(ids.iter().all(|id| id.client_id == ids[0].client_id && id.client_id != 0));
        assert_eq!(ids[3].lowest_unacknowledged, 2, "the first is acknowledged");
        assert_eq!(ids[..3].iter().map(|id| id.seen_log_index).collect::<Vec<_>>(), [42; 3], "as of its first sending");
        assert_eq!(ids[3].seen_log_index, 100, "of the first answer");
    }
}

#[tokio::test]
async fn the_log_index_is_asked_for_once_before_the_first_writes() {
    let fake = Script::default().start();
    let client = fake.client();
    futures::future::join_all((0..50).map(|_| client.put("/a", "1").into_future())).await;
    assert_eq!(fake.script.seen.lock().statuses, 1);
    assert!(fake.put_ids().iter().all(|id| id.seen_log_index >= 42));
}

#[tokio::test]
async fn it_comes_back_when_the_member_says() {
    let busy = || refusal(WireKind::Overloaded, WireHappened::No, 150);
    let fake = Script::default()
        .on_item(move |nth, item| if nth == 0 { Reply::Refuse(busy()) } else { Reply::Answer(usual(item)) })
        .start();
    let client = fake.client();
    let began = Instant::now();
    client.put("/a", "1").await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(150));

    let long = || refusal(WireKind::Overloaded, WireHappened::No, 4000);
    let fake = Script::default().on_item(move |_, _| Reply::Refuse(long())).start();
    let began = Instant::now();
    let error = fake.client().put("/a", "1").deadline(Duration::from_secs(3)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(2), "there is no point in waiting");
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Retry, Some(Duration::from_secs(4))));
}

#[tokio::test]
async fn what_cannot_succeed_is_not_retried() {
    for (kind, next) in [
        (WireKind::Precondition, ErrorKind::FixRequest),
        (WireKind::InvalidArgument, ErrorKind::FixRequest),
        (WireKind::LeaseNotFound, ErrorKind::Reacquire),
        (WireKind::RequestExpired, ErrorKind::GiveUp),
        (WireKind::DiskSpace, ErrorKind::Retry),
    ] {
        let fake = Script::default().on_item(move |_, _| Reply::Refuse(refusal(kind, WireHappened::No, 0))).start();
        let error = fake.client().put("/a", "1").await.unwrap_err();
        assert_eq!(error.kind(), next, "{kind:?}");
        assert_eq!(fake.put_ids().len(), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_hanging_member_costs_the_deadline_and_leaves_an_id_to_ask_again() {
    let fake =
        Script::default().on_item(|nth, item| if nth == 0 { Reply::Hang } else { Reply::Answer(usual(item)) }).start();
    let client = fake.client();
    let began = Instant::now();
    let error = client.put("/a", "1").deadline(Duration::from_millis(200)).await.unwrap_err();
    assert!((180..1000).contains(&began.elapsed().as_millis()));
    assert_eq!((error.kind(), error.happened()), (ErrorKind::RetrySameId, Happened::Unknown));

    let id = error.write_id().unwrap();
    drop(error);
    client.put("/b", "1").await.unwrap();
    client.put("/a", "1").write_id(id).await.unwrap();
    client.put("/c", "1").await.unwrap();
    let ids: Vec<_> = fake.put_ids().iter().map(|id| (id.sequence, id.lowest_unacknowledged)).collect();
    assert_eq!(ids, [(1, 1), (2, 1), (1, 1), (3, 3)], "the id in doubt is kept until it is decided");
}

#[tokio::test]
async fn with_another_endpoint_a_hanging_member_does_not_cost_the_deadline() {
    let hanging = Script::default().on_item(|_, _| Reply::Hang).start();
    let alive = Script::default().start();
    for _ in 0..6 {
        let client = client_of(&[&hanging.address, &alive.address]);
        client.put("/a", "1").deadline(Duration::from_secs(1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_that_fails_never_happened() {
    let fake = Script::default().on_item(|_, _| Reply::Hang).start();
    let error = fake.client().get("/a").deadline(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!((error.kind(), error.happened()), (ErrorKind::Retry, Happened::No));
    assert!(error.write_id().is_none());
}

#[tokio::test]
async fn a_later_refusal_does_not_undo_the_doubt() {
    let fake = Script::default()
        .on_item(|nth, _| match nth {
            0 => Reply::Break,
            _ => Reply::Refuse(refusal(WireKind::NoQuorum, WireHappened::No, 0)),
        })
        .start();
    let error = fake.client().put("/a", "1").deadline(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!((error.kind(), error.happened()), (ErrorKind::RetrySameId, Happened::Unknown));
    assert_eq!(error.reason(), Some(Reason::NoQuorum), "{error}");
}

#[tokio::test]
async fn a_transaction_that_only_reads_has_no_id() {
    let fake = Script::default().start();
    let client = fake.client();
    client.txn(Txn::new().then(Op::get("/a"))).await.unwrap();
    client.txn(Txn::new().then(Op::txn(Txn::new().otherwise(Op::delete("/a"))))).await.unwrap();
    let seen = fake.script.seen.lock();
    let ids: Vec<bool> = seen
        .items
        .iter()
        .map(|item| matches!(item, quorate_proto::v1::batch_item::Request::Txn(txn) if txn.id.is_some()))
        .collect();
    assert_eq!(ids, [false, true]);
}

#[tokio::test]
async fn a_change_of_membership_in_doubt_is_not_sent_twice() {
    let fake = Script::default().start();
    let member = Member {
        id: None,
        name: "n4".into(),
        peer_address: String::new(),
        client_address: String::new(),
        learner: true,
    };
    let error = fake.client().member_add(member, 1).await.unwrap_err();
    assert_eq!((error.happened(), fake.script.seen.lock().member_adds), (Happened::Unknown, 1));
}

#[tokio::test]
async fn an_id_of_another_client_is_refused() {
    let fake = Script::default().on_item(|_, _| Reply::Hang).start();
    let error = fake.client().put("/a", "1").deadline(Duration::from_millis(300)).await.unwrap_err();
    let id = error.write_id().unwrap();
    let error = fake.client().put("/a", "1").write_id(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FixRequest);
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let dead = Script::default().start();
    let address = dead.address.clone();
    drop(dead);
    let error =
        Client::builder().endpoints([&address]).deadline(Duration::from_millis(300)).connect().await.unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
}

#[tokio::test]
async fn a_snapshot_that_is_cut_off_is_an_error() {
    use futures::TryStreamExt as _;
    let fake = Script::default().start();
    let snapshot = fake.client().snapshot().await.unwrap();
    assert_eq!((snapshot.total_bytes(), snapshot.revision().get()), (6, 9));
    let error = snapshot.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(error.to_string().contains("5 of 6 bytes"), "{error}");
}
