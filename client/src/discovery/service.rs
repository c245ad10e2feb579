//! One service as its callers see it: resolve it once, watch it, keep it in memory, call it.
//!
//! Invariants:
//! - The own zone is a preference: with nobody there, all zones serve. `only_zone` is a filter.

use std::time::Duration;

use quorate_proto::v1;
use tonic::transport::{Channel, Endpoint};

use super::balance::{BalancePolicy, BalancePool, Balanced, Make, ServiceChannel};
use super::discover::ServiceDiscover;
use super::instance::{Health, Instance};
use super::live::Instances;
use super::watch::{Follower, ServiceWatch};
use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::types::Header;

/// How often a connection to an instance is probed while calls are under way, and how long the answer may take.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_WITHIN: Duration = Duration::from_secs(3);

/// A service to be found; made by [`Client::service`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let orders = client.service("orders").tag("v2").zone("eu-1");
/// let channel = orders.channel().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until one of its methods ends it"]
pub struct Service {
    client: Client,
    name: String,
    tags: Vec<String>,
    own_zone: String,
    only_zone: String,
    worst: Health,
    policy: BalancePolicy,
    options: CallOptions,
}

impl Service {
    pub(super) fn new(client: &Client, name: String) -> Self {
        Self {
            client: client.clone(),
            name,
            tags: Vec::new(),
            own_zone: String::new(),
            only_zone: String::new(),
            worst: Health::Unspecified,
            policy: BalancePolicy::default(),
            options: CallOptions::default(),
        }
    }

    /// Only instances with this tag, and with those named before.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The caller's own zone: its instances come first; with none there that is well, those of the others serve.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.own_zone = zone.into();
        self
    }

    /// Only instances of this zone.
    pub fn only_zone(mut self, zone: impl Into<String>) -> Self {
        self.only_zone = zone.into();
        self
    }

    /// The worst health that is wanted; passing and warning when left out. [`Health::Maintenance`]: all there are.
    pub fn worst(mut self, worst: Health) -> Self {
        self.worst = worst;
        self
    }

    /// How instances that fail are treated, and when calls are tried again.
    pub fn policy(mut self, policy: BalancePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// How long the first answer of the cluster may take, instead of the client's default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = Some(deadline);
        self
    }

    /// Its instances as of now. With an own zone: those of it if there are any, else all.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// for instance in client.service("orders").resolve().await?.instances {
    ///     println!("{} at {}", instance.id, instance.authority());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn resolve(self) -> Result<Resolved> {
        let request = v1::ResolveRequest {
            service: self.name,
            tags: self.tags,
            zone: self.only_zone,
            worst: self.worst.wire(),
            read: None,
        };
        let answer = self.client.run(request, self.options).await?;
        let mut instances: Vec<Instance> = answer.instances.into_iter().map(Instance::from).collect();
        let is_near = |instance: &Instance| !self.own_zone.is_empty() && instance.zone == self.own_zone;
        if instances.iter().any(is_near) {
            instances.retain(is_near);
        }
        Ok(Resolved { header: answer.header.into(), instances, protected: answer.protected })
    }

    /// Its instances, then each change, through the loss of members. All zones, unless [`Service::only_zone`] is given.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// use futures::TryStreamExt as _;
    /// let mut changes = client.service("orders").watch();
    /// while let Some(change) = changes.try_next().await? {
    ///     println!("{} changed, {} gone", change.changed.len(), change.removed.len());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> ServiceWatch {
        ServiceWatch::new(self.follower())
    }

    /// Its instances kept in memory, once they were read.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let orders = client.service("orders").instances().await?;
    /// println!("{}", orders.now().instances.len());
    /// # Ok(()) }
    /// ```
    pub async fn instances(&self) -> Result<Instances> {
        let instances = self.live();
        instances.first(self.options.deadline.unwrap_or(self.client.shared().config.deadline)).await?;
        Ok(instances)
    }

    /// A tonic channel over all live instances, once they are known (there may be none yet). See [`Balanced`] for what
    /// it does; it stays up to date by itself.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let channel = client.service("orders").channel().await?;
    /// // let orders = OrdersClient::new(channel);
    /// # Ok(()) }
    /// ```
    pub async fn channel(&self) -> Result<ServiceChannel> {
        Ok(self.balanced_over(self.instances().await?, Box::new(self.make_channel(|_, endpoint| endpoint))))
    }

    /// The same without waiting: the first calls wait until the instances are known, for at most five seconds.
    ///
    /// ```no_run
    /// # fn example(client: quorate::Client) {
    /// let channel = client.service("orders").channel_lazy();
    /// # }
    /// ```
    pub fn channel_lazy(&self) -> ServiceChannel {
        self.balanced_over(self.live(), Box::new(self.make_channel(|_, endpoint| endpoint)))
    }

    /// The same as [`Service::channel`], with connections made as `adjust` says: timeouts, windows, TLS.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let channel = client.service("orders").channel_with(|_, endpoint| endpoint.tcp_nodelay(true)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn channel_with(
        &self,
        adjust: impl Fn(&Instance, Endpoint) -> Endpoint + Send + Sync + 'static,
    ) -> Result<ServiceChannel> {
        Ok(self.balanced_over(self.instances().await?, Box::new(self.make_channel(adjust))))
    }

    /// The same balancing over transports of your own: `make` is called once for each instance.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// use tonic::transport::Endpoint;
    /// let make = |instance: &quorate::Instance| {
    ///     let endpoint = Endpoint::from_shared(format!("http://{}", instance.authority()));
    ///     endpoint.map(|endpoint| endpoint.connect_lazy()).map_err(|error| error.to_string())
    /// };
    /// let balanced = client.service("orders").balanced(make).await?;
    /// # Ok(()) }
    /// ```
    pub async fn balanced<S>(
        &self,
        make: impl Fn(&Instance) -> Result<S, String> + Send + Sync + 'static,
    ) -> Result<Balanced<S>> {
        Ok(self.balanced_over(self.instances().await?, Box::new(make)))
    }

    /// Its instances as a stream of [`tower::discover::Change`], for balancers of `tower`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) {
    /// let addresses = client.service("orders").discover(|instance| instance.authority());
    /// # }
    /// ```
    pub fn discover<S>(&self, make: impl FnMut(&Instance) -> S + Send + 'static) -> ServiceDiscover<S> {
        ServiceDiscover::new(self.watch(), make)
    }

    fn live(&self) -> Instances {
        Instances::begin(&self.client, &self.name, self.follower())
    }

    fn follower(&self) -> Follower {
        let request = v1::WatchServiceRequest {
            service: self.name.clone(),
            tags: self.tags.clone(),
            zone: self.only_zone.clone(),
            worst: self.worst.wire(),
            after_revision: 0,
        };
        Follower::new(self.client.clone(), request)
    }

    fn balanced_over<S>(&self, instances: Instances, make: Box<Make<S>>) -> Balanced<S> {
        Balanced::new(BalancePool::live(instances, self.own_zone.clone(), self.policy.clone(), make))
    }

    fn make_channel(
        &self,
        adjust: impl Fn(&Instance, Endpoint) -> Endpoint + Send + Sync + 'static,
    ) -> impl Fn(&Instance) -> Result<Channel, String> + Send + Sync + 'static {
        let (runtime, connect_timeout) = (self.client.shared().runtime.clone(), self.policy.connect_timeout);
        move |instance| {
            let endpoint = Endpoint::from_shared(format!("http://{}", instance.authority()))
                .map_err(|error| format!("its address {:?} is malformed: {error}", instance.authority()))?
                .connect_timeout(connect_timeout)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PROBE_EVERY)
                .keep_alive_timeout(PROBE_WITHIN);
            let _within = runtime.enter();
            Ok(adjust(instance, endpoint).connect_lazy())
        }
    }
}

/// The instances of a service at one moment; from [`Service::resolve`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let resolved = client.service("orders").resolve().await?;
/// if resolved.protected { println!("many have vanished at once; they are listed too"); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// Who answered.
    pub header: Header,
    /// In order of their ids.
    pub instances: Vec<Instance>,
    /// More have expired at once than is plausible: they are listed too, marked so. Use those that answer.
    pub protected: bool,
}
