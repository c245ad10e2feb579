//! Raft's calls to other members: pipelined appends on a kept stream, votes, transfers, snapshots.
//!
//! Invariants:
//! - Answers to appends are in request order, one for each; a call ends when its input has ended and all answers are in.
//! - A stream is kept for the next call only when nothing is in flight on it and no error was seen, and used only while it stands.
//! - Every answer has a deadline: a lost one must not wedge the follower for good.
//! - Nothing is opened before there is a request to send: openraft's backoff stands before the first one.
//! - A pre-vote that was not answered is an error, never a grant.
//! - Word of a commit alone, an append without entries, waits for the next append while commands in a hurry wait for one,
//!   or while the next one mostly comes soon (`rhythm`), at most 2 ms: what follows says all that it says. Else it goes at
//!   once.
//!   Heartbeats and read barriers are on a stream of their own and say what is committed too.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use quorate_proto::peer::Frame;
use quorate_proto::peer::peer_client::PeerClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::consensus::backlog::Backlog;
use crate::consensus::links::{Links, Purpose};
use crate::consensus::rhythm::Rhythm;
use crate::consensus::rpc_codec as codec;
use crate::consensus::snapshot_send;
use crate::consensus::types::{Node, Snapshot, SnapshotDir, TypeConfig, Vote};
use crate::due;

type RpcError = RPCError<TypeConfig>;
type AppendResult = Result<StreamAppendResult<TypeConfig>, RpcError>;

/// Appends on their way to one follower; also the length of the queue before the socket.
const IN_FLIGHT_MAX: usize = 32;
/// An append's answer may wait for an fsync under load.
const ANSWER_TTL_MIN: Duration = Duration::from_secs(2);

/// How long word of a commit waits for the next append.
const HOLD_MAX: Duration = Duration::from_millis(2);

/// A transfer of leadership waits for the receiver's log to be flushed.
const TRANSFER_TTL_MIN: Duration = Duration::from_secs(1);

/// Makes the connections that Raft asks for.
pub struct NetworkFactory {
    links: Arc<Links>,
    backlog: Backlog,
}

/// Raft's way to one other member.
pub struct PeerNetwork {
    links: Arc<Links>,
    target: u64,
    address: String,
    purpose: Purpose,
    backlog: Backlog,
    rhythm: Rhythm,
    kept: Option<AppendStream>,
}

/// An open stream of appends.
struct AppendStream {
    requests: mpsc::Sender<Frame>,
    answers: Streaming<Frame>,
}

impl AppendStream {
    /// Itself, unless it has ended while it was kept. The next heartbeat must not be lost to that: a leader whose
    /// connections broke is to be heard again within one.
    fn standing(mut self) -> Option<Self> {
        // Nothing is in flight, so whatever is ready is an end.
        self.answers.message().now_or_never().is_none().then_some(self)
    }
}

impl NetworkFactory {
    /// Connections come from `links`; `backlog` says whether commands wait.
    pub fn new(links: Arc<Links>, backlog: Backlog) -> Self {
        Self { links, backlog }
    }

    fn network(&self, target: u64, node: &Node, purpose: Purpose) -> PeerNetwork {
        let address = node.peer_address.clone();
        let (links, backlog) = (self.links.clone(), self.backlog.clone());
        PeerNetwork { links, target, address, purpose, backlog, rhythm: Rhythm::default(), kept: None }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Node) -> PeerNetwork {
        self.network(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> PeerNetwork {
        self.network(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> PeerNetwork {
        self.network(target, node, Purpose::Snapshot)
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotDir;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let input = futures::stream::iter([rpc]);
        let mut answers = self.stream_append(input, option).await?;
        let answer = answers.next().await.ok_or_else(|| network("the stream of appends ended without an answer"))?;
        // The end of the answers puts the stream back.
        answers.next().await;
        answer.map(AppendEntriesResponse::from)
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, Result<BoxStream<'_, AppendResult>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let answer_ttl = match self.purpose {
                Purpose::Heartbeat => option.hard_ttl(),
                _ => option.soft_ttl().max(ANSWER_TTL_MIN),
            };
            // openraft backs off where the first request is asked for: without it, an address that refuses connections
            // would be tried again without end.
            let mut input = input.peekable();
            if Pin::new(&mut input).peek().await.is_none() {
                return Ok(futures::stream::empty().boxed());
            }
            let stream = match self.kept.take().and_then(AppendStream::standing) {
                Some(stream) => stream,
                None => self.open().await?,
            };
            let call =
                AppendCall { network: self, stream, input: Some(input), held: None, due: VecDeque::new(), answer_ttl };
            Ok(futures::stream::unfold(Some(call), next_answer).boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let answer = self.call(codec::encode_vote_request(&rpc), option.hard_ttl(), async |mut peer, request| {
            peer.vote(request).await
        });
        codec::decode_vote_response(answer.await?).map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let answer = self.call(codec::encode_vote_request(&rpc), option.hard_ttl(), async |mut peer, request| {
            peer.pre_vote(request).await
        });
        codec::decode_vote_response(answer.await?).map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sent = snapshot_send::send(&self.links, self.target, &self.address, vote, snapshot);
        tokio::select! {
            sent = sent => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                // Anything is said to be the other side's, so that Raft backs off: a storage error would end the leader.
                Err(error) => Err(StreamingError::Unreachable(Unreachable::from_string(error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        // The receiver first waits until its log is flushed; giving up would make it forget the request.
        let ttl = option.hard_ttl().max(TRANSFER_TTL_MIN);
        let answer = self
            .call(codec::encode_transfer(&request), ttl, async |mut peer, request| peer.transfer_leader(request).await);
        codec::decode_transferred(answer.await?).map_err(unreachable)
    }

    fn backoff(&self) -> Option<Backoff> {
        // A refused connection costs little; a member that is back should hear from its leader soon.
        Some(Backoff::new([50, 100].into_iter().chain(std::iter::repeat(200)).map(Duration::from_millis)))
    }
}

impl PeerNetwork {
    async fn call(
        &self,
        body: bytes::Bytes,
        ttl: Duration,
        call: impl AsyncFnOnce(PeerClient<Channel>, Request<Frame>) -> Result<Response<Frame>, Status>,
    ) -> Result<bytes::Bytes, RpcError> {
        let peer = self.links.peer(self.target, &self.address, self.purpose).map_err(unreachable)?;
        let request = self.links.local().mark(self.target, Frame { body }).map_err(unreachable)?;
        match tokio::time::timeout(ttl, call(peer, request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().body),
            Ok(Err(status)) => {
                self.links.local().heed(&status);
                Err(unreachable(status.message()))
            }
            Err(_) => Err(unreachable(format!("no answer within {} ms", ttl.as_millis()))),
        }
    }

    async fn open(&self) -> Result<AppendStream, RpcError> {
        let mut peer = self.links.peer(self.target, &self.address, self.purpose).map_err(unreachable)?;
        let (requests, queue) = mpsc::channel(IN_FLIGHT_MAX);
        let request = self.links.local().mark(self.target, ReceiverStream::new(queue)).map_err(unreachable)?;
        let ttl = self.links.timing().election_max;
        match tokio::time::timeout(ttl, peer.append(request)).await {
            Ok(Ok(answers)) => Ok(AppendStream { requests, answers: answers.into_inner() }),
            Ok(Err(status)) => {
                self.links.local().heed(&status);
                Err(unreachable(status.message()))
            }
            Err(_) => Err(unreachable(format!("no stream of appends within {} ms", ttl.as_millis()))),
        }
    }
}

/// One call of `stream_append`.
struct AppendCall<'s, S> {
    network: &'s mut PeerNetwork,
    stream: AppendStream,
    /// `None` when it has ended.
    input: Option<S>,
    /// Word of a commit that waits for the next append, and until when.
    held: Option<(AppendEntriesRequest<TypeConfig>, Instant)>,
    /// When each answer that is awaited must be in.
    due: VecDeque<Instant>,
    answer_ttl: Duration,
}

/// What happens next in a call.
enum Step {
    Answer(Result<Option<Frame>, Status>),
    Late,
    Request(Option<AppendEntriesRequest<TypeConfig>>),
    /// What is held has waited long enough.
    Release,
}

/// The next answer, and the call if it goes on.
async fn next_answer<S>(call: Option<AppendCall<'_, S>>) -> Option<(AppendResult, Option<AppendCall<'_, S>>)>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    let mut call = call?;
    loop {
        if call.input.is_none() && call.due.is_empty() {
            call.network.kept = Some(call.stream);
            return None;
        }
        let request = match call.step().await {
            Step::Answer(answer) => {
                let answer = call.answer(answer);
                let goes_on = matches!(answer, Ok(Ok(_)));
                return Some((answer, goes_on.then_some(call)));
            }
            Step::Late => {
                let error = network(format!("no answer to an append within {} ms", call.answer_ttl.as_millis()));
                return Some((Err(error), None));
            }
            Step::Request(Some(request)) => call.hold(request),
            Step::Request(None) => {
                call.input = None;
                call.release()
            }
            Step::Release => {
                call.network.rhythm.mistaken();
                call.release()
            }
        };
        if let Some(request) = request
            && let Err(error) = call.send(&request)
        {
            return Some((Err(error), None));
        }
    }
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> AppendCall<'_, S> {
    /// Answers first; more requests only while few are in flight.
    async fn step(&mut self) -> Step {
        let late = self.due.front().copied();
        let until = self.held.as_ref().map(|(_, until)| *until);
        let may_send = self.due.len() < IN_FLIGHT_MAX;
        let (answers, input) = (&mut self.stream.answers, &mut self.input);
        let request = async {
            match input {
                Some(input) if may_send => input.next().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answers.message() => Step::Answer(answer),
            request = request => Step::Request(request),
            () = due::at(until) => Step::Release,
            () = due::at(late) => Step::Late,
        }
    }

    /// What is to be sent now: nothing, if it is word of a commit that the next append will bring as well.
    fn hold(&mut self, request: AppendEntriesRequest<TypeConfig>) -> Option<AppendEntriesRequest<TypeConfig>> {
        // What was held says nothing that this one does not say.
        let until = self.held.take().map_or_else(|| Instant::now() + HOLD_MAX, |(_, until)| until);
        let network = &mut *self.network;
        if !request.entries.is_empty() {
            network.rhythm.appended();
            return Some(request);
        }
        let relied = network.rhythm.committed();
        let follows = relied || network.backlog.follows_soon();
        if follows && matches!(network.purpose, Purpose::Append) {
            self.held = Some((request, until));
            return None;
        }
        Some(request)
    }

    fn release(&mut self) -> Option<AppendEntriesRequest<TypeConfig>> {
        self.held.take().map(|(request, _)| request)
    }

    fn send(&mut self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), RpcError> {
        let frame = Frame { body: codec::encode_append(request) };
        // The queue is as long as what may be in flight, so it is full only when the stream is dead.
        self.stream.requests.try_send(frame).map_err(|_| network("the stream of appends has ended"))?;
        self.due.push_back(Instant::now() + self.answer_ttl);
        Ok(())
    }

    fn answer(&mut self, answer: Result<Option<Frame>, Status>) -> AppendResult {
        match answer {
            // Trying again at once cannot help when the two sides do not understand each other.
            Ok(Some(frame)) if self.due.pop_front().is_some() => {
                codec::decode_appended(frame.body).map_err(unreachable)
            }
            Ok(Some(_)) => Err(network("an answer to no append")),
            Ok(None) => Err(network("the other side ended the stream of appends")),
            Err(status) => {
                self.network.links.local().heed(&status);
                match status.code() {
                    Code::InvalidArgument => Err(unreachable(status.message())),
                    _ => Err(network(status.message())),
                }
            }
        }
    }
}

/// An error after which Raft tries again at once.
fn network(what: impl ToString) -> RpcError {
    RPCError::Network(NetworkError::from_string(what))
}

/// An error after which Raft waits before it tries again.
fn unreachable(what: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(what))
}

#[cfg(test)]
#[path = "network/tests.rs"]
mod tests;
