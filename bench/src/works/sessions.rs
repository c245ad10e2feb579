//! The works of many leases: what it costs to keep them alive, and what writers notice when all of them end at once.
//!
//! Invariants:
//! - Every keep-alive is of a lease that exists, or the run fails; all leases are renewed in one pass before they are
//!   left to end, so that they end within the time which that pass took.
//! - The pair of clusters is the work's own: leases that are still ending disturb nothing else. Quorate goes first,
//!   because etcd ends at most a thousand leases a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use tokio::time::{Instant, sleep_until};

use super::point;
use crate::cluster::Cluster;
use crate::failure::{Result, wrong};
use crate::figures::{Figures, Metric, float, mb};
use crate::load::{self, Caller, answered};
use crate::plan::{EXPIRY_CALLERS, LEASE_CALLERS, Plan};
use crate::stage::{Lane, Stage, Subject};
use crate::wire::{Connection, KeepAlives};

/// Name of the work of keep-alives.
pub const KEEP_ALIVES: &str = "keep-alives";
/// Name of the work of leases that end.
pub const EXPIRY: &str = "mass-expiry";

/// Renews leases in turn, those of one caller.
struct Renewer {
    leases: Arc<[i64]>,
    next: usize,
    stream: Option<KeepAlives>,
}

impl Caller for Renewer {
    fn prepare<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.stream = Some(connection.keep_alives()?);
            Ok(())
        })
    }

    fn step<'a>(&'a mut self, _: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            let Some(stream) = &mut self.stream else { return wrong("the caller was not prepared") };
            let lease = self.leases[self.next % self.leases.len()];
            self.next += LEASE_CALLERS;
            stream.renew(lease).await
        })
    }
}

/// Both works, for each system: Quorate's first.
pub async fn run(stage: &Stage, plan: &Plan, figures: &mut Figures) -> Result<()> {
    let lanes = stage.lanes.iter().filter(|lane| lane.subject != Subject::QuorateNative);
    for lane in lanes.rev() {
        one(lane, stage.cluster(lane.subject), plan, figures).await?;
    }
    Ok(())
}

async fn one(lane: &Lane, cluster: &Cluster, plan: &Plan, figures: &mut Figures) -> Result<()> {
    let before = cluster.resident_bytes()?;
    let leases: Arc<[i64]> = grant(lane, plan).await?.into();
    let after = cluster.resident_bytes()?;
    figures.add(KEEP_ALIVES, Metric::Memory, lane.subject, mb(after.saturating_sub(before)));
    let renewers = (0..LEASE_CALLERS)
        .map(|caller| Box::new(Renewer { leases: Arc::clone(&leases), next: caller, stream: None }) as Box<dyn Caller>);
    let mut kept = load::run(lane, cluster, renewers.collect(), plan.warm_up, plan.measured).await?;
    figures.add_window(KEEP_ALIVES, lane.subject, &mut kept);

    let writers = || (0..EXPIRY_CALLERS).map(|caller| point::put(0, caller)).collect::<Vec<_>>();
    // Renewed first, so that none ends in the window before.
    renew_all(lane, &leases).await?;
    let mut calm = load::run(lane, cluster, writers(), plan.warm_up, plan.expiring).await?;
    let last_renewal_began = Instant::now();
    renew_all(lane, &leases).await?;
    sleep_until(last_renewal_began + plan.lease_ttl).await;
    let mut ending = load::run(lane, cluster, writers(), Duration::ZERO, plan.expiring).await?;
    let left = answered(lane.connections[0].leases()).await?;
    let ended = leases.len().saturating_sub(left);
    let names = ["puts before mass expiry", "puts during mass expiry"];
    figures.add_kept(EXPIRY, lane.subject, names, [&mut calm, &mut ending])?;
    figures.add(EXPIRY, Metric::Ended, lane.subject, float(ended as u64) / float(leases.len() as u64));
    Ok(())
}

async fn grant(lane: &Lane, plan: &Plan) -> Result<Vec<i64>> {
    let granted = AtomicUsize::new(0);
    let callers = (0..LEASE_CALLERS).map(|caller| {
        let (connection, granted) = (&lane.connections[caller % lane.connections.len()], &granted);
        async move {
            let mut own = Vec::new();
            while granted.fetch_add(1, Ordering::Relaxed) < plan.leases {
                own.push(answered(connection.grant(plan.lease_ttl)).await?);
            }
            Ok(own)
        }
    });
    Ok(try_join_all(callers).await?.concat())
}

/// Renews each lease once.
async fn renew_all(lane: &Lane, leases: &[i64]) -> Result<()> {
    let callers = leases.chunks(leases.len().div_ceil(LEASE_CALLERS)).enumerate().map(|(caller, own)| async move {
        let mut stream = lane.connections[caller % lane.connections.len()].keep_alives()?;
        for lease in own {
            answered(stream.renew(*lease)).await?;
        }
        Ok(())
    });
    try_join_all(callers).await?;
    Ok(())
}
