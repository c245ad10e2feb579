//! A lock, a pause, and what fencing is good for, shown by numbers.
//!
//! Four workers, each a process of its own, add to one number: lock, read, write one more, unlock. One of them is stopped
//! (SIGSTOP) between its read and its write for longer than its lease lives, as a long garbage collection or a suspended
//! machine would do; the others go on, and then it wakes and writes what it believes. Three times:
//!
//! 1. the number lies outside the cluster and takes every write: increments are lost;
//! 2. a `FenceGate` stands before it and refuses tokens that are too old: nothing is lost;
//! 3. the number is a key of the cluster, written with `LockGuard::txn`: nothing is lost, and no gate is needed.
//!
//! Run it against a cluster on 127.0.0.1:2379 (`quorate serve`), or name others in `QUORATE_ENDPOINTS`. It ends by itself, and
//! fails if a number is not as told.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate::{Client, FenceGate, Op, Token};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

type Error = Box<dyn std::error::Error + Send + Sync>;

const WORKERS: u64 = 4;
/// Increments of each worker.
const ROUNDS: u64 = 8;
const TTL: Duration = Duration::from_secs(1);
/// In this round the first worker is stopped …
const PAUSED_ROUND: u64 = 3;
/// … until the others have written so often.
const WRITES_MEANWHILE: u64 = 5;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, lock, resource, number, kind] = arguments.as_slice()
        && role == "worker"
    {
        return worker(lock, resource, number.parse()?, kind).await;
    }
    println!(
        "{WORKERS} workers add 1 to a number {ROUNDS} times each, under one lock; the first is stopped in between.\n"
    );
    println!("{:<32}{:>14}{:>10}{:>10}{:>8}", "", "acknowledged", "number", "refused", "lost");
    let plain = run("plain", "no fencing").await?;
    let gate = run("gate", "fenced by a FenceGate").await?;
    let txn = run("txn", "fenced by LockGuard::txn").await?;
    let all = WORKERS * ROUNDS;
    check(plain.acknowledged == all && plain.number < all, "without fencing, acknowledged increments are lost")?;
    for fenced in [&gate, &txn] {
        check(fenced.acknowledged == all && fenced.number == all, "with fencing nothing is lost")?;
        check(fenced.refused >= 1, "the late write is refused")?;
    }
    println!(
        "\nThe lock was never held twice by the cluster's account. Only the token keeps out who is late without knowing."
    );
    Ok(())
}

/// What one run came to.
struct Outcome {
    acknowledged: u64,
    number: u64,
    refused: u64,
}

/// The number, and who guards it.
struct Resource {
    number: AtomicU64,
    gate: Option<FenceGate>,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    /// It was stopped: once is enough.
    stopped: AtomicBool,
    /// They begin together.
    start: tokio::sync::Barrier,
    /// Process of the worker that is to be stopped.
    victim: Pid,
}

async fn run(kind: &str, title: &str) -> Result<Outcome, Error> {
    let lock = format!("examples/number-{:08x}", rand::random::<u32>());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let mut workers: Vec<Child> = Vec::new();
    for number in 0..WORKERS {
        let arguments = ["worker", &lock, &address, &number.to_string(), kind];
        let worker =
            Command::new(std::env::current_exe()?).args(arguments).stdin(Stdio::null()).kill_on_drop(true).spawn()?;
        workers.push(worker);
    }
    let victim = workers[0].id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or("the worker has ended")?;
    let resource = Arc::new(Resource {
        number: AtomicU64::new(0),
        gate: (kind == "gate").then(|| FenceGate::new().named("the number")),
        acknowledged: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        start: tokio::sync::Barrier::new(usize::try_from(WORKERS)?),
        victim,
    });
    let served = resource.clone();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let resource = served.clone();
            tokio::spawn(async move { resource.serve(stream).await });
        }
    });
    for worker in &mut workers {
        check(worker.wait().await?.success(), "the workers end well")?;
    }
    serving.abort();
    let number = if kind == "txn" { number_in_cluster(&lock).await? } else { resource.number.load(Ordering::SeqCst) };
    let acknowledged = resource.acknowledged.load(Ordering::SeqCst);
    let refused = resource.refused.load(Ordering::SeqCst);
    println!("{title:<32}{acknowledged:>14}{number:>10}{refused:>10}{:>8}", acknowledged.saturating_sub(number));
    Ok(Outcome { acknowledged, number, refused })
}

impl Resource {
    /// One worker's connection: a line each for what it wants and what it gets.
    async fn serve(&self, stream: TcpStream) -> Result<(), Error> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match words.as_slice() {
                ["hello"] => {
                    self.start.wait().await;
                    "go".to_owned()
                }
                ["read", worker, round] => {
                    let number = self.number.load(Ordering::SeqCst);
                    let is_its_turn = *worker == "0" && *round == PAUSED_ROUND.to_string();
                    if is_its_turn && !self.stopped.swap(true, Ordering::SeqCst) {
                        self.stop_for_a_while().await?;
                    }
                    number.to_string()
                }
                ["write", token, number] => self.write(Token(token.parse()?), number.parse()?),
                // It has written to the cluster itself.
                ["wrote"] => self.count(true),
                ["refused"] => self.count(false),
                _ => "what?".to_owned(),
            };
            stream.get_mut().write_all(format!("{answer}\n").as_bytes()).await?;
            line.clear();
        }
        Ok(())
    }

    fn write(&self, token: Token, number: u64) -> String {
        let write = || self.number.store(number, Ordering::SeqCst);
        let admitted = if let Some(gate) = &self.gate {
            gate.admit_then(token, write)
        } else {
            write();
            Ok(())
        };
        if let Err(refused) = &admitted {
            eprintln!("    ({refused})");
        }
        self.count(admitted.is_ok())
    }

    fn count(&self, written: bool) -> String {
        let counter = if written { &self.acknowledged } else { &self.refused };
        counter.fetch_add(1, Ordering::SeqCst);
        if written { "ok" } else { "refused" }.to_owned()
    }

    /// Stops the worker, which has read, until the others have got the lock and written.
    async fn stop_for_a_while(&self) -> Result<(), Error> {
        kill_process(self.victim, Signal::STOP)?;
        let enough = self.acknowledged.load(Ordering::SeqCst) + WRITES_MEANWHILE;
        while self.acknowledged.load(Ordering::SeqCst) < enough {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kill_process(self.victim, Signal::CONT)?;
        Ok(())
    }
}

/// A worker: its lock is from a library that does all that a lock can do.
async fn worker(lock: &str, resource: &str, number: u64, kind: &str) -> Result<(), Error> {
    let client = connect().await?;
    let mut resource = BufReader::new(TcpStream::connect(resource).await?);
    ask(&mut resource, "hello").await?;
    for round in 0..ROUNDS {
        while !increment(&client, lock, &mut resource, number, round, kind).await? {}
    }
    Ok(())
}

/// One more, under the lock. `false`: it was refused, and is to be done again.
async fn increment(
    client: &Client,
    lock: &str,
    resource: &mut BufReader<TcpStream>,
    number: u64,
    round: u64,
    kind: &str,
) -> Result<bool, Error> {
    let guard = client.lock(lock).ttl(TTL).owner(format!("worker {number}")).acquire().await?;
    let key = number_key(lock);
    let in_cluster = if kind == "txn" { client.get(&key).await?.into_value() } else { None };
    // Looked at just before it is used: as careful as one can be without a token.
    guard.check()?;
    let answer = ask(resource, &format!("read {number} {round}")).await?;
    // Here the first worker is stopped, and does not know.
    let written = if kind == "txn" {
        let read: u64 = in_cluster.map_or(Ok(0), |value| String::from_utf8_lossy(&value).parse())?;
        let done = client.txn(guard.txn().then(Op::put(&key, (read + 1).to_string()))).await?.succeeded;
        ask(resource, if done { "wrote" } else { "refused" }).await?;
        done
    } else {
        let read: u64 = answer.parse()?;
        ask(resource, &format!("write {} {}", guard.token(), read + 1)).await? == "ok"
    };
    // That it was lost, if it was, is known already or does not matter any more.
    let _ = guard.release().await;
    Ok(written)
}

async fn ask(resource: &mut BufReader<TcpStream>, what: &str) -> Result<String, Error> {
    resource.get_mut().write_all(format!("{what}\n").as_bytes()).await?;
    let mut answer = String::new();
    resource.read_line(&mut answer).await?;
    Ok(answer.trim().to_owned())
}

fn number_key(lock: &str) -> String {
    format!("/{lock}/value")
}

async fn number_in_cluster(lock: &str) -> Result<u64, Error> {
    let client = connect().await?;
    let value = client.get(number_key(lock)).await?.into_value().unwrap_or_default();
    client.delete(number_key(lock)).await?;
    Ok(String::from_utf8_lossy(&value).parse()?)
}

async fn connect() -> quorate::Result<Client> {
    let endpoints = std::env::var("QUORATE_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    Client::builder().endpoints(endpoints.split(',')).deadline(Duration::from_secs(30)).connect().await
}

fn check(holds: bool, claim: &str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(format!("this does not hold: {claim}").into()) }
}
