//! A history through machine and model, compared after every entry; and a view compared with the model.
//!
//! Invariants:
//! - A panic names what differs.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use quorate_proto::{Key, Revision};

use super::model::directories;
use super::model_work::range;
use super::{History, Model, audit, open_with_window};
use crate::apply::{Applied, Machine};
use crate::command::{RangeQuery, Span};
use crate::compaction::{Purge, purge_at_most, purge_step};
use crate::outcome::{Change, KeyValue, Outcome, Rejection};
use crate::picture::Picture;
use crate::restore::{RebaseOptions, rebase};
use crate::store::{Cursor, MemoryStore, Read, Store};
use crate::view::{Child, Directory, ListQuery, ReadError, View};

/// Every key and value of a store, in order.
pub fn dump<R: Read>(read: &R) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cursor = read.cursor(false);
    cursor.seek(b"");
    let mut entries = Vec::new();
    while let Some((key, value)) = cursor.entry() {
        entries.push((key.to_vec(), value.to_vec()));
        cursor.next();
    }
    cursor.status().expect("a readable store");
    entries
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "its callers read better so")]
fn same<T: PartialEq + Debug>(what: &str, found: T, wanted: T) {
    assert!(found == wanted, "{what}\n   found {found:?}\n  wanted {wanted:?}");
}

/// Leaves the reasons of rejections out: the model does not word them.
fn without_reasons(applied: Applied) -> Applied {
    let reduce = |outcome: Outcome| Outcome {
        result: outcome.result.map_err(|rejection| match rejection {
            Rejection::Precondition { key, current, .. } => {
                Rejection::Precondition { key, reason: String::new(), current }
            }
            Rejection::Invalid(_) => Rejection::Invalid(String::new()),
            other => other,
        }),
        ..outcome
    };
    Applied { outcomes: applied.outcomes.into_iter().map(reduce).collect(), ..applied }
}

/// Runs a history over the store and over one in memory, entry by entry there, grouped here, with purging here and
/// none there; compares each with the model, and both with each other.
pub fn check_history<S: Store>(history: &History, window_indexes: u64, store: S) {
    let mut grouped = open_with_window(&store, window_indexes, usize::MAX).expect("an empty store opens");
    let single_store = MemoryStore::new();
    let mut single = open_with_window(&single_store, window_indexes, usize::MAX).expect("an empty store opens");
    let mut model = Model::new(window_indexes);
    let mut pictures = [PICTURE_BYTES, usize::MAX].map(|bytes_max| Picture::new(&grouped, bytes_max));
    for (number, group) in history.grouped().into_iter().enumerate() {
        let applied = grouped.apply(group).expect("a healthy store");
        for picture in &mut pictures {
            picture.follow(&grouped, &applied);
        }
        for (entry, applied) in group.iter().zip(applied) {
            let wanted = model.apply(entry);
            let alone = single.apply(std::slice::from_ref(entry)).expect("a healthy store").remove(0);
            same("applied alone or in a group", &alone, &applied);
            same("applied", without_reasons(applied), wanted);
        }
        if number % 3 == 2 {
            purge_at_most(&store, 3).expect("a healthy store");
            same("scrubs, purged here and not there", scrub(&store), scrub(&single_store));
        }
        if number % 4 == 3 {
            check_now(&store, &model);
        }
        for picture in &mut pictures {
            check_picture(picture, &store, &model, number);
        }
    }
    check_now(&store, &model);
    check_now(&single_store, &model);
    same("digests", single.digest(), grouped.digest());
    same("requests", single.dump_requests(), grouped.dump_requests());
    let reopened = open_with_window(&store, window_indexes, usize::MAX).expect("the store opens again");
    same("requests after opening", reopened.dump_requests(), grouped.dump_requests());
    same("digest after opening", reopened.digest(), grouped.digest());
    while purge_at_most(&store, 2).expect("a healthy store") == Purge::More {
        check_now(&store, &model);
    }
    check_now(&store, &model);
    same("scrubs, purged here and not there", scrub(&store), scrub(&single_store));
    let reopened = open_with_window(&store, window_indexes, usize::MAX).expect("the store opens again");
    same("requests after purging", reopened.dump_requests(), grouped.dump_requests());
    check_rebased(&single_store.clone(), &model);
    // What differs is what purging may remove, and nothing else.
    let kept: BTreeMap<_, _> = dump(&store).into_iter().collect();
    for (key, value) in dump(&single_store) {
        match kept.get(&key) {
            Some(found) => same("a stored value", found, &value),
            None => assert!(matches!(key.first(), Some(b'h' | b'r')), "purging removed {}", key.escape_ascii()),
        }
    }
}

fn scrub<S: Store>(store: &S) -> u64 {
    let view = View::new(store.snapshot()).expect("a view");
    view.scrub(|_| true).expect("a readable store").expect("it went on to the end").digest
}

/// A restored store has the same keys, far ahead, with everything before compacted.
fn check_rebased(store: &MemoryStore, model: &Model) {
    let options = RebaseOptions { revision_step: 1000, membership: Bytes::from("new") };
    let Ok(rebased) = rebase(store, &options) else { panic!("a store with entries cannot be rebased") };
    let revision = Revision(model.state.revision.0 + 1000);
    same("rebased to", rebased.revision, revision);
    for _ in 0..3 {
        audit(store);
        let view = View::new(store.snapshot()).expect("a view");
        same("revision and mark", (view.revision(), view.compact_revision()), (revision, revision));
        compare_keys(&view, None, &model.state.keys);
        compare_keys(&view, Some(revision), &model.state.keys);
        same("changes", view.changes(revision, 1, |_| true).expect("changes").next, revision.next());
        let leases = view.leases(None, usize::MAX).expect("leases");
        assert!(leases.iter().all(|(_, lease)| lease.remaining_ms.is_none()), "a lease has not its full time");
        purge_step(store).expect("a healthy store");
    }
    let machine = Machine::open(store.clone()).expect("the store opens");
    same("members", machine.applied().1.map(|(_, members)| members), Some(options.membership));
}

fn check_now<S: Store>(store: &S, model: &Model) {
    audit(&store.snapshot());
    compare_views(&View::new(store.snapshot()).expect("a view"), model);
}

/// So little that most has to be left out again.
const PICTURE_BYTES: usize = 3_000;

/// A picture that learns of some ranges, of others each time, answers as the store does.
fn check_picture<S: Store>(picture: &mut Picture, store: &S, model: &Model, number: usize) {
    let plain = RangeQuery { limit: Some(number % 5), ..RangeQuery::all(everything()) };
    let from = [&b""[..], b"/", b"/a", b"/a/b", b"b"][number % 5];
    let starts = Span::Range {
        start: Bytes::from_static(from),
        end: number.is_multiple_of(2).then(|| Bytes::from_static(b"/b")),
    };
    let asked = [RangeQuery { span: starts, ..plain.clone() }, RangeQuery { limit: None, ..plain }];
    let view = View::new(store.snapshot()).expect("a view").remembering();
    for query in asked.iter().filter(|_| !number.is_multiple_of(3)) {
        view.range(query).expect("a range");
    }
    if let Some(key) = model.state.keys.keys().nth(number % 7) {
        view.get(key, None).expect("a get");
    }
    view.get(&Key::new(format!("/a/{number}")).expect("a key"), None).expect("a get");
    let found = view.found();
    if number % 4 == 1 {
        // They are of another state.
        let mut later = picture.clone();
        later.head.applied = None;
        let known = later.bytes();
        later.learn(found);
        same("bytes of a picture that has moved on", later.bytes(), known);
    } else {
        picture.learn(found);
    }
    picture.audit();
    compare_keys(&View::of_picture(picture.clone(), store.snapshot()), None, &model.state.keys);
}

fn everything() -> Span {
    Span::Range { start: Bytes::new(), end: None }
}

/// Every kind of read, at every revision that may be read.
pub fn compare_views<R: Read>(view: &View<R>, model: &Model) {
    let state = &model.state;
    same("revision", view.revision(), state.revision);
    same("compaction mark", view.compact_revision(), state.compacted);
    same("count of keys", view.counts().keys, state.keys.len() as u64);
    same("count of leases", view.counts().leases, state.leases.len() as u64);
    let leases = view.leases(None, usize::MAX).expect("leases");
    same("leases", leases, state.leases.iter().map(|(id, record)| (*id, *record)).collect());
    for lease in state.leases.keys() {
        let keys = state.keys.values().filter(|kv| kv.meta.lease == Some(*lease)).map(|kv| kv.key.clone()).collect();
        let keys: Vec<_> = keys;
        same("keys of a lease", &view.lease_keys(*lease, None, usize::MAX).expect("keys"), &keys);
        for (position, after) in keys.iter().enumerate() {
            let rest = view.lease_keys(*lease, Some(after), 2).expect("keys");
            same(
                "keys of a lease after one",
                &rest[..],
                keys[position + 1..].get(..2).unwrap_or(&keys[position + 1..]),
            );
        }
    }
    compare_keys(view, None, &state.keys);
    for revision in model.readable() {
        compare_keys(view, Some(revision), &model.past[&revision]);
        let wanted: Vec<_> = model.changes.range(revision..).map(|(at, changes)| (*at, changes.clone())).collect();
        compare_changes(view, revision, wanted);
    }
    for asked in [state.revision.next(), Revision(state.compacted.0 - 1)] {
        let key = Key::new("k").expect("a key");
        let refused = match view.get(&key, Some(asked)) {
            Err(ReadError::Future { .. }) => asked > state.revision,
            Err(ReadError::Compacted { .. }) => asked < state.compacted,
            _ => false,
        };
        assert!(refused, "revision {asked} was readable");
    }
    for dir in model.all_directories() {
        compare_stat(view, model, &dir);
    }
}

fn compare_keys<R: Read>(view: &View<R>, at: Option<Revision>, keys: &BTreeMap<Key, KeyValue>) {
    let mut query = RangeQuery { revision: at, ..RangeQuery::all(everything()) };
    for variant in 0..16 {
        query.descending = variant & 1 != 0;
        query.keys_only = variant & 2 != 0;
        query.limit = (variant & 4 != 0).then_some(2);
        query.count_all = variant & 8 != 0;
        let what = format!("range {query:?}");
        same(&what, view.range(&query).expect("a range"), range(keys, &query));
    }
    query = RangeQuery { count_only: true, limit: None, ..query };
    same("count", view.range(&query).expect("a range"), range(keys, &query));
    for kv in keys.values() {
        same("get", view.get(&kv.key, at).expect("a get").as_ref(), Some(kv));
    }
    same("get of nothing", view.get(&Key::new("missing").expect("a key"), at).expect("a get"), None);
    let mut tree = directories(keys.keys());
    tree.entry(b"/a".to_vec()).or_default();
    for (dir, children) in tree {
        let wanted: Vec<_> = children
            .into_iter()
            .map(|(name, (is_key, is_directory))| {
                let path = [dir.strip_suffix(b"/").unwrap_or(&dir), b"/", &name].concat();
                let kv = is_key.then(|| keys[&Key::new(path).expect("a key")].clone());
                Child { name: name.into(), is_key, is_directory, kv }
            })
            .collect();
        for limit in [1, 2, 100] {
            let what = format!("list of {} at {at:?} by {limit}", dir.escape_ascii());
            same(&what, list_in_pages(view, &dir, at, limit), wanted.clone());
        }
    }
}

fn list_in_pages<R: Read>(view: &View<R>, dir: &[u8], revision: Option<Revision>, limit: usize) -> Vec<Child> {
    let dir = Bytes::copy_from_slice(dir);
    let mut query = ListQuery { dir, after: None, limit, with_values: true, revision };
    let mut children: Vec<Child> = Vec::new();
    loop {
        let page = view.list(&query).expect("a list");
        assert!(page.children.len() <= limit, "a page of {} children", page.children.len());
        children.extend(page.children);
        if !page.more {
            return children;
        }
        query.after = children.last().map(|child| child.name.clone());
    }
}

fn compare_changes<R: Read>(view: &View<R>, from: Revision, wanted: Vec<(Revision, Vec<Change>)>) {
    for bytes_max in [1, usize::MAX] {
        let (mut next, mut found) = (from, Vec::new());
        while next <= view.revision() {
            let chunk = view.changes(next, bytes_max, |_| true).expect("changes");
            assert!(chunk.next > next, "no progress from {next}");
            assert!(chunk.revisions.iter().all(|changes| (next..chunk.next).contains(&changes.revision)));
            found.extend(chunk.revisions.into_iter().map(|changes| (changes.revision, changes.changes)));
            next = chunk.next;
        }
        same(&format!("changes from {from}"), found, wanted.clone());
    }
    let some = view.changes(from, usize::MAX, |key| key.as_bytes() == b"/a").expect("changes");
    let only = |(at, changes): (Revision, Vec<Change>)| {
        let changes: Vec<_> = changes.into_iter().filter(|change| change.key.as_bytes() == b"/a").collect();
        (!changes.is_empty()).then_some((at, changes))
    };
    let found: Vec<_> = some.revisions.into_iter().map(|changes| (changes.revision, changes.changes)).collect();
    same("wanted changes", found, wanted.into_iter().filter_map(only).collect());
}

fn compare_stat<R: Read>(view: &View<R>, model: &Model, dir: &[u8]) {
    let state = &model.state;
    let children = directories(state.keys.keys()).get(dir).map_or(0, |children| children.len() as u64);
    let next_sequence = state.sequences.get(dir).copied().unwrap_or(0);
    let wanted = (children > 0 || next_sequence > 0).then(|| Directory {
        children,
        children_revision: state.children_revisions.get(dir).copied().unwrap_or_default(),
        next_sequence,
    });
    let stat = view.stat(dir).expect("a stat");
    same(&format!("directory {}", dir.escape_ascii()), stat.directory, wanted);
    let kv = Key::new(dir.to_vec()).ok().and_then(|key| state.keys.get(&key));
    same("stat", stat.meta, kv.map(|kv| (kv.meta, kv.value.len() as u64)));
}
