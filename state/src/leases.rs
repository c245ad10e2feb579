//! Leases: granted, noted, ended; and the keys that end with them.
//!
//! Invariants:
//! - `a lease key` exists exactly when the newest version of the key has that lease, and then `l lease` exists.
//! - The keys of leases that end in one command go in one revision.
//! - A lease made for one key holds that key alone.

use quorate_proto::{Key, LeaseId};

use crate::codec::{DecodeError, keys, records};
use crate::command::{LeaseEnd, Owner};
use crate::draft::{Draft, OwnLease, Stop};
use crate::flaw::Flaw;
use crate::history;
use crate::outcome::{Fault, LeaseChange, Meta, Rejection};
use crate::store::{Cursor, Read};
use crate::view::LeaseRecord;

/// Shortest time to live.
pub(crate) const TTL_MS_MIN: u64 = 500;

/// Longest time to live: ten years.
pub(crate) const TTL_MS_MAX: u64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// A lease.
pub(crate) fn lease<R: Read>(read: &R, lease: LeaseId) -> Result<Option<LeaseRecord>, Fault> {
    Ok(read.get(&keys::lease(lease))?.map(|bytes| records::read_lease(&bytes)).transpose()?)
}

/// Keys of a lease, in order.
pub(crate) fn keys_of<R: Read>(read: &R, lease: LeaseId, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Fault> {
    let prefix = keys::attached(lease, b"");
    let mut cursor = read.cursor(true);
    match after {
        Some(after) => cursor.seek(&[&prefix[..], after.as_bytes(), b"\0"].concat()),
        None => cursor.seek(&prefix),
    }
    let mut found = Vec::new();
    while let Some((stored, _)) = cursor.entry() {
        let Some(key) = stored.strip_prefix(&prefix[..]).filter(|_| found.len() < limit) else { break };
        found.push(Key::new(key.to_vec()).map_err(|_| DecodeError::Invalid("an attached key"))?);
        cursor.next();
    }
    cursor.status()?;
    Ok(found)
}

impl<S: Read> Draft<'_, S> {
    /// Checks the lease that a put asks for, and gives what the key is to have.
    pub(crate) fn check_owner(&self, owner: Owner, before: Option<&Meta>) -> Result<Option<LeaseId>, Stop> {
        let has = before.and_then(|meta| meta.lease);
        match owner {
            Owner::None => Ok(None),
            Owner::Keep => Ok(has),
            Owner::Lease(lease) if has == Some(lease) => Ok(has),
            Owner::Lease(id) => match lease(&self.store, id)? {
                None => {
                    cov_mark::hit!(put_with_missing_lease);
                    Err(Rejection::LeaseNotFound { lease: id }.into())
                }
                Some(record) if record.own_key => {
                    cov_mark::hit!(put_with_lease_of_another_key);
                    Err(Rejection::Invalid(format!("lease {id} belongs to another key alone")).into())
                }
                Some(_) => Ok(Some(id)),
            },
            Owner::Ttl { lease, ttl_ms } => {
                self.check_grant(lease, ttl_ms)?;
                Ok(Some(lease))
            }
        }
    }

    fn check_grant(&self, id: LeaseId, ttl_ms: u64) -> Result<(), Stop> {
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms) {
            cov_mark::hit!(ttl_out_of_bounds);
            let reason = format!("a time to live is {TTL_MS_MIN} to {TTL_MS_MAX} ms, not {ttl_ms}");
            return Err(Rejection::Invalid(reason).into());
        }
        if lease(&self.store, id)?.is_some() {
            cov_mark::hit!(lease_exists);
            return Err(Rejection::LeaseExists { lease: id }.into());
        }
        Ok(())
    }

    pub(crate) fn grant_asked(&mut self, lease: LeaseId, ttl_ms: u64) -> Result<(), Stop> {
        self.check_grant(lease, ttl_ms)?;
        self.grant(lease, ttl_ms, false);
        Ok(())
    }

    /// Makes a lease that was checked.
    pub(crate) fn grant(&mut self, lease: LeaseId, ttl_ms: u64, own_key: bool) {
        let granted_revision = self.head.revision;
        let record = LeaseRecord { ttl_ms, remaining_ms: None, granted_revision, own_key };
        self.store.put(keys::lease(lease), records::lease(&record));
        self.head.leases += 1;
        self.lease_changes.push(LeaseChange::Granted { lease, ttl_ms });
    }

    /// A lease is gone; its keys are dealt with by the caller.
    pub(crate) fn end_lease(&mut self, lease: LeaseId) -> Result<(), Fault> {
        self.store.delete(keys::lease(lease));
        self.head.leases =
            self.head.leases.checked_sub(1).ok_or_else(|| Fault::Corrupt("fewer leases than ends".into()))?;
        self.lease_changes.push(LeaseChange::Ended { lease });
        Ok(())
    }

    pub(crate) fn revoke(&mut self, leases: &[LeaseId], cause: LeaseEnd) -> Result<u64, Stop> {
        let mut deleted = 0;
        for id in leases {
            if lease(&self.store, *id)?.is_none() {
                if let ([id], LeaseEnd::Asked) = (leases, cause) {
                    cov_mark::hit!(revoke_missing_lease);
                    return Err(Rejection::LeaseNotFound { lease: *id }.into());
                }
                cov_mark::hit!(revoke_passes_over_missing_lease);
                continue;
            }
            let keys_max = if Flaw::KeyOutlivesLease.is_put_in() { 0 } else { usize::MAX };
            for key in keys_of(&self.store, *id, None, keys_max)? {
                let meta = history::current(&self.store, key.as_bytes())?;
                let meta = meta.filter(|meta| meta.lease == Some(*id));
                let meta = meta.ok_or_else(|| Fault::Corrupt(format!("key {key} is not of lease {id}")))?;
                self.remove(&key, &meta, true, OwnLease::Stays)?;
                deleted += 1;
            }
            self.end_lease(*id)?;
        }
        Ok(deleted)
    }

    pub(crate) fn checkpoint(&mut self, notes: &[(LeaseId, Option<u64>)]) -> Result<(), Stop> {
        for (id, remaining_ms) in notes {
            let Some(record) = lease(&self.store, *id)? else {
                cov_mark::hit!(checkpoint_passes_over_missing_lease);
                continue;
            };
            let remaining_ms = remaining_ms.map(|remaining| remaining.min(record.ttl_ms));
            if record.remaining_ms != remaining_ms {
                self.store.put(keys::lease(*id), records::lease(&LeaseRecord { remaining_ms, ..record }));
                self.lease_changes.push(LeaseChange::Checkpointed { lease: *id, remaining_ms });
            }
        }
        Ok(())
    }
}
