//! One instance as the balancer sees it: its transport, and what calls have told of it.
//!
//! Invariants:
//! - Each ticket tells its outcome at most once as a success and once as a failure, and gives its place back when dropped.
//! - A transport lives for as long as a call uses it: an instance that is removed drains.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::breaker::{Breaker, BreakerState, Failure, Role};
use super::ejection::Record;
use super::load::Load;
use super::picker::Cost;
use super::policy::BalancePolicy;

pub(super) struct Backend<S> {
    pub(super) transport: S,
    pub(super) vitals: Mutex<Vitals>,
    policy: Arc<BalancePolicy>,
}

pub(super) struct Vitals {
    pub(super) breaker: Breaker,
    pub(super) load: Load,
    pub(super) record: Record,
}

/// What people see of it.
pub(super) struct Seen {
    pub(super) breaker: BreakerState,
    pub(super) ejected: bool,
    pub(super) in_flight: u32,
    pub(super) latency: Option<Duration>,
}

impl<S> Backend<S> {
    pub(super) fn new(transport: S, policy: Arc<BalancePolicy>, now: Instant) -> Self {
        let vitals = Vitals { breaker: Breaker::new(now), load: Load::new(), record: Record::default() };
        Self { transport, vitals: Mutex::new(vitals), policy }
    }

    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.vitals.lock().is_usable(now)
    }

    pub(super) fn cost(&self, now: Instant, weight: u32) -> Cost {
        let vitals = self.vitals.lock();
        Cost { in_flight: vitals.load.in_flight(), latency: vitals.load.latency(now), weight }
    }

    pub(super) fn seen(&self, now: Instant) -> Seen {
        let vitals = self.vitals.lock();
        Seen {
            breaker: vitals.breaker.state(now),
            ejected: vitals.record.is_ejected(now),
            in_flight: vitals.load.in_flight(),
            latency: vitals.load.latency(now),
        }
    }

    /// Begins a call; `None` if it may not be used just now.
    pub(super) fn begin(self: &Arc<Self>, now: Instant) -> Option<Ticket<S>> {
        let mut vitals = self.vitals.lock();
        if !vitals.is_usable(now) {
            return None;
        }
        let role = vitals.breaker.begin(now, &self.policy);
        vitals.load.begin();
        Some(Ticket { backend: self.clone(), began: now, role, told: false })
    }

    /// Begins a call although it should not be used: all are like that.
    pub(super) fn begin_anyway(self: &Arc<Self>, now: Instant) -> Ticket<S> {
        self.vitals.lock().load.begin();
        Ticket { backend: self.clone(), began: now, role: Role::Anyway, told: false }
    }
}

impl Vitals {
    fn is_usable(&self, now: Instant) -> bool {
        self.breaker.allows(now) && !self.record.is_ejected(now)
    }
}

/// A call under way.
pub(super) struct Ticket<S> {
    pub(super) backend: Arc<Backend<S>>,
    began: Instant,
    role: Role,
    told: bool,
}

impl<S> Ticket<S> {
    /// The first of the answer has come.
    pub(super) fn answered(&self, now: Instant) {
        self.backend.vitals.lock().load.measured(now.saturating_duration_since(self.began), now);
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let mut vitals = self.backend.vitals.lock();
        vitals.breaker.succeeded(now, self.role, &self.backend.policy);
        vitals.record.count(false);
    }

    pub(super) fn failed(&mut self, how: Failure, now: Instant) {
        self.told = true;
        let chance = rand::random_range(0.0..1.0);
        let mut vitals = self.backend.vitals.lock();
        vitals.breaker.failed(how, now, self.role, &self.backend.policy, chance);
        vitals.record.count(true);
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut vitals = self.backend.vitals.lock();
        vitals.load.end();
        if !self.told {
            // The caller went away before an answer: how long it has waited is all that is known.
            vitals.load.measured(now.saturating_duration_since(self.began), now);
            vitals.breaker.dropped(now, self.role);
        }
    }
}
