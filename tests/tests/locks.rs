//! Locks under everything that happens to clusters and clients: whatever is stopped, killed or cut off, there are never two
//! holders, tokens only grow, and no fenced write is lost.
//!
//! Contenders are processes of their own (`tests/examples/contender.rs`), which write down what they see. They are stopped
//! for longer than their leases live, while leaders are killed or cut off.
//!
//! Invariants:
//! - What is asserted is what the history proves; nothing depends on how fast the machine is.

#![expect(clippy::unwrap_used, reason = "the functions that tests share are tests too")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use quorate::{Client, Error, Op};
use quorate_tests::checkers::holds::{History, Hold, Write};
use quorate_tests::cluster::Cluster;
use quorate_tests::netns::Network;
use quorate_tests::process::example;
use quorate_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process};

const NUMBER: &str = "/chaos-number";
const CONTENDERS: usize = 6;
/// How long somebody is stopped, or cut off: longer than a lease lives.
const PAUSE: Duration = Duration::from_secs(3);

async fn number(client: &Client) -> Result<u64, Error> {
    let value = client.get(NUMBER).await?.into_value().unwrap_or_else(|| "0".into());
    Ok(std::str::from_utf8(&value).unwrap().parse().unwrap())
}

/// The contenders' processes. Killed when dropped.
struct Contenders {
    processes: Vec<(Child, PathBuf)>,
}

impl Contenders {
    fn start(endpoints: &str, dir: &Path) -> Self {
        let start = |nth: usize| {
            let record = dir.join(format!("contender{nth}"));
            let process = Command::new(example("contender")).arg(endpoints).arg(&record).spawn().unwrap();
            (process, record)
        };
        Self { processes: (0..CONTENDERS).map(start).collect() }
    }

    fn signal(&self, nth: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.processes[nth].0), signal).unwrap();
    }

    /// Stops one for longer than its lease lives, while something else happens.
    async fn pause(&self, nth: usize, meanwhile: impl Future<Output = ()>) {
        self.signal(nth, Signal::STOP);
        // The time that passes is what is tested here, not a state that is waited for.
        tokio::join!(tokio::time::sleep(PAUSE), meanwhile);
        self.signal(nth, Signal::CONT);
    }

    fn grants(&self) -> usize {
        self.processes.iter().map(|(_, record)| lines(record).filter(|line| line.starts_with("granted")).count()).sum()
    }

    /// Waits until the lock has been granted so often again: the cluster works, and so do its clients.
    async fn go_on(&self, grants: usize) {
        let enough = self.grants() + grants;
        until("more grants", || async { if self.grants() >= enough { Ok(()) } else { Err(self.grants()) } }).await;
    }

    /// Lets all of them end, and collects what they saw.
    async fn end(mut self, client: &Client) -> History {
        for (_, record) in &self.processes {
            File::create(record.with_extension("stop")).unwrap();
        }
        for (process, record) in &mut self.processes {
            let status = until("a contender to end", || {
                let ended = process.try_wait().unwrap().ok_or("it runs");
                async move { ended }
            })
            .await;
            assert!(status.success(), "{} ended with {status}", record.display());
        }
        let mut history = History { number: number(client).await.unwrap(), ..History::default() };
        for (nth, (_, record)) in self.processes.iter().enumerate() {
            read(nth, record, &mut history);
        }
        history
    }
}

impl Drop for Contenders {
    fn drop(&mut self) {
        for (process, _) in &mut self.processes {
            // It may have ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn lines(record: &Path) -> impl Iterator<Item = String> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn read(client: usize, record: &Path, history: &mut History) {
    let parsed = |word: &str| word.parse::<u64>().unwrap();
    for line in lines(record) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["granted", token, asked, granted] => {
                let (token, asked, granted) = (token.parse().unwrap(), parsed(asked), parsed(granted));
                history.holds.push(Hold { client, token, asked, granted, sure: 0 });
            }
            ["sure", _, sure] => history.holds.last_mut().unwrap().sure = parsed(sure),
            ["wrote", token, revision] => {
                history.writes.push(Write { token: token.parse().unwrap(), revision: revision.parse().unwrap() });
            }
            ["unknown", ..] => history.unknown += 1,
            _ => {}
        }
    }
}

fn judge(history: &History) {
    println!(
        "{} holds, {} fenced writes, {} unknown; the number is {}",
        history.holds.len(),
        history.writes.len(),
        history.unknown,
        history.number
    );
    assert_eq!(history.check(), Ok(()));
}

fn joined(cluster: &Cluster) -> String {
    cluster.places.iter().map(|place| place.client.clone()).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_clients_and_killed_leaders_never_make_two_holders() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let contenders = Contenders::start(&joined(&cluster), cluster.dir());
    contenders.go_on(20).await;
    for round in 0..4 {
        contenders.pause(round % CONTENDERS, contenders.go_on(5)).await;
        let leader = cluster.wait_for_leader().await;
        cluster.kill(leader);
        contenders.go_on(5).await;
        cluster.run(leader);
        cluster.wait_for_leader().await;
    }
    contenders.go_on(20).await;
    judge(&contenders.end(&client).await);
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_are_cut_off_never_make_two_holders() {
    let Some(network) = Network::new(3) else { return };
    let mut cluster = Cluster::prepare(3, &[]).await;
    cluster.move_into(&network);
    cluster.run_all().await;
    let client = cluster.client().await;
    let contenders = Contenders::start(&joined(&cluster), cluster.dir());
    contenders.go_on(20).await;
    for round in 0..3 {
        let leader = cluster.wait_for_leader().await;
        network.cut(leader);
        // The majority goes on, and whoever waited at the lost one finds another.
        contenders.pause(round % CONTENDERS, contenders.go_on(5)).await;
        network.mend(leader);
        contenders.go_on(5).await;
    }
    judge(&contenders.end(&client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_first_is_granted_first_also_over_a_killed_leader() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let session = client.lease(Duration::from_secs(30)).grant().await.unwrap();
    let first = client.lock("queue").session(&session).acquire().await.unwrap();
    let mut waiting = Vec::new();
    for nth in 0..10u64 {
        // Each with a client of its own, at whatever member.
        let (other, own) = (cluster.client().await, client.clone());
        waiting.push(tokio::spawn(async move {
            let session = other.lease(Duration::from_secs(30)).grant().await.unwrap();
            let guard = other.lock("queue").session(&session).acquire().await.unwrap();
            let token = guard.token();
            guard.release().await.unwrap();
            token
        }));
        until("one more in the queue", || async {
            match own.lock_info("queue").await {
                Ok(info) if info.waiting == nth + 1 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    let leader = cluster.wait_for_leader().await;
    cluster.kill(leader);
    cluster.wait_for_leader().await;
    first.release().await.unwrap();
    let mut tokens = Vec::new();
    for waiting in waiting {
        tokens.push(waiting.await.unwrap());
    }
    assert!(tokens.is_sorted(), "granted in the order of coming: {tokens:?}");
}

/// Takes the lock once, and gives it back.
async fn hold(client: &Client) -> i64 {
    let guard = client.lock("/tokens/one").acquire().await.unwrap();
    let token = guard.token().0;
    guard.release().await.unwrap();
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_over_restarts_of_members_and_of_the_cluster_and_over_the_end_of_the_locks_directory() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut tokens = vec![hold(&client).await];
    for member in 0..3 {
        cluster.stop(member);
        tokens.push(hold(&client).await);
        cluster.run(member);
        cluster.wait_for_leader().await;
        tokens.push(hold(&client).await);
    }
    // The directory goes with a hold in it, and what is left of both is compacted away.
    let guard = client.lock("/tokens/one").acquire().await.unwrap();
    tokens.push(guard.token().0);
    let deleted = client.delete_subtree("/tokens").await.unwrap();
    assert!(deleted.deleted > 0);
    client.compact(deleted.header.revision).await.unwrap();
    guard.lost().await;
    tokens.push(hold(&client).await);
    // All members go at one time: one by one as asked, then as in a power loss, with a hold.
    for killed in [false, true] {
        let guard = client.lock("/tokens/two").acquire().await.unwrap();
        tokens.push(guard.token().0);
        for member in 0..3 {
            if killed { cluster.kill(member) } else { cluster.stop(member) }
        }
        cluster.run_all().await;
        let written = client.txn(guard.txn().then(Op::put("/fenced", "1"))).await.unwrap();
        assert!(written.succeeded, "the hold outlives its members");
        guard.release().await.unwrap();
        tokens.push(hold(&client).await);
    }
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}
