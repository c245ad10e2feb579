//! Clients of keys, by the crate `quorate`: each does one thing after the other on a few keys that all share.
//!
//! Invariants:
//! - Every value is written by one request only, so that what is read says who wrote it.
//! - What the library repeats by itself, under one request id, is one operation.

use quorate::{Client, Compare as When, Happened, Op, OpResult, Revision, Txn as Wire};
use quorate_checkers::history::{Action, Answer, Compare, Done, Input, Kv, Outcome, Relation, Span, Target, Txn};

use crate::convert::kv;
use crate::dice::Dice;
use crate::town::{Town, below};

/// Keys that all clients share.
pub(crate) const KEYS: usize = 6;

/// One client.
pub(crate) struct Native {
    pub id: u64,
    pub town: Town,
    pub dice: Dice,
    pub client: Client,
    written: u64,
    /// A version that was seen of a key, for conditions.
    seen: Option<Kv>,
}

pub(crate) fn read(span: Span) -> Action {
    Action::Read { span, limit: None }
}

pub(crate) fn put(key: &str, value: &str, lease: i64) -> Action {
    Action::Put { key: key.into(), value: value.into(), lease }
}

type Answered = quorate::Result<(i64, Answer)>;

impl Native {
    pub fn new(id: u64, town: Town, mut dice: Dice) -> quorate::Result<Self> {
        let client = town.client(&mut dice)?;
        Ok(Self { id, town, dice, client, written: 0, seen: None })
    }

    /// Asks until it is over.
    pub async fn live(mut self) {
        while self.town.think(&mut self.dice, 1).await {
            let key = self.any_key();
            match self.dice.below(100) {
                0..28 => self.get(&key, false).await,
                28..34 => self.get(&key, true).await,
                34..42 => self.range().await,
                42..60 => self.put(&key).await,
                60..68 => self.put_if_unchanged(&key).await,
                68..76 => self.delete(&key).await,
                76..80 => self.put_sequential().await,
                _ => self.swap(&key).await,
            }
        }
    }

    fn any_key(&mut self) -> String {
        format!("{}/{}", self.town.keys(), self.dice.below(KEYS))
    }

    /// One that nobody else writes.
    pub fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.id, self.written)
    }

    fn remember(&mut self, found: &[Kv]) {
        self.seen = found.first().cloned().or(self.seen.take());
    }

    /// What was seen of this key last.
    fn seen(&self, key: &str) -> Option<&Kv> {
        self.seen.as_ref().filter(|kv| kv.key == key.into())
    }

    async fn record(&mut self, input: Input, call: impl Future<Output = Answered>) {
        let begun = self.town.recorder.begin(self.id, input);
        let answered = call.await;
        let outcome = self.town.recorder.outcome(answered);
        if let Outcome::Done { answer, .. } = &outcome
            && let Some(Done::Read(found)) = answer.results.first()
        {
            self.remember(found);
        }
        self.town.recorder.end(begun, outcome);
    }

    async fn get(&mut self, key: &str, serializable: bool) {
        let txn = Txn { serializable, ..Txn::of(read(Span::Key(key.into()))) };
        let call = self.client.get(key.to_owned());
        let call = if serializable { call.serializable() } else { call };
        self.record(Input::Txn(txn), async move {
            let answer = call.await?;
            let found = answer.kv.iter().map(kv).collect();
            Ok((answer.header.revision.get(), Answer::of(vec![Done::Read(found)])))
        })
        .await;
    }

    async fn range(&mut self) {
        let (start, end) = below(&self.town.keys());
        let input = Input::range(&start, Some(end.as_str().into()));
        let call = self.client.range(start, end);
        self.record(input, async move {
            let answer = call.await?;
            let found = answer.kvs.iter().map(kv).collect();
            Ok((answer.header.revision.get(), Answer::of(vec![Done::Read(found)])))
        })
        .await;
    }

    async fn put(&mut self, key: &str) {
        let value = self.value();
        let input = Input::put(key, &value);
        let previous = self.dice.happens(500);
        let call = self.client.put(key.to_owned(), value);
        let call = if previous { call.previous() } else { call };
        self.record(input, async move {
            let answer = call.await?;
            // Nothing is told of what stood there by a repetition.
            let previous = (previous && !answer.replayed).then(|| answer.previous.as_ref().map(kv));
            let done = Done::Put { key: (&answer.key).into(), previous };
            Ok((answer.header.revision.get(), Answer::of(vec![done])))
        })
        .await;
    }

    async fn put_sequential(&mut self) {
        let (directory, value) = (self.town.sequence(), self.value());
        let action =
            Action::PutSequential { directory: directory.as_str().into(), value: value.as_str().into(), lease: 0 };
        let call = self.client.put(directory, value).sequential();
        self.record(Input::Txn(Txn::of(action)), async move {
            let answer = call.await?;
            let done = Done::Put { key: (&answer.key).into(), previous: None };
            Ok((answer.header.revision.get(), Answer::of(vec![done])))
        })
        .await;
    }

    async fn delete(&mut self, key: &str) {
        let call = self.client.delete(key.to_owned());
        self.record(Input::delete(key), async move {
            let answer = call.await?;
            Ok((answer.header.revision.get(), Answer::of(vec![Done::Deleted(answer.deleted)])))
        })
        .await;
    }

    /// A put that expects what was seen. One that is refused says nothing of what stood there, and so is no operation
    /// that was done.
    async fn put_if_unchanged(&mut self, key: &str) {
        let mod_revision = self.seen(key).map_or(0, |kv| kv.mod_revision);
        let value = self.value();
        let compare = Compare { key: key.into(), relation: Relation::Equal, target: Target::ModRevision(mod_revision) };
        let txn = Txn { compares: vec![compare], ..Txn::of(put(key, &value, 0)) };
        let call = self.client.put(key.to_owned(), value);
        let call = if mod_revision == 0 { call.expect_absent() } else { call.expect_revision(Revision(mod_revision)) };
        self.record(Input::Txn(txn), async move {
            let answer = call.await?;
            let done = Done::Put { key: (&answer.key).into(), previous: None };
            Ok((answer.header.revision.get(), Answer::of(vec![done])))
        })
        .await;
    }

    /// Writes two keys if one is as seen; else reads both.
    async fn swap(&mut self, key: &str) {
        let other = self.any_key();
        let seen = self.seen(key).map(|kv| kv.value.clone());
        let (one, two) = (self.value(), self.value());
        let mut then = vec![put(key, &one, 0)];
        let when = match &seen {
            Some(value) => When::value_is(key.to_owned(), value.as_slice().to_vec()),
            None => When::absent(key.to_owned()),
        };
        let mut wire = Wire::when([when]).then(Op::put(key.to_owned(), one));
        if other != key {
            then.push(put(&other, &two, 0));
            wire = wire.then(Op::put(other.clone(), two));
        }
        wire = wire.otherwise(Op::get(key.to_owned())).otherwise(Op::get(other.clone()));
        let both = vec![read(Span::Key(key.into())), read(Span::Key(other.as_str().into()))];
        let target = seen.map_or(Target::Exists(false), Target::Value);
        let compare = Compare { key: key.into(), relation: Relation::Equal, target };
        let txn = Txn { compares: vec![compare], then, otherwise: both, ..Txn::default() };
        let call = self.client.txn(wire);
        let begun = self.town.recorder.begin(self.id, Input::Txn(txn));
        let outcome = match call.await {
            // What was read is not remembered.
            Ok(answer) if answer.replayed && !answer.succeeded => Outcome::Unknown("it is a repetition".to_owned()),
            Ok(answer) => {
                let results = answer.results.iter().filter_map(done).collect();
                let told = Answer { succeeded: answer.succeeded, results };
                Outcome::Done { revision: answer.header.revision.get(), answer: told }
            }
            Err(error) => self.town.recorder.outcome(Err(error)),
        };
        if let Outcome::Done { answer, .. } = &outcome
            && let Some(Done::Read(found)) = answer.results.first()
        {
            let found = found.clone();
            self.remember(&found);
        }
        self.town.recorder.end(begun, outcome);
    }
}

/// `None` for what was not asked for: then the answer has too few results, which the checkers see.
fn done(result: &OpResult) -> Option<Done> {
    match result {
        OpResult::Get(found) => Some(Done::Read(found.iter().map(kv).collect())),
        OpResult::Put(put) => Some(Done::Put { key: (&put.key).into(), previous: None }),
        OpResult::Range(_) | OpResult::Delete(_) | OpResult::Txn(_) => None,
    }
}

/// Whether an error says that it certainly did not happen.
pub(crate) fn did_not(error: &quorate::Error) -> bool {
    error.happened() == Happened::No
}
