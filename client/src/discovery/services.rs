//! The listing of all services.
//!
//! Invariants:
//! - It comes in pages, each as of its own moment; awaited, a listing collects all of them.

use quorate_proto::v1;

use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::kv::{Cursor, awaited};
use crate::types::Header;

/// A listing of services; made by [`Client::services`]. Awaited, it collects all of them.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// for each in client.services().await? { println!("{}", each.name); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Services {
    client: Client,
    request: v1::ServicesRequest,
    options: CallOptions,
}

awaited!(Services => Vec<ServiceSummary>);

impl Services {
    pub(super) fn new(client: &Client) -> Self {
        let request = v1::ServicesRequest::default();
        Self { client: client.clone(), request, options: CallOptions::default() }
    }

    /// At most so many in a page (up to 10 000); 1 000 when left out.
    pub fn page_size(mut self, services: u32) -> Self {
        self.request.page_size = services;
        self
    }

    /// Goes on after an earlier page.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.request.cursor = cursor.0;
        self
    }

    /// One page.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let first = client.services().page_size(100).page().await?;
    /// # Ok(()) }
    /// ```
    pub async fn page(self) -> Result<ServicesPage> {
        let answer = self.client.run(self.request, self.options).await?;
        let summary = |service: v1::services_response::Service| ServiceSummary {
            name: service.name,
            instances: service.instances,
            healthy: service.healthy,
        };
        Ok(ServicesPage {
            header: answer.header.into(),
            services: answer.services.into_iter().map(summary).collect(),
            next: Cursor::of(answer.next_cursor),
        })
    }

    async fn run(self) -> Result<Vec<ServiceSummary>> {
        let (mut all, mut list) = (Vec::new(), self);
        loop {
            let page = list.clone().page().await?;
            all.extend(page.services);
            let Some(cursor) = page.next else { return Ok(all) };
            list = list.after(cursor);
        }
    }
}

/// A service and how many serve it.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let empty = client.services().await?.into_iter().filter(|each| each.healthy == 0).count();
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceSummary {
    /// Its name.
    pub name: String,
    /// How many instances it has.
    pub instances: u64,
    /// How many of them are well.
    pub healthy: u64,
}

/// Some of the services, in order of their names; from [`Services::page`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let page: quorate::ServicesPage = client.services().page().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicesPage {
    /// Who answered.
    pub header: Header,
    /// The services.
    pub services: Vec<ServiceSummary>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}
