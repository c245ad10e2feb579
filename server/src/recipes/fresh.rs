//! Holds that were granted here a moment ago. The leader says that a write is done before this member's store has it:
//! who gives a lock back at once would have to wait for that, though all that is to be known of the hold was written here.
//!
//! Invariants:
//! - What is remembered decides nothing: who writes by it compares the revision with what is there.
//! - It takes little memory, however far the store lags behind.

use std::collections::HashMap;

use parking_lot::Mutex;
use quorate_proto::{Key, Revision};
use quorate_state::command::{Owner, Put};
use quorate_state::outcome::{KeyValue, Meta};

/// So many holds at most, with values no longer than so many bytes: for others the store is waited for.
const HOLDS_MAX: usize = 512;
const VALUE_BYTES_MAX: usize = 2048;

/// See the module.
#[derive(Default)]
pub struct Fresh(Mutex<HashMap<Key, KeyValue>>);

impl Fresh {
    /// A hold came into being by this put, at revision `at`; the store has come to `has`.
    pub fn granted(&self, put: &Put, at: Revision, has: Revision) {
        let Some(value) = put.value.as_ref().filter(|value| at > has && value.len() <= VALUE_BYTES_MAX) else { return };
        let mut holds = self.0.lock();
        holds.retain(|_, kv| kv.meta.mod_revision > has);
        if holds.len() < HOLDS_MAX {
            let kv = KeyValue { key: put.key.clone(), value: value.clone(), meta: created(put.owner, at) };
            holds.insert(kv.key.clone(), kv);
        }
    }

    /// A hold as it was put, without its stamps, unless the store has it at `has`. It is forgotten.
    pub fn take(&self, key: &Key, has: Revision) -> Option<KeyValue> {
        self.0.lock().remove(key).filter(|kv| kv.meta.mod_revision > has)
    }
}

/// When it was written is known to the store alone, and asked of nobody here.
fn created(owner: Owner, at: Revision) -> Meta {
    let lease = match owner {
        Owner::Lease(lease) | Owner::Ttl { lease, .. } => Some(lease),
        Owner::None | Owner::Keep => None,
    };
    Meta { create_revision: at, mod_revision: at, version: 1, lease, created_ms: 0, modified_ms: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name.to_owned()).unwrap()
    }

    fn put(name: &str, value: usize) -> Put {
        Put::new(key(name), vec![0; value].into(), Owner::None)
    }

    #[test]
    fn what_the_store_does_not_have_yet_is_given_out_once() {
        let fresh = Fresh::default();
        fresh.granted(&put("a", 3), Revision(7), Revision(6));
        fresh.granted(&put("b", 3), Revision(6), Revision(6));
        fresh.granted(&put("c", 3), Revision(8), Revision(6));
        let found = fresh.take(&key("a"), Revision(6)).unwrap();
        assert_eq!(
            (found.value.len(), found.meta.mod_revision, found.meta.create_revision),
            (3, Revision(7), Revision(7))
        );
        assert_eq!(fresh.take(&key("a"), Revision(6)), None);
        assert_eq!(fresh.take(&key("b"), Revision(6)), None, "the store had it");
        assert_eq!(fresh.take(&key("c"), Revision(8)), None, "the store has it by now");
    }

    #[test]
    fn a_store_that_lags_far_behind_costs_little() {
        let fresh = Fresh::default();
        for at in 0..=HOLDS_MAX {
            fresh.granted(&put(&format!("long{at}"), VALUE_BYTES_MAX + 1), Revision(10), Revision(9));
            fresh.granted(&put(&format!("short{at}"), 0), Revision(10), Revision(9));
        }
        assert_eq!(fresh.0.lock().len(), HOLDS_MAX);
        assert_eq!(fresh.take(&key("long0"), Revision(9)), None);
        fresh.granted(&put("another", 0), Revision(11), Revision(10));
        assert_eq!(fresh.0.lock().len(), 1, "what the store has is forgotten");
    }
}
