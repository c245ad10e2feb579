//! A double barrier: all begin together and end together.
//!
//! Below its key stand `members/<lease>-<random>`, one for each participant, and `ready` from when all are there until all
//! have left. So a participant that comes while the last round is still ending waits for the next.
//!
//! Invariants:
//! - `ready` comes only when so many participants were there at one time, and goes only when none is.
//! - A participant whose session ends counts as having left.

use bytes::Bytes;

use super::{Of, below, changed};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::lease::LeaseGuard;
use crate::txn::{Compare, Op, OpResult, Txn};

/// A double barrier; made by [`Client::double_barrier`]. Participants wait for each other before and after their work.
///
/// ```no_run
/// # async fn example(client: quorate::Client, session: quorate::LeaseGuard) -> quorate::Result<()> {
/// let mut barrier = client.double_barrier("/training/round", 8);
/// barrier.enter(&session).await?;
/// // All eight are at work.
/// barrier.leave().await?;
/// // All eight are done.
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct DoubleBarrier {
    client: Client,
    members: Bytes,
    ready: Bytes,
    all: Bytes,
    participants: u32,
    own: Option<Bytes>,
}

impl DoubleBarrier {
    pub(super) fn new(client: Client, key: &Bytes, participants: u32) -> Self {
        let (members, ready, all) = (below(key, "/members/"), below(key, "/ready"), below(key, "/"));
        Self { client, members, ready, all, participants, own: None }
    }

    /// Enters, and waits until all have. Dropping this future leaves the place: enter again, or let the session end.
    ///
    /// ```no_run
    /// # async fn example(mut barrier: quorate::DoubleBarrier, session: quorate::LeaseGuard) -> quorate::Result<()> {
    /// barrier.enter(&session).await?;
    /// # Ok(()) }
    /// ```
    pub async fn enter(&mut self, session: &LeaseGuard) -> Result<()> {
        if self.own.is_none() {
            self.own = Some(below(&self.members, &format!("{}-{:016x}", session.id(), rand::random::<u64>())));
        }
        let own = self.own.clone().unwrap_or_default();
        let join = Txn::when(Compare::absent(&self.ready))
            .then(self.client.put(&own, "").lease(session))
            .otherwise(Op::get(&own));
        loop {
            let answer = self.client.txn(join.clone()).await?;
            // Of an earlier call that was dropped, and whose round has begun meanwhile.
            let there = matches!(answer.results.as_slice(), [OpResult::Get(Some(_))]);
            if answer.succeeded || there {
                break;
            }
            // The last round is ending, or all of it died.
            self.clear().await?;
            let now = self.client.get(&self.ready).await?;
            if now.kv.is_some() {
                session.check()?;
                changed(&self.client, &self.all, true, Of::Deletes, now.header.revision).await?;
            }
        }
        loop {
            session.check()?;
            let now = self.client.prefix(&self.all).keys_only().await?;
            if now.kvs.iter().any(|kv| kv.key == self.ready) {
                return Ok(());
            }
            if !now.kvs.iter().any(|kv| kv.key == own) {
                // The place was lost, or the round is over already without us having looked in between.
                self.own = None;
                return Err(Error::HoldLost { name: "the place at the barrier".to_owned(), reason: crate::Lost::Gone });
            }
            if now.kvs.len() as u64 >= u64::from(self.participants) {
                self.begin(&own).await?;
                continue;
            }
            changed(&self.client, &self.all, true, Of::All, now.header.revision).await?;
        }
    }

    /// Leaves, and waits until all have.
    ///
    /// ```no_run
    /// # async fn example(mut barrier: quorate::DoubleBarrier) -> quorate::Result<()> {
    /// barrier.leave().await?;
    /// # Ok(()) }
    /// ```
    pub async fn leave(&mut self) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        let entered = self.client.get(&self.ready).await?.kv.map(|kv| kv.create_revision);
        self.client.delete(own).await?;
        self.own = None;
        loop {
            self.clear().await?;
            let now = self.client.get(&self.ready).await?;
            if now.kv.as_ref().map(|kv| kv.create_revision) != entered || now.kv.is_none() {
                return Ok(());
            }
            changed(&self.client, &self.all, true, Of::Deletes, now.header.revision).await?;
        }
    }

    /// All are there: the round begins.
    async fn begin(&self, own: &Bytes) -> Result<()> {
        let both = vec![Compare::absent(&self.ready), Compare::exists(own)];
        self.client.txn(Txn::when(both).then(Op::put(&self.ready, ""))).await?;
        Ok(())
    }

    /// Ends the round if nobody is left in it.
    async fn clear(&self) -> Result<()> {
        let nobody = Compare::absent(&self.members).for_prefix();
        self.client.txn(Txn::when(nobody).then(Op::delete(&self.ready))).await?;
        Ok(())
    }
}
