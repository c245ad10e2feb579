//! The verbs of the key space on [`Client`].
//!
//! Invariants:
//! - A verb only fills a builder; the builder runs it.

use quorate_proto::{Revision, v1};

use super::range::prefix_bounds;
use super::{Compact, CopyTree, Delete, Get, List, Put, Range, Stat};
use crate::call::CallOptions;
use crate::client::Client;
use crate::types::IntoBytes;

impl Client {
    /// Reads one key.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let value = client.get("/a").await?.into_value();
    /// # Ok(()) }
    /// ```
    pub fn get(&self, key: impl IntoBytes) -> Get {
        let request = v1::GetRequest { key: key.into_bytes(), ..Default::default() };
        Get { client: self.clone(), request, options: CallOptions::default() }
    }

    /// Writes one key.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.put("/a", "1").await?;
    /// # Ok(()) }
    /// ```
    pub fn put(&self, key: impl IntoBytes, value: impl IntoBytes) -> Put {
        let request = v1::PutRequest { key: key.into_bytes(), value: value.into_bytes(), ..Default::default() };
        Put { client: self.clone(), request, options: CallOptions::default() }
    }

    /// Deletes one key.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.delete("/a").await?;
    /// # Ok(()) }
    /// ```
    pub fn delete(&self, key: impl IntoBytes) -> Delete {
        self.delete_of(v1::DeleteRequest { key: key.into_bytes(), ..Default::default() })
    }

    /// Deletes a path and everything below it, in one revision.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.delete_subtree("/old").await?;
    /// # Ok(()) }
    /// ```
    pub fn delete_subtree(&self, path: impl IntoBytes) -> Delete {
        let scope = v1::delete_request::Scope::Subtree.into();
        self.delete_of(v1::DeleteRequest { key: path.into_bytes(), scope, ..Default::default() })
    }

    /// Deletes all keys from `start` (inclusive) to `end` (exclusive; empty: no end), in one revision.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.delete_range("log/2024-", "log/2025-").await?;
    /// # Ok(()) }
    /// ```
    pub fn delete_range(&self, start: impl IntoBytes, end: impl IntoBytes) -> Delete {
        let scope = v1::delete_request::Scope::Range.into();
        let (key, end) = (start.into_bytes(), end.into_bytes());
        self.delete_of(v1::DeleteRequest { key, end, scope, ..Default::default() })
    }

    /// Reads all keys from `start` (inclusive; empty: the first) to `end` (exclusive; empty: no end), in byte order.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let kvs = client.range("/a", "/b").limit(100).await?.kvs;
    /// # Ok(()) }
    /// ```
    pub fn range(&self, start: impl IntoBytes, end: impl IntoBytes) -> Range {
        let request = v1::RangeRequest { start: start.into_bytes(), end: end.into_bytes(), ..Default::default() };
        Range { client: self.clone(), request, options: CallOptions::default(), limit: None }
    }

    /// Reads all keys that start with these bytes. (`/a` is also a prefix of `/ab`; a directory's is `/a/`.)
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let kvs = client.prefix("/config/").await?.kvs;
    /// # Ok(()) }
    /// ```
    pub fn prefix(&self, prefix: impl IntoBytes) -> Range {
        let (start, end) = prefix_bounds(prefix.into_bytes());
        self.range(start, end)
    }

    /// Lists the direct children of a directory, `/` being the root.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let children = client.list("/config").await?.children;
    /// # Ok(()) }
    /// ```
    pub fn list(&self, path: impl Into<String>) -> List {
        let request = v1::ListRequest { path: path.into(), ..Default::default() };
        List { client: self.clone(), request, options: CallOptions::default() }
    }

    /// Looks at a path, as a key and as a directory, without reading its value.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let stat = client.stat("/config").await?;
    /// # Ok(()) }
    /// ```
    pub fn stat(&self, path: impl Into<String>) -> Stat {
        let request = v1::StatRequest { path: path.into(), ..Default::default() };
        Stat { client: self.clone(), request, options: CallOptions::default() }
    }

    /// Copies a path and everything below it to another place, in one revision.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.copy("/config", "/config-backup").await?;
    /// # Ok(()) }
    /// ```
    pub fn copy(&self, from: impl Into<String>, to: impl Into<String>) -> CopyTree {
        self.copy_tree(from.into(), to.into(), false)
    }

    /// Moves a path and everything below it to another place, in one revision.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.rename("/config-new", "/config").await?;
    /// # Ok(()) }
    /// ```
    #[doc(alias = "mv")]
    #[doc(alias = "move")]
    pub fn rename(&self, from: impl Into<String>, to: impl Into<String>) -> CopyTree {
        self.copy_tree(from.into(), to.into(), true)
    }

    /// Makes history before `revision` unreadable, so that its space can be used again.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.compact(quorate::Revision(1000)).await?;
    /// # Ok(()) }
    /// ```
    pub fn compact(&self, revision: Revision) -> Compact {
        let request = v1::CompactRequest { id: None, revision: revision.get() };
        Compact { client: self.clone(), request, options: CallOptions::default() }
    }

    fn delete_of(&self, request: v1::DeleteRequest) -> Delete {
        Delete { client: self.clone(), request, options: CallOptions::default() }
    }

    fn copy_tree(&self, from: String, to: String, remove_source: bool) -> CopyTree {
        let options = CallOptions::default();
        CopyTree { client: self.clone(), from, to, keep_leases: false, remove_source, options }
    }
}
