//! What a sequence is made of: requests of etcd's wire, with revisions that do not depend on where a server stands.
//!
//! Invariants:
//! - A step is data: the same step can be sent to several servers, printed, and made simpler.
//! - Revisions in steps and in recorded answers are *virtual*: the sequence begins at [`START`]. Those outside
//!   [`VIRTUAL`] are sent as they are (0, −1, 1, far future).

use std::ops::RangeInclusive;

use quorate_proto::etcd::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, compare::TargetUnion,
    request_op::Request,
};

/// The revision at which each sequence begins, as steps and answers show it.
pub const START: i64 = 1000;

/// Revisions that are counted from the start of the sequence.
pub const VIRTUAL: RangeInclusive<i64> = 900..=9999;

/// One step of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    /// Puts one after the other, without waiting for their events in between.
    Burst(Vec<PutRequest>),
    Grant(LeaseGrantRequest),
    /// A lease that would soon end by itself: granted and revoked at once.
    GrantAndRevoke(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases,
    KeepAlive(LeaseKeepAliveRequest),
    Watch {
        stream: usize,
        create: WatchCreateRequest,
    },
    Cancel {
        stream: usize,
        id: i64,
    },
    Progress {
        stream: usize,
    },
    /// The client says that it will send no more on this stream.
    HalfClose {
        stream: usize,
    },
    /// All watches are cancelled one by one, which shows what they still delivered.
    End,
}

impl Step {
    /// The step as it is sent to a server where the sequence began at `base`.
    pub fn at(&self, base: i64) -> Self {
        let mut step = self.clone();
        match &mut step {
            Self::Range(range) => range_at(range, base),
            Self::Txn(txn) => txn_at(txn, base),
            Self::Compact(compact) => compact.revision = real(compact.revision, base),
            Self::Watch { create, .. } => create.start_revision = real(create.start_revision, base),
            _ => {}
        }
        step
    }
}

impl Step {
    /// The step with the revision that it asks for one lower, as if a change before it had not been.
    pub fn earlier(&self) -> Self {
        let mut step = self.clone();
        let revision = match &mut step {
            Self::Range(range) => &mut range.revision,
            Self::Compact(compact) => &mut compact.revision,
            Self::Watch { create, .. } => &mut create.start_revision,
            _ => return step,
        };
        if VIRTUAL.contains(revision) && *revision > START {
            *revision -= 1;
        }
        step
    }
}

/// Virtual to real.
pub fn real(revision: i64, base: i64) -> i64 {
    if VIRTUAL.contains(&revision) { revision - START + base } else { revision }
}

/// Real to virtual. Small ones are no revisions of this sequence: 0, −1.
pub fn shown(revision: i64, base: i64) -> i64 {
    if revision <= 0 { revision } else { revision - base + START }
}

fn range_at(range: &mut RangeRequest, base: i64) {
    for revision in [
        &mut range.revision,
        &mut range.min_mod_revision,
        &mut range.max_mod_revision,
        &mut range.min_create_revision,
        &mut range.max_create_revision,
    ] {
        *revision = real(*revision, base);
    }
}

fn txn_at(txn: &mut TxnRequest, base: i64) {
    for compare in &mut txn.compare {
        if let Some(TargetUnion::ModRevision(revision) | TargetUnion::CreateRevision(revision)) =
            &mut compare.target_union
        {
            *revision = real(*revision, base);
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestRange(range)) => range_at(range, base),
            Some(Request::RequestTxn(txn)) => txn_at(txn, base),
            _ => {}
        }
    }
}

impl Step {
    /// Steps that ask for a little less than this one.
    pub fn simpler(&self) -> Vec<Self> {
        match self {
            Self::Range(range) => simpler_range(range).into_iter().map(Self::Range).collect(),
            Self::Put(put) => simpler_put(put).into_iter().map(Self::Put).collect(),
            Self::Delete(delete) => simpler_delete(delete).into_iter().map(Self::Delete).collect(),
            Self::Txn(txn) => {
                let inner = txn.success.iter().chain(&txn.failure).filter_map(alone);
                inner.chain(simpler_txn(txn).into_iter().map(Self::Txn)).collect()
            }
            Self::Burst(puts) => {
                let single = puts.iter().cloned().map(Self::Put);
                single.chain(without_one(puts).into_iter().map(Self::Burst)).collect()
            }
            Self::Watch { stream, create } => {
                simpler_watch(create).into_iter().map(|create| Self::Watch { stream: *stream, create }).collect()
            }
            Self::Compact(compact) if compact.physical => {
                vec![Self::Compact(CompactionRequest { physical: false, ..*compact })]
            }
            _ => Vec::new(),
        }
    }
}

/// An operation of a transaction as a step of its own.
fn alone(op: &RequestOp) -> Option<Step> {
    Some(match op.request.as_ref()? {
        Request::RequestRange(range) => Step::Range(range.clone()),
        Request::RequestPut(put) => Step::Put(put.clone()),
        Request::RequestDeleteRange(delete) => Step::Delete(delete.clone()),
        Request::RequestTxn(txn) => Step::Txn(txn.clone()),
    })
}

/// Every list that lacks one element of this one.
fn without_one<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
    let without =
        |left: usize| all.iter().enumerate().filter(|(i, _)| *i != left).map(|(_, one)| one.clone()).collect();
    (0..all.len()).map(without).collect()
}

/// What `changes` make of `from`, where they change it.
fn changed<T: Clone + PartialEq>(from: &T, changes: &[fn(&mut T)]) -> Vec<T> {
    let made = changes.iter().map(|change| {
        let mut to = from.clone();
        change(&mut to);
        to
    });
    made.filter(|to| to != from).collect()
}

fn simpler_range(range: &RangeRequest) -> Vec<RangeRequest> {
    changed(
        range,
        &[
            |r| *r = RangeRequest { key: r.key.clone(), range_end: r.range_end.clone(), ..RangeRequest::default() },
            |r| r.limit = 0,
            |r| r.revision = 0,
            |r| (r.sort_order, r.sort_target) = (0, 0),
            |r| r.serializable = false,
            |r| r.keys_only = false,
            |r| r.count_only = false,
            |r| r.min_mod_revision = 0,
            |r| r.max_mod_revision = 0,
            |r| r.min_create_revision = 0,
            |r| r.max_create_revision = 0,
            |r| r.range_end = bytes::Bytes::new(),
        ],
    )
}

fn simpler_put(put: &PutRequest) -> Vec<PutRequest> {
    changed(
        put,
        &[
            |p| p.lease = 0,
            |p| p.prev_kv = false,
            |p| p.ignore_value = false,
            |p| p.ignore_lease = false,
            |p| p.value = bytes::Bytes::new(),
        ],
    )
}

fn simpler_delete(delete: &DeleteRangeRequest) -> Vec<DeleteRangeRequest> {
    changed(delete, &[|d| d.range_end = bytes::Bytes::new(), |d| d.prev_kv = false])
}

fn simpler_watch(create: &WatchCreateRequest) -> Vec<WatchCreateRequest> {
    changed(
        create,
        &[
            |w| w.filters.clear(),
            |w| w.prev_kv = false,
            |w| w.progress_notify = false,
            |w| w.fragment = false,
            |w| w.watch_id = 0,
            |w| w.start_revision = 0,
            |w| w.range_end = bytes::Bytes::new(),
        ],
    )
}

fn simpler_compare(compare: &Compare) -> Vec<Compare> {
    changed(compare, &[|c| c.range_end = bytes::Bytes::new()])
}

fn simpler_ops(ops: &[RequestOp]) -> Vec<Vec<RequestOp>> {
    let mut found = without_one(ops);
    for (i, op) in ops.iter().enumerate() {
        let smaller: Vec<Request> = match &op.request {
            Some(Request::RequestRange(range)) => simpler_range(range).into_iter().map(Request::RequestRange).collect(),
            Some(Request::RequestPut(put)) => simpler_put(put).into_iter().map(Request::RequestPut).collect(),
            Some(Request::RequestDeleteRange(delete)) => {
                simpler_delete(delete).into_iter().map(Request::RequestDeleteRange).collect()
            }
            Some(Request::RequestTxn(txn)) => {
                let inner = txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.clone());
                inner.chain(simpler_txn(txn).into_iter().map(Request::RequestTxn)).collect()
            }
            None => Vec::new(),
        };
        for request in smaller {
            let mut changed = ops.to_vec();
            changed[i] = RequestOp { request: Some(request) };
            found.push(changed);
        }
    }
    found
}

fn simpler_txn(txn: &TxnRequest) -> Vec<TxnRequest> {
    let mut found = Vec::new();
    for success in simpler_ops(&txn.success) {
        found.push(TxnRequest { success, ..txn.clone() });
    }
    for failure in simpler_ops(&txn.failure) {
        found.push(TxnRequest { failure, ..txn.clone() });
    }
    for compare in without_one(&txn.compare) {
        found.push(TxnRequest { compare, ..txn.clone() });
    }
    for (i, one) in txn.compare.iter().enumerate() {
        for simple in simpler_compare(one) {
            let mut compare = txn.compare.clone();
            compare[i] = simple;
            found.push(TxnRequest { compare, ..txn.clone() });
        }
    }
    found
}
