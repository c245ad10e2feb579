//! The model: what a log must do, said as simply as possible. Whole maps are copied freely; directories are
//! derived from the keys each time.
//!
//! Invariants:
//! - Nothing is stored twice: history is one map of keys for each revision.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::{ClientId, Key, LeaseId, Path, Revision};

use super::model_work::Work;
use crate::apply::{Applied, Entry, Payload};
use crate::command::{Command, Envelope, RequestId};
use crate::outcome::{Change, Changes, Done, KeyValue, Outcome, Rejection, RevisionChanges, TxnDone, TxnResult};
use crate::view::LeaseRecord;

/// Everything that exists at one moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Newest versions.
    pub keys: BTreeMap<Key, KeyValue>,
    /// Leases.
    pub leases: BTreeMap<LeaseId, LeaseRecord>,
    /// Next sequences of directories that handed one out.
    pub sequences: BTreeMap<Vec<u8>, u64>,
    /// When a child of a directory last came or went.
    pub children_revisions: BTreeMap<Vec<u8>, Revision>,
    /// Revision.
    pub revision: Revision,
    /// Latest stamp.
    pub stamp_ms: i64,
    /// Compaction mark.
    pub compacted: Revision,
    /// Version in force.
    pub version: u32,
}

/// Whether a child is a key, and a directory.
pub type Bits = (bool, bool);

/// Children of each directory, derived from keys.
pub fn directories<'k>(keys: impl Iterator<Item = &'k Key>) -> BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Bits>> {
    let mut found: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Bits>> = BTreeMap::new();
    for key in keys {
        let Some(mut path) = Path::of(key) else { continue };
        found.entry(path.parent().to_vec()).or_default().entry(path.name().to_vec()).or_default().0 = true;
        while path.parent() != b"/" {
            path = Path::new(path.parent().to_vec()).expect("a parent is a path");
            found.entry(path.parent().to_vec()).or_default().entry(path.name().to_vec()).or_default().1 = true;
        }
    }
    found
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Model {
    /// Now.
    pub state: State,
    /// The keys as they were at each revision.
    pub past: BTreeMap<Revision, BTreeMap<Key, KeyValue>>,
    /// What each revision changed.
    pub changes: BTreeMap<Revision, Vec<Change>>,
    requests: Vec<Remembered>,
    forgotten_index: u64,
    window_indexes: u64,
}

#[derive(Debug, Clone)]
struct Remembered {
    index: u64,
    client: ClientId,
    sequence: u64,
    lowest: u64,
    command: Command,
    outcome: Outcome,
}

impl Model {
    /// An empty store that remembers the requests of so many log entries.
    pub fn new(window_indexes: u64) -> Self {
        let state = State { revision: Revision::FIRST, version: 1, ..State::default() };
        let past = BTreeMap::from([(Revision::FIRST, BTreeMap::new())]);
        Self { state, past, changes: BTreeMap::new(), requests: Vec::new(), forgotten_index: 0, window_indexes }
    }

    /// What must become of an entry. Rejections come without their reasons.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        let index = entry.position.index;
        let mut applied = Applied { changes: Changes { log_index: index, ..Changes::default() }, ..Applied::default() };
        if let Payload::Batch(batch) = &entry.payload {
            self.state.stamp_ms = self.state.stamp_ms.max(batch.stamp_ms);
            let (mark, version) = (self.state.compacted, self.state.version);
            for envelope in &batch.commands {
                let outcome = self.command(index, envelope, &mut applied);
                applied.outcomes.push(outcome);
            }
            applied.compacted = Some(self.state.compacted).filter(|now| *now != mark);
            applied.state_version = Some(self.state.version).filter(|now| *now != version);
        }
        while let Some(oldest) = self.requests.first() {
            if oldest.index + self.window_indexes > index {
                break;
            }
            self.forgotten_index = oldest.index;
            let forgotten = oldest.index;
            self.requests.retain(|request| request.index > forgotten);
        }
        applied
    }

    fn command(&mut self, index: u64, envelope: &Envelope, applied: &mut Applied) -> Outcome {
        if let Some(answer) = envelope.request.and_then(|request| self.recall(&request, &envelope.command)) {
            return answer;
        }
        let mut work = Work::new(&self.state, &self.past);
        let result = work.decide(&envelope.command);
        let Work { state, changes, lease_changes, .. } = work;
        if result.is_ok() {
            applied.leases.extend(lease_changes);
            self.state = state;
            if !changes.is_empty() {
                self.state.revision = self.state.revision.next();
                let revision = self.state.revision;
                self.past.insert(revision, self.state.keys.clone());
                self.changes.insert(revision, changes.clone());
                applied.changes.revisions.push(RevisionChanges { revision, changes });
            }
        }
        let outcome = Outcome { revision: self.state.revision, replayed: false, result };
        if let Some(request) = envelope.request {
            let of_client = self.requests.iter().filter(|known| known.client == request.client);
            let before = of_client.map(|known| known.lowest).max().unwrap_or(0);
            self.requests.push(Remembered {
                index,
                client: request.client,
                sequence: request.sequence,
                lowest: before.max(request.lowest_unacknowledged.min(request.sequence)),
                command: envelope.command.clone(),
                outcome: outcome.clone(),
            });
        }
        outcome
    }

    fn recall(&self, request: &RequestId, command: &Command) -> Option<Outcome> {
        let refused =
            |rejection| Some(Outcome { revision: self.state.revision, replayed: false, result: Err(rejection) });
        let of_client: Vec<_> = self.requests.iter().filter(|known| known.client == request.client).collect();
        let lowest = of_client.iter().map(|known| known.lowest).max().unwrap_or(0);
        let known = of_client.iter().find(|known| known.sequence == request.sequence && known.sequence >= lowest);
        if let Some(known) = known {
            if std::mem::discriminant(&known.command) != std::mem::discriminant(command) {
                return refused(Rejection::RequestIdReused);
            }
            return Some(replayed(&known.outcome, command, &known.command));
        }
        if request.sequence < lowest || request.seen_index < self.forgotten_index {
            return refused(Rejection::RequestExpired);
        }
        None
    }

    /// Revisions that may be read.
    pub fn readable(&self) -> Vec<Revision> {
        self.past.keys().copied().filter(|revision| *revision >= self.state.compacted).collect()
    }

    /// Names of all directories that ever were, and the root.
    pub fn all_directories(&self) -> BTreeSet<Vec<u8>> {
        let mut all: BTreeSet<Vec<u8>> =
            self.past.values().flat_map(|keys| directories(keys.keys()).into_keys()).collect();
        all.insert(b"/".to_vec());
        all
    }
}

/// The remembered answer: without values; a put that names no sequence answers with the key it is asked for.
fn replayed(outcome: &Outcome, command: &Command, original: &Command) -> Outcome {
    let mut outcome = Outcome { replayed: true, ..outcome.clone() };
    match &mut outcome.result {
        Ok(Done::Put(put)) => {
            put.previous = None;
            if let (Command::Put(asked), Command::Put(first)) = (command, original)
                && put.key == first.key
            {
                put.key = asked.key.clone();
            }
        }
        Ok(Done::Delete(delete)) => delete.previous.clear(),
        Ok(Done::Txn(txn)) => forget_values(txn),
        _ => {}
    }
    outcome
}

fn forget_values(txn: &mut TxnDone) {
    for result in &mut txn.results {
        match result {
            TxnResult::Range(range) => range.kvs.clear(),
            TxnResult::Put(put) => put.previous = None,
            TxnResult::Delete(delete) => delete.previous.clear(),
            TxnResult::Txn(txn) => forget_values(txn),
        }
    }
}
