//! DNS: names of services for whoever cannot do more. UDP and TCP on one address.
//!
//! Answers come from this member's own store, without asking anybody: they may be behind, and they go on while there is no
//! quorum.
//!
//! Invariants:
//! - What is under way at once is bounded; more waits in the kernel, or is dropped by it.
//! - A socket that fails for one query serves the next.

mod answer;
mod question;
mod server;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::recipes::discovery::Discovery;
use crate::socket::rest_after;
use crate::tasks::{Task, Tasks};
use server::{Answers, Way};

/// Queries over UDP that are under way at once.
const QUERIES_MAX: usize = 64;
const CONNECTIONS_MAX: usize = 256;
/// Queries are small.
const QUERY_BYTES_MAX: usize = 4_096;
/// For the next query of a connection, and for each part of one.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Sockets that are bound and not served yet.
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Takes both ports.
    pub fn bind(address: &str) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        let udp = UdpSocket::bind(&addresses[..])?;
        let tcp = TcpListener::bind(udp.local_addr()?)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    /// Where.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers names of `domain`, until the member stops.
    pub fn serve(self, discovery: &Arc<Discovery>, domain: &Name, tasks: &Tasks) -> io::Result<()> {
        let answers = Arc::new(Answers::new(Arc::clone(discovery), domain.clone()));
        let runtime = discovery.runtime();
        let _entered = runtime.enter();
        let udp = tokio::net::UdpSocket::from_std(self.udp)?;
        let tcp = tokio::net::TcpListener::from_std(self.tcp)?;
        tasks.spawn(Task::DnsUdp, runtime, packets(udp, Arc::clone(&answers), tasks.clone()));
        tasks.spawn(Task::DnsTcp, runtime, connections(tcp, answers, tasks.clone()));
        Ok(())
    }
}

async fn packets(socket: tokio::net::UdpSocket, answers: Arc<Answers>, tasks: Tasks) -> Result<(), Infallible> {
    let mut stopped = std::pin::pin!(tasks.stopped());
    let mut under_way = FuturesUnordered::new();
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    loop {
        let received = tokio::select! {
            biased;
            () = &mut stopped => return Ok(()),
            Some(()) = under_way.next(), if !under_way.is_empty() => continue,
            received = socket.recv_from(&mut buffer), if under_way.len() < QUERIES_MAX => received,
        };
        match received {
            Ok((length, from)) => {
                let query = buffer[..length].to_vec();
                let (socket, answers) = (&socket, &answers);
                under_way.push(async move {
                    if let Some(answer) = answers.answer(&query, Way::Udp).await {
                        // Whoever asked may have gone; it would ask again.
                        let _ = socket.send_to(&answer, from).await;
                    }
                });
            }
            Err(error) => rest_after(&error, "a DNS packet").await,
        }
    }
}

async fn connections(listener: tokio::net::TcpListener, answers: Arc<Answers>, tasks: Tasks) -> Result<(), Infallible> {
    let mut stopped = std::pin::pin!(tasks.stopped());
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match (accepted, Arc::clone(&room).try_acquire_owned()) {
            (Ok((stream, _)), Ok(permit)) => {
                let (answers, stopping) = (Arc::clone(&answers), tasks.clone());
                tasks.spawn(Task::DnsConnection, &Handle::current(), async move {
                    let _permit = permit;
                    tokio::select! {
                        biased;
                        () = stopping.stopped() => Ok(()),
                        done = connection(stream, &answers) => done,
                    }
                });
            }
            (Ok(_), Err(_)) => tracing::debug!("too many DNS connections: one is refused"),
            (Err(error), _) => rest_after(&error, "a DNS connection").await,
        }
    }
}

/// Queries one after the other, each with its length before it.
async fn connection(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        // Nothing more comes, or not in time.
        let Ok(Ok(_)) = timeout(IDLE_MAX, stream.read_exact(&mut length)).await else { return Ok(()) };
        let length = usize::from(u16::from_be_bytes(length));
        if length > QUERY_BYTES_MAX {
            return Ok(());
        }
        let mut query = vec![0; length];
        timeout(IDLE_MAX, stream.read_exact(&mut query)).await??;
        let Some(answer) = answers.answer(&query, Way::Tcp).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE_MAX, stream.write_all(&framed)).await??;
    }
}
