//! Chance of a run, from a seed: which fault, which key, how long. What the cluster makes of it is not repeated by a seed.
//!
//! Invariants:
//! - Each part of a run has dice of its own, named, so that one more throw in one does not change the others.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// A source of chance.
#[derive(Debug)]
pub struct Dice {
    seed: u64,
    source: StdRng,
}

impl Dice {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, source: StdRng::seed_from_u64(seed) }
    }

    /// Of the seed that `QUORATE_SEED` names, else of a new one; it is printed, so that a schedule can be repeated.
    pub fn of_environment() -> Self {
        let asked = std::env::var("QUORATE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = asked.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        println!("QUORATE_SEED={seed}");
        Self::new(seed)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Dice for a part of the run; they follow from the seed and the name alone.
    #[must_use]
    pub fn named(&self, name: impl Hash) -> Self {
        // The default hasher without keys is the same in every process of one build.
        let mut hasher = DefaultHasher::new();
        (self.seed, name).hash(&mut hasher);
        Self::new(hasher.finish())
    }

    /// From 0 on, less than `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.source.random_range(0..bound.max(1))
    }

    /// True so often of a thousand.
    pub fn happens(&mut self, per_mille: u32) -> bool {
        self.source.random_range(0..1000) < per_mille
    }

    /// A time between these, in ms.
    pub fn between_ms(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.source.random_range(low..=high.max(low)))
    }

    /// In another order.
    pub fn shuffled<T>(&mut self, mut all: Vec<T>) -> Vec<T> {
        for last in (1..all.len()).rev() {
            let other = self.below(last + 1);
            all.swap(last, other);
        }
        all
    }
}
