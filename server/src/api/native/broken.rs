//! Tells a stream of requests that broke from one that its client ended.
//!
//! Tonic takes the reset of a stream, which is what a client leaves behind that drops its call, for the end of it. Here
//! each error of the body is made one that it does not take for that.
//!
//! Invariants:
//! - Nothing else of a request is changed.

use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// A service whose streams of requests say that they broke.
#[derive(Debug, Clone)]
pub struct TellsBroken<S>(pub S);

impl<S: NamedService> NamedService for TellsBroken<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for TellsBroken<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let told = |error: Status| Status::unavailable(format!("the stream of requests broke: {}", error.message()));
        self.0.call(request.map(|body| Body::new(body.map_err(told))))
    }
}
