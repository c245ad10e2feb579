//! Linearizability without believing any revision: a search for an order that explains values and versions.
//!
//! After Wing and Gong, with Lowe's memory of what was tried: operations are taken one by one, each only if none that was
//! over before it began is left; a set of taken operations that led to the same keys before is not looked at again. Keys
//! that no operation touches together are searched by themselves.
//!
//! Invariants:
//! - What is left out (see [`Searched::skipped`]) is counted, never passed off as correct.
//! - Neither `create_revision` nor `mod_revision` nor the revision of any answer is looked at.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Violation;
use super::history::{Action, Answer, Done, History, Input, Kv, Moment, Octets, Operation, Outcome, Span, Target};
use super::model::{self, Keys, Told};

/// States that [`check`](super::check) looks at before it gives up on a group of keys.
pub const STATES_MAX: usize = 200_000;

/// A group of keys with more operations is not searched.
const OPERATIONS_MAX: usize = 1_000;

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Searched {
    /// Groups of keys for which an order was found.
    pub explained: usize,
    /// Groups that were too large, took too long, or have operations that cannot be judged without revisions.
    pub skipped: usize,
}

/// Checks all groups of keys; `states_max` bounds the search in each.
pub fn check(history: &History, states_max: usize) -> Result<Searched, Violation> {
    let mut searched = Searched::default();
    for group in groups(history) {
        let judged = group.operations.len() <= OPERATIONS_MAX && group.operations.iter().all(|it| judgeable(&it.input));
        match judged.then(|| Search::new(&group).run(states_max)) {
            Some(Found::Explained) => searched.explained += 1,
            None | Some(Found::GaveUp) => searched.skipped += 1,
            Some(Found::Impossible(stuck)) => {
                let keys = group.start.select(&ALL).map(|kv| kv.key.clone()).chain(group.keys);
                let keys: BTreeSet<_> = keys.collect();
                let text = format!("no order explains the operations on {keys:?}; the furthest got stuck at {stuck:?}");
                return Err(Violation::new("linearizability by search", text));
            }
        }
    }
    Ok(searched)
}

static ALL: Span = Span::Range(Octets::EMPTY, None);

/// Keys that operations touch together, and these operations.
struct Group<'a> {
    keys: BTreeSet<Octets>,
    start: Keys,
    operations: Vec<&'a Operation>,
}

fn groups(history: &History) -> Vec<Group<'_>> {
    let counts = |operation: &&Operation| match (&operation.outcome, &operation.input) {
        (Outcome::Refused(_), _) => false,
        (Outcome::Unknown(_), input) => !input.only_reads(),
        (Outcome::Done { .. }, Input::Txn(txn)) => !txn.serializable && txn.at == 0,
        (Outcome::Done { .. }, Input::Revoke { .. }) => true,
    };
    let operations: Vec<_> = history.operations.iter().filter(counts).collect();
    let start = history.start.iter().flat_map(|start| &start.keys);
    let named = operations.iter().flat_map(|operation| named(&operation.input));
    let universe: BTreeSet<_> = named.chain(start.clone().map(|kv| &kv.key)).collect();
    let index: BTreeMap<_, _> = universe.iter().enumerate().map(|(index, key)| (*key, index)).collect();
    let mut roots: Vec<usize> = (0..universe.len()).collect();
    let touched: Vec<Vec<usize>> = operations.iter().map(|it| touched(&it.input, &index)).collect();
    for together in &touched {
        for key in together {
            let (a, b) = (root(&mut roots, together[0]), root(&mut roots, *key));
            roots[a] = b;
        }
    }
    let mut groups: BTreeMap<usize, Group<'_>> = BTreeMap::new();
    let empty = || Group { keys: BTreeSet::new(), start: Keys::default(), operations: Vec::new() };
    for (operation, together) in operations.iter().zip(&touched) {
        if let Some(first) = together.first() {
            groups.entry(root(&mut roots, *first)).or_insert_with(empty).operations.push(operation);
        }
    }
    for (key, number) in index {
        groups.entry(root(&mut roots, number)).or_insert_with(empty).keys.insert(key.clone());
    }
    for kv in start {
        if let Some(group) = groups.values_mut().find(|group| group.keys.contains(&kv.key)) {
            group.start.apply(&super::history::Change::Put(without_revisions(kv)));
        }
    }
    groups.into_values().filter(|group| !group.operations.is_empty()).collect()
}

fn root(roots: &mut [usize], mut of: usize) -> usize {
    while roots[of] != of {
        roots[of] = roots[roots[of]];
        of = roots[of];
    }
    of
}

/// Keys that the operation names.
fn named(input: &Input) -> Vec<&Octets> {
    let Input::Txn(txn) = input else { return Vec::new() };
    let compared = txn.compares.iter().map(|compare| &compare.key);
    let actions = txn.then.iter().chain(&txn.otherwise);
    let acted = actions.filter_map(|action| match action {
        Action::Put { key, .. }
        | Action::Read { span: Span::Key(key), .. }
        | Action::Delete { span: Span::Key(key) } => Some(key),
        _ => None,
    });
    compared.chain(acted).collect()
}

/// Keys that the operation may touch. A revoke, or a sequential put, may touch any.
fn touched(input: &Input, universe: &BTreeMap<&Octets, usize>) -> Vec<usize> {
    let all = || universe.values().copied().collect();
    let Input::Txn(txn) = input else { return all() };
    let mut found: Vec<usize> = named(input).into_iter().filter_map(|key| universe.get(key).copied()).collect();
    for action in txn.then.iter().chain(&txn.otherwise) {
        match action {
            Action::PutSequential { .. } => return all(),
            Action::Put { .. } => {}
            Action::Read { span, .. } | Action::Delete { span } => {
                let held = universe.iter().filter(|(key, _)| !matches!(span, Span::Key(_)) && model::holds(span, key));
                found.extend(held.map(|(_, index)| *index));
            }
        }
    }
    found
}

/// Whether it can be judged by values and versions alone.
fn judgeable(input: &Input) -> bool {
    let Input::Txn(txn) = input else { return false };
    let by_value = |target: &Target| matches!(target, Target::Exists(_) | Target::Value(_) | Target::Version(_));
    let actions = txn.then.iter().chain(&txn.otherwise);
    let mut odd = actions.filter(|action| match action {
        Action::PutSequential { .. } => true,
        Action::Put { lease, .. } => *lease != 0,
        Action::Read { .. } | Action::Delete { .. } => false,
    });
    txn.compares.iter().all(|compare| by_value(&compare.target)) && odd.next().is_none()
}

enum Found {
    Explained,
    Impossible(Box<Operation>),
    GaveUp,
}

struct Search<'a> {
    operations: Vec<&'a Operation>,
    stack: Vec<Frame>,
    seen: HashSet<(Vec<u64>, Vec<Kv>)>,
    furthest: (usize, usize),
}

/// Operations taken, what the keys are then, and where to go on trying.
struct Frame {
    taken: Vec<u64>,
    count: usize,
    keys: Keys,
    next: usize,
}

impl<'a> Search<'a> {
    fn new(group: &Group<'a>) -> Self {
        let mut operations = group.operations.clone();
        operations.sort_by_key(|operation| operation.invoked);
        let taken = vec![0; operations.len().div_ceil(64)];
        let first = Frame { taken, count: 0, keys: group.start.clone(), next: 0 };
        Self { operations, stack: vec![first], seen: HashSet::new(), furthest: (0, 0) }
    }

    fn run(mut self, states_max: usize) -> Found {
        while let Some(frame) = self.stack.last() {
            let Some((first_left, limit)) = self.limit(&frame.taken) else { return Found::Explained };
            if frame.count >= self.furthest.0 {
                self.furthest = (frame.count, first_left);
            }
            let step = self.step(frame, limit);
            let Some((index, next)) = step else {
                self.stack.pop();
                continue;
            };
            if let Some(frame) = self.stack.last_mut() {
                frame.next = index + 1;
            }
            let state = (next.taken.clone(), next.keys.select(&ALL).cloned().collect());
            if self.seen.insert(state) {
                self.stack.push(next);
            }
            if self.seen.len() > states_max {
                return Found::GaveUp;
            }
        }
        Found::Impossible(Box::new(self.operations[self.furthest.1].clone()))
    }

    /// Of the acknowledged operations that are left, the one that was over first; what began later must wait.
    fn limit(&self, taken: &[u64]) -> Option<(usize, Moment)> {
        let left = self.operations.iter().enumerate().filter(|(index, _)| !has(taken, *index));
        let done = left.filter(|(_, operation)| matches!(operation.outcome, Outcome::Done { .. }));
        done.map(|(index, operation)| (index, operation.completed)).min_by_key(|(_, completed)| *completed)
    }

    /// The next operation that can be taken, and what comes of it.
    fn step(&self, frame: &Frame, limit: Moment) -> Option<(usize, Frame)> {
        let rest = self.operations.iter().enumerate().skip(frame.next);
        let mut begun = rest.take_while(|(_, operation)| operation.invoked <= limit);
        begun.find_map(|(index, operation)| {
            if has(&frame.taken, index) {
                return None;
            }
            let effect = frame.keys.evaluate(&operation.input, Told::default())?;
            let possible = match &operation.outcome {
                Outcome::Done { answer, .. } => agrees(answer, &effect.answer),
                Outcome::Unknown(_) => !effect.changes.is_empty(),
                Outcome::Refused(_) => false,
            };
            if !possible {
                return None;
            }
            let mut keys = frame.keys.clone();
            effect.changes.iter().for_each(|change| keys.apply(change));
            let mut taken = frame.taken.clone();
            taken[index / 64] |= 1 << (index % 64);
            Some((index, Frame { taken, count: frame.count + 1, keys, next: 0 }))
        })
    }
}

fn has(taken: &[u64], index: usize) -> bool {
    taken[index / 64] & (1 << (index % 64)) != 0
}

fn agrees(told: &Answer, expected: &Answer) -> bool {
    let same = |pair: (&Done, &Done)| match pair {
        (Done::Read(told), Done::Read(expected)) => {
            told.len() == expected.len() && told.iter().zip(expected).all(|(told, kv)| without_revisions(told) == *kv)
        }
        (Done::Deleted(told), Done::Deleted(expected)) => told == expected,
        (Done::Put { previous: None, .. }, Done::Put { .. }) => true,
        (Done::Put { previous: Some(told), .. }, Done::Put { previous: Some(expected), .. }) => {
            told.as_ref().map(without_revisions) == *expected
        }
        _ => false,
    };
    told.succeeded == expected.succeeded
        && told.results.len() == expected.results.len()
        && told.results.iter().zip(&expected.results).all(same)
}

fn without_revisions(kv: &Kv) -> Kv {
    Kv { create_revision: 0, mod_revision: 0, ..kv.clone() }
}

#[cfg(test)]
mod tests;
