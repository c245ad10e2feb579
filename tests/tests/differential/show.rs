//! Steps and answers as people read them: fields that say something, revisions as of the sequence.
//!
//! Invariants:
//! - Two answers print alike only if they are equal: every field that is not at its default is printed.

use std::fmt::Write as _;

use quorate_proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcd::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::etcd::etcdserverpb::request_op::Request;
use quorate_proto::etcd::etcdserverpb::response_op::Response;
use quorate_proto::etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchResponse,
};
use quorate_proto::etcd::mvccpb::{Event, KeyValue};

use super::answer::{Answer, Reply};
use super::step::Step;

/// A line that is built of words, each of which says something.
#[derive(Default)]
struct Line(String);

impl Line {
    fn of(verb: &str) -> Self {
        Self(verb.to_owned())
    }

    fn word(mut self, word: &str) -> Self {
        let _ = write!(self.0, " {word}");
        self
    }

    fn flag(self, name: &str, on: bool) -> Self {
        if on { self.word(name) } else { self }
    }

    fn number(self, name: &str, value: i64) -> Self {
        if value == 0 { self } else { self.word(&format!("{name}={value}")) }
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.word(&format!("{name}={}", text(value))) }
    }

    fn range(self, key: &[u8], end: &[u8]) -> Self {
        let line = self.word(&text(key));
        if end.is_empty() { line } else { line.word(&format!("..{}", text(end))) }
    }
}

/// Bytes as a quoted text; long ones by their length and beginning.
pub fn text(bytes: &[u8]) -> String {
    if bytes.len() > 64 {
        return format!("\"{}…\"({} bytes)", bytes[..16].escape_ascii(), bytes.len());
    }
    format!("\"{}\"", bytes.escape_ascii())
}

fn named<T: std::fmt::Debug>(known: Result<T, impl Sized>, number: i32) -> String {
    known.map_or_else(|_| format!("{number}?"), |one| format!("{one:?}"))
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = match self {
            Self::Range(request) => range(request),
            Self::Put(request) => put(request),
            Self::Delete(request) => delete(request),
            Self::Txn(request) => format!("txn {}", txn(request)),
            Self::Compact(request) => {
                Line::of("compact").word(&request.revision.to_string()).flag("physical", request.physical).0
            }
            Self::Burst(puts) => format!("burst [{}]", puts.iter().map(put).collect::<Vec<_>>().join("; ")),
            Self::Grant(request) => format!("grant lease {} ttl={}", request.id, request.ttl),
            Self::GrantAndRevoke(request) => format!("grant and revoke lease {} ttl={}", request.id, request.ttl),
            Self::Revoke(request) => format!("revoke lease {}", request.id),
            Self::TimeToLive(request) => {
                Line::of("time to live of lease").word(&request.id.to_string()).flag("keys", request.keys).0
            }
            Self::Leases => "leases".to_owned(),
            Self::KeepAlive(request) => format!("keep lease {} alive", request.id),
            Self::Watch { stream, create } => format!("stream {stream}: {}", watch(create)),
            Self::Cancel { stream, id } => format!("stream {stream}: cancel watch {id}"),
            Self::Progress { stream } => format!("stream {stream}: ask for progress"),
            Self::HalfClose { stream } => format!("stream {stream}: close the sending half"),
            Self::End => "end: cancel all watches".to_owned(),
        };
        f.write_str(&line)
    }
}

fn range(r: &RangeRequest) -> String {
    let order = named(SortOrder::try_from(r.sort_order), r.sort_order);
    let target = named(SortTarget::try_from(r.sort_target), r.sort_target);
    let line = Line::of("range").range(&r.key, &r.range_end).number("limit", r.limit).number("revision", r.revision);
    let line =
        if (r.sort_order, r.sort_target) == (0, 0) { line } else { line.word(&format!("sort={order}/{target}")) };
    line.flag("serializable", r.serializable)
        .flag("keys_only", r.keys_only)
        .flag("count_only", r.count_only)
        .number("min_mod", r.min_mod_revision)
        .number("max_mod", r.max_mod_revision)
        .number("min_create", r.min_create_revision)
        .number("max_create", r.max_create_revision)
        .0
}

fn put(p: &PutRequest) -> String {
    Line::of("put")
        .word(&text(&p.key))
        .word(&text(&p.value))
        .number("lease", p.lease)
        .flag("prev_kv", p.prev_kv)
        .flag("ignore_value", p.ignore_value)
        .flag("ignore_lease", p.ignore_lease)
        .0
}

fn delete(d: &DeleteRangeRequest) -> String {
    Line::of("delete").range(&d.key, &d.range_end).flag("prev_kv", d.prev_kv).0
}

fn txn(t: &TxnRequest) -> String {
    let all = |ops: &[RequestOp]| ops.iter().map(op).collect::<Vec<_>>().join("; ");
    let compares = t.compare.iter().map(compare).collect::<Vec<_>>().join(" and ");
    format!("if ({compares}) then [{}] else [{}]", all(&t.success), all(&t.failure))
}

fn op(op: &RequestOp) -> String {
    match &op.request {
        None => "nothing".to_owned(),
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete(request),
        Some(Request::RequestTxn(request)) => txn(request),
    }
}

fn compare(c: &Compare) -> String {
    let target = named(CompareTarget::try_from(c.target), c.target);
    let result = named(CompareResult::try_from(c.result), c.result);
    let union = match &c.target_union {
        None => "nothing".to_owned(),
        Some(TargetUnion::Version(v)) => format!("version {v}"),
        Some(TargetUnion::CreateRevision(v)) => format!("create {v}"),
        Some(TargetUnion::ModRevision(v)) => format!("mod {v}"),
        Some(TargetUnion::Value(v)) => format!("value {}", text(v)),
        Some(TargetUnion::Lease(v)) => format!("lease {v}"),
    };
    Line::of(&target).word("of").range(&c.key, &c.range_end).word(&result).word(&union).0
}

fn watch(w: &WatchCreateRequest) -> String {
    let filters = w.filters.iter().fold(Line::of("watch").range(&w.key, &w.range_end), |line, filter| match filter {
        0 => line.word("noput"),
        1 => line.word("nodelete"),
        other => line.word(&format!("filter={other}?")),
    });
    filters
        .number("start", w.start_revision)
        .number("id", w.watch_id)
        .flag("prev_kv", w.prev_kv)
        .flag("progress_notify", w.progress_notify)
        .flag("fragment", w.fragment)
        .0
}

/// An answer in lines.
pub fn answer(answer: &Answer) -> Vec<String> {
    let mut lines = reply(&answer.reply);
    for ((stream, id), responses) in &answer.watched {
        for one in responses {
            lines.push(format!("stream {stream}, watch {id}: {}", watched(one)));
        }
    }
    lines
}

fn reply(reply: &Reply) -> Vec<String> {
    vec![match reply {
        Reply::Done => return Vec::new(),
        Reply::Refused { code, message } => format!("{code:?}: {message}"),
        Reply::Silence(what) => format!("silence: {what}"),
        Reply::Lost(what) => format!("LOST: {what}"),
        Reply::Range(response) => range_answer(response),
        Reply::Put(response) => put_answer(response),
        Reply::Delete(response) => delete_answer(response),
        Reply::Txn(response) => format!("txn {}", txn_answer(response)),
        Reply::Compact(response) => format!("compacted {}", header(response.header.as_ref())),
        Reply::Grant(r) => {
            let line =
                Line::of("granted").word(&r.id.to_string()).number("ttl", r.ttl).bytes("error", r.error.as_bytes());
            line.word(&header(r.header.as_ref())).0
        }
        Reply::Revoke(response) => format!("revoked {}", header(response.header.as_ref())),
        Reply::TimeToLive(r) => {
            let keys: Vec<_> = r.keys.iter().map(|key| text(key)).collect();
            let line = Line::of("lease").word(&r.id.to_string()).number("ttl", r.ttl).number("granted", r.granted_ttl);
            line.word(&format!("keys={keys:?}")).word(&header(r.header.as_ref())).0
        }
        Reply::Leases(response) => {
            let ids: Vec<_> = response.leases.iter().map(|lease| lease.id).collect();
            format!("leases {ids:?} {}", header(response.header.as_ref()))
        }
        Reply::KeepAlive(r) => format!("kept {} ttl={} {}", r.id, r.ttl, header(r.header.as_ref())),
        Reply::Many(replies) => return replies.iter().flat_map(self::reply).collect(),
    }]
}

fn header(header: Option<&ResponseHeader>) -> String {
    let Some(h) = header else { return "(no header)".to_owned() };
    let ids = [h.cluster_id, h.member_id, h.raft_term];
    if ids.iter().all(|id| *id != 0) {
        return format!("(revision {})", h.revision);
    }
    let known = |id: u64| if id == 0 { "no" } else { "a" };
    let [cluster, member, term] = ids.map(known);
    format!("(revision {}, {cluster} cluster, {member} member, {term} term)", h.revision)
}

fn kv(kv: &KeyValue) -> String {
    let line = Line::of(&text(&kv.key)).word(&text(&kv.value)).number("create", kv.create_revision);
    let line = line.number("mod", kv.mod_revision).number("version", kv.version).number("lease", kv.lease);
    format!("{{{}}}", line.0)
}

fn kvs<'a>(all: impl IntoIterator<Item = &'a KeyValue>) -> String {
    format!("[{}]", all.into_iter().map(kv).collect::<Vec<_>>().join(", "))
}

fn range_answer(r: &RangeResponse) -> String {
    Line::of("kvs").word(&kvs(&r.kvs)).number("count", r.count).flag("more", r.more).word(&header(r.header.as_ref())).0
}

fn put_answer(r: &PutResponse) -> String {
    format!("put, previous {} {}", kvs(&r.prev_kv), header(r.header.as_ref()))
}

fn delete_answer(r: &DeleteRangeResponse) -> String {
    format!("deleted {}, previous {} {}", r.deleted, kvs(&r.prev_kvs), header(r.header.as_ref()))
}

fn txn_answer(t: &TxnResponse) -> String {
    let inner: Vec<_> = t.responses.iter().map(op_answer).collect();
    format!("succeeded={} [{}] {}", t.succeeded, inner.join("; "), header(t.header.as_ref()))
}

fn op_answer(op: &ResponseOp) -> String {
    match &op.response {
        None => "nothing".to_owned(),
        Some(Response::ResponseRange(response)) => range_answer(response),
        Some(Response::ResponsePut(response)) => put_answer(response),
        Some(Response::ResponseDeleteRange(response)) => delete_answer(response),
        Some(Response::ResponseTxn(response)) => txn_answer(response),
    }
}

fn event(event: &Event) -> String {
    let kind = ["put", "delete"].get(usize::try_from(event.r#type).unwrap_or(9)).copied().unwrap_or("?");
    format!("{kind} {} previous {}", kvs(&event.kv), kvs(&event.prev_kv))
}

fn watched(w: &WatchResponse) -> String {
    let events: Vec<_> = w.events.iter().map(event).collect();
    Line::of(&header(w.header.as_ref()))
        .flag("created", w.created)
        .flag("canceled", w.canceled)
        .number("compact_revision", w.compact_revision)
        .bytes("reason", w.cancel_reason.as_bytes())
        .flag("fragment", w.fragment)
        .word(&format!("events [{}]", events.join(", ")))
        .0
}

/// Two answers beside each other: what is equal once, what differs with the name of whose it is.
pub fn both(left: (&str, &Answer), right: (&str, &Answer)) -> String {
    let (ours, theirs) = (answer(left.1), answer(right.1));
    let mut out = String::new();
    for line in &ours {
        let mark = if theirs.contains(line) { "both" } else { left.0 };
        let _ = writeln!(out, "      {mark:>8}: {line}");
    }
    for line in theirs.iter().filter(|line| !ours.contains(line)) {
        let _ = writeln!(out, "      {:>8}: {line}", right.0);
    }
    out
}
