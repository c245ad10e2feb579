//! What Quorate sets out to reach against etcd 3.4 on two cores.
//!
//! Invariants:
//! - Every target names a work and a figure that the run knows; a test checks it.

use crate::figures::{Figures, Metric};
use crate::stage::Subject;
use crate::works;

/// A bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// At least this multiple of etcd's.
    TimesAtLeast(f64),
    /// At most this multiple of etcd's.
    TimesAtMost(f64),
    /// At least this, whatever etcd does.
    AtLeast(f64),
    /// At most this, whatever etcd does.
    AtMost(f64),
}

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The work.
    pub work: &'static str,
    /// What of it.
    pub metric: Metric,
    /// The bound.
    pub bound: Bound,
    /// Whether it is one for Quorate's own client.
    pub native: bool,
}

/// A target of what is driven on etcd's wire, as etcd is.
const fn same_wire(work: &'static str, metric: Metric, bound: Bound) -> Target {
    Target { work, metric, bound, native: false }
}

use Bound::{AtLeast, AtMost, TimesAtLeast, TimesAtMost};
use Metric::{Cpu, Elections, MemberMemory, Memory, P50, P99Kept, Pause, Rate, RateKept, RestartTime};

/// All targets.
pub const TARGETS: [Target; 27] = [
    same_wire("put-1", Rate, TimesAtLeast(1.3)),
    same_wire("put-1", P50, TimesAtMost(0.75)),
    same_wire("put-64", Rate, TimesAtLeast(2.0)),
    same_wire("put-64", Cpu, TimesAtMost(0.38)),
    same_wire("put-512", Rate, TimesAtLeast(1.9)),
    same_wire("put-512", Cpu, TimesAtMost(0.42)),
    same_wire("get-64", Rate, TimesAtLeast(3.0)),
    same_wire("get-64", Cpu, TimesAtMost(0.18)),
    same_wire("get-512", Rate, TimesAtLeast(3.5)),
    same_wire("get-512", Cpu, TimesAtMost(0.14)),
    same_wire("compare-and-put-64", Rate, TimesAtLeast(4.0)),
    same_wire("compare-and-put-64", Cpu, TimesAtMost(0.2)),
    same_wire("range-100-64", Rate, TimesAtLeast(4.5)),
    same_wire("range-100-64", Cpu, TimesAtMost(0.2)),
    same_wire("lease-put-64", Rate, TimesAtLeast(4.0)),
    same_wire("lease-put-64", Cpu, TimesAtMost(0.2)),
    same_wire("lock-1", P50, TimesAtMost(0.5)),
    same_wire("lock-contended-64", Rate, TimesAtLeast(3.0)),
    same_wire(works::WATCH, Cpu, TimesAtMost(0.25)),
    same_wire(works::WATCH_DIRECTORY, Cpu, TimesAtMost(0.25)),
    same_wire(works::COMPACTION, RateKept, AtLeast(0.9)),
    same_wire(works::COMPACTION, P99Kept, AtMost(2.0)),
    same_wire(works::MEMORY, Memory, TimesAtMost(0.4)),
    same_wire(works::FAILOVER, Pause, TimesAtMost(0.6)),
    same_wire(works::RESTART, RestartTime, TimesAtMost(0.25)),
    same_wire(works::RESTART, MemberMemory, TimesAtMost(0.2)),
    same_wire(works::ELECTIONS, Elections, AtMost(0.0)),
];

/// The target of Quorate's own client.
pub const NATIVE: Target = Target { work: "put-512", metric: Rate, bound: AtLeast(100_000.0), native: true };

impl Bound {
    /// Whether a subject's median keeps it; `None` when it was not measured.
    pub fn is_met(self, figures: &Figures, target: &Target, subject: Subject) -> Option<bool> {
        let row = figures.row(target.work, target.metric)?;
        Some(match self {
            Self::TimesAtLeast(least) => row.ratio(subject)? >= least,
            Self::TimesAtMost(most) => row.ratio(subject)? <= most,
            Self::AtLeast(least) => row.median(subject)? >= least,
            Self::AtMost(most) => row.median(subject)? <= most,
        })
    }

    /// In few characters.
    pub fn shown(self) -> String {
        match self {
            Self::TimesAtLeast(least) => format!("≥ {least}×"),
            Self::TimesAtMost(most) => format!("≤ {most}×"),
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
        }
    }
}

impl Target {
    /// Whose figure decides: the etcd wire's, and while that is not served, Quorate's own client's.
    pub fn subject(&self, figures: &Figures) -> Subject {
        let wire = Subject::QuorateEtcdWire;
        let has_wire = figures.row(self.work, self.metric).is_some_and(|row| row.median(wire).is_some());
        if !self.native && has_wire { wire } else { Subject::QuorateNative }
    }
}

/// Targets of one row.
pub fn of(work: &str, metric: Metric) -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().chain([&NATIVE]).filter(move |target| target.work == work && target.metric == metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_names_a_work() {
        let mut known = works::names();
        known.push(works::ELECTIONS);
        for target in TARGETS.iter().chain([&NATIVE]) {
            assert!(known.contains(&target.work), "{}", target.work);
        }
    }

    #[test]
    fn bounds_are_of_ratios_or_of_values() {
        let mut figures = Figures::default();
        figures.add("put-64", Rate, Subject::Peer, 10.0);
        figures.add("put-64", Rate, Subject::QuorateNative, 25.0);
        let target = of("put-64", Rate).next().unwrap();
        let met = |bound: Bound| bound.is_met(&figures, target, target.subject(&figures));
        assert_eq!(met(TimesAtLeast(2.5)), Some(true));
        assert_eq!(met(TimesAtLeast(2.6)), Some(false));
        assert_eq!(met(TimesAtMost(2.4)), Some(false));
        assert_eq!(met(AtLeast(25.0)), Some(true));
        assert_eq!(met(AtMost(24.0)), Some(false));
        assert_eq!(Bound::AtLeast(1.0).is_met(&Figures::default(), target, Subject::Peer), None);
    }

    #[test]
    fn the_same_wire_decides_once_it_is_served() {
        let mut figures = Figures::default();
        figures.add("put-64", Rate, Subject::QuorateNative, 1.0);
        let target = of("put-64", Rate).next().unwrap();
        assert_eq!(target.subject(&figures), Subject::QuorateNative);
        figures.add("put-64", Rate, Subject::QuorateEtcdWire, 1.0);
        assert_eq!(target.subject(&figures), Subject::QuorateEtcdWire);
    }
}
