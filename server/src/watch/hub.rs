//! The hub: takes every applied change, keeps the recent window, and tells the live watches that match.
//!
//! Invariants:
//! - Revisions are taken without a gap and without a repeat; only what the store already held when the hub began
//!   (`base`) may come again, and is passed over.
//! - A watch joins at a revision only if the window has everything from there on, decided under the lock that
//!   publishing takes; so nothing falls between history and live.
//! - One lock order: the hub's state, then a watcher's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use quorate_proto::Revision;
use quorate_state::flaw::Flaw;
use quorate_state::outcome::{Changes, RevisionChanges};

use super::index::Index;
use super::interest::Interest;
use super::notice::Picked;
use super::watcher::{Mailbox, Place, Watcher};
use super::window::{Published, Window};
use crate::sync::watch;

/// Bytes of the recent window.
pub const WINDOW_BYTES_MAX: usize = 16 << 20;

/// The hub. One per member.
pub struct Hub {
    state: Mutex<State>,
    /// The newest revision published, for those who need nothing else of the state.
    newest: AtomicI64,
    next_id: AtomicU64,
    open: AtomicUsize,
    log_index: AtomicU64,
    contact_lost: watch::Sender<bool>,
}

struct State {
    window: Window,
    index: Index,
    /// What the store held when the hub began; zero before that.
    base: Revision,
}

/// What a watch was given of the window.
#[derive(Debug)]
pub enum Taken {
    /// Nothing waits; the watch is live.
    Nothing,
    /// Whole revisions, in order. `more`: others wait behind them.
    Some {
        /// Each revision with the positions of its matching changes.
        items: Vec<Picked>,
        /// Others wait.
        more: bool,
    },
    /// The window has moved on: read history from here.
    Behind(Revision),
}

impl Default for Hub {
    fn default() -> Self {
        Self::new(WINDOW_BYTES_MAX)
    }
}

impl Hub {
    /// A hub whose window is bounded by `window_bytes_max`.
    pub fn new(window_bytes_max: usize) -> Self {
        let window = Window::new(window_bytes_max, Revision::ZERO);
        Self {
            state: Mutex::new(State { window, index: Index::default(), base: Revision::ZERO }),
            newest: AtomicI64::new(Revision::ZERO.get()),
            next_id: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            log_index: AtomicU64::new(0),
            contact_lost: watch::Sender::new(false),
        }
    }

    /// Says what the store holds before any watch is opened. Does nothing when the hub has begun by itself, with the
    /// first applied change.
    pub fn begin(&self, revision: Revision) {
        let mut state = self.state.lock();
        if state.base == Revision::ZERO {
            state.base = revision;
            state.window.reset(revision);
            self.newest.store(revision.get(), Ordering::Release);
        }
    }

    /// The newest revision published.
    pub fn revision(&self) -> Revision {
        Revision(self.newest.load(Ordering::Acquire))
    }

    /// Index of the newest log entry that was applied here, as far as the hub was told.
    pub fn log_index(&self) -> u64 {
        self.log_index.load(Ordering::Acquire)
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// True while this member has not heard of a leader for so long that its watches must move elsewhere.
    pub fn contact_lost(&self) -> watch::Receiver<bool> {
        self.contact_lost.subscribe()
    }

    /// Says whether contact with a leader is lost.
    pub fn set_contact_lost(&self, lost: bool) {
        self.contact_lost.send_if_modified(|was| std::mem::replace(was, lost) != lost);
    }

    /// Makes a watch; it takes part once it has joined.
    pub(super) fn open(&self, tag: u64, interest: Interest, mailbox: &Arc<Mailbox>) -> Arc<Watcher> {
        self.open.fetch_add(1, Ordering::Relaxed);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Arc::new(Watcher::new(id, tag, interest, Arc::clone(mailbox)))
    }

    /// Ends a watch.
    pub(super) fn close(&self, watcher: &Watcher) {
        self.state.lock().index.remove(watcher);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes the watch live from `from` on (`None`: from the next revision), and gives the newest revision.
    /// `None`: the window does not reach back so far.
    pub(super) fn join(&self, watcher: &Arc<Watcher>, from: Option<Revision>) -> Option<Revision> {
        let mut state = self.state.lock();
        let newest = state.window.revision();
        let from = from.unwrap_or(newest.next());
        let from = flawed(from, state.window.first());
        if from < state.window.first() {
            return None;
        }
        {
            let mut queue = watcher.queue();
            assert!(queue.pending.is_empty() && !queue.live, "a watch that joins has nothing waiting");
            assert!(from >= queue.next, "a watch never goes back: {from} after {}", queue.next);
            queue.next = from;
            queue.live = true;
        }
        for item in state.window.since(from) {
            for (at, change) in (0..).zip(&item.changes) {
                if watcher.interest().wants(change) && !watcher.offer(Place { revision: item.revision, change: at }) {
                    watcher.queue().next = from;
                    return None;
                }
            }
        }
        state.index.insert(watcher);
        Some(newest)
    }

    /// Takes what waits for the watch, whole revisions, up to about `bytes_max`.
    pub(super) fn take(&self, watcher: &Watcher, bytes_max: usize) -> Taken {
        let mut state = self.state.lock();
        let mut queue = watcher.queue();
        Watcher::woken(&mut queue);
        if !queue.live {
            return Taken::Behind(queue.next);
        }
        let Some(first) = queue.pending.front().copied() else { return Taken::Nothing };
        if first.revision < state.window.first() {
            queue.fall_behind(first.revision);
            state.index.remove(watcher);
            return Taken::Behind(first.revision);
        }
        let mut items: Vec<Picked> = Vec::new();
        let mut bytes = 0;
        while let Some(place) = queue.pending.front().copied() {
            match items.last_mut() {
                Some(picked) if picked.item.revision == place.revision => picked.changes.push(place.change),
                _ if bytes >= bytes_max => break,
                _ => {
                    assert!(place.revision >= queue.next, "a change is taken once");
                    let item = state.window.get(place.revision).cloned();
                    let Some(item) = item else { unreachable!("the window holds all revisions from its first on") };
                    bytes += item.bytes;
                    queue.next = place.revision.next();
                    items.push(Picked { item, changes: vec![place.change], previous: Vec::new() });
                }
            }
            queue.pending.pop_front();
        }
        let more = !queue.pending.is_empty();
        if more {
            watcher.wake(&mut queue);
        }
        Taken::Some { items, more }
    }

    /// The revision up to which the watch was given everything, if it is live and nothing waits.
    pub(super) fn mark(&self, watcher: &Watcher) -> Option<Revision> {
        let state = self.state.lock();
        let queue = watcher.queue();
        (queue.live && queue.pending.is_empty()).then(|| state.window.revision())
    }

    /// The revision up to which all of these watches were given everything; `None` if there is none, or one of them is
    /// not live.
    pub(super) fn mark_of_all<'a>(&self, watchers: impl Iterator<Item = &'a Watcher>) -> Option<Revision> {
        let state = self.state.lock();
        let newest = state.window.revision();
        let mut given = None;
        for watcher in watchers {
            let queue = watcher.queue();
            if !queue.live {
                return None;
            }
            let first = queue.pending.front().map_or(newest, |place| Revision(place.revision.get() - 1));
            given = Some(given.unwrap_or(newest).min(first));
        }
        given
    }

    /// An entry was applied.
    pub(super) fn publish(&self, changes: Changes) {
        self.log_index.fetch_max(changes.log_index, Ordering::AcqRel);
        if changes.revisions.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for revision in changes.revisions {
            state.publish(revision);
        }
        self.newest.store(state.window.revision().get(), Ordering::Release);
    }

    /// The store was replaced. Live watches go on from history, at the first revision that they were not given.
    pub(super) fn replace(&self, revision: Revision) {
        let mut state = self.state.lock();
        let unseen = state.window.revision().next();
        state.window.reset(revision);
        state.base = revision;
        self.newest.store(revision.get(), Ordering::Release);
        for watcher in state.index.drain().values() {
            let mut queue = watcher.queue();
            queue.fall_behind(unseen);
            watcher.wake(&mut queue);
        }
    }
}

/// See [`Flaw`]; as it is, where there is none.
fn flawed(from: Revision, first: Revision) -> Revision {
    match from {
        from if from.next() == first && Flaw::WindowEdge.is_put_in() => first,
        from if Flaw::JointGap.is_put_in() => from.next(),
        from if Flaw::JointRepeat.is_put_in() && from.get() > 1 => Revision(from.get() - 1),
        from => from,
    }
}

impl State {
    fn publish(&mut self, revision: RevisionChanges) {
        if self.base == Revision::ZERO {
            self.base = Revision(revision.revision.get() - 1);
            self.window.reset(self.base);
        }
        if revision.revision <= self.base {
            return;
        }
        let item = Arc::new(Published::new(revision));
        self.window.push(Arc::clone(&item));
        let mut behind = Vec::new();
        for (at, change) in (0..).zip(&item.changes) {
            self.index.matching(&change.key, |watcher| {
                let place = Place { revision: item.revision, change: at };
                if watcher.interest().wants_kind(change) && !watcher.offer(place) {
                    behind.push(Arc::clone(watcher));
                }
            });
        }
        for watcher in behind {
            self.index.remove(&watcher);
        }
    }
}
