//! A counter: a number at a key, changed exactly once for each call.
//!
//! Invariants:
//! - A change is one transaction under one write id: sent again, it counts once.
//! - It says no more than i64 holds: an overflow is an error, never a wrap.

use std::time::Duration;

use bytes::Bytes;

use crate::call::backoff;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::txn::{Compare, Op, OpResult, Relation, Txn};
use crate::types::KeyValue;

/// Longest pause before the next attempt when others were faster.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// A counter; made by [`Client::counter`]. The number stands at the key as decimal text; an absent key is 0.
///
/// An error whose [`happened`](crate::Error::happened) is `Unknown` leaves open whether the change was made; it was not made twice.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let counter = client.counter("/tickets/last");
/// let ticket = counter.add(1).await?;
/// println!("ticket {ticket} of {}", counter.get().await?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Counter {
    client: Client,
    key: Bytes,
}

impl Counter {
    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, key }
    }

    /// What it says.
    ///
    /// ```no_run
    /// # async fn example(counter: quorate::Counter) -> quorate::Result<()> {
    /// println!("{}", counter.get().await?);
    /// # Ok(()) }
    /// ```
    pub async fn get(&self) -> Result<i64> {
        self.number(self.client.get(&self.key).await?.kv.as_ref())
    }

    /// Adds to it (what is negative takes away). Answers what it says then.
    ///
    /// ```no_run
    /// # async fn example(counter: quorate::Counter) -> quorate::Result<()> {
    /// let after = counter.add(-1).await?;
    /// # Ok(()) }
    /// ```
    pub async fn add(&self, amount: i64) -> Result<i64> {
        let mut attempts = 0;
        let mut now = self.client.get(&self.key).await?.kv;
        loop {
            let before = self.number(now.as_ref())?;
            let after = before.checked_add(amount).ok_or_else(|| {
                Error::invalid(format!("the counter {} says {before}; {amount} more is beyond its range", self.name()))
            })?;
            match self.replace(now.as_ref(), after).await? {
                None => return Ok(after),
                Some(current) => now = current,
            }
            tokio::time::sleep(backoff(attempts, PAUSE_MAX)).await;
            attempts += 1;
        }
    }

    /// Sets it to `new` if it says `expected`. `Err` inside: what it says instead.
    ///
    /// ```no_run
    /// # async fn example(counter: quorate::Counter) -> quorate::Result<()> {
    /// match counter.compare_and_set(7, 0).await? {
    ///     Ok(()) => println!("set back"),
    ///     Err(now) => println!("it says {now}"),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn compare_and_set(&self, expected: i64, new: i64) -> Result<Result<(), i64>> {
        let mut now = self.client.get(&self.key).await?.kv;
        loop {
            let says = self.number(now.as_ref())?;
            if says != expected {
                return Ok(Err(says));
            }
            match self.replace(now.as_ref(), new).await? {
                None => return Ok(Ok(())),
                Some(current) => now = current,
            }
        }
    }

    /// Writes if the key is still as it was read; what it is now when it is not.
    async fn replace(&self, seen: Option<&KeyValue>, value: i64) -> Result<Option<Option<KeyValue>>> {
        let unchanged = match seen {
            Some(kv) => Compare::mod_revision(&self.key, Relation::Equal, kv.mod_revision),
            None => Compare::absent(&self.key),
        };
        let write = self.client.put(&self.key, value.to_string()).keep_lease();
        let txn = Txn::when(unchanged).then(write).otherwise(Op::get(&self.key));
        let answer = self.client.txn(txn).await?;
        if answer.succeeded {
            return Ok(None);
        }
        match answer.results.into_iter().next() {
            Some(OpResult::Get(kv)) if !answer.replayed => Ok(Some(kv)),
            // What was read is not remembered with the outcome.
            _ => Ok(Some(self.client.get(&self.key).await?.kv)),
        }
    }

    fn number(&self, kv: Option<&KeyValue>) -> Result<i64> {
        let Some(kv) = kv else { return Ok(0) };
        kv.value_text().parse().map_err(|_| {
            let (name, found) = (self.name(), kv.value_text());
            Error::invalid(format!("{name} is no counter: it says {found:?}; use another key, or put a number there"))
        })
    }

    fn name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}
