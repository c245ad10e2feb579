//! Clients that hold leases, by both wires: they grant one, put a key under it, keep it alive for a while, and let it end
//! or end it.
//!
//! Invariants:
//! - A renewal counts from before it left.
//! - A lease is called gone only where its key was missing in a linearizable read; nothing else deletes that key.

use std::time::Duration;

use etcd_client::{Error as EtcdError, LeaseGrantOptions, PutOptions};
use futures::FutureExt as _;
use quorate::{LeaseId, Reason};
use quorate_checkers::history::{Answer, Done, Input, Learned, Outcome, Txn};
use tokio::time::timeout;

use crate::convert::kv;
use crate::etcd::{Etcd, PATIENCE, Told, revision};
use crate::native::{Native, did_not, put};
use crate::town::Town;

/// Holds leases, one after the other, until it is over.
pub(crate) struct Holder {
    wire: Wire,
}

enum Wire {
    Native(Box<Native>),
    Etcd(Box<Etcd>),
}

/// What became of a request about a lease.
pub(crate) enum Learnt {
    /// Granted or renewed for so long, in ms.
    Alive(u64),
    /// It certainly was not.
    No,
    Maybe,
}

impl Holder {
    pub fn native(client: Native) -> Self {
        Self { wire: Wire::Native(Box::new(client)) }
    }

    pub fn etcd(client: Etcd) -> Self {
        Self { wire: Wire::Etcd(Box::new(client)) }
    }

    pub async fn live(mut self) {
        while self.thinks().await {
            self.hold().await;
        }
    }

    async fn thinks(&mut self) -> bool {
        match &mut self.wire {
            Wire::Native(client) => client.town.think(&mut client.dice, 1).await,
            Wire::Etcd(client) => client.town.think(&mut client.dice, 1).await,
        }
    }

    fn town(&self) -> &Town {
        match &self.wire {
            Wire::Native(client) => &client.town,
            Wire::Etcd(client) => &client.town,
        }
    }

    fn between_ms(&mut self, low: u64, high: u64) -> Duration {
        match &mut self.wire {
            Wire::Native(client) => client.dice.between_ms(low, high),
            Wire::Etcd(client) => client.dice.between_ms(low, high),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        match &mut self.wire {
            Wire::Native(client) => client.dice.below(bound),
            Wire::Etcd(client) => client.dice.below(bound),
        }
    }

    async fn hold(&mut self) {
        let whole_seconds = matches!(self.wire, Wire::Etcd(_));
        let ttl_ms = if whole_seconds { 2_000 } else { 1_000 + 500 * self.below(5) as u64 };
        let Some(lease) = LeaseId::new(rand::random_range(1..i64::MAX)) else { return };
        let recorder = self.town().recorder.clone();
        let invoked = recorder.moment();
        let granted = self.grant(lease, ttl_ms).await;
        if !self.note(lease, invoked, &granted, ttl_ms) {
            return;
        }
        let key = format!("{}/{lease}", self.town().held());
        if !self.put(&key, lease).await {
            return;
        }
        for _ in 0..self.below(6) {
            // Some come late, some too late.
            let pause = [30, 30, 30, 60, 95, 110][self.below(6)];
            self.town().pause(Duration::from_millis(ttl_ms * pause / 100)).await;
            if self.town().is_over() {
                return;
            }
            let invoked = recorder.moment();
            let renewed = self.renew(lease).await;
            let gone = matches!(renewed, Learnt::No);
            self.note(lease, invoked, &renewed, ttl_ms);
            self.look(&key, lease).await;
            if gone {
                return;
            }
        }
        if self.below(5) == 0 {
            self.revoke(lease).await;
        }
        // It ends by itself; look now and then whether it has.
        for _ in 0..self.below(12) {
            let pause = self.between_ms(50, ttl_ms / 2);
            self.town().pause(pause).await;
            if self.town().is_over() || self.look(&key, lease).await {
                return;
            }
        }
    }

    /// Records what became of a grant or a renewal; whether it lives.
    fn note(&self, lease: LeaseId, invoked: u64, learnt: &Learnt, ttl_ms: u64) -> bool {
        let recorder = &self.town().recorder;
        match learnt {
            Learnt::Alive(ttl_ms) => recorder.lease(lease.get(), invoked, Learned::Alive { ttl_ms: *ttl_ms }),
            Learnt::Maybe => recorder.lease(lease.get(), invoked, Learned::MaybeRenewed { ttl_ms }),
            Learnt::No => {}
        }
        matches!(learnt, Learnt::Alive(_))
    }

    async fn grant(&mut self, lease: LeaseId, ttl_ms: u64) -> Learnt {
        match &mut self.wire {
            Wire::Native(native) => {
                let ttl = Duration::from_millis(ttl_ms);
                match native.client.lease(ttl).id(lease).grant_unattended().await {
                    Ok(granted) => Learnt::Alive(ms(granted.ttl)),
                    Err(error) => failed(native, &error),
                }
            }
            Wire::Etcd(etcd) => {
                let Some(mut client) = etcd.client().await else { return Learnt::No };
                let options = LeaseGrantOptions::new().with_id(lease.get());
                let granted =
                    timeout(PATIENCE, client.lease_grant((ttl_ms / 1_000).cast_signed(), Some(options))).await;
                if let Ok(Ok(granted)) = granted {
                    return Learnt::Alive(u64::try_from(granted.ttl()).unwrap_or_default() * 1_000);
                }
                etcd.move_on();
                Learnt::Maybe
            }
        }
    }

    async fn renew(&mut self, lease: LeaseId) -> Learnt {
        match &mut self.wire {
            Wire::Native(native) => match native.client.lease_keep_alive(lease).await {
                Ok(ttl) => Learnt::Alive(ms(ttl)),
                Err(error) if error.reason() == Some(Reason::LeaseNotFound) => Learnt::No,
                Err(error) => {
                    native.town.recorder.look_at(&error);
                    // Whether it did is told of writes only, and this is none to the library.
                    Learnt::Maybe
                }
            },
            Wire::Etcd(etcd) => {
                if let Ok(learnt) = renew_etcd(etcd, lease).await {
                    return learnt;
                }
                etcd.move_on();
                Learnt::Maybe
            }
        }
    }

    /// True when the key stands.
    async fn put(&mut self, key: &str, lease: LeaseId) -> bool {
        let value = format!("held {lease}");
        let input = Input::Txn(Txn::of(put(key, &value, lease.get())));
        let outcome = match &mut self.wire {
            Wire::Native(native) => {
                let begun = native.town.recorder.begin(native.id, input);
                let answer = native.client.put(key.to_owned(), value).lease(lease).await;
                let answer = answer.map(|answer| {
                    let done = Done::Put { key: key.into(), previous: None };
                    (answer.header.revision.get(), Answer::of(vec![done]))
                });
                let outcome = native.town.recorder.outcome(answer);
                native.town.recorder.end(begun, outcome.clone());
                outcome
            }
            Wire::Etcd(etcd) => {
                let Some(mut client) = etcd.client().await else { return false };
                let call = async move {
                    let options = PutOptions::new().with_lease(lease.get());
                    let answer = client.put(key, value, Some(options)).await?;
                    let done = Done::Put { key: key.into(), previous: None };
                    Ok((revision(answer.header())?, Answer::of(vec![done])))
                };
                etcd.record(input, call.boxed()).await
            }
        };
        matches!(outcome, Outcome::Done { .. })
    }

    /// What comes of it is not told with a revision, so it is not an operation that was done; but from here on the lease
    /// may be gone.
    async fn revoke(&mut self, lease: LeaseId) {
        let recorder = self.town().recorder.clone();
        let invoked = recorder.moment();
        recorder.lease(lease.get(), invoked, Learned::Revoked);
        match &mut self.wire {
            Wire::Native(native) => {
                if let Err(error) = native.client.lease_revoke(lease).await {
                    recorder.look_at(&error);
                }
            }
            Wire::Etcd(etcd) => {
                let Some(mut client) = etcd.client().await else { return };
                if !matches!(timeout(PATIENCE, client.lease_revoke(lease.get())).await, Ok(Ok(_))) {
                    etcd.move_on();
                }
            }
        }
    }

    /// Whether its key is gone.
    async fn look(&mut self, key: &str, lease: LeaseId) -> bool {
        let recorder = self.town().recorder.clone();
        let invoked = recorder.moment();
        let outcome = match &mut self.wire {
            Wire::Native(native) => {
                let begun = recorder.begin(native.id, Input::get(key));
                let answer = native.client.get(key.to_owned()).await;
                let answer = answer.map(|answer| {
                    let found = answer.kv.iter().map(kv).collect();
                    (answer.header.revision.get(), Answer::of(vec![Done::Read(found)]))
                });
                let outcome = recorder.outcome(answer);
                recorder.end(begun, outcome.clone());
                outcome
            }
            Wire::Etcd(etcd) => {
                let Some(client) = etcd.client().await else { return false };
                etcd.get(client, key).await
            }
        };
        let Outcome::Done { answer, .. } = outcome else { return false };
        let is_gone = answer.results.iter().all(|done| matches!(done, Done::Read(kvs) if kvs.is_empty()));
        recorder.lease(lease.get(), invoked, if is_gone { Learned::Gone } else { Learned::Seen });
        is_gone
    }
}

fn failed(native: &Native, error: &quorate::Error) -> Learnt {
    native.town.recorder.look_at(error);
    if did_not(error) { Learnt::No } else { Learnt::Maybe }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Renews a lease through etcd's wire.
pub(crate) async fn renew_etcd(etcd: &mut Etcd, lease: LeaseId) -> Told<Learnt> {
    let Some(mut client) = etcd.client().await else { return Ok(Learnt::Maybe) };
    let renewing = async {
        // The first answer on a stream is taken by the library, which does not tell its time to live.
        let (mut keeper, mut answers) = match client.lease_keep_alive(lease.get()).await {
            Ok(opened) => opened,
            Err(EtcdError::LeaseKeepAliveError(said)) if said.contains("not found") => return Ok(Learnt::No),
            Err(error) => return Err(error.to_string()),
        };
        keeper.keep_alive().await.map_err(|error| error.to_string())?;
        match answers.message().await {
            Ok(Some(answer)) if answer.ttl() > 0 => {
                Ok(Learnt::Alive(u64::try_from(answer.ttl()).unwrap_or_default() * 1_000))
            }
            Ok(Some(_)) => Ok(Learnt::No),
            Ok(None) => Err("the stream ended".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    timeout(PATIENCE, renewing.boxed()).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
