//! A claim that was granted, for as long as its guard is there.
//!
//! Invariants:
//! - Once lost, it stays lost.
//! - It counts as lost no later than its lease may be over, and as soon as its key is seen to be deleted.
//! - A lease for a lock delay is never revoked for a lock that was lost: that is what it is there for.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{LeaseId, Token};

use super::place::Gone;
use super::waiting::Granted;
use super::watch::Watched;
use super::{Place, Session};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Lost, Result};
use crate::lease::{Hold, LeaseGuard};
use crate::tasks::{self, Task};
use crate::txn::{Compare, Relation};

/// What a guard has.
pub(crate) struct Held {
    client: Client,
    place: Place,
    key: Bytes,
    token: Token,
    lease: Arc<Hold>,
    /// `None` once it is given up.
    session: Option<Session>,
    delay: Delay,
    watched: Arc<Watched>,
}

impl Held {
    pub(super) fn new(client: &Client, place: Place, granted: Granted, session: Session, delay: Delay) -> Self {
        let Granted { key, token, revision, .. } = granted;
        let watched = client.shared().hold_watch.watch(client.shared(), key.clone(), token, revision);
        let lease = session.hold.clone();
        Self { client: client.clone(), place, key, token, lease, session: Some(session), delay, watched }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn key(&self) -> &Bytes {
        &self.key
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    pub(crate) fn lease(&self) -> LeaseId {
        self.lease.id
    }

    /// An error if it is lost, by the clock or by what was heard.
    pub(crate) fn check(&self) -> Result<()> {
        match self.watched.lost().or_else(|| self.lease.lost()) {
            Some(reason) => Err(self.lost_by(reason)),
            None => Ok(()),
        }
    }

    /// Completes when it is lost.
    pub(crate) async fn until_lost(&self) -> Lost {
        tokio::select! {
            biased;
            reason = self.watched.until_lost() => reason,
            reason = self.lease.until_lost() => reason,
        }
    }

    /// The member says that it is gone.
    pub(crate) fn lose(&self, reason: Lost) {
        self.watched.lose(reason);
    }

    /// What a transaction must compare in order to depend on it.
    pub(crate) fn fence(&self, exclusive: bool) -> Vec<Compare> {
        let revision = quorate_proto::Revision(self.token.0);
        let mut compares = vec![Compare::create_revision(self.key.clone(), Relation::Equal, revision)];
        if exclusive {
            let mut queue = self.place.name.to_vec();
            queue.push(b'/');
            let before = quorate_proto::Revision(self.token.0 - 1);
            compares.push(Compare::create_revision(queue, Relation::Greater, before).for_prefix());
        }
        compares
    }

    /// Gives it up. An error of kind [`ErrorKind::Reacquire`]: it was lost before.
    pub(crate) async fn release(mut self) -> Result<()> {
        // Given up in the background, when it is lost and when this fails.
        self.check()?;
        let gone = match &self.session {
            // Its own session ends with it, which deletes the key: one write less, and one that is applied once.
            Some(Session { own: Some(own), .. }) if !self.place.delayed => {
                match self.client.lease_revoke(own.id()).await {
                    Ok(0) => Gone::Before,
                    Ok(_) => Gone::Now,
                    Err(error) if error.kind() == ErrorKind::Reacquire => Gone::Before,
                    Err(error) => return Err(error),
                }
            }
            _ => self.place.release(&self.client, Some(self.token)).await?,
        };
        let lost = match gone {
            Gone::Now => None,
            Gone::Before => Some(self.watched.lost().unwrap_or(Lost::Gone)),
            Gone::Either => self.lease.lost(),
        };
        if gone == Gone::Now {
            self.delay.end(&self.client);
        }
        if let Some(own) = self.session.take().and_then(|session| session.own).filter(|_| !self.place.delayed) {
            // It is revoked already.
            own.leave();
        }
        lost.map_or(Ok(()), |reason| Err(self.lost_by(reason)))
    }

    /// Its session has ended, and the claim with it: there is nothing to give up.
    pub(crate) fn ended(mut self) {
        self.session = None;
    }

    fn lost_by(&self, reason: Lost) -> Error {
        Error::HoldLost { name: self.place.label(), reason }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What is delayed after a loss stays so: to give it up now would end the delay as well.
        let stays_delayed = self.place.delayed && self.check().is_err();
        if self.session.is_some() && !stays_delayed {
            let delay = std::mem::replace(&mut self.delay, Delay(None));
            release_later(&self.client, &self.place, self.session.take(), delay);
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with token {}", self.place.label(), self.token)
    }
}

/// Keeps the lease of a lock delay alive; dropped, it leaves the lease to its time.
pub(super) struct Delay(Option<LeaseGuard>);

impl Delay {
    pub(super) fn new(guard: Option<LeaseGuard>) -> Self {
        Self(guard)
    }

    /// The lock was released in good order: there is nothing to delay.
    fn end(&mut self, client: &Client) {
        let Some(lease) = self.0.take().map(LeaseGuard::leave) else { return };
        let (client, runtime) = (client.clone(), client.shared().runtime.clone());
        tasks::spawn_detached(&runtime, Task::Release, async move {
            if let Err(error) = client.lease_revoke(lease).await {
                tracing::debug!(%lease, %error, "the lease of a lock delay ends by itself");
            }
        });
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            guard.leave();
        }
    }
}

/// Gives a claim up in the background, as well as it goes.
pub(super) fn release_later(client: &Client, place: &Place, session: Option<Session>, mut delay: Delay) {
    let own = session.as_ref().is_some_and(|session| session.own.is_some());
    if own && !place.delayed {
        // The end of the session, which is dropped here, suffices.
        return;
    }
    let (client, place, runtime) = (client.clone(), place.clone(), client.shared().runtime.clone());
    tasks::spawn_detached(&runtime, Task::Release, async move {
        match place.release(&client, None).await {
            Ok(Gone::Now) => delay.end(&client),
            Ok(Gone::Before | Gone::Either) => {}
            Err(error) => tracing::debug!(claim = %place.label(), %error, "not given back; it ends with its session"),
        }
        drop(session);
    });
}
