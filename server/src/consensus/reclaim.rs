//! Gets disk back while it is short: what is deleted, purged or replaced takes space until tables are rewritten, which
//! the databases do in their own time, and which is too late then.
//!
//! Invariants:
//! - Works only while space is short or nearly so; never two rounds at once; a round that brought nothing is followed
//!   by a longer pause, unless history was compacted meanwhile.
//! - Tables are rewritten a slice at a time, and only where something was deleted: a slice takes space before it gives
//!   any back, and one that would take more than there is is passed over.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::Revision;
use quorate_state::store::Store as _;
use quorate_state::view::View;

use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::log::LogReader;
use crate::consensus::snapshot::Snapshots;
use crate::consensus::state_dir::CurrentStore;
use crate::tasks::{Tasks, Work};

/// Between rounds that bring something.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Between rounds that bring nothing.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// A round that frees less brought nothing.
const WORTH_BYTES: u64 = 4 << 20;
/// Free space that no rewriting may touch.
const FLOOR_BYTES: u64 = 16 << 20;

/// The task.
pub struct Reclaimer {
    /// Whether space is short.
    pub disk: Arc<DiskSpace>,
    /// The state's store.
    pub store: Arc<CurrentStore>,
    /// The one in force links to tables that the store has long replaced.
    pub snapshots: Arc<Snapshots>,
    /// The log.
    pub log: LogReader,
}

impl Reclaimer {
    /// Works until the member stops.
    pub async fn run(self, tasks: Tasks) -> Result<(), String> {
        let this = Arc::new(self);
        let mut compacted = Revision::ZERO;
        let (mut pause, mut waited) = (PAUSE_MIN, Duration::ZERO);
        while tokio::time::timeout(PAUSE_MIN, tasks.stopped()).await.is_err() {
            waited += PAUSE_MIN;
            if !this.disk.is_nearly_short() {
                pause = PAUSE_MIN;
                continue;
            }
            let mark = this.compaction_mark().map_err(|error| error.to_string())?;
            if mark != compacted {
                compacted = mark;
                pause = PAUSE_MIN;
            }
            if waited < pause {
                continue;
            }
            let (worker, stopping) = (this.clone(), tasks.clone());
            let round = tasks.blocking(Work::Purge, move || worker.round(&stopping));
            match round.await.map_err(|error| error.to_string())? {
                Ok(freed) if freed >= WORTH_BYTES => pause = PAUSE_MIN,
                Ok(_) => pause = (pause * 2).min(PAUSE_MAX),
                // Nothing was lost by it. If the disk is full to the last byte, whoever writes will say so.
                Err(error) => {
                    tracing::warn!(%error, "disk space could not be reclaimed");
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            waited = Duration::ZERO;
        }
        Ok(())
    }

    fn compaction_mark(&self) -> io::Result<Revision> {
        let store = self.store.get();
        let view = View::new(store.snapshot()).map_err(io::Error::other)?;
        Ok(view.compact_revision())
    }

    /// Bytes that it freed, about: others write meanwhile.
    fn round(&self, tasks: &Tasks) -> io::Result<u64> {
        let before = self.disk.look();
        if before < FLOOR_BYTES {
            // Writing anything now could be what ends the member.
            return Ok(0);
        }
        if self.log.live_bytes().saturating_add(FLOOR_BYTES) <= before {
            self.log.disk().reclaim()?;
        }
        let store = self.store.get();
        store.flush(true).map_err(io::Error::other)?;
        for slice in store.slices_with_deletions().map_err(io::Error::other)? {
            if tasks.is_stopping() {
                return Ok(0);
            }
            let free = self.disk.look();
            if slice.bytes.saturating_add(FLOOR_BYTES) > free {
                tracing::warn!(slice.bytes, free, "too little space to rewrite tables in; give the member more disk");
                continue;
            }
            store.rewrite(&slice);
        }
        drop(store);
        // What was rewritten stays on disk for as long as a snapshot links to it.
        self.snapshots.build(&self.store)?;
        let after = self.disk.look();
        let freed = after.saturating_sub(before);
        tracing::info!(freed, free = after, "disk space is short: rewrote tables and made a new snapshot");
        Ok(freed)
    }
}
