//! How a member comes into its cluster: alone, with others for the first time, by joining, or back after a restart.
//!
//! Invariants:
//! - A cluster begins only after *all* listed members have answered with their ids and belong to no other cluster. Its
//!   id is derived from theirs, so that all of them arrive at the same one; the member with the lowest id begins.
//! - The cluster id is durable before Raft hears or says anything in it.
//! - An empty member that meets a cluster which does not know its id refuses: under its old id it could have voted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::peer::HelloResponse;
use quorate_proto::v1;
use quorate_proto::v1::cluster_client::ClusterClient;
use quorate_proto::{ClusterId, MemberId};
use tokio::time::Instant;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::Start;
use crate::consensus::Consensus;
use crate::consensus::links::{Links, LocalMember};
use crate::consensus::types::Node;
use crate::data_dir::{DataDir, DataDirError};
use crate::error::ConsensusError;
use crate::sync::watch;
use crate::tasks::{Task, Tasks};

/// Between two rounds of asking, and for each question.
const PAUSE: Duration = Duration::from_millis(100);
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// For each attempt to be added or promoted.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Why a member does not come into a cluster. Trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Raft.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// The list of members, or what they are.
    #[error("{0}")]
    Refused(String),
    /// The member was asked to stop.
    #[error("stopped before this member belonged to a cluster")]
    Stopped,
}

/// What is needed to come into a cluster.
pub struct Bootstrap {
    /// The member's consensus, running.
    pub consensus: Consensus,
    /// Ways to the others.
    pub links: Arc<Links>,
    /// Keeps the cluster id.
    pub data_dir: Arc<DataDir>,
    /// Where the others reach this member.
    pub peer_address: String,
    /// How to begin when it is empty.
    pub start: Start,
    /// Says when to stop.
    pub tasks: Tasks,
    /// Where what goes on in the background runs.
    pub runtime: tokio::runtime::Handle,
}

/// A listed member that belongs to no running cluster yet.
struct Newcomer {
    node: Node,
    cluster: Option<ClusterId>,
}

/// Who answered at a listed address.
enum Met {
    /// A member that waits, too.
    Newcomer(MemberId, Newcomer),
    /// A member of a running cluster that knows this one.
    Cluster(ClusterId),
    /// Nobody; why.
    Nobody(String),
}

/// Id of the cluster that these members begin.
#[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a number with its highest bit set is not 0")]
pub fn derive_cluster(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let mut ids: Vec<u64> = members.into_iter().map(MemberId::get).collect();
    ids.sort_unstable();
    let mut bytes = b"quorate cluster 1".to_vec();
    for id in ids {
        bytes.extend_from_slice(&id.to_be_bytes());
    }
    ClusterId::new(xxh3_64(&bytes) | (1 << 63)).expect("not 0")
}

fn refused<T>(reason: String) -> Result<T, BootstrapError> {
    Err(BootstrapError::Refused(reason))
}

impl Bootstrap {
    /// Returns once this member belongs to its cluster: durable, and Raft may talk. Waits for others as long as it takes.
    pub async fn run(self) -> Result<(), BootstrapError> {
        let tasks = self.tasks.clone();
        tokio::select! {
            biased;
            () = tasks.stopped() => Err(BootstrapError::Stopped),
            done = self.come_in() => done,
        }
    }

    async fn come_in(self) -> Result<(), BootstrapError> {
        let belongs = self.local().cluster().is_some();
        match &self.start {
            _ if belongs && self.consensus.is_initialised() => {}
            Start::Single => self.begin(BTreeMap::from([(self.local().id(), self.own_node())])).await?,
            Start::Cluster(listed) => self.meet(listed).await?,
            Start::Join(_) if belongs => {}
            Start::Join(address) => self.join(address).await?,
        }
        let (tasks, runtime) = (self.tasks.clone(), self.runtime.clone());
        match &self.start {
            Start::Join(_) => drop(tasks.spawn(Task::Join, &runtime, self.ask_for_vote())),
            Start::Cluster(listed) if belongs => {
                let listed = listed.clone();
                drop(tasks.spawn(Task::Strangers, &runtime, self.beware_of_strangers(listed)));
            }
            Start::Single | Start::Cluster(_) => {}
        }
        Ok(())
    }

    fn local(&self) -> &LocalMember {
        self.links.local()
    }

    fn own_node(&self) -> Node {
        Node {
            name: self.local().name().to_owned(),
            peer_address: self.peer_address.clone(),
            client_address: self.local().client_address().to_owned(),
        }
    }

    fn belong(&self, cluster: ClusterId) -> Result<(), BootstrapError> {
        self.data_dir.set_cluster(cluster)?;
        self.local().set_cluster(cluster);
        Ok(())
    }

    /// All of `members` are known and empty: this member's cluster is the one that they make.
    async fn begin(&self, members: BTreeMap<MemberId, Node>) -> Result<(), BootstrapError> {
        let cluster = derive_cluster(members.keys().copied());
        self.belong(cluster)?;
        if members.keys().next() == Some(&self.local().id()) && !self.consensus.is_initialised() {
            tracing::info!(%cluster, members = members.len(), "beginning the cluster");
            self.consensus.initialise(members).await?;
        }
        Ok(())
    }

    /// Asks all listed members, again and again, until all have answered.
    async fn meet(&self, listed: &[(String, String)]) -> Result<(), BootstrapError> {
        let mut said = String::new();
        loop {
            let others = listed.iter().filter(|(name, _)| name != self.local().name());
            let answers = futures::future::join_all(others.map(|(name, address)| self.hello(name, address))).await;
            let mut newcomers = BTreeMap::new();
            let mut missing = Vec::new();
            for answer in answers {
                match answer? {
                    Met::Cluster(cluster) => return self.belong(cluster),
                    Met::Nobody(why) => missing.push(why),
                    Met::Newcomer(id, newcomer) => {
                        let name = newcomer.node.name.clone();
                        if newcomers.insert(id, newcomer).is_some() {
                            return refused(format!(
                                "{name:?} answers at two of the addresses of --cluster; correct it"
                            ));
                        }
                    }
                }
            }
            if missing.is_empty() {
                return self.begin_with(newcomers).await;
            }
            let missing = missing.join("; ");
            if missing != said {
                tracing::info!(missing, "waiting for the other members of --cluster");
                said = missing;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// All answered; none belongs to another cluster than the one that they make together.
    async fn begin_with(&self, newcomers: BTreeMap<MemberId, Newcomer>) -> Result<(), BootstrapError> {
        let own = (self.local().id(), Newcomer { node: self.own_node(), cluster: self.local().cluster() });
        let members: BTreeMap<MemberId, Newcomer> = newcomers.into_iter().chain([own]).collect();
        let cluster = derive_cluster(members.keys().copied());
        for newcomer in members.values() {
            if let Some(other) = newcomer.cluster.filter(|other| *other != cluster) {
                return refused(format!(
                    "member {:?} belongs to cluster {other}, which never began: one of its members has lost its \
                     directory since; empty the directories of all members and start them again",
                    newcomer.node.name
                ));
            }
        }
        self.begin(members.into_iter().map(|(id, newcomer)| (id, newcomer.node)).collect()).await
    }

    /// Asks who is at an address.
    async fn hello(&self, name: &str, address: &str) -> Result<Met, BootstrapError> {
        match tokio::time::timeout(ANSWER_MAX, self.ask(address)).await {
            Ok(Ok(answer)) => self.judge(name, address, answer),
            Ok(Err(status)) if status.code() == Code::InvalidArgument => refused(status.message().to_owned()),
            Ok(Err(status)) => Ok(Met::Nobody(format!("{name} at {address}: {}", status.message()))),
            Err(_) => Ok(Met::Nobody(format!("{name} at {address}: no answer"))),
        }
    }

    async fn ask(&self, address: &str) -> Result<HelloResponse, Status> {
        let mut peer = self.links.apart(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(peer.hello(self.local().hello()).await?.into_inner())
    }

    /// When all other listed members belong to another cluster, this one has the wrong directory (or they have): an
    /// error, because it could only wait for ever. Ends once one of its own cluster has answered.
    async fn beware_of_strangers(self, listed: Vec<(String, String)>) -> Result<(), BootstrapError> {
        let own = self.local().cluster();
        let others: Vec<_> = listed.into_iter().filter(|(name, _)| name != self.local().name()).collect();
        loop {
            let mut strangers = Vec::new();
            for (_, address) in &others {
                let answer = tokio::time::timeout(ANSWER_MAX, self.ask(address)).await.ok().and_then(Result::ok);
                let removed = answer.as_ref().is_some_and(|answer| answer.asker_removed);
                match answer.and_then(|answer| ClusterId::new(answer.cluster_id)) {
                    Some(cluster) if Some(cluster) == own && removed => {
                        self.local().set_removed();
                        return Ok(());
                    }
                    Some(cluster) if Some(cluster) == own => return Ok(()),
                    Some(cluster) => strangers.push(cluster),
                    None => {}
                }
            }
            if let (Some(own), Some(met)) = (own, strangers.first())
                && strangers.len() == others.len()
            {
                let path = self.data_dir.path().to_owned();
                return Err(DataDirError::OtherCluster { path, found: own, asked: *met }.into());
            }
            tokio::select! {
                () = self.tasks.stopped() => return Ok(()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    fn judge(&self, name: &str, address: &str, answer: HelloResponse) -> Result<Met, BootstrapError> {
        let own = self.local().id();
        let Some(id) = MemberId::new(answer.member_id).filter(|id| *id != own) else {
            return refused(format!("{address} leads back to this member, not to {name:?}; correct --cluster"));
        };
        if answer.name != name {
            return refused(format!("at {address} is {:?}, not {name:?}; correct --cluster or --name", answer.name));
        }
        let cluster = ClusterId::new(answer.cluster_id);
        if !answer.initialised {
            let node =
                Node { name: answer.name, peer_address: address.to_owned(), client_address: answer.client_address };
            return Ok(Met::Newcomer(id, Newcomer { node, cluster }));
        }
        match cluster {
            Some(cluster) if answer.members.contains(&own.get()) => Ok(Met::Cluster(cluster)),
            _ => refused(format!(
                "this member is empty (its id is {own}, new), but {name:?} at {address} belongs to a running cluster \
                 that does not know it; if it is to replace a member that lost its directory, remove the old one from \
                 the cluster, then start this one with --join instead of --cluster"
            )),
        }
    }

    /// Asks a member of a cluster, by its client address, to add this one.
    async fn join(&self, address: &str) -> Result<(), BootstrapError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .or_else(|_| refused(format!("--join {address:?} is no address; write the host:port of a client port")))?
            .connect_timeout(ANSWER_MAX)
            .timeout(ATTEMPT);
        let node = self.own_node();
        let member = v1::Member {
            id: self.local().id().get(),
            name: node.name,
            peer_address: node.peer_address,
            client_address: node.client_address,
            learner: true,
        };
        let state_version_max = self.local().state_version_max();
        let mut client = ClusterClient::new(endpoint.connect_lazy());
        loop {
            let request = v1::MemberAddRequest { member: Some(member.clone()), state_version_max };
            let status = match client.member_add(request).await {
                Ok(answer) => {
                    let header = answer.into_inner().header.unwrap_or_default();
                    let Some(cluster) = ClusterId::new(header.cluster_id) else {
                        return refused(format!("{address} does not say which cluster it belongs to"));
                    };
                    tracing::info!(%cluster, "added to the cluster as a learner");
                    return self.belong(cluster);
                }
                Err(status) => status,
            };
            if !is_passing(status.code()) {
                return refused(format!("{address} refuses to add this member: {}", status.message()));
            }
            tracing::info!(address, reason = status.message(), "waiting to be added to the cluster");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Becomes a voter once it has caught up.
    async fn ask_for_vote(self) -> Result<(), BootstrapError> {
        let id = self.local().id();
        loop {
            let asked = self.consensus.promote(id, Instant::now() + ATTEMPT);
            let result = tokio::select! {
                biased;
                () = self.tasks.stopped() => return Ok(()),
                result = asked => result,
            };
            match result {
                Ok(_) => return Ok(()),
                Err(error) => tracing::info!(%error, "not a voter yet"),
            }
            tokio::select! {
                () = self.tasks.stopped() => return Ok(()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

/// Whether asking again later can help.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Cancelled
            | Code::Unknown
            | Code::Aborted
    )
}

/// Ends the member when it learns that it was removed, and keeps it from starting again. An error is the reason.
pub async fn heed_removal(
    consensus: Consensus,
    local: Arc<LocalMember>,
    data_dir: Arc<DataDir>,
    tasks: Tasks,
) -> Result<(), String> {
    tokio::select! {
        biased;
        () = tasks.stopped() => return Ok(()),
        () = removal(consensus.removed(), local.removed()) => {}
    }
    if tasks.is_stopping() {
        return Ok(());
    }
    data_dir.set_removed().map_err(|error| error.to_string())?;
    Err(format!(
        "member {} was removed from its cluster and stops; to bring it back, empty its directory and start it with --join",
        local.id()
    ))
}

/// Completes when one of them says that this member was removed. Who would say so may end, with a disk that failed for
/// example: that is no removal.
async fn removal(seen: watch::Receiver<bool>, told: watch::Receiver<bool>) {
    tokio::select! {
        () = said(seen) => {}
        () = said(told) => {}
    }
}

async fn said(mut by: watch::Receiver<bool>) {
    if by.wait_for(|removed| *removed).await.map(drop).is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// A member whose disk was full noted that it was removed, and did not start again: the observer had ended with
    /// Raft, and its end was taken for its word.
    #[tokio::test]
    async fn the_end_of_who_would_tell_is_no_removal() {
        let (seen, told) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut waiting = Box::pin(removal(seen.subscribe(), told.subscribe()));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(seen);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(told);
        assert!(waiting.as_mut().now_or_never().is_none());

        for first in [true, false] {
            let (seen, told) = (watch::Sender::new(false), watch::Sender::new(false));
            let waiting = removal(seen.subscribe(), told.subscribe());
            let (teller, other) = if first { (seen, told) } else { (told, seen) };
            drop(other);
            teller.send_replace(true);
            waiting.await;
        }
    }
}
