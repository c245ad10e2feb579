//! The way of a client to the doors of a member, in process: requests and answers are the messages of the wire, carried
//! by the simulated network to the doors' own services.
//!
//! Invariants:
//! - A request that arrived is worked on to its end, whether its client still waits or not; unless word arrives that the
//!   client has cancelled it, as half of them send, or that its connection broke, where a scenario wants that.
//! - A stream ends with an error when the process that serves it does.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use quorate_server::connection::Connection;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Request, Status};
use tower::Service;

use crate::net::{Net, Origin};

/// A client's way to one member. Cheap to clone.
#[derive(Clone)]
pub struct Way {
    pub net: Arc<Net>,
    pub client: u64,
    pub member: u64,
    /// Whoever gives up here breaks the connection; else chance says whether the member hears that it was cancelled.
    pub breaks: bool,
}

impl Service<http::Request<Body>> for Way {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.clone().carry(request).boxed()
    }
}

impl Way {
    async fn carry(self, mut request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        if !self.net.carry(self.client, self.member).await {
            // Its client gives up by itself.
            return std::future::pending().await;
        }
        let refused = || Status::unavailable(NOT_SENT);
        let end = self.net.end(self.member).ok_or_else(refused)?;
        let mut routes = end.routes.ok_or_else(refused)?;
        let (mut sender, answer) = oneshot::channel();
        let says_so = self.breaks || self.net.happens(500);
        let connection = Connection::default();
        request.extensions_mut().insert(connection.clone());
        let origin = Origin { id: self.member, process: end.process };
        let net = Arc::clone(&self.net);
        tokio::spawn(async move {
            let cancelled = async {
                sender.closed().await;
                if !says_so || !net.carry(self.client, self.member).await {
                    std::future::pending::<()>().await;
                }
                if self.breaks {
                    connection.broke();
                }
            };
            let answer = tokio::select! {
                biased;
                answer = Service::<http::Request<Body>>::call(&mut routes, request) => answer,
                () = cancelled => return,
            };
            if net.runs(origin) && net.carry(self.member, self.client).await {
                let _ = sender.send(answer);
            }
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(never)) => match never {},
            // Lost, or the process has ended: the connection hangs.
            Err(_) => std::future::pending().await,
        }
    }
}

const NOT_SENT: &str = "connection refused";

/// Whether nothing was sent at all.
pub fn is_not_sent(status: &Status) -> bool {
    status.message() == NOT_SENT
}

/// Waits for an answer as long as the client's patience lasts, which the request says, too.
pub async fn ask<Q, A, F>(patience: Duration, request: Q, send: impl FnOnce(Request<Q>) -> F) -> Result<A, Status>
where
    F: Future<Output = Result<tonic::Response<A>, Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(patience);
    match timeout(patience, send(request)).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}
