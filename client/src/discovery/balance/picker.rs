//! The choice of an instance: two are drawn by weight, and the first is taken unless the second is clearly less
//! loaded. Pure.
//!
//! So with equal load the shares are those of the weights, exactly; and a slow or busy instance is left as soon as the
//! other is better by half.
//!
//! Invariants:
//! - Only what is usable is chosen; `None` only if nothing is.
//! - A choice costs no more than a few draws while most instances are usable, whatever their number.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Draws before all are looked at.
const DRAWS: usize = 6;
/// How many times the load of the second the first must have to be passed over.
const CLEARLY: f64 = 1.5;

/// Instances by weight.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// Index of the instance, and the sum of all weights up to it.
    sums: Vec<(usize, u64)>,
}

/// What decides between two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) in_flight: u32,
    pub(super) latency: Option<Duration>,
    pub(super) weight: u32,
}

impl Weights {
    pub(super) fn new(weights: impl IntoIterator<Item = (usize, u32)>) -> Self {
        let mut sum = 0;
        let add = |(at, weight): (usize, u32)| {
            sum += u64::from(weight.max(1));
            (at, sum)
        };
        Self { sums: weights.into_iter().map(add).collect() }
    }

    fn total(&self) -> u64 {
        self.sums.last().map_or(0, |(_, sum)| *sum)
    }

    /// Draws one that is usable.
    fn draw(&self, chance: &mut impl Rng, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if self.sums.is_empty() {
            return None;
        }
        for _ in 0..DRAWS {
            let point = chance.random_range(0..self.total());
            let at = self.sums.partition_point(|(_, sum)| *sum <= point);
            let drawn = self.sums.get(at).map(|(at, _)| *at).filter(|at| usable(*at));
            if drawn.is_some() {
                return drawn;
            }
        }
        let mut before = 0;
        let some = self.sums.iter().filter_map(|(at, sum)| {
            let weight = sum - std::mem::replace(&mut before, *sum);
            usable(*at).then_some((*at, weight))
        });
        let some: Vec<(usize, u64)> = some.collect();
        let total: u64 = some.iter().map(|(_, weight)| weight).sum();
        let mut point = if total == 0 { return None } else { chance.random_range(0..total) };
        for (at, weight) in some {
            if point < weight {
                return Some(at);
            }
            point -= weight;
        }
        None
    }

    /// Chooses one that is usable.
    pub(super) fn choose(
        &self,
        chance: &mut impl Rng,
        usable: impl Fn(usize) -> bool,
        cost: impl Fn(usize) -> Cost,
    ) -> Option<usize> {
        let first = self.draw(chance, &usable)?;
        if self.sums.len() == 1 {
            return Some(first);
        }
        let Some(second) = self.draw(chance, |at| at != first && usable(at)) else { return Some(first) };
        let clearly_less = is_clearly_less(cost(second), cost(first));
        Some(if clearly_less { second } else { first })
    }
}

fn is_clearly_less(one: Cost, than: Cost) -> bool {
    // An instance with half the weight is as busy with half the calls.
    let mean = f64::midpoint(f64::from(one.weight), f64::from(than.weight));
    let busy = |cost: Cost| 1.0 + f64::from(cost.in_flight) * mean / f64::from(cost.weight.max(1));
    let ratio = match (one.latency, than.latency) {
        (Some(one), Some(than)) => one.as_secs_f64().max(1e-6) / than.as_secs_f64().max(1e-6),
        // Nothing to compare.
        _ => 1.0,
    };
    busy(one) * ratio * CLEARLY < busy(than)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const ROUNDS: usize = 30_000;

    /// Share of the choices for each instance.
    fn shares(weights: &[u32], usable: impl Fn(usize) -> bool, cost: impl Fn(usize) -> Cost) -> Vec<f64> {
        let picker = Weights::new(weights.iter().copied().enumerate());
        let mut chance = StdRng::seed_from_u64(7);
        let mut counts = vec![0u32; weights.len()];
        for _ in 0..ROUNDS {
            counts[picker.choose(&mut chance, &usable, &cost).unwrap()] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / 30_000.0).collect()
    }

    fn idle(weight: u32) -> Cost {
        Cost { in_flight: 0, latency: Some(Duration::from_millis(1)), weight }
    }

    fn assert_close(shares: &[f64], expected: &[f64]) {
        for (share, expected) in shares.iter().zip(expected) {
            assert!((share - expected).abs() < 0.02, "{shares:?}");
        }
    }

    #[test]
    fn with_equal_load_the_weights_decide() {
        let weights = [100, 200, 100];
        assert_close(&shares(&weights, |_| true, |at| idle(weights[at])), &[0.25, 0.5, 0.25]);
    }

    #[test]
    fn a_slow_one_is_left_alone_while_another_is_there() {
        let cost = |at| Cost { latency: Some(Duration::from_millis([1, 50][at])), ..idle(100) };
        assert_close(&shares(&[100, 100], |_| true, cost), &[1.0, 0.0]);
    }

    #[test]
    fn calls_under_way_count_in_relation_to_the_weight() {
        let weights = [100, 200];
        let cost = |at: usize| Cost { in_flight: [10, 20][at], ..idle(weights[at]) };
        assert_close(&shares(&weights, |_| true, cost), &[0.333, 0.667]);
        let cost = |at: usize| Cost { in_flight: [20, 20][at], ..idle(weights[at]) };
        assert_close(&shares(&weights, |_| true, cost), &[0.0, 1.0]);
    }

    #[test]
    fn what_was_never_measured_is_compared_by_calls_alone() {
        let cost = |at: usize| Cost { latency: [None, Some(Duration::from_secs(1))][at], ..idle(100) };
        assert_close(&shares(&[100, 100], |_| true, cost), &[0.5, 0.5]);
    }

    #[test]
    fn of_many_the_last_usable_one_is_found() {
        let weights = vec![100; 500];
        let shares = shares(&weights, |at| at == 321, |_| idle(100));
        assert!(shares[321] > 0.999);
        let picker = Weights::new(weights.into_iter().enumerate());
        assert_eq!(picker.choose(&mut StdRng::seed_from_u64(1), |_| false, |_| idle(100)), None);
        assert_eq!(Weights::default().choose(&mut StdRng::seed_from_u64(1), |_| true, |_| idle(100)), None);
    }
}
