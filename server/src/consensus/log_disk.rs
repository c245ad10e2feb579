//! The log's disk: entries by index, the vote and three notes, in a database of their own; behind a trait, so that
//! tests can put a disk there that fails or forgets.
//!
//! Invariants:
//! - One `write` is atomic; with `sync` it is on disk when it returns. After a failed one nothing more is taken.
//! - No holes: the first entry follows what was purged, each entry the one before it.
//! - What was synced and is no longer there is damage: see `log_synced`.
//!
//! Keys: `e` and the index (big-endian, so that order is log order): an entry as `codec` has it. `m` and a name:
//! `format`, `vote`, `committed`, `purged`.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rocksdb::{DB, DBCompressionType, ErrorKind, Options, ReadOptions, WriteBatch, WriteOptions};

use crate::consensus::codec;
use crate::consensus::log_synced::SyncedNote;
use crate::consensus::state_dir::WAY_BACK;
use crate::consensus::types::{Entry, LogId, Vote};

/// Bytes of a table in memory, and about those of a write-ahead file.
const TABLE_BYTES: usize = 8 << 20;
/// So many write-ahead files that are done with are kept to be written over: tables may fill faster than they are written.
const WRITE_AHEAD_FILES_KEPT: usize = 3;
const FORMAT: &[u8] = b"mformat";
const VOTE: &[u8] = b"mvote";
const COMMITTED: &[u8] = b"mcommitted";
const PURGED: &[u8] = b"mpurged";

/// Version of this layout.
const LAYOUT: u8 = 1;

/// One change of what is stored. Changes of a write take effect in order.
#[derive(Debug, Clone)]
pub enum LogOp {
    /// Add an entry.
    Append {
        /// Its index.
        index: u64,
        /// As `codec::encode_entry` has it.
        entry: Bytes,
    },
    /// Remove this entry and all after it.
    TruncateFrom(u64),
    /// Remove all entries up to this one, inclusive.
    PurgeThrough(LogId),
    /// Store the vote.
    Vote(Vote),
    /// Note what is known to be committed.
    Committed(LogId),
}

/// What was found at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogLoad {
    /// The vote, if ever one was given.
    pub vote: Option<Vote>,
    /// What was known to be committed.
    pub committed: Option<LogId>,
    /// Everything up to here is gone.
    pub purged: Option<LogId>,
    /// The last entry, if any is there.
    pub last: Option<LogId>,
}

/// Where the log is kept. Written by one thread, read by many.
pub trait LogDisk: Send + Sync + 'static {
    /// Reads the notes and checks that the log is whole.
    fn load(&self) -> io::Result<LogLoad>;
    /// Applies all changes at once.
    fn write(&self, ops: &[LogOp], sync: bool) -> io::Result<()>;
    /// Entries of `[start, end)` in order, without holes, until `bytes_max` is passed; at least the first.
    fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>>;
    /// About how much disk it takes.
    fn bytes(&self) -> u64;
    /// Bytes that are in memory and will take disk once more when they are written to tables.
    fn unflushed_bytes(&self) -> u64 {
        0
    }
    /// Gives back the disk that purged entries still take. Takes a while; reads and writes go on.
    fn reclaim(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The log in `RocksDB`: WAL on, one sync a write.
pub struct RocksLogDisk {
    db: DB,
    failed: AtomicBool,
    synced: SyncedNote,
}

impl RocksLogDisk {
    /// Opens or creates the log in `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let noted = SyncedNote::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => damaged(&error.to_string()),
            _ => error,
        })?;
        let mut options = Options::default();
        options.create_if_missing(true);
        // Entries are written once, read back from the in-memory tail, and purged in order: little memory,
        // no compression, few files.
        // What is in the write buffers is read again from the write-ahead files at the next start.
        options.set_write_buffer_size(TABLE_BYTES);
        options.set_max_write_buffer_number(3);
        options.set_compression_type(DBCompressionType::None);
        options.set_max_background_jobs(2);
        options.set_max_total_wal_size(24 << 20);
        // Written over, a file neither grows nor gets blocks, so that a sync has no metadata to wait for.
        options.set_recycle_log_file_num(WRITE_AHEAD_FILES_KEPT);
        options.set_keep_log_file_num(4);
        options.set_manifest_preallocation_size(64 << 10);
        options.set_max_open_files(256);
        let db = DB::open(&options, path).map_err(|error| open_error(path, &error))?;
        Self::check_synced(&db, noted)?;
        let disk = Self { db, failed: AtomicBool::new(false), synced: SyncedNote::open(path)? };
        disk.check_layout()?;
        Ok(disk)
    }

    fn check_synced(db: &DB, noted: Option<u64>) -> io::Result<()> {
        let found = db.latest_sequence_number();
        match noted {
            Some(noted) if noted > found => {
                let lost = noted - found;
                Err(damaged(&format!("its end is gone: {lost} of {noted} writes that were safely on disk")))
            }
            None if found > 0 => Err(damaged("its note of what was synced is gone")),
            Some(_) | None => Ok(()),
        }
    }

    fn check_layout(&self) -> io::Result<()> {
        match self.get(FORMAT)?.as_deref() {
            Some([LAYOUT]) => Ok(()),
            Some([newer]) if *newer > LAYOUT => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the log has layout {newer}, this program knows {LAYOUT}; start it with a newer program"),
            )),
            Some(_) => Err(damaged("its format note")),
            None => {
                let mut options = WriteOptions::default();
                options.set_sync(true);
                self.db.put_opt(FORMAT, [LAYOUT], &options).map_err(io::Error::other)
            }
        }
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.db.get(key).map_err(io::Error::other)?.map(Bytes::from))
    }

    fn last(&self) -> io::Result<Option<LogId>> {
        let mut cursor = self.db.raw_iterator();
        cursor.seek_for_prev(entry_key(u64::MAX));
        let found = match cursor.item() {
            Some((key, value)) if key.first() == Some(&b'e') => {
                Some(codec::decode_entry(Bytes::copy_from_slice(value))?.log_id)
            }
            _ => None,
        };
        cursor.status().map_err(io::Error::other)?;
        Ok(found)
    }

    fn batch(ops: &[LogOp]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for op in ops {
            match op {
                LogOp::Append { index, entry } => batch.put(entry_key(*index), entry),
                LogOp::TruncateFrom(index) => batch.delete_range(entry_key(*index), entry_key(u64::MAX)),
                LogOp::PurgeThrough(id) => {
                    batch.delete_range(entry_key(0), entry_key(id.index + 1));
                    batch.put(PURGED, codec::encode_log_id(id));
                }
                LogOp::Vote(vote) => batch.put(VOTE, codec::encode_vote(vote)),
                LogOp::Committed(id) => batch.put(COMMITTED, codec::encode_log_id(id)),
            }
        }
        batch
    }
}

impl LogDisk for RocksLogDisk {
    fn load(&self) -> io::Result<LogLoad> {
        let load = LogLoad {
            vote: self.get(VOTE)?.map(codec::decode_vote).transpose()?,
            committed: self.get(COMMITTED)?.map(codec::decode_log_id).transpose()?,
            purged: self.get(PURGED)?.map(codec::decode_log_id).transpose()?,
            last: self.last()?,
        };
        if let Some(last) = load.last {
            let first = load.purged.map_or(0, |id| id.index + 1);
            let entries = self.read(first, last.index + 1, 1)?;
            if entries.first().map(|entry| entry.log_id.index) != Some(first) {
                return Err(damaged("its beginning"));
            }
        }
        Ok(load)
    }

    fn write(&self, ops: &[LogOp], sync: bool) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("the log failed before and takes nothing until this member is restarted"));
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let done = self.db.write_opt(Self::batch(ops), &options).map_err(io::Error::other);
        let done = match done {
            Ok(()) if sync => self.synced.set(self.db.latest_sequence_number()),
            done => done,
        };
        if done.is_err() {
            // What a failed sync left in the page cache is unknown: never try again on it.
            self.failed.store(true, Ordering::Release);
            return done;
        }
        for op in ops {
            if let LogOp::PurgeThrough(id) = op {
                // Whole files go at once; the rest goes with compaction. Failing costs only space.
                let _ = self.db.delete_file_in_range(entry_key(0), entry_key(id.index));
            }
        }
        Ok(())
    }

    fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(entry_key(end));
        options.fill_cache(false);
        let mut cursor = self.db.raw_iterator_opt(options);
        cursor.seek(entry_key(start));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut expected = start;
        while let Some((key, value)) = cursor.item() {
            if key != entry_key(expected) {
                return Err(damaged("a hole"));
            }
            bytes += value.len() as u64;
            entries.push(codec::decode_entry(Bytes::copy_from_slice(value))?);
            expected += 1;
            if bytes >= bytes_max {
                break;
            }
            cursor.next();
        }
        cursor.status().map_err(io::Error::other)?;
        Ok(entries)
    }

    fn bytes(&self) -> u64 {
        let property = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        property("rocksdb.live-sst-files-size") + property("rocksdb.cur-size-all-mem-tables")
    }

    fn unflushed_bytes(&self) -> u64 {
        self.db.property_int_value("rocksdb.cur-size-all-mem-tables").ok().flatten().unwrap_or(0)
    }

    fn reclaim(&self) -> io::Result<()> {
        // Flushed first: purges are in memory, too, and the write-ahead files go with what is in memory.
        self.db.flush().map_err(io::Error::other)?;
        self.db.compact_range(Some(entry_key(0)), Some(entry_key(u64::MAX)));
        Ok(())
    }
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [b'e'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log is damaged ({what}); {WAY_BACK}"))
}

/// Why the log was not opened, and what to do when its files are not what they were.
fn open_error(path: &Path, error: &rocksdb::Error) -> io::Error {
    if error.kind() == ErrorKind::Corruption {
        return damaged(error.as_ref());
    }
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::types::{EncodedBatch, EntryPayload, log_id};

    fn append(term: u64, index: u64) -> LogOp {
        let entry = Entry { log_id: log_id(term, index), payload: EntryPayload::Blank };
        LogOp::Append { index, entry: codec::encode_entry(&entry) }
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let vote = Vote::new(3, 7);
        {
            let disk = RocksLogDisk::open(dir.path()).unwrap();
            assert_eq!(disk.load().unwrap(), LogLoad::default());
            disk.write(&[append(1, 0), append(1, 1), append(2, 2), append(2, 3)], true).unwrap();
            disk.write(&[LogOp::TruncateFrom(2), append(3, 2), LogOp::Vote(vote)], true).unwrap();
            disk.write(&[LogOp::PurgeThrough(log_id(1, 0)), LogOp::Committed(log_id(1, 1))], true).unwrap();
        }
        let disk = RocksLogDisk::open(dir.path()).unwrap();
        let expected = LogLoad {
            vote: Some(vote),
            committed: Some(log_id(1, 1)),
            purged: Some(log_id(1, 0)),
            last: Some(log_id(3, 2)),
        };
        assert_eq!(disk.load().unwrap(), expected);
        let ids: Vec<_> = disk.read(1, 9, u64::MAX).unwrap().iter().map(|entry| entry.log_id).collect();
        assert_eq!(ids, [log_id(1, 1), log_id(3, 2)]);
        assert_eq!(disk.read(1, 9, 1).unwrap().len(), 1, "at least one, however small the bound");
        assert!(disk.read(0, 9, 1).is_err(), "what was purged is not passed over in silence");
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for item in std::fs::read_dir(from).unwrap() {
            let item = item.unwrap().path();
            std::fs::copy(&item, to.join(item.file_name().unwrap())).unwrap();
        }
    }

    /// An entry that says its index, with so many bytes.
    fn sized(index: u64, bytes: usize) -> LogOp {
        let batch = index.to_be_bytes().into_iter().cycle().take(bytes).collect::<Vec<_>>();
        let entry = Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(EncodedBatch(batch.into())) };
        LogOp::Append { index, entry: codec::encode_entry(&entry) }
    }

    fn is_write_ahead(file: &Path) -> bool {
        file.extension().is_some_and(|is| is == "log")
    }

    /// The write-ahead file that is written to.
    fn newest(dir: &Path) -> std::path::PathBuf {
        let files = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
        files.filter(|file| is_write_ahead(file)).max().unwrap()
    }

    fn is_as_long_as_a_full_one(file: &Path) -> bool {
        file.metadata().is_ok_and(|metadata| metadata.len() >= TABLE_BYTES as u64)
    }

    /// Spoils the last of an entry's bytes, wherever it stands.
    fn spoil(file: &Path, index: u64) {
        let mut bytes = std::fs::read(file).unwrap();
        let said = [index.to_be_bytes(); 4].concat();
        let at = bytes.windows(said.len()).rposition(|window| window == said).unwrap();
        bytes[at] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }

    /// What such a file still has of before, behind its end, is never taken for the log; and its end is one as any other's.
    #[test]
    fn a_file_that_is_written_over_gives_nothing_back_of_what_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let (path, killed, torn) = (dir.path().join("log"), dir.path().join("killed"), dir.path().join("torn"));
        let disk = RocksLogDisk::open(&path).unwrap();
        let (mut entries, mut before) = (0, newest(&path));
        // Until a file that was just begun has its old end, then a little more.
        loop {
            disk.write(&[sized(entries, 1 << 19)], true).unwrap();
            entries += 1;
            let now = newest(&path);
            if now != before && is_as_long_as_a_full_one(&now) {
                break;
            }
            assert!(entries < 1_000, "no file is written over");
            before = now;
        }
        let last = entries + 20;
        for index in entries..=last {
            disk.write(&[sized(index, 100)], true).unwrap();
        }
        // No file comes or goes any more while they are copied.
        disk.db.cancel_all_background_work(true);
        copy(&path, &killed);
        disk.write(&[sized(last + 1, 100)], true).unwrap();
        copy(&path, &torn);
        std::fs::copy(killed.join("SYNCED"), torn.join("SYNCED")).unwrap();
        drop(disk);

        spoil(&newest(&torn), last + 1);
        for dir in [&killed, &torn] {
            assert!(is_as_long_as_a_full_one(&newest(dir)), "its old end was copied as well");
            let found = RocksLogDisk::open(dir).unwrap();
            assert_eq!(found.load().unwrap().last, Some(log_id(1, last)));
            let all = found.read(0, u64::MAX, u64::MAX).unwrap();
            assert!(all.iter().map(|entry| entry.log_id.index).eq(0..=last));
        }
        copy(&path, &dir.path().join("spoilt"));
        let spoilt = dir.path().join("spoilt");
        spoil(&newest(&spoilt), last);
        let error = RocksLogDisk::open(&spoilt).map(drop).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    /// As when a disk that lied, or somebody, took back what was synced: the database itself opens without a word.
    #[test]
    fn what_was_synced_and_is_gone_is_damage_and_what_was_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let older = dir.path().join("older");
        let path = dir.path().join("log");
        RocksLogDisk::open(&path).unwrap().write(&[append(1, 0)], true).unwrap();
        copy(&path, &older);
        RocksLogDisk::open(&path).unwrap().write(&[append(1, 1)], false).unwrap();
        // An older note with a newer log, and an older log with a note that counts synced writes only.
        let note = std::fs::read(path.join("SYNCED")).unwrap();
        assert_eq!(note, std::fs::read(older.join("SYNCED")).unwrap());
        RocksLogDisk::open(&path).unwrap();
        RocksLogDisk::open(&older).unwrap();

        RocksLogDisk::open(&path).unwrap().write(&[LogOp::Vote(Vote::new(3, 7))], true).unwrap();
        std::fs::copy(path.join("SYNCED"), older.join("SYNCED")).unwrap();
        for _ in 0..2 {
            let error = RocksLogDisk::open(&older).map(drop).unwrap_err().to_string();
            assert!(error.contains("its end is gone") && error.contains("--join"), "{error}");
        }
        std::fs::remove_file(path.join("SYNCED")).unwrap();
        let error = RocksLogDisk::open(&path).map(drop).unwrap_err().to_string();
        assert!(error.contains("what was synced is gone"), "{error}");
    }

    #[test]
    fn purged_entries_give_their_disk_back_when_asked_to() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RocksLogDisk::open(dir.path()).unwrap();
        let large = |index| LogOp::Append { index, entry: Bytes::from(vec![7; 1 << 20]) };
        for index in 0..40 {
            disk.write(&[large(index)], true).unwrap();
        }
        disk.write(&[LogOp::PurgeThrough(log_id(1, 37))], false).unwrap();
        disk.reclaim().unwrap();
        let files = std::fs::read_dir(dir.path()).unwrap().map(|item| item.unwrap());
        let (logs, others): (Vec<_>, Vec<_>) = files.partition(|file| is_write_ahead(&file.path()));
        let bytes: u64 = others.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert!(bytes < 5 << 20, "{bytes} bytes for two entries of a mebibyte");
        assert!(logs.len() <= WRITE_AHEAD_FILES_KEPT + 1, "{logs:?}");
        assert!(disk.unflushed_bytes() < 1 << 20);
    }

    #[test]
    fn a_hole_at_the_beginning_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RocksLogDisk::open(dir.path()).unwrap();
        disk.write(&[append(1, 4)], true).unwrap();
        assert!(disk.load().unwrap_err().to_string().contains("damaged"));
    }
}
