//! The directory in which a member keeps everything: who may use it, what is in it, and whose it is.
//!
//! ```text
//! LOCK        held exclusively while a process uses the directory
//! FORMAT      version of this layout
//! identity    member id, cluster id, name
//! log/        Raft log and vote
//! state/      the state machine
//! snapshots/  snapshots made, received, and being received
//! ```
//!
//! Invariants:
//! - One process at a time; nothing in the directory is read or written before the lock is held.
//! - A member id is minted once, fsynced before it is told to anybody, and never changes; a cluster id, once set,
//!   never changes. An empty directory therefore always comes back under a new id.
//! - `identity` and `FORMAT` are replaced as a whole: written beside, fsynced, renamed, the directory fsynced.
//! - What is not understood is refused and left untouched.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use quorate_proto::{ClusterId, MemberId};
use xxhash_rust::xxh3::xxh3_64;

use crate::chance;
use crate::consensus::state_dir::sync_parent;

/// Version of the layout that this program writes.
pub const FORMAT: u32 = 1;

const LOCK: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
const IDENTITY: &str = "identity";
const FORMAT_LINE: &str = "quorate data directory, format ";
const IDENTITY_LINE: &str = "quorate identity 1";
const DIRECTORIES: [&str; 3] = ["log", "state", "snapshots"];

/// Whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member: MemberId,
    /// Its cluster, once it belongs to one.
    pub cluster: Option<ClusterId>,
    /// Name that the operator gave.
    pub name: String,
    /// It was told that it no longer belongs to its cluster.
    pub removed: bool,
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Mutex<Identity>,
    /// Released by the kernel when the file is closed, also when the process is killed.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Locked.
    #[error("{} is in use by another process; stop it, or give this member a directory of its own", path.display())]
    InUse {
        /// Which directory.
        path: PathBuf,
    },
    /// Somebody else's files.
    #[error(
        "{} is not empty and is no data directory of a member (it has {found:?}); choose an empty or new directory",
        path.display()
    )]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// Written by a newer program.
    #[error("{} has format {found}, this program knows {FORMAT}; start it with a newer program", path.display())]
    Newer {
        /// Which directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file does not say what it must, or is gone.
    #[error(
        "{}: {what}; do not repair it by hand: remove this member from the cluster, then start it with an empty \
         directory and --join (the only member of a cluster: restore a snapshot)",
        path.display()
    )]
    Damaged {
        /// Which file or directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another member's.
    #[error(
        "{} belongs to member {found:?} ({id}), not to {asked:?}; check --data-dir and --name",
        path.display()
    )]
    OtherMember {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Id of whose it is.
        id: MemberId,
        /// Who asked.
        asked: String,
    },
    /// Of another cluster.
    #[error(
        "{} belongs to cluster {found}, not to {asked}; check --data-dir and the addresses of the other members, or \
         choose an empty directory",
        path.display()
    )]
    OtherCluster {
        /// Which directory.
        path: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The cluster that was met.
        asked: ClusterId,
    },
    /// The member was removed.
    #[error(
        "{}: member {id} was removed from its cluster; to bring it back, empty the directory and start it with --join",
        path.display()
    )]
    Removed {
        /// Which directory.
        path: PathBuf,
        /// Which member.
        id: MemberId,
    },
    /// A name that cannot be stored.
    #[error("the name {name:?} cannot be used: it has 1 to 64 characters, none of them a line break")]
    Name {
        /// What was given.
        name: String,
    },
    /// The disk.
    #[error("{}: {error}; check that the directory exists, is writable and has space", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

impl DataDir {
    /// Takes the directory for the member called `name`. An empty or missing one is set up with a newly minted id.
    pub fn open(path: &Path, name: &str) -> Result<Self, DataDirError> {
        if name.is_empty() || name.chars().count() > 64 || name.contains(['\n', '\r']) {
            return Err(DataDirError::Name { name: name.to_owned() });
        }
        fs::create_dir_all(path).map_err(io_error(path))?;
        path.canonicalize().and_then(|path| sync_parent(&path)).map_err(io_error(path))?;
        refuse_foreign(path)?;
        let lock = take_lock(path)?;
        check_format(path)?;
        let identity = match read_identity(path)? {
            Some(identity) => identity,
            None => mint(path, name)?,
        };
        if identity.name != name {
            return Err(DataDirError::OtherMember {
                path: path.to_owned(),
                found: identity.name,
                id: identity.member,
                asked: name.to_owned(),
            });
        }
        if identity.removed {
            return Err(DataDirError::Removed { path: path.to_owned(), id: identity.member });
        }
        check_parts(path, &identity)?;
        Ok(Self { path: path.to_owned(), identity: Mutex::new(identity), _lock: lock })
    }

    /// Whose directory it is.
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Remembers for ever to which cluster this member belongs. Durable when it returns.
    pub fn set_cluster(&self, cluster: ClusterId) -> Result<(), DataDirError> {
        let mut identity = self.identity.lock();
        match identity.cluster {
            Some(found) if found == cluster => Ok(()),
            Some(found) => Err(DataDirError::OtherCluster { path: self.path.clone(), found, asked: cluster }),
            None => {
                let next = Identity { cluster: Some(cluster), ..identity.clone() };
                write_identity(&self.path, &next)?;
                *identity = next;
                Ok(())
            }
        }
    }

    /// Gives the member a new cluster of its own, whatever it belonged to. For the ways back only. Durable when it
    /// returns.
    pub fn begin_cluster(&self) -> Result<ClusterId, DataDirError> {
        let cluster = loop {
            if let Some(id) = ClusterId::new(chance::draw()) {
                break id;
            }
        };
        let mut identity = self.identity.lock();
        let next = Identity { cluster: Some(cluster), ..identity.clone() };
        write_identity(&self.path, &next)?;
        *identity = next;
        Ok(cluster)
    }

    /// Remembers that this member was removed: it does not start again from this directory.
    pub fn set_removed(&self) -> Result<(), DataDirError> {
        let mut identity = self.identity.lock();
        let next = Identity { removed: true, ..identity.clone() };
        write_identity(&self.path, &next)?;
        *identity = next;
        Ok(())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Raft log and vote.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The state machine.
    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Snapshots. On the file system of `state/`, so that checkpoints can be hard links.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    |error| DataDirError::Io { path, error }
}

fn damaged(path: PathBuf, what: impl Into<String>) -> DataDirError {
    DataDirError::Damaged { path, what: what.into() }
}

/// Before anything is created: a directory without `FORMAT` must hold nothing but what a first start that was cut
/// short leaves, or what file systems put at their root.
fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    if path.join(FORMAT_FILE).exists() {
        return Ok(());
    }
    for item in fs::read_dir(path).map_err(io_error(path))? {
        let name = item.map_err(io_error(path))?.file_name().to_string_lossy().into_owned();
        if name == IDENTITY {
            return Err(damaged(path.join(FORMAT_FILE), "it is missing"));
        }
        if !["lost+found", LOCK, "FORMAT.new"].contains(&name.as_str()) {
            return Err(DataDirError::Foreign { path: path.to_owned(), found: name });
        }
    }
    Ok(())
}

fn take_lock(path: &Path) -> Result<File, DataDirError> {
    let file = path.join(LOCK);
    let lock = File::options().create(true).truncate(false).write(true).open(&file).map_err(io_error(&file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(DataDirError::Io { path: file, error }),
    }
}

fn check_format(path: &Path) -> Result<(), DataDirError> {
    let file = path.join(FORMAT_FILE);
    let Some(bytes) = read(&file)? else {
        return replace(path, FORMAT_FILE, format!("{FORMAT_LINE}{FORMAT}\n").as_bytes());
    };
    let found = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.strip_prefix(FORMAT_LINE)?.strip_suffix('\n')?.parse::<u32>().ok())
        .ok_or_else(|| damaged(file, "it does not say which format the directory has"))?;
    if found > FORMAT { Err(DataDirError::Newer { path: path.to_owned(), found }) } else { Ok(()) }
}

/// Sets up an empty directory. Its parts exist before its identity, so that an identity without them means damage.
fn mint(path: &Path, name: &str) -> Result<Identity, DataDirError> {
    for part in ["log", "state"] {
        if !is_empty(&path.join(part))? {
            return Err(damaged(path.join(IDENTITY), format!("it is missing, but {part}/ has data")));
        }
    }
    for part in DIRECTORIES {
        fs::create_dir_all(path.join(part)).map_err(io_error(path))?;
    }
    let member = loop {
        if let Some(id) = MemberId::new(chance::draw()) {
            break id;
        }
    };
    let identity = Identity { member, cluster: None, name: name.to_owned(), removed: false };
    write_identity(path, &identity)?;
    Ok(identity)
}

/// A member of a cluster without its log could vote away what it had acknowledged.
fn check_parts(path: &Path, identity: &Identity) -> Result<(), DataDirError> {
    for part in DIRECTORIES {
        if !path.join(part).is_dir() {
            return Err(damaged(path.join(part), "it is missing"));
        }
    }
    // A database without this file would be begun anew, in silence.
    if identity.cluster.is_some() && !path.join("log/CURRENT").exists() {
        return Err(damaged(path.join("log/CURRENT"), "it is missing, but this member belongs to a cluster"));
    }
    Ok(())
}

fn is_empty(directory: &Path) -> Result<bool, DataDirError> {
    match fs::read_dir(directory) {
        Ok(mut items) => Ok(items.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error(directory)(error)),
    }
}

fn read(file: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(file)(error)),
    }
}

/// Replaces a file as a whole; durable when it returns.
fn replace(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
    let next = directory.join(format!("{name}.new"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&next, directory.join(name))?;
        File::open(directory)?.sync_all()
    };
    write().map_err(io_error(&next))
}

fn write_identity(path: &Path, identity: &Identity) -> Result<(), DataDirError> {
    replace(path, IDENTITY, encode_identity(identity).as_bytes())
}

/// Lines that people can read; the last has a checksum of those before it.
fn encode_identity(identity: &Identity) -> String {
    let cluster = identity.cluster.map_or_else(|| "none".to_owned(), |id| id.to_string());
    let lines = format!(
        "{IDENTITY_LINE}\nmember {}\ncluster {cluster}\nname {}\nremoved {}\n",
        identity.member, identity.name, identity.removed
    );
    format!("{lines}check {:016x}\n", xxh3_64(lines.as_bytes()))
}

fn decode_identity(text: &str) -> Option<Identity> {
    let (lines, check) = text.split_at(text.find("\ncheck ")? + 1);
    let check = check.strip_prefix("check ")?.strip_suffix('\n')?;
    if check.len() != 16 || u64::from_str_radix(check, 16).ok()? != xxh3_64(lines.as_bytes()) {
        return None;
    }
    let mut lines = lines.lines();
    if lines.next()? != IDENTITY_LINE {
        return None;
    }
    let member = MemberId::new(u64::from_str_radix(lines.next()?.strip_prefix("member ")?, 16).ok()?)?;
    let cluster = match lines.next()?.strip_prefix("cluster ")? {
        "none" => None,
        id => Some(ClusterId::new(u64::from_str_radix(id, 16).ok()?)?),
    };
    let name = lines.next()?.strip_prefix("name ")?.to_owned();
    let removed = lines.next()?.strip_prefix("removed ")?.parse().ok()?;
    lines.next().is_none().then_some(Identity { member, cluster, name, removed })
}

fn read_identity(path: &Path) -> Result<Option<Identity>, DataDirError> {
    let file = path.join(IDENTITY);
    let Some(bytes) = read(&file)? else { return Ok(None) };
    let identity = String::from_utf8(bytes).ok().as_deref().and_then(decode_identity);
    identity.map(Some).ok_or_else(|| damaged(file, "it does not say whose directory this is (its checksum is wrong)"))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "data_dir/tests.rs"]
mod tests;
