//! Three members: a leader's end, partitions, handing over, joining by snapshot, leaving.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use quorate_proto::Key;
use quorate_server::consensus::Haste;
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::error::{ConsensusError, Happened};
use quorate_state::store::Store;
use quorate_state::view::View;
use support::*;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_takes_writes_and_reads_what_was_acknowledged_at_another() {
    let cluster = Cluster::new(3).await;
    let members: Vec<_> = cluster.running.values().cloned().collect();
    for n in 0..30 {
        let (writer, reader) = (&members[n % 3], &members[(n + 1) % 3]);
        let done = writer.put("/a", &n.to_string(), soon()).await.unwrap();
        assert_eq!(reader.get("/a", soon()).await.unwrap(), Some(n.to_string()));
        reader.consensus.wait_revision(done.outcome.revision, soon()).await.unwrap();
    }
    cluster.agree().await;
    for member in &members {
        assert!(member.consensus.leader_contact().is_some());
        let revisions: Vec<i64> =
            member.recorder.applied.lock().iter().flat_map(|c| c.revisions.iter().map(|r| r.revision.get())).collect();
        assert_eq!(revisions, (2..32).collect::<Vec<_>>(), "each member publishes each revision once, in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_leader_is_killed_the_rest_go_on_and_it_comes_back() {
    let mut cluster = Cluster::new(3).await;
    let mut written = Vec::new();
    for round in 0..3 {
        let leader = cluster.leader().await.id;
        let follower = cluster.followers(leader).remove(0);
        for n in 0..20 {
            let key = format!("/{round}/{n}");
            follower.put(&key, "v", soon()).await.unwrap();
            written.push(key);
        }
        let term = follower.consensus.status().term;
        let killed = Instant::now();
        cluster.kill(leader).await;
        let ended = killed.elapsed();
        let key = format!("/{round}/after");
        follower.consensus.propose(put(&key, "v", Some(request(9, round + 1))), Haste::AtOnce, soon()).await.unwrap();
        let terms = cluster.leader().await.consensus.status().term - term;
        println!("first write after a kill: {:?}, ending it took {ended:?}, {terms} terms", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
        written.push(key);
        let back = cluster.start(leader).await;
        for key in &written {
            assert_eq!(back.get(key, soon()).await.unwrap().as_deref(), Some("v"), "{key}");
        }
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_reads_nothing_stale() {
    let cluster = Cluster::new(3).await;
    let old = cluster.leader().await;
    old.put("/a", "old", soon()).await.unwrap();
    let rest: Vec<u64> = cluster.followers(old.id).iter().map(|member| member.id).collect();
    cluster.net.part(&[old.id], &rest);
    let lost = old.put("/lost", "1", within(700)).await.unwrap_err();
    println!("write at the leader that is cut off: {lost}");
    let new = cluster.leader_among(&rest).await;
    new.put("/a", "new", soon()).await.unwrap();
    let stale = old.get("/a", within(1500)).await;
    assert!(stale.is_err(), "{stale:?}");
    let refused = old.put("/refused", "1", within(500)).await.unwrap_err();
    assert_eq!(refused.happened(), Happened::No, "{refused}");
    cluster.net.heal();
    assert_eq!(old.get("/a", soon()).await.unwrap().as_deref(), Some("new"));
    assert_eq!(old.get("/refused", soon()).await.unwrap(), None);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_follower_disturbs_nobody_when_it_returns() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let lone = cluster.followers(leader.id).remove(0);
    let rest: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != lone.id).collect();
    let term = leader.consensus.status().term;
    cluster.net.part(&[lone.id], &rest);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(matches!(lone.put("/a", "1", within(100)).await, Err(error) if error.happened() == Happened::No));
    leader.put("/b", "1", soon()).await.unwrap();
    cluster.net.heal();
    assert_eq!(lone.get("/b", soon()).await.unwrap().as_deref(), Some("1"));
    assert_eq!(leader.consensus.status().term, term, "no election");
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_without_losing_a_write() {
    let mut cluster = Cluster::new(3).await;
    let mut sequence = 0;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let follower = cluster.followers(leader.id).remove(0);
        let writer = tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for n in 0..200 {
                let begun = Instant::now();
                follower.put(&format!("/w/{n}"), "v", soon()).await.unwrap();
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        let begun = Instant::now();
        assert!(leader.consensus.hand_over(Duration::from_secs(2)).await);
        println!("handed over in {:?}", begun.elapsed());
        println!("slowest write meanwhile: {:?}", writer.await.unwrap());
        assert_ne!(cluster.leader().await.id, leader.id);
        sequence += 1;
    }
    // A member that stops in good order hands over by itself.
    let leader = cluster.leader().await.id;
    let follower = cluster.followers(leader).remove(0);
    cluster.stop(leader).await;
    let begun = Instant::now();
    follower.put("/after", "v", soon()).await.unwrap();
    println!("first write after a stop: {:?}", begun.elapsed());
    assert!(sequence == 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_through_a_leader_change_is_applied_once() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await.id;
    let follower = cluster.followers(leader).remove(0);
    // Answers from the leader are lost: what the follower forwards happens, and it does not know.
    cluster.net.cut(leader, follower.id);
    let before = cluster.running[&leader].revision();
    let begun = follower.consensus.clone();
    let retried =
        tokio::spawn(async move { begun.propose(put("/once", "v", Some(request(5, 1))), Haste::AtOnce, soon()).await });
    let deadline = soon();
    while cluster.running[&leader].revision() == before {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.kill(leader).await;
    cluster.net.heal();
    let done = retried.await.unwrap().unwrap();
    assert!(done.outcome.replayed, "{done:?}");
    assert_eq!(cluster.leader().await.revision(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_joins_by_snapshot_votes_and_another_leaves() {
    let rules = SnapshotRules {
        every_entries: 50,
        keep_entries: 5,
        keep_bytes: 1,
        interval: Duration::from_millis(20),
        ..SnapshotRules::default()
    };
    let mut cluster = Cluster::with_rules(3, rules).await;
    let leader = cluster.leader().await;
    let remembered =
        leader.consensus.propose(put("/once", "v", Some(request(5, 1))), Haste::AtOnce, soon()).await.unwrap();
    for n in 0..300 {
        leader.put(&format!("/k/{n}"), &n.to_string(), soon()).await.unwrap();
    }
    let deadline = soon();
    while leader.consensus.raft().metrics().borrow_watched().purged.map(|id| id.index) < Some(100) {
        let seen = leader.consensus.raft().metrics().borrow_watched().to_string();
        assert!(Instant::now() < deadline, "the log is not purged: {seen}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let joined = cluster.start(4).await;
    leader.consensus.raft().add_learner(4, node(4), true).await.unwrap();
    assert_eq!(joined.get("/k/299", soon()).await.unwrap().as_deref(), Some("299"));
    assert_eq!(joined.get("/k/0", soon()).await.unwrap().as_deref(), Some("0"));
    assert_eq!(joined.recorder.installed.lock().len(), 1, "by snapshot, not by log");
    let raft = leader.consensus.raft();
    raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([4])), true).await.unwrap();
    let gone = cluster.followers(leader.id).into_iter().map(|member| member.id).find(|id| *id != 4).unwrap();
    raft.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([gone])), false).await.unwrap();
    let members: BTreeMap<_, _> =
        leader.consensus.status().members.iter().map(|member| (member.id.get(), member.learner)).collect();
    assert!(!members.contains_key(&gone) && !members[&4], "{members:?}");
    cluster.stop(gone).await;

    // The newcomer is a full member: it can be killed, and what the snapshot brought is there again.
    cluster.kill(4).await;
    let back = cluster.start(4).await;
    assert_eq!(back.get("/k/7", soon()).await.unwrap().as_deref(), Some("7"));
    // Request ids came with the snapshot.
    let _ = back.consensus.raft().trigger().elect(true).await;
    let again = back.consensus.propose(put("/once", "v", Some(request(5, 1))), Haste::AtOnce, soon()).await.unwrap();
    assert!(again.outcome.replayed);
    assert_eq!(again.outcome.revision, remembered.outcome.revision);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_is_refused_while_no_majority_has_space() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let others = cluster.followers(leader.id);
    cluster.net.free_bytes.lock().extend([(others[0].id, 10), (others[1].id, u64::MAX)]);
    leader.put("/a", "1", soon()).await.unwrap();
    cluster.net.free_bytes.lock().insert(others[1].id, 10);
    let error = others[0].put("/b", "1", soon()).await.unwrap_err();
    assert!(matches!(error, ConsensusError::DiskSpace { .. }), "{error}");
    cluster.net.free_bytes.lock().insert(others[1].id, u64::MAX);
    leader.put("/b", "1", soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_log_cannot_be_written_ends_and_the_rest_go_on() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers(leader.id).remove(0);
    follower.put("/a", "1", soon()).await.unwrap();
    leader.disk.broken.store(true, Ordering::SeqCst);
    let mut failed = leader.tasks.failed();
    let request = Some(request(3, 1));
    follower.consensus.propose(put("/a", "2", request), Haste::AtOnce, soon()).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(10), failed.wait_for(Option::is_some)).await;
    println!("the member ends: {:?}", reason.expect("it ends").unwrap());
    let refused = leader.put("/a", "3", within(1000)).await;
    assert!(refused.is_err(), "{refused:?}");
    let id = leader.id;
    cluster.kill(id).await;
    let back = cluster.start(id).await;
    assert_eq!(back.get("/a", soon()).await.unwrap().as_deref(), Some("2"));
    assert_eq!(cluster.leader().await.revision(), 3, "once");
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_installed_behind_readers_of_the_old_store() {
    let rules = SnapshotRules {
        every_entries: 50,
        keep_entries: 5,
        keep_bytes: 1,
        interval: Duration::from_millis(20),
        ..SnapshotRules::default()
    };
    let mut cluster = Cluster::with_rules(3, rules).await;
    let leader = cluster.leader().await;
    leader.put("/a", "old", soon()).await.unwrap();
    let behind = cluster.followers(leader.id).remove(0);
    assert_eq!(behind.get("/a", soon()).await.unwrap().as_deref(), Some("old"));
    let rest: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != behind.id).collect();

    let store = behind.consensus.store();
    let files = store.path().to_owned();
    let view = View::new(store.snapshot()).unwrap();
    cluster.net.part(&[behind.id], &rest);
    let mut purged = None;
    let deadline = soon();
    while purged <= Some(50) {
        assert!(Instant::now() < deadline, "the log is not purged");
        leader.put("/a", "new", soon()).await.unwrap();
        purged = leader.consensus.raft().metrics().borrow_watched().purged.map(|id| id.index);
    }
    cluster.net.heal();
    leader.put("/a", "newest", soon()).await.unwrap();
    assert_eq!(behind.get("/a", soon()).await.unwrap().as_deref(), Some("newest"));
    // One or two: the leader may have made another while it sent the first.
    assert!(!behind.recorder.installed.lock().is_empty(), "by snapshot");

    let key = Key::new("/a").unwrap();
    assert_eq!(view.get(&key, None).unwrap().unwrap().value, "old", "a reader keeps what it has");
    assert!(files.exists());
    drop(view);
    drop(store);
    assert!(!files.exists(), "the old files go with the last reader");

    let id = behind.id;
    drop(behind);
    cluster.kill(id).await;
    assert_eq!(cluster.start(id).await.get("/a", soon()).await.unwrap().as_deref(), Some("newest"));
    cluster.agree().await;
}

/// A change of voters was told as "did not happen" when leadership went between its two entries; it had begun, and the
/// next leader left it half-done until somebody asked for another change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_whose_leader_goes_in_the_middle_is_unknown_and_is_finished_by_the_next_leader() {
    let cluster = Cluster::new(5).await;
    let old = cluster.leader().await;
    old.put("/a", "1", soon()).await.unwrap();
    let others = cluster.followers(old.id);
    // Its proposals arrive; it hears of nothing.
    for other in &others {
        cluster.net.cut(other.id, old.id);
    }
    let gone = others[0].id;
    let asked = tokio::spawn({
        let old = old.clone();
        async move { old.consensus.remove(member_id(gone), soon()).await }
    });
    let rest: Vec<u64> = others.iter().map(|member| member.id).collect();
    let deadline = soon();
    while cluster.running[&rest[1]].voter_sets() < 2 {
        assert!(Instant::now() < deadline, "the first half does not arrive");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    cluster.net.part(&[old.id], &rest);
    let new = cluster.leader_among(&rest).await;
    while new.voter_sets() > 1 {
        assert!(Instant::now() < deadline, "nobody finishes what was begun: {:?}", new.consensus.status().members);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!new.consensus.status().members.iter().any(|member| member.id.get() == gone));
    cluster.net.heal();
    let error = asked.await.unwrap().expect_err("its leader went");
    assert_eq!(error.happened(), Happened::Unknown, "{error}");
    // Asked again, it is done; of somebody who never was there it is refused.
    new.consensus.remove(member_id(gone), soon()).await.unwrap();
    let refused = new.consensus.remove(member_id(99), soon()).await.unwrap_err();
    assert!(matches!(refused, ConsensusError::Membership { .. }), "{refused}");
}

/// A leader that removed itself fell silent, and writes waited for several seconds until the others missed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_to_be_removed_hands_over_and_the_next_one_removes_it() {
    let cluster = Cluster::new(5).await;
    for asked_at_the_leader in [true, false] {
        let members: Vec<u64> = {
            let leader = cluster.leader().await;
            leader.consensus.status().members.iter().map(|member| member.id.get()).collect()
        };
        let old = cluster.leader_among(&members).await;
        let others: Vec<u64> = members.iter().copied().filter(|id| *id != old.id).collect();
        old.put("/a", "before", soon()).await.unwrap();
        let term = old.consensus.status().term;
        let asked = if asked_at_the_leader { old.clone() } else { cluster.running[&others[0]].clone() };

        let left = asked.consensus.remove(member_id(old.id), soon()).await.unwrap();
        assert_eq!(left.len(), others.len());
        let new = cluster.leader_among(&others).await;
        let changed = *new.consensus.raft().metrics().borrow_watched().membership_config.log_id();
        assert!(changed.unwrap().leader_id.term > term, "the next leader did it: {changed:?}, before {term}");
        new.put("/a", "after", soon()).await.unwrap();
    }
}

/// A transfer that was not answered in time was told as refused, though the other could still take over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_not_answered_in_time_may_have_happened() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let to = cluster.followers(leader.id).remove(0);
    cluster.net.part(&[leader.id], &[to.id]);
    let error = leader.consensus.transfer_leader(Some(member_id(to.id)), within(300)).await.unwrap_err();
    assert!(matches!(error, ConsensusError::Deadline { .. }), "{error}");
    assert_eq!(error.happened(), Happened::Unknown, "{error}");
}

/// A stopping leader asked once, and could ask a member that was dead: it stopped without a successor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_to_a_member_that_is_there() {
    let mut cluster = Cluster::new(3).await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let down = cluster.followers(leader.id).pop().unwrap().id;
        cluster.agree().await;
        cluster.kill(down).await;
        // Until it has missed its heartbeats it counts as there.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let begun = Instant::now();
        assert!(leader.consensus.hand_over(Duration::from_secs(2)).await);
        println!("handed over past a dead member in {:?}", begun.elapsed());
        cluster.start(down).await;
        cluster.agree().await;
    }
    // Nobody is there: no use in waiting.
    let leader = cluster.leader().await;
    for other in cluster.followers(leader.id) {
        cluster.kill(other.id).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    let _ = leader.consensus.hand_over(Duration::from_secs(5)).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_hands_over_to_nobody_at_once() {
    let cluster = Cluster::new(1).await;
    let begun = Instant::now();
    assert!(!cluster.leader().await.consensus.hand_over(Duration::from_secs(5)).await);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// What is left of a cluster without a quorum went on naming a leader: the dead one, or itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_no_leader_is_named() {
    for leader_stays in [false, true] {
        let mut cluster = Cluster::new(3).await;
        let leader = cluster.leader().await.id;
        let stays = if leader_stays { leader } else { cluster.followers(leader).remove(0).id };
        let deadline = soon();
        while cluster.running[&stays].consensus.status().leader != Some(member_id(leader)) {
            assert!(Instant::now() < deadline, "the leader is not known");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for id in (1..=3).filter(|id| *id != stays) {
            cluster.kill(id).await;
        }
        let left = cluster.running[&stays].clone();
        let begun = Instant::now();
        while let Some(named) = left.consensus.status().leader {
            assert!(begun.elapsed() < Duration::from_secs(10), "it goes on naming {named}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("no leader is named after {:?}", begun.elapsed());
    }
}

/// Prints how many writes a second many callers get, and how long a restart after a crash takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_callers_wrote_is_there_after_a_crash() {
    const CALLERS: usize = 64;
    const EACH: usize = 20;
    for count in [1, 3] {
        let mut cluster = Cluster::new(count).await;
        let leader = cluster.leader().await;
        let before = leader.revision();
        let begun = Instant::now();
        let each = |caller: usize| {
            let leader = leader.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    leader.put(&format!("/k/{caller}/{n}"), &"v".repeat(256), soon()).await.unwrap();
                }
            })
        };
        futures::future::join_all((0..CALLERS).map(each)).await.into_iter().for_each(Result::unwrap);
        println!("{count} members: {} puts in {:?}", CALLERS * EACH, begun.elapsed());
        let revision = leader.revision();
        assert_eq!(revision, before + i64::try_from(CALLERS * EACH).unwrap());

        let id = leader.id;
        drop(leader);
        cluster.kill(id).await;
        let begun = Instant::now();
        let back = cluster.start(id).await;
        let opened = begun.elapsed();
        back.consensus.recovered(soon()).await.unwrap();
        println!("restart: open {opened:?}, recovered {:?}", begun.elapsed());
        for caller in 0..CALLERS {
            let last = back.get(&format!("/k/{caller}/{}", EACH - 1), soon()).await.unwrap();
            assert_eq!(last.map(|value| value.len()), Some(256), "{caller}");
        }
        assert_eq!(back.revision(), revision, "once each");
        cluster.agree().await;
    }
}
