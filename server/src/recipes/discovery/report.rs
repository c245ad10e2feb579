//! Reports of instances, and maintenance.
//!
//! That a TTL check was answered in time is a key under a lease of as long: a report that changes nothing only keeps
//! that lease alive, and writes nothing.
//!
//! Invariants:
//! - A document is written only when it changes, over what was read, and keeps its lease.

use quorate_proto::v1;
use quorate_proto::{LeaseId, Revision};
use quorate_state::command::{Compare, Expect, Owner, Put, Target, Txn, TxnOp};
use tokio::time::Instant;

use super::check::Kind;
use super::document::{Document, Health, Maintenance, Reported};
use super::error::DiscoveryError;
use super::instance::Stored;
use super::names::InstanceName;
use super::{ATTEMPTS_MAX, Discovery, get, put};
use crate::api::{Weight, mint_lease};

/// A TTL check, and the lease under which its key stands.
struct Reporting {
    check: usize,
    ttl_ms: u64,
    lease: Option<LeaseId>,
}

impl Discovery {
    /// What an instance says of itself. Gives what counts then.
    pub async fn report(
        &self,
        name: &InstanceName,
        reported: Reported,
        deadline: Instant,
    ) -> Result<(v1::Header, Health), DiscoveryError> {
        for _ in 0..ATTEMPTS_MAX {
            let (stored, ttls, revision) = self.find_checked(name, deadline).await?;
            let mut document = stored.readable(name)?.clone();
            document.reported = reported.clone();
            let mut puts = Vec::new();
            for ttl in ttls {
                let check = &mut document.checks[ttl.check];
                (check.status, check.note) = (Health::Passing, String::new());
                if !self.is_renewed(&ttl, deadline).await? {
                    puts.push(TxnOp::Put(answered(name, &ttl)));
                }
            }
            document.settle();
            let health = document.health();
            if stored.document.as_ref() != Ok(&document) {
                puts.insert(0, rewritten(name, &document)?);
            }
            if puts.is_empty() {
                return Ok((self.rooms.header(revision), health));
            }
            let unchanged = vec![is_at(name, stored.meta.mod_revision)];
            let txn = Txn { compares: unchanged, then: puts, otherwise: Vec::new() };
            if let Some(header) = self.decided(txn, deadline).await? {
                return Ok((header, health));
            }
        }
        Err(DiscoveryError::Contended { name: name.to_string() })
    }

    /// Takes an instance out of service, or back. Gives what counts then.
    pub async fn set_maintenance(
        &self,
        name: &InstanceName,
        maintenance: Option<Maintenance>,
        deadline: Instant,
    ) -> Result<(v1::Header, Health), DiscoveryError> {
        self.rewrite(name, deadline, Vec::new(), |document| document.maintenance.clone_from(&maintenance)).await
    }

    /// Changes a document, if that changes anything and while `compares` hold too. Gives what counts then.
    pub(super) async fn rewrite(
        &self,
        name: &InstanceName,
        deadline: Instant,
        compares: Vec<Compare>,
        change: impl Fn(&mut Document),
    ) -> Result<(v1::Header, Health), DiscoveryError> {
        // Whether they hold is asked once; that others write meanwhile is no reason to give up.
        let attempts = if compares.is_empty() { ATTEMPTS_MAX } else { 1 };
        for _ in 0..attempts {
            let (stored, _, revision) = self.find_checked(name, deadline).await?;
            let mut document = stored.readable(name)?.clone();
            change(&mut document);
            document.settle();
            let health = document.health();
            if stored.document.as_ref() == Ok(&document) {
                return Ok((self.rooms.header(revision), health));
            }
            let unchanged = compares.iter().cloned().chain([is_at(name, stored.meta.mod_revision)]).collect();
            let txn = Txn { compares: unchanged, then: vec![rewritten(name, &document)?], otherwise: Vec::new() };
            if let Some(header) = self.decided(txn, deadline).await? {
                return Ok((header, health));
            }
        }
        Err(DiscoveryError::Contended { name: name.to_string() })
    }

    /// What stands there now, and its TTL checks.
    async fn find_checked(
        &self,
        name: &InstanceName,
        deadline: Instant,
    ) -> Result<(Stored, Vec<Reporting>, Revision), DiscoveryError> {
        self.barrier(deadline).await?;
        let reader = name.clone();
        let read = self.rooms.read(Weight::Light, move |view| {
            let Some(stored) = get(view, &reader.key())? else { return Ok(None) };
            let mut ttls = Vec::new();
            for (check, asked) in stored.document.iter().flat_map(|document| document.checks.iter().enumerate()) {
                let Some(Kind::Ttl(ttl_ms)) = asked.kind() else { continue };
                let lease = view.get(&reader.ttl_key(check), None)?.and_then(|kv| kv.meta.lease);
                let record = lease.map(|lease| view.lease(lease)).transpose()?.flatten();
                let lease = lease.filter(|_| record.is_some_and(|record| record.ttl_ms == ttl_ms));
                ttls.push(Reporting { check, ttl_ms, lease });
            }
            Ok(Some((stored, ttls, view.revision())))
        });
        read.await?.ok_or_else(|| DiscoveryError::NotFound { name: name.to_string() })
    }

    async fn is_renewed(&self, ttl: &Reporting, deadline: Instant) -> Result<bool, DiscoveryError> {
        let Some(lease) = ttl.lease else { return Ok(false) };
        Ok(self.keep_alive(lease, deadline).await? > 0)
    }

    /// The header of the answer, if the compares held.
    pub(super) async fn decided(&self, txn: Txn, deadline: Instant) -> Result<Option<v1::Header>, DiscoveryError> {
        Ok(self.rooms.write_if(txn, deadline).await?.map(|written| written.header))
    }
}

/// The document is as it was read.
pub(super) fn is_at(name: &InstanceName, revision: Revision) -> Compare {
    Compare::equal(name.key(), Target::ModRevision(revision))
}

fn rewritten(name: &InstanceName, document: &Document) -> Result<TxnOp, DiscoveryError> {
    Ok(TxnOp::Put(put(name.key(), document, Owner::Keep, Expect::Anything)?))
}

/// A TTL check was answered just now.
fn answered(name: &InstanceName, ttl: &Reporting) -> Put {
    let owner = Owner::Ttl { lease: mint_lease(), ttl_ms: ttl.ttl_ms };
    Put::new(name.ttl_key(ttl.check), bytes::Bytes::new(), owner)
}
