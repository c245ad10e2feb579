//! Copy and move of a subtree in one revision.
//!
//! Invariants:
//! - Copies are new keys: create revision and version start afresh; the lease is dropped unless it is to be kept.
//! - Source and destination do not overlap, so that each key changes once.
//! - A lease made for one key goes with it in a move that keeps leases; a copy that keeps it makes it an ordinary
//!   lease, since two keys have it then.

use quorate_proto::{Key, LeaseId, Path, Revision};

use crate::codec::{keys, records};
use crate::command::{CopyTree, Span};
use crate::draft::{Draft, OwnLease, Stop};
use crate::history;
use crate::leases;
use crate::outcome::{Fault, Rejection};
use crate::store::Read;
use crate::view::LeaseRecord;

impl<S: Read> Draft<'_, S> {
    pub(crate) fn copy_tree(&mut self, copy: &CopyTree) -> Result<u64, Stop> {
        if overlap(&copy.from, &copy.to) {
            cov_mark::hit!(copy_overlap);
            return Err(Rejection::Overlap { from: copy.from.as_key().clone(), to: copy.to.as_key().clone() }.into());
        }
        if self.holds_any(&Span::Subtree(copy.to.clone()))? {
            cov_mark::hit!(copy_destination_exists);
            let there = history::current(&self.store, copy.to.as_bytes())?;
            let current = there.map_or(Revision::ZERO, |meta| meta.mod_revision);
            let reason = "the destination must not exist, as a key or directory".to_owned();
            return Err(Rejection::Precondition { key: copy.to.as_key().clone(), reason, current }.into());
        }
        let found = self.existing(&Span::Subtree(copy.from.clone()), Some(copy.limit))?;
        if found.is_empty() {
            cov_mark::hit!(copy_of_nothing);
            return Err(Rejection::KeyNotFound { key: copy.from.as_key().clone() }.into());
        }
        let mut targets = Vec::with_capacity(found.len());
        for (key, _) in &found {
            targets.push(moved(key, copy)?);
        }
        // From here on nothing is rejected any more.
        for ((key, meta), target) in found.iter().zip(&targets) {
            let value = history::value_of(&self.store, key, meta)?.value;
            let lease = meta.lease.filter(|_| copy.keep_leases);
            self.write(target, None, &value, lease, OwnLease::Ends)?;
            if let Some(lease) = lease.filter(|_| !copy.remove_source) {
                self.share(lease)?;
            }
        }
        if copy.remove_source {
            let own = if copy.keep_leases { OwnLease::Stays } else { OwnLease::Ends };
            for (key, meta) in &found {
                self.remove(key, meta, false, own)?;
            }
        }
        Ok(u64::try_from(found.len()).unwrap_or(u64::MAX))
    }

    /// Whether any key of a span exists, also one such as `/a//b` that no directory counts.
    fn holds_any(&self, span: &Span) -> Result<bool, Fault> {
        let mut any = false;
        for bounds in history::bounds_of(span) {
            history::scan_current(&self.store, &bounds, false, |_, _| {
                any = true;
                Ok(false)
            })?;
        }
        Ok(any)
    }

    /// Two keys have this lease now.
    fn share(&mut self, id: LeaseId) -> Result<(), Fault> {
        let record = leases::lease(&self.store, id)?;
        let record = record.ok_or_else(|| Fault::Corrupt(format!("lease {id} of a copied key is not there")))?;
        if record.own_key {
            cov_mark::hit!(own_lease_becomes_shared);
            self.store.put(keys::lease(id), records::lease(&LeaseRecord { own_key: false, ..record }));
        }
        Ok(())
    }
}

fn overlap(from: &Path, to: &Path) -> bool {
    let inside = |outer: &[u8], inner: &[u8]| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    inside(from.as_bytes(), to.as_bytes()) || inside(to.as_bytes(), from.as_bytes())
}

/// Where a key of the source comes to stand.
fn moved(key: &Key, copy: &CopyTree) -> Result<Key, Stop> {
    let Some(rest) = key.as_bytes().strip_prefix(copy.from.as_bytes()) else {
        return Err(Fault::Corrupt(format!("{key} is not below {}", copy.from)).into());
    };
    Ok(Key::new([copy.to.as_bytes(), rest].concat())
        .map_err(|error| Rejection::Invalid(format!("at its destination, {error}")))?)
}
