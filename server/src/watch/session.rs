//! The watches of one stream: opens them, feeds them from history until they are live, and gives out what there is.
//!
//! Invariants:
//! - Whoever polls a session is woken when there is something new: what happens seldom rings the alarm, live watches
//!   stand in the mailbox. Both are looked at once more after they were told whom to wake.
//! - What a session holds in memory is bounded: one chunk for each of [`READS_MAX`] watches that catch up, and one
//!   message of live events. It does nothing more while what it gave out is not fetched.
//! - A mark says a revision up to which everything was given out before the mark; one of the session, to all watches.
//!   It is never before the first revision wanted: a client that resumes after it would hear of what it did not ask for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt as _};
use quorate_proto::Revision;
use quorate_state::view::ReadError;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Sleep, sleep_until};

use super::catch_up::{History, fill_previous, read};
use super::hub::{Hub, Taken};
use super::notice::{OnContactLoss, Picked, WatchNotice, WatchOver, WatchSpec};
use super::watcher::{Mailbox, Watcher};
use crate::alarm::Alarm;
use crate::error::ConsensusError;
use crate::pump::Pump;
use crate::sync::watch;
use crate::tasks::{Tasks, Work};

/// How many watches of a session read history at the same time.
const READS_MAX: usize = 4;
/// Bytes of what is taken from the window at once: what one message of a stream that is behind costs until it is read.
const TAKE_BYTES_MAX: usize = 32 << 10;

/// How many marks of the whole session may be asked for at once.
const SESSION_MARKS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for its least revision.
    Opening,
    /// Waits for its turn to read history.
    Queued(Revision),
    /// A job reads history.
    Reading,
    /// Fed by the hub.
    Live,
    /// Fed by the hub; a job fetches previous values for changes from this revision on.
    Fetching(Revision),
}

struct Watch {
    watcher: Arc<Watcher>,
    spec: WatchSpec,
    phase: Phase,
    mark_wanted: bool,
    due: Option<Instant>,
    /// History was given up to here; the hub may still be about to hear of it.
    covered: Revision,
}

impl Watch {
    /// Whether one that goes on after `revision` misses nothing and gets nothing older than what was asked for.
    fn has_begun(&self, revision: Revision) -> bool {
        self.spec.start.is_none_or(|start| start <= revision.next())
    }
}

struct Done {
    tag: u64,
    watcher_id: u64,
    what: DoneWhat,
}

enum DoneWhat {
    Reached(Result<(), ConsensusError>),
    Read(Result<(Vec<Picked>, Revision), ReadError>),
    Fetched(Result<Vec<Picked>, ReadError>),
}

/// The watches of one stream.
pub struct Session {
    hub: Arc<Hub>,
    history: Arc<dyn History>,
    tasks: Tasks,
    mailbox: Arc<Mailbox>,
    watches: BTreeMap<u64, Watch>,
    outbox: VecDeque<WatchNotice>,
    queued: VecDeque<u64>,
    reading: usize,
    jobs: JoinSet<Result<Done, JoinError>>,
    due: BTreeSet<(Instant, u64)>,
    /// Ends no later than the first mark is due.
    timer: Option<Pin<Box<Sleep>>>,
    /// Marks of the whole session that were asked for: the least revision that they may say, and how many.
    marks_of_all: Option<(Revision, usize)>,
    on_contact_loss: OnContactLoss,
    contact_lost: watch::Receiver<bool>,
    contact_changes: Pin<Box<dyn Stream<Item = bool> + Send + Sync>>,
    alarm: Arc<Alarm>,
}

impl Session {
    /// Without watches yet.
    pub fn new(hub: Arc<Hub>, history: Arc<dyn History>, on_contact_loss: OnContactLoss, tasks: Tasks) -> Self {
        let contact_lost = hub.contact_lost();
        Self {
            hub,
            history,
            tasks,
            mailbox: Arc::default(),
            watches: BTreeMap::new(),
            outbox: VecDeque::new(),
            queued: VecDeque::new(),
            reading: 0,
            jobs: JoinSet::new(),
            due: BTreeSet::new(),
            timer: None,
            marks_of_all: None,
            on_contact_loss,
            contact_changes: Box::pin(contact_lost.clone().into_changes()),
            contact_lost,
            alarm: Alarm::ringing(),
        }
    }

    /// Has the session woken from within its runtime.
    ///
    /// # Panics
    /// When a watch was created before.
    #[must_use]
    pub fn woken_by(mut self, pump: Arc<Pump>) -> Self {
        assert!(self.watches.is_empty(), "watches know the mailbox that they were created with");
        self.mailbox = Arc::new(Mailbox::woken_by(Some(pump)));
        self
    }

    /// Whether a watch has this tag.
    pub fn contains(&self, tag: u64) -> bool {
        self.watches.contains_key(&tag)
    }

    /// How many watches there are, and notices that wait.
    pub fn len(&self) -> usize {
        self.watches.len() + self.outbox.len()
    }

    /// Nothing to come until another watch is created.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Opens a watch. What follows comes from [`Session::poll_next`].
    ///
    /// # Panics
    /// When the tag is in use.
    pub fn create(&mut self, tag: u64, spec: WatchSpec) {
        assert!(!self.watches.contains_key(&tag), "the tag of a new watch is free");
        let watcher = self.hub.open(tag, spec.interest.clone(), &self.mailbox);
        let watch =
            Watch { watcher, phase: Phase::Opening, mark_wanted: false, due: None, covered: Revision::ZERO, spec };
        let (id, min_revision) = (watch.watcher.id(), watch.spec.min_revision);
        self.watches.insert(tag, watch);
        if self.is_cut_off() {
            self.end(tag, contact_lost());
            return;
        }
        match min_revision {
            Some((revision, deadline)) if revision > self.hub.revision() => {
                let reached = self.history.reached(revision, deadline);
                self.jobs
                    .spawn(async move { Ok(Done { tag, watcher_id: id, what: DoneWhat::Reached(reached.await) }) });
                self.alarm.again();
            }
            _ => self.start(tag),
        }
    }

    /// Ends a watch; false when there is none with this tag.
    pub fn cancel(&mut self, tag: u64) -> bool {
        let there = self.contains(tag);
        self.end(tag, WatchOver::Cancelled);
        there
    }

    /// Asks for a mark of each watch, as soon as it has been given everything.
    pub fn ask_marks(&mut self) {
        for (tag, watch) in &mut self.watches {
            // One that is still to come serves for both.
            if !std::mem::replace(&mut watch.mark_wanted, true) {
                self.mailbox.put(*tag);
            }
        }
    }

    /// Asks for one mark of the whole session, as soon as every watch has been given what there is now. Nothing comes
    /// of it when a watch reads history, or has to before then.
    pub fn ask_session_mark(&mut self) {
        let live = |watch: &Watch| matches!(watch.phase, Phase::Live | Phase::Fetching(_));
        if !self.watches.is_empty() && self.watches.values().all(live) {
            let asked = self.marks_of_all.map_or(0, |(_, asked)| asked);
            self.marks_of_all = Some((self.hub.revision(), (asked + 1).min(SESSION_MARKS_MAX)));
            // At once, if it can be: what is asked for next may make it wait.
            self.give_session_marks();
        }
    }

    /// What there is to send next.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<WatchNotice> {
        let mut will_be_woken = false;
        loop {
            if let Some(notice) = self.outbox.pop_front() {
                return Poll::Ready(notice);
            }
            self.read_queued();
            if self.give_session_marks() {
                continue;
            }
            if let Some(waker) = self.alarm.rang() {
                self.look(&mut Context::from_waker(&waker));
            } else if let Some(tag) = self.mailbox.pop() {
                self.collect(tag);
            } else if will_be_woken {
                return Poll::Pending;
            } else {
                will_be_woken = true;
                self.alarm.wakes(cx.waker());
                self.mailbox.wakes(cx.waker());
            }
        }
    }

    /// What there is to send next. Waits for it; safe to drop.
    #[cfg(test)]
    pub async fn next(&mut self) -> WatchNotice {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Looks at what happens seldom.
    fn look(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(_)) = self.contact_changes.poll_next_unpin(cx) {
            self.contact_changed();
        }
        while let Poll::Ready(Some(done)) = self.jobs.poll_join_next(cx) {
            match done.flatten() {
                Ok(done) => self.finished(done),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        while let Some(timer) = &mut self.timer {
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.timer = None;
            self.marks_due();
        }
    }

    fn start(&mut self, tag: u64) {
        let Some(watch) = self.watches.get_mut(&tag) else { return };
        let newest = self.hub.revision();
        match watch.spec.start {
            Some(start) if start <= newest => {
                watch.phase = Phase::Queued(start);
                self.queued.push_back(tag);
                self.outbox.push_back(WatchNotice::Created { tag, revision: newest });
            }
            start => {
                if let Some(revision) = self.hub.join(&watch.watcher, start) {
                    watch.phase = Phase::Live;
                    self.outbox.push_back(WatchNotice::Created { tag, revision });
                    self.mailbox.put(tag);
                } else {
                    // The revision came and left the window just now.
                    watch.phase = Phase::Queued(start.unwrap_or(newest.next()));
                    self.queued.push_back(tag);
                    self.outbox.push_back(WatchNotice::Created { tag, revision: newest });
                }
            }
        }
        self.touch(tag);
    }

    /// Looks at a live watch.
    fn collect(&mut self, tag: u64) {
        let Some(watch) = self.watches.get_mut(&tag) else { return };
        if watch.phase != Phase::Live {
            return;
        }
        match self.hub.take(&watch.watcher, TAKE_BYTES_MAX) {
            Taken::Nothing => {
                if watch.mark_wanted {
                    self.mark(tag);
                }
            }
            Taken::Behind(from) => {
                watch.phase = Phase::Queued(from);
                self.queued.push_back(tag);
            }
            Taken::Some { items, more } => {
                let again = watch.mark_wanted && !more;
                if let Some(first) = items.first().filter(|_| watch.spec.previous_values) {
                    watch.phase = Phase::Fetching(first.item.revision);
                    self.fetch(tag, items);
                } else {
                    self.give(tag, items);
                }
                if again {
                    self.mailbox.put(tag);
                }
            }
        }
    }

    fn fetch(&mut self, tag: u64, mut items: Vec<Picked>) {
        let Some(watch) = self.watches.get(&tag) else { return };
        let (watcher_id, history) = (watch.watcher.id(), Arc::clone(&self.history));
        self.work(move || {
            let fetched = fill_previous(&*history, &mut items).map(|()| items);
            Done { tag, watcher_id, what: DoneWhat::Fetched(fetched) }
        });
        self.alarm.again();
    }

    /// Starts as many reads of history as may run.
    fn read_queued(&mut self) {
        while self.reading < READS_MAX {
            let Some(tag) = self.queued.pop_front() else { return };
            let Some(watch) = self.watches.get_mut(&tag) else { continue };
            let Phase::Queued(from) = watch.phase else { continue };
            watch.phase = Phase::Reading;
            self.reading += 1;
            let (watcher, history) = (Arc::clone(&watch.watcher), Arc::clone(&self.history));
            let previous_values = watch.spec.previous_values;
            self.work(move || {
                let read = read(&*history, &watcher, from, previous_values);
                Done { tag, watcher_id: watcher.id(), what: DoneWhat::Read(read) }
            });
            self.alarm.again();
        }
    }

    /// Runs a job that blocks.
    fn work(&mut self, job: impl FnOnce() -> Done + Send + 'static) {
        let tasks = self.tasks.clone();
        self.jobs.spawn(async move { tasks.blocking(Work::Read, job).await });
    }

    fn finished(&mut self, done: Done) {
        if matches!(done.what, DoneWhat::Read(_)) {
            self.reading -= 1;
        }
        let tag = done.tag;
        // Ended meanwhile, and perhaps another watch has its tag.
        let current = self.watches.get_mut(&tag).filter(|watch| watch.watcher.id() == done.watcher_id);
        let Some(watch) = current else { return };
        match done.what {
            DoneWhat::Reached(Ok(())) => self.start(tag),
            DoneWhat::Reached(Err(error)) => self.end(tag, WatchOver::Unavailable(error.to_string())),
            DoneWhat::Fetched(Ok(items)) => {
                watch.phase = Phase::Live;
                self.give(tag, items);
                self.mailbox.put(tag);
            }
            DoneWhat::Read(Ok((items, next))) => {
                watch.covered = Revision(next.get() - 1);
                if self.hub.join(&watch.watcher, Some(next)).is_some() {
                    watch.phase = Phase::Live;
                    self.mailbox.put(tag);
                } else {
                    watch.phase = Phase::Queued(next);
                    self.queued.push_back(tag);
                }
                self.give(tag, items);
            }
            DoneWhat::Read(Err(error)) | DoneWhat::Fetched(Err(error)) => self.end(tag, over(&error)),
        }
    }

    fn give(&mut self, tag: u64, items: Vec<Picked>) {
        if items.is_empty() {
            return;
        }
        if quorate_state::flaw::Flaw::EarlyMark.happens(50) {
            self.outbox.push_back(WatchNotice::Mark { tag, revision: self.hub.revision() });
        }
        self.outbox.push_back(WatchNotice::Events { tag, items });
        self.touch(tag);
    }

    fn mark(&mut self, tag: u64) {
        let Some(watch) = self.watches.get_mut(&tag) else { return };
        if watch.phase != Phase::Live {
            return;
        }
        if let Some(revision) = self.hub.mark(&watch.watcher).filter(|revision| watch.has_begun(*revision)) {
            watch.mark_wanted = false;
            self.outbox.push_back(WatchNotice::Mark { tag, revision: revision.max(watch.covered) });
        }
    }

    /// Gives out the marks of the session that were asked for, if it has come so far.
    fn give_session_marks(&mut self) -> bool {
        let Some((wanted, count)) = self.marks_of_all else { return false };
        let Some(given) = self.hub.mark_of_all(self.watches.values().map(|watch| &*watch.watcher)) else {
            self.marks_of_all = None;
            return false;
        };
        let fetched = self.watches.values().filter_map(|watch| match watch.phase {
            Phase::Fetching(first) => Some(Revision(first.get() - 1)),
            _ => None,
        });
        let revision = fetched.chain([given]).min().unwrap_or(given);
        if !self.watches.values().all(|watch| watch.has_begun(revision)) {
            self.marks_of_all = None;
            return false;
        }
        if revision < wanted {
            return false;
        }
        self.marks_of_all = None;
        self.outbox.extend(std::iter::repeat_n(revision, count).map(|revision| WatchNotice::SessionMark { revision }));
        true
    }

    fn is_cut_off(&self) -> bool {
        self.on_contact_loss == OnContactLoss::End && *self.contact_lost.borrow()
    }

    fn marks_due(&mut self) {
        let now = Instant::now();
        while let Some((due, tag)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, tag));
            self.mark(tag);
            self.touch(tag);
        }
        self.set_timer();
    }

    /// Something was sent: the next mark by time is a whole interval away.
    fn touch(&mut self, tag: u64) {
        let Some(watch) = self.watches.get_mut(&tag) else { return };
        let Some(interval) = watch.spec.progress_interval else { return };
        let due = Instant::now() + interval;
        if let Some(was) = watch.due.replace(due) {
            self.due.remove(&(was, tag));
        }
        self.due.insert((due, tag));
        self.set_timer();
    }

    /// What is due moves away with every event, the timer only when it has ended or is too late.
    fn set_timer(&mut self) {
        let Some((due, _)) = self.due.first() else { return };
        if self.timer.as_ref().is_none_or(|timer| timer.deadline() > *due) {
            self.timer = Some(Box::pin(sleep_until(*due)));
            self.alarm.again();
        }
    }

    fn contact_changed(&mut self) {
        if self.is_cut_off() {
            let tags: Vec<u64> = self.watches.keys().copied().collect();
            for tag in tags {
                self.end(tag, contact_lost());
            }
        }
    }

    fn end(&mut self, tag: u64, over: WatchOver) {
        let Some(watch) = self.watches.remove(&tag) else { return };
        self.hub.close(&watch.watcher);
        if let Some(due) = watch.due {
            self.due.remove(&(due, tag));
        }
        self.outbox.push_back(WatchNotice::Ended { tag, over });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for watch in self.watches.values() {
            self.hub.close(&watch.watcher);
        }
    }
}

fn contact_lost() -> WatchOver {
    WatchOver::Unavailable("this member has lost contact with the leader; resume at another".to_owned())
}

fn over(error: &ReadError) -> WatchOver {
    match error {
        ReadError::Compacted { compacted, .. } => WatchOver::Compacted { compacted: *compacted },
        error => WatchOver::Unavailable(error.to_string()),
    }
}
