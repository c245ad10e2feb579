//! The instances of a service kept in memory, fed by a watch.
//!
//! Invariants:
//! - A set changes only by what the cluster says: while it is away, the last known instances stay.
//! - Instances stand in order of their ids, each once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::Revision;
use tokio::sync::watch;

use super::instance::Instance;
use super::watch::{Follower, ServiceChange, Step, is_passing};
use crate::client::Client;
use crate::error::{Error, Happened, Result};
use crate::tasks::{self, Task, TaskGuard};

/// How long a call waits for the first set.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
/// Pause after an error that does not pass by itself: the members may be upgraded meanwhile.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// The instances of a service as far as they are known.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let orders = client.service("orders").instances().await?;
/// for instance in &orders.now().instances { println!("{} at {}", instance.id, instance.authority()); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LiveSet {
    /// In order of their ids.
    pub instances: Vec<Instance>,
    /// As of when.
    pub revision: Revision,
    /// The cluster suspects itself: more vanished at once than is plausible; they stay, marked as expired.
    pub protected: bool,
    /// The cluster answers; without it the set is the last known one.
    pub following: bool,
    known: bool,
}

/// The instances of a service, kept up to date; from [`Service::instances`](crate::Service::instances). Clones share
/// it, and dropping the last ends it.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let orders = client.service("orders").instances().await?;
/// let mut sets = orders.subscribe();
/// while sets.changed().await.is_ok() {
///     println!("{} instances", sets.borrow_and_update().instances.len());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Instances {
    service: Arc<str>,
    receiver: watch::Receiver<Arc<LiveSet>>,
    failure: watch::Receiver<Option<Error>>,
    _task: Arc<TaskGuard>,
}

impl Instances {
    /// Begins to follow, without waiting for anything.
    pub(super) fn begin(client: &Client, service: &str, follower: Follower) -> Self {
        let (sender, receiver) = watch::channel(Arc::new(LiveSet::default()));
        let (failures, failure) = watch::channel(None);
        let follow = Follow { follower, instances: BTreeMap::new(), sender, failures };
        let task = tasks::spawn(&client.shared().runtime, Task::ServiceWatch, follow.run());
        Self { service: service.into(), receiver, failure, _task: Arc::new(task) }
    }

    /// The service.
    ///
    /// ```no_run
    /// # fn example(orders: quorate::Instances) { println!("{}", orders.service()); }
    /// ```
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The set as it is now.
    ///
    /// ```no_run
    /// # fn example(orders: quorate::Instances) { println!("{}", orders.now().instances.len()); }
    /// ```
    pub fn now(&self) -> Arc<LiveSet> {
        self.receiver.borrow().clone()
    }

    /// Tells of each change; a slow reader sees the latest set only.
    ///
    /// ```no_run
    /// # fn example(orders: quorate::Instances) {
    /// let sets: tokio::sync::watch::Receiver<std::sync::Arc<quorate::LiveSet>> = orders.subscribe();
    /// # }
    /// ```
    pub fn subscribe(&self) -> watch::Receiver<Arc<LiveSet>> {
        self.receiver.clone()
    }

    /// Waits for the first set, but not for ever.
    pub(super) async fn known(&self) {
        if self.receiver.borrow().known {
            return;
        }
        let mut receiver = self.receiver.clone();
        // Late or never: the caller looks at what is there.
        let _ = tokio::time::timeout(KNOWN_WITHIN, receiver.wait_for(|set| set.known)).await;
    }

    /// Waits for the first set; an error if it does not come within this time, or cannot.
    pub(super) async fn first(&self, within: Duration) -> Result<()> {
        let (mut receiver, mut failure) = (self.receiver.clone(), self.failure.clone());
        let refused = async {
            match failure.wait_for(|error| error.as_ref().is_some_and(|error| !is_passing(error))).await {
                Ok(error) => error.clone().unwrap_or(Error::Closed),
                Err(_) => Error::Closed,
            }
        };
        tokio::select! {
            biased;
            known = tokio::time::timeout(within, receiver.wait_for(|set| set.known)) => match known {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(Error::Closed),
                Err(_) => {
                    let last = self.failure.borrow().clone().map(Box::new);
                    Err(Error::Deadline { after: within, happened: Happened::No, write_id: None, last })
                }
            },
            error = refused => Err(error),
        }
    }
}

/// Applies what the watch brings.
struct Follow {
    follower: Follower,
    instances: BTreeMap<String, Instance>,
    sender: watch::Sender<Arc<LiveSet>>,
    failures: watch::Sender<Option<Error>>,
}

impl Follow {
    async fn run(mut self) {
        loop {
            match self.follower.step().await {
                Step::Change(change) => self.apply(change),
                Step::Broke(error) => {
                    self.away();
                    let passing = is_passing(&error);
                    if !passing {
                        tracing::warn!(%error, "a service cannot be followed; trying again");
                    }
                    self.failures.send_replace(Some(error));
                    if !passing {
                        tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
                    }
                }
            }
        }
    }

    fn apply(&mut self, change: ServiceChange) {
        if change.snapshot {
            self.instances.clear();
        }
        for id in &change.removed {
            self.instances.remove(id);
        }
        self.instances.extend(change.changed.into_iter().map(|instance| (instance.id.clone(), instance)));
        self.sender.send_replace(Arc::new(LiveSet {
            instances: self.instances.values().cloned().collect(),
            revision: change.revision,
            protected: change.protected,
            following: true,
            known: true,
        }));
    }

    fn away(&self) {
        self.sender.send_if_modified(|set| {
            let was_following = set.following;
            if was_following {
                *set = Arc::new(LiveSet { following: false, ..LiveSet::clone(set) });
            }
            was_following
        });
    }
}
