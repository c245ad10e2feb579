//! Transactions: compares, then one of two lists of operations, nested; one revision, all or nothing.
//!
//! Invariants:
//! - All compares, those of nested transactions too, are decided on the state before the first operation.
//! - Operations see the effects of those before them.
//! - A key is put at most once, and is not both put and within a deleted span.
//! - A rejection anywhere leaves nothing behind.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_proto::{Key, LeaseId, Revision};

use crate::codec::records::Head;
use crate::command::{Compare, RangeQuery, Relation, Span, Target, Txn, TxnOp};
use crate::draft::{Draft, Stop};
use crate::flaw::Flaw;
use crate::history::{self, NEWEST};
use crate::outcome::{Meta, RangeDone, Rejection, TxnDone, TxnResult};
use crate::store::Read;

/// What the operations so far have put and deleted.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    puts: BTreeSet<Key>,
    deleted: Vec<Span>,
}

impl Touched {
    pub(crate) fn put(&mut self, key: &Key) -> Result<(), Rejection> {
        if self.deleted.iter().any(|span| history::holds(span, key.as_bytes())) || !self.puts.insert(key.clone()) {
            cov_mark::hit!(duplicate_put);
            return Err(Rejection::DuplicateKey { key: key.clone() });
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, span: &Span) -> Result<(), Rejection> {
        if let Some(key) = self.puts.iter().find(|key| history::holds(span, key.as_bytes())) {
            cov_mark::hit!(delete_of_a_put_key);
            return Err(Rejection::DuplicateKey { key: key.clone() });
        }
        self.deleted.push(span.clone());
        Ok(())
    }
}

impl<S: Read> Draft<'_, S> {
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnDone, Stop> {
        let mut verdicts = Vec::new();
        judge(&self.store, txn, &mut verdicts)?;
        let head = self.head;
        self.store.begin();
        self.touched = Some(Touched::default());
        let done = self.run(txn, &mut verdicts.into_iter());
        self.touched = None;
        if matches!(done, Err(Stop::Rejected(_))) {
            cov_mark::hit!(txn_rolled_back);
            self.store.rollback();
            self.head = head;
            self.changes.clear();
            self.lease_changes.clear();
        } else {
            self.store.commit();
        }
        done
    }

    fn run(&mut self, txn: &Txn, verdicts: &mut impl Iterator<Item = bool>) -> Result<TxnDone, Stop> {
        let succeeded = verdicts.next().unwrap_or(false);
        let branch = if succeeded { &txn.then } else { &txn.otherwise };
        let mut results = Vec::with_capacity(branch.len());
        for op in branch {
            results.push(match op {
                TxnOp::Range(query) => TxnResult::Range(range(&self.store, &self.head, query)?),
                TxnOp::Put(put) => TxnResult::Put(self.put(put)?),
                TxnOp::Delete(delete) => TxnResult::Delete(self.delete(delete)?),
                TxnOp::Txn(nested) => TxnResult::Txn(self.run(nested, verdicts)?),
            });
        }
        Ok(TxnDone { succeeded, results })
    }
}

/// Decides a transaction that only reads, on what `read` shows; one that would write is rejected.
pub(crate) fn read_only<R: Read>(read: &R, head: &Head, txn: &Txn) -> Result<TxnDone, Stop> {
    let mut holds = true;
    for compare in &txn.compares {
        check_compare(compare)?;
        holds = holds && (self::compare(read, compare)? || Flaw::IgnoresCompares.is_put_in());
    }
    let branch = if holds { &txn.then } else { &txn.otherwise };
    let mut results = Vec::with_capacity(branch.len());
    for op in branch {
        results.push(match op {
            TxnOp::Range(query) => TxnResult::Range(range(read, head, query)?),
            TxnOp::Txn(nested) => TxnResult::Txn(read_only(read, head, nested)?),
            TxnOp::Put(_) | TxnOp::Delete(_) => {
                return Err(Rejection::Invalid("a transaction that writes goes through the log".into()).into());
            }
        });
    }
    Ok(TxnDone { succeeded: holds, results })
}

/// Decides the compares of a transaction, then those of the nested ones that will run, in order.
fn judge<R: Read>(read: &R, txn: &Txn, verdicts: &mut Vec<bool>) -> Result<(), Stop> {
    let mut holds = true;
    for compare in &txn.compares {
        check_compare(compare)?;
        holds = holds && (self::compare(read, compare)? || Flaw::IgnoresCompares.is_put_in());
    }
    verdicts.push(holds);
    for op in if holds { &txn.then } else { &txn.otherwise } {
        if let TxnOp::Txn(nested) = op {
            judge(read, nested, verdicts)?;
        }
    }
    Ok(())
}

fn range<R: Read>(read: &R, head: &Head, query: &RangeQuery) -> Result<RangeDone, Stop> {
    let revision = match query.revision {
        None => NEWEST,
        Some(asked) if asked > head.revision => {
            cov_mark::hit!(txn_reads_future);
            return Err(Rejection::FutureRevision { asked, current: head.revision }.into());
        }
        Some(asked) if asked < head.compacted => {
            cov_mark::hit!(txn_reads_compacted);
            return Err(Rejection::Compacted { asked, compacted: head.compacted }.into());
        }
        Some(asked) => asked,
    };
    Ok(history::range(read, query, revision)?)
}

fn compare<R: Read>(read: &R, compare: &Compare) -> Result<bool, Stop> {
    let wants_value = matches!(compare.target, Target::Value(_));
    if let Span::Key(key) = &compare.span {
        let meta = history::current(read, key.as_bytes())?;
        let value = match meta.filter(|_| wants_value) {
            Some(meta) => history::value_of(read, key, &meta)?.value,
            None => Bytes::new(),
        };
        return Ok(relates(compare, meta.as_ref(), &value));
    }
    let (mut all, mut none) = (true, true);
    for bounds in history::bounds_of(&compare.span) {
        if wants_value {
            history::scan_history(read, &bounds, NEWEST, true, |kv| {
                (all, none) = (relates(compare, Some(&kv.meta), &kv.value), false);
                Ok(all)
            })?;
        } else {
            history::scan_current(read, &bounds, false, |_, meta| {
                (all, none) = (relates(compare, Some(&meta), b""), false);
                Ok(all)
            })?;
        }
        if !all {
            break;
        }
    }
    if none && compare.empty_as_missing {
        cov_mark::hit!(empty_range_as_missing_key);
        return Ok(relates(compare, None, b""));
    }
    Ok(all)
}

fn check_compare(compare: &Compare) -> Result<(), Rejection> {
    match (&compare.target, compare.relation) {
        (Target::Exists(_), Relation::Greater | Relation::Less) => {
            cov_mark::hit!(existence_has_no_order);
            Err(Rejection::Invalid("existence is equal or not equal, never greater or less".into()))
        }
        _ => Ok(()),
    }
}

/// `key.property <relation> target`, for one key.
fn relates(compare: &Compare, meta: Option<&Meta>, value: &[u8]) -> bool {
    let number = |of: fn(&Meta) -> i64, target: i64| Some(meta.map_or(0, of).cmp(&target));
    let revision = |of: fn(&Meta) -> Revision, target: &Revision| Some(meta.map_or(Revision::ZERO, of).cmp(target));
    let ordering = match &compare.target {
        Target::Version(target) => number(|meta| meta.version, *target),
        Target::CreateRevision(target) => revision(|meta| meta.create_revision, target),
        Target::ModRevision(target) => revision(|meta| meta.mod_revision, target),
        Target::Lease(target) => number(|meta| LeaseId::wire(meta.lease), LeaseId::wire(*target)),
        Target::Exists(target) => Some(meta.is_some().cmp(target)),
        // A missing key matches no comparison of values, not even "not equal".
        Target::Value(target) => meta.map(|_| value.cmp(&target[..])),
    };
    ordering.is_some_and(|ordering| match compare.relation {
        Relation::Equal => ordering == Ordering::Equal,
        Relation::NotEqual => ordering != Ordering::Equal,
        Relation::Greater => ordering == Ordering::Greater,
        Relation::Less => ordering == Ordering::Less,
    })
}
