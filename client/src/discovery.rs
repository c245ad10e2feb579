//! Service discovery: register instances, find them, and call them.
//!
//! Who serves: [`register`]. Who calls: [`service`], with [`watch`] and [`live`] beneath, and [`balance`] for the calls
//! themselves; [`discover`] for balancers of `tower`.
//!
//! Invariants:
//! - A registration and a watch survive the loss of any member, and of the leader, without anybody seeing a gap.
//! - What is known of a service does not vanish because the cluster is away.

use quorate_proto::v1;

use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;

mod balance;
mod discover;
mod instance;
mod live;
mod register;
mod service;
mod services;
mod watch;

pub use balance::{
    BalancePolicy, Balanced, BreakerState, ChannelSnapshot, Idempotent, InstanceStatus, Resilient, ResilientLayer,
    ServiceChannel, Transport,
};
pub use discover::ServiceDiscover;
pub use instance::{CheckKind, Health, HealthCheck, Instance};
pub use live::{Instances, LiveSet};
pub use register::{Register, Registration, RegistrationState, RegistrationStatus};
pub use service::{Resolved, Service};
pub use services::{ServiceSummary, Services, ServicesPage};
pub use watch::{ServiceChange, ServiceWatch};

impl Client {
    /// Registers an instance; awaited, it is registered, and stays so until the guard is dropped.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let instance = quorate::Instance::new("orders", "orders-1").address("10.0.0.7").port(8080);
    /// let registration = client.register(instance).await?;
    /// registration.deregister().await?;
    /// # Ok(()) }
    /// ```
    pub fn register(&self, instance: Instance) -> Register {
        Register::new(self, instance)
    }

    /// A service, to be resolved, watched or called.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let channel = client.service("orders").channel().await?;
    /// # Ok(()) }
    /// ```
    pub fn service(&self, name: impl Into<String>) -> Service {
        Service::new(self, name.into())
    }

    /// All services. Awaited, it collects all pages.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// for each in client.services().await? { println!("{}: {} of {}", each.name, each.healthy, each.instances); }
    /// # Ok(()) }
    /// ```
    pub fn services(&self) -> Services {
        Services::new(self)
    }

    /// Removes an instance, whoever registered it. Answers whether it was there.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let was_there = client.deregister("orders", "orders-1").await?;
    /// # Ok(()) }
    /// ```
    pub async fn deregister(&self, service: impl Into<String>, id: impl Into<String>) -> Result<bool> {
        let request = v1::DeregisterRequest { service: service.into(), id: id.into() };
        Ok(self.run(request, CallOptions::default()).await?.deregistered)
    }

    /// Says how an instance is: the answer to its TTL check, or its own view. Answers what counts now.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.report_health("orders", "orders-1", quorate::Health::Warning, "queue is long").await?;
    /// # Ok(()) }
    /// ```
    pub async fn report_health(
        &self,
        service: impl Into<String>,
        id: impl Into<String>,
        health: Health,
        note: impl Into<String>,
    ) -> Result<Health> {
        let request = v1::ReportHealthRequest {
            service: service.into(),
            id: id.into(),
            health: health.wire(),
            note: note.into(),
        };
        Ok(Health::of(self.run(request, CallOptions::default()).await?.health))
    }

    /// Takes an instance out of service, or back, whatever its checks say. Answers what counts now.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.set_maintenance("orders", "orders-1", true, "new disk").await?;
    /// # Ok(()) }
    /// ```
    pub async fn set_maintenance(
        &self,
        service: impl Into<String>,
        id: impl Into<String>,
        on: bool,
        note: impl Into<String>,
    ) -> Result<Health> {
        let request = v1::SetMaintenanceRequest { service: service.into(), id: id.into(), on, note: note.into() };
        Ok(Health::of(self.run(request, CallOptions::default()).await?.health))
    }
}

#[cfg(test)]
mod fake;
