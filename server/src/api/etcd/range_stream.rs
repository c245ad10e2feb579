//! `RangeStream`: a range in chunks, all of one revision.
//!
//! Invariants:
//! - The chunks merged are the answer that `Range` would have given at the revision of the first: header, `more` and
//!   count stand in the last one only.
//! - One chunk is read at a time, when the client has taken the one before; a compaction between two ends the stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream::Stream;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::{Key, Revision};
use quorate_state::command::{RangeQuery, Refine, Span};
use quorate_state::outcome::RangeDone;
use tokio::time::Instant;
use tonic::Status;

use super::errors::Refused;
use super::{answers, header, kv, requests};
use crate::api::errors::Trouble;
use crate::api::rooms::{Rooms, Weight};

/// Keys of the first chunk, and bytes that a chunk is to have about.
const FIRST_KEYS: usize = 10;
const CHUNK_BYTES: usize = 1_572_864;

type Chunks = Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

/// Checks the request and reads what the stream begins with.
pub async fn open(rooms: Arc<Rooms>, request: pb::RangeRequest, deadline: Instant) -> Result<Chunks, Refused> {
    let (serializable, ordered) = (request.serializable, request.sort_order != 0 || request.sort_target != 0);
    let query = requests::range(request)?;
    if ordered {
        return Err(Refused::not_streamed("custom sort orders"));
    }
    if query.refine != Refine::default() {
        return Err(Refused::not_streamed("revision filters"));
    }
    if !serializable {
        rooms.barrier(deadline).await?;
    }
    let reader = Reader { rooms, query, chunk_keys: FIRST_KEYS, revision: None, sent: 0, over: false };
    let mut first = VecDeque::new();
    let mut reader = Some(reader);
    if let Some(reader) = &mut reader {
        // Refusals of the request itself are the call's, not the stream's.
        first.push_back(Ok(reader.next().await?));
    }
    Ok(Box::pin(futures::stream::unfold((first, reader), |(mut first, reader)| async move {
        if let Some(chunk) = first.pop_front() {
            return Some((chunk, (first, reader)));
        }
        let mut reader = reader.filter(|reader| !reader.over)?;
        match reader.next().await {
            Ok(chunk) => Some((Ok(chunk), (first, Some(reader)))),
            Err(trouble) => Some((Err(Refused::from(trouble).into()), (first, None))),
        }
    })))
}

/// What of the range is still to come.
struct Reader {
    rooms: Arc<Rooms>,
    query: RangeQuery,
    chunk_keys: usize,
    revision: Option<Revision>,
    sent: u64,
    over: bool,
}

impl Reader {
    async fn next(&mut self) -> Result<pb::RangeStreamResponse, Trouble> {
        let limit = self.query.limit.map_or(self.chunk_keys, |limit| limit.min(self.chunk_keys));
        let chunk = RangeQuery { limit: Some(limit), count_all: false, ..self.query.clone() };
        let (mut done, revision) = if self.query.count_only {
            kv::read(&self.rooms, self.query.clone()).await?
        } else {
            self.rooms.read(Weight::Heavy, move |view| Ok((view.range(&chunk)?, view.revision()))).await?
        };
        let pinned = *self.revision.get_or_insert(revision);
        self.query.revision.get_or_insert(pinned);
        self.sent += u64::try_from(done.kvs.len()).unwrap_or(u64::MAX);
        let left = self.query.limit.map(|left| left.saturating_sub(done.kvs.len()));
        self.over = !done.more || left == Some(0);
        if !self.over {
            self.go_on(&done, left);
            let kvs = done.kvs.into_iter().map(answers::key_value).collect();
            let response = pb::RangeResponse { kvs, ..pb::RangeResponse::default() };
            return Ok(pb::RangeStreamResponse { range_response: Some(response) });
        }
        if !self.query.count_only {
            done.count = self.sent + if done.more { self.rest(&done).await? } else { 0 };
        }
        let response = answers::range(done, header(&self.rooms, pinned));
        Ok(pb::RangeStreamResponse { range_response: Some(response) })
    }

    fn go_on(&mut self, done: &RangeDone, left: Option<usize>) {
        let bytes: usize = done.kvs.iter().map(|kv| kv.key.as_bytes().len() + kv.value.len()).sum();
        if bytes < CHUNK_BYTES / 2 {
            self.chunk_keys = self.chunk_keys.saturating_mul(2);
        } else if bytes > CHUNK_BYTES * 2 {
            self.chunk_keys = (self.chunk_keys / 2).max(1);
        }
        self.query.span = self.after(done);
        self.query.limit = left;
    }

    /// What of the span comes after the last key read.
    fn after(&self, done: &RangeDone) -> Span {
        match (&self.query.span, done.kvs.last()) {
            (Span::Range { end, .. }, Some(last)) => {
                Span::Range { start: Key::after(last.key.as_bytes()).into(), end: end.clone() }
            }
            (span, _) => span.clone(),
        }
    }

    /// How many keys the limit has cut off.
    async fn rest(&self, done: &RangeDone) -> Result<u64, Trouble> {
        let query = RangeQuery { span: self.after(done), limit: None, count_only: true, ..self.query.clone() };
        Ok(kv::read(&self.rooms, query).await?.0.count)
    }
}
