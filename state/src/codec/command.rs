//! The payload of a log entry: a batch of envelopes in our own versioned format.
//!
//! Invariants:
//! - An envelope is encoded once, where the command came in; a batch takes it as it is.
//! - Values of a decoded batch are slices of the input.
//! - Transactions nest at most [`DEPTH_MAX`] deep, so that decoding cannot exhaust the stack.
//!
//! Example: a put of `k` = `v` without request id or user, stamped 1:
//! batch `01 02 01 0a`, one envelope of 10 bytes: `00 00 00` nobody, `01` put, `01 6b` key, `01 01 76` value, `00` no owner … .

use bytes::Bytes;
use quorate_proto::{ClientId, Revision};

use super::varint::{DecodeError, Reader, put_bool, put_bytes, put_i64, put_lease, put_len, put_option, put_u64};
use crate::command::{
    Batch, Command, Compare, CopyTree, Delete, Envelope, Expect, LeaseEnd, Owner, Principal, Put, RangeQuery, Refine,
    Relation, RequestId, SortBy, Span, Target, Txn, TxnOp,
};

const FORMAT: u8 = 1;

/// Deepest nesting of transactions. The doors allow less.
const DEPTH_MAX: usize = 32;

/// Encodes a command with what stands around it.
pub fn encode_envelope(envelope: &Envelope) -> Bytes {
    let mut out = Vec::with_capacity(64);
    put_option(&mut out, envelope.request, |out, request| {
        out.extend_from_slice(&request.client.get().to_be_bytes());
        put_u64(out, request.sequence);
        put_u64(out, request.lowest_unacknowledged);
        put_u64(out, request.seen_index);
    });
    put_bytes(&mut out, envelope.principal.user.as_bytes());
    put_u64(&mut out, envelope.principal.auth_revision);
    put_command(&mut out, &envelope.command);
    out.into()
}

/// Reads what [`encode_envelope`] wrote.
pub fn decode_envelope(bytes: &Bytes) -> Result<Envelope, DecodeError> {
    read_envelope(Reader::sharing(bytes))
}

/// Encodes one log entry from envelopes that are encoded already.
pub fn encode_batch(stamp_ms: i64, envelopes: &[Bytes]) -> Bytes {
    let length: usize = envelopes.iter().map(|envelope| envelope.len() + 5).sum();
    let mut out = Vec::with_capacity(16 + length);
    out.push(FORMAT);
    put_i64(&mut out, stamp_ms);
    put_len(&mut out, envelopes.len());
    for envelope in envelopes {
        put_bytes(&mut out, envelope);
    }
    out.into()
}

/// Reads what [`encode_batch`] wrote. Values are slices of `bytes`.
pub fn decode_batch(bytes: &Bytes) -> Result<Batch, DecodeError> {
    let mut reader = Reader::sharing(bytes);
    reader.format("a batch", FORMAT)?;
    let stamp_ms = reader.i64()?;
    let commands = reader.list(|reader| read_envelope(reader.inside()?))?;
    reader.end()?;
    Ok(Batch { stamp_ms, commands })
}

fn read_envelope(mut reader: Reader<'_>) -> Result<Envelope, DecodeError> {
    let request = reader.option(|reader| {
        Ok(RequestId {
            client: ClientId::new(reader.fixed()?).ok_or(DecodeError::Invalid("a client of id 0"))?,
            sequence: reader.u64()?,
            lowest_unacknowledged: reader.u64()?,
            seen_index: reader.u64()?,
        })
    })?;
    let principal = Principal { user: reader.string()?, auth_revision: reader.u64()? };
    let command = read_command(&mut reader)?;
    reader.end()?;
    Ok(Envelope { request, principal, command })
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Put(put) => {
            out.push(1);
            put_put(out, put);
        }
        Command::Delete(delete) => {
            out.push(2);
            put_delete(out, delete);
        }
        Command::Txn(txn) => {
            out.push(3);
            put_txn(out, txn);
        }
        Command::CopyTree(copy) => {
            out.push(4);
            put_bytes(out, copy.from.as_bytes());
            put_bytes(out, copy.to.as_bytes());
            put_bool(out, copy.keep_leases);
            put_bool(out, copy.remove_source);
            put_u64(out, copy.limit);
        }
        Command::LeaseGrant { lease, ttl_ms } => {
            out.push(5);
            put_lease(out, Some(*lease));
            put_u64(out, *ttl_ms);
        }
        Command::LeaseRevoke { leases, cause } => {
            out.push(6);
            put_bool(out, *cause == LeaseEnd::Expired);
            put_len(out, leases.len());
            for lease in leases {
                put_lease(out, Some(*lease));
            }
        }
        Command::LeaseCheckpoint(notes) => {
            out.push(7);
            put_len(out, notes.len());
            for (lease, remaining_ms) in notes {
                put_lease(out, Some(*lease));
                put_option(out, *remaining_ms, put_u64);
            }
        }
        Command::Compact { revision, only_forward } => {
            out.push(if *only_forward { 10 } else { 8 });
            put_asked(out, *revision);
        }
        Command::SetStateVersion(version) => {
            out.push(9);
            put_u64(out, u64::from(*version));
        }
        Command::Scrub => out.push(11),
    }
}

fn read_command(reader: &mut Reader<'_>) -> Result<Command, DecodeError> {
    Ok(match reader.byte()? {
        1 => Command::Put(read_put(reader)?),
        2 => Command::Delete(read_delete(reader)?),
        3 => Command::Txn(read_txn(reader, 1)?),
        4 => Command::CopyTree(CopyTree {
            from: reader.path()?,
            to: reader.path()?,
            keep_leases: reader.boolean()?,
            remove_source: reader.boolean()?,
            limit: reader.u64()?,
        }),
        5 => Command::LeaseGrant { lease: reader.some_lease()?, ttl_ms: reader.u64()? },
        6 => {
            let cause = if reader.boolean()? { LeaseEnd::Expired } else { LeaseEnd::Asked };
            Command::LeaseRevoke { cause, leases: reader.list(Reader::some_lease)? }
        }
        7 => Command::LeaseCheckpoint(reader.list(|reader| Ok((reader.some_lease()?, reader.option(Reader::u64)?)))?),
        8 => Command::Compact { revision: read_asked(reader)?, only_forward: false },
        9 => Command::SetStateVersion(reader.u32()?),
        10 => Command::Compact { revision: read_asked(reader)?, only_forward: true },
        11 => Command::Scrub,
        found => return Err(DecodeError::UnknownKind { what: "a command", found }),
    })
}

fn put_put(out: &mut Vec<u8>, put: &Put) {
    put_bytes(out, put.key.as_bytes());
    put_option(out, put.value.as_ref(), |out, value| put_bytes(out, value));
    match put.owner {
        Owner::None => out.push(0),
        Owner::Lease(lease) => {
            out.push(1);
            put_lease(out, Some(lease));
        }
        Owner::Keep => out.push(2),
        Owner::Ttl { lease, ttl_ms } => {
            out.push(3);
            put_lease(out, Some(lease));
            put_u64(out, ttl_ms);
        }
    }
    put_expect(out, put.expect);
    let flags = [put.return_previous, put.must_have_parent, put.sequential];
    put_flags(out, &flags);
}

fn read_put(reader: &mut Reader<'_>) -> Result<Put, DecodeError> {
    let key = reader.key()?;
    let value = reader.option(Reader::bytes)?;
    let owner = match reader.byte()? {
        0 => Owner::None,
        1 => Owner::Lease(reader.some_lease()?),
        2 => Owner::Keep,
        3 => Owner::Ttl { lease: reader.some_lease()?, ttl_ms: reader.u64()? },
        found => return Err(DecodeError::UnknownKind { what: "an owner", found }),
    };
    let expect = read_expect(reader)?;
    let [return_previous, must_have_parent, sequential] = read_flags(reader)?;
    Ok(Put { key, value, owner, expect, return_previous, must_have_parent, sequential })
}

/// A revision that a client names: any number, so that no command is refused after it was logged.
fn put_asked(out: &mut Vec<u8>, revision: Revision) {
    put_i64(out, revision.0);
}

fn read_asked(reader: &mut Reader<'_>) -> Result<Revision, DecodeError> {
    reader.i64().map(Revision)
}

/// Bit 0 is the first flag.
fn put_flags(out: &mut Vec<u8>, flags: &[bool]) {
    out.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
}

fn read_flags<const N: usize>(reader: &mut Reader<'_>) -> Result<[bool; N], DecodeError> {
    let bits = reader.byte()?;
    if u32::from(bits) >> N != 0 {
        return Err(DecodeError::Invalid("a set of flags"));
    }
    Ok(std::array::from_fn(|flag| bits >> flag & 1 == 1))
}

fn put_expect(out: &mut Vec<u8>, expect: Expect) {
    match expect {
        Expect::Anything => out.push(0),
        Expect::Absent => out.push(1),
        Expect::Present => out.push(2),
        Expect::ModRevision(revision) => {
            out.push(3);
            put_asked(out, revision);
        }
    }
}

fn read_expect(reader: &mut Reader<'_>) -> Result<Expect, DecodeError> {
    Ok(match reader.byte()? {
        0 => Expect::Anything,
        1 => Expect::Absent,
        2 => Expect::Present,
        3 => Expect::ModRevision(read_asked(reader)?),
        found => return Err(DecodeError::UnknownKind { what: "an expectation", found }),
    })
}

fn put_span(out: &mut Vec<u8>, span: &Span) {
    match span {
        Span::Key(key) => {
            out.push(0);
            put_bytes(out, key.as_bytes());
        }
        Span::Range { start, end } => {
            out.push(1);
            put_bytes(out, start);
            put_option(out, end.as_ref(), |out, end| put_bytes(out, end));
        }
        Span::Subtree(path) => {
            out.push(2);
            put_bytes(out, path.as_bytes());
        }
    }
}

fn read_span(reader: &mut Reader<'_>) -> Result<Span, DecodeError> {
    Ok(match reader.byte()? {
        0 => Span::Key(reader.key()?),
        1 => Span::Range { start: reader.bytes()?, end: reader.option(Reader::bytes)? },
        2 => Span::Subtree(reader.path()?),
        found => return Err(DecodeError::UnknownKind { what: "a span", found }),
    })
}

fn put_delete(out: &mut Vec<u8>, delete: &Delete) {
    put_span(out, &delete.span);
    put_expect(out, delete.expect);
    put_flags(out, &[delete.must_be_empty, delete.return_previous]);
    put_option(out, delete.limit, put_u64);
}

fn read_delete(reader: &mut Reader<'_>) -> Result<Delete, DecodeError> {
    let (span, expect) = (read_span(reader)?, read_expect(reader)?);
    let [must_be_empty, return_previous] = read_flags(reader)?;
    Ok(Delete { span, expect, must_be_empty, return_previous, limit: reader.option(Reader::u64)? })
}

fn put_txn(out: &mut Vec<u8>, txn: &Txn) {
    put_len(out, txn.compares.len());
    for compare in &txn.compares {
        put_compare(out, compare);
    }
    for branch in [&txn.then, &txn.otherwise] {
        put_len(out, branch.len());
        for op in branch {
            put_op(out, op);
        }
    }
}

fn put_op(out: &mut Vec<u8>, op: &TxnOp) {
    match op {
        TxnOp::Range(query) => {
            out.push(1);
            put_query(out, query);
        }
        TxnOp::Put(put) => {
            out.push(2);
            put_put(out, put);
        }
        TxnOp::Delete(delete) => {
            out.push(3);
            put_delete(out, delete);
        }
        TxnOp::Txn(txn) => {
            out.push(4);
            put_txn(out, txn);
        }
    }
}

fn read_txn(reader: &mut Reader<'_>, depth: usize) -> Result<Txn, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::Invalid("a transaction nested so deep"));
    }
    let compares = reader.list(read_compare)?;
    let mut branch = || {
        reader.list(|reader| {
            Ok(match reader.byte()? {
                1 => TxnOp::Range(read_query(reader)?),
                2 => TxnOp::Put(read_put(reader)?),
                3 => TxnOp::Delete(read_delete(reader)?),
                4 => TxnOp::Txn(read_txn(reader, depth + 1)?),
                found => return Err(DecodeError::UnknownKind { what: "an operation", found }),
            })
        })
    };
    let (then, otherwise) = (branch()?, branch()?);
    Ok(Txn { compares, then, otherwise })
}

/// Beside a relation: [`Compare::empty_as_missing`].
const EMPTY_AS_MISSING: u8 = 4;

fn put_compare(out: &mut Vec<u8>, compare: &Compare) {
    put_span(out, &compare.span);
    let relation = match compare.relation {
        Relation::Equal => 0,
        Relation::NotEqual => 1,
        Relation::Greater => 2,
        Relation::Less => 3,
    };
    out.push(relation | if compare.empty_as_missing { EMPTY_AS_MISSING } else { 0 });
    match &compare.target {
        Target::Version(version) => {
            out.push(0);
            put_i64(out, *version);
        }
        Target::CreateRevision(revision) => {
            out.push(1);
            put_asked(out, *revision);
        }
        Target::ModRevision(revision) => {
            out.push(2);
            put_asked(out, *revision);
        }
        Target::Lease(lease) => {
            out.push(3);
            put_lease(out, *lease);
        }
        Target::Value(value) => {
            out.push(4);
            put_bytes(out, value);
        }
        Target::Exists(exists) => {
            out.push(5);
            put_bool(out, *exists);
        }
    }
}

fn read_compare(reader: &mut Reader<'_>) -> Result<Compare, DecodeError> {
    let span = read_span(reader)?;
    let bits = reader.byte()?;
    let relation = match bits & !EMPTY_AS_MISSING {
        0 => Relation::Equal,
        1 => Relation::NotEqual,
        2 => Relation::Greater,
        3 => Relation::Less,
        found => return Err(DecodeError::UnknownKind { what: "a relation", found }),
    };
    let target = match reader.byte()? {
        0 => Target::Version(reader.i64()?),
        1 => Target::CreateRevision(read_asked(reader)?),
        2 => Target::ModRevision(read_asked(reader)?),
        3 => Target::Lease(reader.lease()?),
        4 => Target::Value(reader.bytes()?),
        5 => Target::Exists(reader.boolean()?),
        found => return Err(DecodeError::UnknownKind { what: "a target", found }),
    };
    Ok(Compare { span, empty_as_missing: bits & EMPTY_AS_MISSING != 0, relation, target })
}

fn put_query(out: &mut Vec<u8>, query: &RangeQuery) {
    put_span(out, &query.span);
    put_option(out, query.revision, put_asked);
    put_option(out, query.limit, put_len);
    put_option(out, query.bytes_max, put_len);
    let refined = query.refine != Refine::default();
    put_flags(out, &[query.descending, query.keys_only, query.count_only, query.count_all, refined]);
    if refined {
        put_refine(out, &query.refine);
    }
}

fn read_query(reader: &mut Reader<'_>) -> Result<RangeQuery, DecodeError> {
    let size = |reader: &mut Reader<'_>| usize::try_from(reader.u64()?).map_err(|_| DecodeError::Invalid("a size"));
    let span = read_span(reader)?;
    let revision = reader.option(read_asked)?;
    let (limit, bytes_max) = (reader.option(size)?, reader.option(size)?);
    let [descending, keys_only, count_only, count_all, refined] = read_flags(reader)?;
    let refine = if refined { read_refine(reader)? } else { Refine::default() };
    Ok(RangeQuery { span, revision, limit, bytes_max, descending, keys_only, count_only, count_all, refine })
}

fn put_refine(out: &mut Vec<u8>, refine: &Refine) {
    out.push(match refine.sort {
        None => 0,
        Some(SortBy::Version) => 1,
        Some(SortBy::CreateRevision) => 2,
        Some(SortBy::ModRevision) => 3,
        Some(SortBy::Value) => 4,
    });
    put_flags(out, &[refine.window_first]);
    for bound in [refine.mod_min, refine.mod_max, refine.create_min, refine.create_max] {
        put_option(out, bound, put_asked);
    }
}

fn read_refine(reader: &mut Reader<'_>) -> Result<Refine, DecodeError> {
    let sort = match reader.byte()? {
        0 => None,
        1 => Some(SortBy::Version),
        2 => Some(SortBy::CreateRevision),
        3 => Some(SortBy::ModRevision),
        4 => Some(SortBy::Value),
        found => return Err(DecodeError::UnknownKind { what: "an order", found }),
    };
    let [window_first] = read_flags(reader)?;
    Ok(Refine {
        sort,
        window_first,
        mod_min: reader.option(read_asked)?,
        mod_max: reader.option(read_asked)?,
        create_min: reader.option(read_asked)?,
        create_max: reader.option(read_asked)?,
    })
}
