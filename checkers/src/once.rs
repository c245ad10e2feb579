//! Exactly once: no write is applied twice, whatever number of times it was sent, and none that was acknowledged is lost.
//!
//! It counts values, and so needs no revision to be right: each put of a value that the log has must have been asked for
//! by a request of its own, and each acknowledged one must be there.
//!
//! Invariants:
//! - Attempts that share a request id count as one request.
//! - What the log does not cover is not called lost.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{Action, Change, History, Input, Octets, Operation, Outcome, RequestId};
use super::{Verdict, Violation, model};

const TWICE: &str = "exactly once";
const LOST: &str = "no acknowledged write lost";

/// Checks it.
pub fn check(history: &History) -> Verdict {
    one_answer_for_one_request(history)?;
    counted(history)?;
    acknowledged_are_there(history)
}

fn one_answer_for_one_request(history: &History) -> Verdict {
    let mut known: HashMap<RequestId, &Operation> = HashMap::new();
    for operation in &history.operations {
        let (Some(request), Outcome::Done { revision, answer }) = (operation.request, &operation.outcome) else {
            continue;
        };
        let first = *known.entry(request).or_insert(operation);
        let Outcome::Done { revision: other, answer: told } = &first.outcome else { continue };
        let same = (answer.changed(), answer.succeeded) == (told.changed(), told.succeeded);
        if !same || (answer.changed() && revision != other) {
            let text = format!("one request was answered in two ways: {first:?} and {operation:?}");
            return Err(Violation::new(TWICE, text));
        }
    }
    Ok(())
}

/// A request: its id, or the operation's own place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Request {
    Named(RequestId),
    Nameless(usize),
}

/// Who asked for a put of one value under one name.
#[derive(Debug, Default)]
struct Askers {
    acknowledged: HashSet<Request>,
    all: HashSet<Request>,
}

/// A key, or the directory of a sequential put, with the value put there.
type Target = (Octets, Octets);

fn counted(history: &History) -> Verdict {
    let Some(log) = &history.log else { return Ok(()) };
    let askers = askers(history);
    let mut found: BTreeMap<Target, usize> = BTreeMap::new();
    for change in &log.changes {
        if let Change::Put(kv) = change
            && !history.is_of_others(&kv.key)
        {
            *found.entry(target(&askers, &kv.key, &kv.value)).or_default() += 1;
        }
    }
    for ((key, value), count) in &found {
        let asked = askers.get(&(key.clone(), value.clone())).map_or(0, |askers| askers.all.len());
        if *count > asked {
            let text = format!("{value:?} was put {count} times to {key:?}, and asked for {asked} times");
            return Err(Violation::new(TWICE, text));
        }
    }
    Ok(())
}

fn target(askers: &HashMap<Target, Askers>, key: &Octets, value: &Octets) -> Target {
    let directory = model::parent(key).map(Octets::from).filter(|directory| model::sequence(directory, key).is_some());
    let sequential = directory.map(|directory| (directory, value.clone())).filter(|it| askers.contains_key(it));
    sequential.unwrap_or_else(|| (key.clone(), value.clone()))
}

fn askers(history: &History) -> HashMap<Target, Askers> {
    let mut askers: HashMap<Target, Askers> = HashMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Input::Txn(txn) = &operation.input else { continue };
        let request = operation.request.map_or(Request::Nameless(index), Request::Named);
        let branches = match &operation.outcome {
            Outcome::Refused(_) => continue,
            Outcome::Unknown(_) => [Some(&txn.then), Some(&txn.otherwise)],
            Outcome::Done { answer, .. } if answer.succeeded => [Some(&txn.then), None],
            Outcome::Done { .. } => [Some(&txn.otherwise), None],
        };
        for action in branches.into_iter().flatten().flatten() {
            let target = match action {
                Action::Put { key, value, .. } => (key.clone(), value.clone()),
                Action::PutSequential { directory, value, .. } => (directory.clone(), value.clone()),
                Action::Read { .. } | Action::Delete { .. } => continue,
            };
            let askers = askers.entry(target).or_default();
            askers.all.insert(request);
            if matches!(operation.outcome, Outcome::Done { .. }) {
                askers.acknowledged.insert(request);
            }
        }
    }
    askers
}

/// Each acknowledged put is in the log at its revision, and its key has at the end what it, or a later change, made of it.
fn acknowledged_are_there(history: &History) -> Verdict {
    let mut logged: HashMap<(i64, &Octets), &Change> = HashMap::new();
    let log = history.log.iter().flat_map(|log| &log.changes);
    logged.extend(log.map(|change| ((change.revision(), change.key()), change)));
    let covered = |revision: i64| history.log.as_ref().is_some_and(|log| (log.from..=log.to).contains(&revision));
    let end: Option<HashMap<_, _>> =
        history.end.as_ref().map(|end| end.keys.iter().map(|kv| (&kv.key, kv.mod_revision)).collect());
    let end_revision = history.end.as_ref().map_or(0, |end| end.revision);
    for (operation, revision, key, value) in puts(history) {
        let there = logged.get(&(revision, key));
        let right = matches!(there, Some(Change::Put(kv)) if kv.value == *value);
        if covered(revision) && !right {
            let text = format!("the log has {there:?} at revision {revision}, which acknowledged {operation:?}");
            return Err(Violation::new(LOST, text));
        }
        let Some(end) = &end else { continue };
        let overwritten = end.get(key).is_some_and(|found| *found >= revision);
        let deleted = !end.contains_key(key) && may_be_deleted(history, key, revision);
        if revision > end_revision || !(overwritten || deleted) {
            let text = format!("at the end, at {end_revision}, {key:?} has {:?}: {operation:?}", end.get(key));
            return Err(Violation::new(LOST, text));
        }
    }
    Ok(())
}

/// Acknowledged puts: operation, revision, key, value.
fn puts(history: &History) -> impl Iterator<Item = (&Operation, i64, &Octets, &Octets)> {
    history.operations.iter().flat_map(|operation| {
        let (revision, pairs) = match (&operation.outcome, &operation.input) {
            (Outcome::Done { revision, answer }, Input::Txn(txn)) => {
                let branch = if answer.succeeded { &txn.then } else { &txn.otherwise };
                (*revision, Some(branch.iter().zip(&answer.results)))
            }
            _ => (0, None),
        };
        let found = pairs.into_iter().flatten().filter_map(|(action, done)| match (action, done) {
            (
                Action::Put { value, .. } | Action::PutSequential { value, .. },
                super::history::Done::Put { key, .. },
            ) => Some((key, value)),
            _ => None,
        });
        found.map(move |(key, value)| (operation, revision, key, value))
    })
}

/// Whether a key that is absent at the end may have been deleted after the revision.
fn may_be_deleted(history: &History, key: &Octets, revision: i64) -> bool {
    if let Some(log) = &history.log
        && log.from <= revision
    {
        // Changes are in order, so that the later ones are found by halving.
        let later = log.changes.partition_point(|change| change.revision() <= revision);
        return log.changes[later..].iter().any(|change| change.key() == key);
    }
    history.operations.iter().any(|operation| match &operation.input {
        Input::Revoke { .. } => true,
        Input::Txn(txn) => txn.then.iter().chain(&txn.otherwise).any(|action| match action {
            Action::Delete { span } => model::holds(span, key),
            Action::Put { key: put, lease, .. } => put == key && *lease != 0,
            Action::PutSequential { lease, .. } => *lease != 0,
            Action::Read { .. } => false,
        }),
    })
}

#[cfg(test)]
mod tests;
