//! A store becomes the beginning of a new cluster: after the restore of a snapshot, or after the loss of a majority.
//!
//! Invariants:
//! - The revision only rises, by so much that no token or revision that a client holds comes back.
//! - History before is compacted: what a client remembers of it is refused, not misread.
//! - Leases have their full time again. One atomic write; the applied position stays.

use bytes::Bytes;
use quorate_proto::Revision;

use crate::apply::{LogPosition, check_format};
use crate::codec::{keys, records};
use crate::digest::{self, Digest};
use crate::outcome::Fault;
use crate::scrub;
use crate::store::{Cursor, Store, WriteBatch};
use crate::view::LeaseRecord;

/// By how much the revision rises unless told otherwise.
pub const REVISION_STEP: i64 = 1_000_000_000;

/// What the store is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebaseOptions {
    /// How much the revision rises; at least 1.
    pub revision_step: i64,
    /// The members of the new cluster, in bytes that only consensus reads.
    pub membership: Bytes,
}

/// What the store has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebased {
    /// Its revision, which is also its compaction mark.
    pub revision: Revision,
    /// The last applied position, as before.
    pub applied: LogPosition,
    /// Leases that have their full time again.
    pub leases: u64,
}

/// Rewrites a store that nobody else has open.
pub fn rebase<S: Store>(store: &S, options: &RebaseOptions) -> Result<Rebased, Fault> {
    let mut head = check_format(store)?;
    let applied = head.applied.ok_or_else(|| Fault::Corrupt("an empty store cannot be restored from".into()))?;
    let revision = head.revision.0.checked_add(options.revision_step.max(1)).map(Revision);
    head.revision = revision.ok_or_else(|| Fault::Corrupt("no revision is left".into()))?;
    let mut batch = WriteBatch::default();
    let leases = refresh_leases(store, &mut batch)?;
    for mark in digest::marks(store)? {
        batch.delete(keys::digest(mark.index));
    }
    for mark in scrub::marks(store)? {
        batch.delete(keys::scrub(mark.index));
    }
    let mut digest = Digest::new(head.digest, applied.index);
    digest.compacted(head.revision);
    head.digest = digest.finish();
    head.compacted = head.revision;
    batch.put(keys::MEMBERSHIP, records::membership(applied, &options.membership));
    batch.put(keys::HEAD, head.encode());
    store.write(batch)?;
    Ok(Rebased { revision: head.revision, applied, leases })
}

/// Clears the notes of remaining time. Counts all leases.
fn refresh_leases<S: Store>(store: &S, batch: &mut WriteBatch) -> Result<u64, Fault> {
    let mut cursor = store.cursor(false);
    cursor.seek(&[keys::table::LEASE]);
    let mut leases = 0;
    while let Some((key, value)) = cursor.entry() {
        if key.first() != Some(&keys::table::LEASE) {
            break;
        }
        let record = records::read_lease(value)?;
        if record.remaining_ms.is_some() {
            batch.put(key, records::lease(&LeaseRecord { remaining_ms: None, ..record }));
        }
        leases += 1;
        cursor.next();
    }
    cursor.status()?;
    Ok(leases)
}
