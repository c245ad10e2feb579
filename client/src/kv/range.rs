//! Many keys in byte order.
//!
//! Invariants:
//! - All pages of one range are read at the revision of the first, so that together they are one picture.
//! - No page is fetched before it is wanted.

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

/// Keys in a page when nothing else is asked for.
const PAGE_KEYS: u32 = 1000;

/// A read of many keys; made by [`Client::range`] or [`Client::prefix`]. Awaited, it collects all of them.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use futures::TryStreamExt as _;
/// let few = client.prefix("/config/").limit(10).await?.kvs;
/// let count = client.prefix("/config/").count().await?;
/// let mut all = client.range("/a", "/b").descending().keys_only().stream();
/// while let Some(kv) = all.try_next().await? {
///     println!("{}", kv.key_text());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Range {
    pub(super) client: Client,
    pub(super) request: v1::RangeRequest,
    pub(super) options: CallOptions,
    pub(super) limit: Option<u64>,
}

awaited!(Range => RangeResponse);
fresh!(Range);

impl Range {
    /// At most so many keys in all.
    pub fn limit(mut self, keys: u64) -> Self {
        self.limit = Some(keys);
        self
    }

    /// At most so many keys in a page (up to 10 000); 1 000 when left out.
    pub fn page_size(mut self, keys: u32) -> Self {
        self.request.limit = keys;
        self
    }

    /// From the last key to the first.
    pub fn descending(mut self) -> Self {
        self.request.order = v1::range_request::Order::Descending.into();
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Reads as of this revision.
    pub fn at(mut self, revision: Revision) -> Self {
        self.request.revision = revision.get();
        self
    }

    /// The number of keys, without the keys.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// println!("{} keys", client.prefix("/config/").count().await?);
    /// # Ok(()) }
    /// ```
    pub async fn count(self) -> Result<u64> {
        let request = v1::RangeRequest { count_only: true, ..self.request };
        let answer = self.client.run(request, self.options).await?;
        Ok(u64::try_from(answer.count).unwrap_or_default())
    }

    /// One page, of [`limit`](Self::limit) keys or fewer; [`RangeResponse::more`] says whether there are others.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let page = client.prefix("/config/").limit(100).page().await?;
    /// println!("{} keys{}", page.kvs.len(), if page.more { ", and more" } else { "" });
    /// # Ok(()) }
    /// ```
    pub async fn page(mut self) -> Result<RangeResponse> {
        self.request.limit = page_limit(self.request.limit, self.limit);
        let answer = self.client.run(self.request, self.options).await?;
        Ok(answer.into())
    }

    /// The keys one after the other, fetched page by page at the revision of the first page. The deadline is that of
    /// each page. An error ends the stream; it is [`Error::Compacted`](crate::Error::Compacted) when that revision
    /// was compacted meanwhile.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// use futures::TryStreamExt as _;
    /// let mut kvs = client.prefix("/config/").stream();
    /// while let Some(kv) = kvs.try_next().await? { println!("{}", kv.key_text()); }
    /// # Ok(()) }
    /// ```
    pub fn stream(self) -> KeyValues {
        let kvs = self.pages().map_ok(|page| futures::stream::iter(page.kvs.into_iter().map(Ok))).try_flatten();
        KeyValues(kvs.boxed())
    }

    pub(crate) fn into_op(mut self) -> v1::RangeRequest {
        self.request.limit = page_limit(self.request.limit, self.limit);
        v1::RangeRequest { read: None, ..self.request }
    }

    pub(crate) fn pages(self) -> BoxStream<'static, Result<RangeResponse>> {
        futures::stream::try_unfold(Some(self), |range| async move {
            let Some(mut range) = range else { return Ok(None) };
            if range.limit == Some(0) {
                return Ok(None);
            }
            let page = range.clone().page().await?;
            range.limit = range.limit.map(|left| left.saturating_sub(page.kvs.len() as u64));
            let next = range.after(&page);
            Ok(Some((page, next)))
        })
        .boxed()
    }

    /// What comes after a page.
    fn after(mut self, page: &RangeResponse) -> Option<Self> {
        let last = page.kvs.last()?;
        if !page.more {
            return None;
        }
        self.request.revision = page.header.revision.get();
        if self.request.order() == v1::range_request::Order::Descending {
            self.request.end = last.key.clone();
        } else {
            let mut next = last.key.to_vec();
            next.push(0);
            self.request.start = next.into();
        }
        Some(self)
    }

    async fn run(self) -> Result<RangeResponse> {
        let mut pages = self.pages();
        let mut all = RangeResponse { header: Header::default(), kvs: Vec::new(), more: false };
        while let Some(page) = pages.try_next().await? {
            all.header = page.header;
            all.more = page.more;
            all.kvs.extend(page.kvs);
        }
        Ok(all)
    }
}

fn page_limit(page: u32, left: Option<u64>) -> u32 {
    let page = if page == 0 { PAGE_KEYS } else { page };
    left.map_or(page, |left| page.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1))
}

/// Answer of a [`Range`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let all = client.prefix("/config/").await?;
/// println!("{} keys at revision {}", all.kvs.len(), all.header.revision);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResponse {
    /// Who answered, as of which revision.
    pub header: Header,
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// There are more keys in the bounds.
    pub more: bool,
}

impl From<v1::RangeResponse> for RangeResponse {
    fn from(answer: v1::RangeResponse) -> Self {
        Self { header: answer.header.into(), kvs: answer.kvs.into_iter().map(Into::into).collect(), more: answer.more }
    }
}

/// The keys of a [`Range`], one after the other. Safe to drop and to poll again at any time.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use futures::StreamExt as _;
/// let mut kvs: quorate::KeyValues = client.prefix("/config/").stream();
/// while let Some(kv) = kvs.next().await { println!("{}", kv?.key_text()); }
/// # Ok(()) }
/// ```
#[must_use = "a stream does nothing until polled"]
pub struct KeyValues(BoxStream<'static, Result<KeyValue>>);

impl Stream for KeyValues {
    type Item = Result<KeyValue>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for KeyValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyValues")
    }
}

/// The bounds of all keys that start with `prefix`.
pub(super) fn prefix_bounds(prefix: Bytes) -> (Bytes, Bytes) {
    let end = quorate_proto::Key::prefix_end(&prefix).unwrap_or_default();
    (prefix, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_never_asks_for_more_than_is_left() {
        assert_eq!(page_limit(0, None), 1000);
        assert_eq!(page_limit(0, Some(3)), 3);
        assert_eq!(page_limit(10, Some(u64::MAX)), 10);
    }
}
