//! Reads a range of any size step by step.
//!
//! Invariants:
//! - No more than one step is in memory, beside what the visitor keeps.

use bytes::Bytes;
use quorate_proto::{Key, Revision};
use quorate_state::command::{RangeQuery, Span};
use quorate_state::outcome::KeyValue;
use quorate_state::view::ReadError;

use crate::api::StoreView;

/// Keys read at a time, and their bytes.
const STEP_KEYS: usize = 1_024;
const STEP_BYTES: usize = 4 << 20;

/// Visits the keys of a range in order, until `visit` says false.
pub fn scan(
    view: &StoreView<'_>,
    (mut start, end): (Bytes, Bytes),
    at: Option<Revision>,
    mut visit: impl FnMut(KeyValue) -> bool,
) -> Result<(), ReadError> {
    loop {
        let query = RangeQuery {
            revision: at,
            limit: Some(STEP_KEYS),
            bytes_max: Some(STEP_BYTES),
            ..RangeQuery::all(Span::Range { start, end: Some(end.clone()) })
        };
        let done = view.range(&query)?;
        let next = done.kvs.last().map(|last| Key::after(last.key.as_bytes()));
        for kv in done.kvs {
            if !visit(kv) {
                return Ok(());
            }
        }
        match next {
            Some(next) if done.more => start = next.into(),
            _ => return Ok(()),
        }
    }
}
