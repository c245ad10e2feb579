//! Transactions: bounds on all levels together, and keys that would be changed twice.
//!
//! Invariants:
//! - A key that is put twice, or put and deleted, on one path of execution is refused where the request shows it; what
//!   only apply can see (sequential names, subtrees), apply refuses.

use std::collections::HashSet;

use quorate_proto::v1;
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::command::{Compare, Put, RangeQuery, Relation, Span, Target, Txn, TxnOp};
use quorate_state::outcome::Rejection;

use super::errors::Refusal;
use super::limits::{ANSWER_BYTES_MAX, TXN_DEPTH_MAX};
use super::validate::{at_revision, bounds, delete, put, range, unknown};
use crate::config::Limits;

/// A transaction, without its id.
pub fn txn(request: v1::TxnRequest, limits: &Limits) -> Result<Txn, Refusal> {
    let mut bound = Bound { limits, ops: 0, compares: 0 };
    let txn = bound.txn(request, 1)?;
    changed_once(&txn, &Changed::default())?;
    Ok(txn)
}

struct Bound<'a> {
    limits: &'a Limits,
    ops: usize,
    compares: usize,
}

impl Bound<'_> {
    fn txn(&mut self, request: v1::TxnRequest, depth: usize) -> Result<Txn, Refusal> {
        let ops_max = self.limits.txn_ops_max;
        self.ops += request.then.len() + request.otherwise.len();
        self.compares += request.compares.len();
        if self.ops > ops_max || self.compares > ops_max {
            return Err(Refusal::too_large(format!(
                "the transaction has more than {ops_max} operations or compares, nested ones counted; split it"
            )));
        }
        if depth > TXN_DEPTH_MAX {
            return Err(Refusal::too_large(format!("transactions stand more than {TXN_DEPTH_MAX} deep in each other")));
        }
        Ok(Txn {
            compares: request.compares.into_iter().map(compare).collect::<Result<_, _>>()?,
            then: self.ops(request.then, depth)?,
            otherwise: self.ops(request.otherwise, depth)?,
        })
    }

    fn ops(&mut self, ops: Vec<v1::TxnOp>, depth: usize) -> Result<Vec<TxnOp>, Refusal> {
        ops.into_iter().map(|op| self.op(op, depth)).collect()
    }

    fn op(&mut self, op: v1::TxnOp, depth: usize) -> Result<TxnOp, Refusal> {
        use v1::txn_op::Op;
        let op = op.op.ok_or_else(|| Refusal::invalid("an operation of the transaction is empty"))?;
        let (id, read) = match &op {
            Op::Get(op) => (false, op.read.is_some()),
            Op::Range(op) => (false, op.read.is_some()),
            Op::Put(op) => (op.id.is_some(), false),
            Op::Delete(op) => (op.id.is_some(), false),
            Op::Txn(op) => (op.id.is_some(), op.read.is_some()),
        };
        if id || read {
            return Err(Refusal::invalid("inside a transaction `id` and `read` are left out of the operations"));
        }
        Ok(match op {
            Op::Get(get) => TxnOp::Range(self::get(get)?),
            Op::Range(op) => TxnOp::Range(range(op)?),
            Op::Put(op) => TxnOp::Put(put(op, self.limits)?),
            Op::Delete(op) => TxnOp::Delete(delete(op)?),
            Op::Txn(op) => TxnOp::Txn(self.txn(op, depth + 1)?),
        })
    }
}

fn get(request: v1::GetRequest) -> Result<RangeQuery, Refusal> {
    Ok(RangeQuery {
        revision: at_revision(request.revision)?,
        bytes_max: Some(ANSWER_BYTES_MAX),
        ..RangeQuery::all(Span::Key(Key::new(request.key)?))
    })
}

fn compare(request: v1::Compare) -> Result<Compare, Refusal> {
    use v1::compare::{Relation as Wire, Target as WireTarget};
    let span = if request.to_end && !request.range_end.is_empty() {
        return Err(Refusal::invalid("a compare has range_end or to_end, not both"));
    } else if request.to_end || !request.range_end.is_empty() {
        bounds(request.key, request.range_end)?
    } else {
        Span::Key(Key::new(request.key)?)
    };
    let relation = match Wire::try_from(request.relation).map_err(|_| unknown("relation", request.relation))? {
        Wire::Equal => Relation::Equal,
        Wire::NotEqual => Relation::NotEqual,
        Wire::Greater => Relation::Greater,
        Wire::Less => Relation::Less,
    };
    let target = match request.target {
        None => return Err(Refusal::invalid("a compare says nothing to compare with; set its target")),
        Some(WireTarget::Version(version)) => Target::Version(version),
        Some(WireTarget::CreateRevision(revision)) => Target::CreateRevision(Revision(revision)),
        Some(WireTarget::ModRevision(revision)) => Target::ModRevision(Revision(revision)),
        Some(WireTarget::LeaseId(lease)) => Target::Lease(LeaseId::new(lease)),
        Some(WireTarget::Value(value)) => Target::Value(value),
        Some(WireTarget::Exists(exists)) => Target::Exists(exists),
    };
    if matches!(target, Target::Exists(_)) && !matches!(relation, Relation::Equal | Relation::NotEqual) {
        return Err(Refusal::invalid("whether a key exists is compared with EQUAL or NOT_EQUAL"));
    }
    Ok(Compare { span, empty_as_missing: false, relation, target })
}

/// Keys changed so far on one path of execution.
#[derive(Default, Clone)]
struct Changed<'a> {
    put: HashSet<&'a Key>,
    deleted: HashSet<&'a Key>,
}

/// Checks both branches, each after what was changed before, and gives what either changes.
fn changed_once<'a>(txn: &'a Txn, before: &Changed<'a>) -> Result<Changed<'a>, Refusal> {
    let mut after = before.clone();
    for branch in [&txn.then, &txn.otherwise] {
        let mut changed = before.clone();
        for op in branch {
            match op {
                TxnOp::Put(Put { key, sequential: false, .. }) => {
                    if changed.deleted.contains(key) || !changed.put.insert(key) {
                        return Err(twice(key));
                    }
                }
                TxnOp::Delete(op) => {
                    if let Span::Key(key) = &op.span
                        && (changed.put.contains(key) || !changed.deleted.insert(key))
                    {
                        return Err(twice(key));
                    }
                }
                TxnOp::Txn(inner) => changed = changed_once(inner, &changed)?,
                TxnOp::Put(_) | TxnOp::Range(_) => {}
            }
        }
        after.put.extend(changed.put);
        after.deleted.extend(changed.deleted);
    }
    Ok(after)
}

fn twice(key: &Key) -> Refusal {
    Rejection::DuplicateKey { key: key.clone() }.into()
}

#[cfg(test)]
mod fuzz;
