//! Ids for writes that came without one, so that members may retry them at the next leader.
//!
//! Invariants:
//! - The client id is random, one for each start of the member; a sequence is used once.
//! - What is called acknowledged is: nobody waits for that sequence any more.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use quorate_proto::ClientId;
use quorate_state::command::RequestId;

use crate::chance;

/// Mints ids.
pub struct RequestIds {
    client: ClientId,
    state: Mutex<Outstanding>,
}

#[derive(Default)]
struct Outstanding {
    last: u64,
    sequences: BTreeSet<u64>,
}

/// An id in use; it is given back when this is dropped.
pub struct Minted<'a> {
    ids: &'a RequestIds,
    /// The id.
    pub id: RequestId,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self { client: random_client(), state: Mutex::default() }
    }
}

fn random_client() -> ClientId {
    loop {
        if let Some(client) = ClientId::new(chance::draw()) {
            return client;
        }
    }
}

impl RequestIds {
    /// A new id. `seen_index` is the newest log index applied here: the write is in no entry up to it.
    pub fn mint(&self, seen_index: u64) -> Minted<'_> {
        let mut state = self.state.lock();
        state.last += 1;
        let sequence = state.last;
        state.sequences.insert(sequence);
        let lowest_unacknowledged = state.sequences.first().copied().unwrap_or(sequence);
        Minted { ids: self, id: RequestId { client: self.client, sequence, lowest_unacknowledged, seen_index } }
    }
}

impl Drop for Minted<'_> {
    fn drop(&mut self) {
        self.ids.state.lock().sequences.remove(&self.id.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_outstanding_sequence_is_told() {
        let ids = RequestIds::default();
        let one = ids.mint(5);
        let two = ids.mint(5);
        assert_eq!((one.id.sequence, two.id.sequence, two.id.lowest_unacknowledged), (1, 2, 1));
        drop(one);
        assert_eq!(ids.mint(6).id.lowest_unacknowledged, 2);
        drop(two);
        let last = ids.mint(7);
        assert_eq!((last.id.sequence, last.id.lowest_unacknowledged, last.id.seen_index), (4, 4, 7));
    }
}
