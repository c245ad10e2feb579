//! The disk of a member's log: knows what was synced, and loses what was not.
//!
//! Invariants:
//! - What was synced outlives a crash; of what was not, a crash keeps some beginning.
//! - A process that has crashed writes nothing any more, though its tasks may still run for a moment.
//! - After an error nothing more is taken, as with the real disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_server::consensus::codec;
use quorate_server::consensus::log_disk::{LogDisk, LogLoad, LogOp};
use quorate_server::consensus::types::{Entry, LogId, Vote};

use crate::dice::Dice;

/// What stays when a process ends. Cheap to clone.
#[derive(Clone)]
pub struct Platter(Arc<Mutex<Platters>>);

struct Platters {
    /// What readers see.
    seen: Content,
    synced: Content,
    unsynced: Vec<LogOp>,
    /// Counts the processes that had it open.
    process: u64,
    fails: bool,
    /// A bug that is put in on purpose: syncs do nothing.
    forgets: bool,
}

#[derive(Clone, Default)]
struct Content {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Bytes>,
}

/// The disk as one process has it open.
pub struct SimDisk {
    platter: Platter,
    process: u64,
}

impl Platter {
    pub fn new(forgets: bool) -> Self {
        let platters = Platters {
            seen: Content::default(),
            synced: Content::default(),
            unsynced: Vec::new(),
            process: 0,
            fails: false,
            forgets,
        };
        Self(Arc::new(Mutex::new(platters)))
    }

    /// Opens it for a new process; the one before it has no access any more.
    pub fn open(&self) -> SimDisk {
        let mut platters = self.0.lock();
        platters.process += 1;
        platters.fails = false;
        SimDisk { platter: self.clone(), process: platters.process }
    }

    /// The process, or its machine, ends: of what was not synced only some beginning stays.
    pub fn crash(&self, dice: &Dice) -> (usize, usize) {
        let mut platters = self.0.lock();
        platters.process += 1;
        let lost = std::mem::take(&mut platters.unsynced);
        let kept = dice.below(lost.len() + 1);
        lost[..kept].iter().for_each(|op| platters.synced.apply(op));
        platters.seen = platters.synced.clone();
        (kept, lost.len())
    }

    /// The process ends in good order, and the system writes what it had.
    pub fn close(&self) {
        let mut platters = self.0.lock();
        platters.process += 1;
        platters.sync();
    }

    /// The last entry that is safe there.
    pub fn last(&self) -> Option<LogId> {
        let platters = self.0.lock();
        let last = platters.synced.entries.last_key_value();
        last.map(|(_, entry)| codec::decode_entry(entry.clone()).expect("it was written whole").log_id)
    }

    /// Up to where its entries are gone for whoever reads; that need not be safe.
    pub fn purged(&self) -> Option<LogId> {
        self.0.lock().seen.purged
    }

    /// From now on every write fails, until it is opened again.
    pub fn fail(&self) {
        self.0.lock().fails = true;
    }
}

impl Platters {
    fn sync(&mut self) {
        for op in std::mem::take(&mut self.unsynced) {
            self.synced.apply(&op);
        }
    }
}

impl Content {
    fn apply(&mut self, op: &LogOp) {
        match op {
            LogOp::Append { index, entry } => {
                self.entries.insert(*index, entry.clone());
            }
            LogOp::TruncateFrom(index) => drop(self.entries.split_off(index)),
            LogOp::PurgeThrough(id) => {
                self.entries = self.entries.split_off(&(id.index + 1));
                self.purged = Some(*id);
            }
            LogOp::Vote(vote) => self.vote = Some(*vote),
            LogOp::Committed(id) => self.committed = Some(*id),
        }
    }
}

impl SimDisk {
    fn open<'a>(&self, platters: &'a mut Platters) -> io::Result<&'a mut Platters> {
        if platters.process == self.process { Ok(platters) } else { Err(io::Error::other("the process has ended")) }
    }
}

impl LogDisk for SimDisk {
    fn load(&self) -> io::Result<LogLoad> {
        let mut platters = self.platter.0.lock();
        let seen = &self.open(&mut platters)?.seen;
        let last = seen.entries.last_key_value().map(|(_, entry)| codec::decode_entry(entry.clone())).transpose()?;
        let first = seen.purged.map_or(0, |id| id.index + 1);
        let holes = seen.entries.keys().zip(first..).find(|(found, wanted)| *found != wanted);
        assert_eq!(holes, None, "a log has no holes");
        let last = last.map(|entry| entry.log_id);
        Ok(LogLoad { vote: seen.vote, committed: seen.committed, purged: seen.purged, last })
    }

    fn write(&self, ops: &[LogOp], sync: bool) -> io::Result<()> {
        let mut platters = self.platter.0.lock();
        let platters = self.open(&mut platters)?;
        if platters.fails {
            return Err(io::Error::other("the disk is broken"));
        }
        for op in ops {
            platters.seen.apply(op);
            platters.unsynced.push(op.clone());
        }
        if sync && !platters.forgets {
            platters.sync();
        }
        Ok(())
    }

    fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let mut platters = self.platter.0.lock();
        let seen = &self.open(&mut platters)?.seen;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (found, wanted) in seen.entries.range(start..end).zip(start..) {
            if *found.0 != wanted {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a hole"));
            }
            bytes += found.1.len() as u64;
            entries.push(codec::decode_entry(found.1.clone())?);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }

    fn bytes(&self) -> u64 {
        self.platter.0.lock().seen.entries.values().map(|entry| entry.len() as u64).sum()
    }
}
