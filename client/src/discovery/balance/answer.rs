//! The body of an answer: counts for the instance that sends it, and hides a failure before the first message from a
//! caller whose call may be made again.
//!
//! Invariants:
//! - After the first message was handed on, nothing is retried.
//! - The instance counts as busy until the body has ended or was dropped.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::Transport;
use super::attempts::Attempts;
use super::backend::Ticket;
use super::breaker::Failure;
use super::verdict::{self, Verdict};

/// What another attempt gave, or what is handed on when there is none.
type Retried = Result<Response<Body>, Ended>;

/// How the first attempt ended.
enum Ended {
    Trailers(HeaderMap),
    Broken(Status),
}

pub(super) struct Answer<S> {
    body: Body,
    /// Until its outcome is known.
    ticket: Option<Ticket<S>>,
    /// Until the first message.
    attempts: Option<Attempts<S>>,
    retrying: Option<BoxFuture<'static, Retried>>,
    ended: bool,
}

impl<S: Transport> Answer<S> {
    pub(super) fn new(body: Body, ticket: Ticket<S>, attempts: Attempts<S>) -> Self {
        Self { body, ticket: Some(ticket), attempts: Some(attempts), retrying: None, ended: false }
    }

    /// A message: the instance has served.
    fn message(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.succeeded(Instant::now());
        }
        if let Some(attempts) = self.attempts.take() {
            attempts.served();
        }
    }

    /// The end: tells the outcome, and begins another attempt if that is allowed.
    fn end(&mut self, verdict: Verdict, ended: Ended) -> Option<Ended> {
        let Some(mut ticket) = self.ticket.take() else { return Some(ended) };
        match self.attempts.take() {
            Some(mut attempts) if attempts.is_idempotent() && verdict != Verdict::Served => {
                let retrying = async move {
                    if attempts.again(ticket, verdict).await {
                        attempts.run().await.map_err(Ended::Broken)
                    } else {
                        Err(ended)
                    }
                };
                self.retrying = Some(retrying.boxed());
                None
            }
            attempts => {
                match verdict {
                    Verdict::Served => ticket.succeeded(Instant::now()),
                    _ => ticket.failed(Failure::Failed, Instant::now()),
                }
                if let Some(attempts) = attempts.filter(|_| verdict == Verdict::Served) {
                    attempts.served();
                }
                Some(ended)
            }
        }
    }

    fn finish(&mut self, ended: Ended) -> Result<Frame<Bytes>, Status> {
        self.ended = true;
        match ended {
            Ended::Trailers(trailers) => Ok(Frame::trailers(trailers)),
            Ended::Broken(status) => Err(status),
        }
    }
}

impl<S: Transport> HttpBody for Answer<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some(retrying) = &mut this.retrying {
                let retried = ready!(retrying.poll_unpin(context));
                this.retrying = None;
                match retried {
                    // An answer of headers alone has its status there.
                    Ok(response) if verdict::code_in(response.headers()).is_some() => {
                        let (parts, _) = response.into_parts();
                        return Poll::Ready(Some(this.finish(Ended::Trailers(parts.headers))));
                    }
                    Ok(response) => this.body = response.into_body(),
                    Err(ended) => return Poll::Ready(Some(this.finish(ended))),
                }
            }
            let (verdict, ended) = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => {
                        let code = verdict::code_in(&trailers);
                        (code.map_or(Verdict::Served, verdict::of_code), Ended::Trailers(trailers))
                    }
                    Err(message) => {
                        this.message();
                        return Poll::Ready(Some(Ok(message)));
                    }
                },
                // Its head has come, so it was sent, whatever the error says.
                Some(Err(status)) => match verdict::of_error(&status) {
                    Verdict::FailedForGood => (Verdict::FailedForGood, Ended::Broken(status)),
                    _ => (Verdict::Failed, Ended::Broken(status)),
                },
                None => {
                    this.ended = true;
                    if let Some(mut ticket) = this.ticket.take() {
                        ticket.succeeded(Instant::now());
                    }
                    return Poll::Ready(None);
                }
            };
            if let Some(ended) = this.end(verdict, ended) {
                return Poll::Ready(Some(this.finish(ended)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
