//! Waiting for a state, with a deadline.
//!
//! Invariants:
//! - The pause between two looks bounds the cost of looking; no result depends on its length.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How long a test waits for something that must happen: long, because machines are shared and slow runs are no failures.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Looks until `look` gives `Ok`; after [`PATIENCE`] panics with what it last saw instead.
pub async fn until<T, E: Debug, F: Future<Output = Result<T, E>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => {
                assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}; last saw {seen:?}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
