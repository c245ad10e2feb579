//! Chance of a run: everything that a simulation leaves to chance is thrown here, so that a seed says all of it.
//!
//! Invariants:
//! - Each part of the world has dice of its own, named, so that one more throw in one does not change the others.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Cheap to clone; clones share their throws.
#[derive(Clone)]
pub struct Dice {
    seed: u64,
    source: Arc<Mutex<StdRng>>,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { seed, source: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))) }
    }

    /// Dice for a part of the world; they follow from the seed and the name alone.
    pub fn named(&self, name: impl Hash) -> Self {
        // The default hasher without keys is the same in every process of one build.
        let mut hasher = DefaultHasher::new();
        (self.seed, name).hash(&mut hasher);
        Self::new(hasher.finish())
    }

    /// From `0` on, less than `bound`.
    pub fn below(&self, bound: usize) -> usize {
        self.source.lock().random_range(0..bound)
    }

    /// True so often of a thousand.
    pub fn happens(&self, per_mille: u32) -> bool {
        self.source.lock().random_range(0..1000) < per_mille
    }

    pub fn between_ms(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.source.lock().random_range(low..=high))
    }

    pub fn of<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn shuffled<T>(&self, mut all: Vec<T>) -> Vec<T> {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
        all
    }
}
