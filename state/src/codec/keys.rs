//! Keys of the store: one byte says which table, the rest orders it.
//!
//! Invariants:
//! - Numbers are 8 bytes big-endian, so that byte order is number order; in `h` the revision is inverted, so that
//!   the newest version of a key comes first.
//! - `esc` keeps byte order for any bytes: `00` becomes `00 ff`, and `00 01` ends. Keys `61`, `61 00`, `61 01` give
//!   `61 00 01` < `61 00 ff 00 01` < `61 01 00 01`. The next key after `k` is found by a seek to `esc(k) 00 02`.

use bytes::Bytes;
use quorate_proto::{LeaseId, Revision};

use super::DecodeError;

/// First bytes of keys.
pub(crate) mod table {
    /// Metadata of the newest version, by key.
    pub(crate) const CURRENT: u8 = b'c';
    /// Every readable version with its value, by key and revision.
    pub(crate) const HISTORY: u8 = b'h';
    /// One record for each applied batch.
    pub(crate) const RECORD: u8 = b'r';
    /// Directories.
    pub(crate) const DIRECTORY: u8 = b'd';
    /// Children of directories.
    pub(crate) const CHILD: u8 = b'e';
    /// Leases.
    pub(crate) const LEASE: u8 = b'l';
    /// Keys of leases.
    pub(crate) const ATTACHED: u8 = b'a';
    /// Singletons.
    pub(crate) const SINGLETON: u8 = b's';
}

/// Singletons.
pub(crate) const FORMAT: &[u8] = b"sformat";
pub(crate) const HEAD: &[u8] = b"shead";
pub(crate) const MEMBERSHIP: &[u8] = b"smembership";
pub(crate) const PURGED: &[u8] = b"spurged";
pub(crate) const DIGEST_PREFIX: &[u8] = b"sdigest/";
/// With the number of the scrub's definition.
pub(crate) const SCRUB_PREFIX: &[u8] = b"sscrub1/";

fn with_prefix(table: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(table);
    key.extend_from_slice(rest);
    key
}

fn escape_into(out: &mut Vec<u8>, bytes: &[u8]) {
    // Zero bytes are rare: copy the stretches between them.
    let mut parts = bytes.split(|byte| *byte == 0);
    if let Some(first) = parts.next() {
        out.extend_from_slice(first);
    }
    for part in parts {
        out.extend_from_slice(&[0, 0xff]);
        out.extend_from_slice(part);
    }
}

fn escaped(table: u8, bytes: &[u8], end: [u8; 2], room: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + bytes.len() + room);
    key.push(table);
    escape_into(&mut key, bytes);
    key.extend_from_slice(&end);
    key
}

/// Splits `esc(bytes) 00 01 rest` (without the table byte).
fn unescape(escaped: &[u8]) -> Result<(Vec<u8>, &[u8]), DecodeError> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let rest = unescape_into(&mut bytes, escaped)?;
    Ok((bytes, rest))
}

/// The same, in place of what `bytes` held.
fn unescape_into<'a>(bytes: &mut Vec<u8>, escaped: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    bytes.clear();
    let mut rest = escaped;
    loop {
        let zero = rest.iter().position(|byte| *byte == 0).ok_or(DecodeError::Truncated)?;
        bytes.extend_from_slice(&rest[..zero]);
        match rest.get(zero + 1) {
            Some(1) => return Ok(&rest[zero + 2..]),
            Some(0xff) => bytes.push(0),
            Some(_) => return Err(DecodeError::Invalid("an escape")),
            None => return Err(DecodeError::Truncated),
        }
        rest = &rest[zero + 2..];
    }
}

pub(crate) fn current(key: &[u8]) -> Vec<u8> {
    with_prefix(table::CURRENT, key)
}

pub(crate) fn history(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut out = escaped(table::HISTORY, key, [0, 1], 8);
    out.extend_from_slice(&(!revision.0.cast_unsigned()).to_be_bytes());
    out
}

/// The first possible entry of a key ≥ `key`: where a scan of keys from `key` on begins.
pub(crate) fn history_from(key: &[u8]) -> Vec<u8> {
    escaped(table::HISTORY, key, [0, 1], 0)
}

/// Before every key ≥ `key` and after every smaller one; a shorter bound than `history_from`, for ends of scans.
pub(crate) fn history_after(key: &[u8]) -> Vec<u8> {
    escaped(table::HISTORY, key, [0, 2], 0)
}

/// Takes a key of `h` apart.
pub(crate) fn split_history(stored: &[u8]) -> Result<(Bytes, Revision), DecodeError> {
    let mut key = Vec::with_capacity(stored.len());
    let revision = split_history_into(&mut key, stored)?;
    Ok((key.into(), revision))
}

/// The same with the key in place of what `key` held: many are taken apart without an allocation for each.
pub(crate) fn split_history_into(key: &mut Vec<u8>, stored: &[u8]) -> Result<Revision, DecodeError> {
    let rest = unescape_into(key, stored.get(1..).ok_or(DecodeError::Truncated)?)?;
    let inverted: [u8; 8] = rest.try_into().map_err(|_| DecodeError::Truncated)?;
    Ok(Revision((!u64::from_be_bytes(inverted)).cast_signed()))
}

/// What all entries of a key of `h` begin with.
pub(crate) fn history_prefix(stored: &[u8]) -> &[u8] {
    &stored[..stored.len().saturating_sub(8)]
}

pub(crate) fn record(first_revision: Revision, log_index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(table::RECORD);
    key.extend_from_slice(&first_revision.0.cast_unsigned().to_be_bytes());
    key.extend_from_slice(&log_index.to_be_bytes());
    key
}

/// Takes a key of `r` apart: first revision and log index.
pub(crate) fn split_record(stored: &[u8]) -> Result<(Revision, u64), DecodeError> {
    let number = |range: std::ops::Range<usize>| {
        let bytes = stored.get(range).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        bytes.filter(|_| stored.len() == 17).ok_or(DecodeError::Invalid("a record key"))
    };
    Ok((Revision(number(1..9)?.cast_signed()), number(9..17)?))
}

pub(crate) fn directory(path: &[u8]) -> Vec<u8> {
    with_prefix(table::DIRECTORY, path)
}

pub(crate) fn child(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut key = escaped(table::CHILD, directory, [0, 1], name.len());
    key.extend_from_slice(name);
    key
}

/// Takes a key of `e` apart: directory and name.
pub(crate) fn split_child(stored: &[u8]) -> Result<(Vec<u8>, &[u8]), DecodeError> {
    unescape(stored.get(1..).ok_or(DecodeError::Truncated)?)
}

fn lease_number(lease: LeaseId) -> [u8; 8] {
    // Flipping the sign bit makes byte order number order for negative ids too.
    (lease.get().cast_unsigned() ^ 1 << 63).to_be_bytes()
}

pub(crate) fn lease(lease: LeaseId) -> Vec<u8> {
    with_prefix(table::LEASE, &lease_number(lease))
}

/// Takes a key of `l`, or the front of a key of `a`, apart.
pub(crate) fn split_lease(stored: &[u8]) -> Result<LeaseId, DecodeError> {
    let number: [u8; 8] =
        stored.get(1..9).and_then(|bytes| bytes.try_into().ok()).ok_or(DecodeError::Invalid("a lease key"))?;
    LeaseId::new((u64::from_be_bytes(number) ^ 1 << 63).cast_signed()).ok_or(DecodeError::Invalid("a lease of id 0"))
}

pub(crate) fn attached(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + key.len());
    out.push(table::ATTACHED);
    out.extend_from_slice(&lease_number(lease));
    out.extend_from_slice(key);
    out
}

pub(crate) fn digest(log_index: u64) -> Vec<u8> {
    [DIGEST_PREFIX, &log_index.to_be_bytes()].concat()
}

/// Takes the key of a digest mark apart.
pub(crate) fn split_digest(stored: &[u8]) -> Result<u64, DecodeError> {
    let number = stored.strip_prefix(DIGEST_PREFIX).and_then(|rest| rest.try_into().ok());
    number.map(u64::from_be_bytes).ok_or(DecodeError::Invalid("a digest key"))
}

pub(crate) fn scrub(log_index: u64) -> Vec<u8> {
    [SCRUB_PREFIX, &log_index.to_be_bytes()].concat()
}

/// Takes the key of a scrub's mark apart.
pub(crate) fn split_scrub(stored: &[u8]) -> Result<u64, DecodeError> {
    let number = stored.strip_prefix(SCRUB_PREFIX).and_then(|rest| rest.try_into().ok());
    number.map(u64::from_be_bytes).ok_or(DecodeError::Invalid("a scrub key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_keeps_order_for_any_bytes() {
        let keys: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\x01", b"a", b"a\0", b"a\x01", b"a\xff"];
        let stored: Vec<_> = keys.iter().map(|key| history(key, Revision(7))).collect();
        assert!(stored.is_sorted(), "{stored:?}");
        for (key, stored) in keys.iter().zip(&stored) {
            assert_eq!(split_history(stored), Ok((Bytes::copy_from_slice(key), Revision(7))));
        }
    }

    #[test]
    fn the_newest_version_comes_first_and_the_next_key_after_all() {
        assert!(history(b"a", Revision(9)) < history(b"a", Revision(8)));
        assert!(history(b"a", Revision(0)) < history_after(b"a"));
        assert!(history_after(b"a") < history(b"a\0", Revision(i64::MAX)));
        assert!(history_from(b"a") < history(b"a", Revision(i64::MAX)));
    }

    #[test]
    fn leases_order_as_numbers() {
        let ids = [i64::MIN, -1, 1, i64::MAX].map(|id| LeaseId::new(id).unwrap());
        let stored = ids.map(lease);
        assert!(stored.is_sorted());
        assert_eq!(stored.map(|key| split_lease(&key).unwrap()), ids);
    }

    #[test]
    fn golden_keys() {
        assert_eq!(history(b"a\0b", Revision(2)), *b"ha\0\xffb\0\x01\xff\xff\xff\xff\xff\xff\xff\xfd");
        assert_eq!(record(Revision(2), 3), *b"r\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03");
        assert_eq!(child(b"/a", b"b"), *b"e/a\0\x01b");
        assert_eq!(directory(b"/"), *b"d/");
        assert_eq!(attached(LeaseId::new(1).unwrap(), b"k"), *b"a\x80\0\0\0\0\0\0\x01k");
        assert_eq!(digest(1024), *b"sdigest/\0\0\0\0\0\0\x04\0");
        assert_eq!(scrub(1027), *b"sscrub1/\0\0\0\0\0\0\x04\x03");
    }
}
