//! How much waits to be packed into log entries, for whoever does things otherwise while something does.
//!
//! Invariants:
//! - It counts what was queued and neither packed, refused nor passed over: it is zero while nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Encoded bytes of commands that wait. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    /// Whether no command waits. It may be out of date at once.
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// A command comes; returns what waited before.
    pub(super) fn add(&self, bytes: usize) -> usize {
        self.0.fetch_add(bytes, Ordering::Relaxed)
    }

    /// It waits no more.
    pub(super) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}
