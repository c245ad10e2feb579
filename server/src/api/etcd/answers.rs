//! From what the state machine says to the wire's answers.
//!
//! Invariants:
//! - Headers inside a transaction's answer carry a revision only: the one that the operation saw, which is the
//!   transaction's own once something before it (or it) changed a key. That of a nested transaction is empty.

use quorate_proto::LeaseId;
use quorate_proto::etcd::{etcdserverpb as pb, mvccpb};
use quorate_state::outcome::{DeleteDone, KeyValue, PutDone, RangeDone, TxnDone, TxnResult};

/// A key with everything.
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key.into_bytes(),
        create_revision: kv.meta.create_revision.get(),
        mod_revision: kv.meta.mod_revision.get(),
        version: kv.meta.version,
        value: kv.value,
        lease: LeaseId::wire(kv.meta.lease),
    }
}

/// A count.
pub fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The answer to a range.
pub fn range(done: RangeDone, header: pb::ResponseHeader) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: done.kvs.into_iter().map(key_value).collect(),
        more: done.more,
        count: count(done.count),
    }
}

/// The answer to a put.
pub fn put(done: PutDone, header: pb::ResponseHeader) -> pb::PutResponse {
    pb::PutResponse { header: Some(header), prev_kv: done.previous.map(key_value) }
}

/// The answer to a delete.
pub fn delete(done: DeleteDone, header: pb::ResponseHeader) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted: count(done.deleted),
        prev_kvs: done.previous.into_iter().map(key_value).collect(),
    }
}

/// The answer to a transaction.
pub fn txn(done: TxnDone, header: pb::ResponseHeader) -> pb::TxnResponse {
    let before = header.revision - i64::from(changes(&done));
    let mut seen = Seen { before, changed: false };
    pb::TxnResponse { header: Some(header), ..seen.txn(done) }
}

fn changes(done: &TxnDone) -> bool {
    done.results.iter().any(|result| match result {
        TxnResult::Range(_) => false,
        TxnResult::Put(_) => true,
        TxnResult::Delete(done) => done.deleted > 0,
        TxnResult::Txn(done) => changes(done),
    })
}

/// Which revision the operations of a transaction see, one after another.
struct Seen {
    before: i64,
    changed: bool,
}

impl Seen {
    fn txn(&mut self, done: TxnDone) -> pb::TxnResponse {
        let responses = done.results.into_iter().map(|result| self.op(result)).collect();
        pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded: done.succeeded, responses }
    }

    fn op(&mut self, result: TxnResult) -> pb::ResponseOp {
        use pb::response_op::Response;
        let response = match result {
            TxnResult::Range(done) => Response::ResponseRange(range(done, self.header())),
            TxnResult::Put(done) => {
                self.changed = true;
                Response::ResponsePut(put(done, self.header()))
            }
            TxnResult::Delete(done) => {
                self.changed |= done.deleted > 0;
                Response::ResponseDeleteRange(delete(done, self.header()))
            }
            TxnResult::Txn(done) => Response::ResponseTxn(self.txn(done)),
        };
        pb::ResponseOp { response: Some(response) }
    }

    fn header(&self) -> pb::ResponseHeader {
        let revision = self.before + i64::from(self.changed);
        pb::ResponseHeader { revision, ..pb::ResponseHeader::default() }
    }
}
