//! Members are killed and started again under clients of both wires whose whole history is checked.

use std::time::Duration;

use quorate_tests::cluster::Cluster;

use crate::histories::{pass, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_under_load_every_promise_is_kept() {
    let mut cluster = Cluster::start(3).await;
    let mut run = start(&cluster, Duration::from_secs(3)).await;
    while run.is_in_trouble() {
        let leader = cluster.wait_for_leader().await;
        let victims = match run.dice.below(10) {
            0..4 => vec![leader],
            4..7 => vec![run.dice.below(3)],
            // A majority, then all: as if the power went.
            7..9 => vec![leader, (leader + 1) % 3],
            _ => vec![0, 1, 2],
        };
        let fault = run.load.recorder().fault(format!("kill -9 of {victims:?}; {leader} led"));
        for victim in &victims {
            cluster.kill(*victim);
        }
        pass(run.dice.between_ms(0, 2_000)).await;
        for victim in &victims {
            cluster.run(*victim);
        }
        run.healed(fault, &cluster).await;
    }
    run.end(&cluster).await;
}
