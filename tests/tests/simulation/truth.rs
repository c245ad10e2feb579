//! What the members say of themselves, compared as it happens: whatever two of them apply at one log index is the same.
//!
//! Invariants:
//! - Every change of the whole run is here, compacted or not, as the first member that applied it has it.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use quorate_state::outcome::{Changes, RevisionChanges};

#[derive(Default)]
pub struct Truth {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By log index; entries that changed nothing are not told.
    revisions: BTreeMap<i64, RevisionChanges>,
    wrong: Vec<String>,
}

impl Truth {
    /// A member has applied an entry.
    pub fn applied(&self, member: u64, changes: &Changes) {
        let mut state = self.state.lock();
        for revision in &changes.revisions {
            let number = revision.revision.get();
            match state.revisions.get(&number) {
                Some(known) if known == revision => {}
                Some(known) => {
                    let text = format!("member {member} applied {revision:?}, another {known:?}");
                    state.wrong.push(text);
                }
                None => {
                    state.revisions.insert(number, revision.clone());
                }
            }
        }
    }

    /// Every change, in order of revisions.
    pub fn revisions(&self) -> Vec<RevisionChanges> {
        self.state.lock().revisions.values().cloned().collect()
    }

    /// Where members differed.
    pub fn wrong(&self) -> Vec<String> {
        self.state.lock().wrong.clone()
    }
}
