//! Watches against fakes: resuming, fragments, compaction.
//!
//! Invariants:
//! - Whatever the members do, the consumer sees each revision once and in order.

use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use quorate_proto::v1::watch_end::Reason as End;

use crate::fake::Script;
use crate::{Client, Error, ErrorKind, Revision, WatchEvents, WatchStream};

async fn next(watch: &mut WatchStream) -> WatchEvents {
    tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap().unwrap().unwrap()
}

fn shape(changes: &WatchEvents) -> (i64, usize) {
    (changes.revision.get(), changes.events.len())
}

#[tokio::test]
async fn a_watch_begins_after_the_moment_of_its_creation() {
    let fake = Script::default()
        .on_watch(|_, _, pipe| async move {
            pipe.created(41).await;
            pipe.events(&[(42, "/a"), (42, "/b"), (44, "/a")], false).await;
            std::future::pending::<()>().await;
        })
        .start();
    let mut watch = fake.client().watch("/").subtree().start().await.unwrap();
    assert_eq!(watch.next_revision(), Revision(42));
    assert_eq!(shape(&next(&mut watch).await), (42, 2));
    assert_eq!(watch.next_revision(), Revision(43));
    assert_eq!(shape(&next(&mut watch).await), (44, 1));
}

#[tokio::test]
async fn it_resumes_where_it_was_after_an_end_and_after_a_break() {
    let fake = Script::default()
        .on_watch(|nth, create, pipe| async move {
            pipe.created(50).await;
            match nth {
                0 => {
                    pipe.events(&[(7, "/a")], false).await;
                    pipe.end(End::Unavailable, 0).await;
                    // The client goes by itself.
                    std::future::pending::<()>().await;
                }
                // Breaks within a transaction.
                1 => pipe.events(&[(9, "/a"), (10, "/a")], true).await,
                _ => {
                    assert_eq!((create.start_revision, create.min_revision), (10, 50));
                    pipe.events(&[(10, "/a"), (10, "/b")], false).await;
                    std::future::pending::<()>().await;
                }
            }
        })
        .start();
    let mut watch = fake.client().watch("/").subtree().from(Revision(7)).start().await.unwrap();
    for expected in [(7, 1), (9, 1), (10, 2)] {
        assert_eq!(shape(&next(&mut watch).await), expected);
    }
    let starts: Vec<i64> = fake.script.seen.lock().watches.iter().map(|create| create.start_revision).collect();
    assert_eq!(starts, [7, 8, 10]);
}

#[tokio::test]
async fn it_goes_on_at_another_member_when_its_own_dies() {
    let script = || {
        Script::default().on_watch(|_, create, pipe| async move {
            pipe.created(50).await;
            for revision in create.start_revision.. {
                pipe.events(&[(revision, "/a")], false).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let fakes = Mutex::new(vec![script().start(), script().start()]);
    let addresses: Vec<String> = fakes.lock().iter().map(|fake| fake.address.clone()).collect();
    let client = Client::builder().endpoints(&addresses).build().unwrap();
    let mut watch = client.watch("/a").from(Revision(1)).start().await.unwrap();
    for revision in 1..60 {
        assert_eq!(next(&mut watch).await.revision, Revision(revision));
        if revision == 20 {
            let mut fakes = fakes.lock();
            let serving = fakes.iter().position(|fake| !fake.script.seen.lock().watches.is_empty()).unwrap();
            drop(fakes.remove(serving));
        }
    }
}

#[tokio::test]
async fn a_compaction_is_told_after_what_came_before_it() {
    let fake = Script::default()
        .on_watch(|_, _, pipe| async move {
            pipe.created(50).await;
            pipe.events(&[(7, "/a")], false).await;
            pipe.end(End::Compacted, 30).await;
        })
        .start();
    let mut watch = fake.client().watch("/a").from(Revision(7)).start().await.unwrap();
    assert_eq!(shape(&next(&mut watch).await), (7, 1));
    match watch.next().await {
        Some(Err(error @ Error::Compacted { compact_revision: Revision(30), .. })) => {
            assert_eq!(error.kind(), ErrorKind::FixRequest);
        }
        other => panic!("{other:?}"),
    }
    assert!(watch.next().await.is_none(), "it has ended");
}

#[tokio::test]
async fn what_comes_twice_is_an_error_not_an_event() {
    let fake = Script::default()
        .on_watch(|_, _, pipe| async move {
            pipe.created(50).await;
            pipe.events(&[(7, "/a")], false).await;
            pipe.events(&[(7, "/a")], false).await;
            std::future::pending::<()>().await;
        })
        .start();
    let mut watch = fake.client().watch("/a").from(Revision(7)).start().await.unwrap();
    next(&mut watch).await;
    assert!(matches!(watch.next().await, Some(Err(Error::Protocol { .. }))));
}

#[tokio::test]
async fn progress_comes_as_a_mark_and_moves_the_resumption() {
    let fake = Script::default()
        .on_watch(|nth, _, mut pipe| async move {
            pipe.created(50).await;
            if nth == 0 {
                // Asked for by the client.
                pipe.requests.next().await;
                pipe.progress(60).await;
                return;
            }
            std::future::pending::<()>().await;
        })
        .start();
    let mut watch = fake.client().watch("/a").from(Revision(7)).start().await.unwrap();
    watch.request_progress();
    let mark = next(&mut watch).await;
    assert!(mark.is_progress() && mark.revision == Revision(60));
    let idle = tokio::time::timeout(Duration::from_millis(300), watch.next()).await;
    assert!(idle.is_err(), "nothing more comes");
    assert_eq!(fake.script.seen.lock().watches[1].start_revision, 61);
}

#[tokio::test]
async fn a_watch_that_cannot_be_served_gives_up_when_told_to() {
    let fake = Script::default().on_watch(|_, _, pipe| async move { pipe.created(50).await }).start();
    let patience = Duration::from_millis(300);
    let mut watch = fake.client().watch("/a").give_up_after(patience).start().await.unwrap();
    drop(fake);
    let ended = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap();
    assert!(matches!(ended, Some(Err(Error::Unreachable { .. } | Error::Refused(_)))), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_request_is_refused_at_the_start() {
    let fake = Script::default().on_watch(|_, _, pipe| async move { pipe.end(End::Invalid, 0).await }).start();
    let error = fake.client().watch("a//b").subtree().start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FixRequest);
}
