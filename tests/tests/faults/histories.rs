//! Runs of recording clients against a cluster of these tests, and the verdict on what they recorded.
//!
//! Invariants:
//! - A run that is judged has seen every fault healed.

use std::fs::File;
use std::io::BufWriter;
use std::time::{Duration, Instant};

use quorate_tests::chaos::{Dice, Finished, Load, Plan, Recorder, Report, Subject};
use quorate_tests::cluster::Cluster;
use quorate_tests::wait::until;

/// How long things go wrong in a test.
pub const TROUBLE: Duration = Duration::from_secs(12);

/// A run under way.
pub struct Run {
    pub load: Load,
    /// Of the schedule.
    pub dice: Dice,
    began: Instant,
}

/// Starts clients that wait so long for an answer.
pub async fn start(cluster: &Cluster, patience: Duration) -> Run {
    let dice = Dice::of_environment();
    let plan = Plan { patience, ..Plan::new(cluster.endpoints(), "/chaos") };
    let load = Load::start(plan, Recorder::default(), &dice).await.unwrap();
    let mut run = Run { load, dice: dice.named("schedule"), began: Instant::now() };
    run.go_on(100).await;
    run.began = Instant::now();
    run
}

/// The time that passes is what is tested here, not a state that is waited for.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

impl Run {
    pub fn is_in_trouble(&self) -> bool {
        self.began.elapsed() < TROUBLE
    }

    /// Waits until so many more operations were answered.
    pub async fn go_on(&self, operations: usize) {
        let enough = self.load.answered() + operations;
        until("the load to go on", || async {
            let answered = self.load.answered();
            if answered >= enough { Ok(()) } else { Err(answered) }
        })
        .await;
    }

    /// Does something to the cluster, from the first moment to the one at which there is a leader again.
    pub async fn healed(&self, fault: usize, cluster: &Cluster) {
        cluster.wait_for_leader().await;
        self.load.recorder().over(fault);
        self.go_on(30).await;
    }

    /// Ends it; everything that was promised must have been kept.
    pub async fn end(self, cluster: &Cluster) -> Finished {
        let finished = self.load.finish().await.unwrap();
        cluster.assert_same_digests().await;
        let report = Report::of(Subject::default(), &finished);
        println!("{}", report.summary());
        for fault in &finished.faults {
            println!("  {:>9} µs: {}", fault.from, fault.name);
        }
        let violations = report.violations();
        if !violations.is_empty() {
            let path = std::env::temp_dir().join(format!("quorate-history-{}.jsonl", std::process::id()));
            finished.history.write(BufWriter::new(File::create(&path).unwrap())).unwrap();
            let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
            panic!("the history in {} breaks promises:\n{}", path.display(), texts.join("\n\n"));
        }
        finished
    }
}
