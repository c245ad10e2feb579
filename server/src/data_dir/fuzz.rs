//! Damaged identities: as they are, and with the checksum put right.

use super::*;
use crate::fuzzing::fuzz;

#[test]
fn identities() {
    let corpus = include_str!("../../../tests/corpus/identities.txt");
    fuzz("identities", corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let sealed = format!("{text}check {:016x}\n", xxh3_64(input));
        let mut accepted = false;
        for text in [text, &sealed] {
            if let Some(identity) = decode_identity(text) {
                assert_eq!(decode_identity(&encode_identity(&identity)), Some(identity));
                accepted = true;
            }
        }
        accepted
    });
}
