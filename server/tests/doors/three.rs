//! Three members with their doors open, over a network that can be cut.
//!
//! Invariants:
//! - The directory of the members outlives them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_server::consensus::snapshotter::SnapshotRules;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::{Doors, Start};
use crate::support::net::Net;
use crate::support::{member_id, node};

/// A cluster of the members 1, 2 and 3.
pub struct Three {
    pub members: BTreeMap<u64, Doors>,
    pub net: Arc<Net>,
    _dir: tempfile::TempDir,
    _turn: SemaphorePermit<'static>,
}

/// Two clusters at a time: members that are starved lose contact with their leader, which then is what is tested.
static TURNS: Semaphore = Semaphore::const_new(2);

impl Three {
    /// Returns once one leads.
    pub async fn start() -> Self {
        Self::with_rules(SnapshotRules::default()).await
    }

    /// The same, with other rules for snapshots.
    pub async fn with_rules(snapshot_rules: SnapshotRules) -> Self {
        let turn = TURNS.acquire().await.unwrap();
        let (dir, net) = (tempfile::tempdir().unwrap(), Net::new());
        let mut members = BTreeMap::new();
        for id in 1..=3 {
            let start = Start { snapshot_rules, ..Start::new(id, &dir.path().join(id.to_string()), &net) };
            members.insert(id, start.run().await);
        }
        let nodes = (1..=3).map(|id| (member_id(id), node(id))).collect();
        members[&1].consensus.initialise(nodes).await.unwrap();
        let three = Self { members, net, _dir: dir, _turn: turn };
        three.leader().await;
        three
    }

    /// The member that leads, once one does.
    pub async fn leader(&self) -> u64 {
        self.leader_among(&self.members.keys().copied().collect::<Vec<_>>()).await
    }

    /// The member that leads among these, once one does.
    pub async fn leader_among(&self, ids: &[u64]) -> u64 {
        let find = async {
            loop {
                if let Some(id) = ids.iter().find(|id| self.members[id].leads()) {
                    return *id;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), find).await.expect("a leader")
    }

    /// The others that run.
    pub fn others(&self, id: u64) -> Vec<u64> {
        self.members.keys().copied().filter(|other| *other != id).collect()
    }

    /// The two that follow, once one leads.
    pub async fn followers(&self) -> [&Doors; 2] {
        let others = self.others(self.leader().await);
        [&self.members[&others[0]], &self.members[&others[1]]]
    }

    /// Takes a member away for good.
    pub async fn remove(&mut self, id: u64) {
        self.net.remove(id);
        self.members.remove(&id).unwrap().stop().await;
    }

    pub async fn stop(self) {
        futures::future::join_all(self.members.into_values().map(Doors::stop)).await;
    }
}
