//! The directory index says what the keys say.
//!
//! Invariants:
//! - A directory is judged only at a revision up to which all changes are known whole, or at which all keys were read.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Action, Change, Child, Directory, Done, History, Input, Kv, Octets, Operation, Outcome, Span};
use super::model::{self, Keys};
use super::order::Order;
use super::{Verdict, Violation};

const RULE: &str = "directories are what the keys are";

/// Checks it.
pub fn check(history: &History) -> Verdict {
    if history.directories.is_empty() {
        return Ok(());
    }
    let order = Order::of(history)?;
    let whole = order.first_hole_after(order.start.revision).unwrap_or(i64::MAX);
    let mut told: Vec<_> = history.directories.iter().collect();
    told.sort_by_key(|directory| directory.revision);
    let mut growing = Growing::of(&order.start.keys);
    growing.remember(&history.operations);
    let mut entries = order.entries.iter().peekable();
    for directory in told {
        while let Some((revision, entry)) = entries.next_if(|(revision, _)| **revision <= directory.revision) {
            growing.change(*revision, &entry.changes);
        }
        if directory.revision < whole && directory.revision >= order.start.revision {
            growing.judge(directory)?;
        } else if let Some(end) = history.end.as_ref().filter(|end| end.revision == directory.revision) {
            let mut at_end = Growing::of(&end.keys);
            at_end.remember(&history.operations);
            at_end.judge(directory)?;
        }
    }
    Ok(())
}

/// The keys as they become, and what directories are to remember.
struct Growing {
    keys: Keys,
    /// Nothing stood there before, so that what follows is all that directories can remember.
    known_from_start: bool,
    /// For each child of each directory, how many keys are it or below it.
    weights: BTreeMap<(Octets, Octets), usize>,
    /// When a direct child came or went last.
    membership: BTreeMap<Octets, i64>,
    /// When a direct child may have gone and come back within one revision.
    turned: BTreeSet<(Octets, i64)>,
    /// Sequences that were handed out: directory, revision, sequence.
    sequences: Vec<(Octets, i64, u64)>,
}

impl Growing {
    fn of(start: &[Kv]) -> Self {
        let mut weights = BTreeMap::new();
        for place in start.iter().flat_map(|kv| places(&kv.key)) {
            *weights.entry(place).or_default() += 1;
        }
        let (membership, turned, sequences) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Self { keys: Keys::of(start), known_from_start: start.is_empty(), weights, membership, turned, sequences }
    }

    fn remember(&mut self, operations: &[Operation]) {
        for operation in operations {
            let (Outcome::Done { revision, answer }, Input::Txn(txn)) = (&operation.outcome, &operation.input) else {
                continue;
            };
            let branch = if answer.succeeded { &txn.then } else { &txn.otherwise };
            for (action, done) in branch.iter().zip(&answer.results) {
                if let (Action::PutSequential { directory, .. }, Done::Put { key, .. }) = (action, done)
                    && let Some(sequence) = model::sequence(directory, key)
                {
                    self.sequences.push((directory.clone(), *revision, sequence));
                }
            }
        }
    }

    fn change(&mut self, revision: i64, changes: &[Change]) {
        // For each place that is touched: its weight before, and how many keys left it.
        let mut touched: BTreeMap<(Octets, Octets), (usize, usize)> = BTreeMap::new();
        for change in changes {
            let was = self.keys.get(change.key()).is_some();
            let is = matches!(change, Change::Put(_));
            self.keys.apply(change);
            for place in places(change.key()).into_iter().filter(|_| was != is) {
                let weight = self.weights.entry(place.clone()).or_default();
                let (_, left) = touched.entry(place).or_insert((*weight, 0));
                *left += usize::from(was);
                *weight = if is { *weight + 1 } else { weight.saturating_sub(1) };
            }
        }
        for (place, (before, left)) in touched {
            let after = self.weights.get(&place).copied().unwrap_or_default();
            if after == 0 {
                self.weights.remove(&place);
            }
            if (before == 0) != (after == 0) {
                self.membership.insert(place.0, revision);
            } else if left >= before {
                self.turned.insert((place.0, revision));
            }
        }
    }

    fn judge(&self, told: &Directory) -> Verdict {
        let expected = children(&self.keys, &told.path);
        if let Some(children) = told.children.as_ref().filter(|children| **children != expected) {
            let text =
                format!("{:?} at {} lists {children:?}, and the keys say {expected:?}", told.path, told.revision);
            return Err(Violation::new(RULE, text));
        }
        let Some(stat) = &told.stat else { return Ok(()) };
        let handed = self.sequences.iter().filter(|(path, at, _)| *path == told.path && *at <= told.revision);
        let least = handed.map(|(_, _, sequence)| sequence + 1).max().unwrap_or_default();
        let count = stat.children == expected.len() as u64;
        if count && stat.next_sequence >= least && self.is_right_revision(told, stat.children_revision) {
            return Ok(());
        }
        let changed = self.membership.get(&told.path);
        let text = format!(
            "{told:?}, and the keys say {} children, changed last at {changed:?}, and no sequence before {least}",
            expected.len()
        );
        Err(Violation::new(RULE, text))
    }

    fn is_right_revision(&self, told: &Directory, revision: i64) -> bool {
        let known = self.membership.get(&told.path).copied();
        let turned = self.turned.contains(&(told.path.clone(), revision)) && Some(revision) > known;
        let forgotten = revision == 0 && told.stat.is_some_and(|stat| stat.children == 0);
        let before = known.is_none() && !self.known_from_start && revision <= told.revision;
        known == Some(revision) || turned || forgotten || before
    }
}

/// Every directory that the key lies in, directly or not, with the name by which it is there.
fn places(key: &Octets) -> Vec<(Octets, Octets)> {
    let mut found = Vec::new();
    let mut at = key.clone();
    while let Some(directory) = model::parent(&at).map(Octets::from) {
        let name = at.as_slice().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        found.push((directory.clone(), name.into()));
        at = directory;
    }
    found
}

/// Direct children, in order of their names, as the keys have them.
fn children(keys: &Keys, directory: &Octets) -> Vec<Child> {
    let subtree = Span::Subtree(directory.clone());
    let mut found: BTreeMap<Octets, Child> = BTreeMap::new();
    for kv in keys.select(&subtree).filter(|kv| kv.key != *directory) {
        let skip = if directory.as_slice() == b"/" { 1 } else { directory.as_slice().len() + 1 };
        let rest = &kv.key.as_slice()[skip..];
        let (name, deeper) = match rest.iter().position(|byte| *byte == b'/') {
            Some(end) => (&rest[..end], true),
            None => (rest, false),
        };
        let name = Octets::from(name);
        let child = Child { name: name.clone(), is_key: false, is_directory: false };
        let child = found.entry(name).or_insert(child);
        child.is_key |= !deeper;
        child.is_directory |= deeper;
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests;
