//! Snapshots on their way from the leader to a member that is too far behind for the log.
//!
//! The leader offers the list of files, the receiver says how much of each it has already, the leader sends the rest
//! and a checksum over the whole of each file.
//!
//! Invariants:
//! - What is received lands in a directory of its own, named after the offer; it becomes a snapshot only after every
//!   file is complete, its checksum is right and all of it is fsynced.
//! - A broken connection costs what was on its way, not what has arrived: the next offer of the same snapshot goes on.
//! - One reception at a time, until what was received is installed; another offer's leftovers are removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use quorate_proto::MemberId;
use quorate_proto::peer::Frame;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufWriter};
use tonic::Status;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::consensus::links::{Links, Purpose};
use crate::consensus::rpc_codec::{
    SnapshotOffer, SnapshotPart, decode_have, decode_offer, decode_part, decode_vote_only, encode_have, encode_offer,
    encode_part,
};
use crate::consensus::types::{Snapshot, SnapshotDir, SnapshotFile, Vote};

const CHUNK_BYTES: usize = 256 * 1024;
const INCOMING: &str = "incoming-";

/// Sends a snapshot; once it returns it is installed there, or refused because of the vote that is given back.
pub async fn send(links: &Links, target: u64, address: &str, vote: Vote, snapshot: Snapshot) -> Result<Vote, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let files = snapshot.snapshot.files().to_vec();
    let offer = SnapshotOffer { vote, meta: snapshot.meta.clone(), files };
    let offered = Frame { body: encode_offer(&offer) };
    let mut peer = links.peer(target, address, Purpose::Snapshot).map_err(|error| text(&error))?;

    let request = links.local().mark(target, offered.clone()).map_err(|error| text(&error))?;
    let have = peer.snapshot_offer(request).await.map_err(|status| refused(links, &status))?;
    let have = decode_have(have.into_inner().body).map_err(|error| text(&error))?;
    if have.len() != offer.files.len() {
        return Err("the answer to the offer of a snapshot is not about its files".to_owned());
    }

    let bytes = snapshot.snapshot.bytes();
    tracing::info!(target, bytes, have = have.iter().sum::<u64>(), "sending a snapshot");
    let parts = Parts { snapshot: snapshot.snapshot, have, next: Next::Offer(offered) };
    let request = links.local().mark(target, parts.stream()).map_err(|error| text(&error))?;
    let answer = peer.snapshot_send(request).await.map_err(|status| refused(links, &status))?;
    decode_vote_only(answer.into_inner().body).map_err(|error| text(&error))
}

fn refused(links: &Links, status: &Status) -> String {
    links.local().heed(status);
    status.message().to_owned()
}

/// The frames of a snapshot, read from its files as they are taken.
struct Parts {
    snapshot: SnapshotDir,
    have: Vec<u64>,
    next: Next,
}

enum Next {
    Offer(Frame),
    Open(usize),
    Read { index: usize, file: File, at: u64, hash: Box<Xxh3> },
    Done,
}

impl Parts {
    /// Ends early when a file cannot be read; the receiver then waits for the rest in vain and says so.
    fn stream(self) -> impl Stream<Item = Frame> + Send + 'static {
        futures::stream::unfold(self, async |mut parts| match parts.next_frame().await {
            Ok(frame) => Some((frame?, parts)),
            Err(error) => {
                tracing::error!(path = %parts.snapshot.path().display(), %error, "cannot read a snapshot");
                None
            }
        })
    }

    async fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            match std::mem::replace(&mut self.next, Next::Done) {
                Next::Offer(frame) => {
                    self.next = Next::Open(0);
                    return Ok(Some(frame));
                }
                Next::Done => return Ok(None),
                Next::Open(index) => {
                    let Some(meta) = self.snapshot.files().get(index) else {
                        return Ok(Some(Frame { body: encode_part(&SnapshotPart::End) }));
                    };
                    let mut file = File::open(self.snapshot.path().join(&meta.name)).await?;
                    let at = self.have[index].min(meta.bytes);
                    let hash = Box::new(hash_prefix(&mut file, at).await?);
                    self.next = Next::Read { index, file, at, hash };
                }
                Next::Read { index, mut file, at, mut hash } => {
                    let left = self.snapshot.files()[index].bytes - at;
                    let part = if left == 0 {
                        self.next = Next::Open(index + 1);
                        SnapshotPart::FileEnd { file: index as u64, checksum: hash.digest() }
                    } else {
                        let mut chunk = vec![0; usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)];
                        file.read_exact(&mut chunk).await?;
                        hash.update(&chunk);
                        self.next = Next::Read { index, file, at: at + chunk.len() as u64, hash };
                        SnapshotPart::Chunk { file: index as u64, offset: at, bytes: chunk.into() }
                    };
                    return Ok(Some(Frame { body: encode_part(&part) }));
                }
            }
        }
    }
}

/// Reads the first `bytes`, leaving the file positioned after them.
async fn hash_prefix(file: &mut File, bytes: u64) -> io::Result<Xxh3> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let part = &mut buffer[..usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)];
        file.read_exact(part).await?;
        hash.update(part);
        left -= part.len() as u64;
    }
    Ok(hash)
}

/// Takes snapshots in, below a directory.
#[derive(Debug)]
pub struct Receiver {
    root: PathBuf,
    busy: Arc<AtomicBool>,
}

/// The right to receive; given back when dropped.
#[derive(Debug)]
pub struct Turn(Arc<AtomicBool>);

/// A snapshot that has arrived. While its turn is kept, no other offer removes its files.
#[derive(Debug)]
pub struct Received {
    /// The leader's vote.
    pub vote: Vote,
    /// What is to be installed.
    pub snapshot: Snapshot,
    /// To be kept until the snapshot is installed or refused.
    pub turn: Turn,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Receiver {
    /// `root` must be on the file system of the store, so that what was received can be moved there.
    pub fn new(root: PathBuf) -> Arc<Self> {
        Arc::new(Self { root, busy: Arc::new(AtomicBool::new(false)) })
    }

    fn turn(&self) -> Result<Turn, Status> {
        match self.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Turn(self.busy.clone())),
            Err(_) => Err(Status::unavailable("another snapshot is being received; try again later")),
        }
    }

    /// How much of each offered file is here.
    pub async fn offer(&self, from: MemberId, body: Bytes) -> Result<Bytes, Status> {
        let _turn = self.turn()?;
        let directory = self.directory(from, &body);
        let offer = decode_offer(body).map_err(invalid)?;
        self.remove_others(&directory).await.map_err(|error| local(&self.root, &error))?;
        fs::create_dir_all(&directory).await.map_err(|error| local(&directory, &error))?;
        let mut have = Vec::with_capacity(offer.files.len());
        for file in &offer.files {
            let there = fs::metadata(directory.join(&file.name)).await.map_or(0, |meta| meta.len());
            have.push(if there > file.bytes { 0 } else { there });
        }
        Ok(encode_have(&have))
    }

    /// Receives what an offer announced.
    pub async fn receive(
        &self,
        from: MemberId,
        mut frames: impl Stream<Item = Result<Frame, Status>> + Unpin,
    ) -> Result<Received, Status> {
        let turn = self.turn()?;
        let first = frames.next().await.ok_or_else(ended)??;
        let directory = self.directory(from, &first.body);
        let offer = decode_offer(first.body).map_err(invalid)?;
        let mut reception = Reception { directory, offer, current: None, complete: 0 };
        loop {
            let frame = frames.next().await.ok_or_else(ended)??;
            match decode_part(frame.body).map_err(invalid)? {
                SnapshotPart::Chunk { file, offset, bytes } => reception.chunk(file, offset, &bytes).await?,
                SnapshotPart::FileEnd { file, checksum } => reception.file_end(file, checksum).await?,
                SnapshotPart::End => {
                    let (vote, snapshot) = reception.finish().await?;
                    return Ok(Received { vote, snapshot, turn });
                }
            }
        }
    }

    fn directory(&self, from: MemberId, offer: &Bytes) -> PathBuf {
        let mut named = from.get().to_be_bytes().to_vec();
        // The vote moves with elections; the rest of the offer says which snapshot it is.
        match decode_offer(offer.clone()) {
            Ok(mut offer) => {
                offer.vote = Vote::new(0, 0);
                named.extend_from_slice(&encode_offer(&offer));
            }
            Err(_) => named.extend_from_slice(offer),
        }
        self.root.join(format!("{INCOMING}{:016x}", xxh3_64(&named)))
    }

    async fn remove_others(&self, keep: &Path) -> io::Result<()> {
        let mut items = fs::read_dir(&self.root).await?;
        while let Some(item) = items.next_entry().await? {
            if item.file_name().to_string_lossy().starts_with(INCOMING) && item.path() != keep {
                fs::remove_dir_all(item.path()).await?;
            }
        }
        Ok(())
    }
}

/// A snapshot that is coming in.
struct Reception {
    directory: PathBuf,
    offer: SnapshotOffer,
    current: Option<OpenFile>,
    /// Files are sent in the order of the offer; so many are complete.
    complete: u64,
}

struct OpenFile {
    path: PathBuf,
    file: BufWriter<File>,
    at: u64,
    hash: Xxh3,
}

impl Reception {
    async fn chunk(&mut self, file: u64, offset: u64, bytes: &Bytes) -> Result<(), Status> {
        let expected = self.bytes_of(file)?;
        let open = self.open(file, offset).await?;
        if open.at != offset || offset + bytes.len() as u64 > expected {
            return Err(invalid("a chunk of a snapshot is out of place"));
        }
        open.hash.update(bytes);
        open.at += bytes.len() as u64;
        let written = open.file.write_all(bytes).await;
        written.map_err(|error| local(&self.directory, &error))
    }

    async fn file_end(&mut self, file: u64, checksum: u64) -> Result<(), Status> {
        let expected = self.bytes_of(file)?;
        self.open(file, expected).await?;
        let Some(mut open) = self.current.take() else { return Err(ended()) };
        let synced = async {
            open.file.flush().await?;
            open.file.get_ref().sync_all().await
        };
        synced.await.map_err(|error| local(&open.path, &error))?;
        if open.at != expected || open.hash.digest() != checksum {
            fs::remove_file(&open.path).await.map_err(|error| local(&open.path, &error))?;
            let what = format!("{} arrived damaged; it is sent again with the next attempt", open.path.display());
            return Err(Status::data_loss(what));
        }
        self.complete += 1;
        Ok(())
    }

    async fn finish(self) -> Result<(Vote, Snapshot), Status> {
        if self.complete != self.offer.files.len() as u64 {
            return Err(ended());
        }
        let opened = async {
            File::open(&self.directory).await?.sync_all().await?;
            SnapshotDir::open(self.directory.clone())
        };
        let snapshot = opened.await.map_err(|error| local(&self.directory, &error))?;
        if snapshot.files() != self.sorted() {
            return Err(invalid("the received snapshot has other files than were offered"));
        }
        Ok((self.offer.vote, Snapshot { meta: self.offer.meta, snapshot }))
    }

    fn sorted(&self) -> Vec<SnapshotFile> {
        let mut files = self.offer.files.clone();
        files.sort();
        files
    }

    fn bytes_of(&self, file: u64) -> Result<u64, Status> {
        let meta = usize::try_from(file).ok().and_then(|file| self.offer.files.get(file));
        match meta {
            Some(meta) if file == self.complete => Ok(meta.bytes),
            _ => Err(invalid("the files of a snapshot are out of order")),
        }
    }

    /// The file that is being received, opened where it ends, which must be `at`.
    async fn open(&mut self, file: u64, at: u64) -> Result<&mut OpenFile, Status> {
        if self.current.is_none() {
            let name = usize::try_from(file).ok().and_then(|file| self.offer.files.get(file)).map(|file| &file.name);
            let path = self.directory.join(name.ok_or_else(ended)?);
            let opened = open_at(&path, at).await;
            let (file, hash) = opened.map_err(|error| local(&path, &error))?;
            self.current = Some(OpenFile { path, file: BufWriter::with_capacity(CHUNK_BYTES, file), at, hash });
        }
        self.current.as_mut().ok_or_else(ended)
    }
}

/// Opens a file that has at least `at` bytes, cuts it there, and hashes what stays.
async fn open_at(path: &Path, at: u64) -> io::Result<(File, Xxh3)> {
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path).await?;
    let hash = hash_prefix(&mut file, at).await?;
    file.set_len(at).await?;
    file.seek(io::SeekFrom::Start(at)).await?;
    Ok((file, hash))
}

fn ended() -> Status {
    Status::cancelled("the snapshot was not sent completely; the next attempt goes on from here")
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn local(path: &Path, error: &io::Error) -> Status {
    tracing::error!(path = %path.display(), %error, "cannot store a snapshot");
    Status::internal(format!("cannot store the snapshot at {}: {error}", path.display()))
}

#[cfg(test)]
#[path = "snapshot_send/tests.rs"]
mod tests;
