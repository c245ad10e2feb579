//! Damaged queries: an answer that can be read and is not too large, or none.

use quorate_proto::v1;

use super::*;
use crate::fuzzing::fuzz;
use crate::recipes::discovery::{Looked, ServiceSettings};

/// One instance of each kind, too many to fit in a packet.
fn looked() -> Looked {
    let instance = |nth: usize| v1::Instance {
        id: format!("i{nth}"),
        address: ["10.0.0.1", "::1", "db.example", "xn--nxasmq6b"][nth % 4].to_owned(),
        port: 80,
        weight: 100,
        tags: vec!["blue".to_owned()],
        metadata: [("k".to_owned(), "v".repeat(nth * 40))].into(),
        health: v1::Health::Passing.into(),
        ..v1::Instance::default()
    };
    Looked { instances: (0..24).map(instance).collect(), settings: ServiceSettings::default() }
}

/// What the service does, with one service that every name finds.
fn answer(bytes: &[u8], way: Way, looked: &Looked, domain: &Name) -> Result<Vec<u8>, ResponseCode> {
    let Begun { question, mut response, bytes_max } = begin(bytes, way)?;
    if let Some(query) = question {
        let question = Question { name: query.name(), kind: query.query_type(), domain };
        let answer = match asked(&query, domain) {
            Asked::Instances(ways) => ways.iter().find_map(|wanted| question.instances(looked, &wanted.only)),
            asked => question.without_instances(&asked, 7),
        };
        finish(question, answer, 7, &mut response);
    }
    let answer = fit(response, bytes_max.into(), way).ok_or(ResponseCode::ServFail)?;
    assert!(answer.len() <= bytes_max.into());
    Ok(answer)
}

#[test]
fn queries() {
    let corpus = include_str!("../../../../../tests/corpus/queries.txt");
    let (looked, domain) = (looked(), Name::from_ascii("quorate.").unwrap());
    fuzz("queries", corpus, |input| {
        let mut accepted = false;
        for way in [Way::Udp, Way::Tcp] {
            if let Ok(answer) = answer(input, way, &looked, &domain) {
                let read = Message::from_vec(&answer).unwrap();
                assert_eq!(answer[..2], input[..2]);
                assert_eq!(read.metadata.message_type, MessageType::Response);
                accepted = true;
            }
        }
        accepted
    });
}

#[test]
fn what_a_header_counts_and_does_not_have_is_refused_before_memory_is_set_aside() {
    let refused = |query: &[u8]| matches!(begin(query, Way::Udp), Err(ResponseCode::FormErr));
    let question = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
    assert!(!refused(&question));
    for count in [4, 6, 8, 10] {
        let mut query = question;
        query[count] = 0x7f;
        assert!(refused(&query), "the count at {count}");
        let taken = allocation_counter::measure(|| assert!(refused(&query))).bytes_max;
        assert!(taken < 1_024, "{taken} bytes");
    }
}
