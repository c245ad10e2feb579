//! A rolling restart, as an upgrade does it: one member after the other is asked to stop and started again, twice around,
//! and no request fails that its client may repeat.

use std::time::Duration;

use quorate_tests::chaos::Finished;
use quorate_tests::checkers::history::Outcome;
use quorate_tests::cluster::Cluster;

use crate::histories::start;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_no_request_that_may_be_repeated() {
    let mut cluster = Cluster::start(3).await;
    // Each call is repeated by the library until this has passed.
    let run = start(&cluster, Duration::from_secs(30)).await;
    for member in (0..3).chain(0..3) {
        let fault = run.load.recorder().fault(format!("{member} is stopped and started again"));
        tokio::task::block_in_place(|| cluster.stop(member));
        cluster.run(member);
        run.healed(fault, &cluster).await;
        run.go_on(200).await;
    }
    let Finished { history, given_up, .. } = run.end(&cluster).await;
    assert!(given_up.is_empty(), "calls that may be repeated failed: {given_up:#?}");
    // Native clients of keys and leases; those of etcd's wire do not repeat by themselves.
    let native = history.operations.iter().filter(|operation| (1001..1300).contains(&operation.client));
    let native = native.filter(|operation| !(1101..1200).contains(&operation.client));
    let unknown: Vec<_> = native.filter(|operation| matches!(operation.outcome, Outcome::Unknown(_))).collect();
    // A transaction that was repeated, and read, is answered without what it read.
    let lost =
        unknown.iter().filter(|operation| operation.outcome != Outcome::Unknown("it is a repetition".to_owned()));
    assert_eq!(lost.count(), 0, "{unknown:#?}");
}
