//! The native API over real sockets, on a real single member, and on three.
//!
//! Invariants:
//! - Every refusal is checked by gRPC code and by the details that travel with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod doors;
mod support;

use std::time::Duration;

use doors::{Doors, Events, detail};
use prost::Message as _;
use quorate_proto::Key;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::{Happened, Kind};
use quorate_state::store::Pinned;
use quorate_state::view::View;
use tokio::time::Instant;
use tonic::{Code, Request};

fn put(key: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(key: &str) -> v1::GetRequest {
    v1::GetRequest { key: key.to_owned().into(), ..Default::default() }
}

fn range(start: &str, end: &str) -> v1::RangeRequest {
    v1::RangeRequest { start: start.to_owned().into(), end: end.to_owned().into(), ..Default::default() }
}

fn list(path: &str, page_size: u32) -> v1::ListRequest {
    v1::ListRequest { path: path.to_owned(), page_size, ..Default::default() }
}

fn op(op: v1::txn_op::Op) -> v1::TxnOp {
    v1::TxnOp { op: Some(op) }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code, kind: Kind) -> v1::ErrorDetail {
    let status = result.unwrap_err();
    let detail = detail(&status);
    assert_eq!((status.code(), detail.kind()), (code, kind), "{status}");
    detail
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_put_got_ranged_and_deleted() {
    let doors = Doors::single().await;
    let mut kv = doors.kv();
    let first = kv.put(put("/a/b", "1")).await.unwrap().into_inner();
    assert_eq!(first.header.unwrap().revision, 2);
    let second = kv.put(v1::PutRequest { return_previous: true, ..put("/a/b", "2") }).await.unwrap().into_inner();
    assert_eq!(second.previous.unwrap().value, "1");
    assert!(second.log_index > first.log_index);
    kv.put(put("plain", "3")).await.unwrap();
    let got = kv.get(get("/a/b")).await.unwrap().into_inner().kv.unwrap();
    assert_eq!((got.value, got.version, got.create_revision, got.mod_revision), ("2".into(), 2, 2, 3));
    let old = kv.get(v1::GetRequest { revision: 2, ..get("/a/b") }).await.unwrap().into_inner();
    assert_eq!(old.kv.unwrap().value, "1");
    assert_eq!(kv.get(get("/none")).await.unwrap().into_inner().kv, None);
    let all = kv.range(range("", "")).await.unwrap().into_inner();
    assert_eq!((all.kvs.len(), all.more), (2, false));
    let one = kv.range(v1::RangeRequest { limit: 1, order: 1, ..range("", "") }).await.unwrap().into_inner();
    assert_eq!((one.kvs[0].key.clone(), one.more), ("plain".into(), true));
    let count = kv.range(v1::RangeRequest { count_only: true, ..range("", "") }).await.unwrap().into_inner();
    assert_eq!((count.count, count.kvs.len()), (2, 0));
    let scope = v1::delete_request::Scope::Subtree.into();
    let gone = v1::DeleteRequest { key: "/a".into(), scope, ..Default::default() };
    assert_eq!(kv.delete(gone.clone()).await.unwrap().into_inner().deleted, 1);
    assert_eq!(kv.delete(gone).await.unwrap().into_inner().deleted, 0);
    doors.stop().await;
}

/// Whether a key that exists is answered without the store.
fn is_in_memory(doors: &Doors, key: &str) -> bool {
    let opened = doors.consensus.opened();
    // Asked for anything, a promise to show an empty store is broken.
    let store = Pinned::promised(&*opened.store, None);
    let key = Key::new(key.to_owned()).unwrap();
    let read = opened.hot.picture().map(|picture| View::of_picture(picture, store).get(&key, None));
    matches!(read, Some(Ok(Some(_))))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_ranges_that_are_read_again_and_again_come_to_be_in_memory() {
    let doors = Doors::single().await;
    let mut kv = doors.kv();
    for key in ["/a/one", "/a/two", "lone"] {
        kv.put(put(key, "1")).await.unwrap();
    }
    assert!(!is_in_memory(&doors, "lone"));
    let mut reads = 0;
    while !is_in_memory(&doors, "lone") {
        kv.get(get("lone")).await.unwrap();
        reads += 1;
        assert!(reads < 1_000);
    }
    assert!(!is_in_memory(&doors, "/a/one"));
    while !(is_in_memory(&doors, "/a/one") && is_in_memory(&doors, "/a/two")) {
        assert_eq!(kv.range(range("/a/", "/a0")).await.unwrap().into_inner().kvs.len(), 2);
        reads += 1;
        assert!(reads < 2_000);
    }
    kv.put(put("lone", "2")).await.unwrap();
    assert_eq!(kv.get(get("lone")).await.unwrap().into_inner().kv.unwrap().value, "2");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_listed_in_pages_of_one_revision() {
    let doors = Doors::single().await;
    let mut kv = doors.kv();
    for at in 0..25 {
        kv.put(put(&format!("/d/{at:02}"), &format!("v{at}"))).await.unwrap();
    }
    kv.put(put("/d/00/below", "x")).await.unwrap();
    let mut page = v1::ListRequest { with_values: true, ..list("/d", 10) };
    let mut names = Vec::new();
    let mut revisions = std::collections::BTreeSet::new();
    loop {
        let answer = kv.list(page.clone()).await.unwrap().into_inner();
        revisions.insert(answer.header.unwrap().revision);
        for child in &answer.children {
            assert_eq!(child.kv.as_ref().unwrap().value, format!("v{}", child.name.parse::<u32>().unwrap()));
            assert_eq!(child.is_directory, child.name == "00");
        }
        names.extend(answer.children.into_iter().map(|child| child.name));
        // A change between pages is not seen.
        kv.put(put("/d/99", "late")).await.unwrap();
        if answer.next_cursor.is_empty() {
            break;
        }
        page.cursor = answer.next_cursor;
    }
    assert_eq!(names, (0..25).map(|at| format!("{at:02}")).collect::<Vec<_>>());
    assert_eq!(revisions.len(), 1);
    let root = kv.list(list("/", 0)).await.unwrap().into_inner();
    assert_eq!((root.children.len(), root.children[0].name.as_str(), root.children[0].is_key), (1, "d", false));
    let stat = kv.stat(v1::StatRequest { path: "/d".into(), read: None }).await.unwrap().into_inner();
    assert_eq!((stat.kv, stat.directory.unwrap().children), (None, 26));
    let sequential = v1::PutRequest { sequential: true, ..put("/q", "x") };
    let made = kv.put(sequential.clone()).await.unwrap().into_inner();
    assert!(kv.put(sequential).await.unwrap().into_inner().key > made.key);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_answer_in_the_form_of_their_operations() {
    use v1::txn_op_response::Response;
    let doors = Doors::single().await;
    let mut kv = doors.kv();
    let compare =
        v1::Compare { key: "/a".into(), target: Some(v1::compare::Target::Exists(false)), ..v1::Compare::default() };
    let txn = v1::TxnRequest {
        compares: vec![compare],
        then: vec![
            op(v1::txn_op::Op::Put(put("/a", "1"))),
            op(v1::txn_op::Op::Get(get("/a"))),
            op(v1::txn_op::Op::Range(range("/", "0"))),
            op(v1::txn_op::Op::Txn(v1::TxnRequest {
                then: vec![op(v1::txn_op::Op::Put(put("/b", "2")))],
                ..Default::default()
            })),
        ],
        otherwise: vec![op(v1::txn_op::Op::Get(get("/a")))],
        ..Default::default()
    };
    let done = kv.txn(txn.clone()).await.unwrap().into_inner();
    assert!(done.succeeded);
    let forms: Vec<_> = done.responses.into_iter().map(|response| response.response.unwrap()).collect();
    assert!(matches!(&forms[0], Response::Put(put) if put.key == "/a"));
    assert!(matches!(&forms[1], Response::Get(get) if get.kv.as_ref().unwrap().value == "1"));
    assert!(matches!(&forms[2], Response::Range(range) if range.kvs.len() == 1));
    assert!(matches!(&forms[3], Response::Txn(txn) if txn.succeeded && txn.responses.len() == 1));
    let again = kv.txn(txn).await.unwrap().into_inner();
    assert!(!again.succeeded);
    assert!(matches!(again.responses[0].response, Some(Response::Get(_))));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_a_write_sent_twice_is_applied_once() {
    let doors = Doors::single().await;
    let mut kv = doors.kv();
    let id = |sequence| v1::WriteId { client_id: 77, sequence, lowest_unacknowledged: 1, seen_log_index: 0 };
    let txn = |sequence| v1::TxnRequest {
        id: Some(id(sequence)),
        then: vec![op(v1::txn_op::Op::Put(put("/a", "1")))],
        ..Default::default()
    };
    let first = kv.txn(txn(1)).await.unwrap().into_inner();
    let again = kv.txn(txn(1)).await.unwrap().into_inner();
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(first.header.unwrap().revision, again.header.unwrap().revision);
    kv.txn(txn(2)).await.unwrap();
    assert_eq!(kv.get(get("/a")).await.unwrap().into_inner().kv.unwrap().version, 2);
    let other = v1::PutRequest { id: Some(id(2)), ..put("/a", "3") };
    refused(kv.put(other).await, Code::InvalidArgument, Kind::InvalidArgument);
    doors.stop().await;
}

/// A put or a delete that asks for what stood there, whose answer is lost and which is sent again under its id, was answered
/// as if nothing had stood there. What stood there is not remembered; but that must be said.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_sent_twice_does_not_claim_that_nothing_stood_there() {
    let doors = Doors::single().await;
    let mut kv = doors.kv();
    kv.put(put("/a", "1")).await.unwrap();
    let id = |sequence| Some(v1::WriteId { client_id: 77, sequence, lowest_unacknowledged: 1, seen_log_index: 0 });
    let over = || v1::PutRequest { id: id(1), return_previous: true, ..put("/a", "2") };
    let first = kv.put(over()).await.unwrap().into_inner();
    assert_eq!((first.previous.unwrap().value, first.replayed), ("1".into(), false));
    let again = kv.put(over()).await.unwrap().into_inner();
    assert_eq!((again.previous, again.replayed), (None, true));
    let gone = || v1::DeleteRequest { id: id(2), key: "/a".into(), return_previous: true, ..Default::default() };
    let first = kv.delete(gone()).await.unwrap().into_inner();
    assert_eq!((first.deleted, first.previous.len(), first.replayed), (1, 1, false));
    let again = kv.delete(gone()).await.unwrap().into_inner();
    assert_eq!((again.deleted, again.previous.len(), again.replayed), (1, 0, true));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_code_and_details() {
    let doors = Doors::single().await;
    let mut kv = doors.kv();
    kv.put(put("/a", "1")).await.unwrap();
    let invalid = (Code::InvalidArgument, Kind::InvalidArgument);
    refused(kv.put(put("", "v")).await, invalid.0, invalid.1);
    refused(kv.put(put(&"k".repeat(4097), "v")).await, invalid.0, invalid.1);
    for path in ["", "a", "/a//b", "//", "/a/"] {
        refused(kv.list(list(path, 0)).await, invalid.0, invalid.1);
        refused(kv.stat(v1::StatRequest { path: path.into(), read: None }).await, invalid.0, invalid.1);
    }
    let not_utf8 = v1::PutRequest { key: vec![b'/', 0xff].into(), must_have_parent: true, ..put("", "") };
    refused(kv.put(not_utf8).await, invalid.0, invalid.1);
    let large = v1::PutRequest { value: vec![0; 1_572_865].into(), ..put("/a", "") };
    assert_eq!(refused(kv.put(large).await, Code::InvalidArgument, Kind::TooLarge).happened(), Happened::No);
    let ops = |count: usize| (0..count).map(|at| op(v1::txn_op::Op::Put(put(&format!("/{at}"), "")))).collect();
    let too_many = v1::TxnRequest { then: ops(129), ..Default::default() };
    refused(kv.txn(too_many).await, Code::InvalidArgument, Kind::TooLarge);
    let twice = v1::TxnRequest { then: [ops(1), ops(1)].concat(), ..Default::default() };
    refused(kv.txn(twice).await, invalid.0, invalid.1);
    let leased = v1::PutRequest { owner: Some(v1::put_request::Owner::LeaseId(99)), ..put("/a", "") };
    refused(kv.put(leased).await, Code::NotFound, Kind::LeaseNotFound);
    refused(kv.get(v1::GetRequest { revision: 900, ..get("/a") }).await, Code::OutOfRange, Kind::FutureRevision);
    let compact = |revision| v1::CompactRequest { id: None, revision };
    refused(kv.compact(compact(900)).await, Code::OutOfRange, Kind::FutureRevision);
    refused(kv.compact(compact(0)).await, invalid.0, invalid.1);
    kv.put(put("/a", "2")).await.unwrap();
    kv.compact(compact(3)).await.unwrap();
    let compacted = kv.get(v1::GetRequest { revision: 2, ..get("/a") }).await;
    assert_eq!(refused(compacted, Code::OutOfRange, Kind::Compacted).compact_revision, 3);
    let cursor = v1::ListRequest { cursor: "made up, long enough to be one".into(), ..list("/", 0) };
    refused(kv.list(cursor).await, invalid.0, invalid.1);
    refused(kv.list(list("/", 10_001)).await, invalid.0, invalid.1);
    let absent = Some(v1::Expect { what: Some(v1::expect::What::Absent(true)) });
    let there = kv.put(v1::PutRequest { expect: absent, ..put("/a", "") }).await;
    assert_eq!(refused(there, Code::FailedPrecondition, Kind::Precondition).current_mod_revision, 3);
    let overlap = v1::CopyRequest { from: "/a".into(), to: "/a/b".into(), ..Default::default() };
    refused(kv.copy(overlap).await, invalid.0, invalid.1);
    let mut timeout = Request::new(get("/a"));
    timeout.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    refused(kv.get(timeout).await, invalid.0, invalid.1);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_answer_every_item_by_its_tag() {
    use v1::batch_answer::Answer;
    use v1::batch_item::Request as Item;
    let doors = Doors::single().await;
    let mut batch = v1::batch_client::BatchClient::new(doors.channel());
    let item = |tag, request| v1::BatchItem { tag, timeout_ms: 0, request: Some(request) };
    let puts = (0..500).map(|tag| item(tag, Item::Put(put(&format!("/b/{tag}"), "v")))).collect();
    let others = vec![
        item(1_000, Item::Put(put("", "v"))),
        v1::BatchItem { tag: 1_001, timeout_ms: 0, request: None },
        item(1_002, Item::Get(get("/never"))),
    ];
    let requests = [v1::BatchRequest { items: puts }, v1::BatchRequest { items: others }];
    let mut answers = batch.execute(futures::stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = std::collections::BTreeMap::new();
    while let Some(message) = answers.message().await.unwrap() {
        for answer in message.answers {
            assert!(seen.insert(answer.tag, answer.answer.unwrap()).is_none(), "one answer an item");
        }
    }
    assert_eq!(seen.len(), 503);
    assert!((0..500).all(|tag| matches!(seen[&tag], Answer::Put(_))));
    for tag in [1_000, 1_001] {
        let Answer::Error(error) = &seen[&tag] else { panic!("{tag}") };
        assert_eq!(error.code, i32::from(Code::InvalidArgument));
        assert_eq!(error.detail.as_ref().unwrap().happened(), Happened::No);
    }
    assert!(matches!(&seen[&1_002], Answer::Get(get) if get.kv.is_none()));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_joint_history_and_live_meet_over_the_wire() {
    let doors = Doors::single().await;
    let mut kv = doors.kv();
    for at in 0..50 {
        kv.put(put(&format!("/w/{}", at % 5), "v")).await.unwrap();
    }
    let mut events = Events::open(&doors).await;
    let create = v1::WatchCreate {
        watch_id: 7,
        scope: v1::watch_create::Scope::Subtree.into(),
        key: "/w".into(),
        start_revision: 12,
        previous_values: true,
        ..Default::default()
    };
    events.create(create.clone()).await;
    let writer = tokio::spawn(async move {
        for at in 0..200 {
            kv.put(put(&format!("/w/{}", at % 5), "v")).await.unwrap();
        }
        kv
    });
    let mut seen = Vec::new();
    while seen.len() < 240 {
        for event in events.next().await.events {
            let (kv, previous) = (event.kv.unwrap(), event.previous);
            if let Some(previous) = previous {
                assert_eq!((previous.key, previous.version + 1), (kv.key, kv.version));
            }
            seen.push(kv.mod_revision);
        }
    }
    assert_eq!(seen, (12..252).collect::<Vec<i64>>());
    let mut kv = writer.await.unwrap();
    // A transaction is seen whole; a delete has only its key and revision.
    let scope = v1::delete_request::Scope::Subtree.into();
    kv.delete(v1::DeleteRequest { key: "/w".into(), scope, ..Default::default() }).await.unwrap();
    let message = events.next().await;
    assert_eq!((message.events.len(), message.fragment), (5, false));
    assert!(message.events.iter().all(|event| event.kind() == v1::event::Kind::Delete && !event.lease_ended));
    events.send(v1::watch_request::Request::Progress(v1::WatchProgress {})).await;
    assert_eq!(events.next().await.progress_revision, 252);
    // The same id twice, and a range that is none.
    events.send(v1::watch_request::Request::Create(create)).await;
    assert_eq!(events.next().await.end.unwrap().reason(), v1::watch_end::Reason::Invalid);
    kv.compact(v1::CompactRequest { id: None, revision: 100 }).await.unwrap();
    let old = v1::WatchCreate { watch_id: 8, key: "/w/1".into(), start_revision: 5, ..Default::default() };
    events.send(v1::watch_request::Request::Create(old)).await;
    assert!(events.next().await.created);
    let end = events.next().await.end.unwrap();
    assert_eq!((end.reason(), end.compact_revision), (v1::watch_end::Reason::Compacted, 100));
    events.send(v1::watch_request::Request::Cancel(v1::WatchCancel { watch_id: 7 })).await;
    assert_eq!(events.next().await.end.unwrap().reason(), v1::watch_end::Reason::Cancelled);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_comes_in_fragments() {
    let doors = Doors::single().await;
    let mut events = Events::open(&doors).await;
    let scope = v1::watch_create::Scope::Children.into();
    events.create(v1::WatchCreate { watch_id: 1, scope, key: "/f".into(), ..Default::default() }).await;
    let puts = (0..8).map(|at| op(v1::txn_op::Op::Put(put(&format!("/f/{at}"), &"x".repeat(1 << 20))))).collect();
    doors.kv().txn(v1::TxnRequest { then: puts, ..Default::default() }).await.unwrap();
    let mut sizes = Vec::new();
    let mut count = 0;
    while count < 8 {
        let message = events.next().await;
        count += message.events.len();
        sizes.push(message.encoded_len());
        assert_eq!(message.fragment, count < 8);
    }
    assert!(sizes.len() > 3 && sizes.iter().all(|bytes| *bytes < 3 << 20));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_in_time_and_never_early() {
    let doors = Doors::single().await;
    let (mut kv, mut lease) = (doors.kv(), doors.lease());
    let mut events = Events::open(&doors).await;
    let scope = v1::watch_create::Scope::Subtree.into();
    events.create(v1::WatchCreate { watch_id: 1, scope, key: "/l".into(), ..Default::default() }).await;
    let sent = Instant::now();
    let granted = lease.grant(v1::GrantRequest { ttl_ms: 1_000, ..Default::default() }).await.unwrap().into_inner();
    assert!(granted.lease_id > 0);
    let owner = Some(v1::put_request::Owner::LeaseId(granted.lease_id));
    kv.put(v1::PutRequest { owner, ..put("/l/a", "1") }).await.unwrap();
    kv.put(v1::PutRequest { owner, ..put("/l/b", "1") }).await.unwrap();
    events.next_events(2).await;
    let ask = v1::TimeToLiveRequest { lease_id: granted.lease_id, with_keys: true, ..Default::default() };
    let left = lease.time_to_live(ask.clone()).await.unwrap().into_inner();
    assert!(left.remaining_ms <= 1_000 && left.remaining_ms > 500 && left.keys.len() == 2, "{left:?}");
    let gone = events.next_events(2).await;
    let took = sent.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    assert!(gone.iter().all(|event| event.lease_ended && event.kind() == v1::event::Kind::Delete));
    let revisions: std::collections::BTreeSet<_> =
        gone.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect();
    assert_eq!(revisions.len(), 1, "all keys of a lease go in one revision");
    assert_eq!(lease.time_to_live(ask).await.unwrap().into_inner().granted_ttl_ms, 0);
    // A key with a time to live of its own.
    let sent = Instant::now();
    let owner = Some(v1::put_request::Owner::TtlMs(600));
    let put = kv.put(v1::PutRequest { owner, ..put("/l/own", "1") }).await.unwrap().into_inner();
    assert!(put.lease_id > 0);
    events.next_events(2).await;
    assert!(sent.elapsed() >= Duration::from_millis(600));
    assert_eq!(lease.list_leases(v1::ListLeasesRequest::default()).await.unwrap().into_inner().lease_ids, [0_i64; 0]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_kept_alive_live_and_revoked_ones_do_not() {
    let doors = Doors::single().await;
    let mut lease = doors.lease();
    let grant = v1::GrantRequest { ttl_ms: 700, lease_id: 42, ..Default::default() };
    lease.grant(grant).await.unwrap();
    refused(lease.grant(grant).await, Code::AlreadyExists, Kind::LeaseExists);
    let wrong = v1::GrantRequest { ttl_ms: 499, ..Default::default() };
    refused(lease.grant(wrong).await, Code::InvalidArgument, Kind::InvalidArgument);
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = lease.keep_alive(requests).await.unwrap().into_inner();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2_500) {
        sender.send(v1::KeepAliveRequest { lease_id: 42 }).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().ttl_ms, 700);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    lease.revoke(v1::RevokeRequest { id: None, lease_id: 42 }).await.unwrap();
    sender.send(v1::KeepAliveRequest { lease_id: 42 }).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl_ms, 0);
    refused(lease.revoke(v1::RevokeRequest { id: None, lease_id: 42 }).await, Code::NotFound, Kind::LeaseNotFound);
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_and_their_keys_are_listed_in_pages() {
    let doors = Doors::single().await;
    let (mut kv, mut lease) = (doors.kv(), doors.lease());
    let ids: Vec<i64> = (-3..1_200).filter(|id| *id != 0).collect();
    for lease_id in &ids {
        let grant = v1::GrantRequest { ttl_ms: 600_000, lease_id: *lease_id, ..Default::default() };
        lease.grant(grant).await.unwrap();
    }
    let mut page = v1::ListLeasesRequest { page_size: 500, ..Default::default() };
    let (mut found, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let answer = lease.list_leases(page.clone()).await.unwrap().into_inner();
        sizes.push(answer.lease_ids.len());
        found.extend(answer.lease_ids);
        if answer.next_cursor.is_empty() {
            break;
        }
        page.cursor = answer.next_cursor;
    }
    assert_eq!((found, sizes), (ids, vec![500, 500, 202]));
    let first = lease.list_leases(v1::ListLeasesRequest::default()).await.unwrap().into_inner();
    assert_eq!((first.lease_ids.len(), first.next_cursor.is_empty()), (1_000, false));
    let cursor_of_leases = first.next_cursor;

    // Keys: pages are cut by number and by bytes. A page that holds exactly the rest is the last.
    let key = |n: usize| format!("{n:04}{}", "k".repeat(4_000));
    for n in 0..900 {
        kv.put(v1::PutRequest { owner: Some(v1::put_request::Owner::LeaseId(7)), ..put(&key(n), "") }).await.unwrap();
    }
    let mut ask = v1::TimeToLiveRequest { lease_id: 7, with_keys: true, page_size: 450, ..Default::default() };
    let first = lease.time_to_live(ask.clone()).await.unwrap().into_inner();
    let second = v1::TimeToLiveRequest { cursor: first.next_cursor.clone(), ..ask.clone() };
    let second = lease.time_to_live(second).await.unwrap().into_inner();
    assert_eq!((first.keys.len(), second.keys.len(), second.next_cursor.is_empty()), (450, 450, true));
    assert_eq!((&first.keys[449][..4], &second.keys[0][..4]), (&b"0449"[..], &b"0450"[..]));
    ask.page_size = 10_000;
    let large = lease.time_to_live(ask.clone()).await.unwrap().into_inner();
    assert!((700..800).contains(&large.keys.len()) && !large.next_cursor.is_empty(), "{}", large.keys.len());
    let rest = v1::TimeToLiveRequest { cursor: large.next_cursor.clone(), ..ask.clone() };
    let rest = lease.time_to_live(rest).await.unwrap().into_inner();
    assert_eq!((large.keys.len() + rest.keys.len(), rest.next_cursor.is_empty()), (900, true));

    // Cursors belong to one listing.
    for cursor in ["made up, long enough to be one".into(), cursor_of_leases] {
        let asked = lease.time_to_live(v1::TimeToLiveRequest { cursor, ..ask.clone() }).await;
        refused(asked, Code::InvalidArgument, Kind::InvalidArgument);
    }
    let other = v1::TimeToLiveRequest { lease_id: 8, cursor: large.next_cursor.clone(), ..ask.clone() };
    refused(lease.time_to_live(other).await, Code::InvalidArgument, Kind::InvalidArgument);
    let listed = lease.list_leases(v1::ListLeasesRequest { cursor: large.next_cursor, page_size: 1 }).await;
    refused(listed, Code::InvalidArgument, Kind::InvalidArgument);
    let listed = lease.list_leases(v1::ListLeasesRequest { page_size: 10_001, ..Default::default() }).await;
    refused(listed, Code::InvalidArgument, Kind::InvalidArgument);

    // etcd's wire knows no pages: it answers whole.
    let mut wire = quorate_proto::etcd::etcdserverpb::lease_client::LeaseClient::new(doors.channel());
    let ask = quorate_proto::etcd::etcdserverpb::LeaseTimeToLiveRequest { id: 7, keys: true };
    assert_eq!(wire.lease_time_to_live(ask).await.unwrap().into_inner().keys.len(), 900);
    let all = wire.lease_leases(quorate_proto::etcd::etcdserverpb::LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert_eq!(all.leases.len(), 1_202);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_digest_snapshot_health_and_reflection_answer() {
    use quorate_server::archive;
    let doors = Doors::single().await;
    for at in 0..100 {
        doors.kv().put(put(&format!("/s/{at}"), "v")).await.unwrap();
    }
    let mut admin = doors.admin();
    let status = admin.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.keys, status.header.unwrap().revision, status.alarms.len()), (100, 101, 0));
    assert!(status.leader_id != 0 && status.store_bytes > 0 && status.disk_free_bytes > 0);
    let digest = admin.digest(v1::DigestRequest { log_index: 0 }).await.unwrap().into_inner();
    assert_eq!((digest.digest, digest.log_index), (status.digest, status.digest_index));
    refused(admin.digest(v1::DigestRequest { log_index: 3 }).await, Code::InvalidArgument, Kind::InvalidArgument);
    let mut chunks = admin.snapshot(v1::SnapshotRequest {}).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    let mut total = 0;
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert_eq!(chunk.revision, 101);
        total += chunk.total_bytes;
        bytes.extend_from_slice(&chunk.data);
    }
    assert_eq!(bytes.len() as u64, total);
    assert!(!archive::verify(&bytes[..]).unwrap().files.is_empty());
    let mut health = tonic_health::pb::health_client::HealthClient::new(doors.channel());
    let check = tonic_health::pb::HealthCheckRequest { service: "quorate.v1.Kv".into() };
    assert_eq!(health.check(check).await.unwrap().into_inner().status, 1);
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(doors.channel());
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = reflection.server_reflection_info(futures::stream::iter([ask])).await.unwrap().into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(answer.contains("quorate.v1.Kv") && answer.contains("quorate.v1.Watch"));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_answers_what_is_under_way_and_ends_streams() {
    let doors = Doors::single().await;
    let mut events = Events::open(&doors).await;
    events.create(v1::WatchCreate { watch_id: 1, key: "/a".into(), ..Default::default() }).await;
    let mut kv = doors.kv();
    let writer = tokio::spawn(async move {
        let mut written = 0;
        while kv.put(put("/a", "v")).await.is_ok() {
            written += 1;
        }
        (written, kv)
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    doors.drain().await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let (written, _) = writer.await.unwrap();
    assert!(written > 0);
    let last = loop {
        match events.try_next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!((last.code(), detail(&last).kind()), (Code::Unavailable, Kind::ShuttingDown));
    assert_eq!(doors.version_of("/a"), written, "each write that was answered is there, and no other");
    doors.stop().await;
}
