//! Damaged messages of a watch: an error, or whole transactions of growing revisions.

use prost::Message as _;
use quorate_state::testing::fuzz::fuzz;

use super::*;

#[test]
fn messages_of_watches() {
    let corpus = include_str!("../../../../tests/corpus/watches.txt");
    fuzz("messages of watches", corpus, |input| {
        let mut assembler = Assembler::new(1);
        let mut last = 0;
        // Messages one after another, each with its length before it.
        let mut rest = input;
        while let Some((length, after)) = rest.split_first() {
            let (message, after) = after.split_at(usize::from(*length).min(after.len()));
            rest = after;
            let Ok(events) = v1::WatchResponse::decode(message) else { return false };
            let Ok(whole) = assembler.events(events.events, events.fragment) else { return false };
            for each in whole {
                assert!(each.revision.get() > last && !each.events.is_empty());
                last = each.revision.get();
            }
            assert!(assembler.next() > 0);
        }
        true
    });
}
