//! `Lock`: acquire, release, downgrade, describe, take away.
//!
//! Invariants:
//! - A token is shown to and of holders only.

use std::sync::Arc;

use quorate_proto::v1;
use quorate_proto::v1::lock_server::Lock;
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::command::{Owner, Put};
use quorate_state::outcome::KeyValue;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::contenders;
use crate::api::errors::Refusal;
use crate::api::limits::{METADATA_BYTES_MAX, OWNER_BYTES_MAX, PERMITS_MAX, TTL_MS_MAX, WAITERS_DEFAULT, WAITERS_MAX};
use crate::api::rooms::{Rooms, Weight};
use crate::api::{deadline, validate};
use crate::connection::Connection;
use crate::recipes::{self, Bid, Call, Claim, Contest, Document, Name, Wanted, Which};

/// The service.
pub struct LockDoor(pub Arc<Rooms>);

/// An acquire, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Of the lock.
    pub name: Name,
    /// Its id.
    pub acquire: u64,
    /// How it is to be held.
    pub claim: Claim,
    /// Of the contender.
    pub lease: LeaseId,
    /// The same, as it is put.
    pub owner: Owner,
    /// Of the contender.
    pub key: Key,
    /// Its value.
    pub document: Document,
    /// Joins a hold of this owner.
    pub reentrant: Option<String>,
    /// Not to be waited for.
    pub try_only: bool,
    /// The lock stays taken so long when the session has ended.
    pub delay_ms: u64,
}

impl Asked {
    /// As the wire has it.
    pub fn new(request: v1::AcquireRequest) -> Result<Self, Refusal> {
        contenders::name(&request.name)?;
        let name = Name::new(&request.name);
        let acquire = contenders::id("acquire_id", request.acquire_id)?;
        let claim = claim(request.mode, request.permits)?;
        check_texts(&request)?;
        if request.reentrant && request.owner.is_empty() {
            return Err(Refusal::invalid("a reentrant acquire needs an owner, by which its hold is known again"));
        }
        let (lease, owner) = contenders::owner(&request.name, acquire, request.lease_id, request.ttl_ms)?;
        let key = name.key(lease, Some(acquire))?;
        let document = Document::new(claim, request.owner.clone(), request.metadata.into_iter().collect(), acquire);
        let reentrant = request.reentrant.then_some(request.owner);
        let (try_only, delay_ms) = (request.try_only, request.lock_delay_ms);
        Ok(Self { name, acquire, claim, lease, owner, key, document, reentrant, try_only, delay_ms })
    }
}

async fn acquire(rooms: &Arc<Rooms>, call: Call, request: v1::AcquireRequest) -> Result<v1::AcquireResponse, Refusal> {
    let contest = Contest::lock(rooms, &request.name);
    let asked = Asked::new(request)?;
    let Asked { acquire, claim, lease, owner, key, document, .. } = asked;
    let bid = match asked.delay_ms {
        0 => Bid { put: Put::new(key, document.encode(), owner), companion: None, renews_value: false },
        delay_ms => {
            let ttl_ms = delay_ttl(rooms, owner, delay_ms, &call).await?;
            let delay = validate::mint_lease();
            let companion = contest.name.key(delay, Some(acquire))?;
            let segment = |key| contest.name.segment_of(key).map(str::to_owned);
            let (mut stands, mut document) = (document.clone(), document);
            stands.stands_for = segment(&key);
            document.companion = segment(&companion);
            let owner_of_companion = Owner::Ttl { lease: delay, ttl_ms };
            Bid {
                put: Put::new(key, document.encode(), owner),
                companion: Some(Put::new(companion, stands.encode(), owner_of_companion)),
                renews_value: false,
            }
        }
    };
    let wanted = Wanted { bid, acquire, claim, try_only: asked.try_only, reentrant: asked.reentrant };
    let held = recipes::acquire(&contest, call, &wanted).await?;
    Ok(v1::AcquireResponse {
        header: Some(rooms.header(held.revision)),
        key: held.key.into_bytes(),
        token: held.token.get(),
        lease_id: lease.get(),
        delay_lease_id: LeaseId::wire(held.delay_lease),
    })
}

fn claim(mode: i32, permits: u32) -> Result<Claim, Refusal> {
    let mode = v1::LockMode::try_from(mode).map_err(|_| validate::unknown("mode", mode))?;
    match (mode, permits) {
        (v1::LockMode::Exclusive, 0) => Ok(Claim::Exclusive),
        (v1::LockMode::Shared, 0) => Ok(Claim::Shared),
        (v1::LockMode::Permit, 1..=PERMITS_MAX) => Ok(Claim::Permit(permits)),
        (v1::LockMode::Permit, _) => Err(Refusal::invalid(format!("permits is not within 1 and {PERMITS_MAX}"))),
        _ => Err(Refusal::invalid("permits is for the mode PERMIT only")),
    }
}

fn check_texts(request: &v1::AcquireRequest) -> Result<(), Refusal> {
    if request.owner.len() > OWNER_BYTES_MAX {
        return Err(Refusal::invalid(format!("owner has more than {OWNER_BYTES_MAX} bytes")));
    }
    let bytes: usize = request.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(Refusal::invalid(format!("metadata has {bytes} bytes, at most {METADATA_BYTES_MAX} are allowed")));
    }
    Ok(())
}

/// How long the companion of a contender lives: as long as the session, and the delay.
async fn delay_ttl(rooms: &Rooms, owner: Owner, delay_ms: u64, call: &Call) -> Result<u64, Refusal> {
    let session_ms = match owner {
        Owner::Ttl { ttl_ms, .. } => ttl_ms,
        Owner::Lease(lease) => {
            rooms.barrier(call.deadline.unwrap_or_else(deadline::default)).await?;
            let record = rooms.read(Weight::Light, move |view| Ok(view.lease(lease)?)).await?;
            let missing = quorate_state::outcome::Rejection::LeaseNotFound { lease };
            record.ok_or_else(|| Refusal::from(missing))?.ttl_ms
        }
        Owner::None | Owner::Keep => 0,
    };
    match session_ms.checked_add(delay_ms) {
        Some(ttl_ms) if ttl_ms <= TTL_MS_MAX => Ok(ttl_ms),
        _ => Err(Refusal::invalid("lock_delay_ms and the lease's time to live are over ten years together")),
    }
}

async fn release(
    rooms: &Arc<Rooms>,
    request: v1::ReleaseRequest,
    end: Instant,
) -> Result<v1::ReleaseResponse, Refusal> {
    contenders::name(&request.name)?;
    let acquire = contenders::id("acquire_id", request.acquire_id)?;
    let token = contenders::token("token", request.token)?;
    let lease = contenders::lease(&request.name, acquire, request.lease_id);
    let contest = Contest::lock(rooms, &request.name);
    let (revision, released) = recipes::release(&contest, lease, acquire, token, end).await?;
    Ok(v1::ReleaseResponse { header: Some(rooms.header(revision)), released })
}

async fn downgrade(
    rooms: &Arc<Rooms>,
    request: v1::DowngradeRequest,
    end: Instant,
) -> Result<v1::DowngradeResponse, Refusal> {
    contenders::name(&request.name)?;
    let acquire = contenders::id("acquire_id", request.acquire_id)?;
    let token = contenders::token("token", request.token)?;
    let lease = contenders::lease(&request.name, acquire, request.lease_id);
    let contest = Contest::lock(rooms, &request.name);
    let revision = recipes::downgrade(&contest, lease, acquire, token, end).await?;
    Ok(v1::DowngradeResponse { header: Some(rooms.header(revision)) })
}

async fn describe(
    rooms: &Arc<Rooms>,
    request: v1::DescribeLockRequest,
    end: Instant,
) -> Result<v1::DescribeLockResponse, Refusal> {
    contenders::name(&request.name)?;
    let waiters_max = match usize::try_from(request.waiters_max).unwrap_or(usize::MAX) {
        0 => WAITERS_DEFAULT,
        max if max <= WAITERS_MAX => max,
        _ => return Err(Refusal::invalid(format!("waiters_max is over the bound of {WAITERS_MAX}"))),
    };
    rooms.fresh(request.read.as_ref(), end).await?;
    let contest = Contest::lock(rooms, &request.name);
    let look = contest.look().await?;
    let (mut holders, mut waiters, mut waiting) = (Vec::new(), Vec::new(), 0);
    for (contender, companion, holds) in look.line.places() {
        let shown = contender.or(companion).and_then(|shown| look.kvs.get(&shown.key));
        let Some(kv) = shown else { continue };
        let shown = || shown_as(&contest, kv, holds, contender.is_none());
        if holds {
            holders.push(shown());
            continue;
        }
        waiting += 1;
        if waiters.len() < waiters_max {
            waiters.push(shown());
        }
    }
    Ok(v1::DescribeLockResponse { header: Some(rooms.header(look.revision)), holders, waiters, waiting })
}

fn shown_as(contest: &Contest, kv: &KeyValue, holds: bool, delaying: bool) -> v1::Contender {
    let document = contest.document(kv);
    let (mode, permits) = match document.as_ref().map_or(Claim::Exclusive, Document::claim) {
        Claim::Exclusive => (v1::LockMode::Exclusive, 0),
        Claim::Shared => (v1::LockMode::Shared, 0),
        Claim::Permit(permits) => (v1::LockMode::Permit, permits),
    };
    let foreign = document.is_none();
    let (owner, metadata) = document.map(|document| (document.owner, document.metadata)).unwrap_or_default();
    v1::Contender {
        key: kv.key.to_bytes(),
        lease_id: LeaseId::wire(kv.meta.lease),
        mode: mode.into(),
        permits,
        owner,
        metadata: metadata.into_iter().collect(),
        token: if holds { kv.meta.create_revision.get() } else { 0 },
        since_unix_ms: kv.meta.created_ms,
        delaying,
        foreign,
    }
}

/// What is to be taken away.
pub fn which(request: &v1::ForceReleaseRequest) -> Result<Which, Refusal> {
    use v1::force_release_request::Which as Wire;
    contenders::name(&request.name)?;
    match &request.which {
        Some(Wire::Token(token @ 1..)) => Ok(Which::Token(Revision(*token))),
        Some(Wire::Key(key)) if !key.is_empty() => Ok(Which::Key(key.clone())),
        _ => Err(Refusal::invalid("name the hold by its token, or any contender by its key")),
    }
}

async fn force_release(
    rooms: &Arc<Rooms>,
    request: v1::ForceReleaseRequest,
    end: Instant,
) -> Result<v1::ForceReleaseResponse, Refusal> {
    let which = which(&request)?;
    let contest = Contest::lock(rooms, &request.name);
    let (revision, taken) = recipes::force_release(&contest, &which, end).await?;
    let released = taken.map(|taken| {
        let delaying = contest.document(&taken.kv).is_some_and(|document| document.stands_for.is_some());
        shown_as(&contest, &taken.kv, taken.held, delaying)
    });
    Ok(v1::ForceReleaseResponse { header: Some(rooms.header(revision)), released })
}

#[tonic::async_trait]
impl Lock for LockDoor {
    async fn acquire(&self, request: Request<v1::AcquireRequest>) -> Result<Response<v1::AcquireResponse>, Status> {
        let connection = Connection::of(&request);
        let call = contenders::call(&self.0, request.metadata(), connection, request.get_ref().wait_ms)?;
        Ok(Response::new(acquire(&self.0, call, request.into_inner()).await?))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        Ok(Response::new(release(&self.0, request.into_inner(), end).await?))
    }

    async fn downgrade(
        &self,
        request: Request<v1::DowngradeRequest>,
    ) -> Result<Response<v1::DowngradeResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        Ok(Response::new(downgrade(&self.0, request.into_inner(), end).await?))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeLockRequest>,
    ) -> Result<Response<v1::DescribeLockResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        Ok(Response::new(describe(&self.0, request.into_inner(), end).await?))
    }

    async fn force_release(
        &self,
        request: Request<v1::ForceReleaseRequest>,
    ) -> Result<Response<v1::ForceReleaseResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        Ok(Response::new(force_release(&self.0, request.into_inner(), end).await?))
    }
}
