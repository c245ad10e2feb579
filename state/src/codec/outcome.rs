//! Outcomes in bytes: between members, for forwarded commands, and in the memory of request ids.
//!
//! Invariants:
//! - The same format on the wire between members and in the store; results of nested transactions nest at most
//!   [`DEPTH_MAX`] deep.

use bytes::Bytes;

use super::varint::{
    DecodeError, Reader, put_bool, put_bytes, put_i64, put_lease, put_len, put_option, put_revision, put_u64,
};
use crate::outcome::{DeleteDone, Done, KeyValue, Meta, Outcome, PutDone, RangeDone, Rejection, TxnDone, TxnResult};

const FORMAT: u8 = 1;

/// Deepest nesting of transactions, as for commands.
const DEPTH_MAX: usize = 32;

/// Encodes an outcome.
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    let mut out = Vec::with_capacity(64);
    out.push(FORMAT);
    put_outcome(&mut out, outcome);
    out.into()
}

/// Reads what [`encode_outcome`] wrote. Values are slices of `bytes`.
pub fn decode_outcome(bytes: &Bytes) -> Result<Outcome, DecodeError> {
    let mut reader = Reader::sharing(bytes);
    reader.format("an outcome", FORMAT)?;
    let outcome = read_outcome(&mut reader)?;
    reader.end()?;
    Ok(outcome)
}

pub(crate) fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    put_revision(out, outcome.revision);
    put_bool(out, outcome.replayed);
    match &outcome.result {
        Ok(done) => put_done(out, done),
        Err(rejection) => put_rejection(out, rejection),
    }
}

pub(crate) fn read_outcome(reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    let (revision, replayed) = (reader.revision()?, reader.boolean()?);
    let result = match reader.byte()? {
        kind @ 0..0x80 => Ok(read_done(reader, kind)?),
        kind => Err(read_rejection(reader, kind)?),
    };
    Ok(Outcome { revision, replayed, result })
}

fn put_done(out: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Put(put) => {
            out.push(1);
            put_put(out, put);
        }
        Done::Delete(delete) => {
            out.push(2);
            put_delete(out, delete);
        }
        Done::Txn(txn) => {
            out.push(3);
            put_txn(out, txn);
        }
        Done::CopyTree(keys) => {
            out.push(4);
            put_u64(out, *keys);
        }
        Done::LeaseGrant { lease, ttl_ms } => {
            out.push(5);
            put_lease(out, Some(*lease));
            put_u64(out, *ttl_ms);
        }
        Done::LeaseRevoke { deleted } => {
            out.push(6);
            put_u64(out, *deleted);
        }
        Done::LeaseCheckpoint => out.push(7),
        Done::Compact => out.push(8),
        Done::StateVersion(version) => {
            out.push(9);
            put_u64(out, u64::from(*version));
        }
        Done::Scrub => out.push(10),
    }
}

fn read_done(reader: &mut Reader<'_>, kind: u8) -> Result<Done, DecodeError> {
    Ok(match kind {
        1 => Done::Put(read_put(reader)?),
        2 => Done::Delete(read_delete(reader)?),
        3 => Done::Txn(read_txn(reader, 1)?),
        4 => Done::CopyTree(reader.u64()?),
        5 => Done::LeaseGrant { lease: reader.some_lease()?, ttl_ms: reader.u64()? },
        6 => Done::LeaseRevoke { deleted: reader.u64()? },
        7 => Done::LeaseCheckpoint,
        8 => Done::Compact,
        9 => Done::StateVersion(reader.u32()?),
        10 => Done::Scrub,
        found => return Err(DecodeError::UnknownKind { what: "an outcome", found }),
    })
}

fn put_put(out: &mut Vec<u8>, put: &PutDone) {
    put_bytes(out, put.key.as_bytes());
    put_lease(out, put.lease);
    put_option(out, put.previous.as_ref(), put_kv);
}

fn read_put(reader: &mut Reader<'_>) -> Result<PutDone, DecodeError> {
    Ok(PutDone { key: reader.key()?, lease: reader.lease()?, previous: reader.option(read_kv)? })
}

fn put_kvs(out: &mut Vec<u8>, kvs: &[KeyValue]) {
    put_len(out, kvs.len());
    for kv in kvs {
        put_kv(out, kv);
    }
}

fn put_delete(out: &mut Vec<u8>, delete: &DeleteDone) {
    put_u64(out, delete.deleted);
    put_kvs(out, &delete.previous);
}

fn read_delete(reader: &mut Reader<'_>) -> Result<DeleteDone, DecodeError> {
    Ok(DeleteDone { deleted: reader.u64()?, previous: reader.list(read_kv)? })
}

fn put_txn(out: &mut Vec<u8>, txn: &TxnDone) {
    put_bool(out, txn.succeeded);
    put_len(out, txn.results.len());
    for result in &txn.results {
        match result {
            TxnResult::Range(range) => {
                out.push(1);
                put_kvs(out, &range.kvs);
                put_bool(out, range.more);
                put_u64(out, range.count);
            }
            TxnResult::Put(put) => {
                out.push(2);
                put_put(out, put);
            }
            TxnResult::Delete(delete) => {
                out.push(3);
                put_delete(out, delete);
            }
            TxnResult::Txn(txn) => {
                out.push(4);
                put_txn(out, txn);
            }
        }
    }
}

fn read_txn(reader: &mut Reader<'_>, depth: usize) -> Result<TxnDone, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::Invalid("a transaction nested so deep"));
    }
    let succeeded = reader.boolean()?;
    let results = reader.list(|reader| {
        Ok(match reader.byte()? {
            1 => TxnResult::Range(RangeDone {
                kvs: reader.list(read_kv)?,
                more: reader.boolean()?,
                count: reader.u64()?,
            }),
            2 => TxnResult::Put(read_put(reader)?),
            3 => TxnResult::Delete(read_delete(reader)?),
            4 => TxnResult::Txn(read_txn(reader, depth + 1)?),
            found => return Err(DecodeError::UnknownKind { what: "a result", found }),
        })
    })?;
    Ok(TxnDone { succeeded, results })
}

fn put_kv(out: &mut Vec<u8>, kv: &KeyValue) {
    put_bytes(out, kv.key.as_bytes());
    put_bytes(out, &kv.value);
    put_meta(out, &kv.meta);
}

fn read_kv(reader: &mut Reader<'_>) -> Result<KeyValue, DecodeError> {
    Ok(KeyValue { key: reader.key()?, value: reader.bytes()?, meta: read_meta(reader)? })
}

/// Metadata, also in the store: mod revision, its distance to the create revision, version, lease,
/// modified, its distance to created.
pub(crate) fn put_meta(out: &mut Vec<u8>, meta: &Meta) {
    put_revision(out, meta.mod_revision);
    put_u64(out, meta.mod_revision.0.wrapping_sub(meta.create_revision.0).cast_unsigned());
    put_u64(out, meta.version.cast_unsigned());
    put_lease(out, meta.lease);
    put_i64(out, meta.modified_ms);
    put_i64(out, meta.modified_ms.wrapping_sub(meta.created_ms));
}

/// Reads what [`put_meta`] wrote.
pub(crate) fn read_meta(reader: &mut Reader<'_>) -> Result<Meta, DecodeError> {
    let mod_revision = reader.revision()?;
    let age = reader.revision()?;
    if age > mod_revision {
        return Err(DecodeError::Invalid("a create revision"));
    }
    let create_revision = quorate_proto::Revision(mod_revision.0 - age.0);
    let version = i64::try_from(reader.u64()?).map_err(|_| DecodeError::Invalid("a version"))?;
    let lease = reader.lease()?;
    let modified_ms = reader.i64()?;
    let created_ms = modified_ms.wrapping_sub(reader.i64()?);
    Ok(Meta { create_revision, mod_revision, version, lease, created_ms, modified_ms })
}

fn put_rejection(out: &mut Vec<u8>, rejection: &Rejection) {
    match rejection {
        Rejection::Precondition { key, reason, current } => {
            out.push(0x80);
            put_bytes(out, key.as_bytes());
            put_bytes(out, reason.as_bytes());
            put_revision(out, *current);
        }
        Rejection::KeyNotFound { key } => {
            out.push(0x81);
            put_bytes(out, key.as_bytes());
        }
        Rejection::LeaseNotFound { lease } => {
            out.push(0x82);
            put_lease(out, Some(*lease));
        }
        Rejection::LeaseExists { lease } => {
            out.push(0x83);
            put_lease(out, Some(*lease));
        }
        Rejection::NotAPath { key } => {
            out.push(0x84);
            put_bytes(out, key.as_bytes());
        }
        Rejection::DuplicateKey { key } => {
            out.push(0x85);
            put_bytes(out, key.as_bytes());
        }
        Rejection::TooManyChanges { limit } => {
            out.push(0x86);
            put_u64(out, *limit);
        }
        Rejection::Overlap { from, to } => {
            out.push(0x87);
            put_bytes(out, from.as_bytes());
            put_bytes(out, to.as_bytes());
        }
        Rejection::FutureRevision { asked, current } => {
            out.push(0x88);
            put_i64(out, asked.0);
            put_revision(out, *current);
        }
        Rejection::Compacted { asked, compacted } => {
            out.push(0x89);
            put_i64(out, asked.0);
            put_revision(out, *compacted);
        }
        Rejection::RequestExpired => out.push(0x8a),
        Rejection::RequestIdReused => out.push(0x8b),
        Rejection::Invalid(reason) => {
            out.push(0x8c);
            put_bytes(out, reason.as_bytes());
        }
    }
}

fn read_rejection(reader: &mut Reader<'_>, kind: u8) -> Result<Rejection, DecodeError> {
    Ok(match kind {
        0x80 => Rejection::Precondition { key: reader.key()?, reason: reader.string()?, current: reader.revision()? },
        0x81 => Rejection::KeyNotFound { key: reader.key()? },
        0x82 => Rejection::LeaseNotFound { lease: reader.some_lease()? },
        0x83 => Rejection::LeaseExists { lease: reader.some_lease()? },
        0x84 => Rejection::NotAPath { key: reader.key()? },
        0x85 => Rejection::DuplicateKey { key: reader.key()? },
        0x86 => Rejection::TooManyChanges { limit: reader.u64()? },
        0x87 => Rejection::Overlap { from: reader.key()?, to: reader.key()? },
        0x88 => {
            Rejection::FutureRevision { asked: quorate_proto::Revision(reader.i64()?), current: reader.revision()? }
        }
        0x89 => Rejection::Compacted { asked: quorate_proto::Revision(reader.i64()?), compacted: reader.revision()? },
        0x8a => Rejection::RequestExpired,
        0x8b => Rejection::RequestIdReused,
        0x8c => Rejection::Invalid(reader.string()?),
        found => return Err(DecodeError::UnknownKind { what: "a rejection", found }),
    })
}
