//! Where Quorate's door answers otherwise than Debian's etcd, and why: the one list, which
//! docs/etcd-compatibility.md repeats for readers.
//!
//! Invariants:
//! - An exception excuses exactly one kind of difference; whatever else differs in the same answer is still a mismatch.
//! - Each has a sequence that shows it, and a test that fails when the difference is no longer there.

use prost::Message;
use quorate_proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget};
use quorate_proto::etcd::etcdserverpb::request_op::Request;
use quorate_proto::etcd::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCreateRequest, WatchResponse,
};
use quorate_proto::etcd::mvccpb::{Event, event::EventType};

use super::answer::{Answer, Reply};
use super::step::Step;

/// One reasoned difference.
pub struct Exception {
    pub name: &'static str,
    /// The etcd that answers otherwise, and from which on it answers as Quorate.
    pub etcd: &'static str,
    pub reason: &'static str,
    /// Makes both answers equal where only this difference is between them; false where it does not apply.
    pub even_out: fn(&Step, &mut Answer, &mut Answer) -> bool,
    /// One server did what the other refused, so the sequence ends here.
    pub diverges: bool,
    /// A short sequence that shows it.
    pub witness: fn() -> Vec<Step>,
}

/// The longest time of a lease here, in seconds: ten years.
const TTL_MAX: i64 = 315_360_000;

/// The largest request of etcd.
const REQUEST_BYTES: usize = 3 << 19;

/// What etcd puts into one message of a watch at most, where fragments are asked for.
const MESSAGE_BYTES: usize = 2 << 20;

/// What apply says of an operation that cannot be done.
const APPLY_TEXTS: [&str; 4] = [
    "etcdserver: requested lease not found",
    "etcdserver: key not found",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
];

/// Differences between Debian's etcd and Quorate.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        name: "a lease lasts ten years at most",
        etcd: "all",
        reason: "etcd grants up to 9 000 000 000 s; here a longer time is cut to ten years, and the answer says so",
        even_out: |_, etcd, ours| cut_ttl(&mut etcd.reply) && cut_ttl(&mut ours.reply),
        diverges: false,
        witness: || vec![Step::Grant(LeaseGrantRequest { id: 1, ttl: 9_000_000_000 })],
    },
    Exception {
        name: "a put under an open-ended delete of the same transaction is refused",
        etcd: "all",
        reason: "etcd takes the end \\0 literally in this check and lets a key change twice in one revision; here a key \
                 changes once in a revision, and the request is refused as for any other range",
        even_out: |step, etcd, ours| {
            let Step::Txn(txn) = step else { return false };
            refused_here(etcd, ours, "etcdserver: duplicate key given in txn request") && deletes_open_ended(txn)
        },
        diverges: true,
        witness: || {
            let delete = DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
            let put = PutRequest { key: "m".into(), ..PutRequest::default() };
            let both = [Request::RequestDeleteRange(delete), Request::RequestPut(put)];
            vec![then(both)]
        },
    },
    Exception {
        name: "a compare with an unknown result or target is refused",
        etcd: "all",
        reason: "etcd takes an unknown result as true and an unknown target as equal, so a guard of a newer client would \
                 guard nothing",
        even_out: |step, etcd, ours| {
            let Step::Txn(txn) = step else { return false };
            let texts = ["result", "target"].map(|what| format!("etcdserver: the {what} of a compare is not known"));
            texts.iter().any(|text| refused_here(etcd, ours, text)) && has_unknown_compare(txn)
        },
        diverges: true,
        witness: || {
            let compare = vec![Compare { result: 4, key: "m".into(), ..Compare::default() }];
            vec![Step::Txn(TxnRequest { compare, ..TxnRequest::default() })]
        },
    },
    Exception {
        name: "the first operation of a transaction that cannot be done gives the error",
        etcd: "3.4; as here from 3.6 on, but for a put that lacks both its lease and its key",
        reason: "etcd 3.4 looks at all puts before all ranges, and in a transaction at a put's key before its lease",
        even_out: |step, etcd, ours| {
            let known = |answer: &Answer| matches!(&answer.reply, Reply::Refused { message, .. } if APPLY_TEXTS.contains(&message.as_str()));
            let applies = matches!(step, Step::Txn(_)) && known(etcd) && known(ours) && etcd.reply != ours.reply;
            if applies {
                etcd.reply = ours.reply.clone();
            }
            applies
        },
        diverges: false,
        witness: || {
            let range = RangeRequest { key: "m".into(), revision: 1 << 40, ..RangeRequest::default() };
            let put = PutRequest { key: "m".into(), lease: 4, ..PutRequest::default() };
            vec![then([Request::RequestRange(range), Request::RequestPut(put)])]
        },
    },
    Exception {
        name: "a watch from a negative revision is refused as compacted when it is created",
        etcd: "3.4 creates it and then ends it; as here from 3.7 on (#20707)",
        reason: "a client that sends one made a mistake, which the created response says",
        even_out: |step, etcd, ours| {
            let Step::Watch { stream, create } = step else { return false };
            let ended = etcd.watched.iter().any(|((at, _), all)| at == stream && all.iter().any(|one| one.canceled));
            let refused =
                ours.watched.get(&(*stream, -1)).is_some_and(|all| all.len() == 1 && all[0].created && all[0].canceled);
            create.start_revision < 0 && ended && refused
        },
        // The id that etcd gave away is not given away here.
        diverges: true,
        witness: || vec![watch("m", "", -1)],
    },
    Exception {
        name: "a request for progress is answered only when all watches of the stream are in step",
        etcd: "3.4 answers always; as here from 3.4.25 on (#15220)",
        reason: "an early mark says that events were delivered which were not; without watches, and before the first \
                 revision of a watch, there is nothing to say",
        even_out: |step, etcd, ours| {
            let Step::Progress { stream } = step else { return false };
            let applies = matches!(ours.reply, Reply::Silence(_)) && etcd.watched.remove(&(*stream, -1)).is_some();
            if applies {
                etcd.reply = ours.reply.clone();
            }
            applies
        },
        diverges: false,
        witness: || vec![watch("m", "", 1005), Step::Progress { stream: 0 }],
    },
    Exception {
        name: "a key changed by one nested transaction and deleted by the next is refused",
        etcd: "all",
        reason: "etcd's check does not look at deletes in a later sibling and lets the key change twice in one revision",
        even_out: |step, etcd, ours| {
            let Step::Txn(txn) = step else { return false };
            let deletes = |request: &Request| matches!(request, Request::RequestDeleteRange(_));
            let nested =
                any_op(txn, &|request| matches!(request, Request::RequestTxn(inner) if any_op(inner, &deletes)));
            nested && refused_here(etcd, ours, "etcdserver: duplicate key given in txn request")
        },
        diverges: true,
        witness: || {
            let put = PutRequest { key: "a".into(), ..PutRequest::default() };
            let delete = DeleteRangeRequest { key: "a".into(), ..DeleteRangeRequest::default() };
            let nested = |request| {
                let success = vec![RequestOp { request: Some(request) }];
                Request::RequestTxn(TxnRequest { success, ..TxnRequest::default() })
            };
            vec![then([nested(Request::RequestPut(put)), nested(Request::RequestDeleteRange(delete))])]
        },
    },
    Exception {
        name: "a negative revision reads the newest in transactions too",
        etcd: "all",
        reason: "etcd reads the newest for it in a range of its own, and calls it compacted in a transaction",
        even_out: |step, etcd, ours| {
            let Step::Txn(txn) = step else { return false };
            let negative = |request: &Request| matches!(request, Request::RequestRange(range) if range.revision < 0);
            any_op(txn, &negative) && refused_here(ours, etcd, "etcdserver: mvcc: required revision has been compacted")
        },
        diverges: true,
        witness: || {
            vec![then([Request::RequestRange(RangeRequest {
                key: "m".into(),
                revision: -1,
                ..RangeRequest::default()
            })])]
        },
    },
    Exception {
        name: "a large past comes in pieces of whole revisions",
        etcd: "all",
        reason: "etcd sends it in one message or, where asked to, in fragments; here messages end where a revision does, and \
                 only a revision that is too large for one is cut into fragments",
        even_out: |step, etcd, ours| {
            let Step::Watch { create, .. } = step else { return false };
            let whole = ours.watched.values().all(|all| cut_between_revisions(all));
            let large = ours.watched.values().flatten().map(Message::encoded_len).sum::<usize>() > MESSAGE_BYTES;
            let applies = create.start_revision > 0 && large && whole && etcd != ours;
            if applies {
                [etcd, ours].into_iter().flat_map(|answer| answer.watched.values_mut()).for_each(join_pieces);
            }
            applies
        },
        diverges: false,
        witness: || {
            let large = |key: &'static str| PutRequest {
                key: key.into(),
                value: vec![b'x'; 900_000].into(),
                ..PutRequest::default()
            };
            let mut steps: Vec<_> = ["a", "b", "c"].map(|key| Step::Put(large(key))).into();
            steps.push(watch("a", "d", 1001));
            steps
        },
    },
    Exception {
        name: "a key has 4 KiB at most",
        etcd: "all",
        reason: "the tree and its indexes are bounded by it; etcd bounds only the request",
        even_out: |step, etcd, ours| {
            let Step::Put(put) = step else { return false };
            put.key.len() > 4096 && refused_here(etcd, ours, "etcdserver: request is too large")
        },
        diverges: true,
        witness: || vec![Step::Put(PutRequest { key: vec![b'k'; 4097].into(), ..PutRequest::default() })],
    },
    Exception {
        name: "a transaction may be larger than a put",
        etcd: "all",
        reason: "etcd bounds every request by 1.5 MiB; the log here has no reason to",
        even_out: |step, etcd, ours| {
            let Step::Txn(txn) = step else { return false };
            txn.encoded_len() > REQUEST_BYTES && refused_here(ours, etcd, "etcdserver: request is too large")
        },
        diverges: true,
        witness: || {
            let large = |key: &'static str| PutRequest {
                key: key.into(),
                value: vec![b'x'; 900_000].into(),
                ..PutRequest::default()
            };
            vec![then([Request::RequestPut(large("a")), Request::RequestPut(large("b"))])]
        },
    },
    Exception {
        name: "transactions nest 32 deep at most",
        etcd: "all",
        reason: "each level costs stack; etcd is bounded by the number of operations only",
        even_out: |step, etcd, ours| {
            let Step::Txn(txn) = step else { return false };
            depth(txn) > 32 && refused_here(etcd, ours, "etcdserver: too many operations in txn request")
        },
        diverges: true,
        witness: || {
            let deeper = |inner: TxnRequest| {
                let success = vec![RequestOp { request: Some(Request::RequestTxn(inner)) }];
                TxnRequest { success, ..TxnRequest::default() }
            };
            vec![Step::Txn((0..40).fold(TxnRequest::default(), |txn, _| deeper(txn)))]
        },
    },
    DELETION_AT_COMPACTION,
];

/// Also between two etcds: how far the compaction came when the watch looks.
const DELETION_AT_COMPACTION: Exception = Exception {
    name: "a watch from the compacted revision sees the deletions of that revision",
    etcd: "3.4.23 loses them; as here from 3.4.33 and 3.5.15 on (#18089, #19179)",
    reason: "the compacted revision is the first that can be watched from, and it is delivered whole",
    even_out: |_, etcd, ours| {
        let mut applies = false;
        for (id, theirs) in &mut etcd.watched {
            let Some(ours) = ours.watched.get_mut(id) else { continue };
            let (theirs_have, ours_have) = (has_deletions(theirs), has_deletions(ours));
            if theirs_have != ours_have {
                applies = true;
                [theirs, ours].into_iter().for_each(drop_deletions);
            }
        }
        applies
    },
    diverges: false,
    witness: || {
        let delete = DeleteRangeRequest { key: "m".into(), ..DeleteRangeRequest::default() };
        let compact = CompactionRequest { revision: 1001, physical: true };
        vec![Step::Delete(delete), Step::Compact(compact), watch("m", "", 1001)]
    },
};

/// Differences between two runs of etcd itself.
pub const OF_ETCD_ITSELF: &[Exception] = &[DELETION_AT_COMPACTION];

/// What explains a difference.
pub struct Explained {
    pub names: Vec<&'static str>,
    /// The servers are no longer in the same state.
    pub diverged: bool,
}

/// Tries to explain all of the difference between `etcd` and `ours`.
pub fn explain(all: &[Exception], step: &Step, etcd: &Answer, ours: &Answer) -> Option<Explained> {
    let (mut etcd, mut ours) = (etcd.clone(), ours.clone());
    let mut names = Vec::new();
    for exception in all {
        if !(exception.even_out)(step, &mut etcd, &mut ours) {
            continue;
        }
        names.push(exception.name);
        if exception.diverges {
            return Some(Explained { names, diverged: true });
        }
        if etcd == ours {
            return Some(Explained { names, diverged: false });
        }
    }
    None
}

fn then<const N: usize>(ops: [Request; N]) -> Step {
    let success = ops.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    Step::Txn(TxnRequest { success, ..TxnRequest::default() })
}

/// `ours` is this refusal, `etcd` is not.
fn refused_here(etcd: &Answer, ours: &Answer, text: &str) -> bool {
    let is = |answer: &Answer| matches!(&answer.reply, Reply::Refused { message, .. } if message == text);
    is(ours) && !is(etcd)
}

fn cut_ttl(reply: &mut Reply) -> bool {
    let cut = |ttl: &mut i64| {
        *ttl = (*ttl).min(TTL_MAX);
        *ttl == TTL_MAX
    };
    match reply {
        Reply::Grant(response) => cut(&mut response.ttl),
        Reply::KeepAlive(response) => cut(&mut response.ttl),
        Reply::TimeToLive(response) => cut(&mut response.granted_ttl),
        _ => false,
    }
}

/// Whether `test` holds for an operation of the transaction or of those in it.
fn any_op(txn: &TxnRequest, test: &dyn Fn(&Request) -> bool) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .filter_map(|op| op.request.as_ref())
        .any(|request| test(request) || matches!(request, Request::RequestTxn(inner) if any_op(inner, test)))
}

fn depth(txn: &TxnRequest) -> usize {
    let ops = txn.success.iter().chain(&txn.failure);
    let inner = ops.filter_map(|op| match &op.request {
        Some(Request::RequestTxn(inner)) => Some(depth(inner)),
        _ => None,
    });
    1 + inner.max().unwrap_or(0)
}

fn deletes_open_ended(txn: &TxnRequest) -> bool {
    any_op(txn, &|request| matches!(request, Request::RequestDeleteRange(delete) if delete.range_end == "\0"))
}

fn has_unknown_compare(txn: &TxnRequest) -> bool {
    let unknown = |txn: &TxnRequest| {
        let strange = |compare: &Compare| {
            CompareResult::try_from(compare.result).is_err() || CompareTarget::try_from(compare.target).is_err()
        };
        txn.compare.iter().any(strange)
    };
    unknown(txn) || any_op(txn, &|request| matches!(request, Request::RequestTxn(inner) if unknown(inner)))
}

fn watch(key: &'static str, range_end: &'static str, start_revision: i64) -> Step {
    let (key, range_end) = (key.into(), range_end.into());
    let create = WatchCreateRequest { key, range_end, start_revision, ..WatchCreateRequest::default() };
    Step::Watch { stream: 0, create }
}

/// Whether each message ends where a revision does, or says that it is a fragment.
fn cut_between_revisions(responses: &[WatchResponse]) -> bool {
    let place = |event: Option<&Event>| event.and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
    responses.windows(2).all(|pair| {
        let (before, after) = (place(pair[0].events.last()), place(pair[1].events.first()));
        pair[0].fragment || before.is_none() || before != after
    })
}

fn join_pieces(responses: &mut Vec<WatchResponse>) {
    let mut joined: Vec<WatchResponse> = Vec::new();
    for response in responses.drain(..) {
        match joined.last_mut() {
            Some(last) if !last.created && !response.created && !response.canceled => {
                last.events.extend(response.events);
                last.header = response.header;
            }
            _ => joined.push(response),
        }
    }
    for response in &mut joined {
        response.fragment = false;
    }
    *responses = joined;
}

fn has_deletions(responses: &[WatchResponse]) -> bool {
    responses.iter().flat_map(|response| &response.events).any(|event| event.r#type() == EventType::Delete)
}

/// Responses without deletions; those that had nothing else are gone.
fn drop_deletions(responses: &mut Vec<WatchResponse>) {
    for response in responses.iter_mut() {
        response.events.retain(|event| event.r#type() != EventType::Delete);
    }
    responses.retain(|response| response.created || response.canceled || !response.events.is_empty());
}
