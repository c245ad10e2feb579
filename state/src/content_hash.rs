//! A hash of everything that may be read up to a revision, so that members can be compared by hand.
//!
//! Invariants:
//! - It depends on the compaction mark and on what may be read, not on how far a member has purged: what a purge may
//!   remove is passed over.
//! - Layout: xxh3-64 of, for each version in order of key and then newest first: key length, key, revision, then 0 for a
//!   deletion, or 1, create revision, version, lease, value length, value. Integers are 8 bytes, big-endian.

use bytes::Bytes;
use quorate_proto::{LeaseId, Revision};
use xxhash_rust::xxh3::Xxh3;

use crate::codec::{keys, records};
use crate::outcome::{Fault, Meta};
use crate::store::{Cursor, Read};

/// Of all versions at or below `revision` that may still be read when the mark stands at `compacted`.
pub(crate) fn of<R: Read>(read: &R, revision: Revision, compacted: Revision) -> Result<u64, Fault> {
    let mut hash = Xxh3::new();
    visit_readable(read, revision, compacted, |_| true, |key, found, version| take(&mut hash, key, found, version))?;
    Ok(hash.digest())
}

/// Visits those versions, `None` for a deletion, in order of key and then newest first. `go_on` is asked at each stored
/// version, with its bytes, also at those that are passed over; once it says no, the answer is false.
pub(crate) fn visit_readable<R: Read>(
    read: &R,
    revision: Revision,
    compacted: Revision,
    mut go_on: impl FnMut(usize) -> bool,
    mut visit: impl FnMut(&[u8], Revision, Option<&(Meta, Bytes)>),
) -> Result<bool, Fault> {
    let mut cursor = read.cursor(false);
    cursor.seek(&[keys::table::HISTORY]);
    // The key whose version at or below the mark was taken: its older ones may be purged.
    let mut settled: Option<Bytes> = None;
    while let Some((stored_key, stored)) = cursor.entry() {
        if stored_key.first() != Some(&keys::table::HISTORY) {
            break;
        }
        if !go_on(stored_key.len() + stored.len()) {
            return Ok(false);
        }
        let (key, found) = keys::split_history(stored_key)?;
        let passed_over = found > revision || settled.as_ref() == Some(&key);
        if !passed_over {
            let version = records::copy_version(stored)?;
            let below_mark = found <= compacted;
            if !below_mark || version.is_some() {
                visit(&key, found, version.as_ref());
            }
            if below_mark {
                settled = Some(key);
            }
        }
        cursor.next();
    }
    cursor.status()?;
    Ok(true)
}

fn take(hash: &mut Xxh3, key: &[u8], revision: Revision, version: Option<&(Meta, Bytes)>) {
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
    hash.update(&length(key));
    hash.update(key);
    hash.update(&revision.get().to_be_bytes());
    let Some((meta, value)) = version else { return hash.update(&[0]) };
    hash.update(&[1]);
    for number in [meta.create_revision.get(), meta.version, LeaseId::wire(meta.lease)] {
        hash.update(&number.to_be_bytes());
    }
    hash.update(&length(value));
    hash.update(value);
}
