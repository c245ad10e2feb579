//! Clients that hold leases: they grant one, put a key under it, keep it alive for a while, and let it end or end it.
//!
//! Invariants:
//! - A renewal counts from when it was asked for, to the moment before it left.
//! - A lease is called gone only where its key was missing in a linearizable read; nothing else deletes that key.

use std::time::Duration;

use quorate_proto::v1;
use quorate_tests::checkers::history::{Action, Answer, Done, Input, Kv, Learned, Outcome, Txn};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Status;

use crate::clients::Client;
use crate::recorder::{kv, outcome};
use crate::way::{Way, ask, is_not_sent};

const PATIENCE: Duration = Duration::from_secs(2);

/// Holds leases, one after the other, until it is over.
pub struct Holder {
    client: Client,
    count: u64,
}

/// What became of a request about a lease.
pub enum Learnt {
    Yes,
    No,
    Maybe,
}

impl Holder {
    pub fn new(client: Client) -> Self {
        Self { client, count: 0 }
    }

    pub async fn live(mut self) {
        while !self.client.town.is_over() {
            self.client.think().await;
            self.hold().await;
        }
    }

    fn leases(&self) -> v1::lease_client::LeaseClient<Way> {
        v1::lease_client::LeaseClient::new(self.client.way())
    }

    async fn hold(&mut self) {
        self.count += 1;
        // Long ones live to have their remaining time noted.
        let is_long = self.client.dice.happens(300);
        let ttl_ms = if is_long { 8_000 } else { 1_000 + 500 * self.client.dice.below(5) as u64 };
        let lease = i64::try_from(self.client.id * 1_000 + self.count).unwrap();
        let Some(key) = self.begin(lease, ttl_ms).await else { return self.client.move_on() };
        let gone = match self.client.dice.below(10) {
            0..4 => self.renew_now_and_then(&key, lease, ttl_ms, is_long).await,
            8.. if !is_long => self.race(&key, lease, ttl_ms).await,
            _ => self.keep(&key, lease, ttl_ms).await,
        };
        if gone {
            return;
        }
        if self.client.dice.happens(200) {
            self.revoke(lease).await;
        }
        // It ends by itself; look now and then whether it has.
        for _ in 0..self.client.dice.below(12) {
            sleep(self.client.dice.between_ms(50, ttl_ms / 2)).await;
            if self.client.town.is_over() || self.look(&key, lease).await {
                return;
            }
        }
    }

    /// Has a lease granted, and puts a key under it; gives the key if it stands.
    pub async fn begin(&mut self, lease: i64, ttl_ms: u64) -> Option<String> {
        let recorder = self.client.town.recorder.clone();
        let invoked = recorder.trace.moment();
        let grant = v1::GrantRequest { id: None, ttl_ms, lease_id: lease };
        let mut leases = self.leases();
        let granted = ask(PATIENCE, grant, |request| async move { leases.grant(request).await }).await;
        if let Err(status) = granted {
            if !is_not_sent(&status) {
                recorder.lease(lease, invoked, Learned::MaybeRenewed { ttl_ms });
            }
            return None;
        }
        recorder.lease(lease, invoked, Learned::Alive { ttl_ms });
        let key = format!("/held/{lease}");
        self.put(&key, lease).await.then_some(key)
    }

    /// Renews often, or so late that it is nearly over. True: it is gone.
    async fn renew_now_and_then(&mut self, key: &str, lease: i64, ttl_ms: u64, is_long: bool) -> bool {
        for _ in 0..self.client.dice.below(8) {
            let late = is_long || self.client.dice.happens(200);
            let pause = if late { 60 + 10 * self.client.dice.below(5) as u64 } else { 33 };
            sleep(Duration::from_millis(ttl_ms * pause / 100)).await;
            if self.client.town.is_over() {
                return true;
            }
            match self.renew(lease, ttl_ms).await {
                Learnt::Yes => {}
                Learnt::No => return self.look(key, lease).await,
                Learnt::Maybe => self.client.move_on(),
            }
            self.look(key, lease).await;
        }
        false
    }

    /// Has it kept alive by another client, which stays at its member as long as that answers, and looks at all of them
    /// whether it is there. True: it is gone.
    async fn keep(&mut self, key: &str, lease: i64, ttl_ms: u64) -> bool {
        let until = Instant::now() + self.client.dice.between_ms(2_000, 8_000);
        let mut keeper = self.another(0);
        let keeping = tokio::spawn(async move {
            while Instant::now() < until && !keeper.client.town.is_over() {
                sleep(Duration::from_millis(ttl_ms / 3)).await;
                match keeper.renew(lease, ttl_ms).await {
                    Learnt::Yes => {}
                    Learnt::No => break,
                    Learnt::Maybe => keeper.client.move_on(),
                }
            }
        });
        let mut gone = false;
        while !keeping.is_finished() && !gone {
            sleep(self.client.dice.between_ms(50, 400)).await;
            self.client.move_on();
            gone = self.look(key, lease).await;
        }
        keeping.await.unwrap();
        gone || self.client.town.is_over()
    }

    /// Renews it from several sides just when its time is over. True: it is gone.
    async fn race(&mut self, key: &str, lease: i64, ttl_ms: u64) -> bool {
        let mut renewed = Instant::now();
        for round in 1..4 {
            sleep_until(renewed + Duration::from_millis(ttl_ms)).await;
            if self.client.town.is_over() {
                return true;
            }
            let mut racing = JoinSet::new();
            for runner in 0..10 {
                let mut runner = self.another(round * 100 + runner);
                racing.spawn(async move {
                    let sent = Instant::now();
                    matches!(runner.renew(lease, ttl_ms).await, Learnt::Yes).then_some(sent)
                });
                sleep(self.client.dice.between_ms(0, 4)).await;
            }
            let mut last = None;
            while let Some(done) = racing.join_next().await {
                last = last.max(done.unwrap());
            }
            // Two looks: a lease that ends although it was renewed may take a moment for that.
            for _ in 0..2 {
                if self.look(key, lease).await {
                    return true;
                }
                sleep(Duration::from_millis(ttl_ms / 4)).await;
            }
            let Some(last) = last else { break };
            renewed = last;
        }
        false
    }

    /// Of the same id, with dice and a member of its own.
    fn another(&self, name: u64) -> Self {
        let dice = self.client.dice.named(("another", self.count, name));
        Self { client: Client::new(self.client.id, self.client.town.clone(), dice), count: self.count }
    }

    /// True when the key stands.
    async fn put(&mut self, key: &str, lease: i64) -> bool {
        let value = format!("held {lease}");
        let action = Action::Put { key: key.into(), value: value.as_str().into(), lease };
        let recorder = self.client.town.recorder.clone();
        let begun = recorder.begin(self.client.id, None, Input::Txn(Txn::of(action)));
        let request = v1::PutRequest {
            key: key.to_owned().into(),
            value: value.into(),
            owner: Some(v1::put_request::Owner::LeaseId(lease)),
            ..Default::default()
        };
        let mut kvs = v1::kv_client::KvClient::new(self.client.way());
        let answer = ask(PATIENCE, request, |request| async move { kvs.put(request).await }).await;
        let put = answer.is_ok();
        let answer = answer.map(|answer| {
            let done = Done::Put { key: key.into(), previous: None };
            (answer.header.unwrap().revision, Answer::of(vec![done]))
        });
        recorder.end(begun, outcome(&recorder, answer));
        put
    }

    pub async fn renew(&mut self, lease: i64, ttl_ms: u64) -> Learnt {
        let recorder = self.client.town.recorder.clone();
        let invoked = recorder.trace.moment();
        match timeout(PATIENCE, self.keep_alive(lease)).await {
            Ok(Ok(0)) => Learnt::No,
            Ok(Ok(_)) => {
                recorder.lease(lease, invoked, Learned::Alive { ttl_ms });
                Learnt::Yes
            }
            Ok(Err(status)) if is_not_sent(&status) => Learnt::Maybe,
            Ok(Err(_)) | Err(_) => {
                recorder.lease(lease, invoked, Learned::MaybeRenewed { ttl_ms });
                Learnt::Maybe
            }
        }
    }

    /// The time to live that the answer says; 0: there is no such lease.
    async fn keep_alive(&self, lease: i64) -> Result<u64, Status> {
        let requests = tokio_stream::once(v1::KeepAliveRequest { lease_id: lease });
        let mut answers = self.leases().keep_alive(requests).await?.into_inner();
        let answer = answers.message().await?;
        answer.map(|answer| answer.ttl_ms).ok_or_else(|| Status::unavailable("the stream ended without an answer"))
    }

    async fn revoke(&mut self, lease: i64) {
        let recorder = self.client.town.recorder.clone();
        let invoked = recorder.trace.moment();
        // Whatever comes of it: from here on it may be gone.
        recorder.lease(lease, invoked, Learned::Revoked);
        let begun = recorder.begin(self.client.id, None, Input::Revoke { lease });
        let mut leases = self.leases();
        let request = v1::RevokeRequest { id: None, lease_id: lease };
        let answer = ask(PATIENCE, request, |request| async move { leases.revoke(request).await }).await;
        let answer = answer.map(|answer| {
            let done = Done::Deleted(u64::try_from(answer.deleted).unwrap());
            (answer.header.unwrap().revision, Answer::of(vec![done]))
        });
        recorder.end(begun, outcome(&recorder, answer));
    }

    /// Whether its key is gone.
    pub async fn look(&mut self, key: &str, lease: i64) -> bool {
        let recorder = self.client.town.recorder.clone();
        let (invoked, begun) = (recorder.trace.moment(), recorder.begin(self.client.id, None, Input::get(key)));
        let request = v1::GetRequest {
            key: key.to_owned().into(),
            revision: 0,
            read: Some(v1::ReadOptions { serializable: false, min_revision: 0 }),
        };
        let mut kvs = v1::kv_client::KvClient::new(self.client.way());
        let answer = ask(PATIENCE, request, |request| async move { kvs.get(request).await }).await;
        let answer = answer.map(|answer| {
            let found: Vec<Kv> = answer.kv.into_iter().map(kv).collect();
            (answer.header.unwrap().revision, Answer::of(vec![Done::Read(found)]))
        });
        let outcome = outcome(&recorder, answer);
        let found = match &outcome {
            Outcome::Done { answer, .. } => {
                Some(answer.results.iter().any(|done| matches!(done, Done::Read(kvs) if !kvs.is_empty())))
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        };
        recorder.end(begun, outcome);
        match found {
            Some(true) => recorder.lease(lease, invoked, Learned::Seen),
            Some(false) => recorder.lease(lease, invoked, Learned::Gone),
            None => self.client.move_on(),
        }
        found == Some(false)
    }
}
