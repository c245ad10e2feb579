//! Bounds on what one request may ask, beside those that are settings ([`crate::config::Limits`]).
//!
//! Invariants:
//! - Whatever a client sends, what it makes this member hold or do at once is bounded by something in this file.

use std::time::Duration;

/// How deep transactions stand inside each other.
pub const TXN_DEPTH_MAX: usize = 8;
/// Keys that one command of the native API changes.
pub const CHANGES_MAX: u64 = 10_000;
/// Keys, children or leases of one answer, when nothing is asked for and at most.
pub const PAGE_DEFAULT: usize = 1_000;
/// See [`PAGE_DEFAULT`].
pub const PAGE_MAX: usize = 10_000;
/// Keys and values of one answer: with the metadata of as many keys as a page may have it stays under 4 MiB, unless
/// the last value is large.
pub const ANSWER_BYTES_MAX: usize = 3 << 20;
/// Bytes of one message of a watch; a larger transaction comes in fragments.
pub const FRAGMENT_BYTES_MAX: usize = 2 << 20;
/// Watches of one stream.
pub const WATCHES_MAX: usize = 10_000;
/// Watches of one stream of the etcd wire, whose clients put all of theirs on one.
pub const ETCD_WATCHES_MAX: usize = 100_000;
/// The most often that a mark of progress is sent by time.
pub const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Keep-alives of one stream that are under way at the same time.
pub const KEEP_ALIVES_MAX: usize = 1_024;
/// Items of one batch stream that are under way at the same time.
pub const BATCH_ITEMS_MAX: usize = 2_048;
/// Bytes after which the answers of a batch stream are sent, rather than waiting for more that are ready.
pub const BATCH_ANSWER_BYTES_MAX: usize = 1 << 20;
/// The shortest time to live of a lease, in ms.
pub const TTL_MS_MIN: u64 = 500;
/// The longest: ten years, in ms.
pub const TTL_MS_MAX: u64 = 10 * 365 * 24 * 3_600 * 1_000;
/// When the caller names no deadline.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
/// The longest that a caller may wait.
pub const DEADLINE_MAX: Duration = Duration::from_mins(5);
/// What the wire adds to the largest request.
pub const MESSAGE_EXTRA_BYTES: usize = 1 << 16;
/// How long a change of membership may take when the caller names no deadline: a learner has to catch up.
pub const MEMBERSHIP_DEADLINE: Duration = Duration::from_mins(1);
/// Permits of one lock.
pub const PERMITS_MAX: u32 = 1_000_000;
/// Bytes of the owner of a contender.
pub const OWNER_BYTES_MAX: usize = 256;
/// Bytes of the metadata of a contender.
pub const METADATA_BYTES_MAX: usize = 4_096;
/// Waiters that a description of a lock names, when nothing is asked for.
pub const WAITERS_DEFAULT: usize = 100;
/// The same at most.
pub const WAITERS_MAX: usize = 10_000;
/// Time to live, in ms, of a lease that is made for a contender when none is asked for.
pub const CONTENDER_TTL_MS: u64 = 60_000;
