//! Clients of a simulated cluster, of both wires: each does one thing after the other on a few keys that all share.
//!
//! Invariants:
//! - Every value is written by one request only, so that what is read says who wrote it.
//! - A write that was not answered is asked for again at another member under the same id, or left unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::v1;
use quorate_tests::checkers::history::{
    Action, Answer, Compare, Done, Input, Kv, Outcome, Relation, RequestId, Span, Target, Txn,
};
use tokio::sync::Notify;
use tokio::time::sleep;
use tonic::Status;

use crate::dice::Dice;
use crate::net::Net;
use crate::recorder::{Begun, Recorder, etcd_kv, kv, outcome};
use crate::way::{Way, ask};
use crate::world::Bug;

/// How long clients wait for an answer, each of them always as long.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(6)];
/// Attempts of one write.
const ATTEMPTS: u32 = 3;
/// Keys that all clients share.
pub const KEYS: usize = 6;
/// Their directory.
pub const DIRECTORY: &str = "/sim";

/// What all clients share. Cheap to clone.
#[derive(Clone)]
pub struct Town {
    pub net: Arc<Net>,
    pub recorder: Recorder,
    /// Members that clients know of, those that are gone among them.
    pub known: Arc<Mutex<Vec<u64>>>,
    /// Time to go home.
    pub over: Arc<AtomicBool>,
    /// Longest pause between two requests.
    pub think_ms: u64,
    /// Told of each lock that is let go of.
    pub released: Arc<Notify>,
    /// Put in on purpose.
    pub bug: Option<Bug>,
}

impl Town {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// One client.
pub struct Client {
    pub id: u64,
    pub town: Town,
    pub dice: Dice,
    member: u64,
    written: u64,
    sequence: u64,
    seen_index: u64,
    patience: Duration,
    /// A version that was seen of a key, for conditions.
    seen: Option<Kv>,
    /// It knows one member only.
    stays: bool,
}

pub fn key(number: usize) -> String {
    format!("{DIRECTORY}/{number}")
}

fn read(span: Span) -> Action {
    Action::Read { span, limit: None }
}

impl Client {
    pub fn new(id: u64, town: Town, dice: Dice) -> Self {
        let member = *dice.of(&town.known.lock());
        let patience = *dice.of(&PATIENCE);
        Self { id, town, dice, member, written: 0, sequence: 0, seen_index: 0, patience, seen: None, stays: false }
    }

    /// One that asks this member only, and waits for so long.
    pub fn at(self, member: u64, patience: Duration) -> Self {
        Self { member, patience, stays: true, ..self }
    }

    pub fn way(&self) -> Way {
        Way { net: Arc::clone(&self.town.net), client: self.id, member: self.member, breaks: false }
    }

    /// The way to another member.
    pub fn move_on(&mut self) {
        if !self.stays {
            self.member = *self.dice.of(&self.town.known.lock());
        }
    }

    pub async fn think(&self) {
        sleep(self.dice.between_ms(0, self.town.think_ms)).await;
    }

    /// Whether this bug was put in on purpose.
    pub fn has(&self, bug: Bug) -> bool {
        self.town.bug == Some(bug)
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.id, self.written)
    }

    fn any_key(&self) -> String {
        key(self.dice.below(KEYS))
    }

    fn kvs(&self) -> v1::kv_client::KvClient<Way> {
        v1::kv_client::KvClient::new(self.way())
    }

    fn etcd(&self) -> pb::kv_client::KvClient<Way> {
        pb::kv_client::KvClient::new(self.way())
    }

    /// Speaks the native wire until it is over.
    pub async fn live(mut self) {
        while !self.town.is_over() {
            self.think().await;
            if self.dice.happens(50) {
                self.move_on();
            }
            let key = self.any_key();
            match self.dice.below(100) {
                0..30 => self.get(&key, false).await,
                30..36 => self.get(&key, true).await,
                36..44 => self.range().await,
                44..66 => self.put(&key).await,
                66..74 => self.put_if_unchanged(&key).await,
                74..82 => self.delete(&key).await,
                _ => self.swap(&key).await,
            }
        }
    }

    /// Speaks etcd's wire until it is over.
    pub async fn live_etcd(mut self) {
        while !self.town.is_over() {
            self.think().await;
            if self.dice.happens(50) {
                self.move_on();
            }
            let key = self.any_key();
            match self.dice.below(100) {
                0..40 => self.etcd_get(&key).await,
                40..65 => self.etcd_put(&key).await,
                65..75 => self.etcd_delete(&key).await,
                _ => self.etcd_txn(&key).await,
            }
        }
    }

    /// Notes the end; whoever had no answer tries another member next.
    fn finish(&mut self, begun: Begun, answer: Result<(i64, Answer), Status>) {
        let outcome = outcome(&self.town.recorder, answer);
        if !matches!(outcome, Outcome::Done { .. }) {
            self.move_on();
        }
        self.town.recorder.end(begun, outcome);
    }

    /// The next attempt is at another member, at once or a good while later.
    async fn turn(&mut self, attempts: &Attempts) {
        if matches!(attempts.last, Some(Outcome::Done { .. })) {
            return;
        }
        self.move_on();
        if attempts.go_on() && self.dice.happens(300) {
            sleep(self.dice.between_ms(500, 5_000)).await;
        }
    }

    pub async fn get(&mut self, key: &str, serializable: bool) {
        let txn = Txn { serializable, ..Txn::of(read(Span::Key(key.into()))) };
        let begun = self.town.recorder.begin(self.id, None, Input::Txn(txn));
        let request = v1::GetRequest {
            key: key.to_owned().into(),
            revision: 0,
            read: Some(v1::ReadOptions { serializable, min_revision: 0 }),
        };
        let mut kvs = self.kvs();
        let answer = ask(self.patience, request, |request| async move { kvs.get(request).await }).await;
        let answer = answer.map(|answer| {
            let found: Vec<Kv> = answer.kv.into_iter().map(kv).collect();
            self.seen = found.first().cloned().or(self.seen.take());
            (answer.header.unwrap().revision, Answer::of(vec![Done::Read(found)]))
        });
        self.finish(begun, answer);
    }

    async fn range(&mut self) {
        let (start, end) = (format!("{DIRECTORY}/"), format!("{DIRECTORY}0"));
        let input = Input::range(&start, Some(end.clone().into()));
        let begun = self.town.recorder.begin(self.id, None, input);
        let request = v1::RangeRequest { start: start.into(), end: end.into(), ..Default::default() };
        let mut kvs = self.kvs();
        let answer = ask(self.patience, request, |request| async move { kvs.range(request).await }).await;
        let answer = answer.map(|answer| {
            let found = answer.kvs.into_iter().map(kv).collect();
            (answer.header.unwrap().revision, Answer::of(vec![Done::Read(found)]))
        });
        self.finish(begun, answer);
    }

    /// A new request's id, as the wire and the history have it.
    fn request(&mut self) -> (v1::WriteId, RequestId) {
        self.sequence += 1;
        let id = v1::WriteId {
            client_id: self.id,
            sequence: self.sequence,
            lowest_unacknowledged: self.sequence,
            seen_log_index: self.seen_index,
        };
        (id, RequestId { client: self.id, sequence: self.sequence })
    }

    pub async fn put(&mut self, key: &str) {
        let (id, request) = self.request();
        let value = self.value();
        let begun = self.town.recorder.begin(self.id, Some(request), Input::put(key, &value));
        let mut attempts = Attempts::default();
        while attempts.go_on() {
            let put = v1::PutRequest {
                id: Some(id).filter(|_| !self.has(Bug::NoRequestId)),
                key: key.to_owned().into(),
                value: value.clone().into(),
                ..Default::default()
            };
            let mut kvs = self.kvs();
            let answer = ask(self.patience, put, |request| async move { kvs.put(request).await }).await;
            let answer = answer.map(|answer| {
                self.seen_index = self.seen_index.max(answer.log_index);
                let done = Done::Put { key: answer.key.to_vec().into(), previous: None };
                (answer.header.unwrap().revision, Answer::of(vec![done]))
            });
            attempts.note(outcome(&self.town.recorder, answer));
            self.turn(&attempts).await;
        }
        let told = attempts.outcome();
        self.town.recorder.end(begun, told.clone());
        if self.dice.happens(80) {
            self.put_once_more(id, key, value, &told).await;
        }
    }

    /// Asks for the same again much later, as somebody does who has lost the answer: it is the same, or none.
    async fn put_once_more(&mut self, id: v1::WriteId, key: &str, value: String, told: &Outcome) {
        let Outcome::Done { revision: before, .. } = told else { return };
        sleep(self.dice.between_ms(200, 4_000)).await;
        self.move_on();
        let put = v1::PutRequest {
            id: Some(id).filter(|_| !self.has(Bug::NoRequestId)),
            key: key.to_owned().into(),
            value: value.into(),
            ..Default::default()
        };
        let mut kvs = self.kvs();
        let answer = ask(self.patience, put, |request| async move { kvs.put(request).await }).await;
        let revision = answer.ok().and_then(|answer| answer.header).map(|header| header.revision);
        if let Some(revision) = revision.filter(|revision| revision != before) {
            let text = format!("a write of {id:?} was answered with revision {before}, and once more with {revision}");
            self.town.recorder.fault(text);
        }
    }

    async fn delete(&mut self, key: &str) {
        let (id, request) = self.request();
        let begun = self.town.recorder.begin(self.id, Some(request), Input::delete(key));
        let mut attempts = Attempts::default();
        while attempts.go_on() {
            let delete = v1::DeleteRequest { id: Some(id), key: key.to_owned().into(), ..Default::default() };
            let mut kvs = self.kvs();
            let answer = ask(self.patience, delete, |request| async move { kvs.delete(request).await }).await;
            let answer = answer.map(|answer| {
                self.seen_index = self.seen_index.max(answer.log_index);
                let done = Done::Deleted(u64::try_from(answer.deleted).unwrap());
                (answer.header.unwrap().revision, Answer::of(vec![done]))
            });
            attempts.note(outcome(&self.town.recorder, answer));
            self.turn(&attempts).await;
        }
        self.town.recorder.end(begun, attempts.outcome());
    }

    /// A put that expects what was seen; a refused one is a transaction whose compare did not hold.
    pub async fn put_if_unchanged(&mut self, key: &str) {
        let mod_revision = self.seen.as_ref().filter(|kv| kv.key == key.into()).map_or(0, |kv| kv.mod_revision);
        let value = self.value();
        let target = Target::ModRevision(mod_revision);
        let compare = Compare { key: key.into(), relation: Relation::Equal, target };
        let put = Action::Put { key: key.into(), value: value.as_str().into(), lease: 0 };
        let txn = Txn { compares: vec![compare], ..Txn::of(put) };
        let begun = self.town.recorder.begin(self.id, None, Input::Txn(txn));
        let what = if mod_revision == 0 {
            v1::expect::What::Absent(true)
        } else {
            v1::expect::What::ModRevision(mod_revision)
        };
        let request = v1::PutRequest {
            key: key.to_owned().into(),
            value: value.into(),
            expect: Some(v1::Expect { what: Some(what) }),
            ..Default::default()
        };
        let mut kvs = self.kvs();
        let answer = ask(self.patience, request, |request| async move { kvs.put(request).await }).await;
        let answer = answer.map(|answer| {
            let done = Done::Put { key: answer.key.to_vec().into(), previous: None };
            (answer.header.unwrap().revision, Answer::of(vec![done]))
        });
        self.finish(begun, answer);
    }

    /// Writes two keys if one is as seen; else reads both.
    async fn swap(&mut self, key: &str) {
        let other = self.any_key();
        let seen = self.seen.as_ref().filter(|kv| kv.key == key.into()).map(|kv| kv.value.clone());
        let (one, two) = (self.value(), self.value());
        let put = |key: &str, value: &str| Action::Put { key: key.into(), value: value.into(), lease: 0 };
        let target = seen.clone().map_or(Target::Exists(false), Target::Value);
        let mut then = vec![put(key, &one)];
        if other != key {
            then.push(put(&other, &two));
        }
        let both = vec![read(Span::Key(key.into())), read(Span::Key(other.as_str().into()))];
        let compare = Compare { key: key.into(), relation: Relation::Equal, target };
        let txn = Txn { compares: vec![compare], then, otherwise: both, ..Txn::default() };
        let begun = self.town.recorder.begin(self.id, None, Input::Txn(txn.clone()));
        let mut kvs = self.kvs();
        let answer = ask(self.patience, txn_request(&txn), |request| async move { kvs.txn(request).await }).await;
        let answer = answer.and_then(|answer| {
            if answer.replayed && !answer.succeeded {
                // What was read is not remembered.
                return Err(Status::unknown("replayed"));
            }
            let results = answer.responses.into_iter().map(txn_done).collect();
            let done = Answer { succeeded: answer.succeeded, results };
            if let Some(Done::Read(found)) = done.results.first() {
                self.seen = found.first().cloned();
            }
            Ok((answer.header.unwrap().revision, done))
        });
        self.finish(begun, answer);
    }

    async fn etcd_get(&mut self, key: &str) {
        let begun = self.town.recorder.begin(self.id, None, Input::get(key));
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let mut kvs = self.etcd();
        let answer = ask(self.patience, request, |request| async move { kvs.range(request).await }).await;
        let answer = answer.map(|answer| {
            let found: Vec<Kv> = answer.kvs.into_iter().map(etcd_kv).collect();
            self.seen = found.first().cloned().or(self.seen.take());
            (answer.header.unwrap().revision, Answer::of(vec![Done::Read(found)]))
        });
        self.finish(begun, answer);
    }

    async fn etcd_put(&mut self, key: &str) {
        let value = self.value();
        let begun = self.town.recorder.begin(self.id, None, Input::put(key, &value));
        let request =
            pb::PutRequest { key: key.to_owned().into(), value: value.into(), prev_kv: true, ..Default::default() };
        let mut kvs = self.etcd();
        let answer = ask(self.patience, request, |request| async move { kvs.put(request).await }).await;
        let answer = answer.map(|answer| {
            let done = Done::Put { key: key.into(), previous: Some(answer.prev_kv.map(etcd_kv)) };
            (answer.header.unwrap().revision, Answer::of(vec![done]))
        });
        self.finish(begun, answer);
    }

    async fn etcd_delete(&mut self, key: &str) {
        let begun = self.town.recorder.begin(self.id, None, Input::delete(key));
        let request = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        let mut kvs = self.etcd();
        let answer = ask(self.patience, request, |request| async move { kvs.delete_range(request).await }).await;
        let answer = answer.map(|answer| {
            let done = Done::Deleted(u64::try_from(answer.deleted).unwrap());
            (answer.header.unwrap().revision, Answer::of(vec![done]))
        });
        self.finish(begun, answer);
    }

    /// Writes a key if it is at the version seen, else reads it.
    async fn etcd_txn(&mut self, key: &str) {
        let mod_revision = self.seen.as_ref().filter(|kv| kv.key == key.into()).map_or(0, |kv| kv.mod_revision);
        let value = self.value();
        let txn = Txn {
            compares: vec![Compare {
                key: key.into(),
                relation: Relation::Equal,
                target: Target::ModRevision(mod_revision),
            }],
            then: vec![Action::Put { key: key.into(), value: value.as_str().into(), lease: 0 }],
            otherwise: vec![read(Span::Key(key.into()))],
            ..Txn::default()
        };
        let begun = self.town.recorder.begin(self.id, None, Input::Txn(txn));
        let bytes = || key.to_owned().into();
        let request = pb::TxnRequest {
            compare: vec![pb::Compare {
                key: bytes(),
                target: pb::compare::CompareTarget::Mod.into(),
                result: pb::compare::CompareResult::Equal.into(),
                target_union: Some(pb::compare::TargetUnion::ModRevision(mod_revision)),
                ..Default::default()
            }],
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                    key: bytes(),
                    value: value.into(),
                    ..Default::default()
                })),
            }],
            failure: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
                    key: bytes(),
                    ..Default::default()
                })),
            }],
        };
        let mut kvs = self.etcd();
        let answer = ask(self.patience, request, |request| async move { kvs.txn(request).await }).await;
        let answer = answer.map(|answer| {
            let results = answer.responses.into_iter().map(|one| match one.response.unwrap() {
                pb::response_op::Response::ResponseRange(found) => {
                    Done::Read(found.kvs.into_iter().map(etcd_kv).collect())
                }
                pb::response_op::Response::ResponsePut(_) => Done::Put { key: key.into(), previous: None },
                other => panic!("not asked for: {other:?}"),
            });
            let done = Answer { succeeded: answer.succeeded, results: results.collect() };
            if let Some(Done::Read(found)) = done.results.first() {
                self.seen = found.first().cloned();
            }
            (answer.header.unwrap().revision, done)
        });
        self.finish(begun, answer);
    }
}

/// Attempts of one write under one id: for whoever asked they are one operation.
#[derive(Default)]
struct Attempts {
    count: u32,
    unknown: Option<Outcome>,
    last: Option<Outcome>,
}

impl Attempts {
    /// Whether to try, or to try again.
    fn go_on(&self) -> bool {
        self.count == 0 || (self.count < ATTEMPTS && matches!(self.last, Some(Outcome::Unknown(_))))
    }

    fn note(&mut self, outcome: Outcome) {
        self.count += 1;
        if matches!(outcome, Outcome::Unknown(_)) {
            self.unknown = Some(outcome.clone());
        }
        self.last = Some(outcome);
    }

    /// A refusal says nothing of the attempts before it.
    fn outcome(self) -> Outcome {
        match self.last {
            Some(Outcome::Refused(_)) if self.unknown.is_some() => self.unknown.unwrap(),
            last => last.unwrap(),
        }
    }
}

/// A transaction as the wire has it.
fn txn_request(txn: &Txn) -> v1::TxnRequest {
    let compares = txn.compares.iter().map(|compare| v1::Compare {
        key: compare.key.as_slice().to_vec().into(),
        relation: v1::compare::Relation::Equal.into(),
        target: Some(match &compare.target {
            Target::Value(value) => v1::compare::Target::Value(value.as_slice().to_vec().into()),
            Target::Exists(exists) => v1::compare::Target::Exists(*exists),
            other => panic!("not asked for here: {other:?}"),
        }),
        ..Default::default()
    });
    let op = |action: &Action| v1::TxnOp {
        op: Some(match action {
            Action::Put { key, value, .. } => v1::txn_op::Op::Put(v1::PutRequest {
                key: key.as_slice().to_vec().into(),
                value: value.as_slice().to_vec().into(),
                ..Default::default()
            }),
            Action::Read { span: Span::Key(key), .. } => {
                v1::txn_op::Op::Get(v1::GetRequest { key: key.as_slice().to_vec().into(), ..Default::default() })
            }
            other => panic!("not asked for here: {other:?}"),
        }),
    };
    v1::TxnRequest {
        compares: compares.collect(),
        then: txn.then.iter().map(op).collect(),
        otherwise: txn.otherwise.iter().map(op).collect(),
        ..Default::default()
    }
}

fn txn_done(response: v1::TxnOpResponse) -> Done {
    match response.response.unwrap() {
        v1::txn_op_response::Response::Get(found) => Done::Read(found.kv.into_iter().map(kv).collect()),
        v1::txn_op_response::Response::Put(put) => Done::Put { key: put.key.to_vec().into(), previous: None },
        other => panic!("not asked for: {other:?}"),
    }
}
