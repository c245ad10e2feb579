//! When a database may merge its tables. A merge takes as much disk as the tables that it is made of before it gives any
//! back: on a disk that is nearly full it would take what is left, and no write succeeds after that.
//!
//! Invariants:
//! - A database merges nothing by itself until it is told how much that may take.
//! - While it may not, tables pile up and reads get slower; writes go on, and are never held back for it.

use parking_lot::Mutex;
use rocksdb::{DB, Error, LiveFile, Options};

/// Most bytes that `RocksDB` chooses for a merge of lower levels as it likes; one table with all below it may be more.
const MERGE_BYTES_MAX: u64 = 512 << 20;
/// So much more room is asked for by one that may not than by one that may, so that it does not go to and fro.
const SLACK_BYTES: u64 = 64 << 20;
/// So many tables of the first level as never are.
const NEVER: i32 = 1 << 20;
/// No bound.
const NONE: usize = 0;

/// Whether a database merges its tables by itself; `None`: unknown, because changing it failed.
pub struct Merges(Mutex<Option<bool>>);

impl Merges {
    /// Options of a database that merges nothing until it is told.
    pub fn set_up(options: &mut Options) -> Self {
        options.set_disable_auto_compactions(true);
        // It takes up to twice this.
        options.set_max_compaction_bytes(MERGE_BYTES_MAX / 2);
        // No write is held back for tables that are not merged: who writes is the log or the apply thread, behind which
        // everybody waits.
        options.set_level_zero_slowdown_writes_trigger(NEVER);
        options.set_level_zero_stop_writes_trigger(NEVER);
        options.set_soft_pending_compaction_bytes_limit(NONE);
        options.set_hard_pending_compaction_bytes_limit(NONE);
        Self(Mutex::new(Some(false)))
    }

    /// From now on it merges by itself if that takes no more than `room` bytes for a while. How many it may take now.
    pub fn keep_within(&self, db: &DB, room: u64) -> Result<u64, Error> {
        let mut state = self.0.lock();
        let room = if *state == Some(true) { room } else { room.saturating_sub(SLACK_BYTES) };
        let needed = needed_bytes(db, room)?;
        let may = needed <= room;
        if *state != Some(may) {
            // An error does not say that nothing was changed.
            *state = None;
            db.set_options(&[("disable_auto_compactions", if may { "false" } else { "true" })])?;
            *state = Some(may);
        }
        Ok(if may { needed } else { 0 })
    }
}

/// At least what a merge may take.
fn needed_bytes(db: &DB, room: u64) -> Result<u64, Error> {
    let number = |name| db.property_int_value(name);
    let all = number("rocksdb.live-sst-files-size")?.unwrap_or(u64::MAX);
    // None takes more than all there is; looking closer is for when that might be too much.
    if all <= room {
        return Ok(all);
    }
    let next = number("rocksdb.base-level")?.and_then(|level| i32::try_from(level).ok()).unwrap_or(1);
    Ok(dearest_merge(&db.live_files()?, next))
}

/// Bytes that the largest of the merges may write that these tables could come to. Those of the first level go into `next`.
fn dearest_merge(files: &[LiveFile], next: i32) -> u64 {
    let bytes = |wanted: &dyn Fn(&LiveFile) -> bool| {
        files.iter().filter(|file| wanted(file)).map(|file| file.size as u64).sum::<u64>()
    };
    let first = bytes(&|file| file.level == 0 || file.level == next);
    let lower = files.iter().filter(|file| file.level > 0).map(|file| {
        let below = bytes(&|other| other.level == file.level + 1 && overlap(file, other));
        if below == 0 { 0 } else { (file.size as u64 + below).max(MERGE_BYTES_MAX) }
    });
    lower.fold(first, u64::max)
}

fn overlap(a: &LiveFile, b: &LiveFile) -> bool {
    a.start_key <= b.end_key && b.start_key <= a.end_key
}

#[cfg(test)]
mod tests {
    use rocksdb::WaitForCompactOptions;

    use super::*;

    fn file(level: i32, keys: (u8, u8), mib: usize) -> LiveFile {
        LiveFile {
            column_family_name: String::new(),
            name: String::new(),
            size: mib << 20,
            level,
            start_key: Some(vec![keys.0]),
            end_key: Some(vec![keys.1]),
            num_entries: 0,
            num_deletions: 0,
        }
    }

    #[test]
    fn a_merge_takes_the_first_level_with_all_of_the_next_or_a_table_with_all_below_it() {
        let mib = |files: &[LiveFile], next| dearest_merge(files, next) >> 20;
        let flushed = [file(0, (0, 99), 3), file(0, (0, 99), 4)];
        assert_eq!(mib(&[], 6), 0);
        assert_eq!(mib(&flushed, 6), 7);
        let lowest = [file(6, (0, 40), 1_000), file(6, (50, 60), 300)];
        let shallow: Vec<_> = flushed.iter().chain(&lowest).cloned().collect();
        assert_eq!(mib(&shallow, 6), 1_307);
        assert_eq!(mib(&shallow, 5), 7, "the next one is empty");
        let with = |middle: LiveFile| mib(&[shallow.clone(), vec![middle]].concat(), 5);
        assert_eq!(with(file(5, (45, 49), 20)), 27, "none below it");
        assert_eq!(with(file(5, (45, 50), 20)), 512, "others may come with it");
        assert_eq!(with(file(5, (39, 50), 20)), 1_320);
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
        db.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
        assert_eq!(tables(&db), 1);

        assert_eq!(merges.keep_within(&db, 0).unwrap(), 0);
        (0..20).for_each(table);
        assert_eq!(tables(&db), 21);
    }
}
