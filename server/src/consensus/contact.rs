//! What is heard of the members that send appends: when last, and whether a stream of theirs is open.
//!
//! Invariants:
//! - Each member is told apart: an append of one that led before is no word of the one that leads now.
//! - A stream counts as open from the moment it is taken until it has ended, whichever side ended it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_proto::MemberId;
use tokio::time::Instant;

/// What is heard, by member.
#[derive(Default)]
pub struct Contacts {
    heard: Mutex<HashMap<MemberId, Heard>>,
}

#[derive(Default)]
struct Heard {
    streams: usize,
    at: Option<Instant>,
}

/// An open stream of appends, until it is dropped.
pub struct AppendsFrom {
    contacts: Arc<Contacts>,
    member: MemberId,
}

impl Contacts {
    /// A member has opened a stream of appends.
    pub fn open(self: &Arc<Self>, member: MemberId) -> AppendsFrom {
        self.heard.lock().entry(member).or_default().streams += 1;
        AppendsFrom { contacts: self.clone(), member }
    }

    /// Whether a stream of its appends is open.
    pub fn is_open(&self, member: MemberId) -> bool {
        self.heard.lock().get(&member).is_some_and(|heard| heard.streams > 0)
    }

    /// When it was last heard of.
    pub fn heard(&self, member: MemberId) -> Option<Instant> {
        self.heard.lock().get(&member)?.at
    }

    /// When any member was last heard of.
    pub fn heard_any(&self) -> Option<Instant> {
        self.heard.lock().values().filter_map(|heard| heard.at).max()
    }
}

impl AppendsFrom {
    /// An append has arrived.
    pub fn arrived(&self) {
        self.contacts.heard.lock().entry(self.member).or_default().at = Some(Instant::now());
    }
}

impl Drop for AppendsFrom {
    fn drop(&mut self) {
        if let Some(heard) = self.contacts.heard.lock().get_mut(&self.member) {
            heard.streams = heard.streams.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> MemberId {
        MemberId::new(id).unwrap()
    }

    /// An append of a leader that was replaced counted as word of the one that leads now: a member that only the old one
    /// reached took itself for connected.
    #[test]
    fn an_append_of_one_member_is_no_word_of_another() {
        let contacts = Arc::new(Contacts::default());
        contacts.open(member(1)).arrived();
        assert!(contacts.heard(member(1)).is_some());
        assert_eq!(contacts.heard(member(2)), None);
        assert_eq!(contacts.heard_any(), contacts.heard(member(1)));
    }

    #[test]
    fn a_member_is_connected_until_its_last_stream_has_ended() {
        let contacts = Arc::new(Contacts::default());
        assert!(!contacts.is_open(member(1)));
        let (one, two) = (contacts.open(member(1)), contacts.open(member(1)));
        drop(one);
        assert!(contacts.is_open(member(1)));
        drop(two);
        assert!(!contacts.is_open(member(1)));
        assert_eq!(contacts.heard(member(1)), None, "it opened streams and said nothing");
    }
}
