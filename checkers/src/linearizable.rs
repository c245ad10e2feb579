//! Linearizability of keys and transactions, with the revisions of the answers as witness.
//!
//! The revisions put all writes into one order. What is left to check is that this order explains every answer, that it
//! respects real time, and that every change was asked for. Writes whose outcome is unknown may stand anywhere after
//! their beginning, once, or nowhere.
//!
//! Invariants:
//! - Only what must be wrong is rejected: where revisions are not known whole, an answer may be what either side of the
//!   hole explains. With a whole log nothing is left open.
//! - Cost: the operations' own, and one look at every unknown write for each change that nobody acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::history::{Action, Answer, Change, Done, History, Input, Kv, Octets, Operation, Outcome, Span, Txn};
use super::model::{self, Keys, Told};
use super::order::{self, Claims, Entry, Order, Source};
use super::{Verdict, Violation};

const RULE: &str = "linearizability";

/// Checks it.
pub fn check(history: &History) -> Verdict {
    let order = Order::of(history)?;
    let claims = order::claims(history)?;
    let floors = floors(&history.operations, order.start.revision);
    real_time(&history.operations, &floors)?;
    let keys = Keys::of(&order.start.keys);
    let unknown = Unknown::of(&history.operations);
    let mut walk = Walk {
        history,
        order: &order,
        claims: &claims,
        unknown,
        floors,
        keys,
        gone: HashMap::new(),
        hole: 0,
        doubtful: BTreeSet::new(),
    };
    walk.go()
}

/// For each operation, the highest revision that anybody had heard of before it began.
fn floors(operations: &[Operation], start: i64) -> Vec<i64> {
    let mut begun: Vec<usize> = (0..operations.len()).collect();
    begun.sort_by_key(|index| operations[*index].invoked);
    let heard = operations.iter().filter_map(|operation| Some((operation.completed, revision(operation)?)));
    let mut heard: Vec<_> = heard.collect();
    heard.sort_unstable();
    let mut heard = heard.into_iter().peekable();
    let (mut floors, mut floor) = (vec![start; operations.len()], start);
    for index in begun {
        while let Some((_, revision)) = heard.next_if(|(completed, _)| *completed < operations[index].invoked) {
            floor = floor.max(revision);
        }
        floors[index] = floor;
    }
    floors
}

/// No answer is older than what was known when it was asked for.
fn real_time(operations: &[Operation], floors: &[i64]) -> Verdict {
    for (operation, floor) in operations.iter().zip(floors) {
        let Outcome::Done { revision, answer } = &operation.outcome else { continue };
        let (least, why) = match &operation.input {
            _ if answer.changed() => (floor + 1, "a change must come after all that was heard of before"),
            Input::Txn(txn) if txn.serializable => (txn.min_revision, "that was asked for"),
            Input::Txn(txn) => (txn.min_revision.max(*floor), "that was heard of before it began"),
            Input::Revoke { .. } => (*floor, "that was heard of before it began"),
        };
        if *revision < least {
            let text = format!("an answer has revision {revision}, not {least} or more ({why}): {operation:?}");
            return Err(Violation::new(RULE, text));
        }
    }
    Ok(())
}

fn revision(operation: &Operation) -> Option<i64> {
    match &operation.outcome {
        Outcome::Done { revision, .. } => Some(*revision),
        Outcome::Refused(_) | Outcome::Unknown(_) => None,
    }
}

/// The keys as they become, revision by revision.
struct Walk<'a> {
    history: &'a History,
    order: &'a Order,
    claims: &'a Claims,
    unknown: Unknown,
    floors: Vec<i64>,
    keys: Keys,
    /// Since when keys are known to be absent that were there before.
    gone: HashMap<Octets, i64>,
    /// The last revision that is not known whole; 0: none yet.
    hole: i64,
    /// Keys that were put after a hole, which may have deleted or made them before: since when they exist is not known,
    /// nor how often they have changed.
    doubtful: BTreeSet<Octets>,
}

impl Walk<'_> {
    fn go(&mut self) -> Verdict {
        let mut reads: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (index, operation) in self.history.operations.iter().enumerate() {
            if let Outcome::Done { revision, answer } = &operation.outcome
                && !answer.changed()
            {
                reads.entry(asked(&operation.input).unwrap_or(*revision)).or_default().push(index);
            }
        }
        let mut orphans = Vec::new();
        let revisions: BTreeSet<_> = self.order.entries.keys().chain(reads.keys()).copied().collect();
        let mut before = self.order.start.revision;
        for revision in revisions {
            if let Some(entry) = self.order.entries.get(&revision) {
                self.hole = if revision > before + 1 { revision - 1 } else { self.hole };
                orphans.extend(self.change(revision, entry)?);
                before = revision;
            } else if revision > before {
                self.hole = revision;
            }
            for index in reads.get(&revision).into_iter().flatten() {
                if revision >= self.order.start.revision {
                    self.read(&self.history.operations[*index], revision)?;
                }
            }
        }
        explain(&orphans)
    }

    /// Checks who made this revision, and makes it so.
    fn change(&mut self, revision: i64, entry: &Entry) -> Result<Option<Orphan>, Violation> {
        let mut orphan = None;
        if let Some(index) = self.claims.get(&revision) {
            self.claimed(&self.history.operations[*index], revision, entry)?;
        } else if !self.is_end_of_leases(entry) && !self.is_of_others(entry) {
            orphan = Some(Orphan { revision, candidates: self.candidates(revision, entry) });
        }
        for change in &entry.changes {
            let is_guessed = matches!(entry.source, Source::Operation(_)) && matches!(change, Change::Put(_));
            if !is_guessed {
                self.doubtful.remove(change.key());
            } else if self.hole != 0 {
                self.doubtful.insert(change.key().clone());
            }
            self.keys.apply(change);
            if matches!(change, Change::Delete { .. }) {
                self.gone.insert(change.key().clone(), revision);
            }
        }
        if entry.source == Source::Glimpsed {
            self.hole = revision;
        }
        Ok(orphan)
    }

    /// The write that was acknowledged with this revision must have done what is known of it.
    fn claimed(&self, operation: &Operation, revision: i64, entry: &Entry) -> Verdict {
        let Outcome::Done { answer, .. } = &operation.outcome else { return Ok(()) };
        let effect = self.expected(operation, answer, revision);
        let Some(effect) = effect else {
            return Err(Violation::new(RULE, format!("a name that the directory does not hand out: {operation:?}")));
        };
        self.agree(operation, &effect.answer, revision)?;
        let same = match entry.source {
            Source::Glimpsed => true,
            Source::Operation(_) => !effect.changes.is_empty(),
            Source::Log => same_changes(&effect.changes, &entry.changes),
        };
        if same || (entry.source != Source::Log && self.unsure_of_all(&operation.input)) {
            return Ok(());
        }
        let text = format!("revision {revision} is {:?}, but {operation:?} was answered with it", entry.changes);
        Err(Violation::new(RULE, text))
    }

    /// What changed nothing must have answered what stood there at its revision.
    fn read(&mut self, operation: &Operation, revision: i64) -> Verdict {
        let Outcome::Done { answer, .. } = &operation.outcome else { return Ok(()) };
        let Some(effect) = self.expected(operation, answer, revision) else { return Ok(()) };
        self.agree(operation, &effect.answer, revision)?;
        self.learn_of_absence(operation, answer, revision);
        Ok(())
    }

    fn expected(&self, operation: &Operation, answer: &Answer, revision: i64) -> Option<model::Effect> {
        let names = order::written(operation);
        let unsure = matches!(&operation.input, Input::Txn(txn) if self.unsure_of_compares(txn));
        let verdict = unsure.then_some(answer.succeeded);
        self.keys.evaluate(&operation.input, Told { revision, verdict, names: &names })
    }

    /// The answer is the expected one, but for what a hole may have changed.
    fn agree(&self, operation: &Operation, expected: &Answer, revision: i64) -> Verdict {
        let Outcome::Done { answer, .. } = &operation.outcome else { return Ok(()) };
        let same_shape = answer.succeeded == expected.succeeded && answer.results.len() == expected.results.len();
        let mut pairs = answer.results.iter().zip(&expected.results);
        if same_shape && pairs.all(|(told, expected)| self.agrees(told, expected, &operation.input)) {
            return Ok(());
        }
        let text = format!("at revision {revision} the answer should be {expected:?}: {operation:?}");
        Err(Violation::new(RULE, text))
    }

    fn agrees(&self, told: &Done, expected: &Done, input: &Input) -> bool {
        match (told, expected) {
            (Done::Put { key, previous: None }, Done::Put { key: expected, .. }) => key == expected,
            (Done::Put { key, previous: Some(told) }, Done::Put { key: same, previous: Some(expected) }) => {
                key == same && self.may_be(key, told.as_ref(), expected.as_ref())
            }
            (Done::Deleted(told), Done::Deleted(expected)) => told == expected || self.unsure_of_all(input),
            (Done::Read(told), Done::Read(expected)) => told == expected || self.may_be_all(told, expected, input),
            _ => false,
        }
    }

    fn may_be_all(&self, told: &[Kv], expected: &[Kv], input: &Input) -> bool {
        if self.hole == 0 {
            return false;
        }
        let in_order = told.windows(2).all(|pair| pair[0].key < pair[1].key);
        let limited = matches!(input, Input::Txn(txn) if txn.then.iter().chain(&txn.otherwise).any(
            |action| matches!(action, Action::Read { limit: Some(_), .. })
        ));
        let told: BTreeMap<_, _> = told.iter().map(|kv| (&kv.key, kv)).collect();
        let expected: BTreeMap<_, _> = expected.iter().map(|kv| (&kv.key, kv)).collect();
        let mut all = told.keys().chain(expected.keys());
        in_order && (limited || all.all(|key| self.may_be(key, told.get(key).copied(), expected.get(key).copied())))
    }

    /// Whether the key may be so, given what is expected and that a hole may have changed it.
    fn may_be(&self, key: &Octets, told: Option<&Kv>, expected: Option<&Kv>) -> bool {
        if told == expected {
            return true;
        }
        if let (Some(told), Some(expected)) = (told, expected)
            && (self.doubtful.contains(key) || self.is_put_on_a_hole(key, expected))
            && told.mod_revision == expected.mod_revision
        {
            return told.value == expected.value && told.lease == expected.lease;
        }
        let since = expected.map_or_else(|| self.gone_since(key), |kv| kv.mod_revision);
        // What was shown is in the order already, so that in a hole a key can only have gone, or come back as shown.
        self.hole > since && told.is_none_or(|kv| kv.mod_revision > since)
    }

    /// The operation that is looked at puts the key itself, and what stood there is not known: so its age is not, either.
    fn is_put_on_a_hole(&self, key: &Octets, expected: &Kv) -> bool {
        let stands = self.keys.get(key).is_some_and(|kv| kv.mod_revision == expected.mod_revision);
        !stands && self.unsure_of(key)
    }

    fn gone_since(&self, key: &Octets) -> i64 {
        self.gone.get(key).copied().unwrap_or(self.order.start.revision)
    }

    fn unsure_of(&self, key: &Octets) -> bool {
        let since = self.keys.get(key).map_or_else(|| self.gone_since(key), |kv| kv.mod_revision);
        self.hole > since
    }

    fn unsure_of_compares(&self, txn: &Txn) -> bool {
        txn.compares.iter().any(|compare| self.unsure_of(&compare.key) || self.doubtful.contains(&compare.key))
    }

    /// Some key that the operation deletes or reads may have been changed by a hole.
    fn unsure_of_all(&self, input: &Input) -> bool {
        let Input::Txn(txn) = input else { return self.hole != 0 };
        let mut actions = txn.then.iter().chain(&txn.otherwise);
        self.unsure_of_compares(txn)
            || actions.any(|action| match action {
                Action::Delete { span: Span::Key(key) } => self.unsure_of(key),
                Action::Delete { .. } => self.hole != 0,
                _ => false,
            })
    }

    /// A key that was seen to be absent is absent from here on, until it is written.
    fn learn_of_absence(&mut self, operation: &Operation, answer: &Answer, revision: i64) {
        let Input::Txn(txn) = &operation.input else { return };
        if self.hole == 0 {
            return;
        }
        let branch = if answer.succeeded { &txn.then } else { &txn.otherwise };
        for (action, done) in branch.iter().zip(&answer.results) {
            let (Action::Read { span, limit: None }, Done::Read(kvs)) = (action, done) else { continue };
            let told: BTreeSet<_> = kvs.iter().map(|kv| &kv.key).collect();
            let absent = self.keys.select(span).filter(|kv| !told.contains(&kv.key));
            let absent: Vec<_> = absent.map(|kv| kv.key.clone()).collect();
            for key in absent {
                self.keys.apply(&Change::Delete { key: key.clone(), revision });
                self.gone.insert(key, revision);
            }
        }
    }

    /// All that changed is that whole leases are gone with their keys.
    fn is_end_of_leases(&self, entry: &Entry) -> bool {
        let mut leases = BTreeSet::new();
        for change in &entry.changes {
            let lease = self.keys.get(change.key()).map_or(0, |kv| kv.lease);
            if lease == 0 || matches!(change, Change::Put(_)) {
                return false;
            }
            leases.insert(lease);
        }
        let owned: usize = leases.iter().map(|lease| self.keys.owned(*lease).count()).sum();
        owned == entry.changes.len() || self.hole != 0
    }

    fn is_of_others(&self, entry: &Entry) -> bool {
        entry.changes.iter().all(|change| self.history.is_of_others(change.key()))
    }

    /// Writes of unknown outcome that would have made just this change.
    fn candidates(&self, revision: i64, entry: &Entry) -> Vec<usize> {
        let names = order::names(&entry.changes);
        let fits = self.unknown.touching(entry).filter(|index| {
            self.floors[*index] < revision && self.explains(&self.history.operations[*index], revision, entry, &names)
        });
        fits.collect()
    }

    fn explains(&self, operation: &Operation, revision: i64, entry: &Entry, names: &[Octets]) -> bool {
        if entry.source == Source::Glimpsed {
            // What else it did is not known, nor what stood there: what it asked for is all that says anything.
            return entry.changes.iter().all(|change| asks_for(&operation.input, change));
        }
        let verdicts: &[Option<bool>] = match &operation.input {
            Input::Txn(txn) if self.unsure_of_compares(txn) => &[Some(true), Some(false)],
            _ => &[None],
        };
        verdicts.iter().any(|verdict| {
            let told = Told { revision, verdict: *verdict, names };
            let Some(effect) = self.keys.evaluate(&operation.input, told) else { return false };
            same_changes(&effect.changes, &entry.changes) || self.unsure_of_all(&operation.input)
        })
    }
}

/// The past revision that was to be read.
fn asked(input: &Input) -> Option<i64> {
    match input {
        Input::Txn(txn) if txn.at > 0 => Some(txn.at),
        _ => None,
    }
}

fn same_changes(a: &[Change], b: &[Change]) -> bool {
    let sorted = |changes: &[Change]| changes.iter().map(|change| (change.key().clone(), change.clone())).collect();
    let (a, b): (BTreeMap<_, _>, BTreeMap<_, _>) = (sorted(a), sorted(b));
    a == b
}

/// Whether the operation may have made a change that was seen: in some branch it puts this there.
fn asks_for(input: &Input, seen: &Change) -> bool {
    let (Input::Txn(txn), Change::Put(kv)) = (input, seen) else { return false };
    txn.then.iter().chain(&txn.otherwise).any(|action| match action {
        Action::Put { key, value, lease } => (key, value, *lease) == (&kv.key, &kv.value, kv.lease),
        Action::PutSequential { directory, value, lease } => {
            model::sequence(directory, &kv.key).is_some() && (value, *lease) == (&kv.value, kv.lease)
        }
        Action::Read { .. } | Action::Delete { .. } => false,
    })
}

/// Operations of unknown outcome, by the keys that they name.
struct Unknown {
    by_key: HashMap<Octets, Vec<usize>>,
    /// Those that may change keys that they do not name.
    wide: Vec<usize>,
}

impl Unknown {
    fn of(operations: &[Operation]) -> Self {
        let mut unknown = Self { by_key: HashMap::new(), wide: Vec::new() };
        for (index, operation) in operations.iter().enumerate() {
            if !matches!(operation.outcome, Outcome::Unknown(_)) || operation.input.only_reads() {
                continue;
            }
            match named(&operation.input) {
                None => unknown.wide.push(index),
                Some(keys) => {
                    for key in keys {
                        unknown.by_key.entry(key.clone()).or_default().push(index);
                    }
                }
            }
        }
        unknown
    }

    /// Those that may have made this revision, by the keys alone.
    fn touching(&self, entry: &Entry) -> impl Iterator<Item = usize> {
        let named = entry.changes.first().and_then(|change| self.by_key.get(change.key()));
        named.into_iter().flatten().chain(&self.wide).copied()
    }
}

/// Keys that the operation may change; `None`: others than those that it names.
fn named(input: &Input) -> Option<BTreeSet<&Octets>> {
    let Input::Txn(txn) = input else { return None };
    let mut keys = BTreeSet::new();
    for action in txn.then.iter().chain(&txn.otherwise) {
        match action {
            Action::Put { key, .. } | Action::Delete { span: Span::Key(key) } => drop(keys.insert(key)),
            Action::Read { .. } => {}
            Action::PutSequential { .. } | Action::Delete { .. } => return None,
        }
    }
    Some(keys)
}

/// A change that nobody acknowledged.
struct Orphan {
    revision: i64,
    candidates: Vec<usize>,
}

/// Gives each orphan an unknown write of its own, if that is possible.
fn explain(orphans: &[Orphan]) -> Verdict {
    let mut taken: HashMap<usize, usize> = HashMap::new();
    for orphan in 0..orphans.len() {
        if !place(orphans, orphan, &mut taken) {
            let Orphan { revision, candidates } = &orphans[orphan];
            let text = format!(
                "revision {revision} was made by no operation that was acknowledged, and by none whose outcome is unknown \
                 and that did not happen elsewhere; those that would fit: {candidates:?}"
            );
            return Err(Violation::new(RULE, text));
        }
    }
    Ok(())
}

/// Finds a candidate for the orphan; one that is taken is freed if its owner finds another.
fn place(orphans: &[Orphan], orphan: usize, taken: &mut HashMap<usize, usize>) -> bool {
    // Breadth first, with the way back noted: long chains of exchanges need no deep stack.
    let mut from: HashMap<usize, usize> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([orphan]);
    while let Some(at) = queue.pop_front() {
        for candidate in &orphans[at].candidates {
            if from.contains_key(candidate) {
                continue;
            }
            from.insert(*candidate, at);
            if let Some(owner) = taken.get(candidate) {
                queue.push_back(*owner);
                continue;
            }
            let mut free = *candidate;
            loop {
                let owner = from[&free];
                let before = taken.iter().find(|(_, of)| **of == owner).map(|(candidate, _)| *candidate);
                taken.insert(free, owner);
                match before {
                    Some(before) if owner != orphan => {
                        taken.remove(&before);
                        free = before;
                    }
                    _ => return true,
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests;
