//! The scrub: a slow walk over the whole content, at a log index that is the same for all members. Its hash is compared
//! like the running digest (`digests`), and finds what that cannot: a store that changed behind the machine's back.
//!
//! A `Scrub` command in the log (`leader/scrub.rs`) says when. The apply thread pauses after its entry until the walk
//! has its snapshot, which takes microseconds; the walk itself disturbs nobody.
//!
//! Invariants:
//! - The snapshot shows the store exactly after the entry, so that the hashes of all members are of the same content.
//! - The walk takes a tenth of a core at most, and a snapshot is held for [`HOLD_MAX`] at most, not at all once the
//!   store was replaced, disk is short, or the member stops. A walk that ends early leaves no pair.
//! - While a walk is under way, another one is passed over: the apply thread never waits for a walk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_state::digest::DigestMark;
use quorate_state::outcome::Fault;
use quorate_state::scrub::keep;
use quorate_state::store::Store as _;
use quorate_state::view::View;
use tokio::sync::{mpsc, oneshot};

use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::state_dir::{CurrentStore, WAY_BACK};
use crate::store_rocks::RocksStore;
use crate::tasks::Tasks;

/// A snapshot keeps the disk of what is deleted meanwhile.
pub const HOLD_MAX: Duration = Duration::from_mins(30);
/// Bytes read between two rests; an entry counts as [`ENTRY_BYTES`] more.
const STRETCH_BYTES: usize = 256 << 10;
/// What an entry costs besides its bytes, roughly.
const ENTRY_BYTES: usize = 64;
/// A rest is so many times as long as the work before it.
const REST: u32 = 9;
/// Longest sleep before it looks whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// The apply thread's side.
pub struct Pins {
    jobs: mpsc::Sender<Job>,
    scrubs: Arc<Scrubs>,
}

/// What others see of the scrubs here.
#[derive(Debug, Default)]
pub struct Scrubs {
    busy: AtomicBool,
    /// Index of the walk under way.
    walking: Mutex<Option<u64>>,
    /// When the last command of a scrub was applied here.
    asked: Mutex<Option<tokio::time::Instant>>,
}

struct Job {
    store: Arc<RocksStore>,
    log_index: u64,
    /// Dropped once the snapshot is there.
    pinned: oneshot::Sender<()>,
}

/// The thread.
pub struct Scrubber {
    jobs: mpsc::Receiver<Job>,
    scrubs: Arc<Scrubs>,
}

impl Pins {
    /// The apply thread's side, and the thread to be run: it ends when the other side is gone.
    pub fn new() -> (Self, Scrubber) {
        // One may wait for the moment in which the walk before it is noted as ended.
        let (sender, jobs) = mpsc::channel(1);
        let scrubs = Arc::<Scrubs>::default();
        (Self { jobs: sender, scrubs: scrubs.clone() }, Scrubber { jobs, scrubs })
    }

    /// What others see.
    pub fn scrubs(&self) -> Arc<Scrubs> {
        self.scrubs.clone()
    }

    /// Begins a walk over `store`, which must not change before this returns.
    pub async fn pin(&self, store: &Arc<RocksStore>, log_index: u64) {
        *self.scrubs.asked.lock() = Some(tokio::time::Instant::now());
        if self.scrubs.busy.swap(true, Ordering::AcqRel) {
            tracing::info!(log_index, "a scrub is passed over: the one before it is still under way");
            return;
        }
        *self.scrubs.walking.lock() = Some(log_index);
        let (pinned, waiting) = oneshot::channel();
        if self.jobs.try_send(Job { store: store.clone(), log_index, pinned }).is_ok() {
            // An error either way: it has the snapshot, or it has ended.
            let _ = waiting.await;
        } else {
            *self.scrubs.walking.lock() = None;
        }
    }
}

impl Scrubs {
    /// Index of the walk under way.
    pub fn walking(&self) -> Option<u64> {
        *self.walking.lock()
    }

    /// When a scrub was last asked for, as this member saw it.
    pub fn asked(&self) -> Option<tokio::time::Instant> {
        *self.asked.lock()
    }
}

impl Scrubber {
    /// Works until all who could ask are gone. An error is damage that was found.
    pub async fn run(mut self, current: Arc<CurrentStore>, disk: Arc<DiskSpace>, tasks: Tasks) -> Result<(), String> {
        // Under simulated time nobody else's work is held up by a walk, and rests would never end.
        let rest = if tasks.is_simulated() { 0 } else { REST };
        while let Some(Job { store, log_index, pinned }) = self.jobs.recv().await {
            let may_go_on = || !tasks.is_stopping() && !disk.is_nearly_short() && Arc::ptr_eq(&current.get(), &store);
            let walked = walk(&store, pinned, rest, may_go_on);
            let kept = walked.and_then(|mark| mark.map_or(Ok(()), |mark| keep(store.as_ref(), mark)));
            self.scrubs.busy.store(false, Ordering::Release);
            *self.scrubs.walking.lock() = None;
            kept.map_err(|fault| format!("the scrub at log index {log_index} found damage: {fault}; {WAY_BACK}"))?;
        }
        Ok(())
    }
}

fn walk(
    store: &RocksStore,
    pinned: oneshot::Sender<()>,
    rest: u32,
    may_go_on: impl Fn() -> bool,
) -> Result<Option<DigestMark>, Fault> {
    let view = View::new(store.snapshot())?;
    drop(pinned);
    let began = Instant::now();
    let mut pace = Pace::new(rest);
    let mut go_on = |bytes| {
        if !pace.is_due(bytes) {
            return true;
        }
        let may = || may_go_on() && began.elapsed() < HOLD_MAX;
        pace.rest(may)
    };
    let mark = view.scrub(&mut go_on)?;
    let seconds = began.elapsed().as_secs();
    if let Some(mark) = &mark {
        let hash = format!("{:016x}", mark.digest);
        tracing::info!(log_index = mark.index, hash, pace.entries, pace.bytes, seconds, "content scrubbed");
    } else {
        tracing::warn!(pace.entries, pace.bytes, seconds, "a scrub was given up; the next one begins anew");
    }
    Ok(mark)
}

/// Work and rest in turns.
struct Pace {
    rest: u32,
    since: Instant,
    stretch: usize,
    entries: u64,
    bytes: u64,
}

impl Pace {
    fn new(rest: u32) -> Self {
        Self { rest, since: Instant::now(), stretch: 0, entries: 0, bytes: 0 }
    }

    /// Counts an entry; whether it is time to rest.
    fn is_due(&mut self, bytes: usize) -> bool {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.stretch = self.stretch.saturating_add(bytes).saturating_add(ENTRY_BYTES);
        self.stretch >= STRETCH_BYTES
    }

    /// Rests as long as the work since the last rest asks for. False: not to go on.
    fn rest(&mut self, may_go_on: impl Fn() -> bool) -> bool {
        let until = Instant::now() + self.since.elapsed() * self.rest;
        loop {
            if !may_go_on() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(NAP));
        }
        (self.since, self.stretch) = (Instant::now(), 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_followed_by_rest_and_ends_when_told() {
        let mut pace = Pace::new(REST);
        assert!(!pace.is_due(1000));
        assert!(pace.is_due(STRETCH_BYTES));
        let began = Instant::now();
        while pace.since.elapsed() < Duration::from_millis(4) {
            std::hint::spin_loop();
        }
        assert!(pace.rest(|| true));
        assert!(began.elapsed() >= Duration::from_millis(40), "{:?}", began.elapsed());
        assert!(!pace.is_due(1000), "a stretch begins anew");
        assert!(!pace.rest(|| false));
        assert_eq!((pace.entries, pace.bytes), (3, 2000 + STRETCH_BYTES as u64));
    }
}
