//! Reading keys and their versions: newest (`c` and `h`), and as of a revision (`h`).
//!
//! Invariants:
//! - The newest version of a key stands in `c`, and in `h` at its mod revision; both or neither.
//! - "Newest version ≤ R of a key" is one forward seek in `h`; a purge removes only what is never that for an R
//!   that may be read.
//! - These functions trust their caller to have checked R against the compaction mark.
//!
//! Example: `a` put at 2 and 5, deleted at 7: `h a ~7` tombstone, `h a ~5`, `h a ~2`, no `c a`. A read at 6 seeks
//! `h a ~6` and finds the version of 5; a read at 8 finds the tombstone.

use bytes::Bytes;
use quorate_proto::{Key, Revision};

use crate::codec::{DecodeError, keys, records};
use crate::command::{RangeQuery, Refine, Span};
use crate::copies::Copies;
use crate::outcome::{Fault, KeyValue, Meta, RangeDone};
use crate::refine;
use crate::store::{Cursor, Read};

/// Above every revision: reads the newest, also what a transaction under way has written.
pub(crate) const NEWEST: Revision = Revision(i64::MAX);

/// Metadata of the newest version.
pub(crate) fn current<R: Read>(read: &R, key: &[u8]) -> Result<Option<Meta>, Fault> {
    let stored = read.get(&keys::current(key))?;
    Ok(stored.map(|bytes| records::read_current(&bytes)).transpose()?)
}

/// The version that was written at exactly this revision; `None` when purged or a deletion.
pub(crate) fn version<R: Read>(read: &R, key: &Key, revision: Revision) -> Result<Option<KeyValue>, Fault> {
    let Some(stored) = read.get(&keys::history(key.as_bytes(), revision))? else { return Ok(None) };
    let version = records::read_version(&stored)?;
    Ok(version.map(|(meta, value)| KeyValue { key: key.clone(), value, meta }))
}

/// The version that `meta` of `c` describes, which must be there.
pub(crate) fn value_of<R: Read>(read: &R, key: &Key, meta: &Meta) -> Result<KeyValue, Fault> {
    version(read, key, meta.mod_revision)?.ok_or_else(|| no_version(key, meta))
}

fn no_version(key: &Key, meta: &Meta) -> Fault {
    Fault::Corrupt(format!("key {key} has no version at its revision {}", meta.mod_revision))
}

/// The newest version.
pub(crate) fn newest<R: Read>(read: &R, key: &Key) -> Result<Option<KeyValue>, Fault> {
    current(read, key.as_bytes())?.map(|meta| value_of(read, key, &meta)).transpose()
}

/// The version as of a revision.
pub(crate) fn at<R: Read>(read: &R, key: &Key, revision: Revision) -> Result<Option<KeyValue>, Fault> {
    let mut cursor = read.cursor(true);
    cursor.seek(&keys::history(key.as_bytes(), revision));
    let Some((found, stored)) = cursor.entry() else {
        cursor.status()?;
        return Ok(None);
    };
    if !found.starts_with(&keys::history_from(key.as_bytes())) {
        return Ok(None);
    }
    let version = records::copy_version(stored)?;
    Ok(version.map(|(meta, value)| KeyValue { key: key.clone(), value, meta }))
}

/// `start <= key < end`; no end: `None`.
pub(crate) type Bounds = (Bytes, Option<Bytes>);

/// Everything below a path: what starts with `<path>/`.
pub(crate) fn below(path: &[u8]) -> Bounds {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    ([path, b"/"].concat().into(), Some([path, b"0"].concat().into()))
}

/// The stretches of keys that a span means, in order.
pub(crate) fn bounds_of(span: &Span) -> Vec<Bounds> {
    let only = |key: &Key| (key.to_bytes(), Some(Key::after(key.as_bytes()).into()));
    match span {
        Span::Key(key) => vec![only(key)],
        Span::Range { start, end } => vec![(start.clone(), end.clone())],
        // Between "/a" and "/a/…" lie strangers such as "/a-b".
        Span::Subtree(path) => vec![only(path.as_key()), below(path.as_bytes())],
    }
}

/// Whether a span holds a key.
pub(crate) fn holds(span: &Span, key: &[u8]) -> bool {
    bounds_of(span).iter().any(|(start, end)| key >= &start[..] && end.as_ref().is_none_or(|end| key < &end[..]))
}

/// A key that was stored.
pub(crate) fn key_of(bytes: Bytes) -> Result<Key, Fault> {
    Ok(Key::new(bytes).map_err(|_| DecodeError::Invalid("a stored key"))?)
}

/// Visits each key of the bounds with its newest metadata, until `visit` says false.
pub(crate) fn scan_current<R: Read>(
    read: &R,
    (start, end): &Bounds,
    descending: bool,
    mut visit: impl FnMut(&[u8], Meta) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let first = keys::current(start);
    let end = end.as_ref().map_or_else(|| vec![keys::table::CURRENT + 1], |end| keys::current(end));
    let mut cursor = read.cursor(true);
    if descending {
        cursor.seek_for_prev(&end);
        if cursor.entry().is_some_and(|(key, _)| key == end) {
            cursor.prev();
        }
    } else {
        cursor.seek(&first);
    }
    while let Some((stored_key, stored)) = cursor.entry() {
        if stored_key < &first[..] || stored_key >= &end[..] {
            return Ok(());
        }
        if !visit(&stored_key[1..], records::read_current(stored)?)? {
            return Ok(());
        }
        if descending { cursor.prev() } else { cursor.next() }
    }
    Ok(cursor.status()?)
}

/// Visits the newest version of each key of the bounds with its value, until `visit` says false.
///
/// `h` is the shorter way while keys have little history: their versions lie side by side. Where history is long, old
/// versions lie between the newest ones, and the values are fetched by what `c` says.
pub(crate) fn scan_newest<R: Read>(
    read: &R,
    (start, end): &Bounds,
    mut visit: impl FnMut(KeyValue) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let mut scan = HistoryScan::new(read, NEWEST, true, &mut visit);
    match scan.ascend(&(start.clone(), end.clone()), SEEKS_MAX)? {
        Some(next) => fetch_newest(read, (next, end.clone()), visit),
        None => Ok(()),
    }
}

/// The same by way of `c`.
fn fetch_newest<R: Read>(
    read: &R,
    mut bounds: Bounds,
    mut visit: impl FnMut(KeyValue) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    // Few at first: the visitor may have enough soon.
    let mut at_once = FETCHED_AT_FIRST;
    let mut copies = Copies::default();
    loop {
        let mut found: Vec<(Key, Meta)> = Vec::with_capacity(at_once);
        scan_current(read, &bounds, false, |key, meta| {
            found.push((key_of(copies.of(key))?, meta));
            Ok(found.len() < at_once)
        })?;
        let Some((last, _)) = found.last() else { return Ok(()) };
        bounds.0 = Key::after(last.as_bytes()).into();
        let is_last = found.len() < at_once;
        at_once = FETCHED_AT_ONCE_MAX.min(at_once * 2);
        let stored: Vec<_> = found.iter().map(|(key, meta)| keys::history(key.as_bytes(), meta.mod_revision)).collect();
        for ((key, meta), stored) in found.into_iter().zip(read.multi_get(&stored)?) {
            let version = stored.as_ref().map(records::read_version).transpose()?.flatten();
            let Some((meta, value)) = version else { return Err(no_version(&key, &meta)) };
            if !visit(KeyValue { key, value, meta })? {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Visits each key of the bounds that lives as of `revision`, until `visit` says false.
/// The value is left out unless asked for.
pub(crate) fn scan_history<R: Read>(
    read: &R,
    bounds: &Bounds,
    revision: Revision,
    with_values: bool,
    visit: impl FnMut(KeyValue) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    HistoryScan::new(read, revision, with_values, visit).ascend(bounds, usize::MAX).map(drop)
}

/// The same from the last key to the first.
pub(crate) fn scan_history_back<R: Read>(
    read: &R,
    bounds: &Bounds,
    revision: Revision,
    with_values: bool,
    visit: impl FnMut(KeyValue) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    HistoryScan::new(read, revision, with_values, visit).descend(bounds)
}

struct HistoryScan<C, V> {
    cursor: C,
    revision: Revision,
    with_values: bool,
    /// How often a seek had to pass over old versions.
    seeks: usize,
    /// The key that the cursor came to last, and what its entries begin with.
    key: Vec<u8>,
    prefix: Vec<u8>,
    copies: Copies,
    visit: V,
}

/// So many old versions are stepped over one by one before a seek is cheaper.
const STEPS_BEFORE_SEEK: usize = 3;
/// After so many seeks over old versions, the newest ones are fetched by way of `c`.
const SEEKS_MAX: usize = 4;
const FETCHED_AT_FIRST: usize = 8;
const FETCHED_AT_ONCE_MAX: usize = 64;

impl<C: Cursor, V: FnMut(KeyValue) -> Result<bool, Fault>> HistoryScan<C, V> {
    fn new<'r, R: Read<Cursor<'r> = C>>(read: &'r R, revision: Revision, with_values: bool, visit: V) -> Self {
        let (key, prefix) = (Vec::new(), Vec::new());
        let cursor = read.cursor(true);
        Self { cursor, revision, with_values, seeks: 0, key, prefix, copies: Copies::default(), visit }
    }

    /// Gives the key from which on another way is shorter, after so many seeks over old versions.
    fn ascend(&mut self, (start, end): &Bounds, seeks_max: usize) -> Result<Option<Bytes>, Fault> {
        let end = end_in_history(end.as_ref());
        self.cursor.seek(&keys::history_from(start));
        while let Some((stored_key, _)) = self.cursor.entry() {
            if stored_key >= &end[..] {
                return Ok(None);
            }
            let found = keys::split_history_into(&mut self.key, stored_key)?;
            if found > self.revision {
                self.cursor.seek(&keys::history(&self.key, self.revision));
                continue;
            }
            self.prefix.clear();
            self.prefix.extend_from_slice(keys::history_prefix(stored_key));
            if !self.visit_here()? {
                return Ok(None);
            }
            self.skip_rest();
            if self.seeks >= seeks_max {
                cov_mark::hit!(range_over_long_history);
                return Ok(Some(Key::after(&self.key).into()));
            }
        }
        self.cursor.status()?;
        Ok(None)
    }

    fn descend(&mut self, (start, end): &Bounds) -> Result<(), Fault> {
        let first = keys::history_from(start);
        self.cursor.seek_for_prev(&end_in_history(end.as_ref()));
        while let Some((stored_key, _)) = self.cursor.entry() {
            if stored_key < &first[..] {
                return Ok(());
            }
            // The oldest version of the key before; the one that counts is found forward.
            keys::split_history_into(&mut self.key, stored_key)?;
            self.prefix.clear();
            self.prefix.extend_from_slice(keys::history_prefix(stored_key));
            self.cursor.seek(&keys::history(&self.key, self.revision));
            let here = self.cursor.entry().is_some_and(|(here, _)| here.starts_with(&self.prefix));
            if here && !self.visit_here()? {
                return Ok(());
            }
            self.cursor.status()?;
            self.cursor.seek_for_prev(&self.prefix);
        }
        Ok(self.cursor.status()?)
    }

    fn visit_here(&mut self) -> Result<bool, Fault> {
        let Some((_, stored)) = self.cursor.entry() else { return Ok(true) };
        let Some((meta, value)) = records::version_parts(stored)? else { return Ok(true) };
        let value = if self.with_values { self.copies.of(value) } else { Bytes::new() };
        (self.visit)(KeyValue { key: key_of(self.copies.of(&self.key))?, value, meta })
    }

    fn skip_rest(&mut self) {
        for _ in 0..STEPS_BEFORE_SEEK {
            self.cursor.next();
            if self.cursor.entry().is_none_or(|(here, _)| !here.starts_with(&self.prefix)) {
                return;
            }
        }
        self.seeks += 1;
        self.cursor.seek(&keys::history_after(&self.key));
    }
}

fn end_in_history(end: Option<&Bytes>) -> Vec<u8> {
    end.map_or_else(|| vec![keys::table::HISTORY + 1], |end| keys::history_from(end))
}

/// Answers a query as of `revision`, [`NEWEST`] for the newest.
pub(crate) fn range<R: Read>(read: &R, query: &RangeQuery, revision: Revision) -> Result<RangeDone, Fault> {
    if query.refine != Refine::default() && !query.count_only {
        return refine::range(read, query, revision);
    }
    let mut bounds = bounds_of(&query.span);
    if query.descending {
        bounds.reverse();
    }
    if query.count_only {
        return Ok(RangeDone { count: count(read, &bounds, revision)?, ..RangeDone::default() });
    }
    let mut gathering = Gathering::new(query);
    for bounds in &bounds {
        let take = |kv: KeyValue| Ok(gathering.take(kv));
        if let (Span::Key(key), NEWEST, false) = (&query.span, revision, query.keys_only) {
            newest(read, key)?.map(take).transpose()?;
        } else {
            scan(read, bounds, revision, query, take)?;
        }
        if gathering.is_full() {
            break;
        }
    }
    gathering.done(|| count(read, &bounds, revision))
}

/// The answer to a query while keys are added to it, in order.
pub(crate) struct Gathering<'q> {
    query: &'q RangeQuery,
    done: RangeDone,
    bytes: usize,
}

impl<'q> Gathering<'q> {
    pub(crate) fn new(query: &'q RangeQuery) -> Self {
        Self { query, done: RangeDone::default(), bytes: 0 }
    }

    /// The next key; false, and not taken, when there are more than may be.
    pub(crate) fn take(&mut self, kv: KeyValue) -> bool {
        let (query, kvs) = (self.query, &self.done.kvs);
        let size = kv.key.as_bytes().len() + kv.value.len();
        self.done.more = query.limit.is_some_and(|limit| kvs.len() >= limit)
            || query.bytes_max.is_some_and(|bytes_max| !kvs.is_empty() && self.bytes + size > bytes_max);
        if !self.done.more {
            self.bytes += size;
            self.done.kvs.push(kv);
        }
        !self.done.more
    }

    /// There are more keys than may be taken.
    pub(crate) fn is_full(&self) -> bool {
        self.done.more
    }

    /// The answer. `count_all` counts what the query spans, where it asks for that and not all were taken.
    pub(crate) fn done<E>(mut self, count_all: impl FnOnce() -> Result<u64, E>) -> Result<RangeDone, E> {
        self.done.count = if self.query.count_all && self.done.more {
            count_all()?
        } else {
            u64::try_from(self.done.kvs.len()).unwrap_or(u64::MAX)
        };
        Ok(self.done)
    }
}

fn scan<R: Read>(
    read: &R,
    bounds: &Bounds,
    revision: Revision,
    query: &RangeQuery,
    mut take: impl FnMut(KeyValue) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    if query.keys_only && revision == NEWEST {
        let mut copies = Copies::default();
        scan_current(read, bounds, query.descending, |key, meta| {
            take(KeyValue { key: key_of(copies.of(key))?, value: Bytes::new(), meta })
        })
    } else if query.descending {
        scan_history_back(read, bounds, revision, !query.keys_only, take)
    } else if revision == NEWEST {
        scan_newest(read, bounds, take)
    } else {
        scan_history(read, bounds, revision, !query.keys_only, take)
    }
}

fn count<R: Read>(read: &R, bounds: &[Bounds], revision: Revision) -> Result<u64, Fault> {
    let mut count = 0;
    for bounds in bounds {
        if revision == NEWEST {
            scan_current(read, bounds, false, |_, _| {
                count += 1;
                Ok(true)
            })?;
        } else {
            scan_history(read, bounds, revision, false, |_| {
                count += 1;
                Ok(true)
            })?;
        }
    }
    Ok(count)
}
