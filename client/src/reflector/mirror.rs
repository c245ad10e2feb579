//! The tree that a reflector shows, and who listens to its changes.
//!
//! Invariants:
//! - The tree changes and is announced under one lock, so that a subscriber misses and repeats nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::Revision;
use tokio::sync::{broadcast, watch};

use super::{Tree, is_path};
use crate::error::Error;
use crate::types::KeyValue;
use crate::watch::{Event, EventKind, ProgressRequester, WatchEvents};

/// Transactions that a slow listener may be behind before it gets the whole tree instead.
const BEHIND_MAX: usize = 1024;

pub(super) struct Mirror {
    state: Mutex<State>,
    position: watch::Sender<Position>,
    requester: Mutex<ProgressRequester>,
}

/// How far the tree has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub(super) revision: Revision,
    /// It will not come further.
    pub(super) failed: bool,
}

struct State {
    tree: Tree,
    /// `None` once the reflector has failed.
    listeners: Option<broadcast::Sender<Arc<WatchEvents>>>,
    failure: Option<Error>,
}

impl Mirror {
    pub(super) fn new(tree: Tree, requester: ProgressRequester) -> Self {
        let position = watch::Sender::new(Position { revision: tree.revision, failed: false });
        let listeners = Some(broadcast::Sender::new(BEHIND_MAX));
        let state = Mutex::new(State { tree, listeners, failure: None });
        Self { state, position, requester: Mutex::new(requester) }
    }

    pub(super) fn tree(&self) -> Tree {
        self.state.lock().tree.clone()
    }

    pub(super) fn revision(&self) -> Revision {
        self.state.lock().tree.revision
    }

    pub(super) fn position(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    pub(super) fn request_progress(&self) {
        self.requester.lock().request();
    }

    /// There is another watch to ask for progress.
    pub(super) fn set_requester(&self, requester: ProgressRequester) {
        *self.requester.lock() = requester;
    }

    pub(super) fn failure(&self) -> Error {
        self.state.lock().failure.clone().unwrap_or(Error::Closed)
    }

    /// The tree, and what changes it from then on.
    pub(super) fn subscribe(&self) -> (Tree, broadcast::Receiver<Arc<WatchEvents>>) {
        let state = self.state.lock();
        let receiver = match &state.listeners {
            Some(listeners) => listeners.subscribe(),
            // Closed at once.
            None => broadcast::Sender::new(1).subscribe(),
        };
        (state.tree.clone(), receiver)
    }

    /// Takes in what one revision changed, or a mark of progress.
    pub(super) fn take(&self, mut changes: WatchEvents) {
        changes.events.retain(|event| is_path(&event.kv.key));
        let mut state = self.state.lock();
        if !changes.events.is_empty() {
            let kvs = Arc::make_mut(&mut state.tree.kvs);
            for event in &mut changes.events {
                event.previous = match event.kind {
                    EventKind::Put => kvs.insert(event.kv.key.clone(), event.kv.clone()),
                    EventKind::Delete => kvs.remove(&event.kv.key),
                };
            }
        }
        state.moved_to(changes);
        self.position.send_replace(Position { revision: state.tree.revision, failed: false });
    }

    /// Takes in the subtree as it was read anew, and tells the difference.
    pub(super) fn replace(&self, revision: Revision, kvs: BTreeMap<Bytes, KeyValue>) {
        let mut state = self.state.lock();
        let events = difference(&state.tree.kvs, &kvs, revision);
        state.tree.kvs = Arc::new(kvs);
        state.moved_to(WatchEvents { revision, events });
        self.position.send_replace(Position { revision: state.tree.revision, failed: false });
    }

    /// The reflector cannot go on.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        state.failure = Some(error);
        state.listeners = None;
        self.position.send_replace(Position { revision: state.tree.revision, failed: true });
    }
}

impl State {
    fn moved_to(&mut self, changes: WatchEvents) {
        self.tree.revision = self.tree.revision.max(changes.revision);
        if let (false, Some(listeners)) = (changes.events.is_empty(), &self.listeners) {
            // An error says that nobody listens.
            let _ = listeners.send(Arc::new(changes));
        }
    }
}

/// What turns one tree into the other, in byte order.
fn difference(old: &BTreeMap<Bytes, KeyValue>, new: &BTreeMap<Bytes, KeyValue>, revision: Revision) -> Vec<Event> {
    let gone = old.values().filter(|kv| !new.contains_key(&kv.key)).map(|kv| Event {
        kind: EventKind::Delete,
        kv: KeyValue {
            key: kv.key.clone(),
            value: Bytes::new(),
            create_revision: Revision::ZERO,
            mod_revision: revision,
            version: 0,
            lease: None,
            created_unix_ms: 0,
            modified_unix_ms: 0,
        },
        previous: Some(kv.clone()),
        lease_ended: false,
    });
    let put = new.values().filter(|kv| old.get(&kv.key) != Some(*kv)).map(|kv| Event {
        kind: EventKind::Put,
        kv: kv.clone(),
        previous: old.get(&kv.key).cloned(),
        lease_ended: false,
    });
    let mut events: Vec<Event> = gone.chain(put).collect();
    events.sort_by(|a, b| a.kv.key.cmp(&b.kv.key));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, mod_revision: i64) -> KeyValue {
        let wire = quorate_proto::v1::KeyValue { key: key.into(), mod_revision, ..Default::default() };
        wire.into()
    }

    fn tree(kvs: &[KeyValue]) -> BTreeMap<Bytes, KeyValue> {
        kvs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect()
    }

    #[test]
    fn the_difference_is_what_changed_with_what_was_there() {
        let old = tree(&[kv("/a", 2), kv("/b", 3), kv("/c", 4)]);
        let new = tree(&[kv("/a", 2), kv("/c", 9), kv("/d", 8)]);
        let events = difference(&old, &new, Revision(10));
        let shape: Vec<_> = events
            .iter()
            .map(|event| (event.kind, event.kv.key_text(), event.kv.mod_revision.get(), event.previous.is_some()))
            .collect();
        assert_eq!(
            shape,
            [
                (EventKind::Delete, "/b".into(), 10, true),
                (EventKind::Put, "/c".into(), 9, true),
                (EventKind::Put, "/d".into(), 8, false),
            ]
        );
    }

    #[tokio::test]
    async fn a_subscriber_gets_what_comes_after_its_tree() {
        let first = Tree { revision: Revision(5), kvs: Arc::new(tree(&[kv("/a", 2)])) };
        let mirror = Mirror::new(first, ProgressRequester::default());
        let (begin, mut changes) = mirror.subscribe();
        mirror.replace(Revision(7), tree(&[kv("/a", 6)]));
        assert_eq!((begin.revision(), begin.get("/a").unwrap().mod_revision), (Revision(5), Revision(2)));
        let change = changes.recv().await.unwrap();
        assert_eq!((change.revision, change.events.len()), (Revision(7), 1));
        assert_eq!(mirror.revision(), Revision(7));
    }
}
