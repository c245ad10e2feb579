//! The client itself: what its clones share.
//!
//! Invariants:
//! - Clones share connections, request ids and leases; dropping the last one ends all its tasks.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::claim::HoldWatch;
use crate::config::{ClientBuilder, Config};
use crate::endpoints::Endpoints;
use crate::error::Result;
use crate::lease::Keeper;
use crate::write_id::WriteIds;

/// A connection to a cluster. Cheap to clone; clones share everything.
///
/// ```no_run
/// # async fn example() -> quorate::Result<()> {
/// let client = quorate::Client::connect(["127.0.0.1:2379"]).await?;
/// client.put("/greeting", "hello").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) endpoints: Endpoints,
    pub(crate) ids: Arc<WriteIds>,
    pub(crate) config: Config,
    pub(crate) keeper: Keeper,
    pub(crate) hold_watch: HoldWatch,
    pub(crate) runtime: Handle,
}

impl Client {
    /// A client of the cluster that these members belong to, once one of them has answered.
    ///
    /// ```no_run
    /// # async fn example() -> quorate::Result<()> {
    /// let client = quorate::Client::connect(["127.0.0.1:12379", "127.0.0.1:22379"]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect<T: AsRef<str>>(endpoints: impl IntoIterator<Item = T>) -> Result<Self> {
        Self::builder().endpoints(endpoints).connect().await
    }

    /// A client with settings.
    ///
    /// ```no_run
    /// # async fn example() -> quorate::Result<()> {
    /// let client = quorate::Client::builder().endpoints(["127.0.0.1:2379"]).build()?;
    /// # Ok(()) }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The endpoints as `host:port`, in the order in which they were given.
    ///
    /// ```no_run
    /// # fn example(client: quorate::Client) {
    /// println!("{}", client.endpoints().join(", "));
    /// # }
    /// ```
    pub fn endpoints(&self) -> Vec<String> {
        self.0.endpoints.all().iter().map(|endpoint| endpoint.address.clone()).collect()
    }

    pub(crate) fn of(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    pub(crate) fn again(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.endpoints()).finish()
    }
}
