//! Fills a store: existing keys, or history. Not measured.
//!
//! Invariants:
//! - What is filled is there, all of it, or the run fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures::future::try_join_all;
use rand::RngExt as _;

use crate::failure::Result;
use crate::keys::{Values, key, random};
use crate::plan::{FILL_CALLERS, FILL_TXN_KEYS, HISTORY_CALLERS, KEYS};
use crate::wire::Connection;

/// Rounds of random numbers that no measured round uses.
const FILL_ROUND: usize = 1 << 20;

/// Writes keys 0 to `keys`, many to a transaction.
pub async fn fill(connections: &[Connection], keys: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let callers = (0..FILL_CALLERS).map(|caller| {
        let (connection, next) = (connections[caller % connections.len()].clone(), Arc::clone(&next));
        async move {
            let mut values = Values::new(&mut random(FILL_ROUND, caller));
            loop {
                let from = next.fetch_add(FILL_TXN_KEYS, Ordering::Relaxed);
                if from >= keys {
                    return Ok(());
                }
                let end = (from + FILL_TXN_KEYS).min(keys);
                connection.fill((from..end).map(|n| (key(n), values.fresh())).collect()).await?;
            }
        }
    });
    try_join_all(callers).await?;
    Ok(())
}

/// Overwrites keys `revisions` times, one revision each; the last revision.
pub async fn history(connections: &[Connection], revisions: u64, round: usize) -> Result<i64> {
    let left = Arc::new(AtomicU64::new(revisions));
    let last = Arc::new(AtomicI64::new(0));
    let callers = (0..HISTORY_CALLERS).map(|caller| {
        let connection = connections[caller % connections.len()].clone();
        let (left, last) = (Arc::clone(&left), Arc::clone(&last));
        async move {
            let mut random = random(FILL_ROUND + 1 + round, caller);
            let mut values = Values::new(&mut random);
            let take = |left: u64| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let written = connection.put(key(random.random_range(0..KEYS)), values.fresh(), 0).await?;
                last.fetch_max(written, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    try_join_all(callers).await?;
    Ok(last.load(Ordering::Relaxed))
}
