//! One watch as the hub knows it: what it wants, and the places in the window that wait for it.
//!
//! Invariants:
//! - Every matching change below `next` was taken by the session; everything pending is at or after it.
//! - At most [`PLACES_MAX`] places wait; beyond that the watch is behind and goes back to history.
//! - The watch is in its mailbox at most once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use quorate_proto::Revision;

use super::interest::Interest;
use crate::pump::{Pump, Wakes};

/// How many changes may wait for one watch: 64 KiB of places.
pub const PLACES_MAX: usize = 4096;

/// Where a change stands in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of the transaction.
    pub revision: Revision,
    /// Position in its changes.
    pub change: u32,
}

/// The state that the hub and the session share.
#[derive(Debug)]
pub struct Queue {
    /// Matching changes not yet taken.
    pub pending: VecDeque<Place>,
    /// First revision not yet taken.
    pub next: Revision,
    /// In the hub's index; else it reads history, or will.
    pub live: bool,
    in_mailbox: bool,
}

/// A watch.
#[derive(Debug)]
pub struct Watcher {
    id: u64,
    tag: u64,
    interest: Interest,
    mailbox: Arc<Mailbox>,
    queue: Mutex<Queue>,
}

impl Watcher {
    /// A watch that is not in the index yet. `id` is unique in the hub, `tag` in the session.
    pub fn new(id: u64, tag: u64, interest: Interest, mailbox: Arc<Mailbox>) -> Self {
        let queue = Queue { pending: VecDeque::new(), next: Revision::ZERO, live: false, in_mailbox: false };
        Self { id, tag, interest, mailbox, queue: Mutex::new(queue) }
    }

    /// Unique in the hub.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it wants.
    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// The shared state, locked. Only the hub calls this, with its own lock held, so the order of locks is fixed.
    pub fn queue(&self) -> parking_lot::MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Tells the session to look at this watch.
    pub fn wake(&self, queue: &mut Queue) {
        if !queue.in_mailbox {
            queue.in_mailbox = true;
            self.mailbox.put(self.tag);
        }
    }

    /// The session has taken this watch out of the mailbox.
    pub fn woken(queue: &mut Queue) {
        queue.in_mailbox = false;
    }

    /// A matching change was published. False: too many wait, the watch is behind now.
    pub fn offer(&self, place: Place) -> bool {
        let mut queue = self.queue();
        if !queue.live || place.revision < queue.next {
            return true;
        }
        if let Some(last) = queue.pending.back() {
            assert!(
                (last.revision, last.change) < (place.revision, place.change),
                "changes are offered in order, once"
            );
        }
        let fits = queue.pending.len() < PLACES_MAX;
        if fits {
            queue.pending.push_back(place);
        } else {
            queue.fall_behind(place.revision);
        }
        self.wake(&mut queue);
        fits
    }
}

impl Queue {
    /// Back to history, from the first change that was not taken; `unseen` if nothing waits.
    pub fn fall_behind(&mut self, unseen: Revision) {
        let first = self.pending.front().map_or(unseen, |place| place.revision);
        self.next = self.next.max(first);
        self.pending.clear();
        self.live = false;
    }
}

/// Where the watches of one session say that there is something for them.
///
/// Who fills it when it was empty wakes the session: by the pump of its runtime, if it has one.
#[derive(Debug, Default)]
pub struct Mailbox {
    tags: Mutex<Tags>,
    pump: Option<Arc<Pump>>,
    session: AtomicWaker,
}

#[derive(Debug, Default)]
struct Tags {
    waiting: VecDeque<u64>,
    /// The session was woken and has not seen the mailbox empty since.
    told: bool,
}

impl Mailbox {
    /// For a session of the pump's runtime.
    pub fn woken_by(pump: Option<Arc<Pump>>) -> Self {
        Self { pump, ..Self::default() }
    }

    /// Adds a watch at the end.
    pub fn put(self: &Arc<Self>, tag: u64) {
        let was_told = {
            let mut tags = self.tags.lock();
            tags.waiting.push_back(tag);
            std::mem::replace(&mut tags.told, true)
        };
        match &self.pump {
            _ if was_told => {}
            Some(pump) => pump.add(Arc::clone(self) as Arc<dyn Wakes>),
            None => self.wake_task(),
        }
    }

    /// The first watch, if any. Who has found none is woken by the next.
    pub fn pop(&self) -> Option<u64> {
        let mut tags = self.tags.lock();
        let first = tags.waiting.pop_front();
        tags.told = first.is_some();
        first
    }

    /// From now on the mailbox wakes this task. Look once more before waiting.
    pub fn wakes(&self, task: &Waker) {
        self.session.register(task);
    }
}

impl Wakes for Mailbox {
    fn wake_task(&self) {
        self.session.wake();
    }
}
