//! The bytes of what members' Rafts say to each other: the bodies of the frames of the peer service.
//!
//! Invariants:
//! - A body starts with its format, the one of `codec`; a newer one is refused, never guessed at.
//! - What decodes consumes all of its input. The batches of an append are slices of the received frame.
//! - openraft's own serde forms are not used: they move between its releases.

use std::collections::HashSet;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::archive::is_plain;
use crate::consensus::codec::{CodecError, Reader, Writer, decode_entry, encode_entry};
use crate::consensus::types::{SnapshotFile, SnapshotMeta, TypeConfig, Vote};

const APPENDED: u8 = 0;
const CONFLICT: u8 = 1;
const HIGHER_VOTE: u8 = 2;

const TRANSFER_OK: u8 = 0;
const TRANSFER_VOTE_CHANGED: u8 = 1;
const TRANSFER_NOT_FLUSHED: u8 = 2;

const PART_CHUNK: u8 = 1;
const PART_FILE_END: u8 = 2;
const PART_END: u8 = 3;

/// What a leader has to send: who it is, what the snapshot contains and of which files it consists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The leader's vote.
    pub vote: Vote,
    /// Last position and membership.
    pub meta: SnapshotMeta,
    /// Its files.
    pub files: Vec<SnapshotFile>,
}

/// A piece of a snapshot on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotPart {
    /// Some bytes of a file; they follow what was there.
    Chunk {
        /// Which file of the offer.
        file: u64,
        /// Where the bytes belong.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// A file is complete.
    FileEnd {
        /// Which file of the offer.
        file: u64,
        /// xxh3-64 of all of it.
        checksum: u64,
    },
    /// All is sent.
    End,
}

/// An append.
pub fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let mut writer = Writer::with_format();
    writer.vote(&request.vote);
    writer.log_id_option(request.prev_log_id.as_ref());
    writer.log_id_option(request.leader_commit.as_ref());
    writer.varint(request.entries.len() as u64);
    for entry in &request.entries {
        writer.bytes(&encode_entry(entry));
    }
    writer.finish()
}

/// What [`encode_append`] encoded.
pub fn decode_append(input: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let mut reader = Reader::with_format("an append", input)?;
    let vote = reader.vote()?;
    let prev_log_id = reader.log_id_option()?;
    let leader_commit = reader.log_id_option()?;
    let count = reader.count()?;
    let entries = (0..count).map(|_| decode_entry(reader.bytes()?)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

/// The answer to one append.
pub fn encode_appended(result: &StreamAppendResult<TypeConfig>) -> Bytes {
    let mut writer = Writer::with_format();
    match result {
        Ok(matching) => {
            writer.byte(APPENDED);
            writer.log_id_option(matching.as_ref());
        }
        Err(StreamAppendError::Conflict(log_id)) => {
            writer.byte(CONFLICT);
            writer.log_id(log_id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            writer.byte(HIGHER_VOTE);
            writer.vote(vote);
        }
    }
    writer.finish()
}

/// What [`encode_appended`] encoded.
pub fn decode_appended(input: Bytes) -> Result<StreamAppendResult<TypeConfig>, CodecError> {
    let mut reader = Reader::with_format("the answer to an append", input)?;
    let result = match reader.byte()? {
        APPENDED => Ok(reader.log_id_option()?),
        CONFLICT => Err(StreamAppendError::Conflict(reader.log_id()?)),
        HIGHER_VOTE => Err(StreamAppendError::HigherVote(reader.vote()?)),
        _ => return Err(reader.damaged()),
    };
    reader.end()?;
    Ok(result)
}

/// A request for a vote or pre-vote.
pub fn encode_vote_request(request: &VoteRequest<TypeConfig>) -> Bytes {
    let mut writer = Writer::with_format();
    writer.vote(&request.vote);
    writer.log_id_option(request.last_log_id.as_ref());
    writer.flag(request.leadership_transfer);
    writer.finish()
}

/// What [`encode_vote_request`] encoded.
pub fn decode_vote_request(input: Bytes) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let mut reader = Reader::with_format("a vote request", input)?;
    let mut request = VoteRequest::new(reader.vote()?, reader.log_id_option()?);
    request.leadership_transfer = reader.flag()?;
    reader.end()?;
    Ok(request)
}

/// The answer to it.
pub fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Bytes {
    let mut writer = Writer::with_format();
    writer.vote(&response.vote);
    writer.log_id_option(response.last_log_id.as_ref());
    writer.flag(response.vote_granted);
    writer.finish()
}

/// What [`encode_vote_response`] encoded.
pub fn decode_vote_response(input: Bytes) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let mut reader = Reader::with_format("the answer to a vote request", input)?;
    let response = VoteResponse::new(reader.vote()?, reader.log_id_option()?, reader.flag()?);
    reader.end()?;
    Ok(response)
}

/// A leader asks another member to take over.
pub fn encode_transfer(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut writer = Writer::with_format();
    writer.vote(request.from_leader());
    writer.id(*request.to_node_id());
    writer.log_id_option(request.last_log_id());
    writer.finish()
}

/// What [`encode_transfer`] encoded.
pub fn decode_transfer(input: Bytes) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let mut reader = Reader::with_format("a transfer of leadership", input)?;
    let request = TransferLeaderRequest::new(reader.vote()?, reader.id()?, reader.log_id_option()?);
    reader.end()?;
    Ok(request)
}

/// The answer to it.
pub fn encode_transferred(response: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    let mut writer = Writer::with_format();
    match response {
        Ok(()) => writer.byte(TRANSFER_OK),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            writer.byte(TRANSFER_VOTE_CHANGED);
            writer.vote(expected);
            writer.vote(actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            writer.byte(TRANSFER_NOT_FLUSHED);
            writer.log_id_option(expected.as_ref());
            writer.log_id_option(actual.as_ref());
        }
    }
    writer.finish()
}

/// What [`encode_transferred`] encoded.
pub fn decode_transferred(input: Bytes) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    let mut reader = Reader::with_format("the answer to a transfer of leadership", input)?;
    let response = match reader.byte()? {
        TRANSFER_OK => Ok(()),
        TRANSFER_VOTE_CHANGED => {
            Err(TransferLeaderError::VoteChanged { expected: reader.vote()?, actual: reader.vote()? })
        }
        TRANSFER_NOT_FLUSHED => Err(TransferLeaderError::LogNotFlushed {
            expected: reader.log_id_option()?,
            actual: reader.log_id_option()?,
        }),
        _ => return Err(reader.damaged()),
    };
    reader.end()?;
    Ok(response)
}

/// A snapshot is on offer; also the first frame of its sending.
pub fn encode_offer(offer: &SnapshotOffer) -> Bytes {
    let mut writer = Writer::with_format();
    writer.vote(&offer.vote);
    writer.snapshot_meta(&offer.meta);
    writer.varint(offer.files.len() as u64);
    for file in &offer.files {
        writer.bytes(file.name.as_bytes());
        writer.varint(file.bytes);
    }
    writer.finish()
}

/// What [`encode_offer`] encoded. Names that leave the directory are damage.
pub fn decode_offer(input: Bytes) -> Result<SnapshotOffer, CodecError> {
    let mut reader = Reader::with_format("a snapshot offer", input)?;
    let vote = reader.vote()?;
    let meta = reader.snapshot_meta()?;
    let (mut files, mut names) = (Vec::new(), HashSet::new());
    for _ in 0..reader.count()? {
        let file = SnapshotFile { name: reader.text()?, bytes: reader.varint()? };
        if !is_plain(&file.name) || !names.insert(file.name.clone()) {
            return Err(reader.damaged());
        }
        files.push(file);
    }
    reader.end()?;
    Ok(SnapshotOffer { vote, meta, files })
}

/// How many bytes of each offered file the receiver has already.
pub fn encode_have(bytes: &[u64]) -> Bytes {
    let mut writer = Writer::with_format();
    writer.varint(bytes.len() as u64);
    for bytes in bytes {
        writer.varint(*bytes);
    }
    writer.finish()
}

/// What [`encode_have`] encoded.
pub fn decode_have(input: Bytes) -> Result<Vec<u64>, CodecError> {
    let mut reader = Reader::with_format("the answer to a snapshot offer", input)?;
    let count = reader.count()?;
    let have = (0..count).map(|_| reader.varint()).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(have)
}

/// A piece of a snapshot.
pub fn encode_part(part: &SnapshotPart) -> Bytes {
    let mut writer = Writer::with_format();
    match part {
        SnapshotPart::Chunk { file, offset, bytes } => {
            writer.byte(PART_CHUNK);
            writer.varint(*file);
            writer.varint(*offset);
            writer.rest(bytes);
        }
        SnapshotPart::FileEnd { file, checksum } => {
            writer.byte(PART_FILE_END);
            writer.varint(*file);
            writer.id(*checksum);
        }
        SnapshotPart::End => writer.byte(PART_END),
    }
    writer.finish()
}

/// What [`encode_part`] encoded.
pub fn decode_part(input: Bytes) -> Result<SnapshotPart, CodecError> {
    let mut reader = Reader::with_format("a part of a snapshot", input)?;
    let part = match reader.byte()? {
        PART_CHUNK => {
            let (file, offset) = (reader.varint()?, reader.varint()?);
            return Ok(SnapshotPart::Chunk { file, offset, bytes: reader.rest() });
        }
        PART_FILE_END => SnapshotPart::FileEnd { file: reader.varint()?, checksum: reader.id()? },
        PART_END => SnapshotPart::End,
        _ => return Err(reader.damaged()),
    };
    reader.end()?;
    Ok(part)
}

/// The receiver's vote after it took a snapshot.
pub fn encode_vote_only(vote: &Vote) -> Bytes {
    crate::consensus::codec::encode_vote(vote)
}

/// What [`encode_vote_only`] encoded.
pub fn decode_vote_only(input: Bytes) -> Result<Vote, CodecError> {
    crate::consensus::codec::decode_vote(input)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "rpc_codec/tests.rs"]
mod tests;
