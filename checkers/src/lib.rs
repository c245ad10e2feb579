//! Checkers of the promises: pure functions over a recorded [`history::History`], one file for each guarantee.
//!
//! | file | what it rejects |
//! |---|---|
//! | `linearizable.rs` | answers that no order of the operations explains, with the revisions as witness |
//! | `search.rs` | the same without believing any revision, for small histories |
//! | `once.rs` | writes that were applied twice, or acknowledged and lost |
//! | `revisions.rs` | revisions that go back, metadata that contradicts itself |
//! | `watches.rs` | events out of order, twice, torn, missing, before the start; marks and previous values that lie |
//! | `leases.rs` | leases that ended early, or never |
//! | `locks.rs` | two holders at a time, tokens that do not grow, who came later served first |
//! | `elections.rs` | two leaders of one term, leaders that are deposed and still heard, observers that are told what is over |
//! | `holds.rs` | the same, of processes that hold a lock by its own clock, and fenced writes that are lost |
//! | `digests.rs` | members that differ after healing |
//! | `compactions.rs` | reads of what is compacted |
//! | `directories.rs` | directories that do not say what the keys say |
//!
//! Invariants:
//! - No network, no clock, no task: a history in, a [`Verdict`] out, always the same.
//! - Each checker has tests with histories that it must reject.

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::cloned_ref_to_slice_refs,
        clippy::needless_pass_by_value,
        clippy::too_many_lines,
        clippy::similar_names,
        reason = "tests with small numbers"
    )
)]

use std::fmt;

pub mod compactions;
pub mod digests;
pub mod directories;
pub mod elections;
pub mod history;
pub mod holds;
pub mod leases;
pub mod linearizable;
pub mod locks;
pub mod model;
pub mod once;
pub mod order;
pub mod revisions;
pub mod search;
pub mod watches;

#[cfg(test)]
mod generate;
#[cfg(test)]
mod random;

use history::History;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise, in a word or two.
    pub rule: &'static str,
    /// What was seen, and what should have been.
    pub text: String,
}

/// What a checker says.
pub type Verdict = Result<(), Violation>;

impl Violation {
    /// Says what was seen and what should have been.
    pub fn new(rule: &'static str, text: impl Into<String>) -> Self {
        Self { rule, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

impl std::error::Error for Violation {}

/// How exact things must be that depend on time.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// How much later than its time a lease may end, in ms: an election, a tick, a round. See [`leases`].
    pub lease_late_ms: u64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { lease_late_ms: 5_000 }
    }
}

/// Runs every checker; gives what was not kept, in the order of the table above.
pub fn check(history: &History, tolerance: Tolerance) -> Vec<Violation> {
    verdicts(history, tolerance).into_iter().filter_map(|(_, verdict)| verdict.err()).collect()
}

/// Runs every checker; what each is called and says, in the order of the table above. The search is left out where it could
/// look at nothing: it would say that all is well.
pub fn verdicts(history: &History, tolerance: Tolerance) -> Vec<(&'static str, Verdict)> {
    let searched = search::check(history, search::STATES_MAX);
    let looked = searched.as_ref().map_or(true, |searched| searched.explained > 0);
    let searched = looked.then(|| ("linearizable, by search", searched.map(|_| ())));
    let first = std::iter::once(("linearizable", linearizable::check(history))).chain(searched);
    let others = [
        ("exactly once", once::check(history)),
        ("revisions", revisions::check(history)),
        ("watches", watches::check(history)),
        ("leases", leases::check(history, tolerance.lease_late_ms)),
        ("locks", locks::check(history)),
        ("elections", elections::check(history)),
        ("equal digests", digests::check(history)),
        ("compactions", compactions::check(history)),
        ("directories", directories::check(history)),
    ];
    first.chain(others).collect()
}
