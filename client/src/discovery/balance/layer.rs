//! Breaker and retries around one transport, as a `tower` layer, for those who balance by themselves.
//!
//! Invariants:
//! - While the breaker is open, calls fail at once with UNAVAILABLE, without touching the transport.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::policy::BalancePolicy;
use super::pool::Pool;
use super::{Balanced, Harmless, Transport};

/// Puts a circuit breaker and retries with a budget around a transport.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tower::Layer as _;
/// let channel = tonic::transport::Endpoint::from_static("http://10.0.0.7:8080").connect_lazy();
/// let channel = quorate::ResilientLayer::default().idempotent().layer(channel);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct ResilientLayer {
    policy: BalancePolicy,
    idempotent: bool,
}

impl ResilientLayer {
    /// With these settings; those of ejection do not apply.
    ///
    /// ```no_run
    /// let layer = quorate::ResilientLayer::new(quorate::BalancePolicy::default());
    /// ```
    pub fn new(policy: BalancePolicy) -> Self {
        Self { policy, idempotent: false }
    }

    /// Each call may be made twice without harm.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}

impl<S: Transport> Layer<S> for ResilientLayer {
    type Service = Resilient<S>;

    fn layer(&self, transport: S) -> Resilient<S> {
        let mut balanced = Balanced::new(Pool::fixed(transport, self.policy.clone()));
        if self.idempotent {
            balanced.harmless = Harmless::All;
        }
        Resilient(balanced)
    }
}

/// A transport with breaker and retries; made by [`ResilientLayer`].
///
/// ```no_run
/// # fn example(service: quorate::Resilient<tonic::transport::Channel>) {
/// println!("{service:?}");
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Resilient<S>(Balanced<S>);

impl<S: Transport> Service<Request<Body>> for Resilient<S> {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}
