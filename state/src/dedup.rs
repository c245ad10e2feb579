//! The memory of request ids: a write that is sent again is answered from it, not applied again.
//!
//! The rule. A client gives each write a sequence, and with it, *fixed at the first attempt*, a `seen_index`: any log
//! index that it knew to be committed before it first sent the write. The write can only stand in the log above
//! that index. Apply then decides, in this order:
//! 1. the sequence is remembered: the remembered answer (another kind of command: `RequestIdReused`);
//! 2. the sequence is below what the client has acknowledged: `RequestExpired`;
//! 3. `seen_index` < `forgotten_index`: it may have been applied and forgotten: `RequestExpired`;
//! 4. else it was never applied: decide it and remember the decision, rejections too.
//!
//! Example: the window has dropped everything up to index 500. Client 7 sends sequence 1 with `seen_index` 0: expired,
//! though it never was applied, for it may have been at index 3. A client that knows that this was its first attempt
//! asks any member for its applied index, 620, and sends sequence 2 with `seen_index` 620: decided at 621. The
//! answer is lost; it sends sequence 2 with `seen_index` 620 again. Until the window has dropped 621 that finds the
//! memory; afterwards `forgotten_index` ≥ 621 > 620, and it is refused. At no time is it applied twice.
//!
//! The first entry of a log, index 0, is its membership; no request stands there.
//!
//! Invariants:
//! - What is in memory is a function of `forgotten_index` and of the records of `r` above it, so that rebuilding at
//!   open gives what apply had: each record carries the client's lowest sequence as it was after the command, and
//!   answers from memory and refusals by id change nothing.
//! - Forgetting is a function of the log: by index, by number and by bytes, oldest entry first, at the end of each entry.
//! - Of what its client has acknowledged nothing is kept, whatever the window holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quorate_proto::{ClientId, Revision};

use crate::codec::records::{Head, RequestEntry, RequestRef, visit_requests};
use crate::codec::varint::{Reader, put_lease, put_option, put_revision};
use crate::codec::{DecodeError, keys, put_outcome, read_outcome};
use crate::command::{Command, RequestId};
use crate::flaw::Flaw;
use crate::outcome::{DeleteDone, Done, Fault, Outcome, PutDone, RangeDone, Rejection, TxnDone, TxnResult};
use crate::store::{Cursor, Read};

/// Log entries whose requests are remembered.
pub const WINDOW_INDEXES: u64 = 100_000;

/// Requests in those entries, acknowledged ones too: all are read again at open.
pub const WINDOW_REQUESTS: u64 = 2_000_000;

/// Bytes of memory, estimated, that the window may take.
pub const WINDOW_BYTES: usize = 64 << 20;

/// What a remembered request costs besides its bytes, roughly.
const REQUEST_OVERHEAD_BYTES: usize = 96;

/// Remembered requests.
#[derive(Debug, Default)]
pub(crate) struct Window {
    clients: BTreeMap<ClientId, Client>,
    /// Oldest first.
    entries: VecDeque<WindowEntry>,
    /// What is remembered, by the log index at which it goes.
    by_index: BTreeSet<(u64, ClientId, u64)>,
    /// Clients, by their `last_index`.
    by_last: BTreeSet<(u64, ClientId)>,
    /// In all entries.
    requests: u64,
    bytes: usize,
    bounds: Bounds,
}

#[derive(Debug)]
struct Bounds {
    indexes: u64,
    requests: u64,
    bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { indexes: WINDOW_INDEXES, requests: WINDOW_REQUESTS, bytes: WINDOW_BYTES }
    }
}

#[derive(Debug)]
struct Client {
    /// By sequence.
    remembered: BTreeMap<u64, Remembered>,
    /// Sequences below are acknowledged and forgotten.
    lowest: u64,
    /// Log index of its last command.
    last_index: u64,
}

#[derive(Debug)]
struct Remembered {
    /// Log index of the command.
    index: u64,
    memory: Bytes,
}

/// A log entry that had requests.
#[derive(Debug)]
struct WindowEntry {
    index: u64,
    first_revision: Revision,
    requests: u64,
}

/// What the window says of a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It was not applied before; decide it.
    New,
    /// Answer this, and remember nothing.
    Answer(Outcome),
}

impl Window {
    /// What to do with a request.
    pub(crate) fn judge(&self, head: &Head, request: &RequestId, command: &Command) -> Result<Verdict, Fault> {
        let refuse = |rejection| {
            Ok(Verdict::Answer(Outcome { revision: head.revision, replayed: false, result: Err(rejection) }))
        };
        let client = self.clients.get(&request.client);
        if let Some(remembered) = client.and_then(|client| client.remembered.get(&request.sequence)) {
            if let Some(outcome) = recall(&remembered.memory, command)? {
                cov_mark::hit!(dedup_replayed);
                return Ok(Verdict::Answer(outcome));
            }
            cov_mark::hit!(dedup_reused);
            return refuse(Rejection::RequestIdReused);
        }
        if client.is_some_and(|client| request.sequence < client.lowest) {
            cov_mark::hit!(dedup_acknowledged);
            return refuse(Rejection::RequestExpired);
        }
        if request.seen_index < head.forgotten_index {
            cov_mark::hit!(dedup_expired);
            return refuse(Rejection::RequestExpired);
        }
        Ok(Verdict::New)
    }

    /// Notes a decision, in memory and as an entry for the record of this batch.
    pub(crate) fn remember(
        &mut self,
        index: u64,
        first_revision: Revision,
        request: &RequestId,
        command: &Command,
        outcome: &Outcome,
    ) -> RequestEntry {
        let before = self.clients.get(&request.client).map_or(0, |client| client.lowest);
        // A client that acknowledges what it is asking would make its own retry unsafe.
        let lowest = before.max(request.lowest_unacknowledged.min(request.sequence));
        let memory = memory_of(command, outcome);
        let entry = RequestEntry { client: request.client, sequence: request.sequence, lowest, memory };
        self.take(index, first_revision, &entry);
        entry
    }

    fn take(&mut self, index: u64, first_revision: Revision, entry: &RequestEntry) {
        match self.entries.back_mut() {
            Some(last) if last.index == index => last.requests += 1,
            _ => self.entries.push_back(WindowEntry { index, first_revision, requests: 1 }),
        }
        self.requests += 1;
        let client = self.clients.entry(entry.client).or_insert_with(|| Client::new(index));
        if client.last_index != index {
            self.by_last.remove(&(client.last_index, entry.client));
            client.last_index = index;
        }
        self.by_last.insert((index, entry.client));
        client.lowest = client.lowest.max(entry.lowest);
        self.bytes += cost(&entry.memory);
        client.remembered.insert(entry.sequence, Remembered { index, memory: entry.memory.clone() });
        self.by_index.insert((index, entry.client, entry.sequence));
        let lowest = client.lowest;
        while let Some(acknowledged) = client.remembered.first_entry().filter(|first| *first.key() < lowest) {
            let (sequence, gone) = acknowledged.remove_entry();
            self.bytes -= cost(&gone.memory);
            self.by_index.remove(&(gone.index, entry.client, sequence));
        }
    }

    /// Forgets what is over the bounds after the entry at `index`.
    pub(crate) fn forget(&mut self, index: u64, head: &mut Head) {
        while let Some(oldest) = self.entries.front() {
            if oldest.index.saturating_add(self.bounds.indexes) > index
                && self.requests <= self.bounds.requests
                && self.bytes <= self.bounds.bytes
            {
                break;
            }
            cov_mark::hit!(dedup_forgets);
            head.forgotten_index = oldest.index;
            self.requests -= oldest.requests;
            self.entries.pop_front();
            self.forget_through(head.forgotten_index);
        }
        head.window_revision = self.entries.front().map_or(head.revision.next(), |oldest| oldest.first_revision);
    }

    fn forget_through(&mut self, index: u64) {
        while let Some((_, id, sequence)) = pop_first_if(&mut self.by_index, |(at, ..)| *at <= index) {
            let client = self.clients.get_mut(&id);
            if let Some(gone) = client.and_then(|client| client.remembered.remove(&sequence)) {
                self.bytes -= cost(&gone.memory);
            }
        }
        while let Some((_, id)) = pop_first_if(&mut self.by_last, |(at, _)| *at <= index) {
            self.clients.remove(&id);
        }
    }

    /// What the records above `forgotten_index` say. Read backwards: the newest record of a client says which of its
    /// requests are acknowledged, so that those are only counted.
    pub(crate) fn rebuild<R: Read>(read: &R, head: &Head) -> Result<Self, Fault> {
        let mut window = Self::default();
        if Flaw::ForgetsRequestIds.is_put_in() {
            return Ok(window);
        }
        let start = keys::record(head.window_revision, head.forgotten_index.saturating_add(1));
        let mut cursor = read.cursor(false);
        cursor.seek_for_prev(&keys::record(Revision(i64::MAX), u64::MAX));
        while let Some((key, value)) = cursor.entry() {
            if key.first() != Some(&keys::table::RECORD) || key < start.as_slice() {
                break;
            }
            let (first_revision, index) = keys::split_record(key)?;
            window.take_older(index, first_revision, value)?;
            cursor.prev();
        }
        cursor.status()?;
        Ok(window)
    }

    /// Takes a record that is older than all that were taken.
    fn take_older(&mut self, index: u64, first_revision: Revision, record: &[u8]) -> Result<(), Fault> {
        let mut requests = 0;
        visit_requests(record, |request| {
            requests += 1;
            let client = self.clients.entry(request.client).or_insert_with(|| Client::new(index));
            if client.last_index == index {
                client.lowest = client.lowest.max(request.lowest);
                self.by_last.insert((index, request.client));
            }
        })?;
        if requests == 0 {
            return Ok(());
        }
        visit_requests(record, |RequestRef { client: id, sequence, memory, .. }| {
            if let Some(client) = self.clients.get_mut(&id).filter(|client| sequence >= client.lowest) {
                let memory = Bytes::copy_from_slice(memory);
                self.bytes += cost(&memory);
                client.remembered.insert(sequence, Remembered { index, memory });
                self.by_index.insert((index, id, sequence));
            }
        })?;
        self.requests += requests;
        self.entries.push_front(WindowEntry { index, first_revision, requests });
        Ok(())
    }

    /// Other bounds than those of service.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn set_bounds(&mut self, indexes: u64, requests: u64, bytes: usize) {
        self.bounds = Bounds { indexes, requests, bytes };
    }

    /// All that is remembered, in a form to compare.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn dump(&self) -> Vec<(ClientId, u64, u64, Bytes)> {
        let clients = self.clients.iter();
        let of = |(id, client): (&ClientId, &Client)| {
            let lowest = client.lowest;
            let id = *id;
            let all: Vec<_> = client.remembered.iter().map(|(s, r)| (id, lowest, *s, r.memory.clone())).collect();
            all
        };
        clients.flat_map(of).collect()
    }
}

impl Client {
    fn new(index: u64) -> Self {
        Self { remembered: BTreeMap::new(), lowest: 0, last_index: index }
    }
}

fn pop_first_if<T: Ord + Copy>(set: &mut BTreeSet<T>, condition: impl FnOnce(&T) -> bool) -> Option<T> {
    let first = set.first().copied().filter(condition)?;
    set.remove(&first);
    Some(first)
}

fn cost(memory: &Bytes) -> usize {
    memory.len() + REQUEST_OVERHEAD_BYTES
}

/// Kinds of commands, as remembered.
fn kind_of(command: &Command) -> u8 {
    match command {
        Command::Put(_) => 1,
        Command::Delete(_) => 2,
        Command::Txn(_) => 3,
        Command::CopyTree(_) => 4,
        Command::LeaseGrant { .. } => 5,
        Command::LeaseRevoke { .. } => 6,
        Command::LeaseCheckpoint(_) => 7,
        Command::Compact { .. } => 8,
        Command::SetStateVersion(_) => 9,
        Command::Scrub => 10,
    }
}

/// The kind is followed by a whole outcome.
const WHOLE: u8 = 0;
/// The kind is followed by what a put adds to its command: revision, lease, and the key if apply chose it.
const PUT: u8 = 1;

/// What is remembered: decision, revision and counts; neither values nor texts.
/// Its bytes are part of what members must agree on: they bound the window and enter the digest. So the words of a
/// rejection may change from one version of the program to the next, this form may not.
fn memory_of(command: &Command, outcome: &Outcome) -> Bytes {
    let mut out = vec![kind_of(command)];
    if let (Command::Put(put), Ok(Done::Put(done))) = (command, &outcome.result) {
        out.push(PUT);
        put_revision(&mut out, outcome.revision);
        put_lease(&mut out, done.lease);
        let chosen = Some(&done.key).filter(|key| **key != put.key);
        put_option(&mut out, chosen, |out, key| crate::codec::varint::put_bytes(out, key.as_bytes()));
    } else {
        out.push(WHOLE);
        put_outcome(&mut out, &without_values(outcome));
    }
    out.into()
}

/// The remembered answer for a command; `None` when another kind was remembered.
fn recall(memory: &Bytes, command: &Command) -> Result<Option<Outcome>, DecodeError> {
    let mut reader = Reader::sharing(memory);
    if reader.byte()? != kind_of(command) {
        return Ok(None);
    }
    let mut outcome = match (reader.byte()?, command) {
        (PUT, Command::Put(put)) => {
            let (revision, lease) = (reader.revision()?, reader.lease()?);
            let key = reader.option(Reader::key)?.unwrap_or_else(|| put.key.clone());
            Outcome { revision, replayed: true, result: Ok(Done::Put(PutDone { key, lease, previous: None })) }
        }
        (WHOLE, _) => read_outcome(&mut reader)?,
        (found, _) => return Err(DecodeError::UnknownKind { what: "a remembered request", found }),
    };
    reader.end()?;
    outcome.replayed = true;
    match &mut outcome.result {
        Err(Rejection::Precondition { reason, .. }) => {
            *reason = "it was not when this request was first decided".into();
        }
        Err(Rejection::Invalid(reason)) => *reason = "this request was refused as invalid when first decided".into(),
        _ => {}
    }
    Ok(Some(outcome))
}

fn without_values(outcome: &Outcome) -> Outcome {
    let result = match &outcome.result {
        Err(Rejection::Precondition { key, current, .. }) => {
            Err(Rejection::Precondition { key: key.clone(), reason: String::new(), current: *current })
        }
        Err(Rejection::Invalid(_)) => Err(Rejection::Invalid(String::new())),
        Ok(Done::Delete(done)) => Ok(Done::Delete(delete_without_values(done))),
        Ok(Done::Txn(txn)) => Ok(Done::Txn(txn_without_values(txn))),
        result => result.clone(),
    };
    Outcome { result, ..*outcome }
}

fn delete_without_values(done: &DeleteDone) -> DeleteDone {
    DeleteDone { deleted: done.deleted, previous: Vec::new() }
}

fn txn_without_values(txn: &TxnDone) -> TxnDone {
    let strip = |result: &TxnResult| match result {
        TxnResult::Range(range) => {
            TxnResult::Range(RangeDone { kvs: Vec::new(), more: range.more, count: range.count })
        }
        TxnResult::Put(put) => TxnResult::Put(PutDone { previous: None, ..put.clone() }),
        TxnResult::Delete(delete) => TxnResult::Delete(delete_without_values(delete)),
        TxnResult::Txn(txn) => TxnResult::Txn(txn_without_values(txn)),
    };
    TxnDone { succeeded: txn.succeeded, results: txn.results.iter().map(strip).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that acknowledges at once leaves nothing to remember, but its records are read at the next open.
    #[test]
    fn acknowledged_requests_count_although_nothing_of_them_is_kept() {
        let mut window = Window::default();
        window.set_bounds(100, 4, usize::MAX);
        let mut head = Head::default();
        for sequence in 1..=6u64 {
            let memory = Bytes::from_static(b"memory");
            let client = ClientId::new(7).unwrap();
            let index = sequence.div_ceil(2);
            window.take(index, Revision(2), &RequestEntry { client, sequence, lowest: sequence, memory });
            window.forget(index, &mut head);
            assert_eq!(window.dump().len(), 1);
        }
        assert_eq!((head.forgotten_index, window.entries.len(), window.requests), (1, 2, 4));
    }
}
