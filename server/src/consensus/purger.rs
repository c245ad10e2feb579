//! Purges compacted history, at each member by itself, in small steps beside everything else.
//!
//! Nobody waits for it, and on a small machine it competes with those who read and write. So a backlog is worked off over
//! about a minute, faster only if there is so much of it, or no time: when disk is short.
//!
//! Invariants:
//! - A step is bounded and followed by a pause, because apply waits for the store behind it.
//! - It works on the store in force; a store that was replaced is left alone.

use std::sync::Arc;
use std::time::Duration;

use quorate_state::compaction::{CHANGES_PER_STEP, Purge, backlog, purge_step};
use quorate_state::outcome::Fault;

use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::state_dir::CurrentStore;
use crate::tasks::{Tasks, Work};

/// A backlog of any usual size takes about so long.
const SPREAD: Duration = Duration::from_mins(1);
/// Between steps while there is more: never shorter, so that apply has its turn; and never longer.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How often the compaction mark is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Works until the member stops. Steps run on blocking threads: they read and write the store.
pub async fn purge(store: Arc<CurrentStore>, disk: Arc<DiskSpace>, tasks: Tasks) -> Result<(), String> {
    loop {
        let store = store.get();
        let step = tasks.blocking(Work::Purge, move || -> Result<Option<u64>, Fault> {
            match purge_step(store.as_ref())? {
                Purge::More => backlog(store.as_ref()).map(Some),
                Purge::Done => Ok(None),
            }
        });
        let left = step.await.map_err(|error| error.to_string())?.map_err(|fault| fault.to_string())?;
        let pause = left.map_or(INTERVAL, |revisions| pause(revisions, disk.is_nearly_short()));
        if tokio::time::timeout(pause, tasks.stopped()).await.is_ok() {
            return Ok(());
        }
    }
}

/// Before the next step, with so many revisions left.
fn pause(revisions: u64, is_urgent: bool) -> Duration {
    if is_urgent {
        return PAUSE_MIN;
    }
    let steps = u32::try_from(revisions / CHANGES_PER_STEP).unwrap_or(u32::MAX).max(1);
    (SPREAD / steps).clamp(PAUSE_MIN, PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_backlog_is_worked_off_faster_and_a_short_disk_waits_for_nobody() {
        assert_eq!(pause(1, false), PAUSE_MAX);
        assert_eq!(pause(1_000_000, false), Duration::from_millis(60));
        assert_eq!(pause(1_000_000_000, false), PAUSE_MIN);
        assert_eq!(pause(u64::MAX, false), PAUSE_MIN);
        assert_eq!(pause(1, true), PAUSE_MIN);
    }
}
