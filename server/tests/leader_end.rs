//! A leader whose process has ended is noticed at once; one that lives, however cut off, is never taken for ended.
//!
//! Election timeouts are so long here that none passes in a test: whoever is elected was elected by evidence, and
//! whatever the evidence decides is waited for, so no test depends on how fast the machine is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod peer_support;

use std::time::Duration;

use openraft::raft::TransferLeaderRequest;
use peer_support::gate::Gate;
use peer_support::*;
use quorate_server::config::{Start, Timing};
use quorate_server::consensus::Leadership;
use quorate_server::consensus::leader_end::Verdicts;
use tokio::time::Instant;

/// Only the heartbeat is as usual: three times slower than by default.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(250),
    election_min: Duration::from_mins(2),
    election_max: Duration::from_mins(4),
};

/// Three members behind gates, or without, and a leader that was asked to campaign.
struct Cluster {
    peers: Vec<Peer>,
    gates: Vec<Gate>,
    leader: usize,
    term: u64,
    _root: tempfile::TempDir,
}

impl Cluster {
    async fn start(behind_gates: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut peers = peers(&root, 3);
        let mut gates = Vec::new();
        for peer in &mut peers {
            peer.timing = TIMING;
            if behind_gates {
                let gate = Gate::before(peer.members_at).await;
                peer.told_at = gate.at;
                gates.push(gate);
            }
        }
        let start = cluster_of(&peers);
        for peer in &mut peers {
            peer.start(start.clone()).await;
        }
        for peer in &peers {
            peer.belongs().await.unwrap();
        }
        first_election(&peers).await;
        let leader = leader(&peers).await;
        let term = peers[leader].consensus().term();
        let cluster = Self { peers, gates, leader, term, _root: root };
        cluster.write_everywhere().await;
        cluster
    }

    fn followers(&self) -> Vec<usize> {
        (0..3).filter(|i| *i != self.leader).collect()
    }

    /// A write through each running member: each has a stream to the leader.
    async fn write_everywhere(&self) {
        for peer in self.peers.iter().filter(|peer| peer.is_running()) {
            peer.put("/a", "1").await.unwrap();
        }
    }

    /// Waits until both followers have made up their minds about one more end of a stream to the leader.
    async fn decided(&self, before: &[Verdicts]) {
        for (i, before) in self.followers().into_iter().zip(before) {
            let mut verdicts = self.peers[i].verdicts();
            let seen = verdicts.wait_for(|now| now.kept > before.kept || now.let_go > before.let_go);
            tokio::time::timeout(Duration::from_secs(20), seen).await.expect("an end was looked at").unwrap();
        }
    }

    fn verdicts(&self) -> Vec<Verdicts> {
        self.followers().into_iter().map(|i| *self.peers[i].verdicts().borrow()).collect()
    }

    /// Nobody let go, nobody campaigned, and the leader still has its quorum.
    async fn assert_undisturbed(&self) {
        self.peers[self.leader].put("/a", "2").await.unwrap();
        for peer in self.peers.iter().filter(|peer| peer.is_running()) {
            assert_eq!(peer.verdicts().borrow().let_go, 0, "{} let go of a leader that lives", peer.name);
            assert_eq!(peer.consensus().term(), self.term, "{} saw an election", peer.name);
        }
        let leads = self.peers[self.leader].consensus().leadership();
        assert_eq!(*leads.borrow(), Leadership::Leading { term: self.term });
    }
}

/// Asks one after the other to campaign, until one leads: only the one that began the cluster knows at once who votes.
async fn first_election(peers: &[Peer]) {
    let deadline = soon();
    for peer in peers.iter().cycle() {
        assert!(Instant::now() < deadline, "nobody is elected");
        peer.consensus().raft().trigger().elect(true).await.unwrap();
        let mut leads = peer.consensus().leadership();
        let leads = leads.wait_for(|now| *now != Leadership::Following { leader: None });
        if tokio::time::timeout(Duration::from_millis(500), leads).await.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_although_no_timeout_can_have_passed() {
    let mut cluster = Cluster::start(false).await;
    for round in 1..=3 {
        let killed = cluster.leader;
        let began = Instant::now();
        cluster.peers[killed].kill();
        cluster.leader = leader(&cluster.peers).await;
        println!("another leader {:?} after the kill; silence is {:?}", began.elapsed(), TIMING.heartbeat * 2);
        let term = cluster.peers[cluster.leader].consensus().term();
        assert!(term > cluster.term, "a new leader has a new term");
        cluster.term = term;
        let follower = 3 - killed - cluster.leader;
        for survivor in [cluster.leader, follower] {
            assert!(cluster.peers[survivor].verdicts().borrow().let_go > 0, "each by its own evidence, round {round}");
        }
        cluster.peers[killed].start(Start::Single).await;
        assert_eq!(leader(&cluster.peers).await, cluster.leader);
        cluster.write_everywhere().await;
        assert_eq!(cluster.peers[killed].consensus().term(), cluster.term, "one that comes back disturbs nobody");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_port_refuses_while_it_lives_goes_on_leading() {
    let mut cluster = Cluster::start(true).await;
    let leader = cluster.leader;
    for _ in 0..3 {
        let before = cluster.verdicts();
        cluster.gates[leader].close().await;
        cluster.gates[leader].reset().await;
        cluster.decided(&before).await;
        cluster.assert_undisturbed().await;
        cluster.gates[leader].open().await;
        cluster.write_everywhere().await;
    }
}

/// Its heartbeats are held up as well, but their connections stand: a process that has ended has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_refuses_and_is_silent_but_connected_goes_on_leading() {
    let mut cluster = Cluster::start(true).await;
    let leader = cluster.leader;
    for i in cluster.followers() {
        cluster.gates[i].stall();
    }
    let before = cluster.verdicts();
    cluster.gates[leader].close().await;
    cluster.gates[leader].reset().await;
    cluster.decided(&before).await;
    for gate in &mut cluster.gates {
        gate.open().await;
    }
    cluster.write_everywhere().await;
    cluster.assert_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_connections_are_all_reset_and_whose_port_refuses_is_heard_again_in_time() {
    let mut cluster = Cluster::start(true).await;
    let leader = cluster.leader;
    for _ in 0..3 {
        let before = cluster.verdicts();
        cluster.gates[leader].close().await;
        for gate in &cluster.gates {
            gate.reset().await;
        }
        cluster.decided(&before).await;
        cluster.assert_undisturbed().await;
        cluster.gates[leader].open().await;
        cluster.write_everywhere().await;
    }
}

/// The leader lives, and all looks as if it had ended, but for a word now and then on a stream that breaks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_of_the_leader_is_enough_and_without_any_it_counts_as_ended() {
    let mut cluster = Cluster::start(true).await;
    let (leader, followers) = (cluster.leader, cluster.followers());
    let id = cluster.peers[leader].id();
    for words in [true, false] {
        let before = cluster.verdicts();
        for gate in &mut cluster.gates {
            gate.hang().await;
            gate.reset().await;
        }
        cluster.gates[leader].close().await;
        let contacts: Vec<_> = followers.iter().map(|i| cluster.peers[*i].consensus().contacts().clone()).collect();
        let speak = async {
            loop {
                for contacts in contacts.iter().filter(|_| words) {
                    contacts.open(id).arrived();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = speak => {}
            () = cluster.decided(&before) => {}
        }
        for (now, before) in cluster.verdicts().iter().zip(&before) {
            assert_eq!((now.let_go - before.let_go, now.kept - before.kept), if words { (0, 1) } else { (1, 0) });
        }
        for gate in &mut cluster.gates {
            gate.open().await;
        }
        if words {
            cluster.write_everywhere().await;
            cluster.assert_undisturbed().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_all_connections_are_no_evidence_while_the_port_accepts() {
    let cluster = Cluster::start(true).await;
    for _ in 0..3 {
        let before = cluster.verdicts();
        for gate in &cluster.gates {
            gate.reset().await;
        }
        cluster.decided(&before).await;
        cluster.assert_undisturbed().await;
        cluster.write_everywhere().await;
    }
}

/// Nothing of the leader arrives, and connecting to it is neither accepted nor refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_no_evidence_even_when_it_cuts_all_connections() {
    let mut cluster = Cluster::start(true).await;
    let before = cluster.verdicts();
    for gate in &mut cluster.gates {
        gate.hang().await;
        gate.reset().await;
    }
    cluster.decided(&before).await;
    for gate in &mut cluster.gates {
        gate.open().await;
    }
    cluster.write_everywhere().await;
    cluster.assert_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_follower_is_nothing_to_the_others() {
    let mut cluster = Cluster::start(false).await;
    let killed = cluster.followers()[0];
    cluster.peers[killed].kill();
    cluster.write_everywhere().await;
    cluster.peers[killed].start(Start::Single).await;
    leader(&cluster.peers).await;
    cluster.write_everywhere().await;
    cluster.assert_undisturbed().await;
    let ends: Vec<_> = cluster.peers.iter().map(|peer| *peer.verdicts().borrow()).collect();
    assert_eq!(ends, [Verdicts::default(); 3], "no stream to a leader has ended");
}

/// If a voter ever is wrong: its pre-votes are refused by the leader and by the voters that hear it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_alone_lets_go_elects_nobody() {
    let cluster = Cluster::start(false).await;
    let raft = cluster.peers[cluster.followers()[0]].consensus().raft();
    let vote = raft.with_raft_state(|state| *state.vote_ref()).await.unwrap();
    let leader = cluster.peers[cluster.leader].id().get();
    raft.handle_transfer_leader(TransferLeaderRequest::new(vote, leader, None)).await.unwrap().unwrap();
    for _ in 0..20 {
        raft.trigger().elect(true).await.unwrap();
        cluster.write_everywhere().await;
    }
    cluster.assert_undisturbed().await;
}
