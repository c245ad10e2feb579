//! The settings of balancing and retrying, in one struct.
//!
//! Invariants:
//! - The defaults serve calls that take milliseconds to a second among a handful to some hundreds of instances.

use std::time::Duration;

/// How a [`ServiceChannel`](crate::ServiceChannel) treats instances that fail, and when it tries again.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let mut policy = quorate::BalancePolicy::default();
/// policy.attempts = 5;
/// let channel = client.service("orders").policy(policy).channel().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BalancePolicy {
    /// The breaker opens after so many failures in a row. Default: 5.
    pub failures_in_a_row: u32,
    /// It also opens at this share of failures … Default: 0.5.
    pub failure_rate: f64,
    /// … over at least so many calls … Default: 20.
    pub failure_rate_calls: u32,
    /// … within this time. Default: 10 s.
    pub breaker_window: Duration,
    /// It stays open so long at first; doubled each time that it opens again, up to `open_max`. Default: 500 ms.
    pub open_min: Duration,
    /// Default: 30 s.
    pub open_max: Duration,
    /// At most this share of the instances is ejected as outliers. Default: 0.5; 0 turns ejection off.
    pub ejected_share_max: f64,
    /// Calls within five seconds from which on an instance can be an outlier. Default: 20.
    pub ejection_calls: u32,
    /// How long it is ejected, times the number of times in a row. Default: 10 s, at most `ejection_time_max`.
    pub ejection_time: Duration,
    /// Default: 5 min.
    pub ejection_time_max: Duration,
    /// Attempts of an idempotent call in all. Default: 4.
    pub attempts: u32,
    /// Second attempts wait a random time below this, doubled with each, up to `backoff_max`. Default: 10 ms.
    pub backoff_min: Duration,
    /// Default: 250 ms.
    pub backoff_max: Duration,
    /// Retries that may be made for each call. Default: 0.2: one for five calls …
    pub retry_share: f32,
    /// … and so many a second besides. Default: 10.
    pub retries_per_second: u32,
    /// A request that is longer is not kept for another attempt. Default: 64 KiB.
    pub replay_bytes_max: usize,
    /// How long connecting to an instance may take. Default: 1 s.
    pub connect_timeout: Duration,
}

impl Default for BalancePolicy {
    fn default() -> Self {
        Self {
            failures_in_a_row: 5,
            failure_rate: 0.5,
            failure_rate_calls: 20,
            breaker_window: Duration::from_secs(10),
            open_min: Duration::from_millis(500),
            open_max: Duration::from_secs(30),
            ejected_share_max: 0.5,
            ejection_calls: 20,
            ejection_time: Duration::from_secs(10),
            ejection_time_max: Duration::from_mins(5),
            attempts: 4,
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(250),
            retry_share: 0.2,
            retries_per_second: 10,
            replay_bytes_max: 64 << 10,
            connect_timeout: Duration::from_secs(1),
        }
    }
}
