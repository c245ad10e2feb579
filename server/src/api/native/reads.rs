//! The reads of `Kv`.
//!
//! Invariants:
//! - All of an answer comes from one view.
//! - Pages of a listing share the revision of the first; where that is compacted meanwhile, the next page says so.

use bytes::Bytes;
use quorate_proto::v1;
use quorate_proto::{Key, Path, Revision};
use quorate_state::view::{Child, ListQuery, ReadError};
use tokio::time::Instant;

use crate::api::cursor::Cursor;
use crate::api::errors::Refusal;
use crate::api::limits::ANSWER_BYTES_MAX;
use crate::api::rooms::{Rooms, StoreView, Weight};
use crate::api::{convert, validate};

/// Reads up to so many keys on the door's runtime.
const LIGHT_MAX: usize = 100;
/// Names of children read at a time when their values are wanted.
const CHILDREN_STEP: usize = 256;

/// Reads one key.
pub async fn get(rooms: &Rooms, request: v1::GetRequest, deadline: Instant) -> Result<v1::GetResponse, Refusal> {
    let key = Key::new(request.key)?;
    let at = validate::at_revision(request.revision)?;
    rooms.fresh(request.read.as_ref(), deadline).await?;
    let (kv, revision) = rooms.read(Weight::Light, move |view| Ok((view.get(&key, at)?, view.revision()))).await?;
    Ok(v1::GetResponse { header: Some(rooms.header(revision)), kv: kv.map(convert::key_value) })
}

/// Reads keys in order.
pub async fn range(rooms: &Rooms, request: v1::RangeRequest, deadline: Instant) -> Result<v1::RangeResponse, Refusal> {
    let read = request.read;
    let query = validate::range(request)?;
    rooms.fresh(read.as_ref(), deadline).await?;
    let weight = if query.limit.is_some_and(|limit| limit <= LIGHT_MAX) { Weight::Light } else { Weight::Heavy };
    let (done, revision) = rooms
        .read(weight, move |view| Ok((view.range(&query)?, query.revision.unwrap_or_else(|| view.revision()))))
        .await?;
    Ok(convert::range(done, Some(rooms.header(revision))))
}

/// Lists the direct children of a directory.
pub async fn list(rooms: &Rooms, request: v1::ListRequest, deadline: Instant) -> Result<v1::ListResponse, Refusal> {
    let directory = validate::directory(request.path)?;
    let at = validate::at_revision(request.revision)?;
    let limit = validate::page(request.page_size)?;
    let cursor = Cursor::given(&request.cursor, &directory)?;
    if let (Some(cursor), Some(at)) = (&cursor, at)
        && cursor.revision != at
    {
        return Err(Refusal::invalid("revision differs from the one that the page cursor is for; leave it out"));
    }
    rooms.fresh(request.read.as_ref(), deadline).await?;
    let query = ListQuery {
        dir: directory.clone(),
        revision: cursor.as_ref().map(|cursor| cursor.revision).or(at),
        after: cursor.map(|cursor| cursor.after),
        limit,
        with_values: false,
    };
    let weight = if limit <= LIGHT_MAX && !request.with_values && query.revision.is_none() {
        Weight::Light
    } else {
        Weight::Heavy
    };
    let with_values = request.with_values;
    let page = rooms.read(weight, move |view| page(view, query.clone(), with_values)).await?;
    let next_cursor = match page.children.last() {
        Some(last) if page.more => {
            Cursor { revision: page.revision, after: last.name.clone().into_bytes().into() }.encode(&directory)
        }
        _ => Bytes::new(),
    };
    Ok(v1::ListResponse { header: Some(rooms.header(page.revision)), children: page.children, next_cursor })
}

struct Page {
    children: Vec<v1::list_response::Child>,
    more: bool,
    revision: Revision,
}

fn page(view: &StoreView<'_>, mut query: ListQuery, with_values: bool) -> Result<Page, ReadError> {
    let mut page = Page { children: Vec::new(), more: false, revision: query.revision.unwrap_or(view.revision()) };
    let (limit, mut bytes) = (query.limit, 0);
    loop {
        let left = limit - page.children.len();
        query.limit = if with_values { left.min(CHILDREN_STEP) } else { left };
        let done = view.list(&query)?;
        page.more = done.more;
        page.revision = done.revision;
        query.after = done.children.last().map(|last| last.name.clone()).or(query.after);
        for child in done.children {
            if bytes >= ANSWER_BYTES_MAX {
                page.more = true;
                return Ok(page);
            }
            let kv = if with_values { value_of(view, &query, &child)? } else { None };
            let child = v1::list_response::Child {
                name: String::from_utf8_lossy(&child.name).into_owned(),
                is_key: child.is_key,
                is_directory: child.is_directory,
                kv,
            };
            bytes += child.name.len() + child.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
            page.children.push(child);
        }
        if !page.more || page.children.len() >= limit {
            return Ok(page);
        }
    }
}

/// The key of a child, as of the listing's revision; `None` when the child is only a directory.
fn value_of(view: &StoreView<'_>, query: &ListQuery, child: &Child) -> Result<Option<v1::KeyValue>, ReadError> {
    if !child.is_key {
        return Ok(None);
    }
    let parent = query.dir.strip_suffix(b"/").unwrap_or(&query.dir);
    // What stands in the tree is a path, and so a key.
    let Ok(key) = Key::new([parent, &child.name[..]].join(&b'/')) else { return Ok(None) };
    Ok(view.get(&key, query.revision)?.map(convert::key_value))
}

/// What stands at a path.
pub async fn stat(rooms: &Rooms, request: v1::StatRequest, deadline: Instant) -> Result<v1::StatResponse, Refusal> {
    let path = validate::directory(request.path)?;
    rooms.fresh(request.read.as_ref(), deadline).await?;
    let key = Path::new(path.clone()).ok().map(Path::into_key);
    let (stat, revision) = rooms.read(Weight::Light, move |view| Ok((view.stat(&path)?, view.revision()))).await?;
    let (kv, value_bytes) = match (stat.meta, key) {
        (Some((meta, value_bytes)), Some(key)) => (Some(convert::meta(key, &meta)), value_bytes),
        _ => (None, 0),
    };
    Ok(v1::StatResponse {
        header: Some(rooms.header(revision)),
        kv,
        directory: stat.directory.map(|directory| v1::Directory {
            children: convert::count(directory.children),
            children_revision: directory.children_revision.get(),
            next_sequence: convert::count(directory.next_sequence),
        }),
        value_bytes: convert::count(value_bytes),
    })
}
