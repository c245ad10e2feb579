//! Cursors of paged listings: opaque to clients, checked when they come back.
//!
//! Layout: version (1), revision (8, big-endian), xxh3-64 of what is listed (8), name after which to go on, and at the
//! end xxh3-64 of all before (8). Listed is a path, or something that does not begin like one: leases, the keys of one.
//!
//! Invariants:
//! - A cursor that was cut, changed or made up, or that belongs to another listing, is refused and says so.

use bytes::Bytes;
use quorate_proto::Revision;
use xxhash_rust::xxh3::xxh3_64;

use super::errors::Refusal;

const VERSION: u8 = 1;
const HEAD: usize = 17;
const SUM: usize = 8;

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// All pages are read as of this revision; where a listing is not of one revision, that of the page before.
    pub revision: Revision,
    /// The last name given.
    pub after: Bytes,
}

impl Cursor {
    /// For the next page of the listing of `listed`.
    pub fn encode(&self, listed: &[u8]) -> Bytes {
        let mut bytes = Vec::with_capacity(HEAD + self.after.len() + SUM);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.revision.get().to_be_bytes());
        bytes.extend_from_slice(&xxh3_64(listed).to_be_bytes());
        bytes.extend_from_slice(&self.after);
        bytes.extend_from_slice(&xxh3_64(&bytes).to_be_bytes());
        bytes.into()
    }

    /// What a client gave for a listing of `listed`: nothing, for the first page, or the cursor of the page before.
    pub fn given(bytes: &Bytes, listed: &[u8]) -> Result<Option<Self>, Refusal> {
        if bytes.is_empty() { Ok(None) } else { Self::decode(bytes, listed).map(Some) }
    }

    fn decode(bytes: &Bytes, listed: &[u8]) -> Result<Self, Refusal> {
        let malformed =
            || Refusal::invalid("the page cursor is malformed; pass next_cursor of the page before unchanged");
        let at = bytes.len().checked_sub(SUM).filter(|at| *at >= HEAD).ok_or_else(malformed)?;
        if bytes[at..] != xxh3_64(&bytes[..at]).to_be_bytes() {
            return Err(malformed());
        }
        if bytes[0] != VERSION {
            return Err(Refusal::invalid("the page cursor is of another version; begin again with the first page"));
        }
        if bytes[9..HEAD] != xxh3_64(listed).to_be_bytes() {
            return Err(Refusal::invalid("the page cursor belongs to another listing"));
        }
        let revision = bytes[1..9].try_into().map(i64::from_be_bytes).map_err(|_| malformed())?;
        Ok(Self { revision: Revision(revision), after: bytes.slice(HEAD..at) })
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_left() {
        let cursor = Cursor { revision: Revision(77), after: "name".into() };
        assert_eq!(Cursor::given(&cursor.encode(b"/a"), b"/a"), Ok(Some(cursor)));
        assert_eq!(Cursor::given(&Bytes::new(), b"/a"), Ok(None));
    }

    #[test]
    fn malformed_cursors_are_refused() {
        let good = Cursor { revision: Revision(77), after: "name".into() }.encode(b"/a");
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(Cursor::decode(&bad.into(), b"/a").is_err(), "byte {at} changed");
            assert!(Cursor::decode(&good.slice(..at), b"/a").is_err(), "cut at {at}");
        }
        assert!(Cursor::decode(&good, b"/b").unwrap_err().message.contains("another listing"));
        assert!(Cursor::decode(&Bytes::from_static(b"x"), b"/a").unwrap_err().message.contains("malformed"));
    }
}
