//! What happened in a run, event for event, with the simulated time of each.
//!
//! Invariants:
//! - A line holds nothing that may differ between two runs of one seed: no address, no real time, no path.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines that are kept where not all are.
const TAIL: usize = 400;

/// What becomes of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The last ones stay, and a hash of all.
    Tail,
    /// All stay.
    All,
    /// They are printed as they come.
    Print,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Trace {
    began: Instant,
    lines: Arc<Mutex<Lines>>,
}

struct Lines {
    keep: Keep,
    count: u64,
    hasher: DefaultHasher,
    kept: VecDeque<String>,
    last: u64,
}

impl Trace {
    /// Begins now.
    pub fn new(keep: Keep) -> Self {
        let lines = Lines { keep, count: 0, hasher: DefaultHasher::new(), kept: VecDeque::new(), last: 0 };
        Self { began: Instant::now(), lines: Arc::new(Mutex::new(lines)) }
    }

    /// Simulated time since the beginning, in µs.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    /// A moment of its own for the history: the time, a little later where two things happen at once.
    pub fn moment(&self) -> u64 {
        let mut lines = self.lines.lock();
        lines.last = self.now_us().max(lines.last + 1);
        lines.last
    }

    pub fn note(&self, what: impl AsRef<str>) {
        let now = self.now_us();
        let mut lines = self.lines.lock();
        let line = format!("{:>6}.{:03} {}", now / 1000, now % 1000, what.as_ref());
        line.hash(&mut lines.hasher);
        lines.count += 1;
        if lines.keep == Keep::Tail && lines.kept.len() == TAIL {
            lines.kept.pop_front();
        }
        if lines.keep == Keep::Print {
            println!("{line}");
        } else {
            lines.kept.push_back(line);
        }
    }

    /// Number of events and a hash of all of them.
    pub fn digest(&self) -> (u64, u64) {
        let lines = self.lines.lock();
        (lines.count, lines.hasher.finish())
    }

    pub fn kept(&self) -> Vec<String> {
        self.lines.lock().kept.iter().cloned().collect()
    }
}
