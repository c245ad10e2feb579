//! Who leads, as the members say: a change of leader may begin the time of leases anew.
//!
//! Invariants:
//! - A change is noted when it is seen, which is later than it was: that only makes checks weaker.

use std::time::Duration;

use quorate::{Client, MemberId};

use crate::town::Town;

/// Who does not answer within this does not lead.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks until it is over.
pub(crate) async fn live(town: Town, client: Client) {
    let mut known: Option<(u64, Option<MemberId>)> = None;
    while !town.is_over() {
        let statuses = client.status_of_all().await;
        let told = statuses.into_iter().filter_map(|(_, status)| status.ok());
        let newest = told.map(|status| (status.header.raft_term, status.leader)).max();
        if newest.is_some() && newest > known {
            known = newest;
            town.recorder.leader();
        }
        town.pause(LOOK_EVERY).await;
    }
    // What was elected since the last look.
    town.recorder.leader();
}
