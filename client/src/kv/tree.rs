//! Directories: list, stat, copy, rename; and compaction of history.
//!
//! Invariants:
//! - All pages of one list are read at the revision of the first; the cursor holds it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use quorate_proto::{Revision, v1};

use super::{awaited, fresh};
use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::types::{Header, KeyValue};

/// A read of a directory's direct children; made by [`Client::list`]. Awaited, it collects all of them.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// for child in client.list("/config").await?.children {
///     println!("{}{}", child.name, if child.is_directory { "/" } else { "" });
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct List {
    pub(super) client: Client,
    pub(super) request: v1::ListRequest,
    pub(super) options: CallOptions,
}

awaited!(List => ListResponse);
fresh!(List);

impl List {
    /// At most so many children in a page (up to 10 000); 1 000 when left out.
    pub fn page_size(mut self, children: u32) -> Self {
        self.request.page_size = children;
        self
    }

    /// With the values of those children that are keys.
    pub fn with_values(mut self) -> Self {
        self.request.with_values = true;
        self
    }

    /// Lists as of this revision. It costs what lies below the directory, not only the children returned.
    pub fn at(mut self, revision: Revision) -> Self {
        self.request.revision = revision.get();
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
    /// let first = client.list("/big").page_size(100).page().await?;
    /// if let Some(cursor) = first.next {
    ///     let second = client.list("/big").page_size(100).after(cursor).page().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn page(self) -> Result<ListResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(answer.into())
    }

    /// The children one after the other, fetched page by page at the revision of the first page. The deadline is that
    /// of each page. An error ends the stream.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// use futures::TryStreamExt as _;
    /// let mut children = client.list("/big").stream();
    /// while let Some(child) = children.try_next().await? { println!("{}", child.name); }
    /// # Ok(()) }
    /// ```
    pub fn stream(self) -> ListChildren {
        let each = self.pages().map_ok(|page| futures::stream::iter(page.children.into_iter().map(Ok))).try_flatten();
        ListChildren(each.boxed())
    }

    fn pages(self) -> BoxStream<'static, Result<ListResponse>> {
        futures::stream::try_unfold(Some(self), |list| async move {
            let Some(list) = list else { return Ok(None) };
            let page = list.clone().page().await?;
            let next = page.next.clone().map(|cursor| list.after(cursor));
            Ok(Some((page, next)))
        })
        .boxed()
    }

    async fn run(self) -> Result<ListResponse> {
        let mut pages = self.pages();
        let mut all = ListResponse { header: Header::default(), children: Vec::new(), next: None };
        while let Some(page) = pages.try_next().await? {
            all.header = page.header;
            all.children.extend(page.children);
        }
        Ok(all)
    }
}

/// Where a page of a listing ended: of a [`List`](crate::List), of [`Leases`](crate::Leases), of the keys of a lease.
///
/// ```no_run
/// # fn example(page: quorate::ListResponse) {
/// let cursor: Option<quorate::Cursor> = page.next;
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(crate) Bytes);

impl Cursor {
    /// As a member gave it: empty after the last page.
    pub(crate) fn of(next_cursor: Bytes) -> Option<Self> {
        (!next_cursor.is_empty()).then_some(Self(next_cursor))
    }
}

/// A direct child of a directory.
///
/// ```no_run
/// # fn example(child: quorate::Child) {
/// println!("{} (key: {}, directory: {})", child.name, child.is_key, child.is_directory);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Last segment of its path.
    pub name: String,
    /// A key stands at the path.
    pub is_key: bool,
    /// There are paths below it.
    pub is_directory: bool,
    /// The key, when values were asked for.
    pub kv: Option<KeyValue>,
}

/// Answer of a [`List`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// println!("{} children", client.list("/").await?.children.len());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListResponse {
    /// Who answered, as of which revision.
    pub header: Header,
    /// In byte order of their names.
    pub children: Vec<Child>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Cursor>,
}

impl From<v1::ListResponse> for ListResponse {
    fn from(answer: v1::ListResponse) -> Self {
        let child = |child: v1::list_response::Child| Child {
            name: child.name,
            is_key: child.is_key,
            is_directory: child.is_directory,
            kv: child.kv.map(Into::into),
        };
        Self {
            header: answer.header.into(),
            children: answer.children.into_iter().map(child).collect(),
            next: Cursor::of(answer.next_cursor),
        }
    }
}

/// The children of a directory, one after the other. Safe to drop and to poll again at any time.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use futures::StreamExt as _;
/// let mut children: quorate::ListChildren = client.list("/").stream();
/// while let Some(child) = children.next().await { println!("{}", child?.name); }
/// # Ok(()) }
/// ```
#[must_use = "a stream does nothing until polled"]
pub struct ListChildren(BoxStream<'static, Result<Child>>);

impl Stream for ListChildren {
    type Item = Result<Child>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for ListChildren {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ListChildren")
    }
}

/// A look at a path without its value; made by [`Client::stat`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let stat = client.stat("/config").await?;
/// println!("{} children", stat.directory.map_or(0, |directory| directory.children));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Stat {
    pub(super) client: Client,
    pub(super) request: v1::StatRequest,
    pub(super) options: CallOptions,
}

awaited!(Stat => StatResponse);
fresh!(Stat);

impl Stat {
    async fn run(self) -> Result<StatResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(StatResponse {
            header: answer.header.into(),
            kv: answer.kv.map(Into::into),
            directory: answer.directory.map(|directory| Directory {
                children: u64::try_from(directory.children).unwrap_or_default(),
                children_revision: Revision(directory.children_revision),
                next_sequence: directory.next_sequence,
            }),
            value_bytes: u64::try_from(answer.value_bytes).unwrap_or_default(),
        })
    }
}

/// Answer of a [`Stat`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let stat = client.stat("/a").await?;
/// if stat.kv.is_none() && stat.directory.is_none() { println!("nothing there"); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatResponse {
    /// Who answered, as of which revision.
    pub header: Header,
    /// The key at the path, without its value.
    pub kv: Option<KeyValue>,
    /// The directory at the path.
    pub directory: Option<Directory>,
    /// Length of the value.
    pub value_bytes: u64,
}

/// What is known of a directory.
///
/// ```no_run
/// # fn example(directory: quorate::Directory) {
/// println!("{} children since revision {}", directory.children, directory.children_revision);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// How many direct children.
    pub children: u64,
    /// Revision of the last time that one came or went. Never goes back.
    pub children_revision: Revision,
    /// The number of the next sequential key.
    pub next_sequence: i64,
}

/// A copy or move of a subtree in one revision; made by [`Client::copy`] or [`Client::rename`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// client.copy("/config", "/config-backup").await?;
/// client.rename("/jobs/new", "/jobs/taken").keep_leases().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct CopyTree {
    pub(super) client: Client,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) keep_leases: bool,
    pub(super) remove_source: bool,
    pub(super) options: CallOptions,
}

awaited!(CopyTree => CopyTreeResponse, write);

impl CopyTree {
    /// Each key keeps its lease; else the keys written have none.
    pub fn keep_leases(mut self) -> Self {
        self.keep_leases = true;
        self
    }

    async fn run(self) -> Result<CopyTreeResponse> {
        let Self { client, from, to, keep_leases, remove_source, options } = self;
        let (header, keys) = if remove_source {
            let answer = client.run(v1::MoveRequest { id: None, from, to, keep_leases }, options).await?;
            (answer.header, answer.moved)
        } else {
            let answer = client.run(v1::CopyRequest { id: None, from, to, keep_leases }, options).await?;
            (answer.header, answer.copied)
        };
        Ok(CopyTreeResponse { header: header.into(), keys: u64::try_from(keys).unwrap_or_default() })
    }
}

/// Answer of a [`CopyTree`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// println!("{} keys copied", client.copy("/a", "/b").await?.keys);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyTreeResponse {
    /// Who answered; its revision is that of the copy.
    pub header: Header,
    /// How many keys were copied or moved.
    pub keys: u64,
}

/// A compaction of history; made by [`Client::compact`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let now = client.get("/a").await?.header.revision;
/// client.compact(now).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Compact {
    pub(super) client: Client,
    pub(super) request: v1::CompactRequest,
    pub(super) options: CallOptions,
}

awaited!(Compact => CompactResponse, write);

impl Compact {
    async fn run(self) -> Result<CompactResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(CompactResponse { header: answer.header.into() })
    }
}

/// Answer of a [`Compact`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let answer: quorate::CompactResponse = client.compact(quorate::Revision(7)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactResponse {
    /// Who answered.
    pub header: Header,
}
