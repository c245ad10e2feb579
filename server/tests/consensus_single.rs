//! One member alone: what is put is there, also after a restart and a crash.

mod support;

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::Revision;
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::consensus::{Haste, Leadership};
use quorate_server::error::{ConsensusError, Happened};
use quorate_state::outcome::Done;
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_outcome_get() {
    let cluster = Cluster::new(1).await;
    let member = cluster.leader().await;
    let done = member.put("/a", "1", soon()).await.unwrap();
    assert!(matches!(done.outcome.result, Ok(Done::Put(_))), "{done:?}");
    assert_eq!(done.outcome.revision.get(), 2);
    assert_eq!(member.get("/a", soon()).await.unwrap().as_deref(), Some("1"));
    // What Raft tells of itself comes a moment after the answer.
    let raft = member.consensus.raft().wait(Some(Duration::from_secs(30)));
    let told = |index: Option<u64>| index == Some(done.log_index);
    let put = raft.metrics(
        |now| told(now.last_applied.map(|id| id.index)) && told(now.local_committed.map(|id| id.index)),
        "the status tells of the put",
    );
    put.await.unwrap();
    let status = member.consensus.status();
    assert_eq!((status.applied_index, status.committed_index), (done.log_index, done.log_index));
    assert_eq!(status.members.len(), 1);
    assert!(!status.members[0].learner);
    assert!(member.consensus.leader_contact().is_some());
    let revisions: Vec<_> =
        member.recorder.applied.lock().iter().flat_map(|c| c.revisions.iter().map(|r| r.revision.get())).collect();
    assert_eq!(revisions, [2], "what was applied is published");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_entries_and_each_gets_its_own_outcome() {
    let cluster = Cluster::new(1).await;
    let member = cluster.leader().await;
    let before = member.consensus.status().applied_index;
    let puts = (0..2000).map(|n| {
        let member = member.clone();
        tokio::spawn(async move { (n, member.put(&format!("/k/{n}"), &n.to_string(), soon()).await.unwrap()) })
    });
    let mut revisions = Vec::new();
    for done in futures::future::join_all(puts).await {
        let (n, done) = done.unwrap();
        let Ok(Done::Put(put)) = &done.outcome.result else { panic!("{done:?}") };
        assert_eq!(put.key.as_bytes(), format!("/k/{n}").as_bytes());
        revisions.push(done.outcome.revision.get());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..2002).collect::<Vec<_>>());
    let entries = member.consensus.status().applied_index - before;
    assert!(entries < 500, "{entries} entries for 2000 puts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_and_a_crash_replay_what_was_acknowledged() {
    let mut cluster = Cluster::new(1).await;
    for round in 0..4 {
        let member = cluster.leader().await;
        for n in 0..50 {
            member.put(&format!("/{round}/{n}"), "v", soon()).await.unwrap();
        }
        drop(member);
        if round % 2 == 0 {
            cluster.kill(1).await;
        } else {
            cluster.stop(1).await;
        }
        let member = cluster.start(1).await;
        member.consensus.recovered(soon()).await.unwrap();
        for round in 0..=round {
            for n in 0..50 {
                assert_eq!(member.local(&format!("/{round}/{n}")).as_deref(), Some("v"), "/{round}/{n}");
            }
        }
    }
    assert_eq!(cluster.leader().await.revision(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_applied_once_also_across_a_crash_and_a_snapshot() {
    let rules = SnapshotRules {
        every_entries: 30,
        keep_entries: 5,
        keep_bytes: 1,
        interval: Duration::from_millis(20),
        ..SnapshotRules::default()
    };
    let mut cluster = Cluster::with_rules(1, rules).await;
    let member = cluster.leader().await;
    let first = member.consensus.propose(put("/x", "1", Some(request(7, 1))), Haste::AtOnce, soon()).await.unwrap();
    assert!(!first.outcome.replayed);
    for n in 0..100 {
        member.put(&format!("/fill/{n}"), "v", soon()).await.unwrap();
    }
    let deadline = soon();
    while member.consensus.snapshots().current().is_none() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(member);
    cluster.kill(1).await;
    cluster.start(1).await;
    let member = cluster.leader().await;
    let again = member.consensus.propose(put("/x", "1", Some(request(7, 1))), Haste::AtOnce, soon()).await.unwrap();
    assert!(again.outcome.replayed);
    assert_eq!(again.outcome.revision, first.outcome.revision);
    assert_eq!(member.revision(), 102);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_before_packing_is_not_proposed() {
    let cluster = Cluster::new(1).await;
    let member = cluster.leader().await;
    // Polled once: queued. Dropped before the proposer's task can run, on a runtime of one thread.
    let consensus = member.consensus.clone();
    {
        let mut put = Box::pin(consensus.propose(put("/gone", "1", None), Haste::AtOnce, soon()));
        assert!(futures::poll!(&mut put).is_pending());
    }
    let error = member.put("/late", "1", within(0)).await;
    if let Err(error) = error {
        assert!(matches!(error, ConsensusError::Deadline { .. }), "{error}");
        if error.happened() == Happened::No {
            member.put("/fence", "1", soon()).await.unwrap();
            assert_eq!(member.local("/late"), None);
        }
    }
}

/// Who waited for a revision did not hear that the member stops, which took minutes then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_revision_ends_with_the_member() {
    let cluster = Cluster::new(1).await;
    let member = cluster.leader().await;
    let far = Revision(member.revision() + 1_000);
    let mut waiting = std::pin::pin!(member.consensus.wait_revision(far, within(300_000)));
    assert!(futures::poll!(&mut waiting).is_pending());
    member.tasks.stop();
    let ended = tokio::time::timeout_at(soon(), waiting).await.expect("it ends");
    assert!(matches!(ended, Err(ConsensusError::ShuttingDown)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_and_terms_are_refused_before_the_log() {
    let cluster = Cluster::new(1).await;
    let member = cluster.leader().await;
    let big = "x".repeat(18 << 20);
    let error = member.put("/big", &big, soon()).await.unwrap_err();
    assert!(matches!(error, ConsensusError::TooLarge { .. }), "{error}");
    let Leadership::Leading { term } = *member.consensus.leadership().borrow() else { panic!() };
    member.consensus.confirm_leadership(term, soon()).await.unwrap();
    assert!(member.consensus.confirm_leadership(term + 1, soon()).await.is_err());
    let error = member.consensus.propose_in_term(term + 1, put("/a", "1", None), soon()).await.unwrap_err();
    assert_eq!(error.happened(), Happened::No);
    member.consensus.propose_in_term(term, put("/a", "1", None), soon()).await.unwrap();
    assert_eq!(member.local("/big"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_of_disk_growth_is_refused_and_the_rest_goes_on() {
    use quorate_state::command::{Command, Envelope, Principal};
    let cluster = Cluster::new(1).await;
    let member = cluster.leader().await;
    let done = member.put("/a", "1", soon()).await.unwrap();
    member.consensus.disk().pretend(Some(1000));
    let error = member.put("/b", "1", soon()).await.unwrap_err();
    assert!(matches!(error, ConsensusError::DiskSpace { member } if member.get() == 1), "{error}");
    assert_eq!(error.happened(), Happened::No);
    let compact = Command::Compact { revision: done.outcome.revision, only_forward: false };
    let envelope = Envelope { request: None, principal: Principal::default(), command: compact };
    assert!(member.consensus.propose(envelope, Haste::AtOnce, soon()).await.unwrap().outcome.result.is_ok());
    assert_eq!(member.get("/a", soon()).await.unwrap().as_deref(), Some("1"));
    member.consensus.disk().pretend(None);
    member.put("/b", "1", soon()).await.unwrap();
    let _ = Arc::strong_count(&cluster.net);
}
