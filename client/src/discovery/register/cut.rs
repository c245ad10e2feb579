//! A stream of requests that can be cut: what a member sees is a stream that broke, not one that ended.
//!
//! Invariants:
//! - Once its [`Cut`] is dropped, the stream never ends in good order, even if its sender is dropped at the same time
//!   (after the cut).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use http_body::{Body as HttpBody, Frame};
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// Cuts the stream when dropped.
#[derive(Debug)]
pub(super) struct Cut {
    _dropped: oneshot::Sender<()>,
}

/// A service for one call, whose body can be cut.
pub(super) fn with_cut<S>(service: S) -> (Cuttable<S>, Cut) {
    let (sender, dropped) = oneshot::channel();
    (Cuttable { service, dropped: Some(dropped) }, Cut { _dropped: sender })
}

#[derive(Debug)]
pub(super) struct Cuttable<S> {
    service: S,
    dropped: Option<oneshot::Receiver<()>>,
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Cuttable<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        match self.dropped.take() {
            Some(dropped) => self.service.call(request.map(|body| Body::new(Requests { body, dropped }))),
            None => self.service.call(request),
        }
    }
}

struct Requests {
    body: Body,
    dropped: oneshot::Receiver<()>,
}

impl HttpBody for Requests {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // Looked at last: whoever sees the end of the body must see the cut that came before it.
        if matches!(polled, Poll::Ready(Some(_))) || self.dropped.poll_unpin(context).is_pending() {
            return polled;
        }
        Poll::Ready(Some(Err(Status::cancelled("the stream is cut"))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    fn requests() -> (mpsc::Sender<Result<Frame<Bytes>, Status>>, Cut, Body) {
        let (sender, receiver) = mpsc::channel(4);
        let (cut, dropped) = oneshot::channel();
        let body = Body::new(StreamBody::new(ReceiverStream::new(receiver)));
        (sender, Cut { _dropped: cut }, Body::new(Requests { body, dropped }))
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_ends_with_an_error_though_its_sender_is_gone() {
        let (sender, cut, mut body) = requests();
        sender.send(Ok(Frame::data(Bytes::from_static(b"a")))).await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        drop(cut);
        drop(sender);
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn without_a_cut_it_ends_in_good_order() {
        let (sender, _cut, mut body) = requests();
        drop(sender);
        assert!(body.frame().await.is_none());
    }
}
