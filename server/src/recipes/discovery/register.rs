//! Registering: an instance's document under a lease of its own, so that it goes when its program does.
//!
//! One put makes both, the key and the lease ([`Owner::Ttl`]), and a delete of the key ends both. A stream that comes
//! back with the same lease goes on with what stands there: no change is seen by anybody if it asks for the same.
//!
//! Invariants:
//! - What belongs to another live lease is never written over.
//! - Every write expects what was read: a decision is never carried out on something else.

use quorate_proto::v1;
use quorate_proto::{LeaseId, Revision};
use quorate_state::command::{Command, Compare, Delete, Expect, Owner, Span, Target, Txn, TxnOp};
use quorate_state::outcome::{Done, Meta, Rejection, TxnResult};
use quorate_state::view::LeaseRecord;
use tokio::time::Instant;

use super::error::DiscoveryError;
use super::instance::{Registration, Stored, written};
use super::names::InstanceName;
use super::{ATTEMPTS_MAX, Discovery, get, put};
use crate::api::{Trouble, Weight, mint_lease};

/// A registration that stands.
#[derive(Debug)]
pub struct Registered {
    /// The store when it did.
    pub revision: Revision,
    /// Its lease; none for a permanent one.
    pub lease: Option<LeaseId>,
    /// Its time to live; 0 for a permanent one.
    pub ttl_ms: u64,
    /// As it is stored.
    pub instance: v1::Instance,
    /// It had been lost meanwhile.
    pub renewed: bool,
}

/// What a registration finds.
#[derive(Debug)]
struct Found {
    stored: Option<Stored>,
    /// The lease that it says it has.
    record: Option<LeaseRecord>,
    revision: Revision,
}

/// What is to be done.
enum Plan {
    /// It stands there as asked.
    Stands,
    /// Write it.
    Write { owner: Owner, lease: Option<LeaseId>, document: Box<super::document::Document>, renewed: bool },
}

impl Discovery {
    /// Registers, or goes on with what `held` says.
    pub async fn register(
        &self,
        asked: &Registration,
        held: Option<LeaseId>,
        deadline: Instant,
    ) -> Result<Registered, DiscoveryError> {
        for _ in 0..ATTEMPTS_MAX {
            let alive = match held {
                Some(lease) => self.keep_alive(lease, deadline).await? > 0,
                None => false,
            };
            self.barrier(deadline).await?;
            let found = self.find(&asked.name, held).await?;
            match plan(asked, held, alive, &found)? {
                Plan::Stands => {
                    let Some(stored) = &found.stored else { continue };
                    let ttl_ms = found.record.map_or(0, |record| record.ttl_ms);
                    return Ok(Registered { ttl_ms, ..registered(asked, stored, found.revision, false) });
                }
                Plan::Write { owner, lease, document, renewed } => {
                    let old = found.stored.as_ref().map(|stored| stored.meta);
                    let expect = old.map_or(Expect::Absent, |meta| Expect::ModRevision(meta.mod_revision));
                    let command = Command::Put(put(asked.name.key(), &document, owner, expect)?);
                    match self.rooms.write(None, command, deadline).await {
                        Ok(done) => {
                            let revision = Revision(done.header.revision);
                            let meta = written(old.as_ref(), revision, lease);
                            let stored = Stored { document: Ok(*document), meta };
                            let granted = found.record.filter(|_| lease == held).map(|record| record.ttl_ms);
                            let ttl_ms = granted.or(asked.ttl_ms).unwrap_or(0);
                            return Ok(Registered { ttl_ms, ..registered(asked, &stored, revision, renewed) });
                        }
                        Err(Trouble::Rejected(rejection)) if is_race(&rejection) => {}
                        Err(trouble) => return Err(trouble.into()),
                    }
                }
            }
        }
        Err(DiscoveryError::Contended { name: asked.name.to_string() })
    }

    /// A heartbeat: whether the registration still stands; else it is made anew.
    pub async fn heartbeat(
        &self,
        asked: &Registration,
        held: Option<LeaseId>,
        deadline: Instant,
    ) -> Result<Registered, DiscoveryError> {
        let ttl_ms = match held {
            Some(lease) => self.keep_alive(lease, deadline).await?,
            None => 0,
        };
        if ttl_ms > 0 || asked.ttl_ms.is_none() {
            let found = self.find(&asked.name, None).await?;
            if let Some(stored) = found.stored.filter(|stored| stored.meta.lease == held) {
                return Ok(Registered { ttl_ms, ..registered(asked, &stored, found.revision, false) });
            }
            // Gone, or not applied here yet.
        }
        let registered = self.register(asked, held, deadline).await?;
        // Of one without a lease, nothing else says that it had been lost.
        let anew = asked.ttl_ms.is_none() && registered.instance.create_revision == registered.revision.get();
        Ok(Registered { renewed: registered.renewed || anew, ..registered })
    }

    /// Takes an instance away, whoever registered it.
    pub async fn deregister(
        &self,
        name: &InstanceName,
        deadline: Instant,
    ) -> Result<(v1::Header, bool), DiscoveryError> {
        self.remove(name, Vec::new(), deadline).await
    }

    /// Takes an instance away if it is still that of `lease`.
    pub async fn leave(
        &self,
        name: &InstanceName,
        lease: LeaseId,
        deadline: Instant,
    ) -> Result<(v1::Header, bool), DiscoveryError> {
        let ours = Compare::equal(name.key(), Target::Lease(Some(lease)));
        self.remove(name, vec![ours], deadline).await
    }

    /// Takes an instance away while these hold.
    pub(super) async fn remove(
        &self,
        name: &InstanceName,
        compares: Vec<Compare>,
        deadline: Instant,
    ) -> Result<(v1::Header, bool), DiscoveryError> {
        let delete = |span| TxnOp::Delete(Delete::new(span));
        let (start, end) = name.ttl_span();
        let then = vec![delete(Span::Key(name.key())), delete(Span::Range { start, end: Some(end) })];
        let txn = Txn { compares, then, otherwise: Vec::new() };
        let written = self.rooms.write(None, Command::Txn(txn), deadline).await?;
        let deleted = match &written.done {
            Done::Txn(done) => matches!(done.results.first(), Some(TxnResult::Delete(done)) if done.deleted > 0),
            _ => false,
        };
        Ok((written.header, deleted))
    }

    /// Renews a lease: its time to live, 0 if it has ended.
    pub(super) async fn keep_alive(&self, lease: LeaseId, deadline: Instant) -> Result<u64, DiscoveryError> {
        let renewed = self.rooms.consensus.keep_alive(lease, deadline).await;
        Ok(renewed.map_err(|error| Trouble::from(self.rooms.explain(error)))?)
    }

    async fn find(&self, name: &InstanceName, lease: Option<LeaseId>) -> Result<Found, DiscoveryError> {
        let key = name.key();
        let read = self.rooms.read(Weight::Light, move |view| {
            let stored = get(view, &key)?;
            let record = lease.map(|lease| view.lease(lease)).transpose()?.flatten();
            Ok(Found { stored, record, revision: view.revision() })
        });
        Ok(read.await?)
    }
}

fn plan(asked: &Registration, held: Option<LeaseId>, alive: bool, found: &Found) -> Result<Plan, DiscoveryError> {
    let owner = || match (asked.ttl_ms, held, &found.record) {
        (None, ..) => (Owner::None, None),
        // A lease that its client was granted before, for this and other keys.
        (Some(_), Some(held), Some(record)) if alive && !record.own_key => (Owner::Lease(held), Some(held)),
        (Some(ttl_ms), held, record) => {
            let lease = held.filter(|_| record.is_none()).unwrap_or_else(mint_lease);
            (Owner::Ttl { lease, ttl_ms }, Some(lease))
        }
    };
    let Some(stored) = &found.stored else {
        let (owner, lease) = owner();
        let document = Box::new(asked.document.clone());
        return Ok(Plan::Write { owner, lease, document, renewed: held.is_some() });
    };
    let ours = stored.meta.lease == held && held.is_some() == asked.ttl_ms.is_some();
    let document = match &stored.document {
        Ok(old) if ours => Box::new(asked.over(old)),
        Err(_) if ours => Box::new(asked.document.clone()),
        _ => return Err(taken(asked, stored)),
    };
    let same_ttl = match (asked.ttl_ms, &found.record) {
        (None, _) => true,
        // The time to live of a lease that was granted before is its own affair.
        (Some(ttl_ms), Some(record)) => alive && (record.ttl_ms == ttl_ms || !record.own_key),
        (Some(_), None) => false,
    };
    if !same_ttl {
        let (owner, lease) = match asked.ttl_ms {
            Some(ttl_ms) => {
                let lease = mint_lease();
                (Owner::Ttl { lease, ttl_ms }, Some(lease))
            }
            None => (Owner::None, None),
        };
        return Ok(Plan::Write { owner, lease, document, renewed: !alive });
    }
    if stored.document.as_ref() == Ok(&*document) {
        return Ok(Plan::Stands);
    }
    Ok(Plan::Write { owner: Owner::Keep, lease: held, document, renewed: false })
}

/// Somebody else has it.
fn taken(asked: &Registration, stored: &Stored) -> DiscoveryError {
    let at = match &stored.document {
        Ok(document) => format!("{}:{}", document.address, document.port),
        Err(reason) => format!("a document that cannot be read ({reason})"),
    };
    let owner = match stored.meta.lease {
        Some(lease) => format!("under lease {lease}"),
        None => "permanently".to_owned(),
    };
    let Meta { create_revision, created_ms, .. } = stored.meta;
    let by = format!("{at}, {owner}, since revision {create_revision} (Unix time {created_ms} ms)");
    DiscoveryError::Exists { name: asked.name.to_string(), by }
}

fn registered(asked: &Registration, stored: &Stored, revision: Revision, renewed: bool) -> Registered {
    let instance = stored.to_wire(asked.name.service.as_str(), &asked.name.id);
    Registered { revision, lease: stored.meta.lease, ttl_ms: 0, instance, renewed }
}

/// Somebody was faster.
fn is_race(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::Precondition { .. } | Rejection::LeaseExists { .. } | Rejection::LeaseNotFound { .. }
    )
}
