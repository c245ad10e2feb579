//! The one order of all changes, put together from everything that tells of them.
//!
//! A revision is known whole from the log that was read at the end, or from the acknowledged write that made it; of
//! others a watch or a read may have shown some keys; the rest are holes.
//!
//! Invariants:
//! - Two tellers never contradict each other on one key of one revision; else there is no order but a violation.
//! - A revision of the log without a change is a violation: a revision counts changes.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::history::{Change, Done, History, Kv, Octets, Operation, Outcome, Picture, Told as WatchTold};
use super::model::{Keys, Told};

const RULE: &str = "one order";

/// What changed at which revision.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// What stood there before.
    pub start: Picture,
    /// By revision.
    pub entries: BTreeMap<i64, Entry>,
    /// The newest revision of which anything is known.
    pub last: i64,
}

/// One revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What changed.
    pub changes: Vec<Change>,
    /// How it is known.
    pub source: Source,
}

/// How a revision is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Whole, from the log.
    Log,
    /// Whole, because this operation was acknowledged with it. Only as exact as the keys before it are known.
    Operation(usize),
    /// Some of its puts were seen.
    Glimpsed,
}

impl Order {
    /// Puts it together.
    pub fn of(history: &History) -> Result<Self, Violation> {
        let start = history.start.clone().unwrap_or(Picture { revision: 1, keys: Vec::new() });
        let mut order = Self { last: start.revision, start, entries: BTreeMap::new() };
        order.take_log(history)?;
        let claims = claims(history)?;
        let glimpses = order.glimpses(history, &claims)?;
        order.replay(history, &claims, glimpses);
        order.last = order.last.max(order.entries.keys().next_back().copied().unwrap_or_default());
        Ok(order)
    }

    /// Every revision after the start is known whole.
    pub fn is_whole(&self) -> bool {
        self.first_hole_after(self.start.revision).is_none()
    }

    /// The first revision after this one that is not known whole.
    pub fn first_hole_after(&self, revision: i64) -> Option<i64> {
        let mut expected = revision.max(self.start.revision) + 1;
        for (revision, entry) in self.entries.range(expected..) {
            if *revision != expected || entry.source == Source::Glimpsed {
                return Some(expected);
            }
            expected += 1;
        }
        (expected <= self.last).then_some(expected)
    }

    fn take_log(&mut self, history: &History) -> Result<(), Violation> {
        let Some(log) = &history.log else { return Ok(()) };
        let mut before = log.from - 1;
        for change in &log.changes {
            let revision = change.revision();
            if revision < before || revision < log.from || revision > log.to {
                let text = format!("the log of {} to {} has {change:?} after revision {before}", log.from, log.to);
                return Err(Violation::new(RULE, text));
            }
            if revision > before + 1 {
                return Err(Violation::new(RULE, format!("the log has no change of revision {}", before + 1)));
            }
            before = revision;
            let entry = self.entries.entry(revision);
            let entry = entry.or_insert_with(|| Entry { changes: Vec::new(), source: Source::Log });
            if entry.changes.iter().any(|other| other.key() == change.key()) {
                return Err(Violation::new(RULE, format!("the log has two changes of one key: {change:?}")));
            }
            entry.changes.push(change.clone());
        }
        if before < log.to && log.from <= log.to {
            return Err(Violation::new(RULE, format!("the log goes to {} but ends with {before}", log.to)));
        }
        self.entries.retain(|revision, _| *revision > self.start.revision);
        self.last = self.last.max(log.to);
        Ok(())
    }

    /// Puts that reads and watches showed, of revisions that nothing else tells whole.
    fn glimpses(&self, history: &History, claims: &Claims) -> Result<Glimpses, Violation> {
        let mut seen = Glimpses::new();
        let mut glimpse = |kv: &Kv| {
            let revision = kv.mod_revision;
            let told = self.entries.contains_key(&revision) || claims.contains_key(&revision);
            if revision <= self.start.revision || told {
                return Ok(());
            }
            let known = seen.entry(revision).or_default().entry(kv.key.clone()).or_insert_with(|| kv.clone());
            if known == kv {
                return Ok(());
            }
            Err(Violation::new(RULE, format!("one key at one revision was shown as {known:?} and as {kv:?}")))
        };
        for operation in &history.operations {
            shown(operation).try_for_each(&mut glimpse)?;
        }
        for told in history.watches.iter().flat_map(|watch| &watch.told) {
            let WatchTold::Events { events, .. } = told else { continue };
            for event in events {
                if let Change::Put(kv) = &event.change {
                    glimpse(kv)?;
                }
                event.previous.iter().try_for_each(&mut glimpse)?;
            }
        }
        let end = history.end.iter().flat_map(|end| &end.keys);
        end.clone().try_for_each(&mut glimpse)?;
        Ok(seen)
    }

    /// Goes through all revisions of which something is known, and fills in what acknowledged writes did.
    fn replay(&mut self, history: &History, claims: &Claims, mut glimpses: Glimpses) {
        let mut keys = Keys::of(&self.start.keys);
        let known = self.entries.keys().chain(claims.keys()).chain(glimpses.keys());
        let revisions: BTreeSet<i64> = known.copied().filter(|revision| *revision > self.start.revision).collect();
        for revision in revisions {
            let operation = claims.get(&revision);
            let entry = self.entries.entry(revision).or_insert_with(|| {
                let as_shown = || {
                    let kvs = glimpses.remove(&revision).unwrap_or_default();
                    Entry { changes: kvs.into_values().map(Change::Put).collect(), source: Source::Glimpsed }
                };
                let made = operation.and_then(|index| {
                    let changes = made(&keys, &history.operations[*index], revision)?;
                    Some(Entry { changes, source: Source::Operation(*index) })
                });
                made.unwrap_or_else(as_shown)
            });
            entry.changes.iter().for_each(|change| keys.apply(change));
        }
        let heard = history.operations.iter().filter_map(|operation| match operation.outcome {
            Outcome::Done { revision, .. } => Some(revision),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        });
        self.last = self.last.max(heard.max().unwrap_or_default());
    }
}

/// Which operation was acknowledged with which revision.
pub type Claims = BTreeMap<i64, usize>;

type Glimpses = BTreeMap<i64, BTreeMap<Octets, Kv>>;

/// Which write made which revision, as their answers say. Attempts of one request may share one.
pub fn claims(history: &History) -> Result<Claims, Violation> {
    let mut claims = Claims::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Outcome::Done { revision, answer } = &operation.outcome else { continue };
        if !answer.changed() {
            continue;
        }
        let first = *claims.entry(*revision).or_insert(index);
        let other = &history.operations[first];
        if first != index && (operation.request.is_none() || operation.request != other.request) {
            let text = format!("two writes were acknowledged with one revision: {other:?} and {operation:?}");
            return Err(Violation::new(RULE, text));
        }
    }
    Ok(claims)
}

/// Names of children that were written, for sequential puts.
pub fn names(changes: &[Change]) -> Vec<Octets> {
    let puts = changes.iter().filter(|change| matches!(change, Change::Put(_)));
    puts.map(|change| change.key().clone()).collect()
}

/// Keys that an answer says were written.
pub fn written(operation: &Operation) -> Vec<Octets> {
    let Outcome::Done { answer, .. } = &operation.outcome else { return Vec::new() };
    let puts = answer.results.iter().filter_map(|done| match done {
        Done::Put { key, .. } => Some(key.clone()),
        Done::Read(_) | Done::Deleted(_) => None,
    });
    puts.collect()
}

fn made(keys: &Keys, operation: &Operation, revision: i64) -> Option<Vec<Change>> {
    let Outcome::Done { answer, .. } = &operation.outcome else { return None };
    let names = written(operation);
    let told = Told { revision, verdict: Some(answer.succeeded), names: &names };
    keys.evaluate(&operation.input, told).map(|effect| effect.changes).filter(|changes| !changes.is_empty())
}

/// Keys that an answer showed.
fn shown(operation: &Operation) -> impl Iterator<Item = &Kv> {
    let results = match &operation.outcome {
        Outcome::Done { answer, .. } => answer.results.as_slice(),
        Outcome::Refused(_) | Outcome::Unknown(_) => &[],
    };
    results.iter().flat_map(|done| match done {
        Done::Read(kvs) => kvs.as_slice(),
        Done::Put { previous: Some(Some(kv)), .. } => std::slice::from_ref(kv),
        Done::Put { .. } | Done::Deleted(_) => &[],
    })
}

#[cfg(test)]
mod tests;
