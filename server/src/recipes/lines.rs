//! The lines that somebody waits in at this member: one follower for each name, shared by all who wait for it. And the
//! holds that were granted here just now.
//!
//! Invariants:
//! - A name has one follower as long as somebody holds its [`Followed`], and none afterwards.
//! - What waits on its way to a follower is bounded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use quorate_proto::{Key, Revision};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::contender::{Claim, Kind, Name};
use super::follow::Follower;
use super::fresh::Fresh;
use super::leaders::Leaders;
use super::look::Contest;
use crate::tasks::Task;

/// Questions on their way to one follower.
const ASKS_MAX: usize = 64;

/// The lines that are followed here.
#[derive(Default)]
pub struct Lines {
    followed: Mutex<HashMap<(Kind, Name), Weak<Followed>>>,
    /// What it cost.
    pub counts: Counts,
    /// Granted, and perhaps not in the store yet.
    pub(super) fresh: Fresh,
}

/// What following has cost since the start.
#[derive(Debug, Default)]
pub struct Counts {
    events: AtomicU64,
    wakes: AtomicU64,
    barriers: AtomicU64,
    reads: AtomicU64,
    unhurried: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Changes that followers took from their watches.
    pub events: u64,
    /// Messages to those who wait.
    pub wakes: u64,
    /// Read barriers before a hold was told.
    pub barriers: u64,
    /// Reads of the store.
    pub reads: u64,
    /// Places that were taken behind others, in no hurry.
    pub unhurried: u64,
}

/// A line that is followed as long as this is held.
pub struct Followed {
    asks: mpsc::Sender<Ask>,
    /// Who leads, if it is an election.
    pub leaders: Arc<Leaders>,
    contest: Contest,
    /// How many wait for a word.
    waiting: AtomicUsize,
}

/// Somebody waits for a key to hold.
#[derive(Debug)]
pub struct Ask {
    /// The contender's.
    pub key: Key,
    /// The contender was put, or seen, at this revision: older news are not of it.
    pub placed: Revision,
    /// How it wants to hold.
    pub claim: Claim,
    /// It was looked at whether the contender goes together with the others.
    pub checked: bool,
    /// Where to tell it.
    pub word: oneshot::Sender<Word>,
}

/// What a follower tells somebody who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It holds: the contender that was created at this revision.
    Holds(Revision),
    /// Its key is gone.
    Lost,
    /// It came into a line that it does not go together with.
    Refused(String),
    /// The key is there already and was put for something else.
    Another(Claim),
}

impl Lines {
    /// Follows the line of a name, with all others who do.
    pub fn join(&self, contest: &Contest) -> Arc<Followed> {
        let mut lines = self.followed.lock();
        let of = (contest.kind, contest.name.clone());
        if let Some(line) = lines.get(&of).and_then(Weak::upgrade) {
            return line;
        }
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let leaders = Arc::new(Leaders::default());
        let follower = Follower::new(contest.clone(), asked, Arc::clone(&leaders));
        contest.rooms.tasks.spawn(Task::Line, &Handle::current(), follower.run());
        let line = Arc::new(Followed { asks, leaders, contest: contest.clone(), waiting: AtomicUsize::new(0) });
        lines.insert(of, Arc::downgrade(&line));
        line
    }

    /// Whether somebody waits here for a hold of this name, as far as is known.
    pub fn is_waited_in(&self, contest: &Contest) -> bool {
        let lines = self.followed.lock();
        let line = lines.get(&(contest.kind, contest.name.clone())).and_then(Weak::upgrade);
        // Dropping the last one takes the lock again.
        drop(lines);
        line.is_some_and(|line| line.waiting.load(Ordering::Relaxed) > 0)
    }

    /// How many lines are followed.
    pub fn len(&self) -> usize {
        self.followed.lock().len()
    }

    /// None are.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What following has cost so far.
    pub fn cost(&self) -> Cost {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { events, wakes, barriers, reads, unhurried } = &self.counts;
        Cost {
            events: of(events),
            wakes: of(wakes),
            barriers: of(barriers),
            reads: of(reads),
            unhurried: of(unhurried),
        }
    }
}

impl Counts {
    pub(super) fn events(&self, events: usize) {
        self.events.fetch_add(u64::try_from(events).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn wakes(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn barriers(&self) {
        self.barriers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reads(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unhurried(&self) {
        self.unhurried.fetch_add(1, Ordering::Relaxed);
    }
}

impl Followed {
    /// Asks to be told when the contender holds. `None`: the follower has ended, with its member.
    pub(super) async fn word(&self, key: &Key, placed: Revision, claim: Claim) -> Option<Word> {
        let _waits = Waits::begun(&self.waiting);
        let (word, told) = oneshot::channel();
        let ask = Ask { key: key.clone(), placed, claim, checked: false, word };
        self.asks.send(ask).await.ok()?;
        told.await.ok()
    }
}

/// Counts one who waits, until dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begun(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut followed = self.contest.rooms.lines.followed.lock();
        let of = (self.contest.kind, self.contest.name.clone());
        // Another may have been begun since nobody held this one any more.
        if followed.get(&of).is_some_and(|line| line.strong_count() == 0) {
            followed.remove(&of);
        }
    }
}
