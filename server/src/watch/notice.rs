//! What a session is told to watch, and what it gives out.
//!
//! Invariants:
//! - Events are whole revisions: what one transaction changed of a watch's keys stands in one [`Picked`].

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::Revision;
use quorate_state::outcome::KeyValue;
use tokio::time::Instant;

use super::interest::Interest;
use super::window::Published;

/// What a watch is to do.
#[derive(Debug, Clone)]
pub struct WatchSpec {
    /// Which changes.
    pub interest: Interest,
    /// First revision wanted; `None`: what comes after the watch is created.
    pub start: Option<Revision>,
    /// Fetch what stood there before.
    pub previous_values: bool,
    /// While nothing matches, a mark this often.
    pub progress_interval: Option<Duration>,
    /// Wait for this revision first, until then.
    pub min_revision: Option<(Revision, Instant)>,
}

/// Matching changes of one revision.
#[derive(Debug)]
pub struct Picked {
    /// The revision with all its changes.
    pub item: Arc<Published>,
    /// Positions of those that match.
    pub changes: Vec<u32>,
    /// What stood there before, for each of `changes`; empty when not asked for.
    pub previous: Vec<Option<KeyValue>>,
}

/// Why a watch is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchOver {
    /// Asked for.
    Cancelled,
    /// The next revision wanted is compacted.
    Compacted {
        /// The mark.
        compacted: Revision,
    },
    /// This member cannot serve it now.
    Unavailable(String),
}

/// What a session gives out. `tag` names the watch.
#[derive(Debug)]
pub enum WatchNotice {
    /// The watch exists.
    Created {
        /// Which.
        tag: u64,
        /// Newest revision at that moment.
        revision: Revision,
    },
    /// Changes.
    Events {
        /// Of which watch.
        tag: u64,
        /// Whole revisions, in order.
        items: Vec<Picked>,
    },
    /// All changes up to `revision` have been given out.
    Mark {
        /// Of which watch.
        tag: u64,
        /// Inclusive.
        revision: Revision,
    },
    /// All changes up to `revision` have been given out to every watch of the session.
    SessionMark {
        /// Inclusive.
        revision: Revision,
    },
    /// Nothing more comes.
    Ended {
        /// Which.
        tag: u64,
        /// Why.
        over: WatchOver,
    },
}

/// What becomes of watches when contact with the leader is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnContactLoss {
    /// They end, so that the client goes on elsewhere.
    End,
    /// They wait.
    Wait,
}
