//! Reads that the etcd wire refines: bounds on revisions, other orders, and only then the limit.
//!
//! Invariants:
//! - The steps are those of the wire: all keys of the span, the bounds, the order, the limit; values go last, so that
//!   they can be sorted by where only keys were asked for.
//! - `count` is the number of keys in the span, whatever bounds and limit left over.

use std::cmp::Ordering;

use crate::command::{RangeQuery, Refine, SortBy};
use crate::history;
use crate::outcome::{Fault, KeyValue, Meta, RangeDone};
use crate::store::Read;

/// Answers a refined query as of `revision`.
pub(crate) fn range<R: Read>(
    read: &R,
    query: &RangeQuery,
    revision: quorate_proto::Revision,
) -> Result<RangeDone, Fault> {
    let refine = &query.refine;
    let limit = query.limit.unwrap_or(usize::MAX);
    let all = RangeQuery {
        limit: refine.window_first.then(|| limit.saturating_add(1)),
        bytes_max: None,
        descending: false,
        keys_only: query.keys_only && refine.sort != Some(SortBy::Value),
        count_all: true,
        refine: Refine::default(),
        ..query.clone()
    };
    let mut done = history::range(read, &all, revision)?;
    done.kvs.retain(|kv| holds(refine, &kv.meta));
    match refine.sort {
        // The sort is stable: keys that are equal in it stay in order of the key, in both directions.
        Some(by) if query.descending => done.kvs.sort_by(|left, right| compare(by, right, left)),
        Some(by) => done.kvs.sort_by(|left, right| compare(by, left, right)),
        None if query.descending => done.kvs.reverse(),
        None => {}
    }
    done.more = done.kvs.len() > limit;
    done.kvs.truncate(limit);
    if query.keys_only {
        for kv in &mut done.kvs {
            kv.value.clear();
        }
    }
    Ok(done)
}

fn holds(refine: &Refine, meta: &Meta) -> bool {
    refine.mod_min.is_none_or(|min| meta.mod_revision >= min)
        && refine.mod_max.is_none_or(|max| meta.mod_revision <= max)
        && refine.create_min.is_none_or(|min| meta.create_revision >= min)
        && refine.create_max.is_none_or(|max| meta.create_revision <= max)
}

fn compare(by: SortBy, left: &KeyValue, right: &KeyValue) -> Ordering {
    match by {
        SortBy::Version => left.meta.version.cmp(&right.meta.version),
        SortBy::CreateRevision => left.meta.create_revision.cmp(&right.meta.create_revision),
        SortBy::ModRevision => left.meta.mod_revision.cmp(&right.meta.mod_revision),
        SortBy::Value => left.value.cmp(&right.value),
    }
}
