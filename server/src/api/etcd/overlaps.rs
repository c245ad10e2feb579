//! Keys that a transaction would change twice, as far as the request shows it; what only apply sees, apply refuses.
//!
//! Invariants:
//! - A put meets no put of its key and no delete that holds it, in its own branch or in transactions nested in it; the
//!   two branches of one nested transaction exclude each other, so their puts may meet.
//! - Deletes may meet each other, and reads may meet anything.
//!
//! Example: `delete [a, c)`, then a nested transaction that puts `b` in one branch: refused, whichever branch will run.

use std::collections::HashSet;

use bytes::Bytes;
use quorate_proto::Key;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::request_op::Request;

use super::errors::{self, Refused};

/// Deleted keys: `[start, end)`, open when `None`.
struct Deleted<'a> {
    start: &'a Bytes,
    end: Option<Bytes>,
}

impl<'a> Deleted<'a> {
    fn of(request: &'a pb::DeleteRangeRequest) -> Self {
        let end = match &request.range_end[..] {
            [] => Some(Key::after(&request.key).into()),
            [0] => None,
            _ => Some(request.range_end.clone()),
        };
        Self { start: &request.key, end }
    }

    fn holds(&self, key: &Bytes) -> bool {
        self.start <= key && self.end.as_ref().is_none_or(|end| key < end)
    }
}

#[derive(Default)]
struct Changed<'a> {
    puts: HashSet<&'a Bytes>,
    deleted: Vec<Deleted<'a>>,
}

impl<'a> Changed<'a> {
    /// A key is put; `twice` says that it was put before where that matters.
    fn put(&mut self, key: &'a Bytes, twice: bool) -> Result<(), Refused> {
        if twice || self.deleted.iter().any(|deleted| deleted.holds(key)) {
            return Err(errors::DUPLICATE_KEY);
        }
        self.puts.insert(key);
        Ok(())
    }
}

/// Refuses a branch that would change a key twice.
pub fn check(branch: &[pb::RequestOp]) -> Result<(), Refused> {
    changed(branch).map(drop)
}

/// What a branch changes: its deletes count first, then what is nested in it, then its own puts.
fn changed(branch: &[pb::RequestOp]) -> Result<Changed<'_>, Refused> {
    let mut all = Changed::default();
    for op in branch {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deleted.push(Deleted::of(delete));
        }
    }
    for op in branch {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            let (then, otherwise) = (changed(&nested.success)?, changed(&nested.failure)?);
            let before = all.puts.clone();
            for key in then.puts.into_iter().chain(otherwise.puts) {
                all.put(key, before.contains(key))?;
            }
            all.deleted.extend(then.deleted);
            all.deleted.extend(otherwise.deleted);
        }
    }
    for op in branch {
        if let Some(Request::RequestPut(put)) = &op.request {
            let twice = all.puts.contains(&put.key);
            all.put(&put.key, twice)?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> pb::RequestOp {
        let put = pb::PutRequest { key: key.into(), ..pb::PutRequest::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(key: &'static str, range_end: &'static str) -> pb::RequestOp {
        let delete = pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
        pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        let txn = pb::TxnRequest { compare: Vec::new(), success, failure };
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    #[test]
    fn a_branch_that_changes_a_key_twice_is_refused() {
        let refused = [
            vec![put("a"), put("a")],
            vec![put("b"), delete("a", "c")],
            vec![delete("a", ""), put("a")],
            vec![delete("a", "\0"), put("b")],
            vec![put("a"), nested(vec![put("a")], vec![])],
            vec![nested(vec![], vec![put("a")]), nested(vec![put("a")], vec![])],
            vec![delete("a", "c"), nested(vec![], vec![put("b")])],
            vec![nested(vec![delete("a", "c")], vec![]), put("b")],
            vec![nested(vec![put("a"), put("a")], vec![])],
        ];
        for branch in refused {
            assert_eq!(check(&branch), Err(errors::DUPLICATE_KEY), "{branch:?}");
        }
    }

    #[test]
    fn what_excludes_itself_or_is_no_put_may_meet() {
        let allowed = [
            vec![put("a"), put("b"), delete("c", "d")],
            vec![delete("a", "c"), delete("b", "d"), delete("a", "")],
            vec![nested(vec![put("a")], vec![put("a")])],
            vec![put("c"), delete("a", "c"), delete("d", "")],
        ];
        for branch in allowed {
            assert_eq!(check(&branch), Ok(()), "{branch:?}");
        }
    }
}
