//! Live watches, found by a key that changed.
//!
//! Invariants:
//! - A change costs only the watches that match it: one look-up for the key, one for its directory, one for each of
//!   its ancestors, and a descent into the ranges.
//! - A watcher stands in exactly one place, so it is found at most once for a key.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{Key, Path};

use super::interest::Scope;
use super::ranges::Ranges;
use super::watcher::Watcher;

/// Watchers of the same thing, by id.
pub type Group = BTreeMap<u64, Arc<Watcher>>;

/// The index.
#[derive(Default)]
pub struct Index {
    keys: HashMap<Key, Group>,
    children: HashMap<Bytes, Group>,
    subtrees: HashMap<Bytes, Group>,
    ranges: Ranges,
    all: Group,
}

impl Index {
    /// How many watchers.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether the watcher is in it.
    #[cfg(test)]
    pub fn contains(&self, watcher_id: u64) -> bool {
        self.all.contains_key(&watcher_id)
    }

    /// Adds a watcher.
    pub fn insert(&mut self, watcher: &Arc<Watcher>) {
        let id = watcher.id();
        assert!(self.all.insert(id, Arc::clone(watcher)).is_none(), "a watcher joins once");
        let watcher = Arc::clone(watcher);
        match &watcher.interest().scope {
            Scope::Key(key) => {
                let key = key.clone();
                self.keys.entry(key).or_default().insert(id, watcher);
            }
            Scope::Children(directory) => {
                let directory = directory.clone();
                self.children.entry(directory).or_default().insert(id, watcher);
            }
            Scope::Subtree(top) => {
                let top = top.clone();
                self.subtrees.entry(top).or_default().insert(id, watcher);
            }
            Scope::Range { start, end } => {
                let (start, end) = (start.clone(), end.clone());
                self.ranges.insert(&start, end.as_ref(), watcher);
            }
        }
    }

    /// Takes a watcher out; nothing happens when it is not in it.
    pub fn remove(&mut self, watcher: &Watcher) {
        let id = watcher.id();
        if self.all.remove(&id).is_none() {
            return;
        }
        match &watcher.interest().scope {
            Scope::Key(key) => remove_from(&mut self.keys, key, id),
            Scope::Children(directory) => remove_from(&mut self.children, directory, id),
            Scope::Subtree(top) => remove_from(&mut self.subtrees, top, id),
            Scope::Range { start, end } => self.ranges.remove(start, end.as_ref(), id),
        }
    }

    /// Takes all watchers out.
    pub fn drain(&mut self) -> Group {
        std::mem::take(self).all
    }

    /// Calls `found` with each watcher whose scope holds `key`.
    pub fn matching<'a>(&'a self, key: &Key, mut found: impl FnMut(&'a Arc<Watcher>)) {
        let mut group = |group: &'a Group| group.values().for_each(&mut found);
        if let Some(watchers) = self.keys.get(key) {
            group(watchers);
        }
        self.ranges.holding(key.as_bytes(), &mut group);
        if self.children.is_empty() && self.subtrees.is_empty() {
            return;
        }
        let Some(path) = Path::of(key) else { return };
        if let Some(watchers) = self.children.get(path.parent()) {
            group(watchers);
        }
        if self.subtrees.is_empty() {
            return;
        }
        for ancestor in ancestors(path.as_bytes()) {
            if let Some(watchers) = self.subtrees.get(ancestor) {
                group(watchers);
            }
        }
    }
}

/// The path itself and all directories above it: `/a/b`, `/a`, `/`.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| match path.iter().rposition(|byte| *byte == b'/') {
        _ if path.len() <= 1 => None,
        Some(0) => Some(&path[..1]),
        Some(slash) => Some(&path[..slash]),
        None => None,
    })
}

fn remove_from<K, Q>(groups: &mut HashMap<K, Group>, key: &Q, id: u64)
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(group) = groups.get_mut(key) {
        group.remove(&id);
        if group.is_empty() {
            groups.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::tests::watcher_of;

    #[test]
    fn ancestors_end_at_the_root() {
        let found: Vec<&[u8]> = ancestors(b"/a/bc/d").collect();
        assert_eq!(found, [&b"/a/bc/d"[..], b"/a/bc", b"/a", b"/"]);
        assert_eq!(ancestors(b"/a").count(), 2);
    }

    #[test]
    fn the_index_agrees_with_each_watchers_own_opinion() {
        let scopes = [
            Scope::Key(Key::new("/a/b").unwrap()),
            Scope::Key(Key::new("plain").unwrap()),
            Scope::Children("/a".into()),
            Scope::Children("/".into()),
            Scope::Subtree("/a".into()),
            Scope::Subtree("/a/b".into()),
            Scope::Subtree("/".into()),
            Scope::Range { start: "/a".into(), end: Some("/b".into()) },
            Scope::Range { start: Bytes::new(), end: None },
        ];
        let watchers: Vec<_> = scopes.into_iter().zip(1..).map(|(scope, id)| watcher_of(id, scope)).collect();
        let mut index = Index::default();
        for watcher in &watchers {
            index.insert(watcher);
        }
        for round in 0..2 {
            for key in ["/a", "/a/b", "/a/b/c", "/ab", "/b", "plain", "/a//b", "zzz"] {
                let key = Key::new(key).unwrap();
                let mut found = Vec::new();
                index.matching(&key, |watcher| found.push(watcher.id()));
                found.sort_unstable();
                let wanted: Vec<u64> = watchers
                    .iter()
                    .filter(|watcher| index.contains(watcher.id()) && watcher.interest().holds(&key))
                    .map(|watcher| watcher.id())
                    .collect();
                assert_eq!(found, wanted, "{key} in round {round}");
            }
            for watcher in watchers.iter().step_by(2) {
                index.remove(watcher);
            }
        }
        for watcher in &watchers {
            index.remove(watcher);
        }
        assert_eq!(index.len(), 0);
        assert!(index.keys.is_empty() && index.children.is_empty() && index.subtrees.is_empty());
    }
}
