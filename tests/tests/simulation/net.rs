//! The network of a simulation: members call each other in process, and each message is on its way for a while, or
//! lost, or delivered twice, or overtaken by another.
//!
//! Invariants:
//! - Each direction between two members is cut by itself; what is under way when a cut begins is lost.
//! - A process that has crashed sends nothing any more; what it had sent may still arrive.
//! - A request that arrived is worked on to its end, whether its sender still waits or not.
//! - "It was not sent" is said only where nobody listens at the other end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
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
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::service::Routes;

use crate::dice::Dice;
use crate::trace::Trace;

/// How long an append or a vote waits for its answer: a little longer than TCP takes to send again what was lost.
const ANSWER_PATIENCE: Duration = Duration::from_millis(300);
/// After so long a stream of requests counts as broken.
const STREAM_PATIENCE: Duration = Duration::from_secs(1);
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(5);

/// What the network is like just now.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub delay_ms: (u64, u64),
    /// So many of a thousand messages take as long as this instead.
    pub late_per_mille: u32,
    pub late_ms: (u64, u64),
    pub lost_per_mille: u32,
    pub twice_per_mille: u32,
}

impl Weather {
    pub const FAIR: Self =
        Self { delay_ms: (0, 2), late_per_mille: 10, late_ms: (5, 30), lost_per_mille: 0, twice_per_mille: 2 };
    pub const ROUGH: Self =
        Self { delay_ms: (1, 10), late_per_mille: 60, late_ms: (50, 400), lost_per_mille: 30, twice_per_mille: 30 };
}

/// One process of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub id: u64,
    pub process: u64,
}

/// Who is reached under an address.
#[derive(Clone)]
pub struct End {
    pub process: u64,
    pub consensus: Consensus,
    /// The doors, once they are open.
    pub routes: Option<Routes>,
}

/// What a message is, in the trace, and whether it may come twice.
pub struct What {
    text: String,
    repeatable: bool,
}

/// A message that may come twice.
fn message(text: impl Into<String>) -> What {
    What { text: text.into(), repeatable: true }
}

/// One that comes once: its senders do not repeat it either.
fn once(text: impl Into<String>) -> What {
    What { text: text.into(), repeatable: false }
}

/// Why no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nobody listens there.
    Refused,
    /// The request, or its answer, was lost, or took too long.
    Somewhere,
}

pub struct Net {
    dice: Dice,
    trace: Trace,
    /// Told of each command that arrives at a leader.
    pub commands: Notify,
    state: Mutex<State>,
}

struct State {
    ends: BTreeMap<u64, End>,
    cut: BTreeSet<(u64, u64)>,
    /// Ways on which appends are lost, and smaller messages are not.
    narrow: BTreeSet<(u64, u64)>,
    weather: Weather,
    received: u64,
}

impl Net {
    pub fn new(dice: Dice, trace: Trace) -> Arc<Self> {
        let state = State {
            ends: BTreeMap::new(),
            cut: BTreeSet::new(),
            narrow: BTreeSet::new(),
            weather: Weather::FAIR,
            received: 0,
        };
        Arc::new(Self { dice, trace, commands: Notify::new(), state: Mutex::new(state) })
    }

    pub fn listen(&self, id: u64, end: End) {
        self.state.lock().ends.insert(id, end);
    }

    pub fn hang_up(&self, id: u64) {
        self.state.lock().ends.remove(&id);
    }

    pub fn end(&self, id: u64) -> Option<End> {
        self.state.lock().ends.get(&id).cloned()
    }

    /// Whether this very process is still there.
    pub fn runs(&self, origin: Origin) -> bool {
        self.state.lock().ends.get(&origin.id).is_some_and(|end| end.process == origin.process)
    }

    pub fn cut(&self, ways: impl IntoIterator<Item = (u64, u64)>) {
        self.state.lock().cut.extend(ways);
    }

    pub fn open(&self, ways: impl IntoIterator<Item = (u64, u64)>) {
        let mut state = self.state.lock();
        for way in ways {
            state.cut.remove(&way);
        }
    }

    /// From now on ways are so narrow that appends do not get through.
    pub fn lose_appends(&self, ways: impl IntoIterator<Item = (u64, u64)>) {
        self.state.lock().narrow.extend(ways);
    }

    pub fn carry_appends(&self) {
        self.state.lock().narrow.clear();
    }

    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.cut.clear();
        state.narrow.clear();
    }

    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// True so often of a thousand.
    pub fn happens(&self, per_mille: u32) -> bool {
        self.dice.happens(per_mille)
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.state.lock().cut.contains(&(from, to))
    }

    /// Carries a message; false when it is lost on the way.
    pub async fn carry(&self, from: u64, to: u64) -> bool {
        let weather = self.state.lock().weather;
        let (low, high) = if self.dice.happens(weather.late_per_mille) { weather.late_ms } else { weather.delay_ms };
        let lost = self.dice.happens(weather.lost_per_mille) || self.is_cut(from, to);
        sleep(self.dice.between_ms(low, high)).await;
        !lost && !self.is_cut(from, to)
    }

    /// Asks `to`, and waits for its answer as long as patience lasts.
    pub async fn call<T, F>(
        self: &Arc<Self>,
        from: Origin,
        to: u64,
        patience: Duration,
        what: What,
        ask: impl Fn(Consensus) -> F + Clone + Send + 'static,
    ) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let until = Instant::now() + patience;
        let lost = async {
            sleep_until(until).await;
            Err(Lost::Somewhere)
        };
        if !self.runs(from) || !self.carry(from.id, to).await {
            return lost.await;
        }
        let Some(end) = self.end(to) else { return Err(Lost::Refused) };
        self.trace.note(format!("{}→{to} {}", from.id, what.text));
        let twice_per_mille = self.state.lock().weather.twice_per_mille;
        if what.repeatable && self.dice.happens(twice_per_mille) {
            self.again(from.id, to, what.text, ask.clone());
        }
        let (sender, answer) = oneshot::channel();
        let net = Arc::clone(self);
        tokio::spawn(async move {
            let answer = ask(end.consensus).await;
            if net.runs(Origin { id: to, process: end.process }) && net.carry(to, from.id).await {
                let _ = sender.send(answer);
            }
        });
        match timeout_at(until, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => lost.await,
        }
    }

    /// The same request once more, a while later; nobody waits for its answer.
    fn again<T, F>(self: &Arc<Self>, from: u64, to: u64, what: String, ask: impl Fn(Consensus) -> F + Send + 'static)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let net = Arc::clone(self);
        tokio::spawn(async move {
            if !net.carry(from, to).await {
                return;
            }
            if let Some(end) = net.end(to) {
                net.trace.note(format!("{from}→{to} {what}, again"));
                drop(ask(end.consensus).await);
            }
        });
    }
}

/// openraft's network, one way.
pub struct Link {
    net: Arc<Net>,
    from: Origin,
    to: u64,
}

#[derive(Clone)]
pub struct Links {
    pub net: Arc<Net>,
    pub from: Origin,
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;
    async fn new_client(&mut self, target: u64, _node: &Node) -> Link {
        Link { net: Arc::clone(&self.net), from: self.from, to: target }
    }
}

fn failed(lost: Lost) -> RPCError<TypeConfig> {
    match lost {
        Lost::Refused => RPCError::Unreachable(Unreachable::from_string("nobody listens")),
        Lost::Somewhere => RPCError::Network(NetworkError::from_string("no answer")),
    }
}

/// The other side has ended.
fn ended(error: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotDir;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let from = MemberId::new(self.from.id).unwrap();
        let index = |id: Option<quorate_server::consensus::types::LogId>| id.map_or(-1, |id| id.index as i64);
        let (after, committed) = (index(rpc.prev_log_id), index(rpc.leader_commit));
        let what = message(format!("append {} after {after}, committed {committed}", rpc.entries.len()));
        if self.net.state.lock().narrow.contains(&(self.from.id, self.to)) {
            sleep(ANSWER_PATIENCE).await;
            return Err(failed(Lost::Somewhere));
        }
        let ask = move |target: Consensus| {
            let rpc = rpc.clone();
            async move {
                target.contacts().open(from).arrived();
                target.raft().append_entries(rpc).await
            }
        };
        self.net.call(self.from, self.to, ANSWER_PATIENCE, what, ask).await.map_err(failed)?.map_err(ended)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let what = message(format!("vote {}", rpc.vote));
        let ask = move |target: Consensus| {
            let rpc = rpc.clone();
            async move { target.raft().vote(rpc).await }
        };
        self.net.call(self.from, self.to, ANSWER_PATIENCE, what, ask).await.map_err(failed)?.map_err(ended)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let what = message(format!("pre-vote {}", rpc.vote));
        let ask = move |target: Consensus| {
            let rpc = rpc.clone();
            async move { target.raft().pre_vote(rpc).await }
        };
        self.net.call(self.from, self.to, ANSWER_PATIENCE, what, ask).await.map_err(ended_early)?.map_err(ended)
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ask = move |target: Consensus| {
            let rpc = rpc.clone();
            async move { target.raft().handle_transfer_leader(rpc).await }
        };
        let what = once("transfer");
        self.net.call(self.from, self.to, ANSWER_PATIENCE, what, ask).await.map_err(failed)?.map_err(ended)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let lost = |error: String| StreamingError::Unreachable(Unreachable::from_string(error));
        let number = {
            let mut state = self.net.state.lock();
            state.received += 1;
            state.received
        };
        let ask = move |target: Consensus| {
            let snapshot = snapshot.clone();
            async move {
                // A second copy of the same message has no second transfer.
                let path = target.snapshots().root().join(format!("received-{number}"));
                if std::fs::create_dir(&path).is_err() {
                    return None;
                }
                for file in snapshot.snapshot.files() {
                    std::fs::copy(snapshot.snapshot.path().join(&file.name), path.join(&file.name)).unwrap();
                }
                let received = Snapshot { meta: snapshot.meta, snapshot: SnapshotDir::open(path).unwrap() };
                Some(target.raft().install_full_snapshot(vote, received).await)
            }
        };
        let what = message("snapshot");
        let done = self.net.call(self.from, self.to, SNAPSHOT_PATIENCE, what, ask).await;
        let done = done.map_err(|error| lost(format!("{error:?}")))?;
        done.ok_or_else(|| lost("it came twice".to_owned()))?.map_err(|error| lost(error.to_string()))
    }
}

/// A pre-vote that fails says nothing: openraft asks for this error.
fn ended_early(_: Lost) -> RPCError<TypeConfig> {
    ended("no answer")
}

/// The way of requests to the leader.
pub struct SimPeers {
    pub net: Arc<Net>,
    pub from: Origin,
}

impl SimPeers {
    async fn forward<T, F>(
        &self,
        leader: MemberId,
        deadline: Instant,
        what: What,
        ask: impl Fn(Consensus) -> F + Clone + Send + 'static,
    ) -> Result<T, ConsensusError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ConsensusError>> + Send + 'static,
    {
        let no_quorum = |happened| ConsensusError::NoQuorum { reason: "the leader was not reached".into(), happened };
        // As on the real way: a stream that breaks is noticed long before a deadline; a change may take long.
        let patience = if what.repeatable { STREAM_PATIENCE } else { Duration::MAX };
        let patience = deadline.saturating_duration_since(Instant::now()).min(patience);
        match self.net.call(self.from, leader.get(), patience, what, ask).await {
            Ok(result) => result,
            Err(Lost::Refused) => Err(no_quorum(Happened::No)),
            Err(Lost::Somewhere) => Err(no_quorum(Happened::Unknown)),
        }
    }
}

impl Peers for SimPeers {
    fn command(
        &self,
        leader: MemberId,
        envelope: Bytes,
        haste: Haste,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Proposed, ConsensusError>> {
        let what = message(format!("command of {} bytes", envelope.len()));
        let net = Arc::clone(&self.net);
        let ask = move |target: Consensus| {
            net.commands.notify_waiters();
            let envelope = envelope.clone();
            async move { target.propose_here(envelope, haste, deadline).await }
        };
        self.forward(leader, deadline, what, ask).boxed()
    }

    fn barrier(&self, leader: MemberId, deadline: Instant) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        let ask = move |target: Consensus| async move { target.barrier_here(deadline).await };
        self.forward(leader, deadline, message("barrier"), ask).boxed()
    }

    fn keep_alive(
        &self,
        leader: MemberId,
        lease: LeaseId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        let ask = move |target: Consensus| async move { target.keep_alive_here(lease, deadline).await };
        self.forward(leader, deadline, message(format!("keep-alive {lease}")), ask).boxed()
    }

    fn time_to_live(
        &self,
        leader: MemberId,
        lease: LeaseId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(u64, u64), ConsensusError>> {
        let ask = move |target: Consensus| async move { target.time_to_live_here(lease, deadline).await };
        self.forward(leader, deadline, message(format!("time to live {lease}")), ask).boxed()
    }

    fn change(
        &self,
        leader: MemberId,
        change: MembershipChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        let what = once(format!("{change:?}"));
        let ask = move |target: Consensus| {
            let change = change.clone();
            async move { target.change_here(change, deadline).await }
        };
        self.forward(leader, deadline, what, ask).boxed()
    }

    fn free_bytes(&self, _member: MemberId) -> Option<u64> {
        None
    }
}
