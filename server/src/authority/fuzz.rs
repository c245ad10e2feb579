//! Damaged beginnings of connections: the same comes out in whatever pieces they come, and nothing is lost.

use super::*;
use crate::fuzzing::fuzz;

/// What the reader gets when the bytes come so many at a time.
fn through(input: &[u8], step: usize) -> Vec<u8> {
    let mut look = Look { held: BytesMut::new(), passing: PREFACE_BYTES, found: false };
    let (mut ready, mut looking) = (BytesMut::new(), true);
    for piece in input.chunks(step) {
        if looking {
            look.held.extend_from_slice(piece);
            looking = look.advance(&mut ready);
        } else {
            ready.extend_from_slice(piece);
        }
    }
    ready.extend_from_slice(&look.held);
    ready.to_vec()
}

#[test]
fn beginnings_of_connections() {
    let corpus = include_str!("../../../tests/corpus/connections.txt");
    fuzz("beginnings of connections", corpus, |input| {
        let whole = through(input, input.len().max(1));
        assert_eq!(whole.len(), input.len());
        assert_eq!(through(input, 1), whole);
        assert_eq!(through(input, 7), whole);
        whole != input
    });
}
