//! A writer that goes on while the leader is killed, and the account of what was acknowledged.
//!
//! Invariants:
//! - A write counts as acknowledged only when its answer has come; its value tells its number, so that one that was
//!   lost, or replaced, is seen.

use std::time::{Duration, Instant};

use quorate::{Client, KeyValue};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// Where the writes go.
pub const DIRECTORY: &str = "/demo/writes";

/// What was acknowledged, and when.
#[derive(Debug, Default)]
pub struct Account {
    /// Number of each acknowledged write and when its answer came.
    pub acknowledged: Vec<(u64, Instant)>,
    /// Numbers of writes that ended in an error, with the error: they may or may not be there.
    pub failed: Vec<(u64, String)>,
}

/// What reading back showed.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Acknowledged and there with their value.
    pub found: usize,
    /// Acknowledged, but not there.
    pub lost: Vec<u64>,
    /// Acknowledged, but with another value.
    pub wrong: Vec<u64>,
}

/// A running writer.
pub struct Writer {
    task: JoinHandle<Account>,
    stop: watch::Sender<bool>,
    count: watch::Receiver<u64>,
}

impl Writer {
    /// Starts to write, one key after the other.
    pub fn start(client: Client) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (counter, count) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut account = Account::default();
            for number in 1.. {
                if *stopped.borrow() {
                    break;
                }
                match client.put(key(number), value(number)).await {
                    Ok(_) => account.acknowledged.push((number, Instant::now())),
                    Err(error) => account.failed.push((number, error.to_string())),
                }
                counter.send_replace(account.acknowledged.len() as u64);
            }
            account
        });
        Self { task, stop, count }
    }

    /// Acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        *self.count.borrow()
    }

    /// Waits until so many are acknowledged.
    pub async fn reached(&mut self, count: u64, within: Duration) -> Result<(), Failure> {
        let reached = tokio::time::timeout(within, self.count.wait_for(|now| *now >= count)).await;
        match reached.map(|reached| reached.map(|count| *count)) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Failure::Failed("the writer ended by itself".to_owned())),
            Err(_) => Err(Failure::Failed(format!(
                "only {} of {count} writes were acknowledged within {within:?}",
                self.acknowledged()
            ))),
        }
    }

    /// Ends after the write that is under way.
    pub async fn finish(self) -> Result<Account, Failure> {
        self.stop.send_replace(true);
        self.task.await.map_err(|error| Failure::Failed(format!("the writer failed: {error}")))
    }
}

impl Account {
    /// Longest time between two acknowledgements.
    pub fn longest_gap(&self) -> Duration {
        let pairs = self.acknowledged.windows(2);
        pairs.map(|pair| pair[1].1.saturating_duration_since(pair[0].1)).max().unwrap_or_default()
    }

    /// Compares with what the cluster holds.
    pub fn compare(&self, kvs: &[KeyValue]) -> Comparison {
        let held: std::collections::BTreeMap<&[u8], &[u8]> =
            kvs.iter().map(|kv| (&kv.key[..], &kv.value[..])).collect();
        let mut comparison = Comparison::default();
        for (number, _) in &self.acknowledged {
            match held.get(key(*number).as_bytes()) {
                Some(held) if *held == value(*number).as_bytes() => comparison.found += 1,
                Some(_) => comparison.wrong.push(*number),
                None => comparison.lost.push(*number),
            }
        }
        comparison
    }
}

fn key(number: u64) -> String {
    format!("{DIRECTORY}/{number:08}")
}

fn value(number: u64) -> String {
    format!("write {number}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate::Revision;

    use super::*;

    fn kv(key: String, value: &'static str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: Bytes::from(value),
            create_revision: Revision(2),
            mod_revision: Revision(2),
            version: 1,
            lease: None,
            created_unix_ms: 0,
            modified_unix_ms: 0,
        }
    }

    fn account(numbers: &[u64]) -> Account {
        let start = Instant::now();
        let at = |number: &u64| (*number, start + Duration::from_millis(number * number));
        Account { acknowledged: numbers.iter().map(at).collect(), failed: Vec::new() }
    }

    #[test]
    fn a_lost_and_a_replaced_write_are_found_out() {
        let held = [kv(key(1), "write 1"), kv(key(2), "write 1"), kv(key(9), "write 9")];
        let comparison = account(&[1, 2, 3]).compare(&held);
        assert_eq!(comparison, Comparison { found: 1, lost: vec![3], wrong: vec![2] });
    }

    #[test]
    fn the_gap_is_the_longest_time_between_two_answers() {
        assert_eq!(account(&[1, 2, 5, 6]).longest_gap(), Duration::from_millis(25 - 4));
        assert_eq!(account(&[1]).longest_gap(), Duration::ZERO);
    }
}
