//! The stream of `Admin.Snapshot`: a fresh checkpoint, packed as it is read.
//!
//! Invariants:
//! - The checkpoint's directory goes when the stream does, read to its end or not; after a crash the next start
//!   removes it with other leftovers beside the store.
//! - Packing goes only as fast as the client reads, with a few chunks ahead.

use std::path::Path;
use std::sync::Arc;

use futures::stream::Stream;
use quorate_proto::Revision;
use quorate_proto::v1;
use quorate_state::store::Store as _;
use quorate_state::view::View;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api::errors::Refusal;
use crate::api::rooms::Rooms;
use crate::archive::Packer;
use crate::consensus::Consensus;
use crate::store_rocks::RocksStore;

/// Chunks packed ahead of the client.
const CHUNKS_AHEAD: usize = 4;

/// Block cache for one look at a checkpoint.
const CACHE_BYTES: usize = 1 << 20;

type Chunk = Result<v1::SnapshotChunk, Status>;

/// Free bytes of the disk that holds `path`; 0 when that cannot be told.
pub fn free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Takes a checkpoint and begins to pack it.
pub fn open(rooms: &Rooms) -> impl Stream<Item = Chunk> + use<> {
    let consensus = Arc::clone(&rooms.consensus);
    let identity = rooms.identity;
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let packed = pack(&consensus, identity.cluster_id, &sender);
        if let Err(refusal) = packed {
            // Nobody listens any more: nobody misses it.
            let _ = sender.blocking_send(Err(refusal.into()));
        }
    });
    ReceiverStream::new(chunks)
}

fn pack(consensus: &Consensus, cluster_id: u64, sender: &mpsc::Sender<Chunk>) -> Result<(), Refusal> {
    let store = consensus.store();
    let beside = store.path().parent().unwrap_or(store.path());
    let directory = TempDir::with_prefix_in("export-", beside).map_err(|error| failed(&error))?;
    let path = directory.path().join("checkpoint");
    store.checkpoint(&path).map_err(|error| failed(&error))?;
    let revision = revision_of(&path)?.get();
    let note = format!("cluster {cluster_id:016x} revision {revision}");
    let mut packer = Packer::new(&path, &note).map_err(|error| failed(&error))?;
    let total_bytes = packer.total_bytes().map_err(|error| failed(&error))?;
    let mut first = true;
    while let Some(data) = packer.next_chunk().map_err(|error| failed(&error))? {
        let total_bytes = if std::mem::take(&mut first) { total_bytes } else { 0 };
        let chunk = v1::SnapshotChunk { data, total_bytes, revision };
        if sender.blocking_send(Ok(chunk)).is_err() {
            break;
        }
    }
    Ok(())
}

/// The revision that a checkpoint holds, from the checkpoint itself.
fn revision_of(checkpoint: &Path) -> Result<Revision, Refusal> {
    let cache = rocksdb::Cache::new_lru_cache(CACHE_BYTES);
    let store = RocksStore::open_read_only(checkpoint, &cache).map_err(|error| failed(&error))?;
    let view = View::new(store.snapshot()).map_err(|error| failed(&error))?;
    Ok(view.revision())
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::member_failed(format!("the snapshot was not made: {error}; try again, or another member"))
}
