//! Writers that note what was acknowledged, and the check that all of it is there, once.
//!
//! Invariants:
//! - Each write is a child that the cluster names in sequence, so a write that is applied twice shows as a child too many.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use quorate::{Client, Happened};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::wait::until;

/// Writers at work.
pub struct Load {
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<Report>>,
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Keys and values of acknowledged writes.
    pub acknowledged: BTreeMap<Bytes, Bytes>,
    /// Writes that may have happened.
    pub unknown: usize,
    /// What was said of writes that did not happen.
    pub refused: Vec<String>,
    /// Longest time between two acknowledged writes of one writer.
    pub longest_gap: Duration,
    /// When each writer's writes were acknowledged.
    times: Vec<Vec<Instant>>,
}

impl Load {
    /// Starts `writers` tasks that put below `/load`, each one write after the other.
    pub fn start(client: &Client, writers: usize) -> Self {
        let (stop, stopping) = watch::channel(false);
        let writers = (0..writers).map(|i| tokio::spawn(write(client.clone(), i, stopping.clone()))).collect();
        Self { stop, writers }
    }

    /// Ends it and adds up.
    pub async fn finish(self) -> Report {
        self.stop.send_replace(true);
        let mut sum = Report::default();
        for writer in self.writers {
            let report = writer.await.expect("a writer does not panic");
            let before = sum.acknowledged.len() + report.acknowledged.len();
            sum.acknowledged.extend(report.acknowledged);
            assert_eq!(sum.acknowledged.len(), before, "two writes were acknowledged with one key");
            sum.unknown += report.unknown;
            sum.refused.extend(report.refused);
            sum.longest_gap = sum.longest_gap.max(report.longest_gap);
            sum.times.extend(report.times);
        }
        sum
    }
}

/// Waits until the load has had another `writes` acknowledged, by the directory's own count.
pub async fn progress(client: &Client, writes: u64) {
    let children = || async {
        let stat = client.stat("/load").await.map_err(|error| error.to_string())?;
        Ok::<_, String>(stat.directory.map_or(0, |directory| directory.children))
    };
    let before = until("the load's directory", children).await;
    until("the load to go on", || async {
        let now = children().await?;
        if now >= before + writes { Ok(()) } else { Err(format!("{now} children, {before} before")) }
    })
    .await;
}

async fn write(client: Client, writer: usize, stopping: watch::Receiver<bool>) -> Report {
    let mut report = Report::default();
    let mut last = Instant::now();
    let mut times = Vec::new();
    let mut n = 0_u64;
    while !*stopping.borrow() {
        n += 1;
        let value = Bytes::from(format!("{writer}.{n}"));
        match client.put("/load", value.clone()).sequential().await {
            Ok(put) => {
                report.longest_gap = report.longest_gap.max(last.elapsed());
                last = Instant::now();
                times.push(last);
                let twice = report.acknowledged.insert(put.key, value);
                assert!(twice.is_none(), "one key was handed out twice");
            }
            Err(error) if error.happened() == Happened::No => report.refused.push(error.to_string()),
            Err(_) => report.unknown += 1,
        }
    }
    report.times.push(times);
    report
}

impl Report {
    /// Longest time between two acknowledged writes of one writer, of those that overlap these moments.
    pub fn longest_gap_within(&self, from: Instant, to: Instant) -> Duration {
        let gaps = self.times.iter().flat_map(|times| times.windows(2));
        let gaps = gaps.filter(|gap| gap[1] > from && gap[0] < to);
        gaps.map(|gap| gap[1] - gap[0]).max().unwrap_or_default()
    }

    /// Asserts that all that was acknowledged is there, and nothing more than what may have happened.
    pub async fn assert_all_there_once(&self, client: &Client) {
        let mut children = client.list("/load").with_values().stream();
        let mut found = BTreeMap::new();
        while let Some(child) = children.next().await {
            let kv = child.expect("list /load").kv.expect("a child of /load is a key");
            found.insert(kv.key, kv.value);
        }
        for (key, value) in &self.acknowledged {
            assert_eq!(found.get(key), Some(value), "an acknowledged write is lost: {}", key.escape_ascii());
        }
        let extra = found.len() - self.acknowledged.len();
        assert!(extra <= self.unknown, "{extra} writes more than acknowledged, {} may have happened", self.unknown);
        let mut values: Vec<_> = found.values().collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), found.len(), "a write was applied twice");
    }
}
