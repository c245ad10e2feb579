//! The compaction work: gets before, and while a long history is compacted.
//!
//! The window opens with the request to compact. Its length (`Plan::compacting`) is such that both systems are at
//! work in it: Quorate begins within a second and spreads it over about a minute; so the window shows a part of it.
//!
//! Invariants:
//! - The history was written just before, one revision for each put, and both windows see the same load.

use std::time::Duration;

use tokio::time::sleep;

use super::point;
use crate::cluster::Cluster;
use crate::failure::Result;
use crate::figures::Figures;
use crate::fill;
use crate::load::{self, Caller};
use crate::plan::{COMPACTION_CALLERS, Plan};
use crate::stage::Lane;

/// Name of the work.
pub const NAME: &str = "compaction";

fn readers(round: usize) -> Vec<Box<dyn Caller>> {
    (0..COMPACTION_CALLERS).map(|caller| point::get(round, caller)).collect()
}

/// Runs one round.
pub async fn run(lane: &Lane, cluster: &Cluster, round: usize, plan: &Plan, figures: &mut Figures) -> Result<()> {
    let last = fill::history(&lane.connections, plan.compacted_revisions, round).await?;
    cluster.settled().await?;
    let mut before = load::run(lane, cluster, readers(round), plan.warm_up, plan.compacting).await?;
    let during = load::run(lane, cluster, readers(round), plan.warm_up, plan.compacting);
    let (during, compacted) = tokio::join!(during, compact(lane, last, plan.warm_up));
    let mut during = during?;
    compacted?;
    let names = ["gets before compaction", "gets during compaction"];
    figures.add_kept(NAME, lane.subject, names, [&mut before, &mut during])?;
    // What is left of it would be measured with the next work.
    cluster.settled().await
}

async fn compact(lane: &Lane, revision: i64, warm_up: Duration) -> Result<()> {
    sleep(warm_up).await;
    lane.connections[0].compact(revision).await
}
