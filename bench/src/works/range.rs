//! The range works: 100 neighbouring keys with their values, linearizable; of keys that were written once, and of keys
//! that all the puts before have overwritten, whose past is still readable.
//!
//! Invariants:
//! - Every range finds all of its keys.

use futures::future::BoxFuture;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::failure::Result;
use crate::keys::{key, random};
use crate::load::Caller;
use crate::plan::{KEYS, RANGE_KEYS, UNTOUCHED_KEYS};
use crate::wire::Connection;

struct Ranges {
    random: SmallRng,
    /// The number of the first key of those it reads.
    base: u64,
    keys: u64,
}

/// Of keys that were written once.
pub fn untouched(round: usize, caller: usize) -> Box<dyn Caller> {
    Box::new(Ranges { random: random(round, caller), base: KEYS, keys: UNTOUCHED_KEYS })
}

/// Of keys that were overwritten.
pub fn overwritten(round: usize, caller: usize) -> Box<dyn Caller> {
    Box::new(Ranges { random: random(round, caller), base: 0, keys: KEYS })
}

impl Caller for Ranges {
    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        let first = self.base + self.random.random_range(0..=self.keys - RANGE_KEYS);
        Box::pin(connection.range(key(first), key(first + RANGE_KEYS), RANGE_KEYS))
    }
}
