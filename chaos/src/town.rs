//! What all clients of a run share: where the cluster is, where they write, when it is over.
//!
//! Invariants:
//! - Nobody waits longer than until it is over.

use std::time::Duration;

use quorate::Client;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::recorder::Recorder;

/// What a run is to be like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Members, `host:port` each.
    pub endpoints: Vec<String>,
    /// Everything is written below this path.
    pub prefix: String,
    /// Longest pause of a client between two requests.
    pub think_ms: u64,
    /// How long a call of a native client may take, with its retries.
    pub patience: Duration,
    /// How many of each kind.
    pub clients: Counts,
}

/// How many clients of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Of keys, native wire.
    pub native: u64,
    /// Of keys, etcd's wire.
    pub etcd: u64,
    /// Of leases, native wire.
    pub holders: u64,
    /// Of leases, etcd's wire.
    pub etcd_holders: u64,
    /// Of one lock, native wire.
    pub lockers: u64,
    /// Of the same lock, etcd's wire.
    pub etcd_lockers: u64,
    /// Of permits.
    pub permits: u64,
    /// Candidates of one election.
    pub candidates: u64,
    /// Observers of it, and as many that ask who leads.
    pub onlookers: u64,
    /// Of each kind of watch.
    pub watchers: u64,
}

impl Plan {
    /// The ordinary one.
    pub fn new(endpoints: Vec<String>, prefix: impl Into<String>) -> Self {
        let clients = Counts {
            native: 4,
            etcd: 3,
            holders: 2,
            etcd_holders: 1,
            lockers: 3,
            etcd_lockers: 1,
            permits: 3,
            candidates: 3,
            onlookers: 2,
            watchers: 2,
        };
        Self { endpoints, prefix: prefix.into(), think_ms: 30, patience: Duration::from_secs(3), clients }
    }
}

/// Shared by all clients. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Town {
    pub plan: Plan,
    pub recorder: Recorder,
    over: watch::Receiver<bool>,
}

impl Town {
    pub fn new(plan: Plan, recorder: Recorder, over: watch::Receiver<bool>) -> Self {
        Self { plan, recorder, over }
    }

    /// Time to go home.
    pub fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits so long, or until it is over.
    pub async fn pause(&self, length: Duration) {
        let mut over = self.over.clone();
        // An error says that nobody is left who could say that it is over.
        let _ = tokio::time::timeout(length, over.wait_for(|over| *over)).await;
    }

    /// Does nothing for a while, at most so many times as long as the plan says. False when it is over.
    pub async fn think(&self, dice: &mut Dice, times: u64) -> bool {
        self.pause(dice.between_ms(0, times * self.plan.think_ms)).await;
        !self.is_over()
    }

    /// A native client, which begins at any member.
    pub fn client(&self, dice: &mut Dice) -> quorate::Result<Client> {
        let endpoints = dice.shuffled(self.plan.endpoints.clone());
        Client::builder().endpoints(endpoints).deadline(self.plan.patience).build()
    }

    /// Keys that all clients share lie here.
    pub fn keys(&self) -> String {
        format!("{}/keys", self.plan.prefix)
    }

    /// Sequential keys.
    pub fn sequence(&self) -> String {
        format!("{}/sequence", self.plan.prefix)
    }

    /// Keys of leases.
    pub fn held(&self) -> String {
        format!("{}/held", self.plan.prefix)
    }

    /// Locks.
    pub fn locks(&self) -> String {
        format!("{}/locks", self.plan.prefix)
    }

    /// The lock that clients of both wires want.
    pub fn one_lock(&self) -> String {
        format!("{}/one", self.locks())
    }

    /// Elections.
    pub fn elections(&self) -> String {
        format!("{}/elections", self.plan.prefix)
    }

    /// The election that all take part in.
    pub fn election(&self) -> String {
        format!("{}/one", self.elections())
    }
}

/// The end of the range of all keys that begin with `directory/`.
pub(crate) fn below(directory: &str) -> (String, String) {
    // The character after the slash.
    (format!("{directory}/"), format!("{directory}0"))
}
