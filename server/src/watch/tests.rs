//! The watch room with a history in memory: joints, slow readers, marks, ends.
//!
//! Invariants:
//! - Tests named `watch_joint_…` and `snapshots_…` stand for the rules of the same name in the design.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_proto::{Key, Revision};
use quorate_state::outcome::{Change, ChangeKind, Changes, KeyValue, Meta, RevisionChanges};
use quorate_state::view::ReadError;
use tokio::time::{Instant, timeout};

use super::catch_up::{Chunk, History};
use super::hub::Hub;
use super::interest::{Interest, Scope};
use super::notice::{OnContactLoss, WatchNotice, WatchOver, WatchSpec};
use super::session::Session;
use super::watcher::{Mailbox, PLACES_MAX, Watcher};
use crate::consensus::ApplySink as _;
use crate::error::{ConsensusError, Happened};
use crate::tasks::Tasks;

fn meta(revision: i64) -> Meta {
    let revision = Revision(revision);
    Meta { create_revision: revision, mod_revision: revision, version: 1, lease: None, created_ms: 0, modified_ms: 0 }
}

fn change(revision: i64, key: &str, value: &str, previous: i64) -> Change {
    Change {
        kind: ChangeKind::Put { meta: meta(revision), value: Bytes::from(value.to_owned()) },
        key: Key::new(key.to_owned()).unwrap(),
        previous: Revision(previous),
    }
}

/// One put.
pub fn put(revision: i64, key: &str, value: &str, previous: i64) -> RevisionChanges {
    RevisionChanges { revision: Revision(revision), changes: vec![change(revision, key, value, previous)] }
}

/// Many puts in one transaction: `/k/0`, `/k/1`, …
pub fn puts(revision: i64, count: u32, value: &str) -> RevisionChanges {
    let changes = (0..count).map(|at| change(revision, &format!("/k/{at}"), value, 0)).collect();
    RevisionChanges { revision: Revision(revision), changes }
}

pub fn watcher_of(id: u64, scope: Scope) -> Arc<Watcher> {
    let interest = Interest { scope, puts: true, deletes: true };
    Arc::new(Watcher::new(id, id, interest, Arc::new(Mailbox::default())))
}

pub fn watcher_of_range(id: u64, start: Bytes, end: Option<Bytes>) -> Arc<Watcher> {
    watcher_of(id, Scope::Range { start, end })
}

/// Keeps what was published; a chunk covers at most `step` revisions.
struct MemoryHistory {
    revisions: Mutex<Vec<RevisionChanges>>,
    compacted: AtomicI64,
    step: usize,
    first: i64,
}

impl MemoryHistory {
    fn newest(&self) -> i64 {
        self.first + i64::try_from(self.revisions.lock().len()).unwrap() - 1
    }
}

impl History for MemoryHistory {
    fn chunk(&self, from: Revision, interest: &Interest, _bytes_max: usize) -> Result<Chunk, ReadError> {
        let compacted = Revision(self.compacted.load(Ordering::SeqCst));
        if from < compacted {
            return Err(ReadError::Compacted { asked: from, compacted });
        }
        let revisions = self.revisions.lock();
        let skip = usize::try_from(from.get() - self.first).unwrap();
        let read: Vec<RevisionChanges> = revisions.iter().skip(skip).take(self.step).cloned().collect();
        let next = read.last().map_or(from, |last| last.revision.next());
        let wanted = read.into_iter().filter_map(|mut revision| {
            revision.changes.retain(|change| interest.holds(&change.key));
            (!revision.changes.is_empty()).then_some(revision)
        });
        Ok(Chunk { revisions: wanted.collect(), next })
    }

    fn previous(&self, wanted: &[(Key, Revision)], _changed: Revision) -> Result<Vec<Option<KeyValue>>, ReadError> {
        let found = wanted.iter().map(|(key, revision)| {
            (revision.get() > 0).then(|| KeyValue {
                key: key.clone(),
                value: format!("before {revision}").into(),
                meta: meta(revision.get()),
            })
        });
        Ok(found.collect())
    }

    fn reached(&self, revision: Revision, _deadline: Instant) -> BoxFuture<'static, Result<(), ConsensusError>> {
        let reached = self.newest() >= revision.get();
        Box::pin(async move {
            if reached {
                Ok(())
            } else {
                Err(ConsensusError::Deadline { waiting_for: "a revision", happened: Happened::No })
            }
        })
    }
}

struct Room {
    hub: Arc<Hub>,
    history: Arc<MemoryHistory>,
}

impl Room {
    /// The store is at revision 10.
    fn new(window_bytes_max: usize, step: usize) -> Self {
        let hub = Arc::new(Hub::new(window_bytes_max));
        hub.begin(Revision(10));
        let history = MemoryHistory { revisions: Mutex::default(), compacted: AtomicI64::new(1), step, first: 11 };
        Self { hub, history: Arc::new(history) }
    }

    fn publish(&self, revision: RevisionChanges) {
        self.history.revisions.lock().push(revision.clone());
        self.hub.applied(Changes { log_index: 0, revisions: vec![revision] }, &[]);
    }

    fn put(&self, key: &str, previous: i64) {
        self.publish(put(self.history.newest() + 1, key, "v", previous));
    }

    fn session(&self) -> Session {
        let history = Arc::clone(&self.history) as Arc<dyn History>;
        Session::new(Arc::clone(&self.hub), history, OnContactLoss::End, Tasks::default())
    }
}

fn spec(scope: Scope, start: i64) -> WatchSpec {
    WatchSpec {
        interest: Interest { scope, puts: true, deletes: true },
        start: (start > 0).then_some(Revision(start)),
        previous_values: false,
        progress_interval: None,
        min_revision: None,
    }
}

fn all() -> Scope {
    Scope::Range { start: Bytes::new(), end: None }
}

async fn next(session: &mut Session) -> WatchNotice {
    timeout(Duration::from_secs(20), session.next()).await.expect("a notice comes")
}

fn quiet(session: &mut Session) {
    assert!(session.next().now_or_never().is_none(), "nothing is to come");
}

async fn created(session: &mut Session) -> i64 {
    match next(session).await {
        WatchNotice::Created { revision, .. } => revision.get(),
        other => panic!("{other:?}"),
    }
}

/// Revisions of the next events.
async fn events(session: &mut Session) -> Vec<i64> {
    match next(session).await {
        WatchNotice::Events { items, .. } => items.iter().map(|picked| picked.item.revision.get()).collect(),
        other => panic!("{other:?}"),
    }
}

async fn ended(session: &mut Session) -> WatchOver {
    match next(session).await {
        WatchNotice::Ended { over, .. } => over,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_live_watch_is_given_what_matches_and_nothing_else() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    session.create(1, spec(Scope::Key(Key::new("/a").unwrap()), 0));
    session.create(2, spec(Scope::Children("/d".into()), 0));
    assert_eq!((created(&mut session).await, created(&mut session).await), (10, 10));
    room.put("/a", 0);
    room.put("/b", 0);
    room.put("/d/x", 0);
    room.put("/d/x/y", 0);
    room.put("/a", 11);
    assert_eq!(events(&mut session).await, [11, 15]);
    assert_eq!(events(&mut session).await, [13]);
    quiet(&mut session);
    assert!(session.cancel(1) && !session.cancel(7));
    assert_eq!(ended(&mut session).await, WatchOver::Cancelled);
    room.put("/a", 15);
    quiet(&mut session);
    assert_eq!(room.hub.watches(), 1);
    drop(session);
    assert_eq!(room.hub.watches(), 0);
}

#[tokio::test]
async fn watch_joint_history_in_chunks_then_live_without_gap_or_repeat() {
    let room = Room::new(4000, 7);
    (0..100).for_each(|_| room.put("/a", 0));
    let mut session = room.session();
    session.create(1, spec(all(), 20));
    assert_eq!(created(&mut session).await, 110);
    let mut seen = Vec::new();
    while seen.len() < 91 {
        seen.extend(events(&mut session).await);
        if seen.len() == 28 {
            room.put("/a", 0);
        }
    }
    room.put("/a", 0);
    while seen.len() < 93 {
        seen.extend(events(&mut session).await);
    }
    assert_eq!(seen, (20..=112).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_joint_under_a_publisher_that_does_not_wait() {
    const LAST: i64 = 30_010;
    let room = Arc::new(Room::new(200 * 200, 500));
    let publisher = Arc::clone(&room);
    let thread = std::thread::spawn(move || {
        while publisher.history.newest() < LAST {
            publisher.put(if publisher.history.newest() % 3 == 0 { "/a" } else { "/b" }, 0);
        }
    });
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..4 {
        let room = Arc::clone(&room);
        readers.spawn(async move {
            let mut session = room.session();
            session.create(1, spec(all(), 11));
            session.create(2, spec(Scope::Key(Key::new("/a").unwrap()), 11 + reader));
            let mut seen = [Vec::new(), Vec::new()];
            while seen[0].last() != Some(&LAST) {
                match next(&mut session).await {
                    WatchNotice::Events { tag, items } => {
                        let revisions = items.iter().map(|picked| picked.item.revision.get());
                        seen[usize::try_from(tag).unwrap() - 1].extend(revisions);
                    }
                    WatchNotice::Created { .. } => {}
                    other => panic!("{other:?}"),
                }
                if reader == 0 {
                    // A slow one: it falls out of the window again and again.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            assert!(seen[0].iter().copied().eq(11..=LAST), "every revision once, in order");
            let wanted: Vec<i64> = (11 + reader..=LAST).filter(|revision| (revision - 1) % 3 == 0).collect();
            assert!(wanted.starts_with(&seen[1]), "every match once, in order");
        });
    }
    while let Some(done) = readers.join_next().await {
        done.unwrap();
    }
    thread.join().unwrap();
}

#[tokio::test]
async fn a_slow_watch_falls_out_of_the_window_and_goes_on_from_history() {
    let room = Room::new(2000, 1000);
    let mut session = room.session();
    session.create(1, spec(all(), 0));
    created(&mut session).await;
    (0..200).for_each(|_| room.put("/a", 0));
    let mut seen = Vec::new();
    while seen.len() < 200 {
        seen.extend(events(&mut session).await);
    }
    assert_eq!(seen, (11..=210).collect::<Vec<i64>>());
    room.put("/a", 0);
    assert_eq!(events(&mut session).await, [211]);
}

#[tokio::test]
async fn a_slow_watch_holds_a_bounded_number_of_places() {
    let room = Room::new(64 << 20, 100_000);
    let mut session = room.session();
    session.create(1, spec(all(), 0));
    created(&mut session).await;
    let count = PLACES_MAX + 100;
    (0..count).for_each(|_| room.put("/a", 0));
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.extend(events(&mut session).await);
    }
    assert!(seen.iter().copied().eq(11..11 + i64::try_from(count).unwrap()));
}

#[tokio::test]
async fn a_transaction_larger_than_all_places_is_given_whole() {
    let room = Room::new(64 << 20, 10);
    let mut session = room.session();
    session.create(1, spec(all(), 0));
    created(&mut session).await;
    room.publish(puts(11, 10_000, "v"));
    match next(&mut session).await {
        WatchNotice::Events { items, .. } => {
            assert_eq!(items.iter().map(|picked| picked.changes.len()).collect::<Vec<_>>(), [10_000]);
        }
        other => panic!("{other:?}"),
    }
    room.put("/a", 0);
    assert_eq!(events(&mut session).await, [12]);
}

#[tokio::test]
async fn starting_below_the_mark_is_refused_and_at_the_mark_is_legal() {
    let room = Room::new(1 << 20, 100);
    (0..10).for_each(|_| room.put("/a", 0));
    room.history.compacted.store(15, Ordering::SeqCst);
    let mut session = room.session();
    session.create(1, spec(all(), 14));
    created(&mut session).await;
    assert_eq!(ended(&mut session).await, WatchOver::Compacted { compacted: Revision(15) });
    session.create(1, spec(all(), 15));
    created(&mut session).await;
    assert_eq!(events(&mut session).await, (15..=20).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_future_start_is_waited_for_and_nothing_older_is_given() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    session.create(1, spec(all(), 13));
    assert_eq!(created(&mut session).await, 10);
    room.put("/a", 0);
    room.put("/a", 0);
    quiet(&mut session);
    room.put("/a", 0);
    assert_eq!(events(&mut session).await, [13]);
}

#[tokio::test]
async fn a_mark_never_overtakes_an_event() {
    let room = Room::new(1 << 20, 3);
    let mut session = room.session();
    (0..9).for_each(|_| room.put("/a", 0));
    session.create(1, spec(all(), 11));
    created(&mut session).await;
    session.ask_marks();
    let mut covered = 10;
    loop {
        match next(&mut session).await {
            WatchNotice::Events { items, .. } => covered = items.last().unwrap().item.revision.get(),
            WatchNotice::Mark { revision, .. } => {
                assert_eq!((revision.get(), covered), (19, 19));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    session.create(2, spec(Scope::Key(Key::new("/z").unwrap()), 0));
    created(&mut session).await;
    room.put("/b", 0);
    session.ask_marks();
    assert_eq!(events(&mut session).await, [20]);
    for _ in 0..2 {
        assert!(matches!(next(&mut session).await, WatchNotice::Mark { revision: Revision(20), .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn marks_come_by_time_while_nothing_matches() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    let interval = Some(Duration::from_millis(500));
    session.create(1, WatchSpec { progress_interval: interval, ..spec(Scope::Subtree("/x".into()), 0) });
    created(&mut session).await;
    room.put("/a", 0);
    let began = Instant::now();
    assert!(matches!(next(&mut session).await, WatchNotice::Mark { revision: Revision(11), .. }));
    assert_eq!(began.elapsed(), Duration::from_millis(500));
}

#[tokio::test]
async fn previous_values_are_fetched_and_filters_hold() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    session.create(1, WatchSpec { previous_values: true, ..spec(all(), 0) });
    created(&mut session).await;
    room.put("/a", 0);
    room.put("/a", 11);
    match next(&mut session).await {
        WatchNotice::Events { items, .. } => {
            let previous: Vec<_> = items.iter().flat_map(|picked| &picked.previous).collect();
            assert!(previous[0].is_none());
            assert_eq!(previous[1].as_ref().unwrap().value, "before 11");
        }
        other => panic!("{other:?}"),
    }
    let mut deletes = spec(all(), 11);
    deletes.interest.puts = false;
    session.create(2, deletes);
    created(&mut session).await;
    session.ask_marks();
    for _ in 0..2 {
        assert!(matches!(next(&mut session).await, WatchNotice::Mark { .. }), "puts are not wanted");
    }
}

#[tokio::test]
async fn snapshots_a_watch_goes_on_from_history_after_an_install() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    session.create(1, spec(all(), 0));
    session.create(2, spec(Scope::Key(Key::new("/never").unwrap()), 0));
    created(&mut session).await;
    created(&mut session).await;
    room.put("/a", 0);
    assert_eq!(events(&mut session).await, [11]);
    room.history.revisions.lock().extend((12..=30).map(|revision| put(revision, "/a", "v", 0)));
    room.hub.installed(Revision(30), Revision(5));
    assert_eq!(events(&mut session).await, (12..=30).collect::<Vec<i64>>());
    room.put("/a", 0);
    assert_eq!(events(&mut session).await, [31]);
}

#[tokio::test]
async fn snapshots_a_watch_behind_the_new_mark_is_ended_as_compacted() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    session.create(1, spec(all(), 0));
    created(&mut session).await;
    room.history.revisions.lock().extend((11..=30).map(|revision| put(revision, "/a", "v", 0)));
    room.history.compacted.store(20, Ordering::SeqCst);
    room.hub.installed(Revision(30), Revision(20));
    assert_eq!(ended(&mut session).await, WatchOver::Compacted { compacted: Revision(20) });
}

#[tokio::test]
async fn watches_end_when_contact_with_the_leader_is_lost() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    session.create(1, spec(all(), 0));
    created(&mut session).await;
    room.hub.set_contact_lost(true);
    assert!(matches!(ended(&mut session).await, WatchOver::Unavailable(_)));
    session.create(2, spec(all(), 0));
    assert!(matches!(ended(&mut session).await, WatchOver::Unavailable(_)));
    room.hub.set_contact_lost(false);
    session.create(3, spec(all(), 0));
    created(&mut session).await;
}

#[tokio::test]
async fn a_least_revision_is_waited_for() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    let min_revision = Some((Revision(12), Instant::now()));
    session.create(1, WatchSpec { min_revision, ..spec(all(), 0) });
    assert!(matches!(ended(&mut session).await, WatchOver::Unavailable(_)));
    room.put("/a", 0);
    room.put("/a", 0);
    session.create(1, WatchSpec { min_revision, ..spec(all(), 0) });
    assert_eq!(created(&mut session).await, 12);
}

#[tokio::test]
async fn what_the_store_held_when_the_hub_began_may_come_again_once() {
    let hub = Hub::new(1 << 20);
    hub.begin(Revision(10));
    hub.applied(Changes { log_index: 5, revisions: vec![put(10, "/a", "v", 0)] }, &[]);
    hub.applied(Changes { log_index: 6, revisions: vec![put(11, "/a", "v", 0)] }, &[]);
    assert_eq!((hub.revision(), hub.log_index()), (Revision(11), 6));
    let late = Hub::new(1 << 20);
    late.applied(Changes { log_index: 5, revisions: vec![put(8, "/a", "v", 0)] }, &[]);
    late.begin(Revision(9));
    assert_eq!(late.revision(), Revision(8), "the hub has begun by itself");
}

async fn session_mark(session: &mut Session) -> i64 {
    match next(session).await {
        WatchNotice::SessionMark { revision } => revision.get(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_mark_of_the_session_comes_when_all_watches_have_been_given_what_there_is() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    session.ask_session_mark();
    quiet(&mut session);
    session.create(1, spec(all(), 0));
    session.create(2, WatchSpec { previous_values: true, ..spec(Scope::Key(Key::new("/a").unwrap()), 0) });
    assert_eq!((created(&mut session).await, created(&mut session).await), (10, 10));
    session.ask_session_mark();
    assert_eq!(session_mark(&mut session).await, 10);
    room.put("/a", 5);
    room.put("/b", 0);
    session.ask_session_mark();
    session.ask_session_mark();
    // Both are given what waits for them first, previous values too; then each request has its mark.
    assert_eq!(events(&mut session).await, [11, 12]);
    assert_eq!(events(&mut session).await, [11]);
    assert_eq!((session_mark(&mut session).await, session_mark(&mut session).await), (12, 12));
    quiet(&mut session);
}

#[tokio::test]
async fn no_mark_of_the_session_comes_while_a_watch_reads_history() {
    let room = Room::new(1 << 20, 1);
    room.put("/a", 0);
    room.put("/a", 11);
    let mut session = room.session();
    session.create(1, spec(all(), 0));
    assert_eq!(created(&mut session).await, 12);
    session.create(2, spec(all(), 11));
    session.ask_session_mark();
    assert_eq!(created(&mut session).await, 12);
    assert_eq!(events(&mut session).await, [11]);
    assert_eq!(events(&mut session).await, [12]);
    quiet(&mut session);
    session.ask_session_mark();
    assert_eq!(session_mark(&mut session).await, 12);
}

#[tokio::test]
async fn watches_that_wait_outlive_the_loss_of_contact() {
    let room = Room::new(1 << 20, 100);
    let history = Arc::clone(&room.history) as Arc<dyn History>;
    let mut session = Session::new(Arc::clone(&room.hub), history, OnContactLoss::Wait, Tasks::default());
    session.create(1, spec(all(), 0));
    assert_eq!(created(&mut session).await, 10);
    room.hub.set_contact_lost(true);
    quiet(&mut session);
    room.put("/a", 0);
    assert_eq!(events(&mut session).await, [11]);
}

#[tokio::test]
async fn no_mark_comes_before_the_first_revision_wanted() {
    let room = Room::new(1 << 20, 100);
    let mut session = room.session();
    session.create(1, spec(all(), 13));
    assert_eq!(created(&mut session).await, 10);
    session.ask_marks();
    session.ask_session_mark();
    room.put("/a", 0);
    quiet(&mut session);
    room.put("/a", 11);
    // The next revision is the first one wanted.
    session.ask_session_mark();
    assert_eq!(session_mark(&mut session).await, 12);
    room.put("/a", 12);
    assert_eq!(events(&mut session).await, [13]);
    match next(&mut session).await {
        WatchNotice::Mark { tag: 1, revision } => assert_eq!(revision, Revision(13)),
        other => panic!("{other:?}"),
    }
    quiet(&mut session);
}
