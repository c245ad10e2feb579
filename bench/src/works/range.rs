//! The range work: 100 neighbouring keys with their values, linearizable.
//!
//! Invariants:
//! - Every range finds all of its keys.

use futures::future::BoxFuture;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::failure::Result;
use crate::keys::{key, random};
use crate::load::Caller;
use crate::plan::{KEYS, RANGE_KEYS};
use crate::wire::Connection;

struct Ranges(SmallRng);

/// Reads a range that begins anywhere.
pub fn range(round: usize, caller: usize) -> Box<dyn Caller> {
    Box::new(Ranges(random(round, caller)))
}

impl Caller for Ranges {
    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        let first = self.0.random_range(0..KEYS - RANGE_KEYS);
        Box::pin(connection.range(key(first), key(first + RANGE_KEYS), RANGE_KEYS))
    }
}
