//! From what the state machine says to what the wire says.
//!
//! Invariants:
//! - Nothing is decided here.

use quorate_proto::v1;
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::outcome::{Change, ChangeKind, DeleteDone, KeyValue, Meta, PutDone, RangeDone, TxnDone, TxnResult};

use crate::consensus::Member;

/// A key with everything.
pub fn key_value(kv: KeyValue) -> v1::KeyValue {
    v1::KeyValue { value: kv.value, ..meta(kv.key, &kv.meta) }
}

/// A key without its value.
pub fn meta(key: Key, meta: &Meta) -> v1::KeyValue {
    v1::KeyValue {
        key: key.into_bytes(),
        value: bytes::Bytes::new(),
        create_revision: meta.create_revision.get(),
        mod_revision: meta.mod_revision.get(),
        version: meta.version,
        lease_id: LeaseId::wire(meta.lease),
        created_unix_ms: meta.created_ms,
        modified_unix_ms: meta.modified_ms,
    }
}

/// The answer to a range.
pub fn range(done: RangeDone, header: Option<v1::Header>) -> v1::RangeResponse {
    v1::RangeResponse {
        header,
        kvs: done.kvs.into_iter().map(key_value).collect(),
        more: done.more,
        count: i64::try_from(done.count).unwrap_or(i64::MAX),
    }
}

/// The answer to a put.
pub fn put(done: PutDone, header: Option<v1::Header>, log_index: u64) -> v1::PutResponse {
    v1::PutResponse {
        header,
        key: done.key.into_bytes(),
        previous: done.previous.map(key_value),
        lease_id: LeaseId::wire(done.lease),
        log_index,
        replayed: false,
    }
}

/// The answer to a delete.
pub fn delete(done: DeleteDone, header: Option<v1::Header>, log_index: u64) -> v1::DeleteResponse {
    v1::DeleteResponse {
        header,
        deleted: count(done.deleted),
        previous: done.previous.into_iter().map(key_value).collect(),
        log_index,
        replayed: false,
    }
}

/// The answer to a transaction. `shape` is that of the request.
pub fn txn(done: TxnDone, shape: &TxnShape, header: Option<v1::Header>, log_index: u64) -> v1::TxnResponse {
    let branch = if done.succeeded { &shape.then } else { &shape.otherwise };
    let results = done.results.into_iter().zip(branch.iter().map(Some).chain(std::iter::repeat(None)));
    let responses = results.map(|(result, op)| v1::TxnOpResponse { response: Some(op_response(result, op)) }).collect();
    v1::TxnResponse { header, succeeded: done.succeeded, responses, log_index, replayed: false }
}

/// Which operations of a transaction were gets, whose answers have a form of their own.
#[derive(Debug, Default)]
pub struct TxnShape {
    then: Vec<OpShape>,
    otherwise: Vec<OpShape>,
}

#[derive(Debug)]
enum OpShape {
    Get,
    Txn(TxnShape),
    Other,
}

impl TxnShape {
    /// Of a request.
    pub fn of(request: &v1::TxnRequest) -> Self {
        let ops = |ops: &[v1::TxnOp]| ops.iter().map(OpShape::of).collect();
        Self { then: ops(&request.then), otherwise: ops(&request.otherwise) }
    }
}

impl OpShape {
    fn of(op: &v1::TxnOp) -> Self {
        match &op.op {
            Some(v1::txn_op::Op::Get(_)) => Self::Get,
            Some(v1::txn_op::Op::Txn(txn)) => Self::Txn(TxnShape::of(txn)),
            _ => Self::Other,
        }
    }
}

fn op_response(result: TxnResult, shape: Option<&OpShape>) -> v1::txn_op_response::Response {
    use v1::txn_op_response::Response;
    match (result, shape) {
        (TxnResult::Range(done), Some(OpShape::Get)) => {
            let kv = done.kvs.into_iter().next().map(key_value);
            Response::Get(v1::GetResponse { header: None, kv })
        }
        (TxnResult::Range(done), _) => Response::Range(range(done, None)),
        (TxnResult::Put(done), _) => Response::Put(put(done, None, 0)),
        (TxnResult::Delete(done), _) => Response::Delete(delete(done, None, 0)),
        (TxnResult::Txn(done), Some(OpShape::Txn(shape))) => Response::Txn(txn(done, shape, None, 0)),
        (TxnResult::Txn(done), _) => Response::Txn(txn(done, &TxnShape::default(), None, 0)),
    }
}

/// A count, as the wire has it.
pub fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// One change; `previous` is what stood there before, if that was asked for.
pub fn event(change: &Change, revision: Revision, previous: Option<KeyValue>) -> v1::Event {
    let previous = previous.map(key_value);
    match &change.kind {
        ChangeKind::Put { meta, value } => v1::Event {
            kind: v1::event::Kind::Put.into(),
            kv: Some(v1::KeyValue { value: value.clone(), ..self::meta(change.key.clone(), meta) }),
            previous,
            lease_ended: false,
        },
        ChangeKind::Delete { lease_ended } => v1::Event {
            kind: v1::event::Kind::Delete.into(),
            kv: Some(deleted(&change.key, revision)),
            previous,
            lease_ended: *lease_ended,
        },
    }
}

fn deleted(key: &Key, revision: Revision) -> v1::KeyValue {
    v1::KeyValue { key: key.to_bytes(), mod_revision: revision.get(), ..v1::KeyValue::default() }
}

/// A member.
pub fn member(member: Member) -> v1::Member {
    v1::Member {
        id: member.id.get(),
        name: member.name,
        peer_address: member.peer_address,
        client_address: member.client_address,
        learner: member.learner,
    }
}
