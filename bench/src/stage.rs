//! The stage of a measurement: a cluster of each system side by side, and the clients that drive them.
//!
//! Invariants:
//! - Each client has the same number of connections to every member; that is counted in the kernel's table, not assumed.
//! - Both clusters hold the same keys with values of the same length before anything is measured.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use crate::cluster::proc::connections_to;
use crate::cluster::{Cluster, Places, System};
use crate::failure::{Result, wrong};
use crate::fill;
use crate::keys::first_key;
use crate::load::answered;
use crate::plan::{CONNECTIONS_PER_MEMBER, KEYS, LOOK, MEMBERS, PATIENCE, UNTOUCHED_KEYS};
use crate::wire::{self, Client, Connection, Service};

/// Who is measured: a system as one kind of client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// etcd, on its own wire.
    Peer,
    /// Quorate on etcd's wire, with the very same client.
    QuorateEtcdWire,
    /// Quorate with its own client.
    QuorateNative,
}

/// A client's connections to one cluster: to member 0, 1, 2, 0, 1, 2.
#[derive(Clone)]
pub struct Lane {
    /// Who it drives.
    pub subject: Subject,
    /// The connections.
    pub connections: Arc<[Connection]>,
    /// What is served there; a work that needs something else leaves the lane out.
    pub services: Vec<Service>,
}

/// Both clusters and all lanes.
pub struct Stage {
    /// etcd and Quorate.
    pub clusters: [Cluster; 2],
    /// The lanes, etcd's first.
    pub lanes: Vec<Lane>,
}

impl Subject {
    /// The system behind it.
    pub fn system(self) -> System {
        if self == Self::Peer { System::Peer } else { System::Quorate }
    }

    /// The client that it is driven with.
    pub fn client(self) -> Client {
        if self == Self::QuorateNative { Client::Native } else { Client::Etcd }
    }
}

impl Stage {
    /// Starts both clusters, fills them with `keys` keys, writes those that most works use anew so many times, and opens all lanes.
    pub async fn open(places: &Places, keys: u64, run_in: usize) -> Result<Self> {
        let peer = Cluster::start(System::Peer, places).await?;
        let quorate = Cluster::start(System::Quorate, places).await?;
        let mut stage = Self { clusters: [peer, quorate], lanes: Vec::new() };
        // Filled through connections of its own, which close before any are counted.
        for subject in [Subject::Peer, Subject::QuorateNative] {
            let connections = stage.connect(subject).await?;
            fill::fill(&connections, keys).await?;
            for _ in 0..run_in {
                fill::fill(&connections, KEYS).await?;
            }
        }
        for subject in [Subject::Peer, Subject::QuorateEtcdWire, Subject::QuorateNative] {
            let address = stage.cluster(subject).members()[0].client_address();
            let services = match subject.client() {
                Client::Etcd => wire::served(address).await?,
                Client::Native => vec![Service::Kv, Service::Lease, Service::Lock, Service::Watch],
            };
            if services.contains(&Service::Kv) {
                let lane = stage.lane(subject, services).await?;
                stage.lanes.push(lane);
            } else if subject == Subject::Peer {
                return wrong("the peer does not serve etcd's key space");
            }
        }
        for cluster in &stage.clusters {
            cluster.settled().await?;
        }
        Ok(stage)
    }

    /// The same with the keys that most works use.
    pub async fn usual(places: &Places, run_in: usize) -> Result<Self> {
        Self::open(places, KEYS + UNTOUCHED_KEYS, run_in).await
    }

    /// The cluster that a subject means.
    pub fn cluster(&self, subject: Subject) -> &Cluster {
        &self.clusters[usize::from(subject.system() == System::Quorate)]
    }

    /// The same, to start and stop members of it.
    pub fn cluster_mut(&mut self, subject: Subject) -> &mut Cluster {
        &mut self.clusters[usize::from(subject.system() == System::Quorate)]
    }

    async fn connect(&self, subject: Subject) -> Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS_PER_MEMBER {
            for member in self.cluster(subject).members() {
                connections.push(Connection::open(subject.client(), member.client_address()).await?);
            }
        }
        Ok(connections)
    }

    /// Opens the connections of a lane and checks with the kernel that there are as many as there must be.
    async fn lane(&self, subject: Subject, services: Vec<Service>) -> Result<Lane> {
        let counts = || -> Result<Vec<usize>> {
            self.cluster(subject).members().iter().map(|member| connections_to(member.client_address())).collect()
        };
        self.connections_closed(subject).await?;
        let before = counts()?;
        let connections = self.connect(subject).await?;
        // A client that connects when it is first used does it here.
        for connection in &connections {
            answered(connection.get(first_key(), false)).await?;
        }
        let after = counts()?;
        for i in 0..MEMBERS {
            if after[i] - before[i] != CONNECTIONS_PER_MEMBER {
                let opened = after[i].abs_diff(before[i]);
                return wrong(format!("{subject:?} opened {opened} connections to member {i}"));
            }
        }
        Ok(Lane { subject, connections: connections.into(), services })
    }

    /// Waits until earlier connections that were dropped are gone: until the count stands still.
    async fn connections_closed(&self, subject: Subject) -> Result<()> {
        let mut last = usize::MAX;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut now = 0;
            for member in self.cluster(subject).members() {
                now += connections_to(member.client_address())?;
            }
            if now == last {
                return Ok(());
            }
            last = now;
            sleep(LOOK * 5).await;
        }
        wrong(format!("connections to {subject:?} keep coming and going"))
    }

    /// Raft terms of both clusters.
    pub async fn terms(&self) -> Result<[u64; 2]> {
        Ok([self.clusters[0].term().await?, self.clusters[1].term().await?])
    }
}
