//! Stored keys and values for people to read.
//!
//! Invariants:
//! - Any bytes give a line; what cannot be read says why.
//!
//! Example: `h /a/b @2 = live created 2 modified 2 version 1 at 1000/1000: "1"`.

use std::fmt::Write;

use bytes::Bytes;
use quorate_proto::Revision;

use super::keys::{self, table};
use super::varint::{DecodeError, Reader};
use super::{read_outcome, records};
use crate::outcome::Meta;

/// A stored key and its value, in one line.
pub fn describe(key: &[u8], value: &[u8]) -> String {
    let text = describe_key(key);
    match describe_value(key, value) {
        Ok(value) if value.is_empty() => text,
        Ok(value) => format!("{text} = {value}"),
        Err(error) => format!("{text} = unreadable ({error}): {}", value.escape_ascii()),
    }
}

/// A stored key, in one line.
pub fn describe_key(key: &[u8]) -> String {
    readable_key(key).unwrap_or_else(|error| format!("unreadable key ({error}): {}", key.escape_ascii()))
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && !text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '"') => {
            text.to_owned()
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

fn readable_key(key: &[u8]) -> Result<String, DecodeError> {
    let (first, rest) = key.split_first().ok_or(DecodeError::Truncated)?;
    Ok(match *first {
        table::CURRENT => format!("c {}", text(rest)),
        table::HISTORY => {
            let (user, revision) = keys::split_history(key)?;
            format!("h {} @{revision}", text(&user))
        }
        table::RECORD => {
            let (revision, index) = keys::split_record(key)?;
            format!("r @{revision} index {index}")
        }
        table::DIRECTORY => format!("d {}", text(rest)),
        table::CHILD => {
            let (directory, name) = keys::split_child(key)?;
            format!("e {} {}", text(&directory), text(name))
        }
        table::LEASE => format!("l {}", keys::split_lease(key)?),
        table::ATTACHED => {
            let user = rest.get(8..).ok_or(DecodeError::Truncated)?;
            format!("a {} {}", keys::split_lease(key)?, text(user))
        }
        table::SINGLETON if key.starts_with(keys::DIGEST_PREFIX) => format!("s digest {}", keys::split_digest(key)?),
        table::SINGLETON if key.starts_with(keys::SCRUB_PREFIX) => format!("s scrub {}", keys::split_scrub(key)?),
        table::SINGLETON => format!("s {}", text(rest)),
        found => return Err(DecodeError::UnknownKind { what: "a table", found }),
    })
}

fn describe_value(key: &[u8], value: &[u8]) -> Result<String, DecodeError> {
    Ok(match key.first() {
        Some(&table::CURRENT) => meta_text(&records::read_current(value)?),
        Some(&table::HISTORY) => match records::copy_version(value)? {
            Some((meta, value)) => format!("live {}: \"{}\"", meta_text(&meta), value.escape_ascii()),
            None => "tombstone".into(),
        },
        Some(&table::RECORD) => record_text(keys::split_record(key)?.0, value)?,
        Some(&table::DIRECTORY) => {
            let record = records::DirectoryRecord::decode(value)?;
            let (children, at, next) = (record.children, record.children_revision, record.next_sequence);
            format!("children {children} changed @{at} next sequence {next}")
        }
        Some(&table::CHILD) => {
            let bits = records::ChildBits::decode(value)?;
            match (bits.is_key, bits.is_directory) {
                (true, true) => "key and directory",
                (true, false) => "key",
                _ => "directory",
            }
            .into()
        }
        Some(&table::LEASE) => {
            let lease = records::read_lease(value)?;
            let remaining = lease.remaining_ms.map_or(String::new(), |ms| format!(" remaining {ms} ms"));
            let own = if lease.own_key { " for one key" } else { "" };
            format!("ttl {} ms{remaining} granted @{}{own}", lease.ttl_ms, lease.granted_revision)
        }
        Some(&table::ATTACHED) if value.is_empty() => String::new(),
        Some(&table::SINGLETON) => singleton_text(key, value)?,
        _ => return Err(DecodeError::LeftOver { bytes: value.len() }),
    })
}

fn meta_text(meta: &Meta) -> String {
    let (created, modified, version) = (meta.create_revision, meta.mod_revision, meta.version);
    let lease = meta.lease.map_or(String::new(), |lease| format!(" lease {lease}"));
    format!(
        "created {created} modified {modified} version {version}{lease} at {}/{}",
        meta.created_ms, meta.modified_ms
    )
}

fn record_text(first: Revision, value: &[u8]) -> Result<String, DecodeError> {
    let record = records::ChangeRecord::decode(value)?;
    let mut out = String::new();
    for (changes, revision) in record.revisions.iter().zip(first.0..) {
        let _ = write!(out, "@{revision}:");
        for change in changes {
            let kind = match change.kind {
                records::ChangeTag::Put => "put",
                records::ChangeTag::Delete => "delete",
                records::ChangeTag::LeaseEnded => "lease ended",
            };
            let _ = write!(out, " {kind} {} after {};", text(change.key.as_bytes()), change.previous);
        }
        out.push(' ');
    }
    for request in &record.requests {
        let memory = memory_text(&request.memory)?;
        let (client, sequence, lowest) = (request.client, request.sequence, request.lowest);
        let _ = write!(out, "request {client}/{sequence} lowest {lowest}: {memory}; ");
    }
    Ok(out.trim_end().to_owned())
}

/// What a remembered request says: see `dedup` for its parts.
fn memory_text(memory: &Bytes) -> Result<String, DecodeError> {
    let mut reader = Reader::sharing(memory);
    let (kind, form) = (reader.byte()?, reader.byte()?);
    if form == 0 {
        let outcome = read_outcome(&mut reader)?;
        return Ok(match outcome.result {
            Ok(done) => format!("kind {kind} at {}, {done:?}", outcome.revision),
            Err(rejection) => format!("kind {kind} at {}, refused: {rejection}", outcome.revision),
        });
    }
    let (revision, lease) = (reader.revision()?, reader.lease()?);
    let lease = lease.map_or(String::new(), |lease| format!(" lease {lease}"));
    let key = reader.option(Reader::key)?.map_or(String::new(), |key| format!(" key {key}"));
    Ok(format!("put at {revision}{lease}{key}"))
}

fn singleton_text(key: &[u8], value: &[u8]) -> Result<String, DecodeError> {
    if key == keys::HEAD {
        let head = records::Head::decode(value)?;
        let applied = head.applied.map_or("nothing".into(), |at| format!("term {} index {}", at.term, at.index));
        return Ok(format!(
            "revision {} applied {applied} digest {:016x} stamp {} keys {} leases {} forgotten {} window @{} \
             compacted @{} version {}",
            head.revision,
            head.digest,
            head.stamp_ms,
            head.keys,
            head.leases,
            head.forgotten_index,
            head.window_revision,
            head.compacted,
            head.state_version,
        ));
    }
    if key == keys::MEMBERSHIP {
        let (at, members) = records::read_membership(&Bytes::copy_from_slice(value))?;
        return Ok(format!("term {} index {} members \"{}\"", at.term, at.index, members.escape_ascii()));
    }
    if key == keys::PURGED {
        let purged = records::Purged::decode(value)?;
        let (revision, changes, steps) = (purged.revision, purged.changes, purged.steps);
        let (dropped, index) = (purged.dropped_revision, purged.dropped_index);
        return Ok(format!(
            "@{revision} and {changes} changes, records before @{dropped} index {index}, steps {steps}"
        ));
    }
    let number = records::read_number(value)?;
    let is_hash = key.starts_with(keys::DIGEST_PREFIX) || key.starts_with(keys::SCRUB_PREFIX);
    Ok(if is_hash { format!("{number:016x}") } else { number.to_string() })
}
