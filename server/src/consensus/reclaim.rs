//! Gets disk back while it is short: what is deleted, purged or replaced takes space until tables are rewritten, which
//! the databases do in their own time, and which is too late then.
//!
//! Invariants:
//! - Works only while space is short or nearly so; never two rounds at once; a round that brought nothing is followed
//!   by a longer pause, unless history was compacted meanwhile.
//! - Tables are rewritten a slice at a time, and only where something was deleted: a slice takes space before it gives
//!   any back, and one that would take more than there is, less a part that is for others, is passed over.

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
/// Free space that no rewriting may touch, however little there is.
const FLOOR_BYTES: u64 = 16 << 20;
/// So much of what is free, up to the reserve, is left to those who write meanwhile: the log, deletes, and merges, which
/// may take what is above the reserve.
const OTHERS_SHARE: u64 = 4;

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
        if self.log.live_bytes() <= self.room() {
            self.log.disk().reclaim()?;
        }
        self.rewrite(tasks)?;
        // What was rewritten stays on disk for as long as a snapshot links to it.
        self.snapshots.build(&self.store)?;
        let after = self.disk.look();
        let freed = after.saturating_sub(before);
        tracing::info!(freed, free = after, "disk space is short: rewrote tables and made a new snapshot");
        Ok(freed)
    }

    /// Rewrites what has deletions and fits into what is free.
    fn rewrite(&self, tasks: &Tasks) -> io::Result<()> {
        let store = self.store.get();
        store.flush(true).map_err(io::Error::other)?;
        let (mut linked, mut passed_over) = (false, None);
        for slice in store.slices_with_deletions().map_err(io::Error::other)? {
            if tasks.is_stopping() {
                break;
            }
            if !store.still_has(&slice).map_err(io::Error::other)? {
                continue;
            }
            let fits = || store.fits(&slice, self.room()).map_err(io::Error::other);
            let mut may = fits()?;
            if !may && std::mem::take(&mut linked) {
                // What was rewritten before this one is still there, too.
                self.snapshots.build(&self.store)?;
                may = fits()?;
            }
            if !may {
                passed_over = passed_over.max(Some(slice.bytes));
                continue;
            }
            store.rewrite(&slice);
            linked = true;
        }
        if let Some(bytes) = passed_over {
            let free = self.disk.free_bytes();
            tracing::warn!(bytes, free, "too little space to rewrite tables in; give the member more disk");
        }
        Ok(())
    }

    /// So much may be taken for a while.
    fn room(&self) -> u64 {
        let free = self.disk.look();
        let for_others = free.min(self.disk.reserve_bytes()) / OTHERS_SHARE;
        free.saturating_sub(for_others.max(FLOOR_BYTES))
    }
}
