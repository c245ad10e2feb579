//! Damaged notes of what was synced.

use super::{decode, encode};
use crate::fuzzing::fuzz;

#[test]
fn notes_of_what_was_synced() {
    let corpus = include_str!("../../../../tests/corpus/synced.txt");
    fuzz("notes of what was synced", corpus, |input| {
        if let Some(number) = input.first_chunk::<8>() {
            let number = u64::from_be_bytes(*number);
            assert_eq!(decode(&encode(number)), Some(number));
        }
        let Some(number) = decode(input) else { return false };
        assert_eq!(encode(number), input);
        true
    });
}
