//! Damaged answers of the leader, changes of membership and words of digests. The first byte of an input says which.

use prost::Message as _;
use quorate_proto::peer::DigestsResponse;

use super::*;
use crate::consensus::digests;
use crate::fuzzing::fuzz;

#[test]
fn what_goes_to_the_leader_and_back() {
    let corpus = include_str!("../../../../tests/corpus/forward.txt");
    fuzz("what goes to the leader and back", corpus, |input| match input.split_first() {
        Some((0, rest)) => {
            let Ok(response) = ForwardResponse::decode(rest) else { return false };
            let tag = response.tag;
            let answer = decode_response(response);
            let said = format!("{answer:?}");
            let back = ForwardResponse::decode(&*encode_response(tag, answer).encode_to_vec()).unwrap();
            assert_eq!(back.tag, tag);
            assert_eq!(format!("{:?}", decode_response(back)), said);
            true
        }
        Some((1, rest)) => {
            let Some(change) = peer::MembershipChange::decode(rest).ok().and_then(decode_change) else { return false };
            let back = peer::MembershipChange::decode(&*encode_change(&change).encode_to_vec()).unwrap();
            assert_eq!(decode_change(back), Some(change));
            true
        }
        Some((2, rest)) => {
            let Ok(said) = DigestsResponse::decode(rest) else { return false };
            let said = digests::decode(said);
            let back = DigestsResponse::decode(&*digests::encode(said.clone()).encode_to_vec()).unwrap();
            assert_eq!(digests::decode(back), said);
            true
        }
        _ => false,
    });
}
