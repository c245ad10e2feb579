//! Damaged bytes for every decoder of this crate: refused or read, never a panic; what is read is written the same.
//!
//! Invariants:
//! - What is read takes memory by the bytes that came, not by the lengths that they claim.
//! - Numbers may be written in more than one way, so that values are compared, not bytes.

use bytes::Bytes;
use quorate_proto::{Key, Path};

use super::*;
use crate::testing::fuzz::{Room, fuzz, fuzz_within};

fn measure(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).bytes_max
}

/// The same as `fuzz`, within the memory of a decoder.
fn fuzz_decoder(name: &str, corpus: &str, target: impl Fn(&[u8]) -> bool) {
    fuzz_within(Room::DECODER, measure, name, corpus, target);
}

/// What is decoded, encoded, and decoded again is the same.
fn stays_the_same<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    decode: impl Fn(&Bytes) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Bytes,
) -> bool {
    let Ok(value) = decode(&Bytes::copy_from_slice(input)) else { return false };
    let written = encode(&value);
    assert_eq!(decode(&written).as_ref(), Ok(&value));
    assert_eq!(encode(&value), written);
    true
}

#[test]
fn commands() {
    let corpus = include_str!("../../../tests/corpus/commands.txt");
    fuzz_decoder("commands", corpus, |input| stays_the_same(input, decode_envelope, encode_envelope));
}

#[test]
fn batches() {
    let encode = |batch: &crate::command::Batch| {
        encode_batch(batch.stamp_ms, &batch.commands.iter().map(encode_envelope).collect::<Vec<_>>())
    };
    let corpus = include_str!("../../../tests/corpus/batches.txt");
    fuzz_decoder("batches", corpus, |input| stays_the_same(input, decode_batch, encode));
}

#[test]
fn outcomes() {
    let corpus = include_str!("../../../tests/corpus/outcomes.txt");
    fuzz_decoder("outcomes", corpus, |input| stays_the_same(input, decode_outcome, encode_outcome));
}

#[test]
fn stored_keys_and_values() {
    let corpus = include_str!("../../../tests/corpus/stored.txt");
    fuzz_decoder("stored keys and values", corpus, |input| {
        let Some((length, rest)) = input.split_first() else { return false };
        let (key, value) = rest.split_at(usize::from(*length).min(rest.len()));
        let head = records::Head::decode(value);
        if let Ok(head) = &head {
            assert_eq!(records::Head::decode(&head.encode()).as_ref(), Ok(head));
        }
        if let Ok(purged) = records::Purged::decode(value) {
            assert_eq!(records::Purged::decode(&purged.encode()), Ok(purged));
        }
        if let Ok(record) = records::DirectoryRecord::decode(value) {
            assert_eq!(records::DirectoryRecord::decode(&record.encode()), Ok(record));
        }
        if let Ok(lease) = records::read_lease(value) {
            assert_eq!(records::read_lease(&records::lease(&lease)), Ok(lease));
        }
        if let Ok(change) = records::ChangeRecord::decode(value) {
            assert_eq!(records::ChangeRecord::decode(&change.encode()).as_ref(), Ok(&change));
        }
        if let Ok(number) = records::read_number(value) {
            assert_eq!(records::read_number(&records::number(number)), Ok(number));
        }
        if let Ok((at, members)) = records::read_membership(&Bytes::copy_from_slice(value)) {
            let written = Bytes::from(records::membership(at, &members));
            assert_eq!(records::read_membership(&written), Ok((at, members)));
        }
        !describe(key, value).contains("unreadable")
    });
}

#[test]
fn keys_and_paths() {
    let corpus = include_str!("../../../tests/corpus/paths.txt");
    fuzz("keys and paths", corpus, |input| {
        let Ok(key) = Key::new(input.to_vec()) else { return false };
        let Some(path) = Path::of(&key) else { return false };
        let (parent, name) = (path.parent(), path.name());
        let joined = if parent == b"/" { [b"/", name].concat() } else { [parent, b"/", name].concat() };
        assert_eq!(joined, input);
        true
    });
}

#[test]
#[should_panic(expected = "bytes of memory for an input of 4")]
fn a_length_that_is_believed_is_found() {
    fuzz_decoder("a careless decoder", "00200000", |input| {
        let claimed = input.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        !std::hint::black_box(Vec::<u8>::with_capacity(usize::try_from(claimed).unwrap())).is_empty()
    });
}
