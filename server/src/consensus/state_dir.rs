//! The directory of the state's store: one subdirectory an epoch, and a pointer to the one in force. Installing a
//! snapshot begins a new epoch, so that it lands whole or not at all and old readers keep what they have.
//!
//! Invariants:
//! - The pointer is replaced atomically, after the new epoch is complete and synced.
//! - What the pointer does not name is a leftover, and is removed at open; without a pointer nothing is removed.
//!
//! Layout: `CURRENT` holds the number of the epoch as text; `epoch-<number>/` holds its store.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use quorate_state::apply::Machine;
use quorate_state::picture::Picture;
use quorate_state::store::StoreError;

use crate::consensus::hot::Hot;
use crate::consensus::types::SnapshotDir;
use crate::store_rocks::RocksStore;

const CURRENT: &str = "CURRENT";

/// What to do with a damaged member; stands in messages.
pub const WAY_BACK: &str = "do not repair it by hand: remove this member from the cluster, then start it with an empty \
    directory and --join (the only member of a cluster: restore a snapshot)";

/// What to do when a disk is full to the last byte; stands in messages.
const NEEDS_SPACE: &str = "give the member more disk, or remove what else is on it, then start it again: it goes on \
    where it was. To have it refuse growth in time, raise --disk-reserve-bytes";

/// An error's text, with what to do when it is that of a full disk, which the databases know as a text only.
pub fn with_advice(error: &str) -> String {
    let is_full = error.contains("No space left on device") && !error.contains(NEEDS_SPACE);
    if is_full { format!("{error}; {NEEDS_SPACE}") } else { error.to_owned() }
}

/// The directory.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    epoch: u64,
}

impl StateDir {
    /// Opens it, making the first epoch when it is new.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        let epoch = match fs::read(root.join(CURRENT)) {
            Ok(bytes) => decode_pointer(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(0),
            Err(error) => return Err(error),
        };
        let Some(epoch) = epoch else { return Err(damaged(&root, "CURRENT is not the number of an epoch")) };
        let mut dir = Self { root, epoch };
        if epoch == 0 {
            if dir.has_state()? {
                return Err(damaged(&dir.root, "CURRENT is missing"));
            }
            fs::create_dir_all(dir.path_of(1))?;
            dir.advance()?;
        } else if !dir.path().is_dir() {
            return Err(damaged(&dir.path(), "it is not there"));
        }
        dir.remove_leftovers()?;
        Ok(dir)
    }

    /// Where the store in force is.
    pub fn path(&self) -> PathBuf {
        self.path_of(self.epoch)
    }

    fn path_of(&self, epoch: u64) -> PathBuf {
        self.root.join(format!("epoch-{epoch:06}"))
    }

    /// Whether there is more than what a start that broke off right at the beginning leaves: an empty first epoch.
    fn has_state(&self) -> io::Result<bool> {
        for item in fs::read_dir(&self.root)? {
            let path = item?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_empty_first = path == self.path_of(1) && fs::read_dir(&path)?.next().is_none();
            if name.starts_with("epoch-") && !is_empty_first {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove_leftovers(&self) -> io::Result<()> {
        for item in fs::read_dir(&self.root)? {
            let path = item?.path();
            if path.is_dir() && path != self.path() {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// Puts a snapshot's files into the next epoch, without making it the one in force. Tables never change, so
    /// they are linked; the rest is copied, because the store goes on writing to it.
    pub fn stage(&self, snapshot: &SnapshotDir) -> io::Result<PathBuf> {
        let path = self.path_of(self.epoch + 1);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        for file in snapshot.files() {
            let (from, to) = (snapshot.path().join(&file.name), path.join(&file.name));
            let is_table = Path::new(&file.name).extension().is_some_and(|extension| extension == "sst");
            if is_table && fs::hard_link(&from, &to).is_ok() {
                continue;
            }
            fs::copy(&from, &to)?;
            File::open(&to)?.sync_all()?;
        }
        File::open(&path)?.sync_all()?;
        Ok(path)
    }

    /// Makes the next epoch the one in force.
    pub fn advance(&mut self) -> io::Result<()> {
        let next = self.epoch + 1;
        write_atomically(&self.root.join(CURRENT), encode_pointer(next).as_bytes())?;
        self.epoch = next;
        Ok(())
    }
}

fn encode_pointer(epoch: u64) -> String {
    format!("{epoch}\n")
}

/// The epoch that a pointer names, if somebody can have written it so, and there can be one after it.
fn decode_pointer(bytes: &[u8]) -> Option<u64> {
    let epoch = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.parse().ok()?;
    ((1..u64::MAX).contains(&epoch) && encode_pointer(epoch).as_bytes() == bytes).then_some(epoch)
}

/// Replaces a small file as a whole; it is durable when this returns.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_parent(path)
}

/// Makes what was created or renamed in a directory durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let text = format!("the state in {} is damaged ({what}); {WAY_BACK}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Why a store was not opened, and what to do when its files are not what they were.
pub fn open_error(path: &Path, error: &StoreError) -> io::Error {
    let text = error.to_string();
    // The database has other words for files that are missing.
    let words = ["Corruption: ", "create_if_missing is false", "No such file"];
    let is_damage = words.iter().any(|word| text.contains(word));
    if is_damage { damaged(path, &text) } else { io::Error::other(format!("{}: {text}", path.display())) }
}

/// A store, and what of it is in memory.
pub struct Opened {
    /// The store.
    pub store: Arc<RocksStore>,
    /// What is read often.
    pub hot: Hot,
}

/// The store in force, as readers get at it.
pub struct CurrentStore(RwLock<Arc<Opened>>);

impl Opened {
    /// The machine's store; the picture of it takes so many bytes at most.
    pub fn of(machine: &Machine<Arc<RocksStore>>, picture_bytes: usize) -> Self {
        Self { store: machine.store().clone(), hot: Hot::new(Picture::new(machine, picture_bytes)) }
    }
}

impl CurrentStore {
    /// Starts with this one.
    pub fn new(opened: Opened) -> Self {
        Self(RwLock::new(Arc::new(opened)))
    }

    /// The store now. Keep it only while reading.
    pub fn get(&self) -> Arc<RocksStore> {
        self.0.read().store.clone()
    }

    /// The same, with what of it is in memory.
    pub fn opened(&self) -> Arc<Opened> {
        self.0.read().clone()
    }

    /// From now on this one; the old one goes, files and all, with its last reader.
    pub fn replace(&self, opened: Opened) {
        let old = std::mem::replace(&mut *self.0.write(), Arc::new(opened));
        old.store.retire();
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staged_epoch_counts_only_once_the_pointer_names_it() {
        let temp = tempfile::tempdir().unwrap();
        let (root, from) = (temp.path().join("state"), temp.path().join("from"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("000009.sst"), "table").unwrap();
        fs::write(from.join("MANIFEST-000005"), "manifest").unwrap();
        let snapshot = SnapshotDir::open(from.clone()).unwrap();

        let dir = StateDir::open(root.clone()).unwrap();
        let first = dir.path();
        let staged = dir.stage(&snapshot).unwrap();
        assert!(staged.join("000009.sst").exists());
        drop(dir);

        let mut dir = StateDir::open(root.clone()).unwrap();
        assert_eq!(dir.path(), first);
        assert!(!staged.exists(), "a leftover is removed");
        let staged = dir.stage(&snapshot).unwrap();
        dir.advance().unwrap();
        fs::write(staged.join("MANIFEST-000005"), "changed").unwrap();
        assert_eq!(fs::read_to_string(from.join("MANIFEST-000005")).unwrap(), "manifest", "copied, not linked");

        let dir = StateDir::open(root.clone()).unwrap();
        assert_eq!(dir.path(), staged);
        assert!(!first.exists());
        fs::remove_file(root.join(CURRENT)).unwrap();
        assert!(StateDir::open(root.clone()).unwrap_err().to_string().contains("CURRENT is missing"));
        assert!(staged.exists(), "nothing is removed");
        fs::write(root.join(CURRENT), "3\n").unwrap();
        fs::remove_dir_all(&staged).unwrap();
        assert!(StateDir::open(root).unwrap_err().to_string().contains("damaged"));
    }

    /// Without its pointer, a directory full of state used to pass for a new one: the member began again with nothing,
    /// and what it had was removed as a leftover.
    #[test]
    fn state_without_a_pointer_is_damage_and_stays() {
        let temp = tempfile::tempdir().unwrap();
        for epoch in ["epoch-000001", "epoch-000007"] {
            let root = temp.path().join(epoch);
            let mut dir = StateDir::open(root.clone()).unwrap();
            dir.epoch = epoch[6..].parse::<u64>().unwrap() - 1;
            fs::create_dir_all(root.join(epoch)).unwrap();
            dir.advance().unwrap();
            fs::write(root.join(epoch).join("000009.sst"), "table").unwrap();
            assert_eq!(StateDir::open(root.clone()).unwrap().path(), root.join(epoch));

            for lost in [None, Some(&b"0"[..]), Some(b""), Some(b"\xff\n"), Some(b"+7\n")] {
                match lost {
                    None => fs::remove_file(root.join(CURRENT)).unwrap(),
                    Some(bytes) => fs::write(root.join(CURRENT), bytes).unwrap(),
                }
                let error = StateDir::open(root.clone()).unwrap_err().to_string();
                assert!(error.contains("damaged") && error.contains("--join"), "{error}");
                assert_eq!(fs::read_to_string(root.join(epoch).join("000009.sst")).unwrap(), "table");
            }
        }
        // A first start that broke off before the pointer was written begins again.
        let root = temp.path().join("begun");
        fs::create_dir_all(root.join("epoch-000001")).unwrap();
        assert_eq!(StateDir::open(root.clone()).unwrap().path(), root.join("epoch-000001"));
    }
}
