//! Damaged archives: as they are, and with all checksums put right, so that damage comes past them.

use super::*;
use crate::fuzzing::fuzz_in;
use quorate_state::testing::fuzz::Room;

/// A file is read through one buffer.
const ROOM: Room = Room { base: 2 * CHUNK_BYTES as u64, ..Room::DECODER };

/// Makes the checksums right, as far as the parts can be told apart.
fn seal(bytes: &mut [u8]) -> Option<()> {
    let number = |bytes: &[u8], at: usize, length: usize| {
        let digits = bytes.get(at..at.checked_add(length)?)?;
        usize::try_from(digits.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))).ok()
    };
    let put = |bytes: &mut [u8], from: usize, at: usize| {
        let sum = xxh3_64(bytes.get(from..at)?);
        bytes.get_mut(at..at + 8)?.copy_from_slice(&sum.to_be_bytes());
        Some(at + 8)
    };
    let note = MAGIC.len() + 1;
    let end = (note + 4).checked_add(number(bytes, note, 4)?)?;
    let mut at = put(bytes, 0, end)?;
    while *bytes.get(at)? == FILE {
        let length_at = at + 3 + number(bytes, at + 1, 2)?;
        let content = length_at + 8;
        let end = content.checked_add(number(bytes, length_at, 8)?)?;
        at = put(bytes, content, end)?;
    }
    put(bytes, 0, at + 5).map(drop)
}

#[test]
fn archives() {
    let corpus = include_str!("../../../tests/corpus/archives.txt");
    let dir = tempfile::tempdir().unwrap();
    let unpacked = std::cell::Cell::new(0);
    fuzz_in(ROOM, "archives", corpus, |input| {
        let mut sealed = input.to_vec();
        let _ = seal(&mut sealed);
        let raw = verify(input).is_ok();
        let Ok(contents) = verify(&*sealed) else {
            assert!(!raw);
            return false;
        };
        // What passes can be unpacked, and packed again has the same files. Disks are slow: not each time.
        unpacked.set(unpacked.get() + 1);
        if unpacked.get() % 64 == 1 {
            let target = dir.path().join(unpacked.get().to_string());
            assert_eq!(unpack(&*sealed, &target).unwrap(), contents);
            let mut packed = Vec::new();
            Packer::new(&target, &contents.note).unwrap().write_to(&mut packed).unwrap();
            let again = verify(&*packed).unwrap();
            let sorted = |mut files: Vec<(String, u64)>| {
                files.sort();
                files
            };
            assert_eq!((again.note, sorted(again.files)), (contents.note, sorted(contents.files)));
            fs::remove_dir_all(target).unwrap();
        }
        true
    });
}

#[test]
fn a_name_that_stands_there_twice_is_refused_by_the_check_as_well() {
    let corpus = include_str!("../../../tests/corpus/archives.txt");
    let mut twice = quorate_state::testing::fuzz::inputs(corpus).remove(0);
    // The second file, `b.c`, becomes one of the name of the first.
    let at = twice.windows(5).position(|window| window == b"\x00\x03b.c").unwrap();
    twice.splice(at..at + 5, *b"\x00\x01f");
    seal(&mut twice).unwrap();
    assert!(verify(&*twice).unwrap_err().to_string().contains("twice"));
}
