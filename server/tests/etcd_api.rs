//! etcd's wire over real sockets, on a real single member: keys, transactions, compaction, leases, members, status.
//!
//! Invariants:
//! - Codes and texts of refusals are compared to the letter: clients do that too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod doors;
mod support;

use std::time::Duration;

use doors::Doors;
use doors::etcd::{delete, kv, lease, maintenance, names, put, range, refused, whole, with_leader};
use doors::three::Three;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::v1;
use quorate_server::consensus::Leadership;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.unwrap().revision
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_store_is_at_revision_one_and_headers_say_who_answers() {
    let doors = Doors::single().await;
    let answer = kv(&doors).range(range("a", "")).await.unwrap().into_inner();
    let header = answer.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.revision), (0xc1, 1, 1));
    assert!(header.raft_term > 0);
    assert_eq!((answer.count, answer.more, answer.kvs.len()), (0, false, 0));
    assert_eq!(revision(kv(&doors).put(put("a", "1")).await.unwrap().into_inner().header), 2);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_one_key_a_prefix_or_all_from_a_key_on() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for key in ["a", "b", "ba", "c"] {
        kv.put(put(key, key)).await.unwrap();
    }
    for (key, end, found) in [
        ("b", "", vec!["b"]),
        ("b", "c", vec!["b", "ba"]),
        ("b", "\0", vec!["b", "ba", "c"]),
        ("\0", "\0", vec!["a", "b", "ba", "c"]),
        ("c", "b", vec![]),
        ("x", "", vec![]),
    ] {
        let answer = kv.range(range(key, end)).await.unwrap().into_inner();
        assert_eq!((names(&answer.kvs), answer.more), (found.iter().map(|key| (*key).to_owned()).collect(), false));
        assert_eq!((answer.count, revision(answer.header)), (i64::try_from(found.len()).unwrap(), 5), "{key} {end}");
    }
    refused(kv.range(range("", "")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn count_is_of_all_keys_whatever_the_limit() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for at in 0..250 {
        kv.put(put(&format!("k{at:03}"), "v")).await.unwrap();
    }
    let limited = kv.range(pb::RangeRequest { limit: 3, ..range("k", "l") }).await.unwrap().into_inner();
    assert_eq!(
        (names(&limited.kvs), limited.more, limited.count),
        (["k000", "k001", "k002"].map(str::to_owned).to_vec(), true, 250)
    );
    let all = kv.range(range("k", "l")).await.unwrap().into_inner();
    assert_eq!((all.kvs.len(), all.more, all.count), (250, false, 250));
    let counted =
        kv.range(pb::RangeRequest { count_only: true, limit: 2, ..range("k", "l") }).await.unwrap().into_inner();
    assert_eq!((counted.kvs.len(), counted.more, counted.count), (0, false, 250));
    let keys = kv.range(pb::RangeRequest { keys_only: true, limit: 1, ..range("k", "l") }).await.unwrap().into_inner();
    assert_eq!((whole(&keys.kvs[0]), keys.count), ((String::new(), 2, 2, 1, 0), 250));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_revisions_are_read_until_they_are_compacted() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    let at = |revision| pb::RangeRequest { revision, ..range("a", "") };
    let old = kv.range(at(2)).await.unwrap().into_inner();
    assert_eq!((whole(&old.kvs[0]), revision(old.header)), (("1".into(), 2, 2, 1, 0), 4));
    assert_eq!(whole(&kv.range(at(-1)).await.unwrap().into_inner().kvs[0]).0, "3");
    refused(kv.range(at(5)).await, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    let compact = |revision| pb::CompactionRequest { revision, physical: false };
    refused(kv.compact(compact(5)).await, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    assert_eq!(revision(kv.compact(compact(3)).await.unwrap().into_inner().header), 4);
    assert_eq!(whole(&kv.range(at(3)).await.unwrap().into_inner().kvs[0]).0, "2");
    refused(kv.range(at(2)).await, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    for again in [3, 2, -1] {
        let text = "etcdserver: mvcc: required revision has been compacted";
        refused(kv.compact(compact(again)).await, Code::OutOfRange, text);
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_filtered_sorted_and_cut_in_that_order() {
    use pb::range_request::{SortOrder, SortTarget};
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    // c: 2; a: 3, 6; b: 4; d: 5, 7, 8.
    for (key, value) in [("c", "1"), ("a", "3"), ("b", "2"), ("d", "2"), ("a", "9"), ("d", "0"), ("d", "5")] {
        kv.put(put(key, value)).await.unwrap();
    }
    let sorted = |order: SortOrder, target: SortTarget, limit| pb::RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        limit,
        ..range("a", "e")
    };
    let bounded = |min, max, limit| pb::RangeRequest {
        min_mod_revision: min,
        max_create_revision: max,
        limit,
        ..range("a", "e")
    };
    for (request, found, more) in [
        (sorted(SortOrder::Descend, SortTarget::Key, 2), "dc", true),
        (sorted(SortOrder::Ascend, SortTarget::Version, 0), "bcad", false),
        (sorted(SortOrder::Descend, SortTarget::Version, 0), "dabc", false),
        (sorted(SortOrder::Ascend, SortTarget::Create, 3), "cab", true),
        (sorted(SortOrder::Descend, SortTarget::Mod, 1), "d", true),
        (sorted(SortOrder::Ascend, SortTarget::Value, 0), "cbda", false),
        // Without an order the limit is the window that is sorted: a and b.
        (sorted(SortOrder::None, SortTarget::Mod, 1), "b", true),
        (sorted(SortOrder::None, SortTarget::Mod, 0), "cbad", false),
        (bounded(6, 0, 0), "ad", false),
        (bounded(4, 4, 1), "a", true),
    ] {
        let answer = kv.range(request.clone()).await.unwrap().into_inner();
        assert_eq!((names(&answer.kvs).concat().as_str(), answer.more, answer.count), (found, more, 4), "{request:?}");
    }
    let by_value = pb::RangeRequest { keys_only: true, ..sorted(SortOrder::Ascend, SortTarget::Value, 0) };
    let answer = kv.range(by_value).await.unwrap().into_inner();
    assert!(names(&answer.kvs).concat() == "cbda" && answer.kvs.iter().all(|kv| kv.value.is_empty()));
    for wrong in
        [pb::RangeRequest { sort_order: 9, ..range("a", "") }, pb::RangeRequest { sort_target: 9, ..range("a", "") }]
    {
        refused(kv.range(wrong).await, Code::InvalidArgument, "etcdserver: invalid sort option");
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_says_what_stood_there_and_may_keep_value_or_lease() {
    let doors = Doors::single().await;
    let (mut kv, mut lease) = (kv(&doors), lease(&doors));
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 7 }).await.unwrap();
    let first = kv.put(pb::PutRequest { lease: 7, prev_kv: true, ..put("a", "1") }).await.unwrap().into_inner();
    assert_eq!(first.prev_kv, None);
    let kept = pb::PutRequest { ignore_value: true, lease: 7, prev_kv: true, ..put("a", "") };
    assert_eq!(whole(&kv.put(kept).await.unwrap().into_inner().prev_kv.unwrap()), ("1".into(), 2, 2, 1, 7));
    kv.put(pb::PutRequest { ignore_lease: true, ..put("a", "2") }).await.unwrap();
    assert_eq!(whole(&kv.range(range("a", "")).await.unwrap().into_inner().kvs[0]), ("2".into(), 2, 4, 3, 7));
    kv.put(put("a", "3")).await.unwrap();
    assert_eq!(whole(&kv.range(range("a", "")).await.unwrap().into_inner().kvs[0]), ("3".into(), 2, 5, 4, 0));
    let attached = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 7, keys: true }).await.unwrap();
    assert!(attached.into_inner().keys.is_empty(), "a put without a lease lets go of it");
    for (request, code, text) in [
        (put("", "1"), Code::InvalidArgument, "etcdserver: key is not provided"),
        (
            pb::PutRequest { ignore_value: true, ..put("a", "1") },
            Code::InvalidArgument,
            "etcdserver: value is provided",
        ),
        (
            pb::PutRequest { ignore_lease: true, lease: 7, ..put("a", "1") },
            Code::InvalidArgument,
            "etcdserver: lease is provided",
        ),
        (pb::PutRequest { ignore_value: true, ..put("x", "") }, Code::InvalidArgument, "etcdserver: key not found"),
        (pb::PutRequest { ignore_lease: true, ..put("x", "1") }, Code::InvalidArgument, "etcdserver: key not found"),
        (pb::PutRequest { lease: 8, ..put("x", "1") }, Code::NotFound, "etcdserver: requested lease not found"),
        (
            pb::PutRequest { lease: 8, ignore_value: true, ..put("x", "") },
            Code::NotFound,
            "etcdserver: requested lease not found",
        ),
        (put("x", &"v".repeat(1_572_864)), Code::InvalidArgument, "etcdserver: request is too large"),
    ] {
        refused(kv.put(request).await, code, text);
    }
    let now = kv.range(range("x", "")).await.unwrap().into_inner();
    assert_eq!((now.count, revision(now.header)), (0, 5), "what was refused changed nothing");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_of_nothing_is_no_revision_and_one_of_many_is_one() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for key in ["a", "b", "c"] {
        kv.put(put(key, key)).await.unwrap();
    }
    let none = kv.delete_range(delete("x", "z")).await.unwrap().into_inner();
    assert_eq!((none.deleted, revision(none.header)), (0, 4));
    let two = kv.delete_range(pb::DeleteRangeRequest { prev_kv: true, ..delete("a", "c") }).await.unwrap().into_inner();
    assert_eq!((two.deleted, revision(two.header), names(&two.prev_kvs).concat().as_str()), (2, 5, "ab"));
    let rest = kv.delete_range(delete("\0", "\0")).await.unwrap().into_inner();
    assert_eq!((rest.deleted, revision(rest.header), rest.prev_kvs.len()), (1, 6, 0));
    refused(kv.delete_range(delete("", "")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_through_this_door_knows_no_bound() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for block in 0..100 {
        let success = (0..128).map(|at| op_put(&format!("k{block:03}/{at:03}"), "v")).collect();
        kv.txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap();
    }
    let gone = kv.delete_range(delete("k", "l")).await.unwrap().into_inner();
    assert_eq!((gone.deleted, revision(gone.header)), (12_800, 102));
    doors.stop().await;
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn op_put(key: &str, value: &str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(put(key, value)))
}

fn op_range(key: &str, end: &str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestRange(range(key, end)))
}

fn op_delete(key: &str, end: &str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestDeleteRange(delete(key, end)))
}

fn op_txn(txn: pb::TxnRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestTxn(txn))
}

fn compare(key: &str, end: &str, result: i32, union: pb::compare::TargetUnion) -> pb::Compare {
    use pb::compare::{CompareTarget, TargetUnion};
    let target = match &union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare {
        result,
        target: target.into(),
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        target_union: Some(union),
    }
}

const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const LESS: i32 = 2;
const NOT_EQUAL: i32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn compares_are_of_one_key_or_of_every_key_of_a_range() {
    use pb::compare::TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    lease(&doors).lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 7 }).await.unwrap();
    kv.put(pb::PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    kv.put(put("b", "2")).await.unwrap();
    for (compare, holds) in [
        (compare("a", "", EQUAL, Version(1)), true),
        (compare("a", "", GREATER, CreateRevision(1)), true),
        (compare("b", "", LESS, ModRevision(3)), false),
        (compare("a", "", EQUAL, Lease(7)), true),
        (compare("b", "", NOT_EQUAL, Lease(0)), false),
        (compare("a", "", LESS, Value("2".into())), true),
        // A missing key is 0 in every number, and no value at all.
        (compare("x", "", EQUAL, Version(0)), true),
        (compare("x", "", EQUAL, CreateRevision(0)), true),
        (compare("x", "", NOT_EQUAL, Value("1".into())), false),
        (compare("a", "c", GREATER, Version(0)), true),
        (compare("a", "\0", EQUAL, Value("1".into())), false),
        // So is a range without keys.
        (compare("x", "z", GREATER, Version(0)), false),
        (compare("x", "z", EQUAL, Version(0)), true),
        (compare("x", "z", NOT_EQUAL, Value("1".into())), false),
    ] {
        // Both through the log and on a view.
        for write in [false, true] {
            let success = if write { vec![op_put("w", "1")] } else { vec![] };
            let txn = pb::TxnRequest { compare: vec![compare.clone()], success, failure: vec![] };
            assert_eq!(kv.txn(txn).await.unwrap().into_inner().succeeded, holds, "{compare:?} {write}");
            kv.delete_range(delete("w", "")).await.unwrap();
        }
    }
    let union_of_another_kind = pb::Compare { target: 0, ..compare("x", "", EQUAL, Value("1".into())) };
    let txn = pb::TxnRequest { compare: vec![union_of_another_kind], ..Default::default() };
    assert!(kv.txn(txn).await.unwrap().into_inner().succeeded, "it compares with zero");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_one_revision_and_its_operations_see_those_before_them() {
    use pb::compare::TargetUnion::Version;
    use pb::response_op::Response;
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    kv.put(put("d", "0")).await.unwrap();
    let nested = pb::TxnRequest {
        // Decided on the state before the transaction: `a` is not there.
        compare: vec![compare("a", "", EQUAL, Version(1))],
        success: vec![op_put("seen", "1")],
        failure: vec![op_put("not-seen", "1")],
    };
    let txn = pb::TxnRequest {
        compare: vec![compare("a", "", EQUAL, Version(0))],
        success: vec![
            op_range("d", ""),
            op_delete("x", ""),
            op_put("a", "1"),
            op_range("a", ""),
            op_txn(nested),
            op_delete("d", ""),
        ],
        failure: vec![],
    };
    let done = kv.txn(txn).await.unwrap().into_inner();
    assert!(done.succeeded && revision(done.header) == 3);
    let inner: Vec<_> = done.responses.into_iter().map(|response| response.response.unwrap()).collect();
    let revisions: Vec<i64> = inner
        .iter()
        .map(|response| match response {
            Response::ResponseRange(answer) => answer.header.unwrap(),
            Response::ResponsePut(answer) => answer.header.unwrap(),
            Response::ResponseDeleteRange(answer) => answer.header.unwrap(),
            Response::ResponseTxn(answer) => answer.header.unwrap(),
        })
        .map(|header| {
            assert_eq!((header.cluster_id, header.member_id, header.raft_term), (0, 0, 0));
            header.revision
        })
        .collect();
    assert_eq!(revisions, [2, 2, 3, 3, 0, 3]);
    assert!(matches!(&inner[3], Response::ResponseRange(answer) if whole(&answer.kvs[0]) == ("1".into(), 3, 3, 1, 0)));
    assert!(matches!(&inner[4], Response::ResponseTxn(answer) if !answer.succeeded && answer.responses.len() == 1));
    assert_eq!(kv.range(range("seen", "")).await.unwrap().into_inner().count, 0);
    assert_eq!(whole(&kv.range(range("not-seen", "")).await.unwrap().into_inner().kvs[0]), ("1".into(), 3, 3, 1, 0));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_fails_in_its_branch_changes_nothing() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    kv.put(put("a", "1")).await.unwrap();
    kv.put(put("a", "2")).await.unwrap();
    kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.unwrap();
    let range_at =
        |revision| op(pb::request_op::Request::RequestRange(pb::RangeRequest { revision, ..range("a", "") }));
    let lease = op(pb::request_op::Request::RequestPut(pb::PutRequest { lease: 9, ..put("y", "1") }));
    for (fails, code, text) in [
        (range_at(9), Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        (range_at(2), Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        (lease, Code::NotFound, "etcdserver: requested lease not found"),
    ] {
        let txn = pb::TxnRequest { success: vec![op_put("x", "1"), fails], ..Default::default() };
        refused(kv.txn(txn).await, code, text);
    }
    let now = kv.range(range("x", "")).await.unwrap().into_inner();
    assert_eq!((now.count, revision(now.header)), (0, 3));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_have_bounds_and_change_a_key_once() {
    use pb::compare::TargetUnion::Version;
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    let puts = |count| (0..count).map(|at| op_put(&format!("k{at}"), "v")).collect::<Vec<_>>();
    let then = |success| pb::TxnRequest { success, ..Default::default() };
    assert!(kv.txn(then(puts(128))).await.is_ok());
    let inside = |outer: usize, inner: usize| {
        let mut success = vec![op_txn(then((0..inner).map(|at| op_put(&format!("i{at}"), "v")).collect()))];
        success.extend(puts(outer - 1));
        then(success)
    };
    assert!(kv.txn(inside(28, 100)).await.is_ok());
    let deep = |levels| (0..levels).fold(then(vec![op_put("k", "v")]), |nested, _| then(vec![op_txn(nested)]));
    assert!(kv.txn(deep(31)).await.is_ok());
    let many = pb::TxnRequest { compare: vec![compare("a", "", EQUAL, Version(0)); 129], ..Default::default() };
    for txn in [then(puts(129)), many, inside(29, 100), deep(32)] {
        refused(kv.txn(txn).await, Code::InvalidArgument, "etcdserver: too many operations in txn request");
    }
    for branch in [
        vec![op_put("a", "1"), op_put("a", "2")],
        vec![op_delete("a", "c"), op_put("b", "2")],
        vec![op_put("a", "1"), op_txn(then(vec![op_put("a", "2")]))],
    ] {
        // Also in the branch that would not run.
        let txn = pb::TxnRequest { failure: branch, ..Default::default() };
        refused(kv.txn(txn).await, Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
    }
    // Each operation is looked at, both branches in order, before keys that meet.
    let provided =
        op(pb::request_op::Request::RequestPut(pb::PutRequest { ignore_lease: true, lease: 2, ..put("a", "1") }));
    let txn = pb::TxnRequest {
        success: vec![provided],
        failure: vec![pb::RequestOp { request: None }],
        ..Default::default()
    };
    refused(kv.txn(txn).await, Code::InvalidArgument, "etcdserver: lease is provided");
    let provided = op(pb::request_op::Request::RequestPut(pb::PutRequest { ignore_value: true, ..put("x", "y") }));
    let txn = pb::TxnRequest { failure: vec![provided, op_delete("a", "z")], ..Default::default() };
    refused(kv.txn(txn).await, Code::InvalidArgument, "etcdserver: value is provided");
    // What only apply sees: a later sibling deletes what an earlier one put.
    let siblings = vec![op_txn(then(vec![op_put("a", "1")])), op_txn(then(vec![op_delete("a", "")]))];
    refused(kv.txn(then(siblings)).await, Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
    let either =
        op_txn(pb::TxnRequest { compare: vec![], success: vec![op_put("e", "1")], failure: vec![op_put("e", "2")] });
    assert!(kv.txn(then(vec![either])).await.is_ok());
    for (txn, text) in [
        (then(vec![pb::RequestOp { request: None }]), "etcdserver: key not found"),
        (then(vec![op_put("", "")]), "etcdserver: key is not provided"),
        (then(vec![op_range("", "")]), "etcdserver: key is not provided"),
        (
            pb::TxnRequest { compare: vec![compare("", "", EQUAL, Version(0))], ..Default::default() },
            "etcdserver: key is not provided",
        ),
    ] {
        refused(kv.txn(txn).await, Code::InvalidArgument, text);
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_only_reads_takes_no_log_entry() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    kv.put(put("a", "1")).await.unwrap();
    let log_index = || doors.consensus.status().last_log_index;
    let before = log_index();
    let txn = pb::TxnRequest {
        compare: vec![compare("a", "", EQUAL, pb::compare::TargetUnion::Version(1))],
        success: vec![
            op_range("a", ""),
            op_txn(pb::TxnRequest { success: vec![op_range("\0", "\0")], ..Default::default() }),
        ],
        failure: vec![],
    };
    for _ in 0..3 {
        let done = kv.txn(txn.clone()).await.unwrap().into_inner();
        assert!(done.succeeded && done.responses.len() == 2 && revision(done.header) == 2);
    }
    assert!(
        kv.txn(pb::TxnRequest { compare: txn.compare, ..Default::default() }).await.unwrap().into_inner().succeeded
    );
    assert_eq!(log_index(), before);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_stream_merged_is_the_range() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for at in 0..95 {
        kv.put(put(&format!("k{at:03}"), &"v".repeat(60_000))).await.unwrap();
    }
    for request in [
        range("k", "l"),
        range("k000", ""),
        range("x", "y"),
        pb::RangeRequest { limit: 37, ..range("k", "\0") },
        pb::RangeRequest { count_only: true, ..range("k", "l") },
        pb::RangeRequest { keys_only: true, revision: 50, ..range("k", "l") },
    ] {
        let mut chunks = kv.range_stream(request.clone()).await.unwrap().into_inner();
        let (mut merged, mut count) = (pb::RangeResponse::default(), 0);
        while let Some(chunk) = chunks.message().await.unwrap() {
            let part = chunk.range_response.unwrap();
            assert!(merged.header.is_none(), "the header is in the last chunk only");
            count += 1;
            merged.kvs.extend(part.kvs);
            (merged.header, merged.more, merged.count) = (part.header, part.more, part.count);
        }
        let bytes: usize = merged.kvs.iter().map(|kv| kv.value.len()).sum();
        assert!(count > 1 || merged.kvs.len() <= 10 || bytes == 0, "{count} chunks");
        assert_eq!(merged, kv.range(request).await.unwrap().into_inner());
    }
    let sorted = pb::RangeRequest { sort_order: 2, ..range("k", "l") };
    refused(kv.range_stream(sorted).await, Code::Unimplemented, "RangeStream does not support custom sort orders");
    let bounded = pb::RangeRequest { min_mod_revision: 3, ..range("k", "l") };
    refused(kv.range_stream(bounded).await, Code::Unimplemented, "RangeStream does not support revision filters");
    let future = pb::RangeRequest { revision: 1_000, ..range("k", "l") };
    refused(
        kv.range_stream(future).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_granted_asked_about_and_revoked() {
    let doors = Doors::single().await;
    let (mut kv, mut lease) = (kv(&doors), lease(&doors));
    let grant = |ttl, id| pb::LeaseGrantRequest { ttl, id };
    let chosen = lease.lease_grant(grant(60, 5)).await.unwrap().into_inner();
    assert_eq!((chosen.id, chosen.ttl, chosen.error.as_str(), revision(chosen.header)), (5, 60, "", 1));
    let minted = lease.lease_grant(grant(0, 0)).await.unwrap().into_inner();
    assert!(minted.id > 0 && minted.ttl == 2, "raised to two seconds, and said so");
    let long = lease.lease_grant(grant(9_000_000_000, -3)).await.unwrap().into_inner();
    assert_eq!((long.id, long.ttl), (-3, 315_360_000), "lowered to ten years, and said so");
    refused(lease.lease_grant(grant(60, 5)).await, Code::FailedPrecondition, "etcdserver: lease already exists");
    refused(lease.lease_grant(grant(9_000_000_001, 0)).await, Code::OutOfRange, "etcdserver: too large lease TTL");
    for key in ["b", "a"] {
        kv.put(pb::PutRequest { lease: 5, ..put(key, "1") }).await.unwrap();
    }
    let ask = |id, keys| pb::LeaseTimeToLiveRequest { id, keys };
    let asked = lease.lease_time_to_live(ask(5, true)).await.unwrap().into_inner();
    assert!((58..=60).contains(&asked.ttl), "{asked:?}");
    assert_eq!((asked.granted_ttl, asked.keys), (60, vec!["a".into(), "b".into()]));
    for unknown in [99, 0] {
        let none = lease.lease_time_to_live(ask(unknown, true)).await.unwrap().into_inner();
        assert_eq!((none.id, none.ttl, none.granted_ttl, none.keys.len()), (unknown, -1, 0, 0));
    }
    let all = lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner();
    let mut ids: Vec<i64> = all.leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    let mut wanted = [5, minted.id, -3];
    wanted.sort_unstable();
    assert_eq!(ids, wanted);
    let revoked = lease.lease_revoke(pb::LeaseRevokeRequest { id: 5 }).await.unwrap().into_inner();
    assert_eq!(revision(revoked.header), 4, "both keys in one revision");
    assert_eq!(kv.range(range("a", "c")).await.unwrap().into_inner().count, 0);
    let empty = lease.lease_revoke(pb::LeaseRevokeRequest { id: -3 }).await.unwrap().into_inner();
    assert_eq!(revision(empty.header), 4, "no key, no revision");
    for unknown in [5, 0] {
        let revoke = lease.lease_revoke(pb::LeaseRevokeRequest { id: unknown }).await;
        refused(revoke, Code::NotFound, "etcdserver: requested lease not found");
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alives_are_answered_and_say_when_there_is_no_lease() {
    let doors = Doors::single().await;
    let mut lease = lease(&doors);
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 3, id: 5 }).await.unwrap();
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let mut answers = lease.lease_keep_alive(ReceiverStream::new(requests)).await.unwrap().into_inner();
    for (id, ttl) in [(5, 3), (99, 0), (0, 0), (5, 3)] {
        sender.send(pb::LeaseKeepAliveRequest { id }).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl, revision(answer.header)), (id, ttl, 1));
    }
    // The end of the client's side ends the stream.
    drop(sender);
    assert_eq!(answers.message().await.unwrap(), None);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_status_are_told_as_the_wire_has_them() {
    let doors = Doors::single().await;
    let mut cluster = pb::cluster_client::ClusterClient::new(doors.channel());
    for linearizable in [false, true] {
        let list = cluster.member_list(pb::MemberListRequest { linearizable }).await.unwrap().into_inner();
        let header = list.header.unwrap();
        assert_eq!((header.cluster_id, header.revision), (0xc1, 0));
        let member = &list.members[0];
        assert_eq!((list.members.len(), member.id, member.name.as_str(), member.is_learner), (1, 1, "m1", false));
        assert_eq!(
            (&member.peer_ur_ls, &member.client_ur_ls),
            (&vec!["http://m1:1".into()], &vec!["http://m1:2".into()])
        );
    }
    kv(&doors).put(put("a", "1")).await.unwrap();
    let status = maintenance(&doors).status(pb::StatusRequest {}).await.unwrap().into_inner();
    let version: Vec<u32> = status.version.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(version >= vec![3, 5, 13], "Kubernetes asks for progress only from there on");
    assert_eq!((status.leader, status.is_learner, status.errors.len(), revision(status.header)), (1, false, 0, 2));
    assert!(status.raft_term > 0 && status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
    assert!(status.db_size > 0 && status.db_size_quota > status.db_size);
    let alarms = maintenance(&doors).alarm(pb::AlarmRequest::default()).await.unwrap().into_inner();
    assert!(alarms.alarms.is_empty());
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_change_with_what_may_be_read() {
    let doors = Doors::single().await;
    let (mut kv, mut maintenance) = (kv(&doors), maintenance(&doors));
    let hash_at = |revision| pb::HashKvRequest { revision };
    let fresh = maintenance.hash_kv(hash_at(0)).await.unwrap().into_inner();
    assert_eq!((fresh.compact_revision, fresh.hash_revision), (-1, 1));
    kv.put(put("a", "1")).await.unwrap();
    kv.put(put("a", "2")).await.unwrap();
    let at_two = maintenance.hash_kv(hash_at(2)).await.unwrap().into_inner();
    let now = maintenance.hash_kv(hash_at(0)).await.unwrap().into_inner();
    assert_eq!((at_two.hash_revision, now.hash_revision, revision(now.header)), (2, 3, 3));
    assert!(fresh.hash != at_two.hash && at_two.hash != now.hash);
    assert_eq!(maintenance.hash(pb::HashRequest {}).await.unwrap().into_inner().hash, now.hash);
    kv.compact(pb::CompactionRequest { revision: 3, physical: false }).await.unwrap();
    assert_eq!(maintenance.hash_kv(hash_at(3)).await.unwrap().into_inner().compact_revision, 3);
    let (compacted, future) = (maintenance.hash_kv(hash_at(2)).await, maintenance.hash_kv(hash_at(9)).await);
    refused(compacted, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    refused(future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_says_so_and_names_the_way() {
    let doors = Doors::single().await;
    let mut auth = pb::auth_client::AuthClient::new(doors.channel());
    let mut cluster = pb::cluster_client::ClusterClient::new(doors.channel());
    let mut maintenance = maintenance(&doors);
    let told = [
        auth.auth_enable(pb::AuthEnableRequest {}).await.map(drop),
        cluster.member_add(pb::MemberAddRequest::default()).await.map(drop),
        maintenance.snapshot(pb::SnapshotRequest {}).await.map(drop),
        maintenance.defragment(pb::DefragmentRequest {}).await.map(drop),
        maintenance.alarm(pb::AlarmRequest { action: 2, ..Default::default() }).await.map(drop),
    ];
    for answer in told {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().starts_with("quorate: ") && status.message().contains("; "), "{status}");
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wants_a_leader_is_refused_at_once_where_there_is_none() {
    let three = Three::start().await;
    let first = &three.members[&1];
    let mut kv = kv(first);
    let patient = Duration::from_secs(20);
    let mut leadership = first.consensus.leadership();
    let known = leadership.wait_for(|now| !matches!(now, Leadership::Following { leader: None }));
    tokio::time::timeout(patient, known).await.expect("a leader comes").unwrap();
    kv.put(with_leader(put("a", "1"))).await.unwrap();
    three.net.part(&[1], &[2, 3]);
    let mut lost = first.rooms.hub.contact_lost();
    tokio::time::timeout(patient, lost.wait_for(|lost| *lost)).await.expect("contact is lost").unwrap();
    refused(kv.range(with_leader(range("a", ""))).await, Code::Unavailable, "etcdserver: no leader");
    let local = pb::RangeRequest { serializable: true, ..range("a", "") };
    assert_eq!(kv.range(local).await.unwrap().into_inner().count, 1, "what this member has can still be read");
    let mut hurried = Request::new(put("a", "2"));
    hurried.set_timeout(Duration::from_millis(300));
    let status = kv.put(hurried).await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status}");
    assert!(
        status.message().starts_with("etcdserver: ") || status.message() == "context deadline exceeded",
        "{status}"
    );
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_doors_open_on_the_same_keys_and_leases() {
    let doors = Doors::single().await;
    let (mut native, mut wire) = (doors.kv(), kv(&doors));
    native.put(v1::PutRequest { key: "/n".into(), value: "1".into(), ..Default::default() }).await.unwrap();
    assert_eq!(whole(&wire.range(range("/n", "")).await.unwrap().into_inner().kvs[0]), ("1".into(), 2, 2, 1, 0));
    wire.put(put("/e/x", "2")).await.unwrap();
    let listed = native.list(v1::ListRequest { path: "/e".into(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(listed.children.iter().map(|child| child.name.as_str()).collect::<Vec<_>>(), ["x"]);
    // A lease granted natively, in milliseconds, used and told through the other door in seconds.
    let grant = v1::GrantRequest { lease_id: 9, ttl_ms: 60_900, ..Default::default() };
    doors.lease().grant(grant).await.unwrap();
    wire.put(pb::PutRequest { lease: 9, ..put("/l", "1") }).await.unwrap();
    let mut lease = lease(&doors);
    let told = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 9, keys: true }).await.unwrap().into_inner();
    assert_eq!((told.granted_ttl, told.keys), (60, vec!["/l".into()]));
    // And the other way round.
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 30, id: 11 }).await.unwrap();
    let owner = Some(v1::put_request::Owner::LeaseId(11));
    native.put(v1::PutRequest { key: "/m".into(), value: "1".into(), owner, ..Default::default() }).await.unwrap();
    assert_eq!(whole(&wire.range(range("/m", "")).await.unwrap().into_inner().kvs[0]).4, 11);
    doors.lease().revoke(v1::RevokeRequest { lease_id: 11, ..Default::default() }).await.unwrap();
    assert_eq!(wire.range(range("/m", "")).await.unwrap().into_inner().count, 0);
    // A lease of one key alone cannot be shared through this door either.
    let owner = Some(v1::put_request::Owner::TtlMs(60_000));
    let own = native.put(v1::PutRequest { key: "/o".into(), owner, ..Default::default() }).await.unwrap().into_inner();
    let shared = wire.put(pb::PutRequest { lease: own.lease_id, ..put("/p", "1") }).await.unwrap_err();
    assert_eq!(shared.code(), Code::InvalidArgument);
    assert!(shared.message().ends_with("belongs to another key alone"), "{shared}");
    doors.stop().await;
}
