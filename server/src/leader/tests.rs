//! The leader's jobs against a quorum in memory, on paused time.
//!
//! Invariants:
//! - Tests named `leases_…` stand for the rules of that name in the design.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_proto::{LeaseId, Revision};
use quorate_state::command::Command;
use quorate_state::outcome::{Done, LeaseChange, Outcome};
use tokio::sync::Notify;
use tokio::time::{Instant, advance, sleep};

use super::{Lessor, Quorum, StoredLease, checkpoint, expiry, scrub};
use crate::consensus::{LeaseClock as _, Proposed};
use crate::error::{ConsensusError, Happened};
use crate::watch::LeaseListener as _;

const TERM: u64 = 4;

/// Confirms at once, or when let; applies what is proposed to the lessor, or fails.
#[derive(Default)]
struct FakeQuorum {
    lessor: Arc<Lessor>,
    /// When which command was proposed.
    proposed: Mutex<Vec<(Instant, Command)>>,
    failures: Mutex<Vec<ConsensusError>>,
    hold_confirm: Mutex<Option<Arc<Notify>>>,
    hold_propose: Mutex<Option<Arc<Notify>>>,
}

impl FakeQuorum {
    fn commands(&self) -> Vec<Command> {
        self.proposed.lock().iter().map(|(_, command)| command.clone()).collect()
    }
}

impl Quorum for FakeQuorum {
    fn confirm(&self, _term: u64, _deadline: Instant) -> BoxFuture<'_, Result<(), ConsensusError>> {
        let hold = self.hold_confirm.lock().clone();
        Box::pin(async move {
            if let Some(hold) = hold {
                hold.notified().await;
            }
            Ok(())
        })
    }

    fn propose(
        &self,
        term: u64,
        command: Command,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Proposed, ConsensusError>> {
        self.proposed.lock().push((Instant::now(), command.clone()));
        let hold = self.hold_propose.lock().clone();
        Box::pin(async move {
            if let Some(hold) = hold {
                hold.notified().await;
            }
            if let Some(error) = self.failures.lock().pop() {
                return Err(error);
            }
            let changes: Vec<LeaseChange> = match command {
                Command::LeaseRevoke { leases, .. } => {
                    leases.into_iter().map(|lease| LeaseChange::Ended { lease }).collect()
                }
                Command::LeaseCheckpoint(notes) => notes
                    .into_iter()
                    .map(|(lease, remaining_ms)| LeaseChange::Checkpointed { lease, remaining_ms })
                    .collect(),
                _ => Vec::new(),
            };
            self.lessor.lease_changes(&changes);
            let outcome = Outcome { revision: Revision(2), replayed: false, result: Ok(Done::LeaseCheckpoint) };
            Ok(Proposed { outcome, log_index: 9, term })
        })
    }
}

fn lease(id: i64) -> LeaseId {
    LeaseId::new(id).unwrap()
}

fn stored(id: i64, ttl_ms: u64, remaining_ms: Option<u64>) -> StoredLease {
    StoredLease { lease: lease(id), ttl_ms, remaining_ms }
}

/// A leader whose clocks started just now, with expiry running.
fn leading(leases: &[StoredLease]) -> (Arc<Lessor>, Arc<FakeQuorum>) {
    let lessor = Arc::new(Lessor::default());
    let quorum = Arc::new(FakeQuorum { lessor: Arc::clone(&lessor), ..FakeQuorum::default() });
    lessor.attach(&(Arc::clone(&quorum) as Arc<dyn Quorum>));
    lessor.begin_term(TERM);
    lessor.load(TERM, leases);
    let (running, with) = (Arc::clone(&lessor), Arc::clone(&quorum));
    tokio::spawn(async move { expiry::run(&running, &*with, TERM).await });
    (lessor, quorum)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test(start_paused = true)]
async fn scrubs_keep_their_distance_whoever_asked() {
    let quorum = FakeQuorum::default();
    let began = Instant::now();
    let seen = Mutex::new(None);
    let last = || {
        // As the machine would: a scrub that was proposed is seen.
        let proposed = quorum.proposed.lock().last().map(|(at, _)| *at);
        proposed.max(*seen.lock())
    };
    let running = scrub::run(&quorum, TERM, last);
    tokio::pin!(running);
    let times = || quorum.proposed.lock().iter().map(|(at, _)| *at - began).collect::<Vec<_>>();
    let until = |hours: u64| tokio::time::sleep_until(began + Duration::from_hours(hours));
    tokio::select! { () = &mut running => {}, () = until(13) => {} }
    assert_eq!(times(), [0, 6, 12].map(|hours| scrub::FIRST + Duration::from_hours(hours)));
    *seen.lock() = Some(began + Duration::from_hours(13));
    tokio::select! { () = &mut running => {}, () = until(20) => {} }
    assert_eq!(times()[3..], [Duration::from_hours(19)]);
}

#[tokio::test(start_paused = true)]
async fn leases_end_when_their_time_is_over_and_never_early() {
    let began = Instant::now();
    let (_, quorum) = leading(&[stored(1, 5_000, None), stored(2, 700, None), stored(3, 60_000, Some(3_000))]);
    sleep(Duration::from_secs(30)).await;
    let ended: Vec<(u128, Command)> =
        quorum.proposed.lock().iter().map(|(at, command)| ((*at - began).as_millis(), command.clone())).collect();
    assert_eq!(ended.len(), 3);
    for ((at, command), (id, earliest)) in ended.iter().zip([(2, 700), (3, 3_000), (1, 5_000)]) {
        assert!(*at >= earliest && *at < earliest + 20, "{command:?} at {at} ms");
        assert!(matches!(command, Command::LeaseRevoke { leases, .. } if *leases == [lease(id)]));
    }
}

#[tokio::test(start_paused = true)]
async fn leases_that_are_kept_alive_do_not_end() {
    let (lessor, quorum) = leading(&[stored(1, 1_000, None)]);
    for _ in 0..20 {
        sleep(Duration::from_millis(600)).await;
        assert_eq!(lessor.keep_alive(lease(1), soon()).await.unwrap(), 1_000);
    }
    assert!(quorum.commands().is_empty());
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(quorum.commands().len(), 1);
    assert_eq!(lessor.keep_alive(lease(1), soon()).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn leases_a_keep_alive_waits_for_the_quorum_and_counts_from_receipt() {
    let (lessor, quorum) = leading(&[stored(1, 1_000, None)]);
    let hold = Arc::new(Notify::new());
    *quorum.hold_confirm.lock() = Some(Arc::clone(&hold));
    sleep(Duration::from_millis(800)).await;
    let asking = Arc::clone(&lessor);
    let answer = tokio::spawn(async move { asking.keep_alive(lease(1), soon()).await });
    sleep(Duration::from_millis(900)).await;
    assert!(!answer.is_finished() && quorum.commands().is_empty(), "held while the quorum is asked");
    hold.notify_one();
    assert_eq!(answer.await.unwrap().unwrap(), 1_000);
    *quorum.hold_confirm.lock() = None;
    // Received at 800 ms, so until 1800 ms; it is 1700 ms now.
    assert_eq!(lessor.time_to_live(lease(1), soon()).await.unwrap(), (1_000, 100));
    sleep(Duration::from_millis(120)).await;
    assert_eq!(quorum.commands().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn leases_a_committed_note_is_cleared_before_the_answer() {
    let (lessor, quorum) = leading(&[stored(1, 100_000, Some(30_000))]);
    let hold = Arc::new(Notify::new());
    *quorum.hold_propose.lock() = Some(Arc::clone(&hold));
    let asking = Arc::clone(&lessor);
    let answer = tokio::spawn(async move { asking.keep_alive(lease(1), soon()).await });
    sleep(Duration::from_millis(10)).await;
    assert_eq!(quorum.commands(), [Command::LeaseCheckpoint(vec![(lease(1), None)])]);
    assert!(!answer.is_finished(), "the clearing entry is not committed yet");
    hold.notify_one();
    assert_eq!(answer.await.unwrap().unwrap(), 100_000);
    *quorum.hold_propose.lock() = None;
    assert_eq!(lessor.keep_alive(lease(1), soon()).await.unwrap(), 100_000);
    assert_eq!(quorum.commands().len(), 1, "cleared once");
}

#[tokio::test(start_paused = true)]
async fn leases_a_note_under_way_is_settled_and_cleared_before_the_answer() {
    let (lessor, quorum) = leading(&[stored(1, 100_000, None)]);
    sleep(Duration::from_mins(1)).await;
    let hold = Arc::new(Notify::new());
    *quorum.hold_propose.lock() = Some(Arc::clone(&hold));
    let (noting, with) = (Arc::clone(&lessor), Arc::clone(&quorum));
    let note = tokio::spawn(async move { checkpoint::note_batch(&noting, &*with, TERM).await });
    sleep(Duration::from_millis(1)).await;
    let asking = Arc::clone(&lessor);
    let answer = tokio::spawn(async move { asking.keep_alive(lease(1), soon()).await });
    sleep(Duration::from_millis(1)).await;
    assert_eq!(quorum.commands(), [Command::LeaseCheckpoint(vec![(lease(1), Some(40_000))])]);
    *quorum.hold_propose.lock() = None;
    hold.notify_one();
    assert_eq!((note.await.unwrap(), answer.await.unwrap().unwrap()), (1, 100_000));
    assert_eq!(quorum.commands().last(), Some(&Command::LeaseCheckpoint(vec![(lease(1), None)])));
}

#[tokio::test(start_paused = true)]
async fn leases_whose_end_is_proposed_are_refused() {
    let (lessor, quorum) = leading(&[stored(1, 1_000, None)]);
    let hold = Arc::new(Notify::new());
    *quorum.hold_propose.lock() = Some(Arc::clone(&hold));
    sleep(Duration::from_millis(1_050)).await;
    assert_eq!(quorum.commands().len(), 1);
    assert_eq!(lessor.keep_alive(lease(1), soon()).await.unwrap(), 0);
    hold.notify_one();
}

#[tokio::test(start_paused = true)]
async fn leases_end_even_if_proposing_fails_at_first() {
    let (lessor, quorum) = leading(&[stored(1, 1_000, None)]);
    let unknown = ConsensusError::Deadline { waiting_for: "x", happened: Happened::Unknown };
    let no = ConsensusError::NoQuorum { reason: "x".into(), happened: Happened::No };
    *quorum.failures.lock() = vec![no, unknown];
    sleep(Duration::from_millis(1_010)).await;
    assert_eq!(lessor.keep_alive(lease(1), soon()).await.unwrap(), 0, "perhaps it has ended");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(quorum.commands().len(), 3);
    assert_eq!(lessor.time_to_live(lease(1), soon()).await.unwrap(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn leases_are_held_when_the_tick_ran_late() {
    let began = Instant::now();
    let (lessor, quorum) = leading(&[stored(1, 1_000, None)]);
    sleep(Duration::from_millis(100)).await;
    // The process stands still for five seconds: no task runs meanwhile.
    advance(Duration::from_secs(5)).await;
    assert_eq!(lessor.keep_alive(lease(1), soon()).await.unwrap(), 1_000, "it came while nobody could read it");
    sleep(Duration::from_secs(10)).await;
    let at = quorum.proposed.lock()[0].0 - began;
    assert!(at >= Duration::from_millis(6_100), "not before its time since the keep-alive: {at:?}");
}

#[tokio::test(start_paused = true)]
async fn leases_granted_and_ended_while_the_store_is_read_are_not_missed() {
    let lessor = Arc::new(Lessor::default());
    let quorum = Arc::new(FakeQuorum { lessor: Arc::clone(&lessor), ..FakeQuorum::default() });
    lessor.attach(&(Arc::clone(&quorum) as Arc<dyn Quorum>));
    assert!(lessor.keep_alive(lease(1), soon()).await.is_err(), "it does not lead");
    lessor.begin_term(TERM);
    lessor.lease_changes(&[
        LeaseChange::Ended { lease: lease(1) },
        LeaseChange::Granted { lease: lease(2), ttl_ms: 2_000 },
        LeaseChange::Checkpointed { lease: lease(3), remaining_ms: None },
    ]);
    let asking = Arc::clone(&lessor);
    let early = tokio::spawn(async move { asking.keep_alive(lease(2), soon()).await });
    sleep(Duration::from_millis(10)).await;
    assert!(!early.is_finished(), "it waits for the clocks rather than say that there is no such lease");
    lessor.load(TERM, &[stored(1, 1_000, None), stored(3, 90_000, Some(50_000))]);
    assert_eq!(early.await.unwrap().unwrap(), 2_000);
    assert_eq!(lessor.keep_alive(lease(1), soon()).await.unwrap(), 0);
    assert_eq!(lessor.keep_alive(lease(3), soon()).await.unwrap(), 90_000);
    assert!(quorum.commands().is_empty(), "the note was cleared already");
    lessor.end_term();
    assert!(lessor.keep_alive(lease(3), soon()).await.is_err());
}
