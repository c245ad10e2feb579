//! Directories: which names stand directly below a path, how many, and the next sequence.
//!
//! Invariants:
//! - `e dir name` exists exactly when `dir/name` is a key or has keys below it, and says which.
//! - `d dir` counts the `e` entries of `dir`; it exists when there are any, or when a sequence was handed out.
//! - A key that is no path has no entry. Overwriting a key touches neither table.
//!
//! Example: after puts of `/a/b/c` and `/a`: `e / a` = key and directory, `e /a b` = directory, `e /a/b c` = key;
//! `d /`, `d /a`, `d /a/b` have one child each.

use quorate_proto::{Key, Path, Revision};

use crate::codec::keys;
use crate::codec::records::{ChildBits, DirectoryRecord};
use crate::command::{Expect, Owner, Put, Span};
use crate::draft::{Stop, path_of};
use crate::flaw::Flaw;
use crate::history;
use crate::outcome::{Fault, Rejection};
use crate::store::{Overlay, Read};

/// Digits of a sequence in a name: enough for any 64-bit number.
const SEQUENCE_DIGITS: usize = 20;

/// The record of a directory.
pub(crate) fn directory<R: Read>(read: &R, path: &[u8]) -> Result<Option<DirectoryRecord>, Fault> {
    Ok(read.get(&keys::directory(path))?.map(|bytes| DirectoryRecord::decode(&bytes)).transpose()?)
}

fn child<R: Read>(read: &R, directory: &[u8], name: &[u8]) -> Result<Option<ChildBits>, Fault> {
    Ok(read.get(&keys::child(directory, name))?.map(|bytes| ChildBits::decode(&bytes)).transpose()?)
}

/// Whether there are keys below a path.
pub(crate) fn has_children<R: Read>(read: &R, path: &[u8]) -> Result<bool, Fault> {
    Ok(directory(read, path)?.is_some_and(|record| record.children > 0))
}

/// A key has come into being.
pub(crate) fn enter<R: Read>(store: &mut Overlay<'_, R>, key: &Key, revision: Revision) -> Result<(), Fault> {
    let Some(mut path) = Path::of(key) else { return Ok(()) };
    let mut as_directory = false;
    loop {
        let (parent, name) = (path.parent(), path.name());
        let before = child(store, parent, name)?;
        let mut bits = before.unwrap_or_default();
        let had = if as_directory { &mut bits.is_directory } else { &mut bits.is_key };
        if std::mem::replace(had, true) {
            return Err(Fault::Corrupt(format!("{path} is entered twice")));
        }
        store.put(keys::child(parent, name), bits.encode());
        if before.is_some() {
            cov_mark::hit!(tree_child_was_there);
            return Ok(());
        }
        let mut record = directory(store, parent)?.unwrap_or_default();
        record.children += 1;
        record.children_revision = revision;
        store.put(keys::directory(parent), record.encode());
        match parent_path(&path)? {
            Some(above) if record.children == 1 => {
                cov_mark::hit!(tree_directory_appears);
                path = above;
            }
            _ => return Ok(()),
        }
        as_directory = true;
    }
}

/// A key is gone.
pub(crate) fn leave<R: Read>(store: &mut Overlay<'_, R>, key: &Key, revision: Revision) -> Result<(), Fault> {
    let Some(mut path) = Path::of(key) else { return Ok(()) };
    let mut as_directory = false;
    loop {
        let (parent, name) = (path.parent(), path.name());
        let revision = if Flaw::StaleDirectory.is_put_in() { Revision::ZERO } else { revision };
        let mut bits = child(store, parent, name)?.unwrap_or_default();
        let had = if as_directory { &mut bits.is_directory } else { &mut bits.is_key };
        if !std::mem::replace(had, false) {
            return Err(Fault::Corrupt(format!("{path} leaves where it never entered")));
        }
        if bits != ChildBits::default() {
            cov_mark::hit!(tree_child_stays);
            store.put(keys::child(parent, name), bits.encode());
            return Ok(());
        }
        store.delete(keys::child(parent, name));
        let mut record = directory(store, parent)?.unwrap_or_default();
        record.children = record
            .children
            .checked_sub(1)
            .ok_or_else(|| Fault::Corrupt(format!("{path} leaves an empty directory")))?;
        record.children_revision = revision;
        if record.children == 0 && record.next_sequence == 0 {
            store.delete(keys::directory(parent));
        } else {
            store.put(keys::directory(parent), record.encode());
        }
        match parent_path(&path)? {
            Some(above) if record.children == 0 => {
                cov_mark::hit!(tree_directory_vanishes);
                path = above;
            }
            _ => return Ok(()),
        }
        as_directory = true;
    }
}

/// The directory that holds a path, if it is a path too and not the root.
fn parent_path(path: &Path) -> Result<Option<Path>, Fault> {
    let parent = path.parent();
    if parent == b"/" {
        return Ok(None);
    }
    let shared = path.as_key().to_bytes().slice(..parent.len());
    Path::new(shared).map(Some).map_err(|error| Fault::Corrupt(format!("the parent of {path}: {error}")))
}

/// The key that a sequential put writes, and the sequence in it.
pub(crate) fn sequence_key<R: Read>(read: &R, put: &Put) -> Result<(Key, u64), Stop> {
    let path = path_of(&put.key)?;
    if matches!(put.expect, Expect::Present | Expect::ModRevision(_)) || put.value.is_none() || put.owner == Owner::Keep
    {
        return Err(
            Rejection::Invalid("a sequential put makes a new key: it needs a value and expects none".into()).into()
        );
    }
    let mut sequence = directory(read, path.as_bytes())?.map_or(0, |record| record.next_sequence);
    loop {
        let name = format!("/{sequence:0SEQUENCE_DIGITS$}");
        let key = Key::new([path.as_bytes(), name.as_bytes()].concat())
            .map_err(|error| Rejection::Invalid(format!("with its sequence, {error}")))?;
        if history::current(read, key.as_bytes())?.is_none() {
            return Ok((key, sequence));
        }
        // Somebody has put a key of this name by hand.
        cov_mark::hit!(sequence_name_taken);
        sequence = sequence.checked_add(1).ok_or_else(|| Rejection::Invalid("no sequence is left".into()))?;
    }
}

/// Notes that a sequence was handed out.
pub(crate) fn take_sequence<R: Read>(store: &mut Overlay<'_, R>, path: &[u8], taken: u64) -> Result<(), Fault> {
    let mut record = directory(store, path)?.unwrap_or_default();
    record.next_sequence = taken.saturating_add(1);
    store.put(keys::directory(path), record.encode());
    Ok(())
}

/// Refuses when the parent of a path is neither key nor directory.
pub(crate) fn check_parent<R: Read>(read: &R, key: &Key) -> Result<(), Stop> {
    let path = path_of(key)?;
    let Some(parent) = parent_path(&path)? else { return Ok(()) };
    if history::current(read, parent.as_bytes())?.is_some() || has_children(read, parent.as_bytes())? {
        return Ok(());
    }
    cov_mark::hit!(parent_missing);
    let reason = "it must exist, as a key or directory, before something is put below it".to_owned();
    Err(Rejection::Precondition { key: parent.into_key(), reason, current: Revision::ZERO }.into())
}

/// Refuses when something stands below the path of a span.
pub(crate) fn check_empty<R: Read>(read: &R, span: &Span) -> Result<(), Stop> {
    let path = match span {
        Span::Key(key) => path_of(key)?,
        Span::Subtree(path) => path.clone(),
        Span::Range { .. } => return Err(Rejection::Invalid("only a path can be required to be empty".into()).into()),
    };
    if !has_children(read, path.as_bytes())? {
        return Ok(());
    }
    cov_mark::hit!(not_empty);
    let current = history::current(read, path.as_bytes())?.map_or(Revision::ZERO, |meta| meta.mod_revision);
    let reason = "it must have nothing below it, it has".to_owned();
    Err(Rejection::Precondition { key: path.into_key(), reason, current }.into())
}
