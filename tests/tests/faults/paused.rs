//! Members stop in their tracks for longer than an election takes and a lease lives, and go on as if nothing had been.

use std::time::Duration;

use quorate_tests::cluster::Cluster;

use crate::histories::{pass, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_paused_under_load_every_promise_is_kept() {
    let mut cluster = Cluster::start(3).await;
    let mut run = start(&cluster, Duration::from_secs(3)).await;
    while run.is_in_trouble() {
        let leader = cluster.wait_for_leader().await;
        let victims = match run.dice.below(10) {
            0..6 => vec![leader],
            6..8 => vec![(leader + 1) % 3],
            // Nothing can be decided without them, and the leader that is left must say so.
            _ => vec![(leader + 1) % 3, (leader + 2) % 3],
        };
        let fault = run.load.recorder().fault(format!("pause of {victims:?}; {leader} leads"));
        for victim in &victims {
            cluster.process(*victim).pause();
        }
        pass(run.dice.between_ms(2_500, 4_000)).await;
        for victim in &victims {
            cluster.process(*victim).resume();
        }
        run.healed(fault, &cluster).await;
    }
    run.end(&cluster).await;
}
