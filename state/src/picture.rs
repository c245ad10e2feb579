//! Stretches of the key space that are read often, in memory, with every key in them as it is now.
//!
//! In an ordered store a range over keys that are overwritten, or come and go, passes over all that they once were.
//! Here it does not, and what is read again is not decoded again.
//!
//! Invariants:
//! - A stretch has every key between its bounds as of the picture's head, with metadata and value: a key that is not in
//!   it does not exist. Stretches do not overlap.
//! - What was found in a store is taken in only at the very entry that it was found at.
//! - A picture takes at most the bytes that it may, by its own count, and it is no part of the state: what it has
//!   depends on what was read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use imbl::OrdMap;
use quorate_proto::Key;

use crate::apply::{Applied, LogPosition, Machine};
use crate::codec::records::Head;
use crate::command::{RangeQuery, Refine};
use crate::flaw::Flaw;
use crate::history::{self, Bounds, Gathering};
use crate::outcome::{Change, ChangeKind, KeyValue, Meta, RangeDone};
use crate::store::Store;

/// Keys of a stretch when it is made, and twice as many when it is cut in two. Few: a change may have to copy them.
const STRETCH_KEYS: usize = 32;
/// What a key takes besides itself and its value, and a stretch besides its keys, roughly.
const KEY_BYTES: usize = 192;
const STRETCH_BYTES: usize = 256;
/// Answers with as many keys are not taken in, nor given: long scans come in steps, and readers of pictures are in a hurry.
const KEYS_MAX: usize = 1_024;
/// Nor are such taken in that are a larger share of the whole.
const SHARE_MAX: usize = 4;

/// See the module. A clone is cheap and does not change any more.
#[derive(Debug, Clone)]
pub struct Picture {
    pub(crate) head: Head,
    stretches: OrdMap<Bytes, Arc<Stretch>>,
    bytes: usize,
    bytes_max: usize,
    /// Where the search for what was not read lately goes on.
    hand: Bytes,
}

/// By where it starts.
#[derive(Debug)]
struct Stretch {
    /// The first key that is not of it; `None`: there is none above.
    end: Option<Bytes>,
    kvs: Vec<KeyValue>,
    /// Since the hand came by.
    was_read: AtomicBool,
}

/// The picture does not have all that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotKnown;

/// What a range found in a store, for the picture.
#[derive(Debug)]
pub struct Found {
    head: Head,
    bounds: Bounds,
    kvs: Vec<KeyValue>,
}

impl Picture {
    /// An empty one of what a machine has, that takes so many bytes at most.
    pub fn new<S: Store>(machine: &Machine<S>, bytes_max: usize) -> Self {
        Self { head: machine.head, stretches: OrdMap::new(), bytes: 0, bytes_max, hand: Bytes::new() }
    }

    /// The last applied log entry.
    pub fn applied(&self) -> Option<LogPosition> {
        self.head.applied
    }

    /// Bytes that it takes, roughly.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<&KeyValue>, NotKnown> {
        let stretch = self.stretches.get_prev(key).map(|(_, stretch)| stretch).filter(|stretch| stretch.reaches(key));
        let stretch = stretch.ok_or(NotKnown)?;
        stretch.is_read();
        Ok(stretch.position(key).ok().map(|at| &stretch.kvs[at]))
    }

    /// Answers a query for the newest.
    pub(crate) fn range(&self, query: &RangeQuery) -> Result<RangeDone, NotKnown> {
        if query.descending || query.refine != Refine::default() {
            return Err(NotKnown);
        }
        let bounds = history::bounds_of(&query.span);
        if query.count_only {
            return Ok(RangeDone { count: self.count(&bounds)?, ..RangeDone::default() });
        }
        let mut gathering = Gathering::new(query);
        for bounds in &bounds {
            self.visit(bounds, |kv| {
                let value = if query.keys_only { Bytes::new() } else { kv.value.clone() };
                gathering.take(KeyValue { key: kv.key.clone(), value, meta: kv.meta })
            })?;
            if gathering.is_full() {
                break;
            }
        }
        gathering.done(|| self.count(&bounds))
    }

    fn count(&self, bounds: &[Bounds]) -> Result<u64, NotKnown> {
        let mut count = 0;
        for bounds in bounds {
            self.visit(bounds, |_| {
                count += 1;
                true
            })?;
        }
        Ok(count)
    }

    /// Visits the keys of the bounds in order, until `visit` says false.
    fn visit(&self, (start, end): &Bounds, mut visit: impl FnMut(&KeyValue) -> bool) -> Result<(), NotKnown> {
        let (first, stretch) = self.stretches.get_prev(start).ok_or(NotKnown)?;
        if !stretch.reaches(start) {
            return Err(NotKnown);
        }
        let (mut known_upto, mut left) = (first, KEYS_MAX);
        for (from, stretch) in self.stretches.range(first.clone()..) {
            if from != known_upto {
                return Err(NotKnown);
            }
            stretch.is_read();
            let before = if from == first { stretch.kvs.partition_point(|kv| kv.key.as_bytes() < start) } else { 0 };
            left = left.checked_sub(stretch.kvs.len()).ok_or(NotKnown)?;
            for kv in &stretch.kvs[before..] {
                if end.as_ref().is_some_and(|end| kv.key.as_bytes() >= end) || !visit(kv) {
                    return Ok(());
                }
            }
            known_upto = match &stretch.end {
                Some(upto) if end.as_ref().is_none_or(|end| upto < end) => upto,
                _ => return Ok(()),
            };
        }
        Err(NotKnown)
    }

    /// Becomes the picture of what the machine has now, which is further by these entries.
    pub fn follow<S: Store>(&mut self, machine: &Machine<S>, applied: &[Applied]) {
        self.head = machine.head;
        if self.stretches.is_empty() {
            return;
        }
        let revisions = applied.iter().flat_map(|applied| &applied.changes.revisions);
        for change in revisions.flat_map(|revision| &revision.changes) {
            if !Flaw::StalePicture.happens(20) {
                self.change(change);
            }
        }
        self.shrink();
    }

    fn change(&mut self, change: &Change) {
        let key = change.key.as_bytes();
        // Looked at first: what a reader holds too is copied on the way to what may change.
        let is_known = self.stretches.get_prev(key).is_some_and(|(_, stretch)| stretch.reaches(key));
        let Some((_, stretch)) = self.stretches.get_prev_mut(key).filter(|_| is_known) else { return };
        let stretch = Arc::make_mut(stretch);
        self.bytes -= stretch.bytes();
        match (&change.kind, stretch.position(key)) {
            (ChangeKind::Put { meta, value }, Ok(at)) => stretch.kvs[at] = owned(&change.key, value, *meta),
            (ChangeKind::Put { meta, value }, Err(at)) => stretch.kvs.insert(at, owned(&change.key, value, *meta)),
            (ChangeKind::Delete { .. }, Ok(at)) => drop(stretch.kvs.remove(at)),
            (ChangeKind::Delete { .. }, Err(_)) => {}
        }
        let cut_off = stretch.cut();
        self.bytes += stretch.bytes();
        if let Some((start, half)) = cut_off {
            self.insert(start, half);
        }
    }

    /// Takes in what was found, if nothing was applied since.
    pub fn learn(&mut self, found: impl IntoIterator<Item = Found>) {
        for found in found {
            self.learn_one(found);
        }
    }

    fn learn_one(&mut self, found: Found) {
        let Found { head, bounds: (start, end), kvs } = found;
        let bytes: usize = kvs.iter().map(bytes_of).sum();
        let is_empty = end.as_ref().is_some_and(|end| *end <= start);
        if is_empty || head.applied != self.head.applied || bytes > self.bytes_max / SHARE_MAX {
            return;
        }
        let (mut start, end) = (Bytes::copy_from_slice(&start), end.as_deref().map(Bytes::copy_from_slice));
        self.forget(&start, end.as_ref());
        let mut parts = kvs.chunks(STRETCH_KEYS).peekable();
        loop {
            let part = parts.next().unwrap_or_default().iter();
            let part = part.map(|kv| owned(&kv.key, &kv.value, kv.meta)).collect();
            let next = parts.peek().and_then(|part| part.first());
            let next = next.map(|kv| Bytes::copy_from_slice(kv.key.as_bytes()));
            self.insert(start, Stretch::new(next.clone().or_else(|| end.clone()), part));
            match next {
                Some(next) => start = next,
                None => break,
            }
        }
        self.shrink();
    }

    fn insert(&mut self, start: Bytes, stretch: Stretch) {
        self.bytes += stretch.bytes();
        self.stretches.insert(start, Arc::new(stretch));
    }

    /// Leaves nothing of the bounds.
    fn forget(&mut self, start: &Bytes, end: Option<&Bytes>) {
        let before = self.stretches.get_prev(start).filter(|(from, stretch)| *from < start && stretch.reaches(start));
        let mut at = before.map_or_else(|| start.clone(), |(from, _)| from.clone());
        while let Some((from, _)) = self.stretches.get_next(&at) {
            if end.is_some_and(|end| from >= end) {
                return;
            }
            at = from.clone();
            let Some(stretch) = self.remove(&at) else { return };
            if at < *start {
                let kept = stretch.kvs.partition_point(|kv| kv.key.as_bytes() < start);
                self.insert(at.clone(), Stretch::new(Some(start.clone()), stretch.kvs[..kept].to_vec()));
                at = start.clone();
            }
            if let Some(end) = end.filter(|end| stretch.end.as_ref().is_none_or(|upto| upto > *end)) {
                let kept = stretch.kvs.partition_point(|kv| kv.key.as_bytes() < end);
                self.insert(end.clone(), Stretch::new(stretch.end.clone(), stretch.kvs[kept..].to_vec()));
            }
        }
    }

    /// Panics where an invariant does not hold.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn audit(&self) {
        let mut known_upto = Some(&Bytes::new());
        let mut bytes = 0;
        for (start, stretch) in &self.stretches {
            let follows = known_upto.is_some_and(|upto| upto <= start);
            let is_sorted = stretch.kvs.is_sorted_by(|left, right| left.key < right.key);
            let is_within =
                stretch.kvs.iter().all(|kv| *start <= kv.key.as_bytes() && stretch.reaches(kv.key.as_bytes()));
            assert!(follows && is_sorted && is_within && stretch.reaches(start), "{start:?} {stretch:?}");
            (known_upto, bytes) = (stretch.end.as_ref(), bytes + stretch.bytes());
        }
        assert_eq!(bytes, self.bytes, "bytes are counted");
        assert!(bytes <= self.bytes_max, "{bytes} bytes, {} may be", self.bytes_max);
    }

    fn remove(&mut self, start: &Bytes) -> Option<Arc<Stretch>> {
        let stretch = self.stretches.remove(start)?;
        self.bytes -= stretch.bytes();
        Some(stretch)
    }

    /// Leaves out what was not read since the hand came by last: the clock of Corbató's "A paging experiment with the
    /// Multics system" (1968).
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max {
            let next = self.stretches.get_next(&self.hand).or_else(|| self.stretches.iter().next());
            let Some((start, stretch)) = next else { return };
            let (start, stays) = (start.clone(), stretch.was_read.swap(false, Ordering::Relaxed));
            if !stays {
                self.remove(&start);
            }
            self.hand = Key::after(&start).into();
        }
    }
}

impl Stretch {
    fn new(end: Option<Bytes>, kvs: Vec<KeyValue>) -> Self {
        Self { end, kvs, was_read: AtomicBool::new(false) }
    }

    /// Whether a key at or above its start is of it.
    fn reaches(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    fn position(&self, key: &[u8]) -> Result<usize, usize> {
        self.kvs.binary_search_by(|kv| kv.key.as_bytes().cmp(key))
    }

    fn is_read(&self) {
        // Most of the time it is so already, and then other threads keep their copy of the line.
        if !self.was_read.load(Ordering::Relaxed) {
            self.was_read.store(true, Ordering::Relaxed);
        }
    }

    /// Its upper half with where that begins, once it has become too long.
    fn cut(&mut self) -> Option<(Bytes, Self)> {
        if self.kvs.len() <= 2 * STRETCH_KEYS {
            return None;
        }
        let half = Self::new(self.end.take(), self.kvs.split_off(STRETCH_KEYS));
        let start = half.kvs.first()?.key.to_bytes();
        self.end = Some(start.clone());
        Some((start, half))
    }

    fn bytes(&self) -> usize {
        STRETCH_BYTES + self.kvs.iter().map(bytes_of).sum::<usize>()
    }
}

impl Clone for Stretch {
    fn clone(&self) -> Self {
        let was_read = AtomicBool::new(self.was_read.load(Ordering::Relaxed));
        Self { end: self.end.clone(), kvs: self.kvs.clone(), was_read }
    }
}

impl Found {
    /// What the answer to a query for the newest says of the keys, if it is one that may come again.
    pub(crate) fn in_answer(head: Head, query: &RangeQuery, done: &RangeDone) -> Vec<Self> {
        let is_whole = !query.keys_only && !query.count_only && query.refine == Refine::default();
        if !is_whole || query.descending || done.kvs.len() >= KEYS_MAX {
            return Vec::new();
        }
        let upto = done.kvs.last().filter(|_| done.more).map(|last| Key::after(last.key.as_bytes()).into());
        let mut found = Vec::new();
        let mut kvs = &done.kvs[..];
        for (start, end) in history::bounds_of(&query.span) {
            let here = kvs.partition_point(|kv| end.as_ref().is_none_or(|end| kv.key.as_bytes() < end));
            let (part, rest) = kvs.split_at(here);
            if done.more && rest.is_empty() {
                // Nothing is known of what follows the last one.
                found.extend(upto.map(|upto| Self { head, bounds: (start, Some(upto)), kvs: part.to_vec() }));
                return found;
            }
            found.push(Self { head, bounds: (start, end), kvs: part.to_vec() });
            kvs = rest;
        }
        found
    }

    /// A key by itself.
    pub(crate) fn of_key(head: Head, key: &Key, kv: Option<&KeyValue>) -> Self {
        Self {
            head,
            bounds: (key.to_bytes(), Some(Key::after(key.as_bytes()).into())),
            kvs: kv.into_iter().cloned().collect(),
        }
    }
}

/// With memory of its own: what it is copied from shares its with all of an entry or answer.
fn owned(key: &Key, value: &[u8], meta: Meta) -> KeyValue {
    let both = Bytes::from([key.as_bytes(), value].concat());
    let (copy, value) = (both.slice(..key.as_bytes().len()), both.slice(key.as_bytes().len()..));
    // A copy of a key is one.
    KeyValue { key: Key::new(copy).unwrap_or_else(|_| key.clone()), value, meta }
}

fn bytes_of(kv: &KeyValue) -> usize {
    KEY_BYTES + kv.key.as_bytes().len() + kv.value.len()
}

#[cfg(test)]
mod tests {
    use quorate_proto::Revision;

    use super::*;
    use crate::command::Span;
    use crate::outcome::{Changes, RevisionChanges};
    use crate::store::MemoryStore;

    const META: Meta = Meta {
        create_revision: Revision(1),
        mod_revision: Revision(2),
        version: 1,
        lease: None,
        created_ms: 0,
        modified_ms: 0,
    };

    fn kv(key: &str) -> KeyValue {
        KeyValue { key: Key::new(key.to_owned()).unwrap(), value: Bytes::from_static(b"v"), meta: META }
    }

    fn picture(bytes_max: usize) -> (Machine<MemoryStore>, Picture) {
        let machine = Machine::open(MemoryStore::new()).unwrap();
        let picture = Picture::new(&machine, bytes_max);
        (machine, picture)
    }

    fn learn(picture: &mut Picture, start: &str, end: &str, keys: &[&str]) {
        let bounds = (Bytes::from(start.to_owned()), Some(Bytes::from(end.to_owned())));
        picture.learn([Found { head: picture.head, bounds, kvs: keys.iter().map(|key| kv(key)).collect() }]);
        picture.audit();
    }

    fn range(picture: &Picture, start: &str, end: &str) -> Option<Vec<String>> {
        let span = Span::Range { start: start.to_owned().into(), end: Some(end.to_owned().into()) };
        let done = picture.range(&RangeQuery::all(span)).ok()?;
        Some(done.kvs.iter().map(|kv| kv.key.to_string()).collect())
    }

    fn changed(kind: ChangeKind, key: &str) -> Applied {
        let changes = vec![Change { kind, key: kv(key).key, previous: Revision(1) }];
        let revisions = vec![RevisionChanges { revision: Revision(3), changes }];
        Applied { changes: Changes { revisions, ..Changes::default() }, ..Applied::default() }
    }

    #[test]
    fn neighbouring_stretches_answer_together_and_a_hole_does_not() {
        let (_, mut picture) = picture(usize::MAX);
        learn(&mut picture, "b", "d", &["b", "c"]);
        learn(&mut picture, "d", "f", &["e"]);
        learn(&mut picture, "g", "h", &[]);
        assert_eq!(range(&picture, "b", "f").unwrap(), ["b", "c", "e"]);
        assert_eq!(range(&picture, "bb", "e").unwrap(), ["c"]);
        assert_eq!(range(&picture, "g", "h").unwrap(), [""; 0]);
        assert!(range(&picture, "a", "c").is_none() && range(&picture, "b", "g").is_none());
        assert!(range(&picture, "f", "g").is_none() && range(&picture, "g", "hh").is_none());
        learn(&mut picture, "c", "gg", &["c", "e", "f"]);
        assert_eq!(range(&picture, "b", "h").unwrap(), ["b", "c", "e", "f"]);
    }

    #[test]
    fn what_changes_in_a_stretch_is_followed_and_clones_stay_as_they_are() {
        let (machine, mut picture) = picture(usize::MAX);
        learn(&mut picture, "b", "d", &["b", "c"]);
        let before = picture.clone();
        let put = ChangeKind::Put { meta: META, value: Bytes::from_static(b"new") };
        picture.follow(&machine, &[changed(put.clone(), "bb"), changed(put, "x")]);
        picture.follow(&machine, &[changed(ChangeKind::Delete { lease_ended: false }, "c")]);
        picture.audit();
        assert_eq!(range(&picture, "b", "d").unwrap(), ["b", "bb"]);
        assert_eq!(picture.get(b"x"), Err(NotKnown), "nobody asked for it");
        assert_eq!((picture.get(b"c"), picture.get(b"bb").unwrap().unwrap().value.as_ref()), (Ok(None), &b"new"[..]));
        assert_eq!(range(&before, "b", "d").unwrap(), ["b", "c"]);
    }

    #[test]
    fn a_stretch_that_grows_is_cut_and_what_is_not_read_is_left_out() {
        let (machine, mut picture) = picture(40_000);
        learn(&mut picture, "a", "b", &[]);
        let put = |n: usize| changed(ChangeKind::Put { meta: META, value: Bytes::new() }, &format!("a{n:05}"));
        for n in 0..=2 * STRETCH_KEYS {
            picture.follow(&machine, &[put(n)]);
            picture.audit();
        }
        assert_eq!(picture.stretches.len(), 2);
        learn(&mut picture, "x", "y", &["x1", "x2"]);
        for n in 0..1_000 {
            assert!(range(&picture, "x", "y").is_some(), "it is read all the time");
            learn(&mut picture, &format!("m{n:05}"), &format!("m{n:05}z"), &[]);
        }
        assert!(range(&picture, "a", "b").is_none(), "nobody reads it");
    }

    #[test]
    fn an_answer_too_large_for_it_is_not_taken_in() {
        let (_, mut picture) = picture(1_000);
        learn(&mut picture, "a", "b", &["a1", "a2"]);
        assert_eq!(picture.bytes(), 0);
        learn(&mut picture, "a", "b", &["a1"]);
        assert!(picture.bytes() > 0);
    }
}
