//! An instance that stays registered for as long as somebody holds on to it.
//!
//! Invariants:
//! - A broken stream, a lost member or a new leader is no reason for the instance to vanish: the registration goes on
//!   elsewhere, by the same lease, within its time to live.
//! - After `deregister`, nothing of the guard registers the instance again.

use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_proto::LeaseId;
use tokio::sync::{mpsc, oneshot, watch};

use super::instance::{Health, Instance};
use crate::client::Client;
use crate::error::{Error, Happened, Reason, Result};
use crate::tasks::{self, Task, TaskGuard};

mod cut;
mod keep;

use keep::{Command, Keep};

/// Time to live of a registration that says nothing else.
const TTL_DEFAULT: Duration = Duration::from_secs(15);
/// How long the stream of a registration may take to end in order.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// An instance to be registered; made by [`Client::register`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use std::time::Duration;
/// let instance = quorate::Instance::new("orders", "orders-1").address("10.0.0.7").port(8080);
/// let registration = client.register(instance).ttl(Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Register {
    client: Client,
    instance: Instance,
    ttl: Duration,
    permanent: bool,
    deadline: Option<Duration>,
}

impl Register {
    pub(super) fn new(client: &Client, instance: Instance) -> Self {
        Self { client: client.clone(), instance, ttl: TTL_DEFAULT, permanent: false, deadline: None }
    }

    /// How long the instance outlives its program (1 s to a day); 15 s when left out.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Without a lease: it stays until it is deregistered, or removed by its checks. For services that cannot register
    /// themselves. Dropping the guard then leaves it registered.
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// How long the first registration may take, instead of the client's default and the time to live together: if the
    /// program was killed and started again, its earlier self keeps the id for as long as it lives.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    async fn run(self) -> Result<Registration> {
        let within = self.deadline.unwrap_or(self.client.shared().config.deadline.saturating_add(self.ttl));
        let (commands, queue) = mpsc::channel(16);
        let (first, registered) = oneshot::channel();
        let status = watch::Sender::new(RegistrationStatus {
            state: RegistrationState::Registering,
            instance: self.instance.clone(),
            lease: None,
            renewals: 0,
            last_error: None,
        });
        let receiver = status.subscribe();
        let client = self.client.clone();
        let permanent = self.permanent;
        let keep = Keep::new(self.client, self.instance, self.ttl, self.permanent, queue, status, first);
        let task = tasks::spawn(&client.shared().runtime, Task::Registration, keep.run());
        let mut registration =
            Registration { client, commands, status: receiver, permanent, task: Some(task), released: false };
        match tokio::time::timeout(within, registered).await {
            Ok(Ok(Ok(()))) => Ok(registration),
            Ok(Ok(Err(error))) => {
                registration.released = true;
                Err(error)
            }
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => match registration.status().last_error {
                Some(taken) if taken.reason() == Some(Reason::InstanceExists) => {
                    registration.released = true;
                    Err(taken)
                }
                last => {
                    // It may be registered yet; dropping the guard sees to that.
                    registration.permanent = false;
                    let last = last.map(Box::new);
                    Err(Error::Deadline { after: within, happened: Happened::Unknown, write_id: None, last })
                }
            },
        }
    }
}

impl IntoFuture for Register {
    type Output = Result<Registration>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Where a [`Registration`] stands.
///
/// ```no_run
/// # fn example(registration: quorate::Registration) {
/// if registration.status().state == quorate::RegistrationState::Lost { eprintln!("nobody finds this instance now"); }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistrationState {
    /// The first answer has not come yet.
    Registering,
    /// The cluster has confirmed it.
    Registered,
    /// No member confirms it at the moment. It stands still, and is confirmed elsewhere as soon as that goes.
    Interrupted,
    /// It was not confirmed within its time to live, so others may not see it any more. It is registered anew as soon
    /// as a member answers.
    Lost,
    /// The guard has given it up.
    Ended,
}

/// What is known of a [`Registration`].
///
/// ```no_run
/// # fn example(registration: quorate::Registration) {
/// println!("registered anew {} times", registration.status().renewals);
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistrationStatus {
    /// Where it stands.
    pub state: RegistrationState,
    /// The instance as the cluster stored it last.
    pub instance: Instance,
    /// Lease that it lives by.
    pub lease: Option<LeaseId>,
    /// How often it was lost meanwhile (lease ended, or deregistered by another) and registered anew.
    pub renewals: u64,
    /// What went wrong last, while it is not confirmed.
    pub last_error: Option<Error>,
}

/// An instance that keeps itself registered; made by [`Client::register`].
///
/// Dropping it deregisters the instance, as well as that can be done without waiting; [`Registration::deregister`] waits
/// for it. If neither happens (the process is killed), the instance goes after its time to live.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let instance = quorate::Instance::new("orders", "orders-1").address("10.0.0.7").port(8080);
/// let registration = client.register(instance).await?;
/// // serve
/// registration.deregister().await?;
/// # Ok(()) }
/// ```
#[must_use = "dropping it deregisters the instance"]
pub struct Registration {
    client: Client,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<RegistrationStatus>,
    permanent: bool,
    task: Option<TaskGuard>,
    released: bool,
}

impl Registration {
    /// What is known of it now.
    ///
    /// ```no_run
    /// # fn example(registration: quorate::Registration) { println!("{:?}", registration.status().state); }
    /// ```
    pub fn status(&self) -> RegistrationStatus {
        self.status.borrow().clone()
    }

    /// Tells of each change of its status.
    ///
    /// ```no_run
    /// # async fn example(registration: quorate::Registration) {
    /// let mut status = registration.subscribe();
    /// while status.changed().await.is_ok() { println!("{:?}", status.borrow_and_update().state); }
    /// # }
    /// ```
    pub fn subscribe(&self) -> watch::Receiver<RegistrationStatus> {
        self.status.clone()
    }

    /// Completes when others may not see the instance any more, although it is still tried. Safe to drop and to call
    /// again at any time.
    ///
    /// ```no_run
    /// # async fn example(registration: quorate::Registration) {
    /// registration.lost().await;
    /// # }
    /// ```
    pub async fn lost(&self) {
        let mut status = self.status.clone();
        let lost =
            |status: &RegistrationStatus| matches!(status.state, RegistrationState::Lost | RegistrationState::Ended);
        // An error means that the task has ended: with it the registration.
        let _ = status.wait_for(lost).await;
    }

    /// Registers it with other contents (service and id stay).
    ///
    /// ```no_run
    /// # async fn example(registration: quorate::Registration) -> quorate::Result<()> {
    /// let instance = quorate::Instance::new("orders", "orders-1").address("10.0.0.7").port(8080);
    /// registration.update(instance.weight(50)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn update(&self, instance: Instance) -> Result<()> {
        let (service, id) = self.names();
        if (&instance.service, &instance.id) != (&service, &id) {
            let what = format!("this registration is of {service}/{id}; register {} separately", instance.id);
            return Err(Error::invalid(what));
        }
        let (done, outcome) = oneshot::channel();
        let update = Command::Update(Box::new(instance), done);
        self.commands.send(update).await.map_err(|_| Error::Closed)?;
        outcome.await.map_err(|_| Error::Closed)?
    }

    /// Says how the instance is: the answer to its TTL check, or its own view. Answers what counts now.
    ///
    /// ```no_run
    /// # async fn example(registration: quorate::Registration) -> quorate::Result<()> {
    /// registration.report(quorate::Health::Warning, "queue is long").await?;
    /// # Ok(()) }
    /// ```
    pub async fn report(&self, health: Health, note: impl Into<String>) -> Result<Health> {
        let (service, id) = self.names();
        let note = note.into();
        let counts = self.client.report_health(service, id, health, note.clone()).await?;
        // So that it says the same when it must register anew.
        self.commands.send(Command::Reported(health, note)).await.map_err(|_| Error::Closed)?;
        Ok(counts)
    }

    /// Takes the instance out of service, or back, whatever its checks say. Answers what counts now.
    ///
    /// ```no_run
    /// # async fn example(registration: quorate::Registration) -> quorate::Result<()> {
    /// registration.maintenance(true, "new disk").await?;
    /// # Ok(()) }
    /// ```
    pub async fn maintenance(&self, on: bool, note: impl Into<String>) -> Result<Health> {
        let (service, id) = self.names();
        self.client.set_maintenance(service, id, on, note).await
    }

    /// Removes the instance. Answers whether it was there still. If this future is dropped, that goes on in the
    /// background.
    ///
    /// ```no_run
    /// # async fn example(registration: quorate::Registration) -> quorate::Result<()> {
    /// registration.deregister().await?;
    /// # Ok(()) }
    /// ```
    pub async fn deregister(mut self) -> Result<bool> {
        let (service, id) = self.names();
        stop(&self.commands).await;
        self.permanent = false;
        let was_there = self.client.deregister(service, id).await?;
        self.released = true;
        Ok(was_there)
    }

    fn names(&self) -> (String, String) {
        let status = self.status.borrow();
        (status.instance.service.clone(), status.instance.id.clone())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.released || self.permanent {
            return;
        }
        let (service, id) = self.names();
        let (client, commands, task) = (self.client.clone(), self.commands.clone(), self.task.take());
        let runtime = client.shared().runtime.clone();
        tasks::spawn_detached(&runtime, Task::Deregister, async move {
            stop(&commands).await;
            drop(task);
            if let Err(error) = client.deregister(&service, &id).await {
                tracing::debug!(service, id, %error, "a dropped registration was not removed; it ends by itself");
            }
        });
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = self.status.borrow();
        let mut shown = f.debug_struct("Registration");
        shown.field("service", &status.instance.service).field("id", &status.instance.id);
        shown.field("state", &status.state).finish_non_exhaustive()
    }
}

/// Ends the stream in order, so that no heartbeat is on its way any more.
async fn stop(commands: &mpsc::Sender<Command>) {
    let (done, stopped) = oneshot::channel();
    let ended = async {
        if commands.send(Command::Stop(done)).await.is_ok() {
            // An error means that it has ended, too.
            let _ = stopped.await;
        }
    };
    // Late: a heartbeat that comes after the removal is the worst of it, and the stream ends with this process.
    let _ = tokio::time::timeout(CLOSE_WITHIN, ended).await;
}

#[cfg(test)]
mod tests;
