//! What the keys should be: ordered maps, and the rule of what a transaction does to them.
//!
//! Invariants:
//! - It is written from the promises, not from the server's code, and kept so simple that it can be read at once.
//! - Nothing is changed by evaluating; [`Keys::apply`] alone changes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::history::{Action, Answer, Change, Compare, Done, Input, Kv, Octets, Relation, Span, Target, Txn};

/// All keys at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    kvs: BTreeMap<Octets, Kv>,
    owned: BTreeMap<i64, BTreeSet<Octets>>,
}

/// What an operation answers and changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The answer; a put's `previous` is always told.
    pub answer: Answer,
    /// In the order of the actions; a key at most once.
    pub changes: Vec<Change>,
}

/// What the model is told about an operation besides its input.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told<'a> {
    /// Revision of its changes, if any.
    pub revision: i64,
    /// The compares are not looked at: they came out so.
    pub verdict: Option<bool>,
    /// Names that may have been handed out to sequential puts.
    pub names: &'a [Octets],
}

impl Keys {
    /// Those of a picture.
    pub fn of(kvs: &[Kv]) -> Self {
        let mut keys = Self::default();
        for kv in kvs {
            keys.apply(&Change::Put(kv.clone()));
        }
        keys
    }

    /// One key.
    pub fn get(&self, key: &Octets) -> Option<&Kv> {
        self.kvs.get(key)
    }

    /// Those of a span, in order.
    pub fn select<'a>(&'a self, span: &'a Span) -> impl Iterator<Item = &'a Kv> {
        let bounds = bounds(span);
        let empty = matches!(&bounds, (Bound::Included(a), Bound::Excluded(b)) if a >= b);
        let found = (!empty).then(|| self.kvs.range(bounds));
        found.into_iter().flatten().map(|(_, kv)| kv).filter(|kv| holds(span, &kv.key))
    }

    /// Keys of a lease.
    pub fn owned(&self, lease: i64) -> impl Iterator<Item = &Octets> {
        self.owned.get(&lease).into_iter().flatten()
    }

    /// Makes it so.
    pub fn apply(&mut self, change: &Change) {
        let before = match change {
            Change::Put(kv) => self.kvs.insert(kv.key.clone(), kv.clone()),
            Change::Delete { key, .. } => self.kvs.remove(key),
        };
        if let Some(before) = before.filter(|kv| kv.lease != 0)
            && let Some(keys) = self.owned.get_mut(&before.lease)
        {
            keys.remove(&before.key);
        }
        if let Change::Put(kv) = change
            && kv.lease != 0
        {
            self.owned.entry(kv.lease).or_default().insert(kv.key.clone());
        }
    }

    /// What the operation would do now. `None`: it has a sequential put, and no name told fits it.
    pub fn evaluate(&self, input: &Input, told: Told<'_>) -> Option<Effect> {
        let mut draft = Draft { base: self, changed: BTreeMap::new(), changes: Vec::new(), told };
        let answer = match input {
            Input::Txn(txn) => draft.txn(txn)?,
            Input::Revoke { lease } => {
                let keys: Vec<_> = self.owned(*lease).cloned().collect();
                let deleted = keys.len() as u64;
                for key in keys {
                    draft.delete(key);
                }
                Answer::of(vec![Done::Deleted(deleted)])
            }
        };
        Some(Effect { answer, changes: draft.changes })
    }
}

/// Whether the span holds the key.
pub fn holds(span: &Span, key: &Octets) -> bool {
    match span {
        Span::Key(wanted) => wanted == key,
        Span::Range(start, end) => key >= start && end.as_ref().is_none_or(|end| key < end),
        Span::Children(directory) => parent(key).is_some_and(|parent| parent == directory.as_slice()),
        Span::Subtree(top) => {
            let (top, key_bytes) = (top.as_slice(), key.as_slice());
            let below = key_bytes.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
            parent(key).is_some() && (top == b"/" || below)
        }
    }
}

/// The directory that a path lies in; `None` for keys that are no paths.
pub fn parent(key: &Octets) -> Option<&[u8]> {
    let path = std::str::from_utf8(key.as_slice()).ok()?;
    let segments = path.strip_prefix('/')?;
    if segments.split('/').any(str::is_empty) {
        return None;
    }
    let last = path.rfind('/')?;
    Some(if last == 0 { b"/" } else { &key.as_slice()[..last] })
}

/// Bounds of keys that hold at least the span.
fn bounds(span: &Span) -> (Bound<&Octets>, Bound<&Octets>) {
    match span {
        Span::Key(key) => (Bound::Included(key), Bound::Included(key)),
        Span::Range(start, Some(end)) => (Bound::Included(start), Bound::Excluded(end)),
        Span::Range(start, None) | Span::Children(start) | Span::Subtree(start) => {
            (Bound::Included(start), Bound::Unbounded)
        }
    }
}

/// A transaction under way: its actions see what those before them did.
struct Draft<'a> {
    base: &'a Keys,
    changed: BTreeMap<Octets, Option<Kv>>,
    changes: Vec<Change>,
    told: Told<'a>,
}

impl Draft<'_> {
    fn txn(&mut self, txn: &Txn) -> Option<Answer> {
        let holds = || txn.compares.iter().all(|compare| relates(compare, self.base.get(&compare.key)));
        let succeeded = self.told.verdict.unwrap_or_else(holds);
        let branch = if succeeded { &txn.then } else { &txn.otherwise };
        let results = branch.iter().map(|action| self.run(action)).collect::<Option<_>>()?;
        Some(Answer { succeeded, results })
    }

    fn run(&mut self, action: &Action) -> Option<Done> {
        Some(match action {
            Action::Read { span, limit } => {
                let mut kvs = self.select(span);
                kvs.truncate(limit.unwrap_or(usize::MAX));
                Done::Read(kvs)
            }
            Action::Put { key, value, lease } => self.put(key.clone(), value.clone(), *lease),
            Action::PutSequential { directory, value, lease } => {
                let fits = |name: &&Octets| sequence(directory, name).is_some() && self.get(name).is_none();
                let name = self.told.names.iter().find(fits)?.clone();
                self.put(name, value.clone(), *lease)
            }
            Action::Delete { span } => {
                let kvs = self.select(span);
                let deleted = kvs.len() as u64;
                for kv in kvs {
                    self.delete(kv.key);
                }
                Done::Deleted(deleted)
            }
        })
    }

    fn put(&mut self, key: Octets, value: Octets, lease: i64) -> Done {
        let previous = self.get(&key).cloned();
        let revision = self.told.revision;
        let create_revision = previous.as_ref().map_or(revision, |kv| kv.create_revision);
        let version = previous.as_ref().map_or(0, |kv| kv.version) + 1;
        let kv = Kv { key: key.clone(), value, create_revision, mod_revision: revision, version, lease };
        self.changes.push(Change::Put(kv.clone()));
        self.changed.insert(key.clone(), Some(kv));
        Done::Put { key, previous: Some(previous) }
    }

    fn delete(&mut self, key: Octets) {
        self.changes.push(Change::Delete { key: key.clone(), revision: self.told.revision });
        self.changed.insert(key, None);
    }

    fn get(&self, key: &Octets) -> Option<&Kv> {
        self.changed.get(key).map_or_else(|| self.base.get(key), Option::as_ref)
    }

    fn select(&self, span: &Span) -> Vec<Kv> {
        if self.changed.is_empty() {
            return self.base.select(span).cloned().collect();
        }
        let base = self.base.select(span).filter(|kv| !self.changed.contains_key(&kv.key));
        let own = self.changed.values().flatten().filter(|kv| holds(span, &kv.key));
        let all: BTreeMap<_, _> = base.chain(own).map(|kv| (&kv.key, kv)).collect();
        all.into_values().cloned().collect()
    }
}

/// The sequence in a name that was handed out in this directory.
pub fn sequence(directory: &Octets, key: &Octets) -> Option<u64> {
    if parent(key)? != directory.as_slice() {
        return None;
    }
    let name = key.as_slice().rsplit(|byte| *byte == b'/').next()?;
    let digits = name.len() == 20 && name.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(name).ok().filter(|_| digits)?.parse().ok()
}

/// Whether the compare holds for what stands there.
fn relates(compare: &Compare, kv: Option<&Kv>) -> bool {
    let number = |of: fn(&Kv) -> i64, target: &i64| Some(kv.map_or(0, of).cmp(target));
    let ordering = match &compare.target {
        Target::Exists(target) => Some(kv.is_some().cmp(target)),
        Target::Value(target) => kv.map(|kv| kv.value.cmp(target)),
        Target::Version(target) => number(|kv| kv.version, target),
        Target::CreateRevision(target) => number(|kv| kv.create_revision, target),
        Target::ModRevision(target) => number(|kv| kv.mod_revision, target),
        Target::Lease(target) => number(|kv| kv.lease, target),
    };
    ordering.is_some_and(|ordering| match compare.relation {
        Relation::Equal => ordering == Ordering::Equal,
        Relation::NotEqual => ordering != Ordering::Equal,
        Relation::Greater => ordering == Ordering::Greater,
        Relation::Less => ordering == Ordering::Less,
    })
}

#[cfg(test)]
mod tests;
