//! How a client is made.
//!
//! Invariants:
//! - Every setting has a default that suits a cluster in one region.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::claim::HoldWatch;
use crate::client::{Client, Shared};
use crate::endpoints::{Endpoint, Endpoints};
use crate::error::{Error, Result};
use crate::lease::Keeper;
use crate::write_id::WriteIds;

/// Shortest deadline of a call that makes sense.
const DEADLINE_MIN: Duration = Duration::from_millis(1);

/// Settings of a [`Client`].
///
/// ```no_run
/// # async fn example() -> quorate::Result<()> {
/// use std::time::Duration;
/// let client = quorate::Client::builder()
///     .endpoints(["127.0.0.1:12379", "127.0.0.1:22379", "127.0.0.1:32379"])
///     .deadline(Duration::from_secs(2))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    config: Config,
}

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) deadline: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive_interval: Duration,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) batching: bool,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            config: Config {
                deadline: Duration::from_secs(5),
                connect_timeout: Duration::from_secs(1),
                keep_alive_interval: Duration::from_secs(1),
                keep_alive_timeout: Duration::from_secs(2),
                batching: true,
            },
        }
    }
}

impl ClientBuilder {
    /// Adds endpoints: `host:port` or `http://host:port` of members, one or several separated by commas in a text.
    /// The port is 2379 when left out.
    ///
    /// ```no_run
    /// let builder = quorate::Client::builder().endpoints(["10.0.0.1:2379,10.0.0.2:2379"]);
    /// ```
    #[must_use]
    pub fn endpoints<T: AsRef<str>>(mut self, endpoints: impl IntoIterator<Item = T>) -> Self {
        for text in endpoints {
            let each = text.as_ref().split(',').map(str::trim).filter(|each| !each.is_empty());
            self.endpoints.extend(each.map(str::to_owned));
        }
        self
    }

    /// How long a call may take in all, with its retries. Default: 5 s. A call can have its own.
    ///
    /// ```no_run
    /// let builder = quorate::Client::builder().deadline(std::time::Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline.max(DEADLINE_MIN);
        self
    }

    /// How long making a connection may take. Default: 1 s. Raise it for members far away.
    ///
    /// ```no_run
    /// let builder = quorate::Client::builder().connect_timeout(std::time::Duration::from_secs(3));
    /// ```
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout.max(DEADLINE_MIN);
        self
    }

    /// How often a connection is probed, and how long the answer may take before the connection counts as broken.
    /// Defaults: 1 s and 2 s.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// let builder = quorate::Client::builder().probe(Duration::from_secs(10), Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn probe(mut self, interval: Duration, timeout: Duration) -> Self {
        self.config.keep_alive_interval = interval.max(DEADLINE_MIN);
        self.config.keep_alive_timeout = timeout.max(DEADLINE_MIN);
        self
    }

    /// Whether concurrent calls of single keys, ranges and transactions share messages. Default: true. Without it
    /// each call is a request of its own, which is easier to follow in a trace.
    ///
    /// ```no_run
    /// let builder = quorate::Client::builder().batching(false);
    /// ```
    #[must_use]
    pub fn batching(mut self, batching: bool) -> Self {
        self.config.batching = batching;
        self
    }

    /// The client, once a member has answered; an error if none does within the deadline.
    ///
    /// ```no_run
    /// # async fn example() -> quorate::Result<()> {
    /// let client = quorate::Client::builder().endpoints(["127.0.0.1:2379"]).connect().await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect(self) -> Result<Client> {
        let client = self.build()?;
        client.status().await?;
        Ok(client)
    }

    /// The client, without waiting for a connection: each is made when it is first needed.
    /// Must be called within a tokio runtime, which then runs the client's tasks.
    ///
    /// ```no_run
    /// # async fn example() -> quorate::Result<()> {
    /// let client = quorate::Client::builder().endpoints(["127.0.0.1:2379"]).build()?;
    /// # Ok(()) }
    /// ```
    pub fn build(self) -> Result<Client> {
        let runtime = Handle::try_current()
            .map_err(|_| Error::invalid("a client is made within a tokio runtime; call this from async code"))?;
        if self.endpoints.is_empty() {
            return Err(Error::invalid("no endpoints are given; name at least one as \"host:port\""));
        }
        let mut endpoints = Vec::new();
        for address in &self.endpoints {
            endpoints.push(Arc::new(Endpoint::new(address, &self.config, &runtime)?));
        }
        Ok(Client::of(Shared {
            endpoints: Endpoints::new(endpoints),
            ids: Arc::new(WriteIds::new()),
            config: self.config,
            keeper: Keeper::default(),
            hold_watch: HoldWatch::default(),
            runtime,
        }))
    }
}
