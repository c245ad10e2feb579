//! The load of one instance: calls under way, and a latency that rises at once and falls slowly. Pure.
//!
//! The idea is that of `tower::load::PeakEwma` (and Finagle before it), whose cost is opaque: it cannot be set in
//! relation to a weight.
//!
//! Invariants:
//! - A slow answer counts at once; a fast one only as much as time has passed.

use std::time::Duration;

use tokio::time::Instant;

/// After this time, what was measured before counts for a third.
const DECAY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Load {
    in_flight: u32,
    latency: Option<(Duration, Instant)>,
}

impl Load {
    pub(super) const fn new() -> Self {
        Self { in_flight: 0, latency: None }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn begin(&mut self) {
        self.in_flight = self.in_flight.saturating_add(1);
    }

    pub(super) fn end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// An answer took so long, or had not come for so long when its caller went away.
    pub(super) fn measured(&mut self, took: Duration, now: Instant) {
        let next = match self.latency {
            Some((known, at)) if took < known => toward(known, took, now.saturating_duration_since(at)),
            _ => took,
        };
        self.latency = Some((next, now));
    }

    /// What is known of its latency; it fades while nothing is measured, so that a slow instance is tried again.
    pub(super) fn latency(&self, now: Instant) -> Option<Duration> {
        self.latency.map(|(known, at)| toward(known, Duration::ZERO, now.saturating_duration_since(at)))
    }
}

fn toward(from: Duration, to: Duration, elapsed: Duration) -> Duration {
    let kept = (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp();
    from.mul_f64(kept) + to.mul_f64(1.0 - kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_with_time() {
        let now = Instant::now();
        let mut load = Load::new();
        let (fast, slow) = (Duration::from_millis(1), Duration::from_millis(100));
        load.measured(fast, now);
        load.measured(slow, now);
        assert_eq!(load.latency(now), Some(slow));
        load.measured(fast, now);
        assert_eq!(load.latency(now), Some(slow), "one fast answer at the same moment proves nothing");
        let later = now + DECAY;
        load.measured(fast, later);
        let left = load.latency(later).unwrap();
        assert!(left > Duration::from_millis(30) && left < Duration::from_millis(40), "{left:?}");
    }

    #[test]
    fn it_fades_while_nothing_is_measured() {
        let now = Instant::now();
        let mut load = Load::new();
        load.measured(Duration::from_secs(1), now);
        assert!(load.latency(now + DECAY * 10).unwrap() < Duration::from_millis(1));
    }
}
