//! What was seen of a cluster from outside: the plain data that every checker reads.
//!
//! Whoever records (a simulation, a test with real processes, a client of any wire) fills a [`History`]; it can be
//! written as lines of JSON, one [`Record`] each, and read in again.
//!
//! Invariants:
//! - Plain data: nothing here knows a cluster, a client, a clock or a network.
//! - All moments of a history come from one clock that only grows, in microseconds. Only leases compare lengths of time;
//!   for all other checkers any growing number will do.
//! - An operation is begun at `invoked`, before anything of it left the client, and over at `completed`, after its answer
//!   was there. A recorder that is unsure takes the earlier beginning and the later end: that only makes checks weaker.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

mod elections;
mod facts;
mod octets;
mod operation;

pub use elections::{Elected, ElectionFact, Leading, Said};
pub use facts::{Child, Compaction, Digest, Directory, DirectoryStat, Hold, Learned, LeaseFact, Mode};
pub use octets::Octets;
pub use operation::{Action, Answer, Compare, Done, Input, Operation, Outcome, Relation, RequestId, Span, Target, Txn};

/// A moment, in microseconds of the history's one clock.
pub type Moment = u64;

/// Everything that was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// What stood there before: revision and keys. Without it, an empty store at revision 1.
    pub start: Option<Picture>,
    /// What clients asked for.
    pub operations: Vec<Operation>,
    /// What watches were told.
    pub watches: Vec<Watch>,
    /// Every change of a range of revisions, read when all was over.
    pub log: Option<ChangeLog>,
    /// All keys, read when all was over.
    pub end: Option<Picture>,
    /// What happened to leases.
    pub leases: Vec<LeaseFact>,
    /// The highest revision up to which anybody asked to compact; 0: nobody did.
    pub compacted: i64,
    /// Compactions that were answered.
    pub compactions: Vec<Compaction>,
    /// Moments at which a new leader began its work.
    pub leaders: Vec<Moment>,
    /// Holds of locks, and attempts.
    pub holds: Vec<Hold>,
    /// What was asked of elections, and told of them.
    pub elections: Vec<ElectionFact>,
    /// Digests that members told.
    pub digests: Vec<Digest>,
    /// What directories were said to hold.
    pub directories: Vec<Directory>,
    /// Keys that somebody writes besides, who records nothing: locks, for instance. Checkers of writes leave them out.
    pub others: Vec<Span>,
}

/// One line of a written history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is a field of the history, and documented there")]
pub enum Record {
    Start(Picture),
    Operation(Operation),
    Watch(Watch),
    Log(ChangeLog),
    End(Picture),
    Lease(LeaseFact),
    Compacted(i64),
    Compaction(Compaction),
    Leader(Moment),
    Hold(Hold),
    Election(ElectionFact),
    Digest(Digest),
    Directory(Directory),
    Others(Span),
}

/// All keys at a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// Of the store.
    pub revision: i64,
    /// In order.
    pub keys: Vec<Kv>,
}

/// A key with all that is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kv {
    /// The key.
    pub key: Octets,
    /// Its value, or a hash of it if all of a history's values are hashed alike.
    pub value: Octets,
    /// Revision at which it came into being.
    pub create_revision: i64,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Changes since its creation.
    pub version: i64,
    /// 0: none.
    pub lease: i64,
}

/// What one watch was told, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// For messages.
    pub name: String,
    /// Which keys.
    pub span: Span,
    /// First revision wanted; 0: what comes after its creation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start: i64,
    /// With what stood there before.
    #[serde(default)]
    pub previous: bool,
    /// Without puts.
    #[serde(default)]
    pub no_puts: bool,
    /// Without deletes.
    #[serde(default)]
    pub no_deletes: bool,
    /// What came.
    pub told: Vec<Told>,
}

impl Watch {
    /// Of all events from `start` on, that was told nothing yet.
    pub fn new(name: String, span: Span, start: i64) -> Self {
        Self { name, span, start, previous: false, no_puts: false, no_deletes: false, told: Vec::new() }
    }
}

/// One message to a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It exists; the store is at this revision.
    Created(i64),
    /// Changes.
    Events {
        /// The store's revision in the message; 0 where there is none.
        #[serde(default, skip_serializing_if = "is_zero")]
        revision: i64,
        /// In order.
        events: Vec<Event>,
        /// More of the last revision follows in the next message.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fragment: bool,
    },
    /// All up to this revision has been told.
    Progress(i64),
    /// The stream broke and the client went on by itself, as the same watch.
    Resumed,
    /// It ended because what came next was compacted up to this revision.
    Compacted(i64),
}

/// A change, as told to a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What changed.
    #[serde(flatten)]
    pub change: Change,
    /// What stood there, if told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Kv>,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is this now; the revision is its `mod_revision`.
    Put(Kv),
    /// It is gone.
    Delete {
        /// Which.
        key: Octets,
        /// When.
        revision: i64,
    },
}

/// Every change from one revision to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLog {
    /// First revision that is in it.
    pub from: i64,
    /// Last revision that is in it: it was the store's when the log was read.
    pub to: i64,
    /// In order of revisions.
    pub changes: Vec<Change>,
}

impl Change {
    /// Of which key.
    pub fn key(&self) -> &Octets {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// At which revision.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

impl History {
    /// Whether somebody writes this key who records nothing.
    pub fn is_of_others(&self, key: &Octets) -> bool {
        self.others.iter().any(|span| super::model::holds(span, key))
    }

    /// Adds what one line says.
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Start(picture) => self.start = Some(picture),
            Record::Operation(operation) => self.operations.push(operation),
            Record::Watch(watch) => self.watches.push(watch),
            Record::Log(log) => self.log = Some(log),
            Record::End(picture) => self.end = Some(picture),
            Record::Lease(fact) => self.leases.push(fact),
            Record::Compacted(revision) => self.compacted = self.compacted.max(revision),
            Record::Compaction(compaction) => self.compactions.push(compaction),
            Record::Leader(moment) => self.leaders.push(moment),
            Record::Hold(hold) => self.holds.push(hold),
            Record::Election(fact) => self.elections.push(fact),
            Record::Digest(digest) => self.digests.push(digest),
            Record::Directory(directory) => self.directories.push(directory),
            Record::Others(span) => self.others.push(span),
        }
    }

    /// All of it, one record after the other.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let start = self.start.iter().cloned().map(Record::Start);
        let operations = self.operations.iter().cloned().map(Record::Operation);
        let watches = self.watches.iter().cloned().map(Record::Watch);
        let log = self.log.iter().cloned().map(Record::Log);
        let end = self.end.iter().cloned().map(Record::End);
        let leases = self.leases.iter().cloned().map(Record::Lease);
        let compacted = (self.compacted != 0).then_some(Record::Compacted(self.compacted));
        let compactions = self.compactions.iter().cloned().map(Record::Compaction);
        let leaders = self.leaders.iter().copied().map(Record::Leader);
        let holds = self.holds.iter().cloned().map(Record::Hold);
        let elections = self.elections.iter().cloned().map(Record::Election);
        let digests = self.digests.iter().cloned().map(Record::Digest);
        let directories = self.directories.iter().cloned().map(Record::Directory);
        let others = self.others.iter().cloned().map(Record::Others);
        let first = start.chain(operations).chain(watches).chain(log).chain(end);
        first
            .chain(compacted)
            .chain(compactions)
            .chain(leases)
            .chain(leaders)
            .chain(holds)
            .chain(elections)
            .chain(digests)
            .chain(directories)
            .chain(others)
    }

    /// Writes it as lines of JSON.
    pub fn write(&self, mut to: impl Write) -> std::io::Result<()> {
        for record in self.records() {
            serde_json::to_writer(&mut to, &record)?;
            to.write_all(b"\n")?;
        }
        to.flush()
    }

    /// Reads lines of JSON; an error says which line.
    pub fn read(from: impl BufRead) -> std::io::Result<Self> {
        let mut history = Self::default();
        for (number, line) in from.lines().enumerate() {
            let line = line?;
            if !line.trim().is_empty() {
                let wrong = |error| std::io::Error::other(format!("line {}: {error}", number + 1));
                history.add(serde_json::from_str(&line).map_err(wrong)?);
            }
        }
        Ok(history)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
