//! Listing the direct children of a directory: newest from its index, as of a revision from history.
//!
//! Invariants:
//! - Children come in byte order of their names, each once, and a page goes on exactly after the one before.
//! - Newest: O(children returned). At a past revision there is no index: what lies below the directory is skipped
//!   through, once for each page.
//!
//! Why a past list looks twice: below `/d` keys order as `a`, `a-x`, `a/b`, since `-` < `/`. The directory `a` shows
//! up after the child `a-x` though its name is smaller. So once a page is full, the directories whose names are
//! prefixes of its last name are looked up one by one.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::{Key, Revision};

use crate::codec::{keys, records};
use crate::history::{self, NEWEST};
use crate::outcome::{Fault, KeyValue};
use crate::store::{Cursor, Read};
use crate::view::{Child, ListDone, ListQuery, ReadError, View};

impl<R: Read> View<R> {
    /// Direct children of a directory.
    pub fn list(&self, query: &ListQuery) -> Result<ListDone, ReadError> {
        let revision = self.readable(query.revision)?;
        let shown = query.revision.unwrap_or(self.revision());
        let mut done = ListDone { revision: shown, ..ListDone::default() };
        let children = if revision == NEWEST {
            newest_children(&self.read, query)?
        } else {
            past_children(&self.read, query, revision)?
        };
        done.more = children.len() > query.limit;
        for (name, records::ChildBits { is_key, is_directory }) in children.into_iter().take(query.limit) {
            done.children.push(Child { name, is_key, is_directory, kv: None });
        }
        if query.with_values {
            self.fill_values(&query.dir, &mut done.children, revision)?;
        }
        Ok(done)
    }

    /// Reads the values of children that are keys: in one scan where that is all there is between them, else one by one.
    fn fill_values(&self, dir: &[u8], children: &mut [Child], revision: Revision) -> Result<(), Fault> {
        if let [first, .., last] = &*children
            && children.iter().all(|child| !child.is_directory)
        {
            let bounds = (path_below(dir, &first.name).into(), Some(Key::after(&path_below(dir, &last.name)).into()));
            let base = path_below(dir, b"").len();
            let (mut next, mut strangers) = (0, 0);
            history::scan_history(&self.read, &bounds, revision, true, |kv| {
                match children.get_mut(next).filter(|child| child.name == kv.key.as_bytes()[base..]) {
                    Some(child) => {
                        child.kv = Some(kv);
                        next += 1;
                    }
                    // Below a directory of an earlier page, or no path at all.
                    None => strangers += 1,
                }
                Ok(strangers <= STRANGERS_MAX)
            })?;
        }
        for child in children.iter_mut().filter(|child| child.is_key && child.kv.is_none()) {
            child.kv = Some(self.child_value(dir, &child.name, revision)?);
        }
        Ok(())
    }

    fn child_value(&self, dir: &[u8], name: &[u8], revision: Revision) -> Result<KeyValue, Fault> {
        let missing = |path: &dyn std::fmt::Debug| Fault::Corrupt(format!("{path:?} is listed but is no key"));
        let bytes = path_below(dir, name);
        let key = Key::new(bytes.clone()).map_err(|_| missing(&bytes))?;
        let kv = match revision {
            NEWEST => history::newest(&self.read, &key)?,
            revision => history::at(&self.read, &key, revision)?,
        };
        kv.ok_or_else(|| missing(&key))
    }
}

/// A scan for values that meets more keys of other places gives up: single reads are cheaper then.
const STRANGERS_MAX: usize = 100;

fn path_below(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    [dir, b"/", name].concat()
}

type Children = Vec<(Bytes, records::ChildBits)>;

/// Up to one more than the limit, from the index.
fn newest_children<R: Read>(read: &R, query: &ListQuery) -> Result<Children, Fault> {
    let prefix = keys::child(&query.dir, b"");
    let mut cursor = read.cursor(true);
    match &query.after {
        Some(after) => cursor.seek(&Key::after(&keys::child(&query.dir, after))),
        None => cursor.seek(&prefix),
    }
    let mut children = Vec::new();
    while let Some((stored, bits)) = cursor.entry() {
        let Some(name) = stored.strip_prefix(&prefix[..]).filter(|_| children.len() <= query.limit) else { break };
        children.push((Bytes::copy_from_slice(name), records::ChildBits::decode(bits)?));
        cursor.next();
    }
    cursor.status()?;
    Ok(children)
}

/// Up to one more than the limit, from history.
fn past_children<R: Read>(read: &R, query: &ListQuery, revision: Revision) -> Result<Children, Fault> {
    let (base, end) = history::below(&query.dir);
    let wanted = query.limit.saturating_add(1);
    let after = query.after.clone().unwrap_or_default();
    let mut found: BTreeMap<Bytes, records::ChildBits> = BTreeMap::new();
    let mut from: Bytes = [&base[..], &after[..], if after.is_empty() { b"" } else { b"\0" }].concat().into();
    while found.len() < wanted {
        let mut next = None;
        history::scan_history(read, &(from.clone(), end.clone()), revision, false, |kv| {
            next = Some(kv.key);
            Ok(false)
        })?;
        let Some(key) = next else { break };
        let rest = &key.as_bytes()[base.len()..];
        let slash = rest.iter().position(|byte| *byte == b'/');
        let name = &rest[..slash.unwrap_or(rest.len())];
        // Keys that are no paths may stand between: names are checked by rebuilding the path.
        let is_path = quorate_proto::Path::of(&key).is_some();
        if is_path && name > &after[..] {
            let bits = found.entry(Bytes::copy_from_slice(name)).or_default();
            if slash.is_some() { bits.is_directory = true } else { bits.is_key = true }
        }
        from = match slash {
            // One live path below makes the directory: the rest of it is skipped.
            Some(_) if is_path => [&base[..], name, b"0"].concat().into(),
            _ => Key::after(key.as_bytes()).into(),
        };
    }
    add_prefix_directories(read, &base, &after, revision, wanted, &mut found)?;
    let mut children = Vec::with_capacity(found.len());
    for (name, mut bits) in found.into_iter().take(wanted) {
        // The scan may have ended between a key and what stands below it.
        bits.is_directory = bits.is_directory || lives_below(read, &path_below(&base, &name), revision)?;
        children.push((name, bits));
    }
    Ok(children)
}

/// Directories that sort before the last found name but stand behind it in the order of keys.
fn add_prefix_directories<R: Read>(
    read: &R,
    base: &[u8],
    after: &[u8],
    revision: Revision,
    wanted: usize,
    found: &mut BTreeMap<Bytes, records::ChildBits>,
) -> Result<(), Fault> {
    if found.len() < wanted {
        return Ok(());
    }
    let Some(last) = found.last_key_value().map(|(name, _)| name.clone()) else { return Ok(()) };
    for length in (1..last.len()).filter(|length| last[*length] < b'/') {
        let name = last.slice(..length);
        if &name[..] > after && !found.contains_key(&name) && lives_below(read, &path_below(base, &name), revision)? {
            cov_mark::hit!(past_list_prefix_directory);
            found.entry(name).or_default().is_directory = true;
        }
    }
    Ok(())
}

/// Whether a path has live paths below it as of a revision.
fn lives_below<R: Read>(read: &R, path: &[u8], revision: Revision) -> Result<bool, Fault> {
    let mut lives = false;
    history::scan_history(read, &history::below(path), revision, false, |kv| {
        lives = quorate_proto::Path::of(&kv.key).is_some();
        Ok(!lives)
    })?;
    Ok(lives)
}
