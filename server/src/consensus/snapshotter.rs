//! Asks openraft for snapshots and purges by the size of the log: one entry is a whole batch, so counting entries
//! says little.
//!
//! Invariants:
//! - Only what a snapshot contains is purged (openraft sees to that), and much stays, so that a follower that was
//!   away for a while gets entries, not a snapshot. While disk space is short, little stays.

use std::sync::Arc;
use std::time::Duration;

use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::log::LogReader;
use crate::consensus::types::{LogId, Raft, TypeConfig};
use crate::tasks::Tasks;
use openraft::async_runtime::watch::WatchReceiver;

/// When to make snapshots, and what to keep of the log.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotRules {
    /// Log since the last snapshot that asks for the next one.
    pub every_bytes: u64,
    /// Entries since the last snapshot that ask for the next one.
    pub every_entries: u64,
    /// Log that stays after a snapshot.
    pub keep_bytes: u64,
    /// Entries that stay after a snapshot.
    pub keep_entries: u64,
    /// How often to look.
    pub interval: Duration,
}

impl Default for SnapshotRules {
    fn default() -> Self {
        Self {
            every_bytes: 256 << 20,
            every_entries: 100_000,
            keep_bytes: 64 << 20,
            keep_entries: 20_000,
            interval: Duration::from_secs(1),
        }
    }
}

/// What stays of the log however short space is: a follower should not need a snapshot for each message that it missed.
const KEEP_BYTES_MIN: u64 = 4 << 20;
const KEEP_ENTRIES_MIN: u64 = 256;

/// The task.
pub struct Snapshotter {
    /// Who makes them.
    pub raft: Raft,
    /// Whose size is looked at.
    pub log: LogReader,
    /// When.
    pub rules: SnapshotRules,
    /// How much space there is for the log.
    pub disk: Arc<DiskSpace>,
}

impl Snapshotter {
    /// Works until the member stops.
    pub async fn run(self, tasks: Tasks) -> Result<(), std::convert::Infallible> {
        let mut tick = tokio::time::interval(self.rules.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = tasks.stopped() => return Ok(()),
                _ = tick.tick() => {}
            }
            // An error means that openraft has ended, which the observer reports.
            let _ = self.look().await;
        }
    }

    async fn look(&self) -> Result<(), openraft::errors::Fatal<TypeConfig>> {
        let (snapshot, applied, purged) = {
            let metrics = self.raft.metrics();
            let now = metrics.borrow_watched();
            let index = |id: &Option<LogId>| id.as_ref().map(|id| id.index);
            (index(&now.snapshot), index(&now.last_applied), index(&now.purged))
        };
        let Some(applied) = applied else { return Ok(()) };
        let rules = self.rules_now();
        let entries = (applied + 1).saturating_sub(snapshot.map_or(0, |index| index + 1));
        if entries > 0 && (entries >= rules.every_entries || self.log.bytes_after(snapshot) >= rules.every_bytes) {
            // openraft passes this over while one is being built.
            self.raft.trigger().snapshot().await?;
        }
        let purgeable = self.log.purgeable(rules.keep_bytes, rules.keep_entries);
        if let (Some(snapshot), Some(purgeable)) = (snapshot, purgeable) {
            let upto = purgeable.min(snapshot);
            // Not for a handful: each purge leaves a tombstone in the log.
            if upto >= purged.map_or(0, |index| index + 1) + rules.keep_entries / 16 {
                self.raft.trigger().purge_log(upto).await?;
            }
        }
        Ok(())
    }

    /// The rules, tighter where the disk does not allow for them.
    fn rules_now(&self) -> SnapshotRules {
        let keep_bytes = self.disk.log_allowance(self.rules.keep_bytes).max(KEEP_BYTES_MIN).min(self.rules.keep_bytes);
        if keep_bytes == self.rules.keep_bytes {
            return self.rules;
        }
        SnapshotRules {
            every_bytes: self.rules.every_bytes.min(keep_bytes),
            keep_bytes,
            keep_entries: self.rules.keep_entries.min(KEEP_ENTRIES_MIN),
            ..self.rules
        }
    }
}
