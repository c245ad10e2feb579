//! One stream of watches: the body of its answer.
//!
//! Invariants:
//! - It is polled only while its connection has room: what waits for a client that does not read is what h2 buffers of
//!   this stream, one message beyond that, and what the session holds.
//! - At an event nothing is polled but the session: requests, and what ends the stream, ring the alarm.
//! - Requests and notices take turns, so that neither of them grows the other's queue.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tonic::{Code, Status, Streaming};

use super::{Dialect, Frames, Opened};
use crate::alarm::Alarm;
use crate::watch::Session;

/// Requests that are done before other streams have their turn.
const REQUESTS_MAX: usize = 64;

/// The stream.
pub struct WatchStream<D: Dialect> {
    dialect: D,
    session: Session,
    requests: Option<Streaming<D::Request>>,
    over: BoxFuture<'static, Status>,
    alarm: Arc<Alarm>,
    frames: Frames,
    ended: bool,
}

impl<D: Dialect> WatchStream<D> {
    /// That answers `requests`.
    pub fn new(opened: Opened<D>, requests: Streaming<D::Request>) -> Self {
        let Opened { dialect, session, over } = opened;
        let (requests, alarm, frames) = (Some(requests), Alarm::ringing(), Frames::default());
        Self { dialect, session, requests, over, alarm, frames, ended: false }
    }

    /// The next message; `None` when there is nothing more to come.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let (mut will_be_woken, mut requests) = (false, 0);
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Poll::Ready(Ok(Some(frame)));
            }
            let looked = match self.alarm.rang() {
                Some(waker) => self.look(&mut Context::from_waker(&waker)),
                None => Ok(false),
            };
            let looked = match looked {
                Ok(looked) => looked,
                Err(status) => return Poll::Ready(Err(status)),
            };
            if self.requests.is_none() && self.session.is_empty() && self.frames.is_empty() {
                return Poll::Ready(Ok(None));
            }
            match self.session.poll_next(cx) {
                Poll::Ready(notice) => {
                    if let Err(status) = self.dialect.notice(notice, &self.session, &mut self.frames) {
                        return Poll::Ready(Err(status));
                    }
                }
                Poll::Pending if looked && requests < REQUESTS_MAX => requests += 1,
                Poll::Pending if looked => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending if will_be_woken => return Poll::Pending,
                Poll::Pending => {
                    will_be_woken = true;
                    self.alarm.wakes(cx.waker());
                }
            }
        }
    }

    /// Whether something was done that may be followed by more. An error ends the stream.
    fn look(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        if let Poll::Ready(status) = self.over.as_mut().poll(cx) {
            return Err(status);
        }
        let Some(requests) = &mut self.requests else { return Ok(false) };
        match requests.poll_next_unpin(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Some(request)) => self.dialect.request(request?, &mut self.session, &mut self.frames),
            Poll::Ready(None) => self.requests = None,
        }
        self.alarm.again();
        Ok(true)
    }
}

impl<D: Dialect> http_body::Body for WatchStream<D> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let status = match ready!(self.poll_message(cx)) {
            Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Ok(None) => Status::ok(""),
            Err(status) => status,
        };
        self.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(Code::Internal)));
    }
    trailers
}
