//! The bytes of log entries, votes, memberships, log ids and snapshot metas, on disk and between members.
//!
//! Invariants:
//! - A whole value starts with its format, [`FORMAT`]; an unknown one is refused as newer, never guessed at.
//! - What decodes consumes all of its input; the batch of an entry is a slice of the input, not a copy.
//! - openraft's own serde forms are used nowhere: they move between its releases.
//!
//! Integers are varints (seven bits a byte, low first), texts and byte strings have their length before them.
//! Example: the entry (term 2, index 300) with the batch `ab cd` is `01 01 02 ac02 abcd`: format, kind, term, index, rest.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes};

use crate::consensus::types::{
    EncodedBatch, Entry, EntryPayload, LogId, Membership, Node, SnapshotMeta, StoredMembership, Vote, log_id,
};

/// Format of every value that this file encodes.
pub const FORMAT: u8 = 1;

const KIND_BLANK: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ends early.
    #[error("{0} ends too early")]
    Truncated(&'static str),
    /// Something stands where it must not.
    #[error("{0} is damaged")]
    Damaged(&'static str),
    /// Written by a newer program.
    #[error("{what} has format {found}, this program knows {FORMAT}; use a newer program")]
    Newer {
        /// Which value.
        what: &'static str,
        /// Its format.
        found: u8,
    },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Collects the bytes of a value.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// For a value that starts with its format.
    pub fn with_format() -> Self {
        Self(vec![FORMAT])
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// One byte, 1 for true.
    pub fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    /// An integer.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// An id: random, so eight bytes are shorter than a varint. Big-endian.
    pub fn id(&mut self, id: u64) {
        self.0.extend_from_slice(&id.to_be_bytes());
    }

    /// A byte string, with its length before it.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// The last part of a value: no length.
    pub fn rest(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A log id: term, index.
    pub fn log_id(&mut self, id: &LogId) {
        self.varint(id.leader_id.term);
        self.varint(id.index);
    }

    /// A log id or none.
    pub fn log_id_option(&mut self, id: Option<&LogId>) {
        self.flag(id.is_some());
        if let Some(id) = id {
            self.log_id(id);
        }
    }

    /// A vote: term, candidate, granted.
    pub fn vote(&mut self, vote: &Vote) {
        self.varint(vote.leader_id.term);
        self.id(vote.leader_id.voted_for);
        self.flag(vote.committed);
    }

    /// Voter sets, then all members.
    pub fn membership(&mut self, membership: &Membership) {
        self.varint(membership.get_joint_config().len() as u64);
        for voters in membership.get_joint_config() {
            self.varint(voters.len() as u64);
            for id in voters {
                self.id(*id);
            }
        }
        self.varint(membership.nodes().count() as u64);
        for (id, node) in membership.nodes() {
            self.id(*id);
            self.bytes(node.name.as_bytes());
            self.bytes(node.peer_address.as_bytes());
            self.bytes(node.client_address.as_bytes());
        }
    }

    /// A membership with the position that set it.
    pub fn stored_membership(&mut self, stored: &StoredMembership) {
        self.log_id_option(stored.log_id().as_ref());
        self.membership(stored.membership());
    }

    /// What a snapshot contains.
    pub fn snapshot_meta(&mut self, meta: &SnapshotMeta) {
        self.log_id_option(meta.last_log_id.as_ref());
        self.stored_membership(&meta.last_membership);
    }

    /// All of it.
    pub fn finish(self) -> Bytes {
        self.0.into()
    }
}

/// Takes a value apart.
#[derive(Debug)]
pub struct Reader {
    what: &'static str,
    input: Bytes,
}

impl Reader {
    /// `what` names the value in errors.
    pub fn new(what: &'static str, input: Bytes) -> Self {
        Self { what, input }
    }

    /// For a value that starts with its format.
    pub fn with_format(what: &'static str, input: Bytes) -> Result<Self, CodecError> {
        let mut reader = Self::new(what, input);
        match reader.byte()? {
            FORMAT => Ok(reader),
            0 => Err(CodecError::Damaged(what)),
            found => Err(CodecError::Newer { what, found }),
        }
    }

    /// The error for what must not stand here.
    pub fn damaged(&self) -> CodecError {
        CodecError::Damaged(self.what)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, CodecError> {
        self.input.try_get_u8().map_err(|_| CodecError::Truncated(self.what))
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool, CodecError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.damaged()),
        }
    }

    /// An integer.
    pub fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(self.damaged());
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.damaged())
    }

    /// A count of things that take at least one byte each, so that damage cannot ask for much memory.
    pub fn count(&mut self) -> Result<usize, CodecError> {
        let count = usize::try_from(self.varint()?).map_err(|_| self.damaged())?;
        if count > self.input.len() { Err(self.damaged()) } else { Ok(count) }
    }

    /// An id.
    pub fn id(&mut self) -> Result<u64, CodecError> {
        self.input.try_get_u64().map_err(|_| CodecError::Truncated(self.what))
    }

    /// A byte string, shared with the input.
    pub fn bytes(&mut self) -> Result<Bytes, CodecError> {
        let length = self.count()?;
        Ok(self.input.split_to(length))
    }

    /// A text.
    pub fn text(&mut self) -> Result<String, CodecError> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| self.damaged())
    }

    /// What is left.
    pub fn rest(self) -> Bytes {
        self.input
    }

    /// A log id.
    pub fn log_id(&mut self) -> Result<LogId, CodecError> {
        Ok(log_id(self.varint()?, self.varint()?))
    }

    /// A log id or none.
    pub fn log_id_option(&mut self) -> Result<Option<LogId>, CodecError> {
        if self.flag()? { self.log_id().map(Some) } else { Ok(None) }
    }

    /// A vote.
    pub fn vote(&mut self) -> Result<Vote, CodecError> {
        let mut vote = Vote::new(self.varint()?, self.id()?);
        vote.committed = self.flag()?;
        Ok(vote)
    }

    /// A membership.
    pub fn membership(&mut self) -> Result<Membership, CodecError> {
        let mut configs = Vec::new();
        for _ in 0..self.count()? {
            let voters = (0..self.count()?).map(|_| self.id()).collect::<Result<BTreeSet<_>, _>>()?;
            configs.push(voters);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.count()? {
            let id = self.id()?;
            let node = Node { name: self.text()?, peer_address: self.text()?, client_address: self.text()? };
            nodes.insert(id, node);
        }
        if configs.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|_| self.damaged())
    }

    /// A membership with the position that set it.
    pub fn stored_membership(&mut self) -> Result<StoredMembership, CodecError> {
        Ok(StoredMembership::new(self.log_id_option()?, self.membership()?))
    }

    /// What a snapshot contains.
    pub fn snapshot_meta(&mut self) -> Result<SnapshotMeta, CodecError> {
        Ok(SnapshotMeta { last_log_id: self.log_id_option()?, last_membership: self.stored_membership()? })
    }

    /// Nothing must be left.
    pub fn end(self) -> Result<(), CodecError> {
        if self.input.is_empty() { Ok(()) } else { Err(self.damaged()) }
    }
}

/// A log entry, as the log stores it and as members send it.
pub fn encode_entry(entry: &Entry) -> Bytes {
    let mut writer = Writer::with_format();
    let kind = match &entry.payload {
        EntryPayload::Blank => KIND_BLANK,
        EntryPayload::Normal(_) => KIND_BATCH,
        EntryPayload::Membership(_) => KIND_MEMBERSHIP,
    };
    if let EntryPayload::Normal(batch) = &entry.payload {
        writer.0.reserve_exact(batch.0.len() + 20);
    }
    writer.byte(kind);
    writer.log_id(&entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(batch) => writer.rest(&batch.0),
        EntryPayload::Membership(membership) => writer.membership(membership),
    }
    writer.finish()
}

/// The entry of [`encode_entry`].
pub fn decode_entry(input: Bytes) -> Result<Entry, CodecError> {
    let mut reader = Reader::with_format("a log entry", input)?;
    let kind = reader.byte()?;
    let log_id = reader.log_id()?;
    let payload = match kind {
        KIND_BLANK => {
            reader.end()?;
            EntryPayload::Blank
        }
        KIND_BATCH => EntryPayload::Normal(EncodedBatch(reader.rest())),
        KIND_MEMBERSHIP => {
            let membership = reader.membership()?;
            reader.end()?;
            EntryPayload::Membership(membership)
        }
        _ => return Err(reader.damaged()),
    };
    Ok(Entry { log_id, payload })
}

macro_rules! whole_value {
    ($encode:ident, $decode:ident, $method:ident, $type:ty, $what:literal) => {
        #[doc = concat!("The bytes of ", $what, ", starting with the format.")]
        pub fn $encode(value: &$type) -> Bytes {
            let mut writer = Writer::with_format();
            writer.$method(value);
            writer.finish()
        }

        #[doc = concat!("What [`", stringify!($encode), "`] encoded.")]
        pub fn $decode(input: Bytes) -> Result<$type, CodecError> {
            let mut reader = Reader::with_format($what, input)?;
            let value = reader.$method()?;
            reader.end()?;
            Ok(value)
        }
    };
}

whole_value!(encode_vote, decode_vote, vote, Vote, "a vote");
whole_value!(encode_log_id, decode_log_id, log_id, LogId, "a log id");
whole_value!(encode_membership, decode_membership, membership, Membership, "a membership");
whole_value!(encode_snapshot_meta, decode_snapshot_meta, snapshot_meta, SnapshotMeta, "a snapshot meta");

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn membership() -> Membership {
        let node = |name: &str| Node {
            name: name.to_owned(),
            peer_address: format!("{name}:1"),
            client_address: format!("{name}:2"),
        };
        let voters = vec![BTreeSet::from([1, 2])];
        Membership::new(voters, BTreeMap::from([(1, node("a")), (2, node("b")), (3, node("c"))])).unwrap()
    }

    const MEMBERSHIP: &str = concat!(
        "01",
        "02",
        "0000000000000001",
        "0000000000000002", // one set of two voters
        "03",               // three members
        "0000000000000001",
        "0161",
        "03613a31",
        "03613a32",
        "0000000000000002",
        "0162",
        "03623a31",
        "03623a32",
        "0000000000000003",
        "0163",
        "03633a31",
        "03633a32",
    );

    #[test]
    fn golden_entries() {
        let batch = Entry {
            log_id: log_id(2, 300),
            payload: EntryPayload::Normal(EncodedBatch(Bytes::from_static(&[0xab, 0xcd]))),
        };
        assert_eq!(hex(&encode_entry(&batch)), "010102ac02abcd");
        let blank = Entry { log_id: log_id(1, 1), payload: EntryPayload::Blank };
        assert_eq!(hex(&encode_entry(&blank)), "01000101");
        let change = Entry { log_id: log_id(3, 4), payload: EntryPayload::Membership(membership()) };
        assert_eq!(hex(&encode_entry(&change)), format!("01020304{MEMBERSHIP}"));
        for entry in [batch, blank, change] {
            assert_eq!(decode_entry(encode_entry(&entry)), Ok(entry));
        }
    }

    #[test]
    fn golden_votes_log_ids_and_metas() {
        let mut vote = Vote::new(5, 0x0102_0304_0506_0708);
        assert_eq!(hex(&encode_vote(&vote)), "010501020304050607080".to_owned() + "0");
        vote.committed = true;
        assert_eq!(hex(&encode_vote(&vote)), "010501020304050607080".to_owned() + "1");
        assert_eq!(decode_vote(encode_vote(&vote)), Ok(vote));

        assert_eq!(hex(&encode_log_id(&log_id(7, 128))), "01078001");
        assert_eq!(decode_log_id(encode_log_id(&log_id(u64::MAX, 0))), Ok(log_id(u64::MAX, 0)));

        let meta = SnapshotMeta {
            last_log_id: Some(log_id(2, 9)),
            last_membership: StoredMembership::new(Some(log_id(1, 1)), membership()),
        };
        assert_eq!(hex(&encode_snapshot_meta(&meta)), format!("010102090101 01{MEMBERSHIP}").replace(' ', ""));
        assert_eq!(decode_snapshot_meta(encode_snapshot_meta(&meta)), Ok(meta));
        let empty = SnapshotMeta::default();
        assert_eq!(hex(&encode_snapshot_meta(&empty)), "0100000000");
        assert_eq!(decode_snapshot_meta(encode_snapshot_meta(&empty)), Ok(empty));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let whole = encode_entry(&Entry { log_id: log_id(3, 4), payload: EntryPayload::Membership(membership()) });
        for length in 0..whole.len() {
            assert!(decode_entry(whole.slice(..length)).is_err(), "cut at {length}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(decode_entry(longer.into()), Err(CodecError::Damaged("a log entry")));
        assert!(matches!(decode_entry(Bytes::from_static(&[9])), Err(CodecError::Newer { found: 9, .. })));
        assert!(decode_log_id(Bytes::from_static(&[1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2, 0])).is_err());
        let many = Bytes::from_static(&[1, 255, 255, 255, 255, 15]);
        assert_eq!(decode_membership(many), Err(CodecError::Damaged("a membership")));
    }
}
