//! Chance of a run: everything that a simulation leaves to chance is thrown here, so that a seed says all of it.
//!
//! Invariants:
//! - Each part of the world has dice of its own, named, so that one more throw in one does not change the others.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// Cheap to clone; clones share their throws.
#[derive(Clone)]
pub struct Dice(Arc<Mutex<quorate_chaos::Dice>>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self::of_one(quorate_chaos::Dice::new(seed))
    }

    fn of_one(dice: quorate_chaos::Dice) -> Self {
        Self(Arc::new(Mutex::new(dice)))
    }

    /// Dice for a part of the world; they follow from the seed and the name alone.
    pub fn named(&self, name: impl Hash) -> Self {
        Self::of_one(self.0.lock().named(name))
    }

    /// From `0` on, less than `bound`.
    pub fn below(&self, bound: usize) -> usize {
        self.0.lock().below(bound)
    }

    /// True so often of a thousand.
    pub fn happens(&self, per_mille: u32) -> bool {
        self.0.lock().happens(per_mille)
    }

    pub fn between_ms(&self, low: u64, high: u64) -> Duration {
        self.0.lock().between_ms(low, high)
    }

    pub fn of<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn shuffled<T>(&self, all: Vec<T>) -> Vec<T> {
        self.0.lock().shuffled(all)
    }
}
