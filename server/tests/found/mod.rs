//! Clients of service discovery, as tests need them.
//!
//! Invariants:
//! - What a test waits for, it waits for with patience, and fails when that is over.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::v1;
use quorate_proto::v1::discovery_client::DiscoveryClient;
use quorate_proto::v1::register_request::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::doors::Doors;

const PATIENCE: Duration = Duration::from_secs(30);

pub fn client(doors: &Doors) -> DiscoveryClient<Channel> {
    DiscoveryClient::new(doors.channel())
}

pub fn instance(service: &str, id: &str) -> v1::Instance {
    v1::Instance {
        service: service.to_owned(),
        id: id.to_owned(),
        address: "10.0.0.1".to_owned(),
        port: 80,
        ..v1::Instance::default()
    }
}

/// A registration with a time to live of 5 s.
pub fn asked(instance: v1::Instance) -> v1::RegisterInstance {
    v1::RegisterInstance { instance: Some(instance), ttl_ms: 5_000, ..v1::RegisterInstance::default() }
}

pub async fn resolve(doors: &Doors, request: v1::ResolveRequest) -> v1::ResolveResponse {
    client(doors).resolve(request).await.unwrap().into_inner()
}

/// What counts for an instance, and why.
pub async fn health(doors: &Doors, service: &str, id: &str) -> (v1::Health, String) {
    let worst = v1::Health::Maintenance.into();
    let found = resolve(doors, v1::ResolveRequest { service: service.to_owned(), worst, ..Default::default() }).await;
    let found = found.instances.into_iter().find(|instance| instance.id == id).expect("it is there");
    (found.health(), found.health_note)
}

/// The stream of a registration.
pub struct Registration {
    requests: Option<mpsc::Sender<v1::RegisterRequest>>,
    answers: Streaming<v1::RegisterResponse>,
}

impl Registration {
    pub async fn open(doors: &Doors) -> Self {
        Self::begin(client(doors)).await
    }

    async fn begin(mut client: DiscoveryClient<Channel>) -> Self {
        let (requests, received) = mpsc::channel(8);
        let answers = client.register(ReceiverStream::new(received)).await.unwrap().into_inner();
        Self { requests: Some(requests), answers }
    }

    /// Over a connection of its own, which breaks when what stands between is dropped.
    pub async fn open_through(doors: &Doors) -> (Self, Between) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, to) = (listener.local_addr().unwrap(), doors.serving.address());
        let mut between = JoinSet::new();
        between.spawn(async move {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(to).await.unwrap();
            tokio::io::copy_bidirectional(&mut near, &mut far).await.unwrap();
        });
        let channel = Endpoint::new(format!("http://{at}")).unwrap().connect_lazy();
        (Self::begin(DiscoveryClient::new(channel)).await, Between(between))
    }

    async fn ask(&mut self, message: Message) -> Result<v1::RegisterResponse, Status> {
        let request = v1::RegisterRequest { message: Some(message) };
        // An error says that the stream is over; its answer says why.
        let _ = self.requests.as_ref().unwrap().send(request).await;
        let answer = timeout(PATIENCE, self.answers.message()).await.expect("an answer comes")?;
        answer.ok_or_else(|| Status::unavailable("the stream ended"))
    }

    pub async fn try_register(&mut self, asked: v1::RegisterInstance) -> Result<v1::RegisterResponse, Status> {
        self.ask(Message::Register(asked)).await
    }

    pub async fn register(&mut self, asked: v1::RegisterInstance) -> v1::RegisterResponse {
        self.try_register(asked).await.unwrap()
    }

    pub async fn try_heartbeat(&mut self) -> Result<v1::RegisterResponse, Status> {
        self.ask(Message::Heartbeat(v1::Heartbeat {})).await
    }

    pub async fn heartbeat(&mut self) -> v1::RegisterResponse {
        self.try_heartbeat().await.unwrap()
    }

    /// Ends the client's side in good order, and waits until the member has ended its own.
    pub async fn end(mut self) {
        self.requests = None;
        let ended = timeout(PATIENCE, self.answers.message()).await.expect("the stream ends").unwrap();
        assert_eq!(ended, None);
    }
}

/// What stands between a client and its member.
pub struct Between(JoinSet<()>);

impl Between {
    /// Breaks the connection.
    pub async fn cut(mut self) {
        self.0.shutdown().await;
    }
}

/// A watch of a service.
pub struct Watched {
    client: DiscoveryClient<Channel>,
    request: v1::WatchServiceRequest,
    answers: Streaming<v1::WatchServiceResponse>,
    known: BTreeMap<String, v1::Instance>,
    protected: bool,
}

impl Watched {
    pub async fn open(doors: &Doors, service: &str, after_revision: i64) -> Self {
        let request = v1::WatchServiceRequest { service: service.to_owned(), after_revision, ..Default::default() };
        Self::ask(doors, request).await
    }

    pub async fn ask(doors: &Doors, request: v1::WatchServiceRequest) -> Self {
        let mut client = client(doors);
        let answers = client.watch(request.clone()).await.unwrap().into_inner();
        Self { client, request, answers, known: BTreeMap::new(), protected: false }
    }

    pub async fn try_next(&mut self) -> Result<v1::WatchServiceResponse, Status> {
        let update = timeout(PATIENCE, self.answers.message()).await;
        let update = update.unwrap_or_else(|_| panic!("no update comes; known are {:?}", self.known))?;
        let update = update.expect("the stream goes on");
        if update.snapshot {
            self.known.clear();
        }
        self.known.extend(update.changed.iter().map(|instance| (instance.id.clone(), instance.clone())));
        self.known.retain(|id, _| !update.removed.contains(id));
        self.protected = update.protected;
        self.request.after_revision = update.header.unwrap().revision;
        Ok(update)
    }

    pub async fn next(&mut self) -> v1::WatchServiceResponse {
        self.try_next().await.unwrap()
    }

    /// Goes on after the last update, as a client does whose member lost contact to its leader: on a starved machine
    /// that happens.
    async fn go_on(&mut self) {
        let watching = async {
            loop {
                match self.client.watch(self.request.clone()).await {
                    Ok(answers) => return answers.into_inner(),
                    Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        self.answers = timeout(PATIENCE, watching).await.expect("it goes on");
    }

    /// Follows until this holds; gives what is known then.
    pub async fn until(
        &mut self,
        holds: impl Fn(&BTreeMap<String, v1::Instance>, bool) -> bool,
    ) -> BTreeMap<String, v1::Instance> {
        let mut begun = false;
        while !begun || !holds(&self.known, self.protected) {
            match self.try_next().await {
                Ok(_) => begun = true,
                Err(status) if status.code() == Code::Unavailable => self.go_on().await,
                Err(status) => panic!("{status}"),
            }
        }
        self.known.clone()
    }
}
