//! Reflectors against fakes.
//!
//! Invariants:
//! - The tree, and the changes from where they begin, always agree.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use quorate_proto::v1;
use quorate_proto::v1::batch_answer::Answer;
use quorate_proto::v1::batch_item::Request as Item;
use quorate_proto::v1::watch_end::Reason as End;

use crate::fake::{Reply, Script, kv, put_event};
use crate::{Change, EventKind, KeyValue, Revision, Tree, WatchEvents};

/// Answers reads as a store would that has these keys below `/c` at this revision.
fn reading(item: &Item, revision: i64, kvs: &[v1::KeyValue]) -> Reply {
    let header = Some(v1::Header { revision, ..Default::default() });
    Reply::Answer(match item {
        Item::Range(range) if range.start.is_empty() || range.start == "/c/" => {
            let (first, rest) = kvs.split_at(1);
            // Two pages, the first of one key.
            let kvs = first.to_vec();
            Answer::Range(v1::RangeResponse { header, kvs, more: !rest.is_empty(), count: 1 })
        }
        Item::Range(range) => {
            assert_eq!(range.revision, revision, "the second page is read at the revision of the first");
            Answer::Range(v1::RangeResponse { header, kvs: kvs[1..].to_vec(), more: false, count: 0 })
        }
        Item::Get(get) => {
            assert_eq!((get.key.as_ref(), get.revision), (&b"/c"[..], revision));
            Answer::Get(v1::GetResponse { header, kv: None })
        }
        other => panic!("{other:?}"),
    })
}

fn keys(tree: &Tree) -> Vec<(String, i64)> {
    tree.iter().map(|kv| (kv.key_text().into_owned(), kv.mod_revision.get())).collect()
}

fn applied(mut kvs: BTreeMap<Bytes, KeyValue>, changes: &WatchEvents) -> BTreeMap<Bytes, KeyValue> {
    for event in &changes.events {
        let before = match event.kind {
            EventKind::Put => kvs.insert(event.kv.key.clone(), event.kv.clone()),
            EventKind::Delete => kvs.remove(&event.kv.key),
        };
        assert_eq!(event.previous, before);
    }
    kvs
}

#[tokio::test]
async fn it_reads_follows_and_starts_over_after_a_compaction() {
    let fake = Script::default()
        .on_item(|nth, item| match nth {
            0..3 => reading(item, 10, &[kv("/c/a", "1", 3), kv("/c/b", "1", 4)]),
            _ => reading(item, 90, &[kv("/c/b", "9", 80), kv("/c/d", "1", 85)]),
        })
        .on_watch(|nth, create, pipe| async move {
            pipe.created(10).await;
            if nth == 0 {
                assert_eq!(create.start_revision, 11);
                pipe.events(&[(11, "/c/a"), (11, "/c/x"), (11, "/c//no-path")], false).await;
                pipe.end(End::Compacted, 80).await;
            } else {
                assert_eq!(create.start_revision, 91);
                pipe.events(&[(95, "/c/e")], false).await;
            }
            std::future::pending::<()>().await;
        })
        .start();
    let reflector = fake.client().reflector("/c").await.unwrap();
    let mut changes = reflector.changes();
    let first = changes.begins_with().clone();
    let within = Duration::from_secs(5);
    tokio::time::timeout(within, reflector.wait_until(Revision(95))).await.unwrap().unwrap();
    let expected = [("/c/b".to_owned(), 80), ("/c/d".to_owned(), 85), ("/c/e".to_owned(), 95)];
    assert_eq!(keys(&reflector.snapshot()), expected);
    assert_eq!(reflector.get("/c/b").unwrap().value_text(), "9");

    // What a listener was told leads from the one to the other.
    let mut kvs: BTreeMap<Bytes, KeyValue> = first.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
    let mut reached = first.revision();
    while reached < Revision(95) {
        match tokio::time::timeout(within, changes.next()).await.unwrap().unwrap().unwrap() {
            Change::Events(events) => {
                assert!(events.revision > reached);
                reached = events.revision;
                kvs = applied(kvs, &events);
            }
            Change::Reset(_) => panic!("it was not slow"),
        }
    }
    assert_eq!(kvs.into_values().collect::<Vec<_>>(), reflector.snapshot().iter().cloned().collect::<Vec<_>>());
}

#[tokio::test]
async fn waiting_for_a_revision_that_changes_nothing_asks_for_progress() {
    let fake = Script::default()
        .on_item(|_, item| reading(item, 10, &[kv("/c/a", "1", 3)]))
        .on_watch(|_, _, mut pipe| async move {
            pipe.created(10).await;
            // The member is behind at first.
            for revision in [12, 15, 20] {
                pipe.requests.next().await;
                pipe.progress(revision).await;
            }
            std::future::pending::<()>().await;
        })
        .start();
    let reflector = fake.client().reflector("/c").await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), reflector.wait_until(Revision(20))).await.unwrap().unwrap();
    assert_eq!(reflector.revision(), Revision(20));
}

#[tokio::test]
async fn a_slow_listener_gets_the_whole_tree() {
    let fake = Script::default()
        .on_item(|_, item| reading(item, 10, &[kv("/c/a", "1", 3)]))
        .on_watch(|_, _, pipe| async move {
            pipe.created(10).await;
            for revision in 11..2000 {
                let events = vec![put_event("/c/a", revision)];
                pipe.send(v1::WatchResponse { events, ..Default::default() }).await;
            }
            std::future::pending::<()>().await;
        })
        .start();
    let reflector = fake.client().reflector("/c").await.unwrap();
    let mut changes = reflector.changes();
    reflector.wait_until(Revision(1999)).await.unwrap();
    match changes.next().await.unwrap().unwrap() {
        Change::Reset(tree) => assert_eq!(tree.revision(), Revision(1999)),
        Change::Events(events) => panic!("{events:?}"),
    }
}

#[tokio::test]
async fn one_that_cannot_go_on_says_so() {
    let fake = Script::default()
        .on_item(|_, item| reading(item, 10, &[kv("/c/a", "1", 3)]))
        .on_watch(|_, _, pipe| async move {
            pipe.created(10).await;
            pipe.end(End::Invalid, 0).await;
        })
        .start();
    let reflector = fake.client().reflector("/c").await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(5), reflector.wait_until(Revision(99))).await.unwrap();
    assert!(error.is_err());
    assert!(matches!(reflector.changes().next().await, Some(Err(_))));
    assert!(reflector.get("/c/a").is_some(), "what was known stays readable");
}

#[tokio::test]
async fn only_paths_can_be_reflected() {
    let error = Script::default().start().client().reflector("c").await.unwrap_err();
    assert!(error.to_string().contains("does not start with '/'"), "{error}");
}
