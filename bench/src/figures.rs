//! Figures: what is measured, in which unit, and the statistics of it.
//!
//! Invariants:
//! - What is shown of several rounds is their median; all rounds are kept.
//! - A percentile is a latency that was really seen: the smallest that is not below the share of all.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::failure::{Result, wrong};
use crate::load::Window;
use crate::stage::Subject;

/// What a number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Operations (or events delivered) a second.
    Rate,
    /// Half of the operations took no longer, in ms.
    P50,
    /// 99 of 100 operations took no longer, in ms.
    P99,
    /// CPU time of all three members an operation, in µs.
    Cpu,
    /// Rate during, as a share of the rate before.
    RateKept,
    /// p99 during, as a multiple of p99 before.
    P99Kept,
    /// Longest time without a write, in ms.
    Pause,
    /// From the start of a process to its first linearizable answer, in ms.
    RestartTime,
    /// Resident memory of one member, in MB.
    MemberMemory,
    /// Resident memory of all three members (of a work that fills them: what it added), in MB.
    Memory,
    /// Elections.
    Elections,
    /// Of what was to end, the share that had ended at the end of the window.
    Ended,
}

impl Metric {
    /// As a table's row is called.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rate => "a second",
            Self::P50 => "p50, ms",
            Self::P99 => "p99, ms",
            Self::Cpu => "server CPU, µs each",
            Self::RateKept => "rate, × before",
            Self::P99Kept => "p99, × before",
            Self::Pause => "longest pause, ms",
            Self::RestartTime => "to the first answer, ms",
            Self::MemberMemory => "resident, one member, MB",
            Self::Memory => "resident, three members, MB",
            Self::Elections => "during load",
            Self::Ended => "share ended in the window",
        }
    }
}

/// All values of one figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The work.
    pub work: String,
    /// What is measured.
    pub metric: Metric,
    /// One value for each round.
    pub values: BTreeMap<Subject, Vec<f64>>,
}

impl Row {
    /// The median of a subject's rounds.
    pub fn median(&self, subject: Subject) -> Option<f64> {
        self.values.get(&subject).and_then(|values| median(values))
    }

    /// A subject's median as a multiple of etcd's.
    pub fn ratio(&self, subject: Subject) -> Option<f64> {
        let peer = self.median(Subject::Peer)?;
        let own = self.median(subject)?;
        (peer > 0.0).then(|| own / peer)
    }
}

/// All figures of a run, in the order in which they were first seen.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Figures(Vec<Row>);

impl Figures {
    /// Adds one round's value.
    pub fn add(&mut self, work: &str, metric: Metric, subject: Subject, value: f64) {
        let found = self.0.iter().position(|row| row.work == work && row.metric == metric);
        let at = found.unwrap_or_else(|| {
            self.0.push(Row { work: work.to_owned(), metric, values: BTreeMap::new() });
            self.0.len() - 1
        });
        self.0[at].values.entry(subject).or_default().push(value);
    }

    /// Takes over the figures of a work that is done.
    pub fn append(&mut self, work: Self) {
        self.0.extend(work.0);
    }

    /// Adds what a window says: rate, latencies and CPU.
    pub fn add_window(&mut self, work: &str, subject: Subject, window: &mut Window) {
        self.add(work, Metric::Rate, subject, rate(window));
        window.latencies.sort_unstable();
        for (metric, share) in [(Metric::P50, 0.5), (Metric::P99, 0.99)] {
            if let Some(latency) = percentile(&window.latencies, share) {
                self.add(work, metric, subject, ms(latency));
            }
        }
        let cpu = window.cpu.as_secs_f64() * 1e6 / float(window.operations);
        self.add(work, Metric::Cpu, subject, cpu);
    }

    /// Adds two windows, by their names, and how much of the rate and of the p99 of the first the second kept.
    pub fn add_kept(
        &mut self,
        work: &str,
        subject: Subject,
        names: [&str; 2],
        [before, during]: [&mut Window; 2],
    ) -> Result<()> {
        self.add_window(names[0], subject, before);
        self.add_window(names[1], subject, during);
        // In order since they became figures.
        let p99 = [&before, &during].map(|window| percentile(&window.latencies, 0.99));
        let [Some(p99_before), Some(p99_during)] = p99 else { return wrong("a window without operations") };
        self.add(work, Metric::RateKept, subject, rate(during) / rate(before));
        self.add(work, Metric::P99Kept, subject, p99_during.as_secs_f64() / p99_before.as_secs_f64());
        Ok(())
    }

    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.0
    }

    /// One row.
    pub fn row(&self, work: &str, metric: Metric) -> Option<&Row> {
        self.0.iter().find(|row| row.work == work && row.metric == metric)
    }
}

/// Operations a second.
pub fn rate(window: &Window) -> f64 {
    float(window.operations) / window.elapsed.as_secs_f64()
}

/// The latency at or below which this share of them lies. They must be in order.
pub fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (float(sorted.len() as u64) * share).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the list")]
    let at = (rank as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied()
}

/// The middle value; the mean of the two middle ones of an even number.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// A duration in ms.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Bytes in MB.
pub fn mb(bytes: u64) -> f64 {
    float(bytes) / 1e6
}

/// A count as a float: counts here are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_latency_that_was_seen() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&sorted, 0.99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&sorted, 1.0), Some(Duration::from_millis(200)));
        assert_eq!(percentile(&sorted[..1], 0.99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_window_becomes_four_figures() {
        let latencies = (1..=100).map(Duration::from_millis).rev().collect();
        let (elapsed, cpu) = (Duration::from_secs(2), Duration::from_millis(10));
        let mut window = Window { operations: 100, elapsed, cpu, latencies };
        let mut figures = Figures::default();
        figures.add_window("put-1", Subject::Peer, &mut window);
        let median = |metric| figures.row("put-1", metric).unwrap().median(Subject::Peer).unwrap();
        let seen = [Metric::Rate, Metric::P50, Metric::P99, Metric::Cpu].map(median);
        for (seen, expected) in seen.iter().zip([50.0, 50.0, 99.0, 100.0]) {
            assert!((seen - expected).abs() < 1e-9, "{seen} is not {expected}");
        }
    }

    #[test]
    fn a_ratio_is_of_medians() {
        let mut figures = Figures::default();
        for (peer, own) in [(10.0, 30.0), (20.0, 50.0), (1_000.0, 40.0)] {
            figures.add("x", Metric::Rate, Subject::Peer, peer);
            figures.add("x", Metric::Rate, Subject::QuorateNative, own);
        }
        let row = figures.row("x", Metric::Rate).unwrap();
        assert_eq!(row.ratio(Subject::QuorateNative), Some(2.0));
        assert_eq!(row.ratio(Subject::QuorateEtcdWire), None);
    }
}
