//! The log's disk alone: what is there after reopening, after a kill, and after damage.

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

/// Tables whose entries are all purged are removed at once, and that is on disk at once. When power failed before the purge
/// itself was, the log had no beginning any more, and the member did not start.
#[test]
fn a_purge_is_on_disk_before_files_go() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RocksLogDisk::open(dir.path()).unwrap();
    disk.write(&[append(1, 0), append(1, 1)], true).unwrap();
    disk.write(&[append(1, 2)], false).unwrap();
    let noted = || SyncedNote::read(dir.path()).unwrap().unwrap();
    assert!(noted() < disk.db.latest_sequence_number(), "the entry was not to be synced");
    disk.write(&[LogOp::PurgeThrough(log_id(1, 1))], false).unwrap();
    assert_eq!(noted(), disk.db.latest_sequence_number());
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
