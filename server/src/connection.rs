//! Whether a client's connection still stands, as its requests can ask.
//!
//! A call that is dropped was cancelled by its client, or its connection broke. HTTP/2 tells the two apart on the wire
//! only: so the socket notes its end before the calls on it are dropped, and each request carries the note.
//!
//! Invariants:
//! - The end is noted before the HTTP/2 library hears of it, so that whoever is dropped because of it finds the note.
//! - A client that cancels and closes at once may count as one whose connection broke.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::service::Routes;
use tower::Service;

/// A client's connection. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connection(Arc<AtomicBool>);

impl Connection {
    /// The one that a request came by.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Notes its end, before the calls on it are dropped.
    pub fn broke(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A socket that notes its end.
pub struct NotedSocket<S> {
    socket: S,
    connection: Connection,
}

impl<S> NotedSocket<S> {
    /// Notes the end of `socket` for those who hold `connection`.
    pub fn new(socket: S, connection: Connection) -> Self {
        Self { socket, connection }
    }
}

impl<S> Drop for NotedSocket<S> {
    fn drop(&mut self) {
        self.connection.broke();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NotedSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = ready!(Pin::new(&mut self.socket).poll_read(cx, buffer));
        if read.is_err() || (room > 0 && buffer.filled().len() == before) {
            self.connection.broke();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> NotedSocket<S> {
    fn noted<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(done, Poll::Ready(Err(_))) {
            self.connection.broke();
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NotedSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.noted(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.socket).poll_flush(cx);
        self.noted(done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The services of one connection: each request is told by which one it came.
#[derive(Clone)]
pub struct OfConnection {
    routes: Routes,
    connection: Connection,
}

impl OfConnection {
    /// Serves `routes` on `connection`.
    pub fn new(routes: Routes, connection: Connection) -> Self {
        Self { routes, connection }
    }
}

impl<B> Service<http::Request<B>> for OfConnection
where
    Routes: Service<http::Request<B>>,
{
    type Response = <Routes as Service<http::Request<B>>>::Response;
    type Error = <Routes as Service<http::Request<B>>>::Error;
    type Future = <Routes as Service<http::Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<B>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.connection.clone());
        self.routes.call(request)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn the_end_of_what_comes_is_noted_and_so_is_a_drop() {
        let (client, server) = tokio::io::duplex(64);
        let connection = Connection::default();
        let mut socket = NotedSocket::new(server, connection.clone());
        let mut client = Some(client);
        client.as_mut().unwrap().write_all(b"ping").await.unwrap();
        let mut read = [0; 4];
        socket.read_exact(&mut read).await.unwrap();
        assert!(!connection.is_broken());
        client = None;
        assert_eq!((client.is_none(), socket.read(&mut read).await.unwrap()), (true, 0));
        assert!(connection.is_broken());
        let other = Connection::default();
        drop(NotedSocket::new(tokio::io::empty(), other.clone()));
        assert!(other.is_broken());
    }
}
