//! Three real members over loopback gRPC: beginning, forwarding, the leader's end, joining by snapshot, leaving.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod peer_support;

use std::time::Duration;

use bytes::Bytes;
use peer_support::*;
use quorate_proto::peer::Frame;
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::{LeaseId, Revision};
use quorate_server::config::Start;
use quorate_server::consensus::Haste;
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::error::{ConsensusError, Happened};
use quorate_state::command::{Command, Delete, Expect, Span};
use quorate_state::compaction::{Purge, purge_step};
use quorate_state::versions::STATE_VERSION;
use tokio::time::Instant;
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_begins_only_when_all_listed_members_are_there() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = peers(&root, 3);
    let start = cluster_of(&peers);
    peers[0].start(start.clone()).await;
    peers[1].start(start.clone()).await;
    let early = tokio::time::timeout(Duration::from_millis(700), peers[0].belongs()).await;
    assert!(early.is_err(), "two of three must not begin: {early:?}");
    peers[2].start(start).await;
    let first = peers[0].belongs().await.unwrap();
    for peer in &peers {
        assert_eq!(peer.belongs().await.unwrap(), first);
    }
    leader(&peers).await;
    peers[1].put("/a", "1").await.unwrap();
    assert_eq!(peers[2].value("/a").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_reads_go_through_any_member() {
    let root = tempfile::tempdir().unwrap();
    let peers = three(&root).await;
    for n in 0..30 {
        peers[n % 3].put("/a", &n.to_string()).await.unwrap();
        assert_eq!(peers[(n + 1) % 3].value("/a").await, Some(n.to_string()));
    }
    // Many at once through a follower.
    let follower = (leader(&peers).await + 1) % 3;
    let keys: Vec<_> = (0..500).map(|n| format!("/many/{n}")).collect();
    let began = Instant::now();
    for done in futures::future::join_all(keys.iter().map(|key| peers[follower].put(key, "v"))).await {
        done.unwrap();
    }
    println!("500 puts through a follower: {:?}", began.elapsed());
    for key in keys.iter().step_by(50) {
        assert_eq!(peers[(follower + 1) % 3].value(key).await.as_deref(), Some("v"));
    }
}

/// What it takes is the thread on which it is asked, and the leader: not Raft's thread of the member that is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_goes_to_the_leader_from_the_runtime_on_which_it_is_asked() {
    let root = tempfile::tempdir().unwrap();
    let peers = three(&root).await;
    let follower = &peers[(leader(&peers).await + 1) % 3];
    let until = soon();
    loop {
        // The first one begins the stream of this runtime, and does not wait for it.
        follower.put("/a", "1").await.unwrap();
        let busy = follower.keep_busy().await;
        let put = tokio::time::timeout(Duration::from_secs(1), follower.put("/a", "2")).await;
        drop(busy);
        if put.is_ok_and(|put| put.is_ok()) {
            break;
        }
        assert!(Instant::now() < until, "it waits for Raft's runtime");
    }
}

/// Whether it is asked at the leader or elsewhere. One that is in a hurry is mostly done sooner, which is not asserted here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_in_no_hurry_waits_at_the_leader_for_others_but_not_for_ever() {
    let root = tempfile::tempdir().unwrap();
    let peers = three(&root).await;
    for peer in &peers {
        // What the leader proposes by itself at first is in a hurry, and it would go with that.
        let mut applied = peer.consensus().applied();
        let raised = applied.wait_for(|mark| mark.state_version == STATE_VERSION);
        tokio::time::timeout(Duration::from_secs(30), raised).await.unwrap().unwrap();
    }
    for n in 0..12 {
        let began = Instant::now();
        let command = put("/a", &n.to_string(), None);
        peers[n % 3].consensus().propose(command, Haste::WithOthers, soon()).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(2), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_under_load_and_every_write_is_applied_once() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three(&root).await;
    let killed = leader(&peers).await;
    let follower = (killed + 1) % 3;
    let consensus = peers[follower].consensus().clone();
    let writes: Vec<_> = (1..=300u64)
        .map(|n| {
            let consensus = consensus.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(n * 3)).await;
                consensus.propose(put(&format!("/k/{n}"), "v", Some(request(7, n))), Haste::AtOnce, soon()).await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    peers[killed].kill();
    for (n, write) in writes.into_iter().enumerate() {
        write.await.unwrap().unwrap_or_else(|error| panic!("write {n}: {error}"));
    }
    println!("all writes answered {:?} after the kill", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(8));

    peers[killed].start(Start::Single).await;
    assert!(peers[killed].belongs().await.is_ok(), "it knows its cluster, whatever it is told to begin with");
    for n in 1..=300 {
        let kv = peers[killed].get(&format!("/k/{n}")).await.expect("it caught up");
        assert_eq!(kv.meta.version, 1, "write {n} was applied once");
    }
    leader(&peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_all_were_killed_they_go_on_where_they_were() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three(&root).await;
    for n in 0..50 {
        peers[n % 3].put(&format!("/k/{n}"), "v").await.unwrap();
    }
    for peer in &mut peers {
        peer.kill();
    }
    for peer in &mut peers {
        peer.start(Start::Single).await;
    }
    for n in 0..50 {
        assert_eq!(peers[(n + 1) % 3].value(&format!("/k/{n}")).await.as_deref(), Some("v"));
    }
    peers[0].put("/more", "1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_when_asked_and_at_a_stop() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three(&root).await;
    let old = leader(&peers).await;
    let (to, asked) = (peers[(old + 1) % 3].id(), (old + 2) % 3);
    assert_eq!(peers[asked].consensus().transfer_leader(Some(to), soon()).await.unwrap(), to);
    assert_eq!(leader(&peers).await, (old + 1) % 3);
    let anyone = peers[asked].consensus().transfer_leader(None, soon()).await.unwrap();
    let now = leader(&peers).await;
    assert_eq!(peers[now].id(), anyone);
    assert_ne!(anyone, to);

    let began = Instant::now();
    peers[now].stop().await;
    let stopped = began.elapsed();
    peers[(now + 1) % 3].put("/a", "1").await.unwrap();
    println!("an orderly stop: {stopped:?}, a write after it: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_member_joins_by_snapshot_and_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let mut all = peers(&root, 4);
    let start = cluster_of(&all[..3]);
    let rules = SnapshotRules {
        every_bytes: 64 << 10,
        every_entries: 50,
        keep_bytes: 0,
        keep_entries: 1,
        interval: Duration::from_millis(20),
    };
    for peer in &mut all {
        peer.rules = rules;
    }
    for peer in &mut all[..3] {
        peer.start(start.clone()).await;
    }
    let lead = leader(&all[..3]).await;
    for n in 0..300 {
        all[n % 3].put(&format!("/k/{}", n % 100), &"x".repeat(1000)).await.unwrap();
    }
    wait_for_purge(all[lead].consensus()).await;

    let via = all[(lead + 1) % 3].clients_at.to_string();
    all[3].start(Start::Join(via)).await;
    let cluster = all[3].belongs().await.unwrap();
    assert_eq!(cluster, all[0].belongs().await.unwrap());
    assert_eq!(all[3].value("/k/7").await, Some("x".repeat(1000)));
    let deadline = soon();
    while all[lead].voters() != ["a", "b", "c", "d"] {
        assert!(Instant::now() < deadline, "it does not become a voter: {:?}", all[lead].voters());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    all[3].put("/from/d", "1").await.unwrap();

    let gone = all[3].id();
    let left = all[0].consensus().remove(gone, soon()).await.unwrap();
    assert_eq!(left.len(), 3);
    let reason = all[3].failed().await;
    assert!(reason.contains("was removed from its cluster"), "{reason}");
    all[3].kill();
    let error = all[3].try_start(Start::Single).await.unwrap_err().to_string();
    assert!(error.contains("start it with --join"), "{error}");
    // Who did not hear of the outcome asks again.
    assert_eq!(all[0].consensus().remove(gone, soon()).await.unwrap().len(), 3);
    let never = quorate_proto::MemberId::new(gone.get() ^ 1).unwrap();
    let error = all[0].consensus().remove(never, soon()).await.unwrap_err().to_string();
    assert!(error.contains("there is no member"), "{error}");
}

async fn wait_for_purge(consensus: &quorate_server::consensus::Consensus) {
    let waited = consensus.raft().wait(Some(Duration::from_secs(20)));
    waited.metrics(|metrics| metrics.purged.is_some_and(|log_id| log_id.index > 50), "a purge").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_while_it_was_away_is_told() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three(&root).await;
    peers[0].put("/a", "1").await.unwrap();
    let lead = leader(&peers).await;
    let (away, other) = ((lead + 1) % 3, (lead + 2) % 3);
    let id = peers[away].id();
    // One that has heard nothing of the cluster yet has nobody to ask.
    assert_eq!(peers[away].value("/a").await.as_deref(), Some("1"));
    peers[away].stop().await;
    peers[other].consensus().remove(id, soon()).await.unwrap();
    peers[other].put("/a", "2").await.unwrap();
    let term = peers[lead].consensus().status().term;

    peers[away].start(Start::Single).await;
    let reason = peers[away].failed().await;
    assert!(reason.contains("was removed from its cluster"), "{reason}");
    assert_eq!(peers[lead].consensus().status().term, term, "it did not disturb");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_leaves_no_reachable_quorum_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three(&root).await;
    let lead = leader(&peers).await;
    let (down, other) = ((lead + 1) % 3, (lead + 2) % 3);
    let (down_id, other_id) = (peers[down].id(), peers[other].id());
    peers[down].kill();
    let deadline = soon();
    loop {
        // Until the leader has missed its answers for a while, the other counts as reachable.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        match peers[lead].consensus().remove(other_id, soon()).await {
            Err(ConsensusError::Membership { reason }) => {
                assert!(reason.contains(&format!("{down_id}")) && reason.contains("remove it first"), "{reason}");
                break;
            }
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    // The one that is down can go.
    peers[lead].consensus().remove(down_id, soon()).await.unwrap();
    peers[other].put("/a", "1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_member_that_meets_its_old_cluster_refuses() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three(&root).await;
    let start = cluster_of(&peers);
    let away = (leader(&peers).await + 1) % 3;
    let old = peers[away].id();
    peers[away].stop().await;
    peers[away].dir = root.path().join("new disk");
    peers[away].start(start).await;
    let refusal = peers[away].belongs().await.unwrap_err();
    assert!(refusal.contains("remove the old one from the cluster, then start this one with --join"), "{refusal}");
    assert_ne!(peers[away].id(), old);
    peers[away].kill();

    // What it says works.
    let other = (away + 1) % 3;
    let via = Start::Join(peers[other].clients_at.to_string());
    peers[away].start(via.clone()).await;
    let refusal = peers[away].belongs().await.unwrap_err();
    assert!(refusal.contains("remove that one first"), "{refusal}");
    peers[away].kill();
    peers[other].consensus().remove(old, soon()).await.unwrap();
    peers[away].start(via).await;
    peers[away].belongs().await.unwrap();
    peers[away].put("/a", "1").await.unwrap();
    assert_eq!(peers[away].value("/a").await.as_deref(), Some("1"));
}

/// § Digest: the minority value steps out, the majority goes on; without a majority none takes writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digest_a_member_that_differs_from_the_majority_steps_out() {
    let root = tempfile::tempdir().unwrap();
    let peers = three(&root).await;
    peers[0].put("/a", "1").await.unwrap();
    for peer in &peers {
        peer.plant_digest(1024, 7);
        peer.compare().await;
        assert_eq!(peer.consensus().diverged(), None);
    }
    for (peer, digest) in peers.iter().zip([1, 2, 3]) {
        peer.plant_digest(2048, digest);
    }
    for peer in &peers {
        peer.compare().await;
        assert_eq!(peer.consensus().diverged(), Some(2048));
    }
    let refused = peers[leader(&peers).await].consensus();
    let soon = Instant::now() + Duration::from_millis(500);
    let error = refused.propose(put("/b", "1", None), Haste::AtOnce, soon).await.unwrap_err();
    assert_eq!(error.happened(), quorate_server::error::Happened::No, "{error}");

    let wrong = (leader(&peers).await + 1) % 3;
    for (i, peer) in peers.iter().enumerate() {
        peer.plant_digest(2048, if i == wrong { 9 } else { 8 });
    }
    for peer in &peers {
        peer.compare().await;
    }
    let reason = peers[wrong].failed().await;
    assert!(reason.contains("2048") && reason.contains("join again"), "{reason}");
    peers[(wrong + 1) % 3].put("/b", "1").await.unwrap();
}

/// The follower used to end the stream without a word, and the leader opened it again at once, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_cannot_be_read_is_refused_and_the_member_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let peers = three(&root).await;
    let lead = leader(&peers).await;
    let to = &peers[(lead + 1) % 3];
    let cluster = to.belongs().await.unwrap();
    let mut client = PeerClient::connect(format!("http://{}", to.members_at)).await.unwrap();
    for body in [&b""[..], b"\xff\xff", b"\x01\x07 neither this"] {
        let mut request = Request::new(futures::stream::iter([Frame { body: Bytes::from_static(body) }]));
        let marks = [
            ("quorate-cluster-id", cluster.get()),
            ("quorate-from", peers[lead].id().get()),
            ("quorate-to", to.id().get()),
            ("quorate-membership-index", 1),
        ];
        for (name, value) in marks {
            request.metadata_mut().insert(name, format!("{value:016x}").parse().unwrap());
        }
        let mut answers = client.append(request).await.unwrap().into_inner();
        let refusal = tokio::time::timeout(Duration::from_secs(5), answers.message()).await.expect("it is told");
        assert_eq!(refusal.unwrap_err().code(), Code::InvalidArgument, "{body:?}");
    }
    peers[lead].put("/a", "1").await.unwrap();
    assert_eq!(to.value("/a").await.as_deref(), Some("1"));
}

/// A scrub at all members: its log index, and the hash of each.
async fn scrub(peers: &[Peer]) -> (u64, Vec<u64>) {
    let asked = peers[0].consensus().propose(bare(Command::Scrub), Haste::AtOnce, soon()).await.unwrap();
    let hashes = futures::future::join_all(peers.iter().map(|peer| peer.scrubbed(asked.log_index))).await;
    (asked.log_index, hashes)
}

/// Three members with overwrites, deletes, a lease, remembered requests and a compaction behind them.
async fn three_with_a_past(root: &tempfile::TempDir) -> Vec<Peer> {
    let peers = three(root).await;
    let lease = LeaseId::new(7).unwrap();
    let key = |text: &str| quorate_proto::Key::new(text.to_owned()).unwrap();
    let delete = Delete {
        span: Span::Key(key("/k/1")),
        expect: Expect::Anything,
        must_be_empty: false,
        return_previous: false,
        limit: None,
    };
    for n in 0..30 {
        peers[n % 3].put_as(&format!("/k/{}", n % 10), &n.to_string(), Some(request(3, n as u64 + 1))).await.unwrap();
    }
    for command in [
        Command::LeaseGrant { lease, ttl_ms: 60_000 },
        Command::Delete(delete),
        Command::Compact { revision: Revision(25), only_forward: false },
    ] {
        peers[0].consensus().propose(bare(command), Haste::AtOnce, soon()).await.unwrap().outcome.result.unwrap();
    }
    for peer in &peers {
        assert!(peer.get("/k/1").await.is_none());
        peer.at_state_version(2).await;
    }
    peers
}

/// § Digest: equal contents have equal hashes, whatever a member has purged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digest_scrubs_of_equal_contents_are_equal() {
    let root = tempfile::tempdir().unwrap();
    let peers = three_with_a_past(&root).await;
    while purge_step(peers[0].consensus().store().as_ref()).unwrap() == Purge::More {}
    let (_, hashes) = scrub(&peers).await;
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");
    for peer in &peers {
        peer.compare().await;
        assert_eq!(peer.consensus().diverged(), None);
    }
}

/// § Digest: a value that was changed in one store behind the machine's back, which the running digest cannot see, takes
/// that member out, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digest_a_scrub_finds_a_store_that_rotted() {
    let root = tempfile::tempdir().unwrap();
    let mut peers = three_with_a_past(&root).await;
    let wrong = (leader(&peers).await + 1) % 3;
    let right = (wrong + 1) % 3;
    peers[wrong].rot("/k/5");
    assert_ne!(peers[wrong].value("/k/5").await, peers[right].value("/k/5").await, "nothing has noticed");
    let (log_index, hashes) = scrub(&peers).await;
    let different: Vec<_> = (0..3).filter(|n| hashes[*n] != hashes[right]).collect();
    assert_eq!(different, [wrong], "{hashes:x?}");
    for peer in &peers {
        peer.compare().await;
    }
    let reason = peers[wrong].failed().await;
    for part in ["scrub", &log_index.to_string(), &peers[wrong].id().to_string(), "join again"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    for other in (0..3).filter(|n| *n != wrong) {
        assert_eq!(peers[other].consensus().diverged(), None);
        peers[other].put("/b", "1").await.unwrap();
    }
    // Starting it again does not make it right.
    peers[wrong].stop().await;
    peers[wrong].start(Start::Single).await;
    peers[wrong].belongs().await.unwrap();
    assert_eq!(peers[wrong].scrubbed(log_index).await, hashes[wrong]);
    let failed = peers[wrong].failed();
    tokio::pin!(failed);
    let reason = loop {
        // Until the others can be asked.
        tokio::select! {
            biased;
            reason = &mut failed => break reason,
            () = peers[wrong].compare() => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert!(reason.contains("scrub"), "{reason}");
}

/// A rolling upgrade: commands of the next version are refused until all members know it, and then taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_version_rises_once_all_members_know_the_next() {
    let root = tempfile::tempdir().unwrap();
    let mut all = peers(&root, 4);
    let start = cluster_of(&all[..3]);
    all[2].state_version_max = 1;
    for peer in &mut all[..3] {
        peer.start(start.clone()).await;
    }
    leader(&all[..3]).await;
    let first = all[0].id();
    all[1].consensus().transfer_leader(Some(first), soon()).await.unwrap();
    for n in 0..6 {
        let refused = all[n % 3].consensus().propose(bare(Command::Scrub), Haste::AtOnce, soon()).await.unwrap_err();
        assert!(matches!(refused, ConsensusError::StateVersion { needed: 2, in_force: 1 }), "{refused:?}");
        assert_eq!(refused.happened(), Happened::No);
        assert!(refused.to_string().contains("upgrade all members first"), "{refused}");
        // In all as long as two rounds of asking.
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    all[1].put("/a", "1").await.unwrap();

    all[2].stop().await;
    all[2].state_version_max = 2;
    all[2].start(Start::Single).await;
    for peer in &all[..3] {
        peer.at_state_version(2).await;
    }
    let (_, hashes) = scrub(&all[..3]).await;
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");

    // Who would not understand what is said is not let in.
    let via = Start::Join(all[1].clients_at.to_string());
    all[3].state_version_max = 1;
    all[3].start(via.clone()).await;
    let refusal = all[3].belongs().await.unwrap_err();
    assert!(refusal.contains("knows state version 1 at most, the cluster is at 2"), "{refusal}");
    all[3].kill();
    all[3].state_version_max = 2;
    all[3].start(via).await;
    all[3].belongs().await.unwrap();
    assert_eq!(all[3].value("/a").await.as_deref(), Some("1"));
}
