//! Watches of ranges, found by a key that they hold: an interval tree kept balanced as a treap.
//!
//! Invariants:
//! - Nodes are in order of (start, end); a node's priority is not below its children's.
//! - `reach` of a node is the greatest end in its subtree, so that whole subtrees that end too early are passed over.
//!
//! Example: with ranges [a,c), [b,z), [m,n), the key "d" passes over a subtree that reaches "c" only, looks at [b,z),
//! and does not go right of a node that starts after "d". The idea is the interval tree of Cormen et al., § 14.3.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;

use super::index::Group;
use super::watcher::Watcher;
use crate::chance;

/// Where a range ends. `Open` is after every key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    At(Bytes),
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::At(end) => key < &end[..],
            Self::Open => true,
        }
    }
}

type Link = Option<Box<Node>>;

struct Node {
    start: Bytes,
    end: End,
    reach: End,
    priority: u64,
    group: Group,
    left: Link,
    right: Link,
}

/// The ranges.
#[derive(Default)]
pub struct Ranges {
    root: Link,
}

impl Ranges {
    /// Adds a watcher of `[start, end)`.
    pub fn insert(&mut self, start: &Bytes, end: Option<&Bytes>, watcher: Arc<Watcher>) {
        insert(&mut self.root, (start, &end_of(end)), watcher);
    }

    /// Takes it out again.
    pub fn remove(&mut self, start: &Bytes, end: Option<&Bytes>, watcher_id: u64) {
        remove(&mut self.root, (start, &end_of(end)), watcher_id);
    }

    /// Calls `found` with the watchers of each range that holds `key`.
    pub fn holding<'a>(&'a self, key: &[u8], found: &mut impl FnMut(&'a Group)) {
        holding(&self.root, key, found);
    }
}

fn end_of(end: Option<&Bytes>) -> End {
    end.map_or(End::Open, |end| End::At(end.clone()))
}

fn holding<'a>(link: &'a Link, key: &[u8], found: &mut impl FnMut(&'a Group)) {
    let Some(node) = link else { return };
    if !node.reach.is_after(key) {
        return;
    }
    holding(&node.left, key, found);
    if node.start[..] <= *key {
        if node.end.is_after(key) {
            found(&node.group);
        }
        holding(&node.right, key, found);
    }
}

fn insert(link: &mut Link, range: (&Bytes, &End), watcher: Arc<Watcher>) {
    let Some(node) = link else {
        *link = Some(Box::new(Node {
            start: range.0.clone(),
            end: range.1.clone(),
            reach: range.1.clone(),
            priority: chance::draw(),
            group: Group::from([(watcher.id(), watcher)]),
            left: None,
            right: None,
        }));
        return;
    };
    match range.cmp(&(&node.start, &node.end)) {
        Ordering::Equal => {
            node.group.insert(watcher.id(), watcher);
        }
        Ordering::Less => {
            insert(&mut node.left, range, watcher);
            if node.left.as_ref().is_some_and(|left| left.priority > node.priority) {
                rotate_right(link);
            }
        }
        Ordering::Greater => {
            insert(&mut node.right, range, watcher);
            if node.right.as_ref().is_some_and(|right| right.priority > node.priority) {
                rotate_left(link);
            }
        }
    }
    update(link);
}

fn remove(link: &mut Link, range: (&Bytes, &End), watcher_id: u64) {
    let Some(node) = link else { return };
    match range.cmp(&(&node.start, &node.end)) {
        Ordering::Less => remove(&mut node.left, range, watcher_id),
        Ordering::Greater => remove(&mut node.right, range, watcher_id),
        Ordering::Equal => {
            node.group.remove(&watcher_id);
            if node.group.is_empty() {
                let (left, right) = (node.left.take(), node.right.take());
                *link = merge(left, right);
            }
        }
    }
    update(link);
}

/// Joins two trees of which all of `left` stands before all of `right`.
fn merge(left: Link, right: Link) -> Link {
    let mut merged = match (left, right) {
        (None, other) | (other, None) => return other,
        (Some(mut left), Some(right)) if left.priority >= right.priority => {
            left.right = merge(left.right.take(), Some(right));
            Some(left)
        }
        (left, Some(mut right)) => {
            right.left = merge(left, right.left.take());
            Some(right)
        }
    };
    update(&mut merged);
    merged
}

fn rotate_right(link: &mut Link) {
    let Some(mut node) = link.take() else { return };
    let Some(mut up) = node.left.take() else {
        *link = Some(node);
        return;
    };
    node.left = up.right.take();
    let mut down = Some(node);
    update(&mut down);
    up.right = down;
    *link = Some(up);
}

fn rotate_left(link: &mut Link) {
    let Some(mut node) = link.take() else { return };
    let Some(mut up) = node.right.take() else {
        *link = Some(node);
        return;
    };
    node.right = up.left.take();
    let mut down = Some(node);
    update(&mut down);
    up.left = down;
    *link = Some(up);
}

fn update(link: &mut Link) {
    let Some(node) = link else { return };
    let children = node.left.iter().chain(node.right.iter()).map(|child| &child.reach);
    node.reach = children.chain([&node.end]).max().unwrap_or(&node.end).clone();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::tests::watcher_of_range;

    #[test]
    fn finds_exactly_the_ranges_that_hold_a_key() {
        let mut state = 7_u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let mut ranges = Ranges::default();
        let mut model: Vec<(u64, Bytes, Option<Bytes>)> = Vec::new();
        for step in 0..2000 {
            if step % 3 == 2 && !model.is_empty() {
                let at = usize::try_from(next(model.len() as u64)).unwrap();
                let (id, start, end) = model.swap_remove(at);
                ranges.remove(&start, end.as_ref(), id);
            } else {
                let start = Bytes::from(format!("{:02}", next(100)));
                let end = (next(10) > 0).then(|| Bytes::from(format!("{:02}", next(100))));
                let watcher = watcher_of_range(step, start.clone(), end.clone());
                model.push((watcher.id(), start.clone(), end.clone()));
                ranges.insert(&start, end.as_ref(), watcher);
            }
            let key = format!("{:02}", next(100));
            let mut found = Vec::new();
            ranges.holding(key.as_bytes(), &mut |group| found.extend(group.keys().copied()));
            found.sort_unstable();
            let mut wanted: Vec<u64> = model
                .iter()
                .filter(|(_, start, end)| {
                    start[..] <= *key.as_bytes() && end.as_ref().is_none_or(|end| *key.as_bytes() < end[..])
                })
                .map(|(id, ..)| *id)
                .collect();
            wanted.sort_unstable();
            assert_eq!(found, wanted);
        }
    }
}
