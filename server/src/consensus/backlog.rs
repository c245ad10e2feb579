//! How much waits to be packed into log entries, for whoever does things otherwise while something does.
//!
//! Invariants:
//! - It counts what was queued and neither packed, refused nor passed over: it is zero while nobody waits.
//! - What is in no hurry counts by its bytes, and not as something that soon follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::consensus::Haste;

/// Encoded bytes of commands that wait. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Arc<Bytes>);

#[derive(Debug, Default)]
struct Bytes {
    all: AtomicUsize,
    in_a_hurry: AtomicUsize,
}

impl Backlog {
    /// Whether an entry follows as soon as one can. It may be out of date at once.
    pub fn follows_soon(&self) -> bool {
        self.0.in_a_hurry.load(Ordering::Relaxed) > 0
    }

    /// A command comes; returns what waited before.
    pub(super) fn add(&self, bytes: usize, haste: Haste) -> usize {
        if haste == Haste::AtOnce {
            self.0.in_a_hurry.fetch_add(bytes, Ordering::Relaxed);
        }
        self.0.all.fetch_add(bytes, Ordering::Relaxed)
    }

    /// It waits no more.
    pub(super) fn remove(&self, bytes: usize, haste: Haste) {
        if haste == Haste::AtOnce {
            self.0.in_a_hurry.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.0.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}
