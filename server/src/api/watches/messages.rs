//! Events, packed into messages that are ready to be sent.
//!
//! Invariants:
//! - Events of one revision stand in one message, or in fragments: all but the last of these say that more follow.
//! - A message ends when it is over [`MESSAGE_BYTES_MAX`] and a revision does; a fragment is under
//!   [`FRAGMENT_BYTES_MAX`], unless a single event is over it.
//! - A message is the same, byte for byte in its events, whether they were shared or not.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use quorate_proto::Revision;

use super::Dialect;
use crate::api::limits::FRAGMENT_BYTES_MAX;
use crate::watch::{Encoded, Picked, Published};
use quorate_state::flaw::Flaw;

/// Events of several revisions in one message, at most about so many bytes; one message of a slow client waits in
/// memory.
const MESSAGE_BYTES_MAX: usize = 32 << 10;
/// What no message may reach, even without fragments: its length has 32 bits.
const UNFRAGMENTED_BYTES_MAX: usize = 1 << 30;
/// A revision of more changes is not shared: whoever wants one of them would make all the others.
const SHARED_CHANGES_MAX: usize = 1_024;
/// Of gRPC, before each message: not compressed, and how long it is.
const PREFIX_BYTES: usize = 5;

/// Messages that wait to be sent.
pub type Frames = VecDeque<Bytes>;

/// What stands before each element of a repeated field of messages.
pub const fn field_of_messages(number: u8) -> u8 {
    assert!(number < 16, "larger numbers take two bytes");
    number << 3 | 2
}

/// A message without events.
pub fn frame(message: &impl Message) -> Bytes {
    with_events(message, &[])
}

/// Packs what a watch was given.
pub fn pack<D: Dialect>(dialect: &mut D, tag: u64, items: Vec<Picked>, fragments: bool, frames: &mut Frames) {
    let is_alone = items.len() == 1;
    let bytes_max = if fragments { FRAGMENT_BYTES_MAX } else { UNFRAGMENTED_BYTES_MAX };
    let mut packing = Packing { dialect, tag, bytes_max, frames, events: BytesMut::new(), last: Revision::ZERO };
    for picked in items {
        let stands_alone = is_alone || picked.item.bytes >= MESSAGE_BYTES_MAX;
        if stands_alone || packing.events.len() >= MESSAGE_BYTES_MAX {
            packing.close(false);
        }
        if !(stands_alone && packing.add_whole(&picked)) {
            packing.add(&picked);
        }
    }
    packing.close(false);
}

struct Packing<'a, D> {
    dialect: &'a mut D,
    tag: u64,
    bytes_max: usize,
    frames: &'a mut Frames,
    /// Of the message that is open.
    events: BytesMut,
    /// Revision of the last of them.
    last: Revision,
}

impl<D: Dialect> Packing<'_, D> {
    /// Adds the message that all streams share, if this one would write the same. None may be open.
    fn add_whole(&mut self, picked: &Picked) -> bool {
        if picked.changes.len() != picked.item.changes.len() || Flaw::TornTransaction.is_put_in() {
            return false;
        }
        let Some(encoded) = self.shared(picked) else { return false };
        let revision = self.dialect.says(self.tag, picked.item.revision);
        let fits = |message: &&Bytes| message.len() <= self.bytes_max || picked.changes.len() == 1;
        let Some(message) = encoded.message(self.tag, revision).filter(fits) else { return false };
        self.frames.push_back(message.clone());
        true
    }

    fn add(&mut self, picked: &Picked) {
        let shared = self.shared(picked);
        let Picked { item, changes, previous } = picked;
        let mut previous = previous.iter().cloned();
        for at in changes.iter().copied() {
            if let Some(bytes) = shared.and_then(|shared| shared.event(at)) {
                self.make_room(bytes.len(), item.revision);
                self.events.extend_from_slice(bytes);
            } else if let Some(change) = item.changes.get(at as usize) {
                let event = D::event(change, item.revision, previous.next().flatten());
                self.make_room(event.encoded_len(), item.revision);
                put_event::<D>(&event, &mut self.events);
            }
            self.last = item.revision;
            if Flaw::TornTransaction.is_put_in() {
                self.close(false);
            }
        }
    }

    /// What the streams share of this revision. Nobody else has what was read from history for this one alone.
    fn shared<'p>(&self, picked: &'p Picked) -> Option<&'p Encoded> {
        let item = &picked.item;
        let is_shared = picked.previous.is_empty() && item.changes.len() <= SHARED_CHANGES_MAX;
        if !is_shared || Arc::strong_count(item) == 1 {
            return None;
        }
        Some(item.encoded(D::WIRE, || encode(&*self.dialect, self.tag, item)))
    }

    fn make_room(&mut self, bytes: usize, revision: Revision) {
        if self.events.len() + bytes > self.bytes_max {
            self.close(self.last == revision);
        }
    }

    /// Ends the open message, if there is one.
    fn close(&mut self, fragment: bool) {
        if self.events.is_empty() {
            return;
        }
        let revision = self.dialect.says(self.tag, self.last);
        let head = self.dialect.head(self.tag, revision, fragment);
        self.frames.push_back(with_events(&head, &self.events));
        self.events.clear();
    }
}

/// The message of all changes of a revision.
fn encode<D: Dialect>(dialect: &D, tag: u64, item: &Published) -> Encoded {
    let head = dialect.head(tag, item.revision, false);
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + head.encoded_len() + item.bytes);
    message.put_bytes(0, PREFIX_BYTES);
    put(&head, &mut message);
    let mut bounds = Vec::with_capacity(item.changes.len() + 1);
    bounds.push(message.len());
    for change in &item.changes {
        put_event::<D>(&D::event(change, item.revision, None), &mut message);
        bounds.push(message.len());
    }
    let prefix = prefix(message.len() - PREFIX_BYTES);
    message[..PREFIX_BYTES].copy_from_slice(&prefix);
    Encoded::new(message.freeze(), tag, item.revision, bounds.into())
}

fn with_events(head: &impl Message, events: &[u8]) -> Bytes {
    let bytes = head.encoded_len() + events.len();
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + bytes);
    message.extend_from_slice(&prefix(bytes));
    put(head, &mut message);
    message.extend_from_slice(events);
    message.freeze()
}

fn prefix(bytes: usize) -> [u8; PREFIX_BYTES] {
    let Ok(bytes) = u32::try_from(bytes) else { unreachable!("a message of {bytes} bytes was split") };
    let [a, b, c, d] = bytes.to_be_bytes();
    [0, a, b, c, d]
}

fn put_event<D: Dialect>(event: &D::Event, buffer: &mut BytesMut) {
    buffer.put_u8(D::EVENTS_FIELD);
    let written = event.encode_length_delimited(buffer);
    assert!(written.is_ok(), "the buffer grows");
}

fn put(message: &impl Message, buffer: &mut BytesMut) {
    let written = message.encode(buffer);
    assert!(written.is_ok(), "the buffer grows");
}

#[cfg(test)]
mod tests;
