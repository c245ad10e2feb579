//! Works on single keys: put, get, compare-and-put, and the mix of puts and gets.
//!
//! Invariants:
//! - Puts overwrite and gets find keys that exist; each is drawn evenly from all.
//! - Every compare holds: each caller has a key of its own and knows the revision of its last change.

use bytes::Bytes;
use futures::future::BoxFuture;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::failure::Result;
use crate::keys::{Values, key, own_key, random};
use crate::load::Caller;
use crate::plan::{KEYS, MIXED_PUTS};
use crate::wire::Connection;

/// Puts among gets: this many of 100 operations.
struct Points {
    random: SmallRng,
    values: Values,
    puts: u32,
    serializable: bool,
}

fn points(round: usize, caller: usize, puts: u32, serializable: bool) -> Box<dyn Caller> {
    let mut random = random(round, caller);
    Box::new(Points { values: Values::new(&mut random), random, puts, serializable })
}

/// Overwrites a key.
pub fn put(round: usize, caller: usize) -> Box<dyn Caller> {
    points(round, caller, 100, false)
}

/// Reads a key, linearizable.
pub fn get(round: usize, caller: usize) -> Box<dyn Caller> {
    points(round, caller, 0, false)
}

/// Reads a key, serializable.
pub fn get_serializable(round: usize, caller: usize) -> Box<dyn Caller> {
    points(round, caller, 0, true)
}

/// Reads (linearizable), and now and then overwrites.
pub fn mixed(round: usize, caller: usize) -> Box<dyn Caller> {
    points(round, caller, MIXED_PUTS, false)
}

impl Caller for Points {
    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        let key = key(self.random.random_range(0..KEYS));
        Box::pin(async move {
            if self.random.random_range(0..100) < self.puts {
                connection.put(key, self.values.fresh(), 0).await?;
            } else {
                connection.get(key, self.serializable).await?;
            }
            Ok(())
        })
    }
}

/// Puts a key of its own if nobody else has changed it.
struct CompareAndPut {
    key: Bytes,
    values: Values,
    revision: i64,
}

/// Compares the revision of a key's last change, and puts.
pub fn compare_and_put(round: usize, caller: usize) -> Box<dyn Caller> {
    let values = Values::new(&mut random(round, caller));
    Box::new(CompareAndPut { key: own_key("compare", caller), values, revision: 0 })
}

impl Caller for CompareAndPut {
    fn prepare<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.revision = connection.put(self.key.clone(), self.values.fresh(), 0).await?;
            Ok(())
        })
    }

    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            let put = connection.compare_and_put(self.key.clone(), self.values.fresh(), self.revision);
            self.revision = put.await?;
            Ok(())
        })
    }
}
