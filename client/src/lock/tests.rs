//! Locks against fakes: one id for all attempts, no deadline, nothing left behind, loss noticed.
//!
//! Invariants:
//! - Every test names in its story what the member does and what the caller must see.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::{Happened as WireHappened, Kind as WireKind};

use crate::fake::{Locks, Script, Turn, WatchPipe, refusal};
use crate::{Client, Error, ErrorKind, LockGuard, Lost, Reason};

const TTL: Duration = Duration::from_millis(600);
const PATIENCE: Duration = Duration::from_secs(10);

async fn until(what: impl Fn() -> bool) {
    let within = tokio::time::timeout(PATIENCE, async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    within.await.unwrap();
}

fn busy() -> tonic::Status {
    refusal(WireKind::LockBusy, WireHappened::No, 0)
}

fn lost_by(guard: &LockGuard) -> Lost {
    match guard.check() {
        Err(error @ Error::HoldLost { reason, .. }) => {
            assert_eq!((error.kind(), error.reason()), (ErrorKind::Reacquire, Some(Reason::LockLost)));
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lock_is_held_with_its_own_session_which_ends_with_it() {
    let locks = Locks::default();
    let fake = Script::default().with_locks(&locks).start();
    let guard = fake.client().lock("jobs").owner("me").metadata("host", "7").ttl(TTL).acquire().await.unwrap();
    assert_eq!((guard.token().0, guard.key(), guard.name()), (10, &b"lock/key"[..], &b"jobs"[..]));
    guard.check().unwrap();
    let asked = locks.seen.lock().acquires[0].clone();
    assert_eq!((asked.lease_id, asked.wait_ms, asked.try_only, asked.owner.as_str()), (7, 0, false, "me"));
    assert_ne!(asked.acquire_id, 0);
    assert_eq!(fake.script.seen.lock().grants[0].ttl_ms, 600);

    guard.release().await.unwrap();
    assert_eq!(fake.script.seen.lock().revoked, [7], "the end of the session is the release");
    assert!(locks.seen.lock().releases.is_empty());
}

#[tokio::test]
async fn a_wait_outlasts_every_deadline_and_keeps_its_id_over_members() {
    let locks = Locks::on_attempt(|nth| match nth {
        0 => Turn::Refuse(refusal(WireKind::NoQuorum, WireHappened::Unknown, 0)),
        1 => Turn::Refuse(tonic::Status::unavailable("the connection broke")),
        2 => Turn::Hang,
        _ => Turn::Grant(12),
    });
    let (one, two) = (Script::default().with_locks(&locks).start(), Script::default().with_locks(&locks).start());
    let endpoints = [&one.address, &two.address];
    let client = Client::builder().endpoints(endpoints).deadline(Duration::from_millis(200)).build().unwrap();
    let waiting = tokio::spawn(async move { client.lock("jobs").acquire().await });
    until(|| locks.seen.lock().acquires.len() == 3).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!waiting.is_finished(), "it waits three times as long as a call may take");
    let ids: Vec<_> = locks.seen.lock().acquires.iter().map(|each| (each.lease_id, each.acquire_id)).collect();
    assert!(ids.iter().all(|each| *each == ids[0]), "{ids:?}");
    waiting.abort();
    until(|| locks.seen.lock().cancelled == 1).await;
}

#[tokio::test]
async fn a_dropped_wait_leaves_nothing_behind() {
    let locks = Locks::on_attempt(|_| Turn::Hang);
    let fake = Script::default().with_locks(&locks).start();
    let client = fake.client();
    // With its own session: which ends.
    let dropped = tokio::time::timeout(Duration::from_millis(200), client.lock("jobs").acquire()).await;
    assert!(dropped.is_err());
    until(|| locks.seen.lock().cancelled == 1 && fake.script.seen.lock().revoked == [7]).await;
    // With a session that goes on: the place alone is given up.
    let session = client.lease(PATIENCE).grant().await.unwrap();
    let dropped =
        tokio::time::timeout(Duration::from_millis(200), client.lock("jobs").session(&session).acquire()).await;
    assert!(dropped.is_err());
    until(|| locks.seen.lock().cancelled == 2 && locks.seen.lock().releases.len() == 1).await;
    let seen = locks.seen.lock();
    assert_eq!((seen.releases[0].acquire_id, seen.releases[0].token), (seen.acquires[1].acquire_id, 0));
    session.check().unwrap();
}

#[tokio::test]
async fn a_refusal_leaves_nothing_to_give_up() {
    let locks = Locks::on_attempt(|_| Turn::Refuse(refusal(WireKind::LockConflict, WireHappened::No, 0)));
    let fake = Script::default().with_locks(&locks).start();
    let client = fake.client();
    let session = client.lease(PATIENCE).grant().await.unwrap();
    let error = client.lock("jobs").session(&session).permits(3).acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.reason()), (ErrorKind::FixRequest, Some(Reason::LockConflict)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let seen = locks.seen.lock();
    assert_eq!((seen.acquires[0].mode(), seen.acquires[0].permits), (v1::LockMode::Permit, 3));
    assert!(seen.releases.is_empty());
}

#[tokio::test]
async fn what_is_busy_is_none_when_only_tried() {
    let locks = Locks::on_attempt(|_| Turn::Refuse(busy()));
    let fake = Script::default().with_locks(&locks).start();
    let client = fake.client();
    assert!(client.lock("jobs").try_acquire().await.unwrap().is_none());
    assert!(client.lock("jobs").wait(Duration::from_secs(3)).try_acquire().await.unwrap().is_none());
    let error = client.lock("jobs").wait(Duration::from_secs(3)).acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Retry, Some(Reason::LockBusy)));
    let asked: Vec<_> = locks.seen.lock().acquires.iter().map(|each| (each.try_only, each.wait_ms > 2000)).collect();
    assert_eq!(asked, [(true, false), (false, true), (false, true)]);
}

#[tokio::test]
async fn a_limit_holds_even_when_the_member_is_silent() {
    let locks = Locks::on_attempt(|_| Turn::Hang);
    let fake = Script::default().with_locks(&locks).start();
    let began = Instant::now();
    let error = fake.client().lock("jobs").wait(Duration::from_millis(100)).acquire().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(error.kind(), ErrorKind::Retry);
    until(|| fake.script.seen.lock().revoked == [7]).await;
}

#[tokio::test]
async fn a_lock_whose_session_died_while_waiting_is_not_reported_as_held() {
    // The cluster ends the lease; the member that grants does not know yet.
    let locks = Locks::on_attempt(|nth| if nth == 0 { Turn::Hang } else { Turn::Grant(12) });
    let fake = Script::default().on_keep_alive(|_, _| Some(0)).with_locks(&locks).start();
    let error =
        tokio::time::timeout(PATIENCE, fake.client().lock("jobs").ttl(TTL).acquire()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::LeaseLost { reason: Lost::Gone, .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Reacquire);
}

#[tokio::test]
async fn it_is_lost_before_its_time_when_nothing_is_confirmed() {
    let fake = Script::default().on_keep_alive(|_, _| None).start();
    let before = Instant::now();
    let guard = fake.client().lock("jobs").ttl(TTL).acquire().await.unwrap();
    assert_eq!(guard.lost().await, Lost::NotConfirmed);
    assert!(before.elapsed() < TTL);
    assert_eq!(lost_by(&guard), Lost::NotConfirmed);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::Reacquire);
}

/// A watch of which nothing comes.
async fn stands(_: usize, _: v1::WatchCreate, pipe: WatchPipe) {
    pipe.created(15).await;
    std::future::pending::<()>().await;
}

fn deletion(lease_ended: bool) -> v1::WatchResponse {
    let kv = v1::KeyValue { key: "lock/key".into(), mod_revision: 20, ..Default::default() };
    let event = v1::Event { kind: v1::event::Kind::Delete.into(), kv: Some(kv), previous: None, lease_ended };
    v1::WatchResponse { events: vec![event], ..Default::default() }
}

#[tokio::test]
async fn it_is_lost_when_its_key_is_deleted_also_after_the_watch_broke() {
    for lease_ended in [false, true] {
        let fake = Script::default()
            .on_watch(move |nth, create, pipe| async move {
                assert_eq!((create.key.as_ref(), create.start_revision, create.no_puts), (&b"lock/key"[..], 11, true));
                pipe.created(15).await;
                if nth > 0 {
                    pipe.send(deletion(lease_ended)).await;
                    std::future::pending::<()>().await;
                }
            })
            .start();
        let guard = fake.client().lock("jobs").acquire().await.unwrap();
        let reason = tokio::time::timeout(PATIENCE, guard.lost()).await.unwrap();
        assert_eq!(reason, if lease_ended { Lost::Gone } else { Lost::Taken });
        assert_eq!(lost_by(&guard), reason);
    }
}

#[tokio::test]
async fn when_history_is_compacted_the_key_itself_decides() {
    // The fake's store has no such key.
    let fake = Script::default()
        .on_watch(|_, _, pipe| async move {
            pipe.end(v1::watch_end::Reason::Compacted, 100).await;
            std::future::pending::<()>().await;
        })
        .start();
    let guard = fake.client().lock("jobs").acquire().await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, guard.lost()).await.unwrap(), Lost::Taken);
}

#[tokio::test]
async fn many_holds_share_one_watch_stream() {
    let fake = Script::default().on_watch(stands).start();
    let client = fake.client();
    let session = client.lease(PATIENCE).grant().await.unwrap();
    let mut guards = Vec::new();
    for nth in 0..20 {
        guards.push(client.lock(format!("jobs{nth}")).session(&session).acquire().await.unwrap());
    }
    until(|| !fake.script.seen.lock().watches.is_empty()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.script.seen.lock().watches.len(), 1, "streams");
}

#[tokio::test]
async fn a_delay_lease_is_kept_alive_and_outlives_a_loss() {
    let locks = Locks::on_attempt(|_| Turn::GrantDelayed(12, 8));
    let delays = std::sync::Arc::new(Mutex::new(0));
    let counted = delays.clone();
    let fake = Script::default()
        .on_keep_alive(move |_, lease| {
            if lease == 8 {
                *counted.lock() += 1;
                return Some(600);
            }
            if *counted.lock() >= 3 { Some(0) } else { Some(600) }
        })
        .on_watch(stands)
        .with_locks(&locks)
        .start();
    let client = fake.client();
    let guard = client.lock("jobs").ttl(TTL).lock_delay(Duration::from_secs(1)).acquire().await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, guard.lost()).await.unwrap(), Lost::Gone);
    assert!(*delays.lock() >= 3);
    drop(guard);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!fake.script.seen.lock().revoked.contains(&8), "that would undo the delay");
}

#[tokio::test]
async fn work_is_cancelled_when_its_lock_is_lost() {
    let fake = Script::default().on_keep_alive(|nth, _| Some(if nth == 0 { 600 } else { 0 })).start();
    let client = fake.client();
    // As a task of its own: the future can be sent.
    let working = tokio::spawn(async move {
        client
            .lock("jobs")
            .ttl(TTL)
            .with(async |guard| {
                guard.check().unwrap();
                std::future::pending::<()>().await;
            })
            .await
    });
    let error = tokio::time::timeout(PATIENCE, working).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, Error::HoldLost { .. }), "{error:?}");

    let fake = Script::default().start();
    let token = fake.client().with_lock("jobs", async |guard| guard.token().0).await.unwrap();
    assert_eq!(token, 10);
    assert_eq!(fake.script.seen.lock().revoked, [7]);
}

#[tokio::test]
async fn what_cannot_be_joined_again_is_refused_here() {
    let fake = Script::default().start();
    let error = fake.client().lock("jobs").reentrant().acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FixRequest);
}
