//! A member that answers by script, for tests of the client: real sockets, no cluster.
//!
//! Invariants:
//! - Everything that a fake was sent is recorded before it answers.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::batch_answer::Answer;
use quorate_proto::v1::batch_item::Request as Item;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::Client;

mod locks;

pub(crate) use locks::{Locks, Turn};

/// What a fake does with a request of the key space.
pub(crate) enum Reply {
    Answer(Answer),
    Refuse(Status),
    /// Never answers.
    Hang,
    /// Ends the stream, or the unary call, without an answer.
    Break,
}

type OnItem = dyn Fn(usize, &Item) -> Reply + Send + Sync;
type OnWatch = dyn Fn(usize, v1::WatchCreate, WatchPipe) -> BoxFuture<'static, ()> + Send + Sync;
type OnKeepAlive = dyn Fn(usize, i64) -> Option<u64> + Send + Sync;

/// Both ends of a watch stream as the fake has it.
pub(crate) struct WatchPipe {
    pub(crate) requests: Streaming<v1::WatchRequest>,
    pub(crate) answers: mpsc::Sender<Result<v1::WatchResponse, Status>>,
}

impl WatchPipe {
    pub(crate) async fn created(&self, revision: i64) {
        let header = Some(v1::Header { revision, ..Default::default() });
        self.send(v1::WatchResponse { header, created: true, ..Default::default() }).await;
    }

    pub(crate) async fn events(&self, revisions: &[(i64, &'static str)], fragment: bool) {
        let events = revisions.iter().map(|(revision, key)| put_event(key, *revision)).collect();
        self.send(v1::WatchResponse { events, fragment, ..Default::default() }).await;
    }

    pub(crate) async fn progress(&self, revision: i64) {
        self.send(v1::WatchResponse { progress_revision: revision, ..Default::default() }).await;
    }

    pub(crate) async fn end(&self, reason: v1::watch_end::Reason, compact_revision: i64) {
        let end = v1::WatchEnd { reason: reason.into(), message: String::new(), compact_revision };
        self.send(v1::WatchResponse { end: Some(end), ..Default::default() }).await;
    }

    pub(crate) async fn send(&self, response: v1::WatchResponse) {
        let response = v1::WatchResponse { watch_id: 1, ..response };
        // The client may be gone.
        let _ = self.answers.send(Ok(response)).await;
    }
}

pub(crate) fn put_event(key: &'static str, revision: i64) -> v1::Event {
    v1::Event { kv: Some(kv(key, "v", revision)), ..Default::default() }
}

pub(crate) fn kv(key: &'static str, value: &'static str, mod_revision: i64) -> v1::KeyValue {
    v1::KeyValue { key: key.into(), value: value.into(), mod_revision, version: 1, ..Default::default() }
}

/// What a fake does, and what it was sent.
#[derive(Clone)]
pub(crate) struct Script {
    item: Arc<OnItem>,
    watch: Arc<OnWatch>,
    keep_alive: Arc<OnKeepAlive>,
    locks: Locks,
    batch: bool,
    /// Answers of one message come last first.
    reversed: bool,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) items: Vec<Item>,
    /// Items in each message of a batch stream.
    pub(crate) messages: Vec<usize>,
    pub(crate) unary: usize,
    pub(crate) watches: Vec<v1::WatchCreate>,
    pub(crate) keep_alives: Vec<i64>,
    pub(crate) keep_alive_streams: usize,
    pub(crate) revoked: Vec<i64>,
    pub(crate) grants: Vec<v1::GrantRequest>,
    pub(crate) statuses: usize,
    pub(crate) member_adds: usize,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            item: Arc::new(|_, item| Reply::Answer(usual(item))),
            watch: Arc::new(|_, _, _| Box::pin(futures::future::pending())),
            keep_alive: Arc::new(|_, _| Some(60_000)),
            locks: Locks::default(),
            batch: true,
            reversed: false,
            seen: Arc::default(),
        }
    }
}

impl Script {
    /// Answers the requests of the key space; counted from 0.
    pub(crate) fn on_item(mut self, item: impl Fn(usize, &Item) -> Reply + Send + Sync + 'static) -> Self {
        self.item = Arc::new(item);
        self
    }

    /// Serves watches; counted from 0.
    pub(crate) fn on_watch<F: Future<Output = ()> + Send + 'static>(
        mut self,
        watch: impl Fn(usize, v1::WatchCreate, WatchPipe) -> F + Send + Sync + 'static,
    ) -> Self {
        self.watch = Arc::new(move |nth, create, pipe| Box::pin(watch(nth, create, pipe)));
        self
    }

    /// Answers keep-alives with a time to live, or not at all; counted from 0.
    pub(crate) fn on_keep_alive(mut self, answer: impl Fn(usize, i64) -> Option<u64> + Send + Sync + 'static) -> Self {
        self.keep_alive = Arc::new(answer);
        self
    }

    /// Serves locks and elections.
    pub(crate) fn with_locks(mut self, locks: &Locks) -> Self {
        self.locks = locks.clone();
        self
    }

    pub(crate) fn without_batch(mut self) -> Self {
        self.batch = false;
        self
    }

    pub(crate) fn reversed(mut self) -> Self {
        self.reversed = true;
        self
    }

    fn take(&self, item: &Item) -> Reply {
        let nth = {
            let mut seen = self.seen.lock();
            seen.items.push(item.clone());
            seen.items.len() - 1
        };
        (self.item)(nth, item)
    }

    async fn unary(&self, item: Item) -> Result<Answer, Status> {
        self.seen.lock().unary += 1;
        match self.take(&item) {
            Reply::Answer(answer) => Ok(answer),
            Reply::Refuse(status) => Err(status),
            Reply::Hang => futures::future::pending().await,
            Reply::Break => Err(Status::unavailable("broken")),
        }
    }

    /// Starts the fake on a port of its own.
    pub(crate) fn start(self) -> Fake {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script = self.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let batch = script.batch.then(|| v1::batch_server::BatchServer::new(script.clone()));
            tonic::transport::Server::builder()
                .add_service(v1::kv_server::KvServer::new(script.clone()))
                .add_service(v1::watch_server::WatchServer::new(script.clone()))
                .add_service(v1::lease_server::LeaseServer::new(script.clone()))
                .add_service(v1::lock_server::LockServer::new(script.locks.clone()))
                .add_service(v1::election_server::ElectionServer::new(script.locks.clone()))
                .add_service(v1::admin_server::AdminServer::new(script.clone()))
                .add_service(v1::cluster_server::ClusterServer::new(script))
                .add_optional_service(batch)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        Fake { address, script: self, runtime: Some(runtime) }
    }
}

/// A running fake. Dropped, all its connections break.
pub(crate) struct Fake {
    pub(crate) address: String,
    pub(crate) script: Script,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Fake {
    /// A client of this fake alone.
    pub(crate) fn client(&self) -> Client {
        Client::builder().endpoints([&self.address]).build().unwrap()
    }

    /// The write ids of all puts that came.
    pub(crate) fn put_ids(&self) -> Vec<v1::WriteId> {
        let id = |item: &Item| match item {
            Item::Put(put) => put.id,
            _ => None,
        };
        self.script.seen.lock().items.iter().filter_map(id).collect()
    }
}

/// The answer of a member to which nothing special happens.
pub(crate) fn usual(item: &Item) -> Answer {
    let header = Some(v1::Header { revision: 5, ..Default::default() });
    match item {
        Item::Get(_) => Answer::Get(v1::GetResponse { header, kv: None }),
        Item::Put(put) => {
            Answer::Put(v1::PutResponse { header, key: put.key.clone(), log_index: 100, ..Default::default() })
        }
        Item::Delete(_) => Answer::Delete(v1::DeleteResponse { header, log_index: 100, ..Default::default() }),
        Item::Range(_) => Answer::Range(v1::RangeResponse { header, ..Default::default() }),
        Item::Txn(_) => Answer::Txn(v1::TxnResponse { header, log_index: 100, ..Default::default() }),
    }
}

/// A refusal as members send it.
pub(crate) fn refusal(
    kind: v1::error_detail::Kind,
    happened: v1::error_detail::Happened,
    retry_after_ms: u64,
) -> Status {
    let detail = v1::ErrorDetail { kind: kind.into(), happened: happened.into(), retry_after_ms, ..Default::default() };
    Status::with_details(Code::Unavailable, format!("{kind:?}"), detail.encode_to_vec().into())
}

/// A method as `async_trait` writes it: that macro does not see into this one.
macro_rules! method {
    ($method:ident, $request:ident => $answer:ident, $self:ident, $given:ident, $body:expr) => {
        fn $method<'life0, 'async_trait>(
            &'life0 $self,
            $given: Request<v1::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<v1::$answer>, Status>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin($body)
        }
    };
}

macro_rules! unary {
    ($($method:ident: $kind:ident, $request:ident => $answer:ident;)*) => {$(
        method!($method, $request => $answer, self, request, async move {
            match Script::unary(self, Item::$kind(request.into_inner())).await? {
                Answer::$kind(answer) => Ok(Response::new(answer)),
                other => panic!("the script answers {other:?}"),
            }
        });
    )*};
}

macro_rules! unimplemented {
    ($($method:ident, $request:ident => $answer:ident;)*) => {$(
        method!($method, $request => $answer, self, _request, async {
            Err(Status::unimplemented("not in this fake"))
        });
    )*};
}

#[tonic::async_trait]
impl v1::kv_server::Kv for Script {
    unary! {
        get: Get, GetRequest => GetResponse;
        put: Put, PutRequest => PutResponse;
        delete: Delete, DeleteRequest => DeleteResponse;
        range: Range, RangeRequest => RangeResponse;
        txn: Txn, TxnRequest => TxnResponse;
    }
    unimplemented! {
        list, ListRequest => ListResponse;
        stat, StatRequest => StatResponse;
        copy, CopyRequest => CopyResponse;
        r#move, MoveRequest => MoveResponse;
        compact, CompactRequest => CompactResponse;
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::batch_server::Batch for Script {
    type ExecuteStream = Boxed<v1::BatchResponse>;

    async fn execute(
        &self,
        request: Request<Streaming<v1::BatchRequest>>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let mut incoming = request.into_inner();
        let (answers, outgoing) = mpsc::channel(16);
        let script = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                script.seen.lock().messages.push(message.items.len());
                let mut batch = Vec::new();
                let mut broken = false;
                for v1::BatchItem { tag, request, .. } in message.items {
                    let answer = match script.take(&request.unwrap()) {
                        Reply::Answer(answer) => answer,
                        Reply::Refuse(status) => Answer::Error(v1::BatchError {
                            code: status.code().into(),
                            message: status.message().to_owned(),
                            detail: v1::ErrorDetail::decode(status.details()).ok(),
                        }),
                        Reply::Hang => continue,
                        Reply::Break => {
                            broken = true;
                            continue;
                        }
                    };
                    batch.push(v1::BatchAnswer { tag, answer: Some(answer) });
                }
                if broken {
                    return;
                }
                if script.reversed {
                    batch.reverse();
                }
                if answers.send(Ok(v1::BatchResponse { answers: batch })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

#[tonic::async_trait]
impl v1::watch_server::Watch for Script {
    type WatchStream = Boxed<v1::WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, outgoing) = mpsc::channel(16);
        let script = self.clone();
        tokio::spawn(async move {
            let Some(Ok(v1::WatchRequest { request: Some(v1::watch_request::Request::Create(create)) })) =
                requests.next().await
            else {
                panic!("a watch begins with its creation");
            };
            let nth = {
                let mut seen = script.seen.lock();
                seen.watches.push(create.clone());
                seen.watches.len() - 1
            };
            (script.watch)(nth, create, WatchPipe { requests, answers }).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

#[tonic::async_trait]
impl v1::lease_server::Lease for Script {
    type KeepAliveStream = Boxed<v1::KeepAliveResponse>;

    async fn grant(&self, request: Request<v1::GrantRequest>) -> Result<Response<v1::GrantResponse>, Status> {
        let request = request.into_inner();
        let ttl_ms = request.ttl_ms;
        self.seen.lock().grants.push(request);
        Ok(Response::new(v1::GrantResponse { lease_id: 7, ttl_ms, log_index: 100, ..Default::default() }))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        self.seen.lock().revoked.push(request.into_inner().lease_id);
        Ok(Response::new(v1::RevokeResponse { deleted: 3, log_index: 101, ..Default::default() }))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let script = self.clone();
        script.seen.lock().keep_alive_streams += 1;
        let answers = request.into_inner().filter_map(move |request| {
            let lease_id = request.ok()?.lease_id;
            let nth = {
                let mut seen = script.seen.lock();
                seen.keep_alives.push(lease_id);
                seen.keep_alives.len() - 1
            };
            let ttl_ms = (script.keep_alive)(nth, lease_id)?;
            Some(Ok(v1::KeepAliveResponse { lease_id, ttl_ms, ..Default::default() }))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    unimplemented! {
        time_to_live, TimeToLiveRequest => TimeToLiveResponse;
        list_leases, ListLeasesRequest => ListLeasesResponse;
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Script {
    type SnapshotStream = Boxed<v1::SnapshotChunk>;

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        self.seen.lock().statuses += 1;
        Ok(Response::new(v1::StatusResponse { applied_index: 42, ..Default::default() }))
    }

    async fn snapshot(&self, _: Request<v1::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let chunk = |data: &'static str| Ok(v1::SnapshotChunk { data: data.into(), total_bytes: 6, revision: 9 });
        Ok(Response::new(Box::pin(tokio_stream::iter([chunk("abc"), chunk("de")]))))
    }

    unimplemented! {
        digest, DigestRequest => DigestResponse;
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for Script {
    async fn member_add(&self, _: Request<v1::MemberAddRequest>) -> Result<Response<v1::MemberAddResponse>, Status> {
        self.seen.lock().member_adds += 1;
        Err(Status::unavailable("the connection broke"))
    }

    unimplemented! {
        member_list, MemberListRequest => MemberListResponse;
        member_promote, MemberPromoteRequest => MemberPromoteResponse;
        member_remove, MemberRemoveRequest => MemberRemoveResponse;
        transfer_leader, TransferLeaderRequest => TransferLeaderResponse;
    }
}
