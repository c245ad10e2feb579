//! The events of a revision as one wire has them: made by the first stream that sends them, shared by all others.
//!
//! Ids of watches count from the same number in most streams, so that not only the events but whole messages are the
//! same; those are shared without a copy, also by what waits in the buffers of slow connections.
//!
//! Invariants:
//! - All changes of the revision are in it, in order, without previous values.
//! - A message is shared only by streams that would write the same head, its term aside: that is the term of the moment
//!   at which it was written.

use bytes::Bytes;
use quorate_proto::Revision;

/// The wires that events are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// `quorate.v1`.
    Native,
    /// etcd's.
    Etcd,
}

/// How many wires there are.
pub const WIRES: usize = 2;

/// The events of one revision.
#[derive(Debug)]
pub struct Encoded {
    message: Bytes,
    tag: u64,
    revision: Revision,
    bounds: Box<[usize]>,
}

impl Encoded {
    /// Of a message whose head says `tag` and `revision`. The first of `bounds` is where its events begin, the others
    /// are where each of them ends.
    ///
    /// # Panics
    /// When something follows the events.
    pub fn new(message: Bytes, tag: u64, revision: Revision, bounds: Box<[usize]>) -> Self {
        assert!(bounds.last() == Some(&message.len()), "the last event ends the message");
        Self { message, tag, revision, bounds }
    }

    /// The message with all events, for those whose head would say the same.
    pub fn message(&self, tag: u64, revision: Revision) -> Option<&Bytes> {
        (self.tag == tag && self.revision == revision).then_some(&self.message)
    }

    /// One event, as it stands in a message.
    pub fn event(&self, change: u32) -> Option<&[u8]> {
        let bounds = self.bounds.get(change as usize..)?;
        self.message.get(*bounds.first()?..*bounds.get(1)?)
    }
}
