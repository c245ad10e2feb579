//! Reading many keys page by page, all at one revision.
//!
//! Invariants:
//! - Every page after the first is read at the revision of the first.

use bytes::Bytes;
use quorate::{Client, Key, KeyValue, Revision};

use crate::failure::Failure;

/// Keys of a page.
const PAGE: u32 = 1000;

/// Where keys begin and end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Inclusive.
    pub start: Bytes,
    /// Exclusive; empty for no end.
    pub end: Bytes,
}

impl Span {
    /// All keys that start so.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: Bytes::copy_from_slice(prefix), end: Key::prefix_end(prefix).unwrap_or_default() }
    }

    /// Everything below a directory, without the key that stands at its own path.
    pub fn below(directory: &str) -> Self {
        Self::prefix(format!("{}/", directory.trim_end_matches('/')).as_bytes())
    }
}

#[derive(PartialEq, Eq)]
enum Walk {
    GoesOn,
    Ended,
    EndedBeforeTheEnd,
}

/// A walk over a span.
pub struct Pages {
    span: Span,
    revision: Option<Revision>,
    left: u64,
    walk: Walk,
    /// Without values.
    pub keys_only: bool,
    /// From the member's own state.
    pub serializable: bool,
}

impl Pages {
    /// From the start, at most `limit` keys.
    pub fn new(span: Span, revision: Option<i64>, limit: Option<u64>) -> Self {
        Self {
            span,
            revision: revision.map(Revision),
            left: limit.unwrap_or(u64::MAX),
            walk: Walk::GoesOn,
            keys_only: false,
            serializable: false,
        }
    }

    /// Whether there was more than the limit.
    pub fn is_cut(&self) -> bool {
        self.walk == Walk::EndedBeforeTheEnd
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self, client: &Client) -> Result<Option<Vec<KeyValue>>, Failure> {
        if self.walk != Walk::GoesOn {
            return Ok(None);
        }
        let page_size = u32::try_from(self.left).unwrap_or(PAGE).min(PAGE);
        let mut call = client.range(self.span.start.clone(), self.span.end.clone()).page_size(page_size);
        if let Some(revision) = self.revision {
            call = call.at(revision);
        }
        if self.keys_only {
            call = call.keys_only();
        }
        if self.serializable {
            call = call.serializable();
        }
        let page = call.page().await?;
        self.revision.get_or_insert(page.header.revision);
        self.left = self.left.saturating_sub(page.kvs.len() as u64);
        match page.kvs.last() {
            Some(last) if page.more && self.left > 0 => {
                // The smallest key after the last one.
                self.span.start = [&last.key[..], b"\0"].concat().into();
            }
            _ if page.more => self.walk = Walk::EndedBeforeTheEnd,
            _ => self.walk = Walk::Ended,
        }
        Ok(Some(page.kvs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_a_directory_its_own_key_is_not_included() {
        assert_eq!(Span::below("/a"), Span { start: "/a/".into(), end: "/a0".into() });
        assert_eq!(Span::below("/"), Span { start: "/".into(), end: "0".into() });
    }

    #[test]
    fn a_prefix_of_ff_has_no_end() {
        assert_eq!(Span::prefix(b"\xff").end, Bytes::new());
        assert_eq!(Span::prefix(b"").end, Bytes::new());
    }
}
