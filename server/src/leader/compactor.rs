//! Compacts history by age, by number of revisions, or both.
//!
//! Invariants:
//! - Age is the leader's monotonic time between samples of (revision, instant), started again with each term; so
//!   history is kept at least as long as asked, and longer after an election.
//! - With both bounds given, history is kept that either asks to keep.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_proto::Revision;
use quorate_state::command::Command;
use tokio::time::{Instant, sleep};

use super::quorum::Quorum;
use crate::config::AutoCompaction;

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Samples kept over the age asked for.
const SAMPLES: u32 = 100;

/// When which revision was the newest.
#[derive(Debug)]
pub struct Samples {
    retention: AutoCompaction,
    seen: VecDeque<(Revision, Instant)>,
    /// The newest revision that was seen long enough ago.
    old: Revision,
}

impl Samples {
    /// None yet.
    pub fn new(retention: AutoCompaction) -> Self {
        Self { retention, seen: VecDeque::new(), old: Revision::ZERO }
    }

    /// How often to sample; `None`: never, nothing is ever compacted.
    pub fn interval(&self) -> Option<Duration> {
        let by_age = self.retention.age.map(|age| age / SAMPLES);
        let by_revisions = self.retention.revisions.map(|_| Duration::from_secs(10));
        let interval = by_age.into_iter().chain(by_revisions).min()?;
        Some(interval.clamp(Duration::from_millis(100), Duration::from_mins(1)))
    }

    /// Notes the newest revision, and says up to which one to compact.
    pub fn sample(&mut self, newest: Revision, now: Instant) -> Option<Revision> {
        let by_revisions = self
            .retention
            .revisions
            .map(|keep| Revision(newest.get().saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX))));
        let by_age = self.retention.age.map(|age| {
            self.seen.push_back((newest, now));
            while let Some((revision, seen)) = self.seen.front().copied()
                && now.saturating_duration_since(seen) >= age
            {
                self.old = revision;
                self.seen.pop_front();
            }
            self.old
        });
        let target = by_revisions.into_iter().chain(by_age).min()?;
        (target > Revision::FIRST).then_some(target)
    }
}

/// Runs until it is dropped, at the end of the term. `newest` gives the newest revision and the mark as it stands.
pub async fn run(
    quorum: &dyn Quorum,
    term: u64,
    retention: AutoCompaction,
    newest: impl Fn() -> Option<(Revision, Revision)>,
) {
    let mut samples = Samples::new(retention);
    let Some(interval) = samples.interval() else { return std::future::pending().await };
    loop {
        sleep(interval).await;
        let Some((newest, compacted)) = newest() else { continue };
        let Some(revision) = samples.sample(newest, Instant::now()).filter(|revision| *revision > compacted) else {
            continue;
        };
        match quorum
            .propose(term, Command::Compact { revision, only_forward: false }, Instant::now() + PROPOSE_TIMEOUT)
            .await
        {
            Ok(_) => tracing::info!(revision = revision.get(), "history compacted"),
            Err(error) => tracing::warn!(%error, "history was not compacted; it will be with the next sample"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn by_age_only_what_was_seen_long_ago_goes() {
        let zero = Instant::now();
        let mut samples = Samples::new(AutoCompaction { age: Some(100 * S), revisions: None });
        assert_eq!(samples.sample(Revision(10), zero), None);
        assert_eq!(samples.sample(Revision(20), zero + 50 * S), None);
        assert_eq!(samples.sample(Revision(30), zero + 99 * S), None);
        assert_eq!(samples.sample(Revision(40), zero + 100 * S), Some(Revision(10)));
        assert_eq!(samples.sample(Revision(50), zero + 155 * S), Some(Revision(20)));
    }

    #[test]
    fn by_revisions_a_number_is_kept() {
        let zero = Instant::now();
        let mut samples = Samples::new(AutoCompaction { age: None, revisions: Some(1000) });
        assert_eq!(samples.sample(Revision(900), zero), None);
        assert_eq!(samples.sample(Revision(5000), zero), Some(Revision(4000)));
    }

    #[test]
    fn with_both_bounds_the_more_careful_one_counts() {
        let zero = Instant::now();
        let mut samples = Samples::new(AutoCompaction { age: Some(100 * S), revisions: Some(10) });
        assert_eq!(samples.sample(Revision(500), zero), None);
        assert_eq!(samples.sample(Revision(600), zero + 100 * S), Some(Revision(500)));
        assert_eq!(samples.sample(Revision(605), zero + 300 * S), Some(Revision(595)));
    }

    #[test]
    fn off_means_off() {
        assert_eq!(Samples::new(AutoCompaction { age: None, revisions: None }).interval(), None);
    }
}
