//! Waiting until a claim is granted, at whatever member serves it.
//!
//! Invariants:
//! - A wait ends by its grant, by the loss of its session, by a refusal, or by the limit that the caller set; no time-out
//!   of an attempt cuts it.
//! - A grant that arrives after its session was lost is no success.
//! - While an attempt may have left a claim, dropping the wait gives that claim up in the background.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use quorate_proto::{LeaseId, Revision, Token};
use tokio::time::Instant;

use super::held::{self, Held};
use super::{Place, Session};
use crate::call::backoff;
use crate::client::Client;
use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Result};

/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How much later than the limit of a wait the member's answer to it may come.
const ANSWER_SLACK: Duration = Duration::from_secs(1);
/// With other members to turn to, an attempt that waits for nobody gets this part of the time.
const ATTEMPT_PART: f64 = 0.4;

/// How long a claim is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// So long.
    For(Duration),
    /// Until it is granted.
    Forever,
}

/// A request for a claim.
pub(crate) trait Ask: Clone + Send + 'static {
    /// Once, with what is left of the caller's patience, at a member.
    fn send(self, wait: Patience, endpoint: Arc<Endpoint>) -> BoxFuture<'static, Result<Granted>>;
}

/// What a member granted.
#[derive(Debug, Clone)]
pub(crate) struct Granted {
    pub(crate) key: Bytes,
    pub(crate) token: Token,
    /// The key existed then.
    pub(crate) revision: Revision,
    pub(crate) delay_lease: Option<LeaseId>,
}

/// Waits until the claim is granted.
pub(crate) async fn wait(
    client: &Client,
    session: Session,
    place: Place,
    ask: impl Ask,
    patience: Patience,
) -> Result<Held> {
    let mut waiting = Waiting::new(client, session, place, patience);
    loop {
        let endpoint = client.shared().endpoints.pick();
        match waiting.attempt(&endpoint, ask.clone()).await {
            Ok(granted) => {
                client.shared().endpoints.succeeded(&endpoint);
                return waiting.granted(granted).await;
            }
            Err(error) => {
                client.shared().endpoints.failed(&endpoint, &error);
                waiting.failed(error).await?;
            }
        }
    }
}

struct Waiting<'a> {
    client: &'a Client,
    place: Place,
    /// `None` once it is granted.
    session: Option<Session>,
    patience: Patience,
    since: Instant,
    deadline: Option<Instant>,
    /// An attempt may have left a claim.
    out: bool,
    failures: u32,
}

impl<'a> Waiting<'a> {
    fn new(client: &'a Client, session: Session, place: Place, patience: Patience) -> Self {
        let since = Instant::now();
        let deadline = match patience {
            Patience::None => Some(since + client.shared().config.deadline),
            Patience::For(limit) => since.checked_add(limit.saturating_add(ANSWER_SLACK)),
            Patience::Forever => None,
        };
        Self { client, place, session: Some(session), patience, since, deadline, out: false, failures: 0 }
    }

    async fn attempt(&mut self, endpoint: &Arc<Endpoint>, ask: impl Ask) -> Result<Granted> {
        let Some(session) = &self.session else { return Err(Error::Closed) };
        let hold = session.hold.clone();
        session.check()?;
        let left = match self.patience {
            // A member takes 0 for no limit.
            Patience::For(limit) => {
                Patience::For(limit.saturating_sub(self.since.elapsed()).max(Duration::from_millis(1)))
            }
            other => other,
        };
        let ambiguous = std::mem::replace(&mut self.out, true);
        let until = OptionFuture::from(self.attempt_deadline().map(tokio::time::sleep_until));
        let answer = tokio::select! {
            biased;
            reason = hold.until_lost() => return Err(Error::LeaseLost { lease: hold.id, reason }),
            answer = ask.send(left, endpoint.clone()) => answer,
            Some(()) = until => Err(Error::Unreachable {
                endpoint: endpoint.address.clone(),
                message: "nothing came in time".to_owned(),
                happened: Happened::Unknown,
                write_id: None,
            }),
        };
        self.out = match &answer {
            Ok(_) => true,
            Err(error) => ambiguous || error.happened() != Happened::No,
        };
        answer
    }

    fn attempt_deadline(&self) -> Option<Instant> {
        let shared = self.client.shared();
        if self.patience == Patience::None && shared.endpoints.all().len() > 1 {
            let part = Instant::now() + shared.config.deadline.mul_f64(ATTEMPT_PART);
            return Some(self.deadline.map_or(part, |deadline| deadline.min(part)));
        }
        self.deadline
    }

    /// Pauses before the next attempt, or says that there is none.
    async fn failed(&mut self, error: Error) -> Result<()> {
        if !error.is_passing() {
            return Err(error);
        }
        tracing::debug!(claim = %self.place.label(), %error, "the wait goes on elsewhere");
        // The place in the queue is kept for a moment only, so the first time there is no pause.
        let pause = match (error.retry_after(), self.failures) {
            (Some(asked), _) => asked,
            (None, 0) => Duration::ZERO,
            (None, failures) => backoff(failures, PAUSE_MAX),
        };
        self.failures = self.failures.saturating_add(1);
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| deadline.saturating_duration_since(now) <= pause) {
            let after = self.since.elapsed();
            // What an attempt may have left is given up.
            return Err(Error::Deadline { after, happened: Happened::No, write_id: None, last: Some(Box::new(error)) });
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn granted(&mut self, granted: Granted) -> Result<Held> {
        let delay = match granted.delay_lease {
            Some(lease) => Some(self.client.lease_attend(lease).await?),
            None => None,
        };
        let delay = held::Delay::new(delay);
        let Some(session) = self.session.take_if(|session| session.check().is_ok()) else {
            // It says why; and what was granted is given up on drop.
            self.session.as_ref().map_or(Ok(()), Session::check)?;
            return Err(Error::Closed);
        };
        self.out = false;
        let held = Held::new(self.client, self.place.clone(), granted, session, delay);
        held.check()?;
        Ok(held)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.out {
            held::release_later(self.client, &self.place, self.session.take(), held::Delay::new(None));
        }
    }
}
