//! What the requests of locks and elections have in common: names, leases, what is put.
//!
//! Invariants:
//! - A contender whose caller has no lease is put with one of its own, whose id follows from the name and the acquire:
//!   so that the same request finds it again.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{LeaseId, Revision};
use quorate_state::command::Owner;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use xxhash_rust::xxh3::Xxh3;

use crate::api::errors::Refusal;
use crate::api::limits::CONTENDER_TTL_MS;
use crate::api::rooms::Rooms;
use crate::api::{deadline, validate};
use crate::connection::Connection;
use crate::recipes::Call;

/// The name of a lock or election.
pub fn name(name: &Bytes) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid("name is empty; a lock or election has a name of 1 byte or more"));
    }
    if name.ends_with(b"/") {
        return Err(Refusal::invalid("name ends with `/`; leave that out"));
    }
    Ok(())
}

/// The id of an acquire or a campaign.
pub fn id(field: &str, id: u64) -> Result<u64, Refusal> {
    if id == 0 {
        return Err(Refusal::invalid(format!("{field} is 0; choose a random one, the same in each attempt")));
    }
    Ok(id)
}

/// Whose lease the contender has: the caller's, or one of its own.
pub fn owner(name: &[u8], id: u64, lease_id: i64, ttl_ms: u64) -> Result<(LeaseId, Owner), Refusal> {
    match LeaseId::new(lease_id) {
        Some(_) if ttl_ms != 0 => Err(Refusal::invalid("ttl_ms is for a lease_id of 0; the lease named has its own")),
        Some(lease) => Ok((lease, Owner::Lease(lease))),
        None => {
            let ttl_ms = if ttl_ms == 0 { CONTENDER_TTL_MS } else { validate::ttl(ttl_ms)? };
            let lease = own_lease(name, id);
            Ok((lease, Owner::Ttl { lease, ttl_ms }))
        }
    }
}

/// The lease of a contender: the one named, or its own.
pub fn lease(name: &[u8], id: u64, lease_id: i64) -> LeaseId {
    LeaseId::new(lease_id).unwrap_or_else(|| own_lease(name, id))
}

fn own_lease(name: &[u8], id: u64) -> LeaseId {
    let mut hash = Xxh3::new();
    hash.update(&id.to_be_bytes());
    hash.update(name);
    let lease = LeaseId::new(hash.digest().cast_signed() & i64::MAX);
    lease.unwrap_or_else(validate::mint_lease)
}

/// A token or a term; 0 for any.
pub fn token(field: &str, token: i64) -> Result<Revision, Refusal> {
    if token < 0 {
        return Err(Refusal::invalid(format!("{field} is negative")));
    }
    Ok(Revision(token))
}

/// A call that may wait.
pub fn call(rooms: &Rooms, metadata: &MetadataMap, connection: Connection, wait_ms: u64) -> Result<Call, Refusal> {
    let mut call = Call::new(rooms, connection, deadline::of_wait(metadata)?);
    if wait_ms > 0 {
        call.wait_until = Instant::now().checked_add(Duration::from_millis(wait_ms));
    }
    Ok(call)
}
