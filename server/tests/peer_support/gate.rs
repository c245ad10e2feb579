//! What stands before a member's peer port and passes connections on: it can refuse, hang, hold back, or cut them.
//!
//! Invariants:
//! - What it does is done when the call returns: a closed gate refuses, a reset has cut all connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_tests::address::free;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Stands at an address of its own.
pub struct Gate {
    pub at: SocketAddr,
    to: SocketAddr,
    accepting: Option<JoinHandle<()>>,
    full: Vec<Socket>,
    state: watch::Sender<State>,
    /// Connections, by the number of resets before them.
    passing: Arc<watch::Sender<BTreeMap<u64, usize>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    stalled: bool,
    resets: u64,
}

impl Gate {
    /// An open gate before `to`.
    pub async fn before(to: SocketAddr) -> Self {
        let at = SocketAddr::from(free());
        let state = watch::Sender::new(State::default());
        let mut gate = Self { at, to, accepting: None, full: Vec::new(), state, passing: Arc::default() };
        gate.open().await;
        gate
    }

    /// Accepts connections, and passes on what comes.
    pub async fn open(&mut self) {
        self.close().await;
        self.state.send_modify(|state| state.stalled = false);
        let listener = super::bind(self.at).await;
        let (to, state, passing) = (self.to, self.state.clone(), self.passing.clone());
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (passing, state) = (passing.clone(), state.subscribe());
                let resets = state.borrow().resets;
                passing.send_modify(|passing| *passing.entry(resets).or_default() += 1);
                tokio::spawn(async move {
                    if let Ok(to) = TcpStream::connect(to).await {
                        pass(from, to, state, resets).await;
                    }
                    passing.send_modify(|passing| *passing.entry(resets).or_default() -= 1);
                });
            }
        }));
    }

    /// Refuses connections; those that are there stay.
    pub async fn close(&mut self) {
        self.full.clear();
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    /// Neither accepts nor refuses, as if packets were lost: the queue of connections to be accepted is full.
    pub async fn hang(&mut self) {
        self.close().await;
        let listener = socket();
        listener.set_reuse_address(true).unwrap();
        listener.bind(&self.at.into()).unwrap();
        listener.listen(0).unwrap();
        self.full.push(listener);
        for _ in 0..4 {
            let filler = socket();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&SockAddr::from(self.at));
            self.full.push(filler);
        }
    }

    /// Holds back all that comes over the connections that are there.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalled = true);
    }

    /// Cuts all connections with a reset. Who listens goes on listening.
    pub async fn reset(&self) {
        let mut cut = 0;
        self.state.send_modify(|state| {
            cut = state.resets;
            state.resets += 1;
        });
        let mut passing = self.passing.subscribe();
        passing.wait_for(|passing| passing.range(..=cut).all(|(_, count)| *count == 0)).await.unwrap();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

async fn pass(mut one: TcpStream, mut other: TcpStream, state: watch::Receiver<State>, before: u64) {
    one.set_nodelay(true).unwrap();
    other.set_nodelay(true).unwrap();
    let mut resets = state.clone();
    let reset = {
        let ((one_reads, one_writes), (other_reads, other_writes)) = (one.split(), other.split());
        tokio::select! {
            biased;
            _ = resets.wait_for(|state| state.resets > before) => true,
            () = forward(one_reads, other_writes, state.clone()) => false,
            () = forward(other_reads, one_writes, state.clone()) => false,
        }
    };
    if reset {
        for stream in [&one, &other] {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

async fn forward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let _ = state.wait_for(|state| !state.stalled).await;
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
