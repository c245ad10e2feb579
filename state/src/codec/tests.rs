//! The bytes themselves: golden values of every format, and what happens to damaged ones.
//!
//! Invariants:
//! - A golden value that changes is a new format: raise its format byte and keep reading the old one.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_proto::{ClientId, Key, LeaseId, Path, Revision};

use super::*;
use crate::apply::{LogPosition, Machine, Payload};
use crate::command::*;
use crate::outcome::*;
use crate::store::MemoryStore;
use crate::testing::{dump, histories};
use crate::view::LeaseRecord;

fn key(text: &str) -> Key {
    Key::new(text.to_owned()).unwrap()
}

fn lease(id: i64) -> LeaseId {
    LeaseId::new(id).unwrap()
}

fn put() -> Put {
    Put {
        key: key("k"),
        value: Some(Bytes::from("v")),
        owner: Owner::None,
        expect: Expect::Anything,
        return_previous: false,
        must_have_parent: false,
        sequential: false,
    }
}

fn query() -> RangeQuery {
    RangeQuery {
        span: Span::Range { start: Bytes::from("a"), end: None },
        revision: Some(Revision(3)),
        limit: Some(2),
        bytes_max: None,
        descending: true,
        keys_only: false,
        count_only: false,
        count_all: true,
        refine: Refine::default(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

fn envelope(command: Command) -> Envelope {
    Envelope { request: None, principal: Principal::default(), command }
}

#[track_caller]
fn golden_command(command: Command, bytes: &str) {
    let envelope = envelope(command);
    let encoded = encode_envelope(&envelope);
    // No request, no user, auth revision 0.
    assert_eq!(hex(&encoded), format!("000000{bytes}"));
    assert_eq!(decode_envelope(&encoded).unwrap(), envelope);
}

#[test]
fn golden_commands() {
    golden_command(Command::Put(put()), "01016b010176000000");
    let owner = Owner::Ttl { lease: lease(5), ttl_ms: 1000 };
    let expect = Expect::ModRevision(Revision(-1));
    let flags = Put { value: None, owner, expect, sequential: true, return_previous: true, ..put() };
    golden_command(Command::Put(flags), "01016b000305e807030105");
    let span = Span::Subtree(Path::new("/a").unwrap());
    let delete = Delete { span, expect: Expect::Present, must_be_empty: true, return_previous: false, limit: Some(9) };
    golden_command(Command::Delete(delete.clone()), "0202022f6102010109");
    let compare =
        |target| Compare { span: Span::Key(key("k")), empty_as_missing: false, relation: Relation::Greater, target };
    let txn = Txn {
        compares: vec![compare(Target::ModRevision(Revision(3))), compare(Target::Value(Bytes::from("x")))],
        then: vec![TxnOp::Put(put()), TxnOp::Delete(delete)],
        otherwise: vec![TxnOp::Range(query()), TxnOp::Txn(Txn::default())],
    };
    let bytes = "030200016b02020600016b0204017802\
                 02016b010176000000\
                 0302022f6102010109\
                 0201010161000106010200090400\
                 0000";
    golden_command(Command::Txn(txn), &bytes.replace(' ', ""));
    let (from, to) = (Path::new("/a").unwrap(), Path::new("/b").unwrap());
    let copy = CopyTree { from, to, keep_leases: true, remove_source: false, limit: 300 };
    golden_command(Command::CopyTree(copy), "04022f61022f620100ac02");
    golden_command(Command::LeaseGrant { lease: lease(-1), ttl_ms: 500 }, "05ffffffffffffffffff01f403");
    golden_command(Command::LeaseRevoke { leases: vec![lease(1), lease(2)], cause: LeaseEnd::Expired }, "0601020102");
    golden_command(
        Command::LeaseCheckpoint(vec![(lease(1), Some(2)), (lease(3), None)]),
        "070201010203 00".replace(' ', "").as_str(),
    );
    golden_command(Command::Compact { revision: Revision(7), only_forward: false }, "080e");
    golden_command(Command::Compact { revision: Revision(7), only_forward: true }, "0a0e");
    golden_command(Command::SetStateVersion(1), "0901");
    golden_command(Command::Scrub, "0b");
}

#[test]
fn golden_refined_reads_and_compares() {
    let refine = Refine {
        sort: Some(SortBy::Value),
        window_first: true,
        mod_min: Some(Revision(3)),
        create_max: Some(Revision(-1)),
        ..Refine::default()
    };
    let compare = Compare {
        span: Span::Range { start: Bytes::from("a"), end: None },
        empty_as_missing: true,
        relation: Relation::Less,
        target: Target::Version(2),
    };
    let then = vec![TxnOp::Range(RangeQuery { refine, ..query() })];
    let txn = Txn { compares: vec![compare], then, otherwise: Vec::new() };
    let bytes = "0301 01016100 07 0004 01 01 01016100 0106 0102 00 19 04 01 0106 00 00 0101 00";
    golden_command(Command::Txn(txn), &bytes.replace(' ', ""));
}

#[test]
fn golden_batch() {
    let request = RequestId {
        client: ClientId::new(0x0102_0304_0506_0708).unwrap(),
        sequence: 3,
        lowest_unacknowledged: 2,
        seen_index: 300,
    };
    let principal = Principal { user: "u".into(), auth_revision: 4 };
    let first = Envelope {
        request: Some(request),
        principal,
        command: Command::Compact { revision: Revision(1), only_forward: false },
    };
    let second = envelope(Command::SetStateVersion(1));
    let encoded = encode_batch(-1, &[encode_envelope(&first), encode_envelope(&second)]);
    assert_eq!(hex(&encoded), "01010212010102030405060708030 2ac02017504 0802050000000901".replace(' ', ""));
    assert_eq!(decode_batch(&encoded).unwrap(), Batch { stamp_ms: -1, commands: vec![first, second] });
}

#[track_caller]
fn golden_outcome(result: Result<Done, Rejection>, bytes: &str) {
    let outcome = Outcome { revision: Revision(5), replayed: true, result };
    let encoded = encode_outcome(&outcome);
    assert_eq!(hex(&encoded), format!("010501{bytes}"));
    assert_eq!(decode_outcome(&encoded).unwrap(), outcome);
}

fn meta() -> Meta {
    Meta {
        create_revision: Revision(2),
        mod_revision: Revision(5),
        version: 3,
        lease: Some(lease(7)),
        created_ms: 1000,
        modified_ms: 1001,
    }
}

#[test]
fn golden_outcomes() {
    let kv = KeyValue { key: key("k"), value: Bytes::from("v"), meta: meta() };
    let kv_bytes = "016b0176050303 07d20f02".replace(' ', "");
    let put = PutDone { key: key("k"), lease: None, previous: Some(kv.clone()) };
    golden_outcome(Ok(Done::Put(put.clone())), &format!("01016b0001{kv_bytes}"));
    let delete = DeleteDone { deleted: 1, previous: vec![kv.clone()] };
    golden_outcome(Ok(Done::Delete(delete.clone())), &format!("020101{kv_bytes}"));
    let results = vec![
        TxnResult::Range(RangeDone { kvs: vec![kv], more: true, count: 9 }),
        TxnResult::Put(PutDone { previous: None, ..put }),
        TxnResult::Delete(DeleteDone::default()),
        TxnResult::Txn(TxnDone::default()),
    ];
    let bytes = format!("03010401 01{kv_bytes}0109 02016b0000 030000 040000");
    golden_outcome(Ok(Done::Txn(TxnDone { succeeded: true, results })), &bytes.replace(' ', ""));
    golden_outcome(Ok(Done::CopyTree(3)), "0403");
    golden_outcome(Ok(Done::LeaseGrant { lease: lease(1), ttl_ms: 500 }), "0501f403");
    golden_outcome(Ok(Done::LeaseRevoke { deleted: 2 }), "0602");
    golden_outcome(Ok(Done::LeaseCheckpoint), "07");
    golden_outcome(Ok(Done::Compact), "08");
    golden_outcome(Ok(Done::StateVersion(1)), "0901");
    golden_outcome(Ok(Done::Scrub), "0a");
}

#[test]
fn golden_rejections() {
    let (k, one) = (key("k"), lease(1));
    let (asked, two) = (Revision(-1), Revision(2));
    let precondition = Rejection::Precondition { key: k.clone(), reason: "r".into(), current: two };
    golden_outcome(Err(precondition), "80016b017202");
    golden_outcome(Err(Rejection::KeyNotFound { key: k.clone() }), "81016b");
    golden_outcome(Err(Rejection::LeaseNotFound { lease: one }), "8201");
    golden_outcome(Err(Rejection::LeaseExists { lease: one }), "8301");
    golden_outcome(Err(Rejection::NotAPath { key: k.clone() }), "84016b");
    golden_outcome(Err(Rejection::DuplicateKey { key: k.clone() }), "85016b");
    golden_outcome(Err(Rejection::TooManyChanges { limit: 3 }), "8603");
    golden_outcome(Err(Rejection::Overlap { from: k.clone(), to: k }), "87016b016b");
    golden_outcome(Err(Rejection::FutureRevision { asked, current: two }), "880102");
    golden_outcome(Err(Rejection::Compacted { asked, compacted: two }), "890102");
    golden_outcome(Err(Rejection::RequestExpired), "8a");
    golden_outcome(Err(Rejection::RequestIdReused), "8b");
    golden_outcome(Err(Rejection::Invalid("no".into())), "8c026e6f");
}

#[test]
fn golden_records() {
    assert_eq!(hex(&records::current(&meta())), "0105030307d20f02");
    assert_eq!(hex(&records::version(&meta(), b"v")), "010005030307d20f0276");
    assert_eq!(hex(&records::tombstone()), "0101");
    let record = records::DirectoryRecord { children: 300, children_revision: Revision(5), next_sequence: 1 };
    assert_eq!(hex(&record.encode()), "01ac020501");
    assert_eq!(hex(&records::ChildBits { is_key: true, is_directory: true }.encode()), "0103");
    let record = LeaseRecord { ttl_ms: 500, remaining_ms: Some(300), granted_revision: Revision(4), own_key: true };
    assert_eq!(hex(&records::lease(&record)), "01f40301ac020401");
    let change = records::ChangeEntry { kind: records::ChangeTag::LeaseEnded, key: key("k"), previous: Revision(2) };
    let memory = Bytes::from_static(&[1, 1, 5, 0, 0]);
    let request = records::RequestEntry { client: ClientId::new(1).unwrap(), sequence: 2, lowest: 1, memory };
    let record = records::ChangeRecord { revisions: vec![vec![change], vec![]], requests: vec![request] };
    assert_eq!(hex(&record.encode()), "0102 0102016b02 00 01 0000000000000001 02 01 050101050000".replace(' ', ""));
    let at = LogPosition { term: 1, index: 300 };
    let head = records::Head {
        revision: Revision(5),
        applied: Some(at),
        digest: 0x0102_0304_0506_0708,
        stamp_ms: 1000,
        keys: 2,
        leases: 1,
        forgotten_index: 3,
        window_revision: Revision(4),
        compacted: Revision(2),
        state_version: 1,
    };
    assert_eq!(hex(&head.encode()), "01050101ac020102030405060708d00f020103040201");
    assert_eq!(records::Head::decode(&head.encode()).unwrap(), head);
    assert_eq!(hex(&records::membership(at, b"m")), "0101ac026d");
    let purged = records::Purged {
        revision: Revision(5),
        changes: 1,
        dropped_revision: Revision(4),
        dropped_index: 3,
        steps: 2,
    };
    assert_eq!(hex(&purged.encode()), "010501040302");
    assert_eq!(records::Purged::decode(&purged.encode()).unwrap(), purged);
    assert_eq!(hex(&records::number(300)), "01ac02");
}

/// The example of docs/formats.md.
#[test]
fn golden_store() {
    let mut machine = Machine::open(MemoryStore::new()).unwrap();
    let command = Command::Put(Put { key: key("/a/b"), value: Some(Bytes::from("1")), ..put() });
    let batch = Batch { stamp_ms: 1000, commands: vec![envelope(command)] };
    let position = LogPosition { term: 1, index: 1 };
    machine.apply(&[crate::apply::Entry { position, payload: Payload::Batch(batch) }]).unwrap();
    let stored: Vec<_> = dump(machine.store()).iter().map(|(key, value)| (describe_key(key), hex(value))).collect();
    let wanted = [
        ("c /a/b", "0102000100d00f00"),
        ("d /", "01010200"),
        ("d /a", "01010200"),
        ("e / a", "0102"),
        ("e /a b", "0101"),
        ("h /a/b @2", "010002000100d00f0031"),
        ("r @2 index 1", "01010100042f612f620000"),
        ("s format", "0101"),
    ];
    let head = stored.iter().filter(|(key, _)| key == "s head").count();
    let others: Vec<_> = stored.iter().filter(|(key, _)| key != "s head").map(|(k, v)| (&k[..], &v[..])).collect();
    assert_eq!((others, head), (wanted.to_vec(), 1));
}

/// Encoding, and even dropping, needs a stack as deep as the transaction; what is refused may need none. So the deepest
/// ones are written by hand.
#[test]
fn transactions_that_nest_too_deep_are_refused() {
    let nested =
        |depth| (0..depth).fold(Txn::default(), |inner, _| Txn { then: vec![TxnOp::Txn(inner)], ..Txn::default() });
    let encoded = |depth| encode_envelope(&envelope(Command::Txn(nested(depth))));
    let head = encoded(0).len() - 3;
    // No compares, one operation, which is a transaction; and behind it no operation otherwise.
    let by_hand = |depth: usize| -> Bytes {
        [&encoded(0)[..head], &[0, 1, 4].repeat(depth)[..], &[0, 0, 0], &vec![0; depth][..]].concat().into()
    };
    assert_eq!(by_hand(3), encoded(3));
    assert_eq!(decode_envelope(&by_hand(31)).unwrap().command, Command::Txn(nested(31)));
    for depth in [32, 33, 10_000, 1_000_000] {
        assert!(decode_envelope(&by_hand(depth)).is_err(), "{depth}");
    }
    // Cut off where it is deepest.
    assert!(decode_envelope(&[&encoded(0)[..head], &[0, 1, 4].repeat(1_000_000)[..]].concat().into()).is_err());
}

#[test]
fn another_format_is_refused_by_its_number() {
    let mut bytes = encode_batch(1, &[]).to_vec();
    bytes[0] = 2;
    let error = decode_batch(&bytes.into()).unwrap_err();
    assert_eq!(error.to_string(), "a batch has the format 2, this program knows 1");
}

/// Every proper prefix is refused; a changed byte is read or refused, and never a panic.
fn damage<T>(bytes: &Bytes, at: usize, with: u8, decode: impl Fn(&Bytes) -> Result<T, DecodeError>) {
    for length in 0..bytes.len() {
        assert!(decode(&bytes.slice(..length)).is_err(), "read from {length} of {} bytes", bytes.len());
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(decode(&longer.into()).is_err());
    let mut other = bytes.to_vec();
    let at = at % other.len();
    other[at] = with;
    let _ = decode(&other.into());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_comes_back_and_what_is_damaged_is_refused(
        history in histories(6), at in any::<usize>(), with in any::<u8>(),
    ) {
        let mut machine = Machine::open(MemoryStore::new()).unwrap();
        for entry in &history.entries {
            let outcomes = machine.apply(std::slice::from_ref(entry)).unwrap().remove(0).outcomes;
            let Payload::Batch(batch) = &entry.payload else { continue };
            let encoded: Vec<_> = batch.commands.iter().map(encode_envelope).collect();
            for envelope in &encoded {
                damage(envelope, at, with, decode_envelope);
            }
            let encoded = encode_batch(batch.stamp_ms, &encoded);
            prop_assert_eq!(&decode_batch(&encoded).unwrap(), batch);
            damage(&encoded, at, with, decode_batch);
            for outcome in outcomes {
                let encoded = encode_outcome(&outcome);
                prop_assert_eq!(decode_outcome(&encoded).unwrap(), outcome);
                damage(&encoded, at, with, decode_outcome);
            }
        }
        for (key, value) in dump(machine.store()) {
            prop_assert!(!describe(&key, &value).contains("unreadable"), "{}", describe(&key, &value));
            for length in 0..value.len() {
                // In `h` and in the membership what follows the head is free.
                let free = matches!(key[0], b'h') || key == keys::MEMBERSHIP;
                prop_assert!(free || describe(&key, &value[..length]).contains("unreadable"));
            }
            let mut other = value.clone();
            if let Some(byte) = (!value.is_empty()).then(|| at % value.len()) {
                other[byte] = with;
            }
            describe(&key, &other);
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(
        garbage in prop::collection::vec(any::<u8>(), 0..60),
        table in prop::sample::select(b"chrdelas\0\xff".to_vec()),
    ) {
        let mut stored = vec![table];
        stored.extend_from_slice(&garbage);
        describe(&stored, &garbage);
        for name in [keys::HEAD, keys::MEMBERSHIP, keys::PURGED, keys::FORMAT] {
            describe(name, &garbage);
        }
        let mut formatted = vec![1];
        formatted.extend_from_slice(&garbage);
        let formatted = Bytes::from(formatted);
        let _ = decode_batch(&formatted);
        let _ = decode_envelope(&formatted);
        let _ = decode_outcome(&formatted);
        describe(&stored, &formatted);
    }
}
