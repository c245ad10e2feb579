//! What is done for a check, each in its own time: asking, and writing down what came of it.
//!
//! Invariants:
//! - A job ends by itself; what goes wrong with it is done again when the check is due again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use quorate_state::command::{Compare, Target};
use tokio::time::Instant;

use super::Which;
use super::probe::{Outcome, Prober};
use crate::api::Weight;
use crate::recipes::discovery::check::Check;
use crate::recipes::discovery::document::Health;
use crate::recipes::discovery::names::InstanceName;
use crate::recipes::discovery::report::is_at;
use crate::recipes::discovery::{Discovery, DiscoveryError, get};

const PATIENCE: Duration = Duration::from_secs(5);
/// What is said of an instance that does not report.
const SILENT: &str = "no report came in time";

/// What is to be done.
pub enum Job {
    /// Ask.
    Probe(Arc<Prober>),
    /// See whether a report came in time.
    Reported,
    /// Write down what the check says.
    Write {
        /// Now.
        status: Health,
        /// Why.
        note: String,
    },
    /// Write down that no report came in time.
    Lapse,
    /// Take away the instance, which has been critical for too long.
    Remove,
}

/// What a job came to.
pub enum CameTo {
    /// The check was made.
    Outcome(Outcome),
    /// No report came in time.
    Silence,
    /// The check says so now.
    Written(Check),
    /// There was nothing to do, or it could not be done now.
    Nothing,
}

/// The end of a job.
pub struct Done {
    /// Of which check.
    pub which: Which,
    /// As it was when the job began.
    pub check: Check,
    /// What it came to.
    pub came_to: CameTo,
}

impl Job {
    /// Does it.
    pub fn run(self, discovery: Arc<Discovery>, which: Which, check: Check) -> BoxFuture<'static, Done> {
        async move {
            let came_to = self.done(&discovery, &which, &check).await.unwrap_or_else(|error| {
                tracing::debug!(%error, instance = %which.0, "a check was not written down");
                CameTo::Nothing
            });
            Done { which, check, came_to }
        }
        .boxed()
    }

    async fn done(self, discovery: &Discovery, which: &Which, check: &Check) -> Result<CameTo, DiscoveryError> {
        let (name, at) = which;
        let deadline = Instant::now() + PATIENCE;
        match self {
            Self::Probe(prober) => Ok(CameTo::Outcome(prober.probe(check).await)),
            Self::Reported => {
                if check.status == Health::Critical {
                    return Ok(CameTo::Nothing);
                }
                let key = name.ttl_key(*at);
                let there =
                    discovery.rooms.read(Weight::Light, move |view| Ok(view.get(&key, None)?.is_some())).await?;
                Ok(if there { CameTo::Nothing } else { CameTo::Silence })
            }
            Self::Write { status, note } => {
                let said = Check { status, note, ..check.clone() };
                let rewritten = discovery.rewrite(name, deadline, Vec::new(), |document| {
                    if let Some(there) = document.checks.get_mut(*at).filter(|there| there.is_same(&said)) {
                        there.clone_from(&said);
                    }
                });
                rewritten.await?;
                Ok(CameTo::Written(said))
            }
            Self::Lapse => {
                let said = Check { status: Health::Critical, note: SILENT.to_owned(), ..check.clone() };
                // A report that comes now wins.
                let rewritten = discovery.rewrite(name, deadline, vec![is_absent(name, *at)], |document| {
                    if let Some(there) = document.checks.get_mut(*at).filter(|there| there.is_same(&said)) {
                        there.clone_from(&said);
                    }
                });
                rewritten.await?;
                Ok(CameTo::Written(said))
            }
            Self::Remove => {
                discovery.barrier(deadline).await?;
                let key = name.key();
                let stored = discovery.rooms.read(Weight::Light, move |view| get(view, &key)).await?;
                let Some(stored) = stored else { return Ok(CameTo::Nothing) };
                let checks = stored.document.as_ref().map(|document| document.checks.as_slice()).unwrap_or_default();
                let critical = |there: &Check| there.is_same(check) && there.status == Health::Critical;
                if checks.get(*at).is_some_and(critical) {
                    let unchanged = vec![is_at(name, stored.meta.mod_revision)];
                    let (_, removed) = discovery.remove(name, unchanged, deadline).await?;
                    tracing::info!(instance = %name, removed, "critical for too long: removed");
                }
                Ok(CameTo::Nothing)
            }
        }
    }
}

fn is_absent(name: &InstanceName, check: usize) -> Compare {
    Compare::equal(name.ttl_key(check), Target::Exists(false))
}
