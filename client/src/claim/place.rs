//! A claim as members know it: name, lease and id; and how it is given up.
//!
//! Invariants:
//! - Giving up is safe to repeat: it names one claim, and a claim that is gone stays gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_proto::{LeaseId, Token, v1};
use tokio::time::Instant;

use crate::call::{Call, CallOptions, Safety};
use crate::client::Client;
use crate::endpoints::Endpoint;
use crate::error::{Error, Result};

/// What is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Lock,
    Election,
}

/// One claim.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) name: Bytes,
    pub(crate) lease: LeaseId,
    pub(crate) id: u64,
    /// With a lock delay, so that the end of its session alone is no release in good order.
    pub(crate) delayed: bool,
}

/// What giving up met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The claim was there until now.
    Now,
    /// It was gone before.
    Before,
    /// It is gone, and an earlier attempt without an answer may have been what did it.
    Either,
}

impl Place {
    /// A new claim.
    pub(crate) fn new(kind: Kind, name: Bytes, lease: LeaseId) -> Self {
        Self { kind, name, lease, id: rand::random_range(1..=u64::MAX), delayed: false }
    }

    /// For messages: `lock jobs/nightly`.
    pub(crate) fn label(&self) -> String {
        let kind = match self.kind {
            Kind::Lock => "lock",
            Kind::Election => "leadership of",
        };
        format!("{kind} {}", String::from_utf8_lossy(&self.name))
    }

    /// Gives it up, whatever it has come to; with a token, only that hold.
    pub(crate) async fn release(&self, client: &Client, token: Option<Token>) -> Result<Gone> {
        let sent = Arc::new(AtomicU32::new(0));
        let call = Release { place: self.clone(), token: token.map_or(0, |token| token.0), sent: sent.clone() };
        let released = client.run(call, CallOptions::default()).await?;
        Ok(match (released, sent.load(Ordering::Relaxed)) {
            (true, _) => Gone::Now,
            (false, 0 | 1) => Gone::Before,
            (false, _) => Gone::Either,
        })
    }
}

#[derive(Clone)]
struct Release {
    place: Place,
    token: i64,
    /// Attempts so far.
    sent: Arc<AtomicU32>,
}

impl Call for Release {
    type Answer = bool;

    fn safety(&self) -> Safety {
        Safety::Same
    }

    fn send(self, endpoint: Arc<Endpoint>, deadline: Instant, _: bool) -> BoxFuture<'static, Result<bool>> {
        Box::pin(async move {
            self.sent.fetch_add(1, Ordering::Relaxed);
            let wrong = |status: tonic::Status| Error::from_status(&status, &endpoint.address);
            let Place { kind, name, lease, id, .. } = self.place;
            let (lease_id, left) = (lease.get(), deadline.saturating_duration_since(Instant::now()));
            match kind {
                Kind::Lock => {
                    let message = v1::ReleaseRequest { name, lease_id, acquire_id: id, token: self.token };
                    let mut request = tonic::Request::new(message);
                    request.set_timeout(left);
                    Ok(endpoint.lock().release(request).await.map_err(wrong)?.into_inner().released)
                }
                Kind::Election => {
                    let message = v1::ResignRequest { name, lease_id, campaign_id: id, term: self.token };
                    let mut request = tonic::Request::new(message);
                    request.set_timeout(left);
                    Ok(endpoint.election().resign(request).await.map_err(wrong)?.into_inner().resigned)
                }
            }
        })
    }
}
