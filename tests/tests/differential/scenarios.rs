//! Sequences written by hand: what random ones never reach, such as limits of size and number.

use bytes::Bytes;
use quorate_proto::etcd::etcdserverpb::request_op::Request;
use quorate_proto::etcd::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};

use super::step::Step;

/// One sequence.
pub struct Scenario {
    pub name: &'static str,
    pub steps: fn() -> Vec<Step>,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "a watch asks for fragments of a large past", steps: fragments },
    Scenario { name: "a large past without fragments comes whole", steps: || large_past(false) },
    Scenario { name: "a request of more than 1.5 MiB is refused", steps: || vec![Step::Put(sized("a", 1_600_000))] },
    Scenario { name: "a put may hold nearly that", steps: || vec![Step::Put(sized("a", 1_500_000)), read("a")] },
    Scenario { name: "ids of leases may be negative", steps: negative_lease },
    Scenario { name: "128 operations are allowed, 129 are not", steps: many_operations },
    Scenario { name: "nested operations count against the same limit", steps: nested_operations },
    Scenario { name: "a lease's keys go in one revision, in order", steps: revoked_keys },
    Scenario { name: "a whole range goes in one revision and can be watched from the past", steps: deleted_range },
    Scenario { name: "nothing changes, nothing is compacted twice", steps: no_change },
    Scenario { name: "watches without keys, without ranges, with ids of their own", steps: strange_watches },
];

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

fn sized(key: &'static str, bytes: usize) -> PutRequest {
    PutRequest { key: key.into(), value: Bytes::from(vec![b'x'; bytes]), ..PutRequest::default() }
}

fn read(key: &'static str) -> Step {
    Step::Range(RangeRequest { key: key.into(), ..RangeRequest::default() })
}

fn negative_lease() -> Vec<Step> {
    let id = i64::MIN + 1;
    vec![
        Step::Grant(LeaseGrantRequest { id, ttl: 600 }),
        Step::Put(PutRequest { lease: id, ..put("a", "v") }),
        read("a"),
        Step::TimeToLive(LeaseTimeToLiveRequest { id, keys: true }),
        Step::KeepAlive(LeaseKeepAliveRequest { id }),
        Step::Leases,
        Step::Revoke(LeaseRevokeRequest { id }),
        read("a"),
    ]
}

fn watch(create: WatchCreateRequest) -> Step {
    Step::Watch { stream: 0, create }
}

fn everything() -> WatchCreateRequest {
    WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..WatchCreateRequest::default() }
}

fn large_past(fragment: bool) -> Vec<Step> {
    let large = ["a", "b", "c"].map(|key| Step::Put(sized(key, 900_000)));
    let late = watch(WatchCreateRequest { start_revision: 1001, fragment, ..everything() });
    large.into_iter().chain([late, Step::Put(put("d", "small"))]).collect()
}

fn fragments() -> Vec<Step> {
    large_past(true)
}

fn ops(count: usize) -> Vec<RequestOp> {
    let get = || Request::RequestRange(RangeRequest { key: "m".into(), ..RangeRequest::default() });
    (0..count).map(|_| RequestOp { request: Some(get()) }).collect()
}

fn many_operations() -> Vec<Step> {
    let of = |count| Step::Txn(TxnRequest { success: ops(count), ..TxnRequest::default() });
    vec![of(128), of(129)]
}

fn nested_operations() -> Vec<Step> {
    let of = |outer: usize, inner: usize| {
        let nested = Request::RequestTxn(TxnRequest { success: ops(inner), ..TxnRequest::default() });
        let mut success = ops(outer - 1);
        success.push(RequestOp { request: Some(nested) });
        Step::Txn(TxnRequest { success, ..TxnRequest::default() })
    };
    vec![of(1, 127), of(1, 128), of(100, 28), of(100, 29)]
}

fn revoked_keys() -> Vec<Step> {
    let mut steps = vec![
        Step::Grant(LeaseGrantRequest { id: 1, ttl: 600 }),
        watch(WatchCreateRequest { prev_kv: true, ..everything() }),
    ];
    for key in ["z", "a", "k", "/d/x"] {
        steps.push(Step::Put(PutRequest { lease: 1, ..put(key, "v") }));
    }
    // Detached, and so spared.
    steps.extend([Step::Put(put("k", "w")), Step::Revoke(LeaseRevokeRequest { id: 1 }), Step::Leases]);
    steps
}

fn deleted_range() -> Vec<Step> {
    let delete = DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: true };
    let late = WatchCreateRequest { start_revision: 1001, prev_kv: true, ..everything() };
    let puts = ["b", "a", "c"].map(|key| Step::Put(put(key, "v")));
    puts.into_iter().chain([Step::Delete(delete), watch(late)]).collect()
}

fn no_change() -> Vec<Step> {
    let compact = |revision| Step::Compact(CompactionRequest { revision, physical: false });
    let delete = DeleteRangeRequest { key: "none".into(), ..DeleteRangeRequest::default() };
    vec![
        Step::Delete(delete),
        Step::Txn(TxnRequest::default()),
        compact(1000),
        compact(1001),
        Step::Put(put("a", "")),
        compact(1001),
        compact(1001),
    ]
}

fn strange_watches() -> Vec<Step> {
    let keyed = |key: &'static str, end: &'static str, id: i64| {
        watch(WatchCreateRequest {
            key: key.into(),
            range_end: end.into(),
            watch_id: id,
            ..WatchCreateRequest::default()
        })
    };
    vec![
        keyed("", "", 0),
        keyed("", "\0", 0),
        keyed("", "b", 5),
        keyed("b", "a", 0),
        keyed("b", "b", 6),
        keyed("a", "", 5),
        keyed("a", "", 0),
        Step::Put(put("\0", "1")),
        Step::Put(put("a", "1")),
        Step::Cancel { stream: 0, id: 5 },
        keyed("a", "", 5),
        Step::Put(put("a", "2")),
        Step::HalfClose { stream: 0 },
        Step::Put(put("a", "3")),
    ]
}
