//! Figures of a run: how many operations, how fast, second by second.
//!
//! Invariants:
//! - An operation counts in the second in which it was over; what was not answered has no latency.

use quorate_checkers::history::{History, Moment, Outcome};

/// Of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Operations that were answered.
    pub done: usize,
    /// That were refused: nothing happened.
    pub refused: usize,
    /// Of which nobody knows.
    pub unknown: usize,
    /// Latencies of all that were answered, in µs, sorted.
    pub latencies: Vec<u64>,
    /// Second by second.
    pub seconds: Vec<Second>,
}

/// One second of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Second {
    /// Answered operations.
    pub done: usize,
    /// Not answered, or refused.
    pub failed: usize,
    /// Half were faster, in µs.
    pub p50: u64,
    /// 99 of a hundred were faster, in µs.
    pub p99: u64,
    /// The slowest, in µs.
    pub max: u64,
}

const SECOND: Moment = 1_000_000;

/// The value below which so many of a thousand lie; 0 for none.
pub fn percentile(sorted: &[u64], per_mille: usize) -> u64 {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1) - 1;
    sorted.get(rank).or(sorted.last()).copied().unwrap_or_default()
}

impl Figures {
    /// Of a history.
    pub fn of(history: &History) -> Self {
        let mut figures = Self::default();
        let mut latencies: Vec<Vec<u64>> = Vec::new();
        for operation in &history.operations {
            let at = usize::try_from(operation.completed / SECOND).unwrap_or_default();
            if figures.seconds.len() <= at {
                figures.seconds.resize(at + 1, Second::default());
                latencies.resize(at + 1, Vec::new());
            }
            match operation.outcome {
                Outcome::Done { .. } => {
                    figures.done += 1;
                    latencies[at].push(operation.completed - operation.invoked);
                }
                Outcome::Refused(_) => figures.refused += 1,
                Outcome::Unknown(_) => figures.unknown += 1,
            }
            figures.seconds[at].failed += usize::from(!matches!(operation.outcome, Outcome::Done { .. }));
        }
        for (second, latencies) in figures.seconds.iter_mut().zip(&mut latencies) {
            latencies.sort_unstable();
            second.done = latencies.len();
            second.p50 = percentile(latencies, 500);
            second.p99 = percentile(latencies, 990);
            second.max = latencies.last().copied().unwrap_or_default();
        }
        figures.latencies = latencies.concat();
        figures.latencies.sort_unstable();
        figures
    }
}

#[cfg(test)]
mod tests {
    use quorate_checkers::history::{Answer, Input, Operation};

    use super::*;

    #[test]
    fn operations_count_in_the_second_in_which_they_end() {
        let operation = |invoked, completed, outcome| Operation {
            client: 1,
            request: None,
            invoked,
            completed,
            input: Input::get("/a"),
            outcome,
        };
        let done = || Outcome::Done { revision: 1, answer: Answer::default() };
        let operations = vec![
            operation(0, 10, done()),
            operation(900_000, 1_100_000, done()),
            operation(5, 1_200_000, Outcome::Unknown("lost".to_owned())),
        ];
        let figures = Figures::of(&History { operations, ..History::default() });
        assert_eq!((figures.done, figures.unknown, figures.refused), (2, 1, 0));
        assert_eq!(figures.seconds[0], Second { done: 1, failed: 0, p50: 10, p99: 10, max: 10 });
        assert_eq!(figures.seconds[1], Second { done: 1, failed: 1, p50: 200_000, p99: 200_000, max: 200_000 });
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 500), percentile(&hundred, 990), percentile(&hundred, 1000)), (50, 99, 100));
        assert_eq!(percentile(&[], 500), 0);
    }
}
