//! Damaged answers to health checks over HTTP: whatever comes, a check comes to an end.

use super::*;
use crate::fuzzing::fuzz_in;
use quorate_state::testing::fuzz::Room;

/// The buffers of one connection.
const ROOM: Room = Room { base: 256 << 10, ..Room::DECODER };

#[test]
fn answers_to_checks() {
    let corpus = include_str!("../../../../../../tests/corpus/answers.txt");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    fuzz_in(ROOM, "answers to checks", corpus, |input| {
        let request = Request::get("/").header(http::header::HOST, "a").body(Empty::new()).unwrap();
        let stream = tokio::io::join(input, tokio::io::sink());
        match runtime.block_on(get(stream, request)) {
            Ok(status) => {
                judge(status);
                true
            }
            Err(why) => {
                assert!(!why.is_empty());
                false
            }
        }
    });
}
