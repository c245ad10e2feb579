//! A clock that also runs while the machine sleeps, and the bookkeeping of how long a lease is surely alive.
//!
//! Invariants:
//! - What counts is when a request was sent, never when its answer came.
//! - A deadline only moves forward.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Longest margin for clocks that run at different speeds.
const MARGIN_MAX: Duration = Duration::from_secs(1);

/// A moment on `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootInstant(Duration);

impl BootInstant {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        Self(Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default()))
    }

    /// How long until this moment; zero when it is past.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Until when a lease is surely alive, if its time to live began when a request was sent at `sent`: a tenth of it, at
/// most a second, is left to the difference of clocks.
pub(crate) fn surely_until(sent: BootInstant, ttl: Duration) -> BootInstant {
    sent.after(ttl.saturating_sub((ttl / 10).min(MARGIN_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_sure_for_less_than_its_time() {
        let sent = BootInstant::now();
        assert_eq!(surely_until(sent, Duration::from_millis(500)), sent.after(Duration::from_millis(450)));
        assert_eq!(surely_until(sent, Duration::from_mins(1)), sent.after(Duration::from_secs(59)));
    }

    #[test]
    fn the_clock_moves() {
        let then = BootInstant::now();
        while then.elapsed() == Duration::ZERO {}
        assert!(BootInstant::now() > then);
        assert_eq!(then.left(), Duration::ZERO);
    }
}
