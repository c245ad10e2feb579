//! From the wire's requests to commands and queries, with the checks that depend on the request alone.
//!
//! Invariants:
//! - The order of checks is the wire's, so that a request with two faults gets the same answer.
//!
//! Example: a Range of `a` to `\0` sorted by VERSION without an order, limit 2, is a query of the span `a..` that sorts
//! the first three keys only (`window_first`), as the wire has it.

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::command::{
    Compare, Delete, Expect, Owner, Put, RangeQuery, Refine, Relation, SortBy, Span, Target, Txn, TxnOp,
};

use super::errors::{self, Refused};
use super::overlaps;
use crate::config::Limits;

/// How deep transactions may stand in each other: what a log entry can hold.
const TXN_DEPTH_MAX: usize = 32;

/// One key, a range, or everything from a key on (`end` is one zero byte).
pub fn span(key: Bytes, end: Bytes) -> Result<Span, Refused> {
    if key.is_empty() {
        return Err(errors::EMPTY_KEY);
    }
    Ok(match &end[..] {
        [] => Span::Key(Key::new(key)?),
        [0] => Span::Range { start: key, end: None },
        _ => Span::Range { start: key, end: Some(end) },
    })
}

fn check_range(request: &pb::RangeRequest) -> Result<(SortOrder, SortTarget), Refused> {
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY);
    }
    let order = SortOrder::try_from(request.sort_order).map_err(|_| errors::INVALID_SORT_OPTION)?;
    let target = SortTarget::try_from(request.sort_target).map_err(|_| errors::INVALID_SORT_OPTION)?;
    Ok((order, target))
}

/// A read.
pub fn range(request: pb::RangeRequest) -> Result<RangeQuery, Refused> {
    let (order, target) = check_range(&request)?;
    let span = span(request.key, request.range_end)?;
    let bound = |revision: i64| (revision != 0).then_some(Revision(revision));
    let bounds = Refine {
        mod_min: bound(request.min_mod_revision),
        mod_max: bound(request.max_mod_revision),
        create_min: bound(request.min_create_revision),
        create_max: bound(request.max_create_revision),
        ..Refine::default()
    };
    let sort = match target {
        SortTarget::Key => None,
        SortTarget::Version => Some(SortBy::Version),
        SortTarget::Create => Some(SortBy::CreateRevision),
        SortTarget::Mod => Some(SortBy::ModRevision),
        SortTarget::Value => Some(SortBy::Value),
    };
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let window_first = sort.is_some() && order == SortOrder::None && bounds == Refine::default() && limit.is_some();
    Ok(RangeQuery {
        span,
        revision: (request.revision > 0).then_some(Revision(request.revision)),
        limit,
        bytes_max: None,
        descending: order == SortOrder::Descend,
        keys_only: request.keys_only,
        count_only: request.count_only,
        count_all: true,
        refine: Refine { sort, window_first, ..bounds },
    })
}

/// A write of one key.
pub fn put(request: pb::PutRequest, limits: &Limits) -> Result<Put, Refused> {
    check_put(&request)?;
    if request.encoded_len() > limits.value_bytes_max {
        return Err(errors::TOO_LARGE);
    }
    Ok(Put {
        key: Key::new(request.key)?,
        value: (!request.ignore_value).then_some(request.value),
        owner: match LeaseId::new(request.lease) {
            _ if request.ignore_lease => Owner::Keep,
            Some(lease) => Owner::Lease(lease),
            None => Owner::None,
        },
        expect: if request.ignore_lease { Expect::Present } else { Expect::Anything },
        return_previous: request.prev_kv,
        must_have_parent: false,
        sequential: false,
    })
}

fn check_put(request: &pb::PutRequest) -> Result<(), Refused> {
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(errors::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(errors::LEASE_PROVIDED);
    }
    Ok(())
}

/// A delete, of however many keys.
pub fn delete(request: pb::DeleteRangeRequest) -> Result<Delete, Refused> {
    Ok(Delete {
        span: span(request.key, request.range_end)?,
        expect: Expect::Anything,
        must_be_empty: false,
        return_previous: request.prev_kv,
        limit: None,
    })
}

/// A transaction.
pub fn txn(request: pb::TxnRequest, limits: &Limits) -> Result<Txn, Refused> {
    check(&request, limits.txn_ops_max, TXN_DEPTH_MAX)?;
    overlaps::check(&request.success)?;
    overlaps::check(&request.failure)?;
    translate(request, limits)
}

/// Each operation in order, those of `success` first, and bounds from the outside in: what one level uses is no longer there for those inside it.
fn check(request: &pb::TxnRequest, ops_max: usize, depth_max: usize) -> Result<(), Refused> {
    use pb::request_op::Request;
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max || depth_max == 0 {
        return Err(errors::TOO_MANY_OPS);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(errors::EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            None => return Err(errors::KEY_NOT_FOUND),
            Some(Request::RequestTxn(nested)) => check(nested, ops_max - ops, depth_max - 1)?,
            Some(Request::RequestRange(op)) => {
                check_range(op)?;
            }
            Some(Request::RequestPut(op)) => check_put(op)?,
            Some(Request::RequestDeleteRange(op)) if op.key.is_empty() => return Err(errors::EMPTY_KEY),
            Some(Request::RequestDeleteRange(_)) => {}
        }
    }
    Ok(())
}

fn translate(request: pb::TxnRequest, limits: &Limits) -> Result<Txn, Refused> {
    let branch = |ops: Vec<pb::RequestOp>| ops.into_iter().map(|op| self::op(op, limits)).collect::<Result<_, _>>();
    Ok(Txn {
        compares: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        then: branch(request.success)?,
        otherwise: branch(request.failure)?,
    })
}

fn op(op: pb::RequestOp, limits: &Limits) -> Result<TxnOp, Refused> {
    use pb::request_op::Request;
    Ok(match op.request.ok_or(errors::KEY_NOT_FOUND)? {
        Request::RequestRange(op) => TxnOp::Range(range(op)?),
        Request::RequestPut(op) => TxnOp::Put(put(op, limits)?),
        Request::RequestDeleteRange(op) => TxnOp::Delete(delete(op)?),
        Request::RequestTxn(op) => TxnOp::Txn(translate(op, limits)?),
    })
}

/// A compare. What it compares with is zero, or empty, where the request says nothing of the right kind.
fn compare(request: pb::Compare) -> Result<Compare, Refused> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let relation = match CompareResult::try_from(request.result) {
        Ok(CompareResult::Equal) => Relation::Equal,
        Ok(CompareResult::NotEqual) => Relation::NotEqual,
        Ok(CompareResult::Greater) => Relation::Greater,
        Ok(CompareResult::Less) => Relation::Less,
        Err(_) => return Err(Refused::invalid("the result of a compare is not known")),
    };
    let union = request.target_union;
    let target = match (CompareTarget::try_from(request.target), union) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(version))) => Target::Version(version),
        (Ok(CompareTarget::Version), _) => Target::Version(0),
        (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(at))) => Target::CreateRevision(Revision(at)),
        (Ok(CompareTarget::Create), _) => Target::CreateRevision(Revision::ZERO),
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(at))) => Target::ModRevision(Revision(at)),
        (Ok(CompareTarget::Mod), _) => Target::ModRevision(Revision::ZERO),
        (Ok(CompareTarget::Value), Some(TargetUnion::Value(value))) => Target::Value(value),
        (Ok(CompareTarget::Value), _) => Target::Value(Bytes::new()),
        (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(lease))) => Target::Lease(LeaseId::new(lease)),
        (Ok(CompareTarget::Lease), _) => Target::Lease(None),
        (Err(_), _) => return Err(Refused::invalid("the target of a compare is not known")),
    };
    Ok(Compare { span: span(request.key, request.range_end)?, empty_as_missing: true, relation, target })
}

/// Whether no branch of a transaction writes.
pub fn only_reads(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).all(|op| match op {
        TxnOp::Range(_) => true,
        TxnOp::Txn(nested) => only_reads(nested),
        TxnOp::Put(_) | TxnOp::Delete(_) => false,
    })
}

/// Whether a transaction looks at single keys only.
pub fn reads_keys(txn: &Txn) -> bool {
    let one = |span: &Span| matches!(span, Span::Key(_));
    txn.compares.iter().all(|compare| one(&compare.span))
        && txn.then.iter().chain(&txn.otherwise).all(|op| match op {
            TxnOp::Range(query) => one(&query.span),
            TxnOp::Txn(nested) => reads_keys(nested),
            TxnOp::Put(_) | TxnOp::Delete(_) => false,
        })
}

/// Whether the answer to a transaction may hold values read, which a remembered outcome does not.
pub fn gives_values(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).any(|op| match op {
        TxnOp::Range(query) => !query.count_only,
        TxnOp::Put(put) => put.return_previous,
        TxnOp::Delete(delete) => delete.return_previous,
        TxnOp::Txn(nested) => gives_values(nested),
    })
}

/// Whether a transaction may be answered from what this member has: it reads, and every read says so.
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    let mut ops = request.success.iter().chain(&request.failure).peekable();
    ops.peek().is_some() && ops.all(|op| matches!(&op.request, Some(Request::RequestRange(op)) if op.serializable))
}
