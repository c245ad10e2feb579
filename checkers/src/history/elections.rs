//! What candidates of elections asked for and were told, and what others were told of who leads.
//!
//! Invariants:
//! - Each fact stands for itself: its moments bound when it was true.

use serde::{Deserialize, Serialize};

use super::{Moment, Octets};

/// Something that was asked of an election, or told of it. That somebody leads is a [`Hold`](super::Hold) besides, with the
/// term as its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionFact {
    /// Name of the election.
    pub election: Octets,
    /// Who asked, or observes.
    pub client: u64,
    /// When it was asked. Of what comes unasked: when it came.
    pub invoked: Moment,
    /// When the answer was there, or the client gave up.
    pub completed: Moment,
    /// What was asked or told.
    pub what: Elected,
}

/// What was asked of an election, or told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Elected {
    /// A candidate that says this of itself; once it leads, with key and term.
    Campaigned {
        /// What it says.
        value: Octets,
        /// The key and the term; `None`: it was not told that it leads.
        leads: Option<(Octets, i64)>,
    },
    /// A leader that says something else of itself.
    Proclaimed {
        /// Its term.
        term: i64,
        /// What it says.
        value: Octets,
        /// What came of it.
        said: Said,
    },
    /// A leader that stops.
    Resigned {
        /// Its term.
        term: i64,
        /// What came of it.
        said: Said,
    },
    /// Who leads, read behind a barrier; `None`: nobody.
    Read(Option<Leading>),
    /// Who leads, as an observer was told; in the order of `completed`.
    Observed(Option<Leading>),
}

/// What came of something that a leader asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It was done, and it led.
    Done,
    /// It was not done: it does not lead any more, it was told.
    Lost,
    /// It may have been done.
    Unknown,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leading {
    /// Its key.
    pub key: Octets,
    /// Its term.
    pub term: i64,
    /// What it says of itself.
    pub value: Octets,
}
