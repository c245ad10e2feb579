//! Outlier ejection: an instance that fails far more often than the others is left alone for a time. Pure.
//!
//! Each instance is compared with what all others did together in the same interval: its error rate must be higher by a
//! fixed margin and by three standard deviations of what chance would give at the others' rate. (A bound of mean and
//! deviation over all instances cannot be reached by one outlier among three.)
//!
//! Invariants:
//! - Never more than the policy's share of the instances is ejected; the worst come first.
//! - An instance that is ejected again stays away longer; a calm interval makes it shorter again.

use std::time::Duration;

use tokio::time::Instant;

use super::policy::BalancePolicy;

/// How much higher an error rate must be than that of the others.
const MARGIN: f64 = 0.2;
/// How many standard deviations.
const DEVIATIONS: f64 = 3.0;

/// What one instance did in an interval, and whether it is ejected.
#[derive(Debug, Default)]
pub(super) struct Record {
    calls: u32,
    failures: u32,
    until: Option<Instant>,
    times: u32,
}

impl Record {
    pub(super) fn count(&mut self, failed: bool) {
        self.calls = self.calls.saturating_add(1);
        self.failures = self.failures.saturating_add(u32::from(failed));
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn rate(&self) -> f64 {
        rate(self.failures, self.calls)
    }

    fn eject(&mut self, now: Instant, policy: &BalancePolicy) {
        self.times = self.times.saturating_add(1);
        let away = policy.ejection_time.saturating_mul(self.times).min(policy.ejection_time_max);
        self.until = Some(now + away);
    }
}

/// Ends an interval: decides who is ejected, and begins the next. Answers the indexes of those newly ejected.
pub(super) fn sweep(records: &mut [&mut Record], now: Instant, policy: &BalancePolicy) -> Vec<usize> {
    let room = allowed(records.len(), policy);
    let already = records.iter().filter(|record| record.is_ejected(now)).count();
    let (calls, failures) = records.iter().fold((0u64, 0u64), |(calls, failures), record| {
        (calls + u64::from(record.calls), failures + u64::from(record.failures))
    });
    let mut outliers: Vec<(usize, f64)> = records
        .iter()
        .enumerate()
        .filter(|(_, record)| !record.is_ejected(now) && record.calls >= policy.ejection_calls)
        .filter_map(|(at, record)| {
            let other_calls = calls - u64::from(record.calls);
            let other_failures = failures - u64::from(record.failures);
            let excess = excess(record, other_calls, other_failures)?;
            Some((at, excess))
        })
        .collect();
    outliers.sort_by(|one, other| other.1.total_cmp(&one.1));
    outliers.truncate(room.saturating_sub(already));
    let ejected: Vec<usize> = outliers.into_iter().map(|(at, _)| at).collect();
    for (at, record) in records.iter_mut().enumerate() {
        if ejected.contains(&at) {
            record.eject(now, policy);
        } else if !record.is_ejected(now) {
            record.times = record.times.saturating_sub(1);
        }
        (record.calls, record.failures) = (0, 0);
    }
    ejected
}

/// How far above the bound it is; `None` when it is no outlier, or there is nothing to compare with.
fn excess(record: &Record, other_calls: u64, other_failures: u64) -> Option<f64> {
    if other_calls < u64::from(record.calls.min(20)) {
        return None;
    }
    let others = ratio(other_failures, other_calls);
    let deviation = (others * (1.0 - others) / f64::from(record.calls)).sqrt();
    let excess = record.rate() - others - MARGIN.max(DEVIATIONS * deviation);
    (excess > 0.0).then_some(excess)
}

/// How many of `count` may be ejected at once. One instance alone never is.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
fn allowed(count: usize, policy: &BalancePolicy) -> usize {
    let share = (count as f64 * policy.ejected_share_max.clamp(0.0, 1.0)).floor() as usize;
    share.min(count.saturating_sub(1))
}

fn rate(failures: u32, calls: u32) -> f64 {
    ratio(u64::from(failures), u64::from(calls))
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// How long an interval is.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> BalancePolicy {
        BalancePolicy { ejection_calls: 20, ejection_time: Duration::from_secs(10), ..BalancePolicy::default() }
    }

    fn record(calls: u32, failures: u32) -> Record {
        Record { calls, failures, ..Record::default() }
    }

    fn swept(records: &mut [Record], now: Instant) -> Vec<usize> {
        sweep(&mut records.iter_mut().collect::<Vec<_>>(), now, &policy())
    }

    #[test]
    fn one_of_three_that_fails_often_is_ejected_for_a_time() {
        let now = Instant::now();
        let mut records = [record(100, 0), record(100, 40), record(100, 1)];
        assert_eq!(swept(&mut records, now), [1]);
        assert!(records[1].is_ejected(now));
        assert!(!records[1].is_ejected(now + Duration::from_secs(10)));
    }

    #[test]
    fn when_all_fail_alike_nobody_is() {
        let mut records = [record(100, 60), record(100, 50), record(100, 70)];
        assert!(swept(&mut records, Instant::now()).is_empty());
    }

    #[test]
    fn a_few_calls_prove_nothing() {
        let mut records = [record(100, 0), record(19, 19), record(100, 0)];
        assert!(swept(&mut records, Instant::now()).is_empty());
    }

    #[test]
    fn no_more_than_half_are_ejected_the_worst_first() {
        let now = Instant::now();
        let mut records = [record(5000, 0), record(100, 50), record(100, 90), record(100, 70)];
        assert_eq!(swept(&mut records, now), [2, 3]);
        for record in &mut records {
            record.count(false);
        }
        records[0] = record(5000, 0);
        records[1] = record(100, 50);
        assert!(swept(&mut records, now).is_empty(), "two of four are away already");
    }

    #[test]
    fn one_alone_never_is_and_of_two_one_may_be() {
        let now = Instant::now();
        assert!(swept(&mut [record(100, 100)], now).is_empty());
        assert_eq!(swept(&mut [record(100, 100), record(100, 0)], now), [0]);
    }

    #[test]
    fn who_is_ejected_again_stays_away_longer() {
        let now = Instant::now();
        let mut records = [record(100, 0), record(100, 90), record(100, 0)];
        swept(&mut records, now);
        let back = now + Duration::from_secs(10);
        for (at, failures) in [0, 90, 0].into_iter().enumerate() {
            (records[at].calls, records[at].failures) = (100, failures);
        }
        assert_eq!(swept(&mut records, back), [1]);
        assert!(records[1].is_ejected(back + Duration::from_secs(19)));
        assert!(!records[1].is_ejected(back + Duration::from_secs(20)));
    }
}
