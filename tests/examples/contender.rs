//! A contender of the tests of locks: takes one lock again and again, adds to a number while it holds, by fenced writes,
//! and writes down what it sees. Run with the endpoints and the file to write to; ends when `<file>.stop` is there.
//!
//! Invariants:
//! - What was granted is written down after it was granted, and what was sure before it is relied on.

#![expect(clippy::unwrap_used, reason = "it is a part of a test, which fails when it ends by a panic")]

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use quorate::{Client, Error, ErrorKind, Happened, LockGuard, Op};
use rustix::time::{ClockId, clock_gettime};

const LOCK: &str = "chaos";
const NUMBER: &str = "/chaos-number";
const TTL: Duration = Duration::from_secs(2);
/// How often a contender looks and writes while it holds.
const LOOKS: u32 = 3;

fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (endpoints, record) = (arguments.next().unwrap(), PathBuf::from(arguments.next().unwrap()));
    let stop = record.with_extension("stop");
    let mut record = File::create(record).unwrap();
    let client = Client::builder().endpoints(endpoints.split(',')).deadline(Duration::from_secs(20)).build().unwrap();
    while !stop.exists() {
        let asked = now();
        let guard = match client.lock(LOCK).ttl(TTL).acquire().await {
            Ok(guard) => guard,
            // Stopped while it waited, or no quorum for a while.
            Err(error) => {
                writeln!(record, "failed {error}").unwrap();
                continue;
            }
        };
        let granted = now();
        writeln!(record, "granted {} {asked} {granted}", guard.token()).unwrap();
        hold(&client, &guard, &mut record).await;
        // It says whether it was lost, which the history knows better.
        let _ = guard.release().await;
    }
    writeln!(record, "done").unwrap();
}

/// Adds to the number while it holds.
async fn hold(client: &Client, guard: &LockGuard, record: &mut File) {
    for _ in 0..LOOKS {
        let sure = now();
        if guard.check().is_err() {
            return;
        }
        writeln!(record, "sure {} {sure}", guard.token()).unwrap();
        match add(client, guard).await {
            Ok(Some(revision)) => writeln!(record, "wrote {} {revision}", guard.token()).unwrap(),
            Ok(None) => return,
            Err(error) if error.happened() == Happened::Unknown => writeln!(record, "unknown {error}").unwrap(),
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::FixRequest, "{error}");
                return;
            }
        }
    }
}

/// One more, if the lock is held still: its revision.
async fn add(client: &Client, guard: &LockGuard) -> Result<Option<i64>, Error> {
    let number = number(client).await?;
    let written = client.txn(guard.txn().then(Op::put(NUMBER, (number + 1).to_string()))).await?;
    Ok(written.succeeded.then_some(written.header.revision.get()))
}

async fn number(client: &Client) -> Result<u64, Error> {
    let value = client.get(NUMBER).await?.into_value().unwrap_or_else(|| "0".into());
    Ok(std::str::from_utf8(&value).unwrap().parse().unwrap())
}
