//! The peer port: hands what other members say to Raft, to the leader's side of forwarding, and to whoever asks who
//! this member is.
//!
//! Invariants:
//! - Everything but Hello is checked for cluster, sender and receiver before it is looked at.
//! - What arrives before Raft is built, or while the member stops, is refused as unavailable: nothing is dropped silently.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, OnceLock};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::RaftError;
use openraft::raft::SnapshotResponse;
use quorate_proto::peer::peer_server::{Peer, PeerServer};
use quorate_proto::peer::{
    DigestsRequest, DigestsResponse, ForwardRequest, ForwardResponse, Frame, HelloRequest, HelloResponse,
};
use quorate_proto::{ClusterId, MemberId};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::consensus::Consensus;
use crate::consensus::codec::CodecError;
use crate::consensus::digests;
use crate::consensus::forward::Forwarder;
use crate::consensus::forward_server::ForwardServer;
use crate::consensus::links::{Links, LocalMember, MESSAGE_BYTES_MAX, WINDOW_BYTES};
use crate::consensus::rpc_codec as codec;
use crate::consensus::snapshot_send::{Received, Receiver};
use crate::consensus::types::{Raft, TypeConfig};
use crate::tasks::{Task, Tasks};

/// Serves the peer port. Cheap to clone.
#[derive(Clone)]
pub struct PeerDoor {
    shared: Arc<Shared>,
}

struct Shared {
    local: Arc<LocalMember>,
    links: Arc<Links>,
    forwarder: Forwarder,
    receiver: Arc<Receiver>,
    tasks: Tasks,
    consensus: OnceLock<Consensus>,
}

impl PeerDoor {
    /// Knows who it is; answers Hello only, until [`PeerDoor::open`].
    pub fn new(links: Arc<Links>, forwarder: Forwarder, receiver: Arc<Receiver>, tasks: Tasks) -> Self {
        let local = links.local().clone();
        let consensus = OnceLock::new();
        Self { shared: Arc::new(Shared { local, links, forwarder, receiver, tasks, consensus }) }
    }

    /// Raft is built: from now on its messages are taken.
    pub fn open(&self, consensus: Consensus) {
        self.shared.local.set_raft(consensus.raft().clone());
        // Only a second start could set it again, which the data directory's lock excludes.
        let _ = self.shared.consensus.set(consensus);
    }

    /// Serves until the member stops.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        let timing = *self.shared.links.timing();
        let tasks = self.shared.tasks.clone();
        let service = PeerServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let serving = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(timing.election_max))
            .http2_keepalive_timeout(Some(timing.election_max * 2))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), tasks.stopped());
        serving.await.map_err(io::Error::other)
    }

    fn consensus(&self) -> Result<&Consensus, Status> {
        let consensus = self.shared.consensus.get().filter(|_| !self.shared.tasks.is_stopping());
        consensus.ok_or_else(|| {
            Status::unavailable(format!("member {} is not running (starting or stopping)", self.shared.local.id()))
        })
    }

    /// Checks a message that Raft is to have.
    fn take<T>(&self, request: Request<T>) -> Result<(MemberId, &Consensus, T), Status> {
        let from = self.shared.local.check(request.metadata())?;
        Ok((from, self.consensus()?, request.into_inner()))
    }

    /// Installs what was received. A task of its own keeps the turn to the end, whatever becomes of the caller.
    async fn install(&self, raft: Raft, received: Received) -> Result<SnapshotResponse<TypeConfig>, String> {
        let (answer, answered) = oneshot::channel();
        let install = async move {
            let Received { vote, snapshot, turn } = received;
            let response = raft.install_full_snapshot(vote, snapshot).await;
            drop(turn);
            // The sender may have gone meanwhile; it offers again.
            let _ = answer.send(response.map_err(|fatal| fatal.to_string()));
            Ok::<(), Infallible>(())
        };
        self.shared.tasks.spawn(Task::SnapshotInstall, &Handle::current(), install);
        answered.await.map_err(|_| "the member stops".to_owned())?
    }

    fn until_stopped<S>(&self, stream: S) -> impl Stream<Item = S::Item> + Send + 'static
    where
        S: Stream + Send + 'static,
    {
        let tasks = self.shared.tasks.clone();
        stream.take_until(async move { tasks.stopped().await })
    }
}

#[tonic::async_trait]
impl Peer for PeerDoor {
    type AppendStream = BoxStream<'static, Result<Frame, Status>>;
    type ForwardStream = BoxStream<'static, Result<ForwardResponse, Status>>;

    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let asker = request.into_inner();
        let local = &self.shared.local;
        let members: Vec<u64> = local.metrics().map_or_else(Vec::new, |metrics| {
            metrics.membership_config.membership().nodes().map(|(id, _)| *id).collect()
        });
        let cluster = local.cluster().map_or(0, ClusterId::get);
        Ok(Response::new(HelloResponse {
            member_id: local.id().get(),
            cluster_id: cluster,
            name: local.name().to_owned(),
            client_address: local.client_address().to_owned(),
            initialised: !members.is_empty(),
            asker_removed: asker.cluster_id == cluster && local.was_removed(asker.member_id, asker.membership_index),
            members,
            state_version_max: local.state_version_max(),
        }))
    }

    async fn append(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::AppendStream>, Status> {
        let (from, consensus, frames) = self.take(request)?;
        let heard = consensus.contacts().open(from);
        // The sender is told, so that it waits before it tries again.
        let (unread, refusal) = oneshot::channel();
        let mut unread = Some(unread);
        let decode = move |frame: Result<Frame, Status>| match codec::decode_append(frame.ok()?.body) {
            Ok(request) => {
                heard.arrived();
                Some(request)
            }
            Err(error) => {
                tracing::error!(%from, %error, "an append cannot be read");
                if let Some(unread) = unread.take() {
                    // The sender may be gone.
                    let _ = unread.send(invalid(error));
                }
                None
            }
        };
        let requests = frames.map(decode).take_while(|request| std::future::ready(request.is_some()));
        let requests = requests.filter_map(std::future::ready);
        let answers = consensus.raft().stream_append(self.until_stopped(requests)).map(|answer| match answer {
            Ok(answer) => Ok(Frame { body: codec::encode_appended(&answer) }),
            Err(fatal) => Err(Status::unavailable(fatal.to_string())),
        });
        // Ready when the appends have ended, with a refusal if that is why: `decode` is gone by then.
        let refusal = futures::stream::once(refusal).filter_map(|refusal| std::future::ready(refusal.ok().map(Err)));
        Ok(Response::new(self.until_stopped(answers.chain(refusal)).boxed()))
    }

    async fn vote(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let (_, consensus, frame) = self.take(request)?;
        let request = codec::decode_vote_request(frame.body).map_err(invalid)?;
        let response = consensus.raft().vote(request).await.map_err(failed)?;
        Ok(Response::new(Frame { body: codec::encode_vote_response(&response) }))
    }

    async fn pre_vote(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let (_, consensus, frame) = self.take(request)?;
        let request = codec::decode_vote_request(frame.body).map_err(invalid)?;
        let response = consensus.raft().pre_vote(request).await.map_err(failed)?;
        Ok(Response::new(Frame { body: codec::encode_vote_response(&response) }))
    }

    async fn transfer_leader(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let (_, consensus, frame) = self.take(request)?;
        let request = codec::decode_transfer(frame.body).map_err(invalid)?;
        let response = consensus.raft().handle_transfer_leader(request).await;
        let response = response.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        Ok(Response::new(Frame { body: codec::encode_transferred(&response) }))
    }

    async fn snapshot_offer(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let (from, _, frame) = self.take(request)?;
        let body = self.shared.receiver.offer(from, frame.body).await?;
        Ok(Response::new(Frame { body }))
    }

    async fn snapshot_send(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frame>, Status> {
        let (from, consensus, frames) = self.take(request)?;
        let received = self.shared.receiver.receive(from, frames).await?;
        tracing::info!(%from, meta = %received.snapshot.meta, "a snapshot has arrived");
        let response = self.install(consensus.raft().clone(), received).await;
        let response = response.map_err(Status::unavailable)?;
        Ok(Response::new(Frame { body: codec::encode_vote_only(&response.vote) }))
    }

    async fn digests(&self, request: Request<DigestsRequest>) -> Result<Response<DigestsResponse>, Status> {
        let (_, consensus, DigestsRequest {}) = self.take(request)?;
        let said = consensus.said().map_err(|fault| Status::internal(fault.to_string()))?;
        Ok(Response::new(digests::encode(said)))
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let (from, consensus, requests) = self.take(request)?;
        let server = ForwardServer {
            consensus: consensus.clone(),
            forwarder: self.shared.forwarder.clone(),
            local: self.shared.local.clone(),
            tasks: self.shared.tasks.clone(),
        };
        Ok(Response::new(server.serve(from, requests).boxed()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn invalid(error: CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: RaftError<TypeConfig>) -> Status {
    Status::unavailable(error.to_string())
}
