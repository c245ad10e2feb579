//! Golden bytes of every message, and refusal of what is damaged.

use super::*;
use crate::consensus::types::{EncodedBatch, Entry, EntryPayload, log_id};

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn granted(term: u64, id: u64) -> Vote {
    let mut vote = Vote::new(term, id);
    vote.committed = true;
    vote
}

/// Vote (term 3, member 9, granted).
const VOTE: &str = "03000000000000000901";

fn append() -> AppendEntriesRequest<TypeConfig> {
    let batch = EntryPayload::Normal(EncodedBatch(Bytes::from_static(b"\xab\xcd")));
    AppendEntriesRequest {
        vote: granted(3, 9),
        prev_log_id: Some(log_id(2, 7)),
        entries: vec![
            Entry { log_id: log_id(3, 8), payload: batch },
            Entry { log_id: log_id(3, 9), payload: EntryPayload::Blank },
        ],
        leader_commit: None,
    }
}

/// The same bytes again, and every cut refused.
fn check<T>(bytes: &Bytes, decode: impl Fn(Bytes) -> Result<T, CodecError>, encode: impl Fn(&T) -> Bytes) {
    assert_eq!(hex(&encode(&decode(bytes.clone()).unwrap())), hex(bytes));
    for length in 0..bytes.len() {
        assert!(decode(bytes.slice(..length)).is_err(), "cut at {length}");
    }
    let mut newer = bytes.to_vec();
    newer[0] = 2;
    assert!(matches!(decode(newer.into()), Err(CodecError::Newer { found: 2, .. })));
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(decode(longer.into()).is_err());
}

#[test]
fn golden_appends() {
    let bytes = encode_append(&append());
    assert_eq!(hex(&bytes), format!("01{VOTE}01020700 02 06010103 08abcd 0401000309").replace(' ', ""));
    check(&bytes, decode_append, encode_append);

    let answers: [(StreamAppendResult<TypeConfig>, &str); 4] = [
        (Ok(Some(log_id(3, 9))), "0100010309"),
        (Ok(None), "010000"),
        (Err(StreamAppendError::Conflict(log_id(2, 7))), "01010207"),
        (Err(StreamAppendError::HigherVote(granted(3, 9))), "010203000000000000000901"),
    ];
    for (answer, golden) in answers {
        let bytes = encode_appended(&answer);
        assert_eq!(hex(&bytes), golden);
        assert_eq!(decode_appended(bytes.clone()), Ok(answer));
        check(&bytes, decode_appended, encode_appended);
    }
}

#[test]
fn an_appended_batch_is_a_slice_of_the_frame() {
    let bytes = encode_append(&append());
    let decoded = decode_append(bytes.clone()).unwrap();
    let EntryPayload::Normal(batch) = &decoded.entries[0].payload else { panic!("a batch") };
    assert!(bytes.as_ptr_range().contains(&batch.0.as_ptr()));
}

#[test]
fn golden_votes() {
    let mut request = VoteRequest::new(Vote::new(4, 9), Some(log_id(2, 7)));
    request.leadership_transfer = true;
    let bytes = encode_vote_request(&request);
    assert_eq!(hex(&bytes), "010400000000000000090001020701");
    assert_eq!(decode_vote_request(bytes.clone()), Ok(request));
    check(&bytes, decode_vote_request, encode_vote_request);

    let response = VoteResponse::new(granted(3, 9), None, true);
    let bytes = encode_vote_response(&response);
    assert_eq!(hex(&bytes), format!("01{VOTE}0001"));
    assert_eq!(decode_vote_response(bytes.clone()), Ok(response));
    check(&bytes, decode_vote_response, encode_vote_response);
}

#[test]
fn golden_transfers() {
    let request = TransferLeaderRequest::new(granted(3, 9), 5, Some(log_id(3, 8)));
    let bytes = encode_transfer(&request);
    assert_eq!(hex(&bytes), format!("01{VOTE}0000000000000005010308"));
    assert_eq!(decode_transfer(bytes.clone()), Ok(request));
    check(&bytes, decode_transfer, encode_transfer);

    let answers: [(TransferLeaderResponse<TypeConfig>, String); 3] = [
        (Ok(()), "0100".to_owned()),
        (
            Err(TransferLeaderError::VoteChanged { expected: granted(3, 9), actual: granted(3, 9) }),
            format!("0101{VOTE}{VOTE}"),
        ),
        (
            Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(3, 8)), actual: None }),
            "010201030800".to_owned(),
        ),
    ];
    for (answer, golden) in answers {
        let bytes = encode_transferred(&answer);
        assert_eq!(hex(&bytes), golden);
        assert_eq!(decode_transferred(bytes.clone()), Ok(answer));
        check(&bytes, decode_transferred, encode_transferred);
    }
}

#[test]
fn golden_snapshot_messages() {
    let file = |name: &str, bytes| SnapshotFile { name: name.to_owned(), bytes };
    let offer = SnapshotOffer {
        vote: granted(3, 9),
        meta: SnapshotMeta { last_log_id: Some(log_id(3, 8)), ..SnapshotMeta::default() },
        files: vec![file("a", 300), file("b", 0)],
    };
    let bytes = encode_offer(&offer);
    assert_eq!(hex(&bytes), format!("01{VOTE} 010308 000000 02 0161ac02 016200").replace(' ', ""));
    assert_eq!(decode_offer(bytes.clone()), Ok(offer.clone()));
    check(&bytes, decode_offer, encode_offer);

    let have = encode_have(&[300, 0]);
    assert_eq!(hex(&have), "0102ac0200");
    check(&have, decode_have, |have| encode_have(have));

    let chunk = SnapshotPart::Chunk { file: 1, offset: 300, bytes: Bytes::from_static(b"hi") };
    assert_eq!(hex(&encode_part(&chunk)), "010101ac026869");
    assert_eq!(decode_part(encode_part(&chunk)), Ok(chunk));
    for (part, golden) in
        [(SnapshotPart::FileEnd { file: 1, checksum: 7 }, "0102010000000000000007"), (SnapshotPart::End, "0103")]
    {
        let bytes = encode_part(&part);
        assert_eq!(hex(&bytes), golden);
        check(&bytes, decode_part, encode_part);
    }
}

#[test]
fn an_offer_cannot_name_files_elsewhere() {
    let offer = |names: &[&str]| {
        let files = names.iter().map(|name| SnapshotFile { name: (*name).to_owned(), bytes: 1 }).collect();
        decode_offer(encode_offer(&SnapshotOffer { vote: granted(3, 9), meta: SnapshotMeta::default(), files }))
    };
    assert!(offer(&["a", "b"]).is_ok());
    for names in [&["../a"][..], &["/etc/passwd"], &[""], &[".."], &["a", "a"]] {
        assert_eq!(offer(names), Err(CodecError::Damaged("a snapshot offer")), "{names:?}");
    }
}
