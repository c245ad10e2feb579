//! A socket that gathers what is written to it: many small frames leave in one write call, at the end of the
//! scheduler's tick, when every task that was ready has queued its own.
//!
//! One write call an event is what a watch with many watchers costs most, and a call answered at once what a unary call
//! does. So the first flush only arms a wake at the end of the tick; the flush that follows it writes. Nothing waits for
//! a timer: with nothing else ready, the end of the tick is now.
//!
//! Invariants:
//! - What was written leaves at the end of the tick, when the buffer is full, or at shutdown, in order.
//! - The buffer is bounded: whoever writes more waits for the socket.
//! - Not vectored: a vectored socket would be given a payload and its frame's head in a write call of their own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::alarm::Alarm;

/// What is gathered at most.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// After a socket failed.
const REST: Duration = Duration::from_millis(50);

/// Rests after a socket brought an error instead of a connection or a packet, for want of descriptors for one: it will
/// serve again, but not at once.
pub async fn rest_after(error: &io::Error, wanted: &'static str) {
    tracing::warn!(%error, wanted, "a socket failed");
    sleep(REST).await;
}

/// The wrapper. Flushing it returns before the bytes have left.
pub struct GatheringSocket<S> {
    socket: S,
    buffer: BytesMut,
    /// Rings at the end of the scheduler's tick.
    tick: Arc<Alarm>,
    /// The end of this tick will wake the connection.
    armed: bool,
    /// A flush has begun and the socket did not take everything.
    writing: bool,
}

impl<S: AsyncWrite + Unpin> GatheringSocket<S> {
    /// Gathers what is written to `socket`. Use it on tokio's runtimes only.
    pub fn new(socket: S) -> Self {
        Self { socket, buffer: BytesMut::new(), tick: Alarm::silent(), armed: false, writing: false }
    }

    /// Writes all that was gathered.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing = true;
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
        }
        self.writing = false;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Has the connection woken when the tick is over.
    fn arm(&mut self, cx: &Context<'_>) {
        self.tick.wakes(cx.waker());
        if !self.armed {
            self.armed = true;
            let waker = Waker::from(Arc::clone(&self.tick));
            let end = std::pin::pin!(tokio::task::yield_now());
            // The runtime keeps the waker; polling again is not needed.
            let _ = end.poll(&mut Context::from_waker(&waker));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GatheringSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GatheringSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES_MAX {
            ready!(self.drain(cx))?;
        }
        let taken = bytes.len().min(BUFFER_BYTES_MAX);
        self.buffer.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tick.rang().is_some() {
            self.armed = false;
            return self.drain(cx);
        }
        if self.writing {
            return self.drain(cx);
        }
        if !self.buffer.is_empty() {
            self.arm(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Counts write calls, and takes so many bytes in each.
    struct Counting {
        taken: Vec<u8>,
        calls: usize,
        at_most: usize,
        blocked: bool,
    }

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if std::mem::take(&mut self.blocked) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.at_most);
            self.taken.extend_from_slice(&bytes[..taken]);
            self.calls += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn socket(at_most: usize) -> GatheringSocket<Counting> {
        GatheringSocket::new(Counting { taken: Vec::new(), calls: 0, at_most, blocked: false })
    }

    /// What a connection does: flushes whenever it is woken.
    async fn until_empty(socket: &mut GatheringSocket<Counting>) {
        poll_fn(|cx| {
            ready!(Pin::new(&mut *socket).poll_flush(cx)).unwrap();
            if socket.buffer.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_written_in_a_tick_leaves_in_one_call_after_it() {
        let mut socket = socket(usize::MAX);
        for i in 0..10u8 {
            socket.write_all(&[i; 100]).await.unwrap();
            socket.flush().await.unwrap();
        }
        assert_eq!(socket.socket.calls, 0);
        until_empty(&mut socket).await;
        assert_eq!((socket.socket.calls, socket.socket.taken.len()), (1, 1000));
        socket.write_all(b"more").await.unwrap();
        until_empty(&mut socket).await;
        assert_eq!(socket.socket.calls, 2);
        assert_eq!(&socket.socket.taken[1000..], b"more");
    }

    #[tokio::test]
    async fn a_full_buffer_and_a_shutdown_write_at_once_and_in_order() {
        let mut socket = socket(1000);
        let all: Vec<u8> = (0..200_000u32).map(|i| i.to_le_bytes()[0]).collect();
        socket.write_all(&all).await.unwrap();
        assert!(socket.buffer.len() <= BUFFER_BYTES_MAX && socket.socket.taken.len() >= all.len() - BUFFER_BYTES_MAX);
        socket.socket.blocked = true;
        socket.shutdown().await.unwrap();
        assert!(socket.socket.taken == all, "in order, whole");
    }

    #[tokio::test]
    async fn a_socket_that_is_full_is_written_on_when_it_has_room() {
        let mut socket = socket(10);
        socket.write_all(&[7; 95]).await.unwrap();
        socket.socket.blocked = true;
        until_empty(&mut socket).await;
        assert_eq!(socket.socket.taken, [7; 95]);
    }

    #[tokio::test]
    async fn over_tcp_what_one_side_writes_the_other_reads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut server = GatheringSocket::new(server);
        client.write_all(b"ping").await.unwrap();
        let mut read = [0; 4];
        server.read_exact(&mut read).await.unwrap();
        server.write_all(&read).await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"ping");
    }
}
