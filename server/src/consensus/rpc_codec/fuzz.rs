//! Damaged log entries, votes and all else that members' Rafts say to each other or keep in their logs. The first byte
//! of an input says what the rest is.

use bytes::Bytes;

use super::*;
use crate::consensus::codec::{
    decode_log_id, decode_membership, decode_snapshot_meta, encode_log_id, encode_membership, encode_snapshot_meta,
};
use crate::fuzzing::fuzz;

/// What was decoded and encoded is decoded to the same, told by its bytes.
fn again<T>(input: Bytes, decode: impl Fn(Bytes) -> Result<T, CodecError>, encode: impl Fn(&T) -> Bytes) -> bool {
    let Ok(value) = decode(input) else { return false };
    let written = encode(&value);
    let back = decode(written.clone());
    assert_eq!(back.map(|value| encode(&value)), Ok(written));
    true
}

#[test]
fn messages_of_members_and_log_entries() {
    let corpus = include_str!("../../../../tests/corpus/raft.txt");
    fuzz("messages of members and log entries", corpus, |input| {
        let Some((kind, rest)) = input.split_first() else { return false };
        let rest = Bytes::copy_from_slice(rest);
        match kind {
            0x00 => again(rest, decode_entry, encode_entry),
            0x01 => again(rest, decode_vote_only, encode_vote_only),
            0x02 => again(rest, decode_log_id, encode_log_id),
            0x03 => again(rest, decode_membership, encode_membership),
            0x04 => again(rest, decode_snapshot_meta, encode_snapshot_meta),
            0x05 => again(rest, decode_append, encode_append),
            0x06 => again(rest, decode_appended, encode_appended),
            0x07 => again(rest, decode_vote_request, encode_vote_request),
            0x08 => again(rest, decode_vote_response, encode_vote_response),
            0x09 => again(rest, decode_transfer, encode_transfer),
            0x0a => again(rest, decode_transferred, encode_transferred),
            0x0b => again(rest, decode_offer, encode_offer),
            0x0c => again(rest, decode_have, |have| encode_have(have)),
            0x0d => again(rest, decode_part, encode_part),
            _ => false,
        }
    });
}
