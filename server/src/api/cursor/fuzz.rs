//! Damaged cursors: as they are, and with both checksums put right.

use super::*;
use crate::fuzzing::fuzz;

const LISTED: &[u8] = b"/a";

#[test]
fn cursors() {
    let corpus = include_str!("../../../../tests/corpus/cursors.txt");
    fuzz("cursors", corpus, |input| {
        let mut body = input.to_vec();
        if let Some(listed) = body.get_mut(9..HEAD) {
            listed.copy_from_slice(&xxh3_64(LISTED).to_be_bytes());
        }
        let sealed: Bytes = [&body[..], &xxh3_64(&body).to_be_bytes()].concat().into();
        let mut accepted = false;
        for bytes in [Bytes::copy_from_slice(input), sealed] {
            if let Ok(Some(cursor)) = Cursor::given(&bytes, LISTED) {
                assert_eq!(cursor.encode(LISTED), bytes);
                accepted = true;
            }
        }
        accepted
    });
}
