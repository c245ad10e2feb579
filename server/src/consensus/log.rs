//! openraft's log storage: an in-memory tail, and one ordered queue to the writer thread.
//!
//! Invariants:
//! - When `append` returns, every reader sees the entries; when its callback fires, they are synced.
//! - Vote, append, truncate and purge go through one queue in order, so that each is on disk before what follows it.
//! - A truncation is synced before it returns: a snapshot may be installed next, which does not wait for the queue.
//! - An entry leaves the tail only after it was written; so what is not in the tail is on disk.
//! - The tail is bounded by bytes, except for what is not written yet.
//! - The first failed write is the last: callbacks get the error, and the member stops.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::consensus::codec;
use crate::consensus::log_disk::{LogDisk, LogOp};
use crate::consensus::log_size::LogSize;
use crate::consensus::types::{Entry, EntryPayload, LogId, TypeConfig, Vote};
use crate::tasks::{Tasks, Work};
use quorate_state::flaw::Flaw;

/// Bytes of entries kept in memory for followers and apply.
pub const TAIL_BYTES_MAX: u64 = 16 << 20;
/// Bytes of entries in one answer to replication; at least one entry.
const REPLICATE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of entries that are read at a time for apply, from disk and from memory each; at least one entry.
const APPLY_BYTES_MAX: u64 = 2 << 20;
/// Bytes that the writer merges into one write.
const MERGE_BYTES_MAX: usize = 4 << 20;
/// Jobs that wait for the writer; the core waits when it is full.
const QUEUE_JOBS_MAX: usize = 1024;
/// What an entry costs in memory besides its batch.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// The storage as openraft's core owns it. Its readers are cheap clones.
pub struct LogStore {
    reader: LogReader,
    queue: mpsc::Sender<Job>,
}

/// Reads entries, from the tail or from disk.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

/// The thread's side: drains the queue, one sync for all that waits.
pub struct LogWriter {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Job>,
    /// The index after the last entry on disk.
    written_next: u64,
}

struct Shared {
    disk: Arc<dyn LogDisk>,
    tail: Mutex<Tail>,
    tail_bytes_max: u64,
    tasks: Tasks,
}

struct Tail {
    /// The newest entries, without holes; the last one is `next - 1`.
    entries: VecDeque<TailEntry>,
    bytes: u64,
    /// Where the log begins: after what was purged.
    start: u64,
    next: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    committed_unwritten: bool,
    appends_queued: u64,
    appends_written: u64,
    size: LogSize,
}

struct TailEntry {
    entry: Entry,
    bytes: u64,
    append: u64,
}

struct Job {
    ops: Vec<LogOp>,
    bytes: usize,
    done: Done,
}

enum Done {
    Append(u64, IOFlushed<TypeConfig>),
    /// A vote or a truncation, for which the core waits.
    Awaited(oneshot::Sender<io::Result<()>>),
    Nothing,
}

impl LogStore {
    /// Loads what the disk has. The writer must be run, on a thread of its own.
    pub fn open(disk: Arc<dyn LogDisk>, tail_bytes_max: u64, tasks: Tasks) -> io::Result<(Self, LogWriter)> {
        let load = disk.load()?;
        let last = load.last.max(load.purged);
        let next = last.map_or(0, |id| id.index + 1);
        let first = load.purged.map_or(0, |id| id.index + 1);
        let tail = Tail {
            entries: VecDeque::new(),
            bytes: 0,
            start: first,
            next,
            last,
            purged: load.purged,
            vote: load.vote,
            committed: load.committed,
            committed_unwritten: false,
            appends_queued: 0,
            appends_written: 0,
            size: LogSize::estimated(first, next, disk.bytes()),
        };
        let shared = Arc::new(Shared { disk, tail: Mutex::new(tail), tail_bytes_max, tasks });
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS_MAX);
        let writer = LogWriter { shared: shared.clone(), queue: receiver, written_next: next };
        Ok((Self { reader: LogReader { shared }, queue: sender }, writer))
    }

    /// A reader for those outside openraft.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    fn tail(&self) -> parking_lot::MutexGuard<'_, Tail> {
        self.reader.shared.tail.lock()
    }

    async fn queue(&self, job: Job) -> io::Result<()> {
        self.queue.send(job).await.map_err(|_| closed())
    }

    /// Returns when all of it is on disk.
    async fn synced(&self, ops: Vec<LogOp>) -> io::Result<()> {
        let (sender, synced) = oneshot::channel();
        self.queue(Job { ops, bytes: 0, done: Done::Awaited(sender) }).await?;
        synced.await.map_err(|_| closed())?
    }
}

impl LogReader {
    /// Whether anything was ever voted or appended here.
    pub fn is_initialised(&self) -> bool {
        let tail = self.shared.tail.lock();
        tail.last.is_some() || tail.vote.is_some()
    }

    /// The last index in the log.
    pub fn last_index(&self) -> Option<u64> {
        self.shared.tail.lock().last.map(|id| id.index)
    }

    /// Bytes of the log that are not purged.
    pub fn live_bytes(&self) -> u64 {
        self.shared.tail.lock().size.live_bytes()
    }

    /// What it is written to.
    pub fn disk(&self) -> &dyn LogDisk {
        &*self.shared.disk
    }

    /// Bytes of the entries after `index`.
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        self.shared.tail.lock().size.bytes_after(index)
    }

    /// The highest index that may go while at least so many bytes and entries stay; `None` when nothing may.
    pub fn purgeable(&self, keep_bytes: u64, keep_entries: u64) -> Option<u64> {
        let tail = self.shared.tail.lock();
        let by_bytes = tail.size.index_with_bytes_after(keep_bytes)?;
        let by_entries = tail.next.checked_sub(keep_entries + 1)?;
        Some(by_bytes.min(by_entries))
    }

    /// A range as start and end, without what is purged.
    fn present(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        (start.max(self.shared.tail.lock().start), end)
    }

    /// What memory does not have is read on a blocking thread: heartbeats must not wait for the disk.
    async fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let (on_disk_end, tail) = {
            let tail = self.shared.tail.lock();
            if start < tail.start && start < end {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("log entry {start} is purged")));
            }
            let end = end.min(tail.next);
            let first = tail.first();
            (end.min(first), tail.copy(start.max(first), end, bytes_max))
        };
        if start >= on_disk_end {
            return Ok(tail);
        }
        let shared = self.shared.clone();
        let on_disk = move || shared.disk.read(start, on_disk_end, bytes_max);
        let mut entries = self.shared.tasks.blocking(Work::LogRead, on_disk).await.map_err(io::Error::other)??;
        if entries.first().map(|entry| entry.log_id.index) != Some(start) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("log entry {start} is not there")));
        }
        if entries.len() as u64 == on_disk_end - start {
            entries.extend(tail);
        } else if bytes_max == u64::MAX {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("log entries before {on_disk_end} are gone")));
        }
        Ok(entries)
    }
}

impl Tail {
    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }

    fn copy(&self, start: u64, end: u64, bytes_max: u64) -> Vec<Entry> {
        let first = self.first();
        let (mut bytes, mut copied) = (0, Vec::new());
        for index in start..end {
            let Some(found) = usize::try_from(index - first).ok().and_then(|at| self.entries.get(at)) else { break };
            copied.push(found.entry.clone());
            bytes += found.bytes;
            if bytes >= bytes_max {
                break;
            }
        }
        copied
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.last.is_none() {
            self.start = entry.log_id.index;
            self.next = self.start;
        }
        if entry.log_id.index != self.next {
            let (index, next) = (entry.log_id.index, self.next);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("entry {index} would follow {next}")));
        }
        let bytes = ENTRY_OVERHEAD_BYTES
            + match &entry.payload {
                EntryPayload::Normal(batch) => batch.0.len() as u64,
                EntryPayload::Blank | EntryPayload::Membership(_) => 0,
            };
        self.next += 1;
        self.last = Some(entry.log_id);
        self.bytes += bytes;
        self.size.appended(entry.log_id.index, bytes);
        self.entries.push_back(TailEntry { entry, bytes, append: self.appends_queued });
        Ok(())
    }

    fn truncate_from(&mut self, index: u64) {
        while self.next > index && !self.entries.is_empty() {
            self.bytes -= self.entries.pop_back().map_or(0, |gone| gone.bytes);
            self.next -= 1;
        }
        self.next = self.next.min(index);
        self.size.truncated(self.next);
    }

    /// True when the log goes as a whole, because it ends in an older term than what takes its place; that may be
    /// at a smaller index.
    fn purge_through(&mut self, id: LogId) -> bool {
        let replaced = self.last.is_some_and(|last| last < id && last.index > id.index);
        if replaced {
            self.entries.clear();
            self.bytes = 0;
            self.next = id.index + 1;
            self.size.truncated(self.next);
        }
        while self.first() <= id.index && !self.entries.is_empty() {
            self.bytes -= self.entries.pop_front().map_or(0, |gone| gone.bytes);
        }
        self.next = self.next.max(id.index + 1);
        self.last = self.last.max(Some(id));
        self.purged = self.purged.max(Some(id));
        self.start = self.start.max(id.index + 1);
        self.size.purged(id.index);
        replaced
    }

    fn shrink(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max && self.entries.front().is_some_and(|entry| entry.append <= self.appends_written) {
            self.bytes -= self.entries.pop_front().map_or(0, |gone| gone.bytes);
        }
    }
}

impl LogWriter {
    /// Writes until the store is dropped. An error ends it: nothing is written after a failed write. Blocks on disk.
    pub async fn run(mut self) -> io::Result<()> {
        while let Some(first) = self.queue.recv().await {
            let mut ops = Vec::new();
            let mut done = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(job) = next {
                bytes += job.bytes;
                ops.extend(job.ops);
                done.push(job.done);
                next = if bytes < MERGE_BYTES_MAX { self.queue.try_recv().ok() } else { None };
            }
            self.write(ops, done).await?;
        }
        self.write(Vec::new(), Vec::new()).await
    }

    async fn write(&mut self, mut ops: Vec<LogOp>, done: Vec<Done>) -> io::Result<()> {
        for op in &ops {
            match op {
                LogOp::Append { index, .. } => self.written_next = index + 1,
                LogOp::TruncateFrom(index) => self.written_next = self.written_next.min(*index),
                LogOp::PurgeThrough(id) => self.written_next = self.written_next.max(id.index + 1),
                LogOp::Vote(_) | LogOp::Committed(_) => {}
            }
        }
        ops.extend(self.shared.take_committed(self.written_next).map(LogOp::Committed));
        let sync = done.iter().any(|done| !matches!(done, Done::Nothing));
        self.shared.tasks.takes(Work::LogWrite).await;
        let result = if ops.is_empty() { Ok(()) } else { self.shared.disk.write(&ops, sync) };
        self.shared.tasks.takes(Work::LogWritten).await;
        if result.is_ok() {
            let mut tail = self.shared.tail.lock();
            for done in &done {
                if let Done::Append(append, _) = done {
                    tail.appends_written = *append;
                }
            }
            tail.shrink(self.shared.tail_bytes_max);
        }
        for done in done {
            let result = result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
            match done {
                Done::Append(_, flushed) => flushed.io_completed(result),
                Done::Awaited(waiting) => drop(waiting.send(result)),
                Done::Nothing => {}
            }
        }
        result
    }
}

impl Shared {
    /// The note of what is committed, if it is new and the entry itself is on disk.
    fn take_committed(&self, written_next: u64) -> Option<LogId> {
        let mut tail = self.tail.lock();
        let committed = tail.committed.filter(|id| tail.committed_unwritten && id.index < written_next)?;
        tail.committed_unwritten = false;
        Some(committed)
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = self.present(&range);
        self.read(start, end, u64::MAX).await
    }

    /// What is to be applied, a piece at a time.
    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend {
        let (start, end) = self.present(&range);
        let piece = async |(reader, start, end): (Self, u64, u64)| {
            let entries = reader.read(start, end, APPLY_BYTES_MAX).await?;
            let next = start + entries.len() as u64;
            let piece = (!entries.is_empty()).then(|| futures::stream::iter(entries.into_iter().map(Ok)));
            Ok::<_, io::Error>(piece.map(|piece| (piece, (reader, next, end))))
        };
        futures::stream::try_unfold((self.clone(), start, end), piece).try_flatten().boxed()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, REPLICATE_BYTES_MAX).await?;
        if entries.is_empty() && start < end {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("log entry {start} is not there")));
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let ops = if Flaw::VoteNotSaved.is_put_in() { Vec::new() } else { vec![LogOp::Vote(*vote)] };
        self.synced(ops).await?;
        self.tail().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Written with the next append: alone it would cost a write for each commit.
        let mut tail = self.tail();
        tail.committed_unwritten |= committed.is_some() && tail.committed != committed;
        tail.committed = committed.or(tail.committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let ops: Vec<LogOp> = entries
            .iter()
            .map(|entry| LogOp::Append { index: entry.log_id.index, entry: codec::encode_entry(entry) })
            .collect();
        let bytes = ops.iter().map(|op| if let LogOp::Append { entry, .. } = op { entry.len() } else { 0 }).sum();
        let append = {
            let mut tail = self.tail();
            tail.appends_queued += 1;
            entries.into_iter().try_for_each(|entry| tail.push(entry))?;
            tail.appends_queued
        };
        if Flaw::AcksBeforeWrite.is_put_in() {
            callback.io_completed(Ok(()));
            return self.queue(Job { ops, bytes, done: Done::Nothing }).await;
        }
        self.queue(Job { ops, bytes, done: Done::Append(append, callback) }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        {
            let mut tail = self.tail();
            if from >= tail.next {
                return Ok(());
            }
            tail.truncate_from(from);
            tail.last = last_log_id;
        }
        self.synced(vec![LogOp::TruncateFrom(from)]).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let replaced = self.tail().purge_through(log_id);
        if replaced {
            // In one write: what is left of the log must not seem to follow what was purged.
            return self.synced(vec![LogOp::TruncateFrom(log_id.index + 1), LogOp::PurgeThrough(log_id)]).await;
        }
        self.queue(Job { ops: vec![LogOp::PurgeThrough(log_id)], bytes: 0, done: Done::Nothing }).await
    }
}

fn closed() -> io::Error {
    io::Error::other("the log writer has ended")
}

#[cfg(test)]
mod tests;
