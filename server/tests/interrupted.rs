//! What takes several steps is broken off between any two of them: the installation of a snapshot, a member's joining,
//! the way back after a lost majority.
//!
//! Invariants:
//! - A directory as a crash leaves it is put together from those before and after: each step touches a part of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod peer_support;

use std::path::Path;
use std::time::Duration;

use peer_support::gate::Gate;
use peer_support::*;
use quorate_server::config::{Config, Start};
use quorate_server::consensus::snapshot::Snapshots;
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::consensus::state_dir::StateDir;
use quorate_server::consensus::types::{Snapshot, SnapshotDir};
use quorate_server::data_dir::DataDir;
use quorate_server::restore::force_new_cluster;
use quorate_server::store_rocks::RocksStore;
use quorate_state::store::Store as _;
use quorate_state::view::View;
use rocksdb::Cache;
use tokio::time::{Instant, sleep};

/// Snapshots and purges all the time.
fn eager() -> SnapshotRules {
    SnapshotRules {
        every_bytes: 64 << 10,
        every_entries: 50,
        keep_bytes: 0,
        keep_entries: 1,
        interval: Duration::from_millis(20),
    }
}

async fn three_eager(root: &tempfile::TempDir) -> Vec<Peer> {
    let mut peers = peers(root, 3);
    let start = cluster_of(&peers);
    for peer in &mut peers {
        peer.rules = eager();
        peer.start(start.clone()).await;
    }
    leader(&peers).await;
    peers
}

async fn wait_for_purge(peer: &Peer, beyond: u64) {
    let waited = peer.consensus().raft().wait(Some(Duration::from_secs(20)));
    waited.metrics(|metrics| metrics.purged.is_some_and(|at| at.index > beyond), "a purge").await.unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_dir(&item.path(), &target);
        } else if item.file_name() != "LOCK" {
            std::fs::copy(item.path(), &target).unwrap();
        }
    }
}

/// How far the installation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    /// The files are all there.
    Received,
    /// They are in the next epoch, too.
    Staged,
    /// The store was opened there, which writes to it.
    Opened,
    /// The next epoch is the one in force; the log is that of before.
    InForce,
    /// The files became the current snapshot.
    Adopted,
}

/// Does in a stopped member's directory what an installation does, up to there.
fn install_up_to(reached: Reached, path: &Path, name: &str, offered: &Snapshot) {
    let cache = Cache::new_lru_cache(1 << 20);
    let data = DataDir::open(path, name).unwrap();
    let incoming = data.snapshots().join("incoming-0123456789abcdef");
    copy_dir(offered.snapshot.path(), &incoming);
    let received = SnapshotDir::open(incoming).unwrap();
    if reached == Reached::Received {
        return;
    }
    let mut state = StateDir::open(data.state()).unwrap();
    let staged = state.stage(&received).unwrap();
    if reached == Reached::Staged {
        return;
    }
    drop(RocksStore::open(&staged, &cache).unwrap());
    if reached == Reached::Opened {
        return;
    }
    state.advance().unwrap();
    if reached == Reached::InForce {
        return;
    }
    Snapshots::open(data.snapshots(), cache).unwrap().adopt(&offered.meta, &received).unwrap();
}

fn mark(peer: &Peer) -> (u64, u64) {
    let mark = View::new(peer.consensus().store().snapshot()).unwrap().digest();
    (mark.index, mark.digest)
}

/// Waits until all that run have applied the same, and checks that it is the same.
async fn agree(peers: &[Peer]) {
    let deadline = soon();
    loop {
        let marks: Vec<_> = peers.iter().map(mark).collect();
        if marks.iter().all(|(index, _)| *index == marks[0].0) {
            assert!(marks.iter().all(|mark| *mark == marks[0]), "members differ: {marks:?}");
            return;
        }
        assert!(Instant::now() < deadline, "members do not come to one index: {marks:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_any_two_steps_of_an_installation_leaves_a_member_that_goes_on() {
    for reached in [Reached::Received, Reached::Staged, Reached::Opened, Reached::InForce, Reached::Adopted] {
        println!("broken off at: {reached:?}");
        an_installation_is_broken_off_at(reached).await;
    }
}

/// With a cluster of its own: a leader may rely on what a follower once had in its log.
async fn an_installation_is_broken_off_at(reached: Reached) {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three_eager(&root).await;
    let lead = leader(&peers).await;
    let behind = (lead + 1) % 3;
    for n in 0..20 {
        peers[lead].put(&format!("/old/{n}"), "old").await.unwrap();
    }
    peers[behind].value("/old/19").await.unwrap();
    peers[behind].stop().await;
    for n in 0..300 {
        peers[lead].put(&format!("/k/{}", n % 100), &"x".repeat(1000)).await.unwrap();
    }
    wait_for_purge(&peers[lead], 100).await;
    let offered = peers[lead].consensus().snapshots().current().expect("what was purged is in a snapshot");
    install_up_to(reached, &peers[behind].dir, &peers[behind].name, &offered);
    // The cluster goes on: what was installed is not the newest.
    for n in 0..30 {
        peers[lead].put(&format!("/later/{n}"), "later").await.unwrap();
    }

    // Twice: as the crash left it, and from what it made of that.
    for round in 0..2 {
        peers[behind].start(Start::Single).await;
        peers[behind].belongs().await.unwrap();
        let last = format!("/after/{round}");
        peers[lead].put(&last, "1").await.unwrap();
        for (key, value) in [("/old/3", "old"), ("/later/29", "later"), (last.as_str(), "1")] {
            assert_eq!(peers[behind].value(key).await.as_deref(), Some(value), "{reached:?}: {key}");
        }
        agree(&peers).await;
        if round == 0 {
            peers[behind].kill();
        }
    }
    peers[behind].stop().await;
    let is_epoch = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("epoch-");
    let items = std::fs::read_dir(peers[behind].dir.join("state")).unwrap();
    let epochs = items.filter(|item| is_epoch(&item.as_ref().unwrap().file_name())).count();
    assert_eq!(epochs, 1, "{reached:?}: nothing of the other epoch stays");
}

/// It is added, and killed before it heard anything; killed as the snapshot arrives; killed once it has the data. It
/// is started with the same command each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_killed_again_and_again_while_it_joins_becomes_a_voter_once() {
    let root = tempfile::tempdir().unwrap();
    let mut all = peers(&root, 4);
    let start = cluster_of(&all[..3]);
    for peer in &mut all {
        peer.rules = eager();
    }
    for peer in &mut all[..3] {
        peer.start(start.clone()).await;
    }
    let lead = leader(&all[..3]).await;
    for n in 0..300 {
        all[lead].put(&format!("/k/{}", n % 100), &"x".repeat(1000)).await.unwrap();
    }
    wait_for_purge(&all[lead], 50).await;
    let mut gate = Gate::before(all[3].members_at).await;
    all[3].told_at = gate.at;
    let join = Start::Join(all[(lead + 1) % 3].clients_at.to_string());

    // Nobody reaches it: it is a learner in the leader's list, and knows nothing of it.
    gate.close().await;
    all[3].start(join.clone()).await;
    let id = all[3].id();
    let deadline = soon();
    while !all[lead].consensus().status().members.iter().any(|member| member.id == id) {
        assert!(Instant::now() < deadline, "it is not added");
        sleep(Duration::from_millis(1)).await;
    }
    all[3].kill();

    all[3].start(join.clone()).await;
    assert_eq!(all[3].id(), id, "it is the same member");
    gate.open().await;
    let snapshots = all[3].dir.join("snapshots");
    let arriving = || std::fs::read_dir(&snapshots).is_ok_and(|items| items.count() > 0);
    while !arriving() {
        assert!(Instant::now() < deadline, "no snapshot comes");
        tokio::task::yield_now().await;
    }
    all[3].kill();

    all[3].start(join.clone()).await;
    assert_eq!(all[3].value("/k/7").await, Some("x".repeat(1000)));
    all[3].kill();

    all[3].start(join).await;
    let deadline = soon();
    while all[lead].voters() != ["a", "b", "c", "d"] {
        assert!(Instant::now() < deadline, "it does not become a voter: {:?}", all[lead].voters());
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(all[lead].consensus().status().members.len(), 4, "it is there once");
    all[3].put("/from/d", "1").await.unwrap();
    assert_eq!(all[lead].value("/from/d").await.as_deref(), Some("1"));
    agree(&all).await;
}

/// The member's snapshots could not be removed, because beside each lies a file; so the way back ended half-way on
/// every member that had ever taken one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_that_was_broken_off_between_any_two_steps_is_begun_again() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three_eager(&root).await;
    let lead = leader(&peers).await;
    for n in 0..200 {
        peers[lead].put(&format!("/k/{n}"), &"x".repeat(1000)).await.unwrap();
    }
    wait_for_purge(&peers[lead], 50).await;
    peers[lead].put("/last", "1").await.unwrap();
    let id = peers[lead].id();
    let mut one = peers.swap_remove(lead);
    one.stop().await;
    drop(peers);
    let before = one.dir.clone();
    assert!(std::fs::read_dir(before.join("snapshots")).unwrap().count() > 1, "a snapshot and its meta");

    let after = root.path().join("after");
    copy_dir(&before, &after);
    let name = one.name.clone();
    let config = |dir: &Path| Config { data_dir: dir.to_owned(), name: name.clone(), ..Config::default() };
    let first = force_new_cluster(&config(&after)).unwrap();
    assert!(first.revision.get() > 1_000_000_000);

    // In the order in which they are done; what is not listed is as before.
    let steps: [&[&str]; 5] = [
        &[],
        &["identity"],
        &["identity", "snapshots"],
        &["identity", "snapshots", "state"],
        &["identity", "snapshots", "state", "log"],
    ];
    for done in steps {
        let crashed = root.path().join(format!("after-{}", done.len()));
        copy_dir(&before, &crashed);
        for part in done {
            let (from, to) = (after.join(part), crashed.join(part));
            if from.is_dir() {
                std::fs::remove_dir_all(&to).unwrap();
                copy_dir(&from, &to);
            } else {
                std::fs::copy(from, to).unwrap();
            }
        }
        let again = force_new_cluster(&config(&crashed)).unwrap();
        assert_eq!(again.member, id);
        assert!(again.revision >= first.revision, "{done:?}: {again:?}");
        one.dir = crashed;
        one.start(Start::Single).await;
        one.belongs().await.unwrap();
        assert_eq!(one.value("/last").await.as_deref(), Some("1"), "{done:?}");
        let put = one.put("/more", "1").await.unwrap();
        assert_eq!(put.outcome.revision.get(), again.revision.get() + 1, "{done:?}");
        assert_eq!(one.voters(), [one.name.clone()], "{done:?}");
        one.stop().await;
    }
}
