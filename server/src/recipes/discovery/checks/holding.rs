//! Says that this member runs checks: a key under a lease, while there is something to check.
//!
//! Invariants:
//! - The key goes within its time to live when the member dies, and before that when it stops in good order.
//! - A cluster that checks nothing has no such key, and no traffic for it.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Key, LeaseId};
use quorate_state::command::{Command, Delete, Owner, Put, Span};
use tokio::time::{Instant, sleep};

use crate::api::mint_lease;
use crate::recipes::discovery::names::checker;
use crate::recipes::discovery::{Discovery, DiscoveryError};
use crate::sync::watch;

/// A member that dies is missed after this.
const TTL: Duration = Duration::from_secs(4);
const RENEWED_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(2);

/// Holds the key while it is wanted, until the member stops.
pub async fn run(discovery: &Discovery, mut wanted: watch::Receiver<bool>) {
    let key = checker(discovery.rooms.identity.member_id);
    let mut closing = discovery.rooms.until_closing();
    loop {
        tokio::select! {
            biased;
            () = &mut closing => return,
            // The sender lives as long as this.
            _ = wanted.wait_for(|wanted| *wanted) => {}
        }
        let is_over = tokio::select! {
            biased;
            () = &mut closing => true,
            _ = wanted.wait_for(|wanted| !*wanted) => false,
            never = hold(discovery, &key) => match never {},
        };
        // Where it cannot be deleted, its time to live does it.
        if let Err(error) = delete(discovery, key.clone()).await {
            tracing::debug!(%error, "the key of this member's checks was not deleted");
        }
        if is_over {
            return;
        }
    }
}

async fn hold(discovery: &Discovery, key: &Key) -> std::convert::Infallible {
    let mut held = None;
    loop {
        let done = match held {
            Some(lease) => renew(discovery, lease).await.map(|alive| Some(lease).filter(|_| alive)),
            None => put(discovery, key.clone()).await.map(Some),
        };
        match done {
            Ok(Some(lease)) => held = Some(lease),
            // It ended: at once anew.
            Ok(None) => {
                held = None;
                continue;
            }
            Err(error) => tracing::debug!(%error, "the key of this member's checks was not renewed"),
        }
        sleep(RENEWED_EVERY).await;
    }
}

async fn put(discovery: &Discovery, key: Key) -> Result<LeaseId, DiscoveryError> {
    let lease = mint_lease();
    let ttl_ms = u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX);
    let put = Put::new(key, Bytes::new(), Owner::Ttl { lease, ttl_ms });
    discovery.rooms.write(None, Command::Put(put), Instant::now() + PATIENCE).await?;
    Ok(lease)
}

async fn renew(discovery: &Discovery, lease: LeaseId) -> Result<bool, DiscoveryError> {
    Ok(discovery.keep_alive(lease, Instant::now() + PATIENCE).await? > 0)
}

async fn delete(discovery: &Discovery, key: Key) -> Result<(), DiscoveryError> {
    discovery.rooms.write(None, Command::Delete(Delete::new(Span::Key(key))), Instant::now() + PATIENCE).await?;
    Ok(())
}
