//! How much of the log was synced, noted in a file beside the log's database: what the database has lost of it at the
//! next open is damage, however well it can be read.
//!
//! The database drops an unfinished end of its write-ahead file in silence, which is right when that was never synced
//! and nobody was told. If it was synced (a disk that lies, a file that was cut, an older copy put back), then votes
//! and entries are gone on which others build: a member that went on could undo what was acknowledged.
//!
//! The number is the database's own count of writes (its sequence number), so that votes, entries and truncations count
//! alike. The note is overwritten in place after each sync and is not synced itself: after a power cut it may be older
//! than the log, never newer, so a sound log is never refused; after the end of the process it is exact.
//!
//! Invariants:
//! - The note never says more than was synced before it was written.
//! - It exists before the first write of the log, so one that is missing later was removed.
//!
//! Layout: 16 bytes, big-endian: the number, then xxh3-64 of its 8 bytes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::consensus::state_dir::write_atomically;

const FILE: &str = "SYNCED";

/// The note, open.
pub struct SyncedNote(File);

impl SyncedNote {
    /// What is noted in the log's directory; `None` when there is no note.
    pub fn read(log: &Path) -> io::Result<Option<u64>> {
        let bytes = match fs::read(log.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its note of what was synced");
        decode(&bytes).map(Some).ok_or_else(damaged)
    }

    /// Makes it anew when there is none, durable; opens it.
    pub fn open(log: &Path) -> io::Result<Self> {
        let path = log.join(FILE);
        if !path.exists() {
            write_atomically(&path, &encode(0))?;
        }
        Ok(Self(File::options().write(true).open(path)?))
    }

    /// So much is synced.
    pub fn set(&self, number: u64) -> io::Result<()> {
        self.0.write_all_at(&encode(number), 0)
    }
}

fn encode(number: u64) -> [u8; 16] {
    let number = number.to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&xxh3_64(&number).to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let number = bytes.first_chunk::<8>().map(|number| u64::from_be_bytes(*number));
    number.filter(|number| bytes == encode(*number))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_any_other_byte_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(SyncedNote::read(dir.path()).unwrap(), None);
        let note = SyncedNote::open(dir.path()).unwrap();
        assert_eq!(SyncedNote::read(dir.path()).unwrap(), Some(0));
        note.set(0x0102).unwrap();
        drop(SyncedNote::open(dir.path()).unwrap());
        assert_eq!(SyncedNote::read(dir.path()).unwrap(), Some(0x0102));
        let good = fs::read(dir.path().join(FILE)).unwrap();
        // Golden: docs/formats.md has this layout.
        assert_eq!(good[..8], [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(good[8..], xxh3_64(&good[..8]).to_be_bytes());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(dir.path().join(FILE), &bad).unwrap();
            assert!(SyncedNote::read(dir.path()).is_err());
            fs::write(dir.path().join(FILE), &good[..at]).unwrap();
            assert!(SyncedNote::read(dir.path()).is_err());
        }
    }
}
