//! A registry of instances behind any number of fake members: real sockets, no cluster.
//!
//! Invariants:
//! - All members of a registry tell the same, in the order of its log.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::discovery_server::{Discovery, DiscoveryServer};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::Client;

/// What the members share.
#[derive(Clone)]
pub(super) struct Registry {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    instances: BTreeMap<String, v1::Instance>,
    log: Vec<Entry>,
    registers: Vec<v1::RegisterInstance>,
    watches: Vec<v1::WatchServiceRequest>,
    heartbeats: usize,
    /// Registrations get no answers.
    silent: bool,
}

/// One revision.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Put(Box<v1::Instance>),
    Removed(String),
}

impl Registry {
    pub(super) fn new() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(()) }
    }

    pub(super) fn put(&self, instance: v1::Instance) {
        let mut state = self.state.lock();
        state.log.push(Entry::Put(Box::new(instance.clone())));
        state.instances.insert(instance.id.clone(), instance);
        self.changed.send_replace(());
    }

    pub(super) fn remove(&self, id: &str) -> bool {
        let mut state = self.state.lock();
        let removed = state.instances.remove(id).is_some();
        if removed {
            state.log.push(Entry::Removed(id.to_owned()));
            self.changed.send_replace(());
        }
        removed
    }

    pub(super) fn instance(&self, id: &str) -> Option<v1::Instance> {
        self.state.lock().instances.get(id).cloned()
    }

    pub(super) fn log(&self) -> Vec<Entry> {
        self.state.lock().log.clone()
    }

    pub(super) fn registers(&self) -> Vec<v1::RegisterInstance> {
        self.state.lock().registers.clone()
    }

    pub(super) fn watches(&self) -> Vec<v1::WatchServiceRequest> {
        self.state.lock().watches.clone()
    }

    pub(super) fn heartbeats(&self) -> usize {
        self.state.lock().heartbeats
    }

    pub(super) fn silence(&self, silent: bool) {
        self.state.lock().silent = silent;
    }

    /// Waits until the registry looks so.
    pub(super) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let looked = async {
            while !is_so(self) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), looked).await.unwrap();
    }

    /// One more member.
    pub(super) fn member(&self) -> Member {
        self.member_at("127.0.0.1:0")
    }

    /// A member at an address that another has left.
    pub(super) fn member_at(&self, address: &str) -> Member {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Whoever was there may be going still.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let listener = loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = self.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(DiscoveryServer::new(registry))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        Member { address, runtime: Some(runtime) }
    }

    fn answer(&self, message: v1::register_request::Message, own: &mut Option<v1::RegisterInstance>) -> Answer {
        use v1::register_request::Message;
        let asked = match message {
            Message::Register(register) => {
                self.state.lock().registers.push(register.clone());
                own.insert(register).clone()
            }
            Message::Heartbeat(_) => {
                self.state.lock().heartbeats += 1;
                own.clone().unwrap()
            }
        };
        if self.state.lock().silent {
            return Answer::Silence;
        }
        let mut wanted = asked.instance.unwrap();
        if wanted.port == 0 {
            return Answer::Refusal(refusal(v1::error_detail::Kind::InvalidArgument, "the port is 0"));
        }
        wanted.lease_id = asked.lease_id;
        let found = self.instance(&wanted.id);
        if found.as_ref().is_some_and(|found| found.lease_id != asked.lease_id) {
            return Answer::Refusal(refusal(v1::error_detail::Kind::InstanceExists, "the id is taken"));
        }
        if found.as_ref() != Some(&wanted) {
            self.put(wanted.clone());
        }
        let (lease_id, renewed) = (asked.lease_id, found.is_none());
        let response =
            v1::RegisterResponse { lease_id, ttl_ms: asked.ttl_ms, instance: Some(wanted), renewed, header: None };
        Answer::Stands(Box::new(response))
    }

    fn response(&self, after: usize, snapshot: bool) -> (usize, v1::WatchServiceResponse) {
        let state = self.state.lock();
        let revision = state.log.len();
        let header = Some(v1::Header { revision: i64::try_from(revision).unwrap(), ..Default::default() });
        let mut response = v1::WatchServiceResponse { header, snapshot, ..Default::default() };
        if snapshot {
            response.changed = state.instances.values().cloned().collect();
        } else {
            for entry in &state.log[after..] {
                match entry {
                    Entry::Put(instance) => response.changed.push((**instance).clone()),
                    Entry::Removed(id) => response.removed.push(id.clone()),
                }
            }
        }
        (revision, response)
    }
}

enum Answer {
    Stands(Box<v1::RegisterResponse>),
    Refusal(Status),
    Silence,
}

fn refusal(kind: v1::error_detail::Kind, message: &str) -> Status {
    let happened = v1::error_detail::Happened::No.into();
    let detail = v1::ErrorDetail { kind: kind.into(), happened, ..Default::default() };
    Status::with_details(Code::FailedPrecondition, message, detail.encode_to_vec().into())
}

/// A running member. Dropped, all its connections break and its port refuses.
pub(super) struct Member {
    pub(super) address: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A client of these members.
pub(super) fn client<'a>(members: impl IntoIterator<Item = &'a Member>) -> Client {
    Client::builder().endpoints(members.into_iter().map(|member| &member.address)).build().unwrap()
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Discovery for Registry {
    type RegisterStream = Boxed<v1::RegisterResponse>;
    type WatchStream = Boxed<v1::WatchServiceResponse>;

    async fn register(
        &self,
        request: Request<Streaming<v1::RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, outgoing) = mpsc::channel(16);
        let registry = self.clone();
        tokio::spawn(async move {
            let mut own = None;
            while let Some(Ok(request)) = requests.next().await {
                let sent = match registry.answer(request.message.unwrap(), &mut own) {
                    Answer::Stands(response) => answers.send(Ok(*response)).await,
                    Answer::Refusal(status) => answers.send(Err(status)).await,
                    Answer::Silence => Ok(()),
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn watch(&self, request: Request<v1::WatchServiceRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        self.state.lock().watches.push(request.clone());
        let (answers, outgoing) = mpsc::channel(16);
        let (registry, mut changed) = (self.clone(), self.changed.subscribe());
        tokio::spawn(async move {
            let mut after = usize::try_from(request.after_revision).unwrap();
            let mut snapshot = after == 0;
            loop {
                if snapshot || registry.log().len() > after {
                    let (revision, response) = registry.response(after, snapshot);
                    (after, snapshot) = (revision, false);
                    if answers.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    () = answers.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let deregistered = self.remove(&request.into_inner().id);
        Ok(Response::new(v1::DeregisterResponse { deregistered, header: None }))
    }

    async fn resolve(&self, _: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let instances = self.state.lock().instances.values().cloned().collect();
        Ok(Response::new(v1::ResolveResponse { instances, ..Default::default() }))
    }

    async fn services(&self, _: Request<v1::ServicesRequest>) -> Result<Response<v1::ServicesResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn report_health(
        &self,
        request: Request<v1::ReportHealthRequest>,
    ) -> Result<Response<v1::ReportHealthResponse>, Status> {
        let request = request.into_inner();
        let mut instance =
            self.instance(&request.id).ok_or_else(|| refusal(v1::error_detail::Kind::InstanceNotFound, "none"))?;
        instance.health = request.health;
        instance.health_note = request.note;
        self.put(instance);
        Ok(Response::new(v1::ReportHealthResponse { health: request.health, header: None }))
    }

    async fn set_maintenance(
        &self,
        _: Request<v1::SetMaintenanceRequest>,
    ) -> Result<Response<v1::SetMaintenanceResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }
}
