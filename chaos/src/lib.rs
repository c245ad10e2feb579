//! Histories of real clusters: clients of both wires that record what they ask and are told while things go wrong, and a
//! report on what the checkers say. It serves `quorate chaos`, the fault tests and the soak alike.
//!
//! | file | what |
//! |---|---|
//! | `load.rs` | all clients of a run, from start to the end of its history |
//! | `native.rs`, `etcd.rs` | clients of keys: the crate `quorate`, and the crate `etcd-client` |
//! | `watchers.rs`, `etcd_watchers.rs` | watchers of both wires |
//! | `holders.rs`, `surveyors.rs` | leases, directories |
//! | `lockers.rs`, `etcd_lockers.rs` | locks of both wires, permits |
//! | `candidates.rs`, `onlookers.rs` | elections: those who want to lead, and those who want to know who does |
//! | `observer.rs` | who leads, as members say |
//! | `ending.rs` | what is read when all is over |
//! | `recorder.rs` | one clock, one history, one list of faults |
//! | `report.rs`, `chart.rs`, `figures.rs` | the report |
//!
//! Invariants:
//! - All moments of a run come from one monotonic clock, so the order of invocations and answers is real.
//! - Everything is written below the run's own prefix; whatever else happens in the store is known to be of others.

mod candidates;
mod chart;
mod convert;
mod dice;
mod ending;
mod etcd;
mod etcd_lockers;
mod etcd_watchers;
mod figures;
mod holders;
mod load;
mod lockers;
mod native;
mod observer;
mod onlookers;
mod recorder;
mod report;
mod surveyors;
mod town;
mod watchers;

pub use dice::Dice;
pub use ending::Unfinished;
pub use figures::{Figures, percentile};
pub use load::{Clients, Endless, Finished, Load};
pub use recorder::{Fault, Recorder};
pub use report::{Report, Subject};
pub use town::Plan;
