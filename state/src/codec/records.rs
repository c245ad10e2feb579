//! Stored values, table by table.
//!
//! Invariants:
//! - Each starts with its format byte. Numbers are of variable length (see `varint`).
//! - Reading gives back what was written or an error that says which table is damaged.

use bytes::Bytes;
use quorate_proto::{ClientId, Key, Revision};

use super::outcome::{put_meta, read_meta};
use super::varint::{DecodeError, Reader, put_bool, put_bytes, put_i64, put_len, put_option, put_revision, put_u64};
use crate::apply::LogPosition;
use crate::outcome::Meta;
use crate::view::LeaseRecord;

const FORMAT: u8 = 1;

/// The format of the whole store; what opens it must know it.
pub(crate) const STORE_FORMAT: u32 = 1;

/// Value of `c`.
pub(crate) fn current(meta: &Meta) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.push(FORMAT);
    put_meta(&mut out, meta);
    out
}

/// Reads a value of `c`.
pub(crate) fn read_current(bytes: &[u8]) -> Result<Meta, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.format("c", FORMAT)?;
    let meta = read_meta(&mut reader)?;
    reader.end()?;
    Ok(meta)
}

const LIVE: u8 = 0;
const TOMBSTONE: u8 = 1;

/// Value of `h` for a version with a value.
pub(crate) fn version(meta: &Meta, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + value.len());
    out.extend_from_slice(&[FORMAT, LIVE]);
    put_meta(&mut out, meta);
    out.extend_from_slice(value);
    out
}

/// Value of `h` for a deletion.
pub(crate) fn tombstone() -> Vec<u8> {
    vec![FORMAT, TOMBSTONE]
}

fn read_liveness(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    reader.format("h", FORMAT)?;
    match reader.byte()? {
        LIVE => Ok(true),
        TOMBSTONE => Ok(false),
        found => Err(DecodeError::UnknownKind { what: "h", found }),
    }
}

/// Reads a value of `h`, sharing its bytes: `None` for a deletion.
pub(crate) fn read_version(bytes: &Bytes) -> Result<Option<(Meta, Bytes)>, DecodeError> {
    read_version_from(Reader::sharing(bytes))
}

/// Reads a value of `h`, copying.
pub(crate) fn copy_version(bytes: &[u8]) -> Result<Option<(Meta, Bytes)>, DecodeError> {
    read_version_from(Reader::new(bytes))
}

/// Metadata and value of a value of `h`, not copied: `None` for a deletion.
pub(crate) fn version_parts(bytes: &[u8]) -> Result<Option<(Meta, &[u8])>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if !read_liveness(&mut reader)? {
        reader.end()?;
        return Ok(None);
    }
    let meta = read_meta(&mut reader)?;
    Ok(Some((meta, reader.rest_slice())))
}

fn read_version_from(mut reader: Reader<'_>) -> Result<Option<(Meta, Bytes)>, DecodeError> {
    if !read_liveness(&mut reader)? {
        reader.end()?;
        return Ok(None);
    }
    let meta = read_meta(&mut reader)?;
    Ok(Some((meta, reader.rest())))
}

/// Value of `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DirectoryRecord {
    pub(crate) children: u64,
    /// When a child last came or went.
    pub(crate) children_revision: Revision,
    /// 0: none was handed out yet.
    pub(crate) next_sequence: u64,
}

impl DirectoryRecord {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        out.push(FORMAT);
        put_u64(&mut out, self.children);
        put_revision(&mut out, self.children_revision);
        put_u64(&mut out, self.next_sequence);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.format("d", FORMAT)?;
        let record =
            Self { children: reader.u64()?, children_revision: reader.revision()?, next_sequence: reader.u64()? };
        reader.end()?;
        Ok(record)
    }
}

/// Value of `e`: what a child is; never neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChildBits {
    pub(crate) is_key: bool,
    pub(crate) is_directory: bool,
}

impl ChildBits {
    pub(crate) fn encode(self) -> Vec<u8> {
        vec![FORMAT, u8::from(self.is_key) | u8::from(self.is_directory) << 1]
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.format("e", FORMAT)?;
        let bits = reader.byte()?;
        reader.end()?;
        match bits {
            1..=3 => Ok(Self { is_key: bits & 1 != 0, is_directory: bits & 2 != 0 }),
            found => Err(DecodeError::UnknownKind { what: "e", found }),
        }
    }
}

/// Value of `l`.
pub(crate) fn lease(record: &LeaseRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    out.push(FORMAT);
    put_u64(&mut out, record.ttl_ms);
    put_option(&mut out, record.remaining_ms, put_u64);
    put_revision(&mut out, record.granted_revision);
    put_bool(&mut out, record.own_key);
    out
}

/// Reads a value of `l`.
pub(crate) fn read_lease(bytes: &[u8]) -> Result<LeaseRecord, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.format("l", FORMAT)?;
    let record = LeaseRecord {
        ttl_ms: reader.u64()?,
        remaining_ms: reader.option(Reader::u64)?,
        granted_revision: reader.revision()?,
        own_key: reader.boolean()?,
    };
    reader.end()?;
    Ok(record)
}

/// Value of `r`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ChangeRecord {
    /// For each revision, from the first on, its changes in order.
    pub(crate) revisions: Vec<Vec<ChangeEntry>>,
    /// Commands with a request id, in order.
    pub(crate) requests: Vec<RequestEntry>,
}

/// One change in a [`ChangeRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangeEntry {
    pub(crate) kind: ChangeTag,
    pub(crate) key: Key,
    /// Zero: the key was created.
    pub(crate) previous: Revision,
}

/// What kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeTag {
    Put = 0,
    Delete = 1,
    LeaseEnded = 2,
}

/// One remembered request in a [`ChangeRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestEntry {
    pub(crate) client: ClientId,
    pub(crate) sequence: u64,
    /// The lowest sequence of the client that is still of interest after this command.
    pub(crate) lowest: u64,
    /// See `dedup`.
    pub(crate) memory: Bytes,
}

/// A [`RequestEntry`] that was not copied out of its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestRef<'a> {
    pub(crate) client: ClientId,
    pub(crate) sequence: u64,
    pub(crate) lowest: u64,
    pub(crate) memory: &'a [u8],
}

impl<'a> RequestRef<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            client: ClientId::new(reader.fixed()?).ok_or(DecodeError::Invalid("a client of id 0"))?,
            sequence: reader.u64()?,
            lowest: reader.u64()?,
            memory: reader.slice()?,
        })
    }
}

impl ChangeRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.push(FORMAT);
        put_len(&mut out, self.revisions.len());
        for changes in &self.revisions {
            put_len(&mut out, changes.len());
            for change in changes {
                out.push(change.kind as u8);
                put_bytes(&mut out, change.key.as_bytes());
                put_revision(&mut out, change.previous);
            }
        }
        put_len(&mut out, self.requests.len());
        for request in &self.requests {
            out.extend_from_slice(&request.client.get().to_be_bytes());
            put_u64(&mut out, request.sequence);
            put_u64(&mut out, request.lowest);
            put_bytes(&mut out, &request.memory);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.format("r", FORMAT)?;
        let revisions = reader.list(|reader| reader.list(ChangeEntry::read))?;
        let requests = reader.list(|reader| {
            let RequestRef { client, sequence, lowest, memory } = RequestRef::read(reader)?;
            Ok(RequestEntry { client, sequence, lowest, memory: Bytes::copy_from_slice(memory) })
        })?;
        reader.end()?;
        Ok(Self { revisions, requests })
    }
}

/// A [`ChangeEntry`] that was not copied out of its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChangeRef<'a> {
    pub(crate) kind: ChangeTag,
    pub(crate) key: &'a [u8],
    pub(crate) previous: Revision,
}

impl<'a> ChangeRef<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let kind = match reader.byte()? {
            0 => ChangeTag::Put,
            1 => ChangeTag::Delete,
            2 => ChangeTag::LeaseEnded,
            found => return Err(DecodeError::UnknownKind { what: "a change", found }),
        };
        Ok(Self { kind, key: reader.slice()?, previous: reader.revision()? })
    }
}

impl ChangeEntry {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ChangeRef { kind, key, previous } = ChangeRef::read(reader)?;
        let key = Key::new(key.to_vec()).map_err(|_| DecodeError::Invalid("a key"))?;
        Ok(Self { kind, key, previous })
    }
}

/// Visits the changes of a value of `r` without copying them, with revision and position in it, until `visit` says
/// false. A revision may have more changes than one would like to hold.
pub(crate) fn visit_changes(
    bytes: &[u8],
    first: Revision,
    mut visit: impl FnMut(Revision, u64, ChangeRef<'_>) -> bool,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.format("r", FORMAT)?;
    let mut revision = first;
    for _ in 0..reader.count()? {
        for position in 0..reader.u64()? {
            if !visit(revision, position, ChangeRef::read(&mut reader)?) {
                return Ok(());
            }
        }
        revision = revision.next();
    }
    Ok(())
}

/// Visits the requests of a value of `r` without copying them, in order.
pub(crate) fn visit_requests(bytes: &[u8], mut visit: impl FnMut(RequestRef<'_>)) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.format("r", FORMAT)?;
    for _ in 0..reader.count()? {
        for _ in 0..reader.u64()? {
            ChangeRef::read(&mut reader)?;
        }
    }
    for _ in 0..reader.count()? {
        visit(RequestRef::read(&mut reader)?);
    }
    reader.end()
}

/// Value of `s head`: all that changes with every entry, and what every view needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) revision: Revision,
    pub(crate) applied: Option<LogPosition>,
    pub(crate) digest: u64,
    /// The latest stamp used.
    pub(crate) stamp_ms: i64,
    pub(crate) keys: u64,
    pub(crate) leases: u64,
    /// Requests at this log index and below may be forgotten.
    pub(crate) forgotten_index: u64,
    /// First revision of the oldest record of `r` that holds remembered requests; `next` of the revision if none does.
    pub(crate) window_revision: Revision,
    /// The compaction mark; zero: none.
    pub(crate) compacted: Revision,
    /// Version of apply's behaviour in force.
    pub(crate) state_version: u32,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            revision: Revision::FIRST,
            applied: None,
            digest: 0,
            stamp_ms: 0,
            keys: 0,
            leases: 0,
            forgotten_index: 0,
            window_revision: Revision::FIRST,
            compacted: Revision::ZERO,
            state_version: crate::versions::FIRST,
        }
    }
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.push(FORMAT);
        put_revision(&mut out, self.revision);
        put_option(&mut out, self.applied, put_position);
        out.extend_from_slice(&self.digest.to_be_bytes());
        put_i64(&mut out, self.stamp_ms);
        put_u64(&mut out, self.keys);
        put_u64(&mut out, self.leases);
        put_u64(&mut out, self.forgotten_index);
        put_revision(&mut out, self.window_revision);
        put_revision(&mut out, self.compacted);
        put_u64(&mut out, u64::from(self.state_version));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.format("s head", FORMAT)?;
        let head = Self {
            revision: reader.revision()?,
            applied: reader.option(read_position)?,
            digest: reader.fixed()?,
            stamp_ms: reader.i64()?,
            keys: reader.u64()?,
            leases: reader.u64()?,
            forgotten_index: reader.u64()?,
            window_revision: reader.revision()?,
            compacted: reader.revision()?,
            state_version: reader.u32()?,
        };
        reader.end()?;
        Ok(head)
    }
}

fn put_position(out: &mut Vec<u8>, position: LogPosition) {
    put_u64(out, position.term);
    put_u64(out, position.index);
}

fn read_position(reader: &mut Reader<'_>) -> Result<LogPosition, DecodeError> {
    Ok(LogPosition { term: reader.u64()?, index: reader.u64()? })
}

/// Value of `s membership`.
pub(crate) fn membership(position: LogPosition, members: &[u8]) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_position(&mut out, position);
    out.extend_from_slice(members);
    out
}

/// Reads a value of `s membership`.
pub(crate) fn read_membership(bytes: &Bytes) -> Result<(LogPosition, Bytes), DecodeError> {
    let mut reader = Reader::sharing(bytes);
    reader.format("s membership", FORMAT)?;
    Ok((read_position(&mut reader)?, reader.rest()))
}

/// Value of `s purged`: how far this member has purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Purged {
    /// All changes up to and with this revision are dealt with.
    pub(crate) revision: Revision,
    /// And so many of the next one.
    pub(crate) changes: u64,
    /// Records of `r` before this first revision and log index are dropped.
    pub(crate) dropped_revision: Revision,
    pub(crate) dropped_index: u64,
    /// Steps since records were dropped.
    pub(crate) steps: u64,
}

impl Purged {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_revision(&mut out, self.revision);
        put_u64(&mut out, self.changes);
        put_revision(&mut out, self.dropped_revision);
        put_u64(&mut out, self.dropped_index);
        put_u64(&mut out, self.steps);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.format("s purged", FORMAT)?;
        let purged = Self {
            revision: reader.revision()?,
            changes: reader.u64()?,
            dropped_revision: reader.revision()?,
            dropped_index: reader.u64()?,
            steps: reader.u64()?,
        };
        reader.end()?;
        Ok(purged)
    }
}

/// Value of a singleton that is one number: `s format`, `s digest/…`.
pub(crate) fn number(number: u64) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_u64(&mut out, number);
    out
}

/// Reads a singleton that is one number.
pub(crate) fn read_number(bytes: &[u8]) -> Result<u64, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.format("s", FORMAT)?;
    let number = reader.u64()?;
    reader.end()?;
    Ok(number)
}
