//! Partitions: members that are cut off, from each other or from all, in one direction or both, and networks that stutter.
//! Clients still reach a leader that its followers do not.

use std::time::Duration;

use quorate_tests::cluster::Cluster;
use quorate_tests::netns::Network;

use crate::histories::{Run, pass, start};

/// Packets are delayed by so much, where the kernel can do that.
const DELAY: Duration = Duration::from_millis(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_cut_off_under_load_every_promise_is_kept() {
    let Some(network) = Network::new(3) else { return };
    let mut cluster = Cluster::prepare(3, &[]).await;
    cluster.move_into(&network);
    cluster.run_all().await;
    let mut run = start(&cluster, Duration::from_secs(3)).await;
    while run.is_in_trouble() {
        let leader = cluster.wait_for_leader().await;
        let fault = trouble(&mut run, &network, leader).await;
        run.healed(fault, &cluster).await;
    }
    run.end(&cluster).await;
}

/// Does something to the network of the leader, for a while; its number among the faults.
async fn trouble(run: &mut Run, network: &Network, leader: usize) -> usize {
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    let time = run.dice.between_ms(1_500, 4_000);
    let recorder = run.load.recorder().clone();
    let begins = |what: &str| recorder.fault(format!("{leader} leads: {what}"));
    let fault;
    match run.dice.below(6) {
        0 => {
            fault = begins("it is cut off from all");
            network.cut(leader);
            pass(time).await;
            network.mend(leader);
        }
        1 => {
            fault = begins("it is cut off from the others, not from clients");
            sever_both(network, leader, &[one, two]);
            pass(time).await;
            rejoin_both(network, leader, &[one, two]);
        }
        2 => {
            fault = begins("what it sends to the others is lost");
            network.sever(leader, one);
            network.sever(leader, two);
            pass(time).await;
            network.rejoin(leader, one);
            network.rejoin(leader, two);
        }
        3 => {
            fault = begins(&format!("it does not hear {one}, nor {one} {two}"));
            network.sever(one, leader);
            network.sever(two, one);
            pass(time).await;
            network.rejoin(one, leader);
            network.rejoin(two, one);
        }
        4 if network.delay(leader, Some(DELAY)) => {
            fault = begins(&format!("packets to it take {DELAY:?}"));
            pass(time).await;
            network.delay(leader, None);
        }
        _ => {
            fault = begins("its cable is loose");
            for _ in 0..4 + run.dice.below(10) {
                network.cut(leader);
                pass(run.dice.between_ms(20, 200)).await;
                network.mend(leader);
                pass(run.dice.between_ms(20, 300)).await;
            }
        }
    }
    fault
}

fn sever_both(network: &Network, member: usize, others: &[usize]) {
    for other in others {
        network.sever(member, *other);
        network.sever(*other, member);
    }
}

fn rejoin_both(network: &Network, member: usize, others: &[usize]) {
    for other in others {
        network.rejoin(member, *other);
        network.rejoin(*other, member);
    }
}
