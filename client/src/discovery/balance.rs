//! Calls over all live instances of a service: balanced, with circuit breakers, outlier ejection and retries.
//!
//! How a call goes: [`pool`] chooses an instance (zone, weight, load, breaker, ejection), [`attempts`] sends and decides
//! whether another instance may be asked, [`answer`] watches the body until its end; [`verdict`] says what an outcome
//! means. [`breaker`], [`ejection`], [`load`] and [`picker`] are pure: they are told the time.
//!
//! Invariants:
//! - A call that may have been worked on is made again only if its caller said that this is harmless.
//! - No lock is held while a call is under way.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use super::instance::Instance;

mod answer;
mod attempts;
mod backend;
mod breaker;
mod ejection;
mod layer;
mod load;
mod picker;
mod policy;
mod pool;
mod tape;
mod verdict;

use attempts::Attempts;
pub use breaker::BreakerState;
pub use layer::{Resilient, ResilientLayer};
pub use policy::BalancePolicy;
use pool::Pool;
pub(super) use pool::{Make, Pool as BalancePool};

/// What carries calls to one instance: any clonable service of gRPC's requests, such as a tonic channel.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let make = |instance: &quorate::Instance| {
///     let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", instance.authority()));
///     endpoint.map(|endpoint| endpoint.connect_lazy()).map_err(|error| error.to_string())
/// };
/// let channel: quorate::Balanced<tonic::transport::Channel> = client.service("orders").balanced(make).await?;
/// # Ok(()) }
/// ```
pub trait Transport:
    Service<
        Request<Body>,
        Response = Response<Body>,
        Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Transport for S where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// Marks a request whose work may be done twice without harm: put it into the extensions of a tonic request.
///
/// ```no_run
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(quorate::Idempotent);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotent;

/// Which calls may be made twice.
#[derive(Clone)]
enum Harmless {
    Marked,
    All,
    Methods(Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

/// A tonic channel over all live instances of a service; made by [`Service::channel`](crate::Service::channel).
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let channel: quorate::ServiceChannel = client.service("orders").zone("eu-1").channel().await?;
/// // `OrdersClient::new(channel.clone())` and so on: it serves any generated client.
/// for each in channel.snapshot().instances {
///     println!("{} {:?}, {} calls under way", each.instance.id, each.breaker, each.in_flight);
/// }
/// # Ok(()) }
/// ```
pub type ServiceChannel = Balanced<Channel>;

/// Calls over all live instances of a service, each reached by a transport of its own.
///
/// - **Choice**: two instances are drawn by weight, and the less loaded is taken (calls under way, and latency that
///   rises at once and fades). Those of the own zone come first while one of them is well.
/// - **Breaker**: an instance that refuses connections, fails several times in a row, or fails too large a share of its
///   calls is left alone for a growing time; then one call tries it. What counts as failing: no connection, a broken
///   one, UNAVAILABLE, INTERNAL, UNKNOWN, `DEADLINE_EXCEEDED`. Other codes are answers.
/// - **Ejection**: an instance that fails far more often than the others is left alone for a time, never more than half
///   of them (a setting).
/// - **No instance well**: one is tried all the same, rather than failing everything.
/// - **Retries**: a request that was never sent (no connection) is sent to another instance, whatever it does. One that
///   may have been worked on is made again only if it is idempotent ([`Balanced::idempotent`],
///   [`Balanced::idempotent_methods`], [`Idempotent`]) after UNAVAILABLE or a broken connection, with backoff, within a
///   budget, and never after the first message of the answer.
/// - **The cluster away**: the last known instances stay.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let channel = client.service("orders").channel().await?.idempotent_methods(|path| path.ends_with("/Get"));
/// # Ok(()) }
/// ```
pub struct Balanced<S> {
    pool: Arc<Pool<S>>,
    harmless: Harmless,
}

impl<S> Balanced<S> {
    pub(super) fn new(pool: Pool<S>) -> Self {
        Self { pool: Arc::new(pool), harmless: Harmless::Marked }
    }

    /// The same, for calls of which each may be made twice without harm.
    ///
    /// ```no_run
    /// # fn example(channel: quorate::ServiceChannel) {
    /// let for_reads = channel.idempotent();
    /// # }
    /// ```
    #[must_use]
    pub fn idempotent(&self) -> Self {
        Self { pool: self.pool.clone(), harmless: Harmless::All }
    }

    /// The same; calls may be made twice if `is_idempotent` says so of their path (`/package.Service/Method`).
    ///
    /// ```no_run
    /// # fn example(channel: quorate::ServiceChannel) {
    /// let channel = channel.idempotent_methods(|path| path.rsplit('/').next().is_some_and(|m| m.starts_with("Get")));
    /// # }
    /// ```
    #[must_use]
    pub fn idempotent_methods(&self, is_idempotent: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { pool: self.pool.clone(), harmless: Harmless::Methods(Arc::new(is_idempotent)) }
    }

    /// The instances as they are used now, for people and metrics.
    ///
    /// ```no_run
    /// # fn example(channel: quorate::ServiceChannel) {
    /// let now = channel.snapshot();
    /// println!("{} instances, the cluster {}", now.instances.len(), if now.following { "answers" } else { "is away" });
    /// # }
    /// ```
    pub fn snapshot(&self) -> ChannelSnapshot {
        let now = Instant::now();
        let set = self.pool.source().map(super::live::Instances::now);
        let members = self.pool.members();
        let status = |member: &pool::Member<S>| {
            let seen = member.backend.seen(now);
            InstanceStatus {
                instance: member.instance.as_ref().clone(),
                breaker: seen.breaker,
                ejected: seen.ejected,
                in_flight: seen.in_flight,
                latency: seen.latency,
            }
        };
        ChannelSnapshot {
            instances: members.all.iter().map(status).collect(),
            protected: set.as_ref().is_some_and(|set| set.protected),
            following: set.as_ref().is_some_and(|set| set.following),
        }
    }
}

/// The instances of a [`Balanced`] as they are used now.
///
/// ```no_run
/// # fn example(channel: quorate::ServiceChannel) {
/// let now: quorate::ChannelSnapshot = channel.snapshot();
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ChannelSnapshot {
    /// In order of their ids.
    pub instances: Vec<InstanceStatus>,
    /// The cluster suspects itself: more instances vanished at once than is plausible, and they are kept.
    pub protected: bool,
    /// The cluster answers; without it the last known instances are used.
    pub following: bool,
}

/// One instance as it is used now.
///
/// ```no_run
/// # fn example(channel: quorate::ServiceChannel) {
/// let ejected = channel.snapshot().instances.iter().filter(|each| each.ejected).count();
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// As it is registered.
    pub instance: Instance,
    /// Its circuit breaker.
    pub breaker: BreakerState,
    /// It is left alone because it failed far more often than the others.
    pub ejected: bool,
    /// Calls under way.
    pub in_flight: u32,
    /// Its latency as the choice sees it; `None` before the first answer.
    pub latency: Option<Duration>,
}

impl<S: Transport> Service<Request<Body>> for Balanced<S> {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let idempotent = request.extensions().get::<Idempotent>().is_some()
            || match &self.harmless {
                Harmless::Marked => false,
                Harmless::All => true,
                Harmless::Methods(is_idempotent) => is_idempotent(request.uri().path()),
            };
        let pool = self.pool.clone();
        let attempts = Attempts::new(pool.clone(), request, idempotent);
        let deadline = attempts.deadline();
        async move {
            if let Some(source) = pool.source() {
                let late = |_| Status::deadline_exceeded("no instance became known in time");
                match deadline {
                    Some(deadline) => tokio::time::timeout_at(deadline, source.known()).await.map_err(late)?,
                    None => source.known().await,
                }
            }
            attempts.run().await
        }
        .boxed()
    }
}

impl<S> Clone for Balanced<S> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), harmless: self.harmless.clone() }
    }
}

impl<S> fmt::Debug for Balanced<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Balanced");
        shown.field("service", &self.pool.service).field("instances", &self.pool.members().all.len());
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
