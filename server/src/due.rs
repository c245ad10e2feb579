//! A wait for a moment that may never come.

use tokio::time::{Instant, sleep_until};

/// Completes at that moment; never, if there is none.
pub async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
