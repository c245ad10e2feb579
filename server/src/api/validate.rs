//! From requests to commands and reads, checking what depends on nothing but the request.
//!
//! Invariants:
//! - What passes here is within all bounds; every refusal says what was wrong, and what to do instead.

use bytes::Bytes;
use quorate_proto::v1;
use quorate_proto::{ClientId, Key, LeaseId, Path, Revision};
use quorate_state::command::{Command, CopyTree, Delete, Expect, Owner, Put, RangeQuery, Refine, RequestId, Span};

use super::errors::Refusal;
use super::limits::{ANSWER_BYTES_MAX, CHANGES_MAX, PAGE_DEFAULT, PAGE_MAX, TTL_MS_MAX, TTL_MS_MIN};
use crate::chance;
use crate::config::Limits;

/// `/` and twenty digits: what a sequential put adds to its directory.
const SEQUENCE_BYTES: usize = 21;

/// A write's own id, if the client gave one.
pub fn request_id(id: Option<&v1::WriteId>) -> Result<Option<RequestId>, Refusal> {
    let Some(id) = id else { return Ok(None) };
    let client = ClientId::new(id.client_id)
        .ok_or_else(|| Refusal::invalid("id.client_id is 0; choose a random one for each client process"))?;
    if id.sequence == 0 {
        return Err(Refusal::invalid("id.sequence is 0; sequences begin with 1"));
    }
    if id.lowest_unacknowledged > id.sequence {
        return Err(Refusal::invalid(format!(
            "id.lowest_unacknowledged {} is above id.sequence {}, whose answer is still to come",
            id.lowest_unacknowledged, id.sequence
        )));
    }
    Ok(Some(RequestId {
        client,
        sequence: id.sequence,
        lowest_unacknowledged: id.lowest_unacknowledged.max(1),
        seen_index: id.seen_log_index,
    }))
}

/// A revision to read at; 0 for the newest.
pub fn at_revision(revision: i64) -> Result<Option<Revision>, Refusal> {
    match revision {
        0 => Ok(None),
        1.. => Ok(Some(Revision(revision))),
        _ => Err(Refusal::invalid(format!("revision {revision} is negative; 0 means the newest"))),
    }
}

/// A lease that must be named.
pub fn lease(id: i64) -> Result<LeaseId, Refusal> {
    LeaseId::new(id).ok_or_else(|| Refusal::invalid("lease_id is 0, which names no lease"))
}

/// A time to live.
pub fn ttl(ttl_ms: u64) -> Result<u64, Refusal> {
    if (TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms) {
        return Ok(ttl_ms);
    }
    Err(Refusal::invalid(format!("ttl_ms {ttl_ms} is not within {TTL_MS_MIN} (500 ms) and {TTL_MS_MAX} (10 years)")))
}

/// A new lease's id: positive, as other doors show it.
pub fn mint_lease() -> LeaseId {
    loop {
        if let Some(lease) = LeaseId::new(chance::draw().cast_signed() & i64::MAX) {
            return lease;
        }
    }
}

/// Bytes of a directory: a path, or `/`.
pub fn directory(path: impl Into<Bytes>) -> Result<Bytes, Refusal> {
    let path = path.into();
    if &path[..] == b"/" { Ok(path) } else { Ok(Path::new(path)?.into_key().into_bytes()) }
}

/// How many keys or children an answer may have.
pub fn page(limit: u32) -> Result<usize, Refusal> {
    match usize::try_from(limit).unwrap_or(usize::MAX) {
        0 => Ok(PAGE_DEFAULT),
        limit if limit <= PAGE_MAX => Ok(limit),
        limit => Err(Refusal::invalid(format!("{limit} at a time is over the bound of {PAGE_MAX}; page through"))),
    }
}

/// `[start, end)`, either open when empty.
pub fn bounds(start: Bytes, end: Bytes) -> Result<Span, Refusal> {
    for (name, bound) in [("start", &start), ("end", &end)] {
        if bound.len() > Key::BYTES_MAX {
            return Err(Refusal::invalid(format!(
                "the {name} of the range has {} bytes; a key has at most {}",
                bound.len(),
                Key::BYTES_MAX
            )));
        }
    }
    if !end.is_empty() && end <= start {
        return Err(Refusal::invalid("the range ends before it starts; end is exclusive, empty for no end"));
    }
    Ok(Span::Range { start, end: (!end.is_empty()).then_some(end) })
}

/// A put, without its id.
pub fn put(request: v1::PutRequest, limits: &Limits) -> Result<Put, Refusal> {
    let key = Key::new(request.key)?;
    if request.value.len() > limits.value_bytes_max {
        return Err(Refusal::too_large(format!(
            "the value of {key} has {} bytes, at most {} are allowed; split it, or raise value-bytes-max",
            request.value.len(),
            limits.value_bytes_max
        )));
    }
    let expect = expect(request.expect)?;
    if request.sequential {
        Path::new(key.to_bytes())?;
        if key.as_bytes().len() + SEQUENCE_BYTES > Key::BYTES_MAX {
            return Err(Refusal::invalid("the directory is too long for a sequential name below it"));
        }
        if matches!(expect, Expect::Present | Expect::ModRevision(_)) {
            return Err(Refusal::invalid("a sequential put makes a new key: it cannot expect one that is there"));
        }
    }
    if request.must_have_parent {
        Path::new(key.to_bytes())?;
    }
    let owner = match request.owner {
        None | Some(v1::put_request::Owner::KeepLease(false)) => Owner::None,
        Some(v1::put_request::Owner::LeaseId(id)) => Owner::Lease(lease(id)?),
        Some(v1::put_request::Owner::TtlMs(ttl_ms)) => Owner::Ttl { lease: mint_lease(), ttl_ms: ttl(ttl_ms)? },
        Some(v1::put_request::Owner::KeepLease(true)) => Owner::Keep,
    };
    Ok(Put {
        key,
        value: Some(request.value),
        owner,
        expect,
        return_previous: request.return_previous,
        must_have_parent: request.must_have_parent,
        sequential: request.sequential,
    })
}

fn expect(expect: Option<v1::Expect>) -> Result<Expect, Refusal> {
    use v1::expect::What;
    match expect.and_then(|expect| expect.what) {
        None => Ok(Expect::Anything),
        Some(What::Absent(true)) => Ok(Expect::Absent),
        Some(What::Present(true)) => Ok(Expect::Present),
        Some(What::Absent(false) | What::Present(false)) => {
            Err(Refusal::invalid("expect.absent and expect.present are true or left out; use the other one"))
        }
        Some(What::ModRevision(revision @ 1..)) => Ok(Expect::ModRevision(Revision(revision))),
        Some(What::ModRevision(_)) => {
            Err(Refusal::invalid("expect.mod_revision is at least 1; use expect.absent for a key that must not exist"))
        }
    }
}

/// A delete, without its id.
pub fn delete(request: v1::DeleteRequest) -> Result<Delete, Refusal> {
    use v1::delete_request::Scope;
    let scope = Scope::try_from(request.scope).map_err(|_| unknown("scope", request.scope))?;
    let expect = expect(request.expect)?;
    if scope != Scope::Range && !request.end.is_empty() {
        return Err(Refusal::invalid("end is for the scope RANGE only"));
    }
    if scope != Scope::Key && (expect != Expect::Anything || request.must_be_empty) {
        return Err(Refusal::invalid("expect and must_be_empty are for the scope KEY only"));
    }
    let span = match scope {
        Scope::Key if request.must_be_empty => Span::Key(Path::new(request.key)?.into_key()),
        Scope::Key => Span::Key(Key::new(request.key)?),
        Scope::Subtree => Span::Subtree(Path::new(request.key)?),
        Scope::Range => bounds(request.key, request.end)?,
    };
    Ok(Delete {
        span,
        expect,
        must_be_empty: request.must_be_empty,
        return_previous: request.return_previous,
        limit: Some(CHANGES_MAX),
    })
}

/// A range, without its read options.
pub fn range(request: v1::RangeRequest) -> Result<RangeQuery, Refusal> {
    use v1::range_request::Order;
    let order = Order::try_from(request.order).map_err(|_| unknown("order", request.order))?;
    Ok(RangeQuery {
        span: bounds(request.start, request.end)?,
        revision: at_revision(request.revision)?,
        limit: if request.count_only { None } else { Some(page(request.limit)?) },
        bytes_max: Some(ANSWER_BYTES_MAX),
        descending: order == Order::Descending,
        keys_only: request.keys_only,
        count_only: request.count_only,
        count_all: false,
        refine: Refine::default(),
    })
}

/// A copy, or a move.
pub fn copy(from: String, to: String, keep_leases: bool, remove_source: bool) -> Result<Command, Refusal> {
    let (from, to) = (Path::new(from)?, Path::new(to)?);
    let inside = |inner: &Path, outer: &Path| {
        inner.as_bytes().strip_prefix(outer.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    if inside(&from, &to) || inside(&to, &from) {
        return Err(Refusal::invalid(format!("{from} and {to} overlap; choose a destination outside the source")));
    }
    Ok(Command::CopyTree(CopyTree { from, to, keep_leases, remove_source, limit: CHANGES_MAX }))
}

/// An enumeration's value that this version does not know.
pub fn unknown(field: &str, value: i32) -> Refusal {
    Refusal::invalid(format!("{field} {value} is not known to this version"))
}

#[cfg(test)]
mod tests;
