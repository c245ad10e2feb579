//! The types that openraft is parameterised with, and short names for its own.
//!
//! Invariants:
//! - One leader per term (`leader_id_std`), so a log id is a term and an index.
//! - An entry's data is an encoded batch: cheap to clone for every follower and for apply.
//! - openraft asks for serde on some types; nothing is ever written or sent through it (see `codec`).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::impls::leader_id_std;
use quorate_state::outcome::Outcome;

use crate::consensus::raft_runtime::RaftRuntime;

openraft::declare_raft_types!(
    /// Quorate's parameters of openraft.
    pub TypeConfig:
        D = EncodedBatch,
        R = EntryResult,
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = RaftRuntime,
);

/// The Raft of a member.
pub type Raft = openraft::Raft<TypeConfig, crate::consensus::applier::Applier>;
/// Position in the log: term and index.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote: term, candidate, whether a quorum granted it.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What an entry carries.
pub type EntryPayload = openraft::EntryPayload<EncodedBatch, u64, Node>;
/// Voters (one or, while changing, two sets) and all members.
pub type Membership = openraft::Membership<u64, Node>;
/// A membership with the position that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// Last position and membership that a snapshot contains.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: meta and the directory of files.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotDir>;
/// openraft's metrics.
pub type RaftMetrics = openraft::RaftMetrics<TypeConfig>;

/// A log id from its parts.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// One member as the membership entry has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Name that the operator gave.
    pub name: String,
    /// `host:port` for members.
    pub peer_address: String,
    /// `host:port` for clients.
    pub client_address: String,
}

/// A batch of commands in the state crate's own encoding.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedBatch(pub Bytes);

impl fmt::Debug for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

impl fmt::Display for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry gave: one outcome for each command of its batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryResult {
    /// In the order of the batch; empty for blank and membership entries.
    pub outcomes: Vec<Outcome>,
}

/// A snapshot on disk: a directory of files that do not change. Cheap to clone; once retired, the files go with
/// the last clone, so that a transfer under way is not disturbed.
#[derive(Debug, Clone)]
pub struct SnapshotDir(Arc<SnapshotFiles>);

#[derive(Debug)]
struct SnapshotFiles {
    path: PathBuf,
    files: Vec<SnapshotFile>,
    retired: AtomicBool,
}

impl Drop for SnapshotFiles {
    fn drop(&mut self) {
        if !*self.retired.get_mut() {
            return;
        }
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "an old snapshot's files stay");
            }
        };
        // The last clone may go with a transfer, on the Raft runtime, which must not wait for the disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotFile {
    /// Name in the directory.
    pub name: String,
    /// Length.
    pub bytes: u64,
}

impl SnapshotDir {
    /// Lists the files of a directory that is complete.
    pub fn open(path: PathBuf) -> std::io::Result<Self> {
        let mut files = Vec::new();
        for item in std::fs::read_dir(&path)? {
            let item = item?;
            let name = item.file_name().into_string().map_err(|name| {
                std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{} is no snapshot file", name.display()))
            })?;
            files.push(SnapshotFile { name, bytes: item.metadata()?.len() });
        }
        files.sort();
        Ok(Self(Arc::new(SnapshotFiles { path, files, retired: AtomicBool::new(false) })))
    }

    /// Where the files are.
    pub fn path(&self) -> &std::path::Path {
        &self.0.path
    }

    /// The files, sorted by name.
    pub fn files(&self) -> &[SnapshotFile] {
        &self.0.files
    }

    /// Length of all files together.
    pub fn bytes(&self) -> u64 {
        self.0.files.iter().map(|file| file.bytes).sum()
    }

    /// The files go when nobody needs them any more.
    pub fn retire(&self) {
        self.0.retired.store(true, Ordering::Release);
    }
}

/// openraft's `serde` feature bounds these types; Quorate has codecs of its own, so serde refuses.
macro_rules! refuse_serde {
    ($($name:ident),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom(concat!(stringify!($name), " has a codec of its own")))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                Err(serde::de::Error::custom(concat!(stringify!($name), " has a codec of its own")))
            }
        }
    )*};
}

refuse_serde!(Node, EncodedBatch, EntryResult);
