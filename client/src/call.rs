//! One call: choose an endpoint, send, and on failure decide whether and when to send again.
//!
//! Invariants:
//! - A call that changes something is sent again after an unknown outcome only under its own request id; a call
//!   without an id only if it ends in the same state however often it is sent, or after a refusal that says that nothing
//!   happened.
//! - A call ends by its deadline, whatever the endpoints do.
//! - Dropping the future of a call stops the retries; what was sent may still be applied.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{Client, Shared};
use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Reason, Result};
use crate::write_id::WriteId;

mod requests;

pub(crate) use requests::{Call, Safety};

/// Retries wait a random time below this, doubled with each attempt (full jitter) …
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// … up to this: short, because a cluster that lost its leader has another within half a second.
const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// With other endpoints to turn to, one attempt gets this part of the call's time.
const ATTEMPT_PART: f64 = 0.4;

/// What the builders of all calls can set.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallOptions {
    pub(crate) deadline: Option<Duration>,
    pub(crate) write_id: Option<WriteId>,
}

impl Client {
    /// Runs a call to its end.
    pub(crate) async fn run<C: Call>(&self, call: C, options: CallOptions) -> Result<C::Answer> {
        let shared = self.shared();
        let safety = call.safety();
        if let Some(id) = &options.write_id {
            if safety != Safety::Id {
                return Err(Error::invalid("a write id was given to a call that writes nothing; leave it out"));
            }
            if !id.is_of(&shared.ids) {
                return Err(Error::invalid("the write id belongs to another client; use the client that it came from"));
            }
        }
        let after = options.deadline.unwrap_or(shared.config.deadline);
        let mut run = Run {
            shared,
            safety,
            after,
            deadline: Instant::now() + after,
            // An id that comes with the call has been sent before.
            ambiguous: options.write_id.is_some(),
            id: options.write_id,
            attempts: 0,
            last: None,
        };
        loop {
            let endpoint = shared.endpoints.pick();
            match run.attempt(&endpoint, call.clone()).await {
                Ok(answer) => {
                    shared.endpoints.succeeded(&endpoint);
                    shared.ids.saw(C::log_index(&answer));
                    return Ok(answer);
                }
                Err(error) => {
                    shared.endpoints.failed(&endpoint, &error);
                    run.failed(error).await?;
                }
            }
        }
    }
}

/// A call on its way.
struct Run<'a> {
    shared: &'a Arc<Shared>,
    safety: Safety,
    after: Duration,
    deadline: Instant,
    id: Option<WriteId>,
    /// An attempt was sent whose outcome is unknown.
    ambiguous: bool,
    attempts: u32,
    last: Option<Error>,
}

impl Run<'_> {
    async fn attempt<C: Call>(&mut self, endpoint: &Arc<Endpoint>, mut call: C) -> Result<C::Answer> {
        let until = self.attempt_deadline();
        if self.safety == Safety::Id {
            let id = match &self.id {
                Some(id) => id.clone(),
                None => self.mint(endpoint, until).await?,
            };
            if let Some(slot) = call.id_slot() {
                *slot = Some(id.wire());
            }
            self.id = Some(id);
        }
        match tokio::time::timeout_at(until, call.send(endpoint.clone(), self.deadline, self.shared.config.batching))
            .await
        {
            Ok(result) => result,
            Err(_) => Err(unanswered(endpoint, Happened::Unknown)),
        }
    }

    /// A new id, made after a fresh log index is known.
    async fn mint(&self, endpoint: &Endpoint, until: Instant) -> Result<WriteId> {
        let ids = &self.shared.ids;
        if ids.is_stale() {
            match tokio::time::timeout_at(until, ids.refresh(endpoint)).await {
                Ok(refreshed) => refreshed?,
                Err(_) => return Err(unanswered(endpoint, Happened::No)),
            }
        }
        Ok(ids.next())
    }

    fn attempt_deadline(&self) -> Instant {
        // Without an id there is no second attempt after silence.
        if self.safety == Safety::Once || self.shared.endpoints.all().len() == 1 {
            return self.deadline;
        }
        self.deadline.min(Instant::now() + self.after.mul_f64(ATTEMPT_PART))
    }

    /// Waits for the next attempt, or says that there is none.
    async fn failed(&mut self, error: Error) -> Result<()> {
        self.ambiguous |= error.happened() == Happened::Unknown;
        let error = self.of_call(error);
        let sent_twice_is_safe = match self.safety {
            Safety::Read | Safety::Id | Safety::Same => true,
            Safety::Once => error.happened() == Happened::No,
        };
        if !error.is_passing() || !sent_twice_is_safe {
            return Err(error);
        }
        tracing::debug!(attempt = self.attempts, %error, "call is retried");
        let left = self.deadline.saturating_duration_since(Instant::now());
        let pause = match error.retry_after() {
            Some(asked) if asked >= left => return Err(error),
            Some(asked) => asked.mul_f64(rand::random_range(1.0..1.25)),
            None => backoff(self.attempts, BACKOFF_MAX),
        };
        self.attempts = self.attempts.saturating_add(1);
        self.last = Some(error);
        tokio::time::sleep(pause.min(left)).await;
        if Instant::now() < self.deadline {
            return Ok(());
        }
        let last = self.last.take().map(Box::new);
        Err(self.of_call(Error::Deadline { after: self.after, happened: Happened::No, write_id: None, last }))
    }

    /// What an error of one attempt means for the whole call.
    fn of_call(&self, error: Error) -> Error {
        let decided = !error.is_passing()
            && !matches!(error, Error::Deadline { .. })
            && error.reason() != Some(Reason::RequestExpired);
        let happened = match self.safety {
            Safety::Read => Happened::No,
            Safety::Id | Safety::Same | Safety::Once if self.ambiguous && !decided => Happened::Unknown,
            Safety::Id | Safety::Same | Safety::Once => error.happened(),
        };
        error.of_call(happened, self.id.as_ref())
    }
}

/// A random time below an exponentially growing bound.
pub(crate) fn backoff(attempts: u32, max: Duration) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << attempts.min(16)).min(max).mul_f64(rand::random_range(0.0..1.0))
}

fn unanswered(endpoint: &Endpoint, happened: Happened) -> Error {
    Error::Unreachable {
        endpoint: endpoint.address.clone(),
        message: "nothing came in time".to_owned(),
        happened,
        write_id: None,
    }
}

#[cfg(test)]
mod tests;
