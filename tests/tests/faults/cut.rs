//! Partitions: members that are cut off, from each other or from all, in one direction or both, and networks that stutter.
//! Clients still reach a leader that its followers do not.

use std::time::Duration;

use quorate_tests::cluster::Cluster;
use quorate_tests::netns::Network;

use crate::histories::{pass, start};

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
        let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
        let time = run.dice.between_ms(1_500, 4_000);
        let recorder = run.load.recorder().clone();
        let fault = match run.dice.below(6) {
            0 => {
                let fault = recorder.fault(format!("{leader}, which leads, is cut off from all"));
                network.cut(leader);
                pass(time).await;
                network.mend(leader);
                fault
            }
            1 => {
                let fault =
                    recorder.fault(format!("{leader}, which leads, is cut off from the others, not from clients"));
                sever_both(&network, leader, &[one, two]);
                pass(time).await;
                rejoin_both(&network, leader, &[one, two]);
                fault
            }
            2 => {
                let fault = recorder.fault(format!("what {leader}, which leads, sends to the others is lost"));
                [one, two].iter().for_each(|other| network.sever(leader, *other));
                pass(time).await;
                [one, two].iter().for_each(|other| network.rejoin(leader, *other));
                fault
            }
            3 => {
                let fault = recorder.fault(format!("{leader}, which leads, does not hear {one}, nor {one} hear {two}"));
                network.sever(one, leader);
                network.sever(two, one);
                pass(time).await;
                network.rejoin(one, leader);
                network.rejoin(two, one);
                fault
            }
            4 if network.delay(leader, Some(DELAY)) => {
                let fault = recorder.fault(format!("packets to {leader}, which leads, take {DELAY:?}"));
                pass(time).await;
                network.delay(leader, None);
                fault
            }
            _ => {
                let fault = recorder.fault(format!("the cable of {leader}, which leads, is loose"));
                for _ in 0..run.dice.below(12) {
                    network.cut(leader);
                    pass(run.dice.between_ms(20, 200)).await;
                    network.mend(leader);
                    pass(run.dice.between_ms(20, 300)).await;
                }
                fault
            }
        };
        run.healed(fault, &cluster).await;
    }
    run.end(&cluster).await;
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
