//! Three instances of a service register themselves and are called through one channel; one of them dies in the middle,
//! with its sockets, while its registration stays. No call fails. Run it against members on 127.0.0.1:2379 (`quorate
//! serve`), or name others in `QUORATE_ENDPOINTS`. It ends with an error if what it claims is not so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate::{Client, Instance, Registration, ServiceChannel};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
// Any service would do. This one needs no code to be generated.
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

const CALLS: usize = 3_000;
const CALLERS: usize = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints = std::env::var("QUORATE_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::connect(endpoints.split(',')).await?;
    // A name of its own for each run.
    let service = format!("example-{}", std::process::id());
    let mut instances = Vec::new();
    for number in 1..=3 {
        instances.push(Running::start(&client, &service, number).await?);
    }

    // From here on: what a caller writes. The calls may be made twice without harm, so they may be tried again.
    let channel = client.service(&service).channel().await?.idempotent();
    println!("{} instances of {service} are known", channel.snapshot().instances.len());
    let done = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(call(channel.clone(), done.clone()))).collect();
    while done.load(Ordering::Relaxed) < CALLS / 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = instances[2].served();
    instances[2].server.die();
    let mut failed = 0;
    for caller in callers {
        failed += caller.await?;
    }

    for each in channel.snapshot().instances {
        println!("{}: breaker {:?}, latency {:?}", each.instance.id, each.breaker, each.latency);
    }
    let served: Vec<usize> = instances.iter().map(Running::served).collect();
    println!("{CALLS} calls, {failed} failed; served by each: {served:?}, the last was killed after {before}");
    for instance in instances {
        instance.registration.deregister().await?;
    }
    if failed > 0 || served[0] == 0 || served[1] == 0 || before == 0 {
        return Err("calls failed, or an instance was never called".into());
    }
    Ok(())
}

/// Calls until enough calls were made by all; how many failed.
async fn call(channel: ServiceChannel, done: Arc<AtomicUsize>) -> usize {
    let mut client = HealthClient::new(channel);
    let mut failed = 0;
    while done.fetch_add(1, Ordering::Relaxed) < CALLS {
        if let Err(status) = client.check(HealthCheckRequest::default()).await {
            eprintln!("failed: {status}");
            failed += 1;
        }
    }
    failed
}

/// An instance: a server on a runtime of its own, so that it can die with all its sockets.
struct Running {
    server: Server,
    served: Arc<AtomicUsize>,
    registration: Registration,
}

impl Running {
    async fn start(client: &Client, service: &str, number: u32) -> Result<Self, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address: SocketAddr = listener.local_addr()?;
        let answers = Answers::default();
        let served = answers.served.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let router = tonic::transport::Server::builder().add_service(HealthServer::new(answers));
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.map_err(std::io::Error::other)
        });
        let instance = Instance::new(service, format!("number-{number}"))
            .address(address.ip().to_string())
            .port(address.port())
            .tag("example");
        let registration = client.register(instance).ttl(Duration::from_secs(5)).await?;
        Ok(Self { server: Server(Some(runtime)), served, registration })
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

struct Server(Option<tokio::runtime::Runtime>);

impl Server {
    fn die(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

#[derive(Debug, Default)]
struct Answers {
    served: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Health for Answers {
    type WatchStream = tokio_stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.served.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(HealthCheckResponse { status: 1 }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}
