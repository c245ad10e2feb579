//! The one harness of the whole-system tests: clusters of real processes on loopback addresses of their own.
//!
//! Invariants:
//! - Nothing outlives the value that started it: processes are killed and directories removed on drop, also when a
//!   test fails.
//! - No test waits for time to pass; each waits for a state, with a deadline after which it fails and says what it saw.

#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a harness of tests: it fails them by panicking")]

pub use quorate_chaos as chaos;
pub use quorate_checkers as checkers;

pub mod address;
pub mod cluster;
pub mod etcd;
pub mod load;
pub mod netns;
pub mod process;
pub mod restart;
pub mod tmpfs;
pub mod wait;
pub mod watchdog;
