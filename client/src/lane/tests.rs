//! The batch stream against fakes.
//!
//! Invariants:
//! - What a caller gets is the answer to what it asked, however messages are packed.

use std::collections::BTreeSet;

use futures::future::join_all;

use crate::Client;
use crate::fake::{Reply, Script, usual};

async fn put_many(client: &Client, count: usize) {
    let puts = (0..count).map(|at| async move {
        let key = format!("/k{at:04}");
        let answer = client.put(&key, "v").await.unwrap();
        assert_eq!(answer.key_text(), key, "an answer of another call");
    });
    join_all(puts).await;
}

#[tokio::test]
async fn what_is_waiting_shares_a_message_and_what_is_alone_does_not_wait() {
    let fake = Script::default().reversed().start();
    let client = fake.client();
    client.put("/alone", "1").await.unwrap();
    assert_eq!(fake.script.seen.lock().messages, [1]);
    put_many(&client, 300).await;
    let seen = fake.script.seen.lock();
    assert_eq!(seen.messages.iter().sum::<usize>(), 301);
    assert!(seen.messages.len() < 30, "{:?}", seen.messages);
    assert_eq!(seen.unary, 0);
}

#[tokio::test]
async fn a_broken_stream_sends_all_again_under_their_ids() {
    let fake =
        Script::default().on_item(|nth, item| if nth == 5 { Reply::Break } else { Reply::Answer(usual(item)) }).start();
    put_many(&fake.client(), 100).await;
    let sequences: Vec<u64> = fake.put_ids().iter().map(|id| id.sequence).collect();
    assert!(sequences.len() > 100, "some were sent twice");
    let different: BTreeSet<u64> = sequences.iter().copied().collect();
    assert_eq!(different, (1..=100).collect(), "but none under a new id");
}

#[tokio::test]
async fn a_member_without_the_stream_is_asked_call_by_call() {
    let fake = Script::default().without_batch().start();
    put_many(&fake.client(), 20).await;
    let seen = fake.script.seen.lock();
    assert_eq!((seen.unary, seen.messages.len()), (20, 0));
}

#[tokio::test]
async fn large_requests_go_alone() {
    let fake = Script::default().start();
    let client = fake.client();
    client.put("/big", vec![0; 300 << 10]).await.unwrap();
    client.put("/small", "1").await.unwrap();
    let seen = fake.script.seen.lock();
    assert_eq!((seen.unary, seen.messages.as_slice()), (1, &[1][..]));
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    let fake =
        Script::default().on_item(|nth, item| if nth < 10 { Reply::Hang } else { Reply::Answer(usual(item)) }).start();
    let client = fake.client();
    let brief = std::time::Duration::from_millis(300);
    for put in join_all((0..10).map(|_| client.put("/a", "1").deadline(brief).into_future())).await {
        put.unwrap_err();
    }
    put_many(&client, 10).await;
    let ids = fake.put_ids();
    assert_eq!(ids.len(), 20);
    assert_eq!(ids.last().map(|id| id.lowest_unacknowledged > 10), Some(true), "what was given up is not owed");
}
