//! Bad input, as the edge refuses it.
//!
//! Invariants:
//! - Each refusal is `INVALID_ARGUMENT`, says that nothing happened, and names what was wrong.

use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::{Happened, Kind};
use tonic::Code;

use super::*;
use crate::api::validate_txn;

fn put_of(key: &str) -> v1::PutRequest {
    v1::PutRequest { key: key.to_owned().into(), value: "v".into(), ..v1::PutRequest::default() }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, says: &str) {
    let refusal = result.expect_err(says);
    assert_eq!((refusal.code, refusal.detail.happened()), (Code::InvalidArgument, Happened::No), "{says}");
    assert!(refusal.message.contains(says), "{:?} does not say {says:?}", refusal.message);
}

fn put_refused(request: v1::PutRequest, says: &str) {
    refused(put(request, &Limits::default()), says);
}

#[test]
fn keys_and_values() {
    put_refused(put_of(""), "empty");
    put_refused(put_of(&"k".repeat(4097)), "4097 bytes");
    assert!(put(put_of(&"k".repeat(4096)), &Limits::default()).is_ok());
    assert!(put(put_of("/a//b/"), &Limits::default()).is_ok(), "any bytes are a key");
    let value = vec![0; Limits::default().value_bytes_max + 1];
    let too_large = put(v1::PutRequest { value: value.clone().into(), ..put_of("/a") }, &Limits::default());
    assert_eq!(too_large.as_ref().unwrap_err().detail.kind(), Kind::TooLarge);
    refused(too_large, "1572865 bytes");
    let fits = v1::PutRequest { value: value[1..].to_vec().into(), ..put_of("/a") };
    assert!(put(fits, &Limits::default()).is_ok());
}

#[test]
fn paths() {
    for (path, says) in [
        ("", "empty"),
        ("a/b", "does not start with '/'"),
        ("/a//b", "empty segment"),
        ("//", "empty segment"),
        ("/a/", "ends with '/'"),
        (&"/a".repeat(2049), "4098 bytes"),
    ] {
        refused(directory(path.to_owned()), says);
        refused(copy(path.to_owned(), "/z".into(), false, false), says);
        put_refused(v1::PutRequest { sequential: true, ..put_of(path) }, says);
        put_refused(v1::PutRequest { must_have_parent: true, ..put_of(path) }, says);
        let subtree = v1::delete_request::Scope::Subtree.into();
        let request = v1::DeleteRequest { key: path.to_owned().into(), scope: subtree, ..Default::default() };
        refused(delete(request), says);
    }
    refused(directory(&b"/a/\xff"[..]), "not UTF-8");
    assert!(directory("/").is_ok());
    put_refused(v1::PutRequest { sequential: true, ..put_of("/") }, "root");
    put_refused(v1::PutRequest { sequential: true, ..put_of(&format!("/{}", "d".repeat(4090))) }, "too long");
}

#[test]
fn owners_and_expectations() {
    use v1::expect::What;
    use v1::put_request::Owner as Wire;
    for (owner, says) in [
        (Wire::LeaseId(0), "lease_id is 0"),
        (Wire::TtlMs(499), "500 ms"),
        (Wire::TtlMs(TTL_MS_MAX + 1), "10 years"),
        (Wire::TtlMs(0), "500 ms"),
    ] {
        put_refused(v1::PutRequest { owner: Some(owner), ..put_of("/a") }, says);
    }
    let own = put(v1::PutRequest { owner: Some(Wire::TtlMs(500)), ..put_of("/a") }, &Limits::default()).unwrap();
    assert!(matches!(own.owner, Owner::Ttl { lease, ttl_ms: 500 } if lease.get() > 0));
    for (what, says) in [
        (What::Absent(false), "true or left out"),
        (What::ModRevision(0), "at least 1"),
        (What::ModRevision(-4), "at least 1"),
    ] {
        put_refused(v1::PutRequest { expect: Some(v1::Expect { what: Some(what) }), ..put_of("/a") }, says);
    }
    let present = Some(v1::Expect { what: Some(What::Present(true)) });
    put_refused(v1::PutRequest { sequential: true, expect: present, ..put_of("/a") }, "sequential");
}

#[test]
fn request_ids() {
    let id = |client_id, sequence, lowest_unacknowledged| {
        request_id(Some(&v1::WriteId { client_id, sequence, lowest_unacknowledged, seen_log_index: 0 }))
    };
    refused(id(0, 1, 1), "client_id is 0");
    refused(id(1, 0, 0), "sequence is 0");
    refused(id(1, 3, 4), "lowest_unacknowledged");
    assert_eq!(id(1, 3, 3).unwrap().unwrap().sequence, 3);
    assert_eq!(request_id(None).unwrap(), None);
}

#[test]
fn ranges_pages_and_revisions() {
    refused(bounds("b".into(), "a".into()), "ends before");
    refused(bounds("b".into(), "b".into()), "ends before");
    refused(bounds("b".into(), vec![b'z'; 4097].into()), "4097");
    refused(page(10_001), "10001");
    assert_eq!((page(0).unwrap(), page(10_000).unwrap()), (1_000, 10_000));
    refused(at_revision(-1), "negative");
    refused(range(v1::RangeRequest { order: 7, ..Default::default() }), "order 7");
    let end = v1::DeleteRequest { key: "a".into(), end: "b".into(), ..Default::default() };
    refused(delete(end), "RANGE only");
    let expect = Some(v1::Expect { what: Some(v1::expect::What::Present(true)) });
    let scope = v1::delete_request::Scope::Subtree.into();
    refused(delete(v1::DeleteRequest { key: "/a".into(), scope, expect, ..Default::default() }), "KEY only");
}

#[test]
fn copies_do_not_overlap() {
    for (from, to) in [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a")] {
        refused(copy(from.into(), to.into(), false, true), "overlap");
    }
    assert!(copy("/a".into(), "/ab".into(), false, true).is_ok());
}

fn ops(keys: &[&str]) -> Vec<v1::TxnOp> {
    keys.iter().map(|key| v1::TxnOp { op: Some(v1::txn_op::Op::Put(put_of(key))) }).collect()
}

fn then(then: Vec<v1::TxnOp>) -> v1::TxnRequest {
    v1::TxnRequest { then, ..v1::TxnRequest::default() }
}

fn nested(txn: v1::TxnRequest) -> v1::TxnOp {
    v1::TxnOp { op: Some(v1::txn_op::Op::Txn(txn)) }
}

fn txn_refused(request: v1::TxnRequest, says: &str) {
    refused(validate_txn::txn(request, &Limits::default()), says);
}

#[test]
fn transactions_are_bounded_with_those_inside_them() {
    let keys: Vec<String> = (0..129).map(|at| format!("/{at}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    txn_refused(then(ops(&keys)), "more than 128");
    assert!(validate_txn::txn(then(ops(&keys[1..])), &Limits::default()).is_ok());
    let mut split = ops(&keys[..64]);
    split.push(nested(then(ops(&keys[64..128]))));
    txn_refused(then(split), "more than 128");
    let compare =
        v1::Compare { key: "/a".into(), target: Some(v1::compare::Target::Version(1)), ..v1::Compare::default() };
    txn_refused(v1::TxnRequest { compares: vec![compare; 129], ..Default::default() }, "more than 128");
    let deep = (0..8).fold(then(Vec::new()), |inner, _| then(vec![nested(inner)]));
    txn_refused(deep, "deep");
}

/// A field of one message inside another: its tag, its length, its bytes.
fn field(number: u8, mut message: Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(message.len() as u64, &mut bytes);
    bytes.append(&mut message);
    bytes
}

/// Requests nested as deep as anybody likes need little stack: the wire gives up first, then the check.
#[test]
fn transactions_that_nest_too_deep_need_no_stack() {
    use quorate_proto::etcd::etcdserverpb as pb;
    // then = 3, txn = 5 of TxnRequest and TxnOp; success = 2, request_txn = 4 of etcd's.
    let (ours, etcds) = ((3, 5), (2, 4));
    let deep =
        |(then, txn): (u8, u8), depth: usize| (0..depth).fold(Vec::new(), |inner, _| field(then, field(txn, inner)));
    let one = v1::TxnRequest::decode(&deep(ours, 1)[..]).unwrap();
    assert_eq!(one, then(vec![nested(v1::TxnRequest::default())]), "the fields' numbers are right");
    let checks = move || {
        let limits = Limits::default();
        for depth in [7, 8, 49, 50, 51, 1_000, 20_000] {
            let ours =
                v1::TxnRequest::decode(&deep(ours, depth)[..]).map(|request| validate_txn::txn(request, &limits));
            assert_eq!(matches!(ours, Ok(Ok(_))), depth < 8, "{depth}");
            let etcds = pb::TxnRequest::decode(&deep(etcds, depth)[..]);
            let etcds = etcds.map(|request| crate::api::etcd::requests::txn(request, &limits));
            assert_eq!(matches!(etcds, Ok(Ok(_))), depth < 32, "{depth}");
        }
    };
    // A door's thread has four times as much.
    std::thread::Builder::new().stack_size(512 << 10).spawn(checks).unwrap().join().unwrap();
}

#[test]
fn a_key_is_changed_once_in_a_transaction() {
    txn_refused(then(ops(&["/a", "/b", "/a"])), "/a is changed twice");
    let mut inside = ops(&["/a"]);
    inside.push(nested(v1::TxnRequest { otherwise: ops(&["/a"]), ..Default::default() }));
    txn_refused(then(inside), "/a is changed twice");
    let delete = v1::DeleteRequest { key: "/a".into(), ..Default::default() };
    let mut deleted = ops(&["/a"]);
    deleted.push(v1::TxnOp { op: Some(v1::txn_op::Op::Delete(delete)) });
    txn_refused(then(deleted.clone()), "/a is changed twice");
    deleted.reverse();
    txn_refused(then(deleted), "/a is changed twice");
    let either = v1::TxnRequest { then: ops(&["/a"]), otherwise: ops(&["/a"]), ..Default::default() };
    assert!(validate_txn::txn(either.clone(), &Limits::default()).is_ok(), "only one branch runs");
    let mut after = vec![nested(either)];
    after.extend(ops(&["/a"]));
    txn_refused(then(after), "/a is changed twice");
}

#[test]
fn what_stands_in_a_transaction() {
    txn_refused(then(vec![v1::TxnOp { op: None }]), "empty");
    let id = Some(v1::WriteId::default());
    let put = v1::PutRequest { id, ..put_of("/a") };
    txn_refused(then(vec![v1::TxnOp { op: Some(v1::txn_op::Op::Put(put)) }]), "left out");
    let compare = |target, relation| v1::Compare { key: "/a".into(), target, relation, ..Default::default() };
    let compares = |compare| v1::TxnRequest { compares: vec![compare], ..Default::default() };
    txn_refused(compares(compare(None, 0)), "nothing to compare");
    let less = v1::compare::Relation::Less.into();
    txn_refused(compares(compare(Some(v1::compare::Target::Exists(true)), less)), "EQUAL or NOT_EQUAL");
    txn_refused(compares(compare(Some(v1::compare::Target::Version(1)), 9)), "relation 9");
}
