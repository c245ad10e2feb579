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
use crate::merges::Merges;

/// Bytes of a table in memory, and about those of a write-ahead file.
const TABLE_BYTES: usize = 8 << 20;
/// About how large a table is that is made of others.
const MERGED_TABLE_BYTES: u64 = 16 << 20;
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
    /// From now on merges tables by itself if that takes no more than `room` bytes for a while. How many it may take now.
    fn merge_within(&self, _room: u64) -> io::Result<u64> {
        Ok(0)
    }
    /// Gives back the disk that purged entries still take. Takes a while; reads and writes go on.
    fn reclaim(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The log in `RocksDB`: WAL on, one sync a write.
pub struct RocksLogDisk {
    db: DB,
    merges: Merges,
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
        let merges = Merges::set_up(&mut options);
        // A merge takes the last table of the level below with it, because notes come after entries: it is kept small.
        options.set_level_zero_file_num_compaction_trigger(8);
        options.set_target_file_size_base(MERGED_TABLE_BYTES);
        options.set_max_background_jobs(2);
        options.set_max_total_wal_size(24 << 20);
        // Written over, a file neither grows nor gets blocks, so that a sync has no metadata to wait for.
        options.set_recycle_log_file_num(WRITE_AHEAD_FILES_KEPT);
        options.set_keep_log_file_num(4);
        options.set_manifest_preallocation_size(64 << 10);
        options.set_max_open_files(256);
        let db = DB::open(&options, path).map_err(|error| open_error(path, &error))?;
        Self::check_synced(&db, noted)?;
        let disk = Self { db, merges, failed: AtomicBool::new(false), synced: SyncedNote::open(path)? };
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
        // Files of what is purged go at once, and durably: the note that they are gone must not be lost then.
        let sync = sync || ops.iter().any(|op| matches!(op, LogOp::PurgeThrough(_)));
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

    fn merge_within(&self, room: u64) -> io::Result<u64> {
        self.merges.keep_within(&self.db, room).map_err(io::Error::other)
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
mod tests;
