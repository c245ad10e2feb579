//! The circuit breaker of one instance: closed, open, half-open. Pure: time and chance are passed in.
//!
//! Invariants:
//! - While open, no call is let through; half-open, one at a time. A probe that says nothing is not waited for without end:
//!   after [`BalancePolicy::open_max`] another call may probe.
//! - It opens for longer each time that it opens again without having closed, up to a bound.

use std::time::Duration;

use tokio::time::Instant;

use super::policy::BalancePolicy;

/// Most doublings of the time that it stays open.
const DOUBLINGS_MAX: u32 = 16;

/// Where a breaker stands; part of [`InstanceStatus`](crate::InstanceStatus).
///
/// ```no_run
/// # fn example(channel: quorate::ServiceChannel) {
/// let open = channel.snapshot().instances.iter().filter(|each| each.breaker == quorate::BreakerState::Open).count();
/// println!("{open} instances are left alone");
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// No calls, for a time.
    Open,
    /// One call may go through, to see.
    HalfOpen,
}

/// How a call failed, as far as a breaker cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody listens: certain enough to open at once.
    Refused,
    /// Anything else that is the instance's fault.
    Failed,
}

/// What a call is to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// One of many.
    Ordinary,
    /// The one that goes through half-open, to see.
    Probe,
    /// Sent although it should not be, because all instances are like that. Its success closes as a probe's does; its
    /// failure, or its end, says nothing of a probe that is under way.
    Anyway,
}

#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    failures_in_a_row: u32,
    window: Window,
    /// How often it has opened since it was last closed.
    opened: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// A probe is under way. From then on it is not waited for.
    Probing {
        until: Instant,
    },
}

/// Calls of the last while.
#[derive(Debug)]
struct Window {
    began: Instant,
    calls: u32,
    failures: u32,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: State::Closed, failures_in_a_row: 0, window: Window::new(now), opened: 0 }
    }

    pub(super) fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a call may go through now.
    pub(super) fn allows(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } | State::Probing { until } => now >= until,
        }
    }

    /// A call goes through, which is allowed.
    pub(super) fn begin(&mut self, now: Instant, policy: &BalancePolicy) -> Role {
        if matches!(self.state, State::Closed) {
            return Role::Ordinary;
        }
        self.state = State::Probing { until: now + policy.open_max };
        Role::Probe
    }

    pub(super) fn succeeded(&mut self, now: Instant, role: Role, policy: &BalancePolicy) {
        self.failures_in_a_row = 0;
        if role != Role::Ordinary {
            *self = Self::new(now);
        }
        self.window.count(now, false, policy.breaker_window);
    }

    /// `chance` is from 0 to 1, evenly.
    pub(super) fn failed(&mut self, how: Failure, now: Instant, role: Role, policy: &BalancePolicy, chance: f64) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.window.count(now, true, policy.breaker_window);
        let open = match self.state {
            State::Closed => {
                how == Failure::Refused
                    || self.failures_in_a_row >= policy.failures_in_a_row
                    || self.window.is_bad(policy)
            }
            // Calls from before it opened, or that were sent all the same when all were open, tell nothing new.
            State::Probing { .. } => role == Role::Probe,
            State::Open { .. } => false,
        };
        if open {
            let doubled = policy.open_min.saturating_mul(1 << self.opened.min(DOUBLINGS_MAX)).min(policy.open_max);
            self.state = State::Open { until: now + doubled.mul_f64(0.75 + chance / 2.0) };
            self.opened = self.opened.saturating_add(1);
            self.window = Window::new(now);
        }
    }

    /// A call ended without telling anything: its caller went away.
    pub(super) fn dropped(&mut self, now: Instant, role: Role) {
        if role == Role::Probe && matches!(self.state, State::Probing { .. }) {
            // The next call probes.
            self.state = State::Open { until: now };
        }
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { began: now, calls: 0, failures: 0 }
    }

    fn count(&mut self, now: Instant, failed: bool, length: Duration) {
        if now.saturating_duration_since(self.began) >= length {
            *self = Self::new(now);
        }
        self.calls = self.calls.saturating_add(1);
        self.failures = self.failures.saturating_add(u32::from(failed));
    }

    fn is_bad(&self, policy: &BalancePolicy) -> bool {
        self.calls >= policy.failure_rate_calls
            && f64::from(self.failures) >= policy.failure_rate * f64::from(self.calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> BalancePolicy {
        BalancePolicy {
            failures_in_a_row: 3,
            failure_rate: 0.5,
            failure_rate_calls: 10,
            open_min: Duration::from_secs(1),
            open_max: Duration::from_secs(8),
            ..BalancePolicy::default()
        }
    }

    fn fail(breaker: &mut Breaker, now: Instant, role: Role) {
        breaker.failed(Failure::Failed, now, role, &policy(), 0.5);
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        fail(&mut breaker, now, Role::Ordinary);
        fail(&mut breaker, now, Role::Ordinary);
        breaker.succeeded(now, Role::Ordinary, &policy());
        fail(&mut breaker, now, Role::Ordinary);
        fail(&mut breaker, now, Role::Ordinary);
        assert!(breaker.allows(now));
        fail(&mut breaker, now, Role::Ordinary);
        assert_eq!(breaker.state(now), BreakerState::Open);
        assert!(!breaker.allows(now));
    }

    #[test]
    fn a_refused_connection_opens_it_at_once() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        breaker.failed(Failure::Refused, now, Role::Ordinary, &policy(), 0.5);
        assert_eq!(breaker.state(now), BreakerState::Open);
    }

    #[test]
    fn a_rate_of_failures_opens_it_only_over_enough_calls_of_one_window() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..4 {
            breaker.succeeded(now, Role::Ordinary, &policy());
            fail(&mut breaker, now, Role::Ordinary);
        }
        let later = now + policy().breaker_window;
        for _ in 0..4 {
            breaker.succeeded(later, Role::Ordinary, &policy());
            fail(&mut breaker, later, Role::Ordinary);
        }
        assert!(breaker.allows(later), "eight calls are not ten");
        breaker.succeeded(later, Role::Ordinary, &policy());
        fail(&mut breaker, later, Role::Ordinary);
        assert!(!breaker.allows(later));
    }

    #[test]
    fn half_open_lets_one_through_whose_success_closes_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        breaker.failed(Failure::Refused, now, Role::Ordinary, &policy(), 0.5);
        let later = now + SECOND;
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert_eq!(breaker.begin(later, &policy()), Role::Probe, "this is the probe");
        assert!(!breaker.allows(later), "one at a time");
        fail(&mut breaker, later, Role::Ordinary);
        assert_eq!(breaker.state(later), BreakerState::HalfOpen, "an old call does not decide the probe");
        breaker.succeeded(later, Role::Probe, &policy());
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }

    #[test]
    fn each_failed_probe_opens_it_for_longer_up_to_a_bound_and_closing_begins_anew() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        breaker.failed(Failure::Refused, now, Role::Ordinary, &policy(), 0.5);
        for seconds in [1, 2, 4, 8, 8] {
            assert!(!breaker.allows(now + SECOND * seconds - Duration::from_millis(1)), "{seconds}");
            now += SECOND * seconds;
            assert_eq!(breaker.begin(now, &policy()), Role::Probe, "{seconds}");
            fail(&mut breaker, now, Role::Probe);
        }
        now += SECOND * 8;
        let probe = breaker.begin(now, &policy());
        breaker.succeeded(now, probe, &policy());
        breaker.failed(Failure::Refused, now, Role::Ordinary, &policy(), 0.5);
        assert!(breaker.allows(now + SECOND));
    }

    #[test]
    fn chance_moves_the_moment_by_a_quarter_either_way() {
        let now = Instant::now();
        for (chance, ms) in [(0.0, 750), (1.0, 1250)] {
            let mut breaker = Breaker::new(now);
            breaker.failed(Failure::Refused, now, Role::Ordinary, &policy(), chance);
            assert!(!breaker.allows(now + Duration::from_millis(ms - 1)));
            assert!(breaker.allows(now + Duration::from_millis(ms)));
        }
    }

    #[test]
    fn a_probe_that_says_nothing_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        breaker.failed(Failure::Refused, now, Role::Ordinary, &policy(), 0.5);
        let later = now + SECOND;
        assert_eq!(breaker.begin(later, &policy()), Role::Probe);
        fail(&mut breaker, later, Role::Anyway);
        breaker.dropped(later, Role::Anyway);
        assert_eq!(breaker.state(later), BreakerState::HalfOpen, "only the probe's own failure opens it again");
        let patience = policy().open_max;
        assert!(!breaker.allows(later + patience - Duration::from_millis(1)), "the probe is waited for");
        assert!(breaker.allows(later + patience));
        assert_eq!(breaker.begin(later + patience, &policy()), Role::Probe);
        assert!(!breaker.allows(later + patience), "and so is the next");
        breaker.succeeded(later + patience, Role::Anyway, &policy());
        assert_eq!(breaker.state(later + patience), BreakerState::Closed);
    }

    #[test]
    fn a_probe_whose_caller_went_away_makes_room_for_the_next() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        breaker.failed(Failure::Refused, now, Role::Ordinary, &policy(), 0.5);
        let later = now + SECOND;
        let probe = breaker.begin(later, &policy());
        breaker.dropped(later, probe);
        assert_eq!(breaker.begin(later, &policy()), Role::Probe);
    }
}
