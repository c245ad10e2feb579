//! The in-process network: members reach each other by call, unless the way is cut.
//!
//! Invariants:
//! - Each direction is cut by itself; a request passes if the way is open when it starts, its answer if the way back
//!   is open when it ends.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;
use quorate_proto::{LeaseId, MemberId};
use quorate_server::consensus::peers::{MembershipChange, Peers};
use quorate_server::consensus::types::{Node, Snapshot, SnapshotDir, TypeConfig, Vote};
use quorate_server::consensus::{Consensus, Haste, Proposed};
use quorate_server::error::{ConsensusError, Happened};
use tokio::time::Instant;

#[derive(Default)]
pub struct Net {
    members: Mutex<HashMap<u64, Consensus>>,
    cut: Mutex<HashSet<(u64, u64)>>,
    starved: Mutex<HashSet<u64>>,
    pub free_bytes: Mutex<HashMap<u64, u64>>,
    received: AtomicU64,
    pub snapshots_sent: AtomicU64,
}

impl Net {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn add(&self, id: u64, consensus: Consensus) {
        self.members.lock().insert(id, consensus);
    }

    pub fn remove(&self, id: u64) {
        self.members.lock().remove(&id);
    }

    /// Nothing passes between the two groups.
    pub fn part(&self, some: &[u64], others: &[u64]) {
        let mut cut = self.cut.lock();
        for a in some {
            for b in others {
                cut.insert((*a, *b));
                cut.insert((*b, *a));
            }
        }
    }

    /// Nothing passes from `from` to `to`.
    pub fn cut(&self, from: u64, to: u64) {
        self.cut.lock().insert((from, to));
    }

    /// Of the leader only heartbeats arrive there, as where large packets are lost.
    pub fn starve(&self, id: u64) {
        self.starved.lock().insert(id);
    }

    pub fn heal(&self) {
        self.cut.lock().clear();
        self.starved.lock().clear();
    }

    fn open(&self, from: u64, to: u64) -> Option<Consensus> {
        let members = self.members.lock();
        let passes = members.contains_key(&from) && !self.cut.lock().contains(&(from, to));
        if passes { members.get(&to).cloned() } else { None }
    }

    /// Calls `to`; `None` when the request did not arrive (`Ok`) or the answer did not (`Err`).
    async fn call<T, F: Future<Output = T>>(
        &self,
        from: u64,
        to: u64,
        call: impl FnOnce(Consensus) -> F,
    ) -> Result<T, Lost> {
        let target = self.open(from, to).ok_or(Lost::Request)?;
        let answer = call(target).await;
        if self.open(to, from).is_some() { Ok(answer) } else { Err(Lost::Answer) }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Lost {
    Request,
    Answer,
}

/// openraft's network, one way.
pub struct Link {
    net: Arc<Net>,
    from: u64,
    to: u64,
}

impl Link {
    pub fn factory(net: Arc<Net>, from: u64) -> LinkFactory {
        LinkFactory { net, from }
    }
}

pub struct LinkFactory {
    net: Arc<Net>,
    from: u64,
}

impl RaftNetworkFactory<TypeConfig> for LinkFactory {
    type Network = Link;
    async fn new_client(&mut self, target: u64, _node: &Node) -> Link {
        Link { net: self.net.clone(), from: self.from, to: target }
    }
}

fn unreachable<E: std::fmt::Debug>(error: E) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(format!("{error:?}")))
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotDir;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let from = MemberId::new(self.from).unwrap();
        if !rpc.entries.is_empty() && self.net.starved.lock().contains(&self.to) {
            return Err(unreachable("the append is lost"));
        }
        let call = |target: Consensus| async move {
            target.contacts().open(from).arrived();
            target.raft().append_entries(rpc).await
        };
        self.net.call(self.from, self.to, call).await.map_err(unreachable)?.map_err(unreachable)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let call = |target: Consensus| async move { target.raft().vote(rpc).await };
        self.net.call(self.from, self.to, call).await.map_err(unreachable)?.map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let call = |target: Consensus| async move { target.raft().pre_vote(rpc).await };
        self.net.call(self.from, self.to, call).await.map_err(unreachable)?.map_err(unreachable)
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let call = |target: Consensus| async move { target.raft().handle_transfer_leader(req).await };
        self.net.call(self.from, self.to, call).await.map_err(unreachable)?.map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let lost = |error: String| StreamingError::Unreachable(Unreachable::from_string(error));
        if self.net.starved.lock().contains(&self.to) {
            return Err(lost("the snapshot is lost".into()));
        }
        let number = self.net.received.fetch_add(1, Ordering::Relaxed);
        let call = |target: Consensus| async move {
            let path = target.snapshots().root().join(format!("received-{number}"));
            std::fs::create_dir_all(&path).unwrap();
            for file in snapshot.snapshot.files() {
                std::fs::copy(snapshot.snapshot.path().join(&file.name), path.join(&file.name)).unwrap();
            }
            let received = Snapshot { meta: snapshot.meta, snapshot: SnapshotDir::open(path).unwrap() };
            target.raft().install_full_snapshot(vote, received).await
        };
        let done = self.net.call(self.from, self.to, call).await;
        let done = done.map_err(|error| lost(format!("{error:?}")))?.map_err(|error| lost(error.to_string()))?;
        self.net.snapshots_sent.fetch_add(1, Ordering::Relaxed);
        Ok(done)
    }
}

/// The way of requests to the leader.
pub struct TestPeers {
    net: Arc<Net>,
    from: u64,
}

impl TestPeers {
    pub fn new(net: Arc<Net>, from: u64) -> Self {
        Self { net, from }
    }

    async fn forward<T, F: Future<Output = Result<T, ConsensusError>>>(
        &self,
        leader: MemberId,
        deadline: Instant,
        call: impl FnOnce(Consensus) -> F,
    ) -> Result<T, ConsensusError> {
        let no_quorum = |happened| ConsensusError::NoQuorum { reason: "the leader was not reached".into(), happened };
        match tokio::time::timeout_at(deadline, self.net.call(self.from, leader.get(), call)).await {
            Ok(Ok(result)) => result,
            Ok(Err(Lost::Request)) => Err(no_quorum(Happened::No)),
            Ok(Err(Lost::Answer)) => Err(no_quorum(Happened::Unknown)),
            Err(_) => Err(ConsensusError::Deadline { waiting_for: "the leader", happened: Happened::Unknown }),
        }
    }
}

impl Peers for TestPeers {
    fn command(
        &self,
        leader: MemberId,
        envelope: Bytes,
        haste: Haste,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Proposed, ConsensusError>> {
        let call = move |target: Consensus| async move { target.propose_here(envelope, haste, deadline).await };
        self.forward(leader, deadline, call).boxed()
    }

    fn barrier(&self, leader: MemberId, deadline: Instant) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        self.forward(leader, deadline, move |target| async move { target.barrier_here(deadline).await }).boxed()
    }

    fn keep_alive(
        &self,
        leader: MemberId,
        lease: LeaseId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        let call = move |target: Consensus| async move { target.keep_alive_here(lease, deadline).await };
        self.forward(leader, deadline, call).boxed()
    }

    fn time_to_live(
        &self,
        leader: MemberId,
        lease: LeaseId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(u64, u64), ConsensusError>> {
        let call = move |target: Consensus| async move { target.time_to_live_here(lease, deadline).await };
        self.forward(leader, deadline, call).boxed()
    }

    fn change(
        &self,
        leader: MemberId,
        change: MembershipChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        let call = move |target: Consensus| async move { target.change_here(change, deadline).await };
        self.forward(leader, deadline, call).boxed()
    }

    fn free_bytes(&self, member: MemberId) -> Option<u64> {
        self.net.free_bytes.lock().get(&member.get()).copied()
    }
}
