//! A client that reads the past, and has it compacted now and then.
//!
//! Invariants:
//! - A compaction counts as asked for before it leaves, and as done after its answer is there.

use std::time::Duration;

use quorate_proto::v1;
use quorate_tests::checkers::history::{Action, Answer, Done, Input, Kv, Span, Txn};

use crate::clients::{Client, KEYS, key};
use crate::recorder::{kv, outcome};
use crate::way::ask;

const PATIENCE: Duration = Duration::from_secs(2);
/// It reads revisions up to so much older than the newest that it knows.
const BACK_MAX: usize = 80;

/// Asks until it is over.
pub async fn live(mut client: Client) {
    let mut newest = 1;
    while !client.town.is_over() {
        client.think().await;
        let revision = newest - client.dice.below(BACK_MAX) as i64;
        if revision < 2 || client.dice.happens(200) {
            newest = newest.max(get(&mut client, 0).await);
        } else if client.dice.happens(60) {
            compact(&mut client, revision).await;
        } else {
            newest = newest.max(get(&mut client, revision).await);
        }
        // What is compacted at one member is so at all of them.
        if client.dice.happens(400) {
            client.move_on();
        }
    }
}

/// Has history compacted.
pub async fn compact(client: &mut Client, revision: i64) {
    let recorder = client.town.recorder.clone();
    recorder.compacting(revision);
    let mut kvs = v1::kv_client::KvClient::new(client.way());
    let request = v1::CompactRequest { id: None, revision };
    match ask(PATIENCE, request, |request| async move { kvs.compact(request).await }).await {
        Ok(_) => recorder.compacted(revision),
        Err(status) => {
            recorder.look_at(&status);
            client.move_on();
        }
    }
}

/// Reads some key as it was, or is; gives the store's revision in the answer.
async fn get(client: &mut Client, revision: i64) -> i64 {
    let recorder = client.town.recorder.clone();
    let key = key(client.dice.below(KEYS));
    let action = Action::Read { span: Span::Key(key.as_str().into()), limit: None };
    let begun = recorder.begin(client.id, None, Input::Txn(Txn { at: revision, ..Txn::of(action) }));
    let read = v1::ReadOptions { serializable: false, min_revision: 0 };
    let request = v1::GetRequest { key: key.into(), revision, read: Some(read) };
    let mut kvs = v1::kv_client::KvClient::new(client.way());
    let answer = ask(PATIENCE, request, |request| async move { kvs.get(request).await }).await;
    let answer = answer.map(|answer| {
        let found: Vec<Kv> = answer.kv.into_iter().map(kv).collect();
        (answer.header.map_or(0, |header| header.revision), Answer::of(vec![Done::Read(found)]))
    });
    let newest = answer.as_ref().map_or(0, |(revision, _)| *revision);
    if answer.is_err() {
        client.move_on();
    }
    recorder.end(begun, outcome(&recorder, answer));
    newest
}
