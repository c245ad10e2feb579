//! A client that wants one lock, for scenarios that are about locks: what it asks for and when is theirs to say.
//!
//! Invariants:
//! - A hold is recorded as claimed from its answer until it is given back.

use std::time::Duration;

use quorate_proto::v1;
use quorate_tests::checkers::history::Hold;
use tokio::time::timeout;

use crate::clients::Client;
use crate::lockers::{DIRECTORY, Grant, hold_of};
use crate::way::{Way, ask};

/// For one request.
pub const PATIENCE: Duration = Duration::from_secs(10);
const TTL_MS: u64 = 60_000;

/// A client with a session and one acquire.
pub struct Contender {
    pub client: Client,
}

impl Contender {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn lease(&self) -> i64 {
        i64::try_from(self.client.id).unwrap() * 1_000
    }

    pub async fn has_session(&self) -> bool {
        let grant = v1::GrantRequest { id: None, ttl_ms: TTL_MS, lease_id: self.lease() };
        let mut leases = v1::lease_client::LeaseClient::new(self.client.way());
        ask(PATIENCE, grant, |request| async move { leases.grant(request).await }).await.is_ok()
    }

    /// One attempt. Dropped, its connection breaks, if it is to.
    pub async fn ask(&self, breaks: bool) -> Option<Grant> {
        let request = v1::AcquireRequest {
            name: lock().into(),
            lease_id: self.lease(),
            acquire_id: self.client.id,
            ..Default::default()
        };
        let mut locks = v1::lock_client::LockClient::new(Way { breaks, ..self.client.way() });
        timeout(PATIENCE, locks.acquire(request)).await.ok()?.ok().map(|answer| answer.into_inner().into())
    }

    pub async fn acquire(&self) -> Hold {
        let asked = self.client.town.recorder.trace.moment();
        self.acquire_since(asked).await
    }

    pub async fn acquire_since(&self, invoked: u64) -> Hold {
        let answer = self.ask(false).await;
        let completed = self.client.town.recorder.trace.moment();
        hold_of(&lock(), self.client.id, answer.as_ref(), invoked, completed)
    }

    /// It was claimed until now.
    pub async fn release(&self, hold: Hold) {
        let recorder = &self.client.town.recorder;
        let Some(token) = hold.token else { return recorder.hold(hold) };
        recorder.hold(Hold { ended: Some(recorder.trace.moment()), ..hold });
        let request =
            v1::ReleaseRequest { name: lock().into(), lease_id: self.lease(), acquire_id: self.client.id, token };
        let mut locks = v1::lock_client::LockClient::new(self.client.way());
        // Whatever comes of it: it is not claimed any more.
        let _ = ask(PATIENCE, request, |request| async move { locks.release(request).await }).await;
    }
}

fn lock() -> String {
    format!("{DIRECTORY}/0")
}
