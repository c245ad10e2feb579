//! The client port: accepts connections, hands them to the door runtimes, serves gRPC on them, and drains.
//!
//! Each door runtime has one thread: all streams that are woken queue their frames before the connection writes, so
//! that many small messages leave in one write call.
//!
//! Invariants:
//! - What a connection buffers for a slow reader is bounded: 32 KiB a stream, after which its body is not polled.
//! - Draining answers what is under way, tells clients to go elsewhere, and ends within its patience.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::authority::LenientSocket;
use crate::connection::{Connection, NotedSocket, OfConnection};
use crate::socket::{GatheringSocket, rest_after};
use crate::sync::watch;
use crate::tasks::{Task, Tasks};

/// What hyper buffers for a stream whose client does not read.
const SEND_BUFFER_BYTES_MAX: usize = 32 << 10;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const STREAMS_MAX: u32 = 4_096;
const CONNECTIONS_MAX: usize = 10_000;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections on their way from the accept task to one runtime.
const HAND_OVER_MAX: usize = 256;
/// Threads for long reads, for each door runtime.
const BLOCKING_THREADS_MAX: usize = 8;

/// The doors of a member, open.
pub struct Doors {
    address: SocketAddr,
    drain: watch::Sender<Option<Instant>>,
    connections: Arc<AtomicUsize>,
    trackers: Vec<TaskTracker>,
}

/// Opens the doors: serves `routes` on every connection to `listener`, on `threads` runtimes. `on` accepts.
pub fn open(
    listener: std::net::TcpListener,
    routes: &Routes,
    threads: usize,
    tasks: &Tasks,
    on: &Handle,
) -> io::Result<Doors> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let drain = watch::Sender::new(None);
    let connections = Arc::new(AtomicUsize::new(0));
    let mut doors = Vec::new();
    let mut trackers = Vec::new();
    for _ in 0..threads.max(1) {
        let (hand_over, arrivals) = mpsc::channel(HAND_OVER_MAX);
        let door = Door {
            arrivals,
            routes: routes.clone(),
            tracker: TaskTracker::new(),
            drain: drain.subscribe(),
            connections: Arc::clone(&connections),
            tasks: tasks.clone(),
        };
        trackers.push(door.tracker.clone());
        doors.push(hand_over);
        tasks.spawn_thread(Task::Door, on, async move { door.run() })?;
    }
    let accept =
        Accept { doors, drain: drain.subscribe(), connections: Arc::clone(&connections), tasks: tasks.clone() };
    let guard = on.enter();
    let listener = TcpListener::from_std(listener)?;
    drop(guard);
    tasks.spawn(Task::Accept, on, accept.run(listener));
    Ok(Doors { address, drain, connections, trackers })
}

impl Doors {
    /// Where clients are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Accepts no more, tells clients to go elsewhere, and waits until what is under way is answered, at most so long.
    pub async fn drain(&self, patience: Duration) {
        let until = Instant::now() + patience;
        self.drain.send_replace(Some(until));
        for tracker in &self.trackers {
            tracker.close();
            // Who has not ended by then is cut off when the member stops.
            let _ = timeout_at(until, tracker.wait()).await;
        }
    }
}

struct Accept {
    doors: Vec<mpsc::Sender<std::net::TcpStream>>,
    drain: watch::Receiver<Option<Instant>>,
    connections: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Accept {
    async fn run(mut self, listener: TcpListener) -> io::Result<()> {
        let tasks = self.tasks.clone();
        let mut drain = self.drain.clone();
        for next in (0..self.doors.len()).cycle() {
            tokio::select! {
                biased;
                () = tasks.stopped() => break,
                _ = drain.wait_for(Option::is_some) => break,
                () = self.one(&listener, next) => {}
            }
        }
        Ok(())
    }

    /// Takes one connection in. What goes wrong with it alone is logged and forgotten.
    async fn one(&mut self, listener: &TcpListener, next: usize) {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return rest_after(&error, "a connection of a client").await,
        };
        if self.connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            tracing::warn!(connections = CONNECTIONS_MAX, "too many connections: one is refused");
            return;
        }
        let Some(door) = self.doors.get(next) else { return };
        match stream.set_nodelay(true).and_then(|()| stream.into_std()) {
            // An error says that the runtime has ended: the member is stopping.
            Ok(stream) => drop(door.send(stream).await),
            Err(error) => tracing::debug!(%error, "a connection broke at once"),
        }
    }
}

/// One runtime with its connections.
struct Door {
    arrivals: mpsc::Receiver<std::net::TcpStream>,
    routes: Routes,
    tracker: TaskTracker,
    drain: watch::Receiver<Option<Instant>>,
    connections: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Door {
    fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("q-read")
            .build()?;
        runtime.block_on(self.serve());
        runtime.shutdown_background();
        Ok(())
    }

    async fn serve(mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.tasks.stopped() => break,
                stream = self.arrivals.recv() => {
                    let Some(stream) = stream else {
                        // The accept task has ended, because the doors drain.
                        self.tasks.stopped().await;
                        break;
                    };
                    self.connect(stream);
                }
            }
        }
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn connect(&self, stream: std::net::TcpStream) {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "a connection broke at once"),
        };
        let counted = Counted::new(&self.connections);
        let connection = serve_connection(stream, self.routes.clone(), self.drain.clone(), self.tasks.clone());
        let connection = self.tracker.track_future(async move {
            let _counted = counted;
            connection.await
        });
        self.tasks.spawn(Task::Connection, &Handle::current(), connection);
    }
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_connection(
    stream: TcpStream,
    routes: Routes,
    mut drain: watch::Receiver<Option<Instant>>,
    tasks: Tasks,
) -> Result<(), hyper::Error> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let noted = Connection::default();
    let socket = GatheringSocket::new(LenientSocket::new(NotedSocket::new(stream, noted.clone())));
    let service = TowerToHyperService::new(OfConnection::new(routes, noted));
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let until = tokio::select! {
        biased;
        done = connection.as_mut() => return done,
        until = drain.wait_for(Option::is_some) => until.ok().and_then(|until| *until),
        () = tasks.stopped() => None,
    };
    // A member that stops has drained before; one that is cut off owes nobody an answer.
    let Some(until) = until else { return Ok(()) };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        done = timeout_at(until, connection) => done.unwrap_or(Ok(())),
        () = tasks.stopped() => Ok(()),
    }
}
