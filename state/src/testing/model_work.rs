//! One command in the model, on a copy of the state that is kept only if the command is not rejected.
//!
//! Invariants:
//! - The reason of a rejection is left empty: the checks compare what was refused and why in kind, not in words.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use quorate_proto::{Key, LeaseId, Path, Revision};

use super::model::{State, directories};
use crate::command::{
    Command, Compare, CopyTree, Delete, Expect, LeaseEnd, Owner, Put, RangeQuery, Refine, Relation, SortBy, Span,
    Target, Txn, TxnOp,
};
use crate::outcome::{
    Change, ChangeKind, DeleteDone, Done, KeyValue, LeaseChange, Meta, PutDone, RangeDone, Rejection, TxnDone,
    TxnResult,
};
use crate::view::LeaseRecord;

pub(super) struct Work<'p> {
    past: &'p BTreeMap<Revision, BTreeMap<Key, KeyValue>>,
    pub(super) state: State,
    /// As it was before the command.
    before: State,
    pub(super) changes: Vec<Change>,
    pub(super) lease_changes: Vec<LeaseChange>,
    in_txn: bool,
    puts: Vec<Key>,
    deleted: Vec<Span>,
}

fn refuse<T>(key: &[u8], current: Revision) -> Result<T, Rejection> {
    let key = Key::new(key.to_vec()).expect("a key");
    Err(Rejection::Precondition { key, reason: String::new(), current })
}

fn invalid<T>() -> Result<T, Rejection> {
    Err(Rejection::Invalid(String::new()))
}

pub(super) fn covers(span: &Span, key: &[u8]) -> bool {
    match span {
        Span::Key(only) => only.as_bytes() == key,
        Span::Range { start, end } => &start[..] <= key && end.as_ref().is_none_or(|end| key < &end[..]),
        Span::Subtree(path) => key.strip_prefix(path.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'),
    }
}

pub(super) fn range(keys: &BTreeMap<Key, KeyValue>, query: &RangeQuery) -> RangeDone {
    let mut all: Vec<_> = keys.values().filter(|kv| covers(&query.span, kv.key.as_bytes())).cloned().collect();
    let total = all.len() as u64;
    if query.count_only {
        return RangeDone { count: total, ..RangeDone::default() };
    }
    if query.refine != Refine::default() {
        return refined(all, query);
    }
    if query.descending {
        all.reverse();
    }
    let mut done = RangeDone::default();
    let mut bytes = 0;
    for mut kv in all {
        if query.keys_only {
            kv.value.clear();
        }
        bytes += kv.key.as_bytes().len() + kv.value.len();
        let over = query.bytes_max.is_some_and(|max| bytes > max) && !done.kvs.is_empty();
        if over || query.limit == Some(done.kvs.len()) {
            done.more = true;
            break;
        }
        done.kvs.push(kv);
    }
    done.count = if query.count_all { total } else { done.kvs.len() as u64 };
    done
}

/// As the etcd wire's order of steps has it: bounds, then the order, then the limit.
fn refined(mut all: Vec<KeyValue>, query: &RangeQuery) -> RangeDone {
    let (refine, count) = (query.refine, all.len() as u64);
    let limit = query.limit.unwrap_or(usize::MAX - 1);
    if refine.window_first {
        all.truncate(limit + 1);
    }
    for (of, min, max) in [
        ((|kv| kv.meta.mod_revision) as fn(&KeyValue) -> Revision, refine.mod_min, refine.mod_max),
        (|kv| kv.meta.create_revision, refine.create_min, refine.create_max),
    ] {
        all.retain(|kv| min.is_none_or(|min| of(kv) >= min) && max.is_none_or(|max| of(kv) <= max));
    }
    let place = |kv: &KeyValue| match refine.sort {
        None => (0, kv.key.to_bytes()),
        Some(SortBy::Version) => (kv.meta.version, bytes::Bytes::new()),
        Some(SortBy::CreateRevision) => (kv.meta.create_revision.0, bytes::Bytes::new()),
        Some(SortBy::ModRevision) => (kv.meta.mod_revision.0, bytes::Bytes::new()),
        Some(SortBy::Value) => (0, kv.value.clone()),
    };
    if query.descending {
        all.sort_by_key(|kv| std::cmp::Reverse(place(kv)));
    } else {
        all.sort_by_key(place);
    }
    let more = all.len() > limit;
    all.truncate(limit);
    for kv in &mut all {
        if query.keys_only {
            kv.value.clear();
        }
    }
    RangeDone { kvs: all, more, count }
}

impl<'p> Work<'p> {
    pub(super) fn new(state: &State, past: &'p BTreeMap<Revision, BTreeMap<Key, KeyValue>>) -> Self {
        let (changes, lease_changes, puts, deleted) = Default::default();
        let (state, before) = (state.clone(), state.clone());
        Self { past, state, before, changes, lease_changes, in_txn: false, puts, deleted }
    }

    fn now(&self) -> Revision {
        self.before.revision.next()
    }

    pub(super) fn decide(&mut self, command: &Command) -> Result<Done, Rejection> {
        Ok(match command {
            Command::Put(put) => Done::Put(self.put(put)?),
            Command::Delete(delete) => Done::Delete(self.delete(delete)?),
            Command::Txn(txn) => {
                let mut verdicts = Vec::new();
                self.judge(txn, &mut verdicts)?;
                self.in_txn = true;
                Done::Txn(self.txn(txn, &mut verdicts.into_iter())?)
            }
            Command::CopyTree(copy) => Done::CopyTree(self.copy(copy)?),
            Command::LeaseGrant { lease, ttl_ms } => {
                self.grant(*lease, *ttl_ms, false)?;
                Done::LeaseGrant { lease: *lease, ttl_ms: *ttl_ms }
            }
            Command::LeaseRevoke { leases, cause } => Done::LeaseRevoke { deleted: self.revoke(leases, *cause)? },
            Command::LeaseCheckpoint(notes) => {
                for (lease, remaining_ms) in notes {
                    let Some(record) = self.state.leases.get_mut(lease) else { continue };
                    let remaining_ms = remaining_ms.map(|ms| ms.min(record.ttl_ms));
                    if record.remaining_ms != remaining_ms {
                        record.remaining_ms = remaining_ms;
                        self.lease_changes.push(LeaseChange::Checkpointed { lease: *lease, remaining_ms });
                    }
                }
                Done::LeaseCheckpoint
            }
            Command::Compact { revision, only_forward } => {
                let (asked, current, compacted) = (*revision, self.state.revision, self.state.compacted);
                if asked < compacted || *only_forward && compacted.0 != 0 && asked == compacted {
                    return Err(Rejection::Compacted { asked, compacted });
                }
                if asked > current {
                    return Err(Rejection::FutureRevision { asked, current });
                }
                self.state.compacted = asked;
                Done::Compact
            }
            Command::SetStateVersion(version) => {
                self.state.version = self.state.version.max(*version);
                Done::StateVersion(self.state.version)
            }
            Command::Scrub if self.state.version < 2 => return Err(Rejection::Invalid(String::new())),
            Command::Scrub => Done::Scrub,
        })
    }

    fn parent_missing(&self, key: &Key) -> Result<(), Rejection> {
        let path = Path::of(key).ok_or(Rejection::NotAPath { key: key.clone() })?;
        let parent = path.parent();
        let there = parent == b"/"
            || self.state.keys.contains_key(&Key::new(parent.to_vec()).expect("a key"))
            || directories(self.state.keys.keys()).contains_key(parent);
        if there { Ok(()) } else { refuse(parent, Revision::ZERO) }
    }

    fn expect(&self, key: &Key, expect: Expect) -> Result<(), Rejection> {
        let current = self.state.keys.get(key).map_or(Revision::ZERO, |kv| kv.meta.mod_revision);
        let holds = match expect {
            Expect::Anything => true,
            Expect::Absent => current == Revision::ZERO,
            Expect::Present => current != Revision::ZERO,
            Expect::ModRevision(asked) => asked == current,
        };
        if holds { Ok(()) } else { refuse(key.as_bytes(), current) }
    }

    fn put(&mut self, put: &Put) -> Result<PutDone, Rejection> {
        let mut key = put.key.clone();
        let mut sequence = 0;
        if put.sequential {
            Path::of(&key).ok_or(Rejection::NotAPath { key: key.clone() })?;
            let makes_new = matches!(put.expect, Expect::Anything | Expect::Absent);
            if !makes_new || put.value.is_none() || put.owner == Owner::Keep {
                return invalid();
            }
            sequence = self.state.sequences.get(put.key.as_bytes()).copied().unwrap_or(0);
            while self.state.keys.contains_key(&key) || key == put.key {
                key = Key::new([put.key.as_bytes(), format!("/{sequence:020}").as_bytes()].concat()).expect("a key");
                sequence += 1;
            }
        }
        if put.must_have_parent {
            self.parent_missing(&key)?;
        }
        self.expect(&key, put.expect)?;
        let before = self.state.keys.get(&key).cloned();
        let has = before.as_ref().and_then(|kv| kv.meta.lease);
        let lease = match put.owner {
            Owner::None => None,
            Owner::Keep => has,
            Owner::Lease(lease) if has == Some(lease) => has,
            Owner::Lease(lease) => match self.state.leases.get(&lease) {
                None => return Err(Rejection::LeaseNotFound { lease }),
                Some(record) if record.own_key => return invalid(),
                Some(_) => Some(lease),
            },
            Owner::Ttl { lease, ttl_ms } => {
                self.grant(lease, ttl_ms, true)?;
                Some(lease)
            }
        };
        let value = put.value.clone().or(before.as_ref().map(|kv| kv.value.clone()));
        let value = value.ok_or(Rejection::KeyNotFound { key: key.clone() })?;
        let in_deleted = self.deleted.iter().any(|span| covers(span, key.as_bytes()));
        if self.in_txn && (in_deleted || self.puts.contains(&key)) {
            return Err(Rejection::DuplicateKey { key });
        }
        self.puts.push(key.clone());
        if put.sequential {
            self.state.sequences.insert(put.key.as_bytes().to_vec(), sequence);
        }
        self.set(&key, Some((value, lease)), false, true);
        Ok(PutDone { key, lease, previous: before.filter(|_| put.return_previous) })
    }

    /// The one way in which keys change. `None`: the key goes.
    fn set(&mut self, key: &Key, new: Option<(bytes::Bytes, Option<LeaseId>)>, lease_ended: bool, own_ends: bool) {
        let before = self.state.keys.get(key).cloned();
        let directories_before = directories(self.state.keys.keys());
        let previous = before.as_ref().map_or(Revision::ZERO, |kv| kv.meta.mod_revision);
        let lease_before = before.as_ref().and_then(|kv| kv.meta.lease);
        let lease = new.as_ref().and_then(|(_, lease)| *lease);
        let kind = if let Some((value, lease)) = new {
            let (now, stamp) = (self.now(), self.state.stamp_ms);
            let meta = Meta {
                create_revision: before.as_ref().map_or(now, |kv| kv.meta.create_revision),
                mod_revision: now,
                version: before.as_ref().map_or(1, |kv| kv.meta.version + 1),
                lease,
                created_ms: before.as_ref().map_or(stamp, |kv| kv.meta.created_ms),
                modified_ms: stamp,
            };
            self.state.keys.insert(key.clone(), KeyValue { key: key.clone(), value: value.clone(), meta });
            ChangeKind::Put { meta, value }
        } else {
            self.state.keys.remove(key);
            ChangeKind::Delete { lease_ended }
        };
        self.changes.push(Change { kind, key: key.clone(), previous });
        let old = lease_before.filter(|old| lease != Some(*old) && own_ends);
        if let Some(old) = old.filter(|old| self.state.leases[old].own_key) {
            self.state.leases.remove(&old);
            self.lease_changes.push(LeaseChange::Ended { lease: old });
        }
        let directories_after = directories(self.state.keys.keys());
        for dir in directories_before.keys().chain(directories_after.keys()) {
            let names = |all: &BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, _>>| {
                all.get(dir).map(|children| children.keys().cloned().collect::<Vec<_>>())
            };
            if names(&directories_before) != names(&directories_after) {
                self.state.children_revisions.insert(dir.clone(), self.now());
            }
        }
    }

    fn delete(&mut self, delete: &Delete) -> Result<DeleteDone, Rejection> {
        match &delete.span {
            Span::Key(key) => self.expect(key, delete.expect)?,
            _ if delete.expect != Expect::Anything => return invalid(),
            _ => {}
        }
        if delete.must_be_empty {
            let path = match &delete.span {
                Span::Key(key) => Path::of(key).ok_or(Rejection::NotAPath { key: key.clone() })?,
                Span::Subtree(path) => path.clone(),
                Span::Range { .. } => return invalid(),
            };
            if directories(self.state.keys.keys()).contains_key(path.as_bytes()) {
                let current = self.state.keys.get(path.as_key()).map_or(Revision::ZERO, |kv| kv.meta.mod_revision);
                return refuse(path.as_bytes(), current);
            }
        }
        let found: Vec<_> =
            self.state.keys.values().filter(|kv| covers(&delete.span, kv.key.as_bytes())).cloned().collect();
        // A limit is for spans; a single key is one change.
        if let (Some(limit), false) = (delete.limit, matches!(delete.span, Span::Key(_)))
            && found.len() as u64 > limit
        {
            return Err(Rejection::TooManyChanges { limit });
        }
        if self.in_txn
            && let Some(key) = self.first_put_in(&delete.span)
        {
            return Err(Rejection::DuplicateKey { key });
        }
        self.deleted.push(delete.span.clone());
        for kv in &found {
            self.set(&kv.key, None, false, true);
        }
        let deleted = found.len() as u64;
        Ok(DeleteDone { deleted, previous: if delete.return_previous { found } else { Vec::new() } })
    }

    fn first_put_in(&self, span: &Span) -> Option<Key> {
        self.puts.iter().filter(|key| covers(span, key.as_bytes())).min().cloned()
    }

    fn grant(&mut self, lease: LeaseId, ttl_ms: u64, own_key: bool) -> Result<(), Rejection> {
        if !(500..=315_360_000_000).contains(&ttl_ms) {
            return invalid();
        }
        if self.state.leases.contains_key(&lease) {
            return Err(Rejection::LeaseExists { lease });
        }
        let granted_revision = self.before.revision;
        self.state.leases.insert(lease, LeaseRecord { ttl_ms, remaining_ms: None, granted_revision, own_key });
        self.lease_changes.push(LeaseChange::Granted { lease, ttl_ms });
        Ok(())
    }

    fn revoke(&mut self, leases: &[LeaseId], cause: LeaseEnd) -> Result<u64, Rejection> {
        let mut deleted = 0;
        for lease in leases {
            if !self.state.leases.contains_key(lease) {
                if leases.len() == 1 && cause == LeaseEnd::Asked {
                    return Err(Rejection::LeaseNotFound { lease: *lease });
                }
                continue;
            }
            let of_lease = self.state.keys.values().filter(|kv| kv.meta.lease == Some(*lease));
            for key in of_lease.map(|kv| kv.key.clone()).collect::<Vec<_>>() {
                self.set(&key, None, true, false);
                deleted += 1;
            }
            self.state.leases.remove(lease);
            self.lease_changes.push(LeaseChange::Ended { lease: *lease });
        }
        Ok(deleted)
    }

    fn copy(&mut self, copy: &CopyTree) -> Result<u64, Rejection> {
        let (from, to) = (copy.from.as_key().clone(), copy.to.as_key().clone());
        let inside = |outer: &Path, inner: &Key| covers(&Span::Subtree(outer.clone()), inner.as_bytes());
        if inside(&copy.from, &to) || inside(&copy.to, &from) {
            return Err(Rejection::Overlap { from, to });
        }
        let current = self.state.keys.get(&to).map_or(Revision::ZERO, |kv| kv.meta.mod_revision);
        if self.state.keys.keys().any(|key| inside(&copy.to, key)) {
            return refuse(to.as_bytes(), current);
        }
        let source: Vec<_> = self.state.keys.values().filter(|kv| inside(&copy.from, &kv.key)).cloned().collect();
        if source.len() as u64 > copy.limit {
            return Err(Rejection::TooManyChanges { limit: copy.limit });
        }
        if source.is_empty() {
            return Err(Rejection::KeyNotFound { key: from });
        }
        for kv in &source {
            let target = [to.as_bytes(), &kv.key.as_bytes()[from.as_bytes().len()..]].concat();
            let lease = kv.meta.lease.filter(|_| copy.keep_leases);
            self.set(&Key::new(target).expect("a key"), Some((kv.value.clone(), lease)), false, true);
            if let Some(record) = lease.filter(|_| !copy.remove_source).and_then(|id| self.state.leases.get_mut(&id)) {
                record.own_key = false;
            }
        }
        for kv in source.iter().filter(|_| copy.remove_source) {
            self.set(&kv.key, None, false, !copy.keep_leases);
        }
        Ok(source.len() as u64)
    }

    fn judge(&self, txn: &Txn, verdicts: &mut Vec<bool>) -> Result<(), Rejection> {
        for compare in &txn.compares {
            if matches!((&compare.target, compare.relation), (Target::Exists(_), Relation::Greater | Relation::Less)) {
                return invalid();
            }
        }
        let holds = txn.compares.iter().all(|compare| self.compare(compare));
        verdicts.push(holds);
        for op in if holds { &txn.then } else { &txn.otherwise } {
            if let TxnOp::Txn(nested) = op {
                self.judge(nested, verdicts)?;
            }
        }
        Ok(())
    }

    fn compare(&self, compare: &Compare) -> bool {
        if let Span::Key(key) = &compare.span {
            return relates(compare, self.state.keys.get(key));
        }
        let mut in_span = self.state.keys.values().filter(|kv| covers(&compare.span, kv.key.as_bytes()));
        if compare.empty_as_missing && in_span.clone().next().is_none() {
            return relates(compare, None);
        }
        in_span.all(|kv| relates(compare, Some(kv)))
    }

    fn txn(&mut self, txn: &Txn, verdicts: &mut std::vec::IntoIter<bool>) -> Result<TxnDone, Rejection> {
        let succeeded = verdicts.next().expect("a verdict");
        let mut results = Vec::new();
        for op in if succeeded { &txn.then } else { &txn.otherwise } {
            results.push(match op {
                TxnOp::Range(query) => {
                    let current = self.before.revision;
                    match query.revision {
                        Some(asked) if asked > current => return Err(Rejection::FutureRevision { asked, current }),
                        Some(asked) if asked < self.state.compacted => {
                            return Err(Rejection::Compacted { asked, compacted: self.state.compacted });
                        }
                        Some(asked) => {
                            let empty = BTreeMap::new();
                            TxnResult::Range(range(self.past.get(&asked).unwrap_or(&empty), query))
                        }
                        None => TxnResult::Range(range(&self.state.keys, query)),
                    }
                }
                TxnOp::Put(put) => TxnResult::Put(self.put(put)?),
                TxnOp::Delete(delete) => TxnResult::Delete(self.delete(delete)?),
                TxnOp::Txn(nested) => TxnResult::Txn(self.txn(nested, verdicts)?),
            });
        }
        Ok(TxnDone { succeeded, results })
    }
}

fn relates(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let meta = kv.map(|kv| kv.meta);
    let order = match &compare.target {
        Target::Version(target) => meta.map_or(0, |meta| meta.version).cmp(target),
        Target::CreateRevision(target) => meta.map_or(0, |meta| meta.create_revision.0).cmp(&target.0),
        Target::ModRevision(target) => meta.map_or(0, |meta| meta.mod_revision.0).cmp(&target.0),
        Target::Lease(target) => LeaseId::wire(meta.and_then(|meta| meta.lease)).cmp(&LeaseId::wire(*target)),
        Target::Exists(target) => kv.is_some().cmp(target),
        Target::Value(target) => match kv {
            Some(kv) => kv.value.cmp(target),
            None => return false,
        },
    };
    match compare.relation {
        Relation::Equal => order == Ordering::Equal,
        Relation::NotEqual => order != Ordering::Equal,
        Relation::Greater => order == Ordering::Greater,
        Relation::Less => order == Ordering::Less,
    }
}
