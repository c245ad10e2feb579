//! When a database may merge its tables. A merge takes as much disk as the tables that it is made of before it gives any
//! back: on a disk that is nearly full it would take what is left, and no write succeeds after that.
//!
//! Invariants:
//! - A database merges nothing by itself until it is told how much that may take.
//! - While it may not, tables pile up and reads get slower; writes go on, and are never held back for it.

use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::{DB, Error, LiveFile, Options};

/// Most bytes that a merge of lower levels takes, about; one of the first level takes all of that and of the next.
const MERGE_BYTES_MAX: u64 = 512 << 20;
/// So much more room is asked for by one that may not than by one that may, so that it does not go to and fro.
const SLACK_BYTES: u64 = 64 << 20;
/// So many tables of the first level as never are: writes are not held back for them.
const NEVER: i32 = 1 << 20;

/// Whether a database merges its tables by itself.
#[derive(Default)]
pub struct Merges(AtomicBool);

impl Merges {
    /// Options of a database that merges nothing until it is told.
    pub fn set_up(options: &mut Options) -> Self {
        options.set_disable_auto_compactions(true);
        options.set_max_compaction_bytes(MERGE_BYTES_MAX);
        // Who writes is the log or the apply thread, behind which everybody waits.
        options.set_level_zero_slowdown_writes_trigger(NEVER);
        options.set_level_zero_stop_writes_trigger(NEVER);
        Self::default()
    }

    /// From now on it merges by itself if that takes no more than `room` bytes for a while. How many it may take now.
    pub fn keep_within(&self, db: &DB, room: u64) -> Result<u64, Error> {
        let before = self.0.load(Ordering::Relaxed);
        let room = if before { room } else { room.saturating_sub(SLACK_BYTES) };
        let needed = needed_bytes(db, room)?;
        let may = needed <= room;
        if may != before {
            db.set_options(&[("disable_auto_compactions", if may { "false" } else { "true" })])?;
            self.0.store(may, Ordering::Relaxed);
        }
        Ok(if may { needed } else { 0 })
    }
}

/// At least what a merge may take.
fn needed_bytes(db: &DB, room: u64) -> Result<u64, Error> {
    let all = db.property_int_value("rocksdb.live-sst-files-size")?.unwrap_or(u64::MAX);
    // None takes more than all there is; looking closer is for when that might be too much.
    if all <= room { Ok(all) } else { Ok(dearest_merge(&db.live_files()?)) }
}

/// Bytes that the largest of the merges may write that these tables could come to.
fn dearest_merge(files: &[LiveFile]) -> u64 {
    let bytes_of =
        |level: i32| files.iter().filter(|file| file.level == level).map(|file| file.size as u64).sum::<u64>();
    let lower = || files.iter().map(|file| file.level).filter(|level| *level > 0);
    let (Some(next), Some(lowest)) = (lower().min(), lower().max()) else { return bytes_of(0) };
    let from_first = bytes_of(0) + bytes_of(next);
    let further_down = if next < lowest { MERGE_BYTES_MAX } else { 0 };
    from_first.max(further_down)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(level: i32, size: usize) -> LiveFile {
        LiveFile {
            column_family_name: String::new(),
            name: String::new(),
            size,
            level,
            start_key: None,
            end_key: None,
            num_entries: 0,
            num_deletions: 0,
        }
    }

    #[test]
    fn a_merge_takes_the_first_level_with_all_of_the_next() {
        assert_eq!(dearest_merge(&[]), 0);
        assert_eq!(dearest_merge(&[file(0, 3), file(0, 4)]), 7);
        assert_eq!(dearest_merge(&[file(0, 3), file(0, 4), file(6, 100)]), 107);
        let deep = [file(0, 3), file(5, 4), file(6, 100)];
        assert_eq!(dearest_merge(&deep), MERGE_BYTES_MAX);
        let large = [file(0, 3 << 30), file(5, 4), file(6, 100)];
        assert_eq!(dearest_merge(&large), (3 << 30) + 4);
    }

    fn tables(db: &DB) -> usize {
        db.live_files().unwrap().len()
    }

    #[test]
    fn tables_pile_up_without_room_and_are_merged_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_level_zero_file_num_compaction_trigger(4);
        let merges = Merges::set_up(&mut options);
        let db = DB::open(&options, dir.path()).unwrap();
        let table = |n: u64| {
            db.put(b"first", n.to_be_bytes()).unwrap();
            db.put(b"last", vec![7; 4096]).unwrap();
            db.flush().unwrap();
        };
        (0..50).for_each(table);
        assert_eq!(tables(&db), 50, "none is merged, and no write was held back");

        assert_eq!(merges.keep_within(&db, SLACK_BYTES).unwrap(), 0);
        assert_eq!(tables(&db), 50, "there is no room for any of it");
        let takes = merges.keep_within(&db, SLACK_BYTES + (1 << 20)).unwrap();
        assert!(takes > 0 && takes < 1 << 20, "{takes}");
        let done = (0..1_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            tables(&db) == 1
        });
        assert!(done, "{} tables", tables(&db));

        assert_eq!(merges.keep_within(&db, 0).unwrap(), 0);
        (0..20).for_each(table);
        assert_eq!(tables(&db), 21);
    }
}
