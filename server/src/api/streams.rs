//! What the streams of both doors share: requests that may have ended, and keep-alives.
//!
//! Invariants:
//! - A client that has ended its own side is still answered.
//! - An error ends a stream of keep-alives: the client goes on at another member.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use tonic::{Status, Streaming};

use super::limits::KEEP_ALIVES_MAX;
use super::rooms::Rooms;

/// The next request of a client, `Ok(None)` when it ends its side. Never completes after that. Safe to drop.
pub async fn next_request<T>(requests: &mut Option<Streaming<T>>) -> Result<Option<T>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}

/// The answers to a stream of keep-alives. `closed` is what is said when the member stops.
pub fn keep_alives<Q, A, F>(
    rooms: &Arc<Rooms>,
    requests: Streaming<Q>,
    closed: Status,
    renew: impl Fn(Q) -> F + Send + 'static,
) -> Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let under_way = FuturesUnordered::new();
    let alive = KeepAlives { closing: rooms.until_closing(), closed, requests: Some(requests), renew, under_way };
    Box::pin(futures::stream::unfold(Some(alive), |alive| async move {
        let mut alive = alive?;
        let answer = alive.next().await?;
        let alive = answer.is_ok().then_some(alive);
        Some((answer, alive))
    }))
}

struct KeepAlives<Q, A, R> {
    closing: BoxFuture<'static, ()>,
    closed: Status,
    requests: Option<Streaming<Q>>,
    renew: R,
    under_way: FuturesUnordered<BoxFuture<'static, Result<A, Status>>>,
}

impl<Q, A, R, F> KeepAlives<Q, A, R>
where
    R: Fn(Q) -> F,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    async fn next(&mut self) -> Option<Result<A, Status>> {
        loop {
            let room = self.requests.is_some() && self.under_way.len() < KEEP_ALIVES_MAX;
            tokio::select! {
                biased;
                Some(answer) = self.under_way.next(), if !self.under_way.is_empty() => return Some(answer),
                message = next_request(&mut self.requests), if room => match message {
                    Ok(Some(request)) => self.under_way.push((self.renew)(request).boxed()),
                    Ok(None) => self.requests = None,
                    Err(status) => return Some(Err(status)),
                },
                () = &mut self.closing, if self.requests.is_some() => return Some(Err(self.closed.clone())),
                else => return None,
            }
        }
    }
}
