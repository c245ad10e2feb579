//! Clients of keys, by the crate `etcd-client`: each talks to one member, and goes to another when that does not answer.
//!
//! Invariants:
//! - Nothing is repeated: what was not answered is unknown.
//! - Only codes by which etcd says that nothing was done, and a connection that was refused, count as a refusal.

use std::time::Duration;

use etcd_client::{
    Client, Compare as When, CompareOp, ConnectOptions, Error, GetOptions, PutOptions, ResponseHeader, Txn as Wire,
    TxnOp, TxnOpResponse,
};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use quorate_checkers::history::{Answer, Compare, Done, Input, Kv, Outcome, Relation, Span, Target, Txn};
use tokio::time::timeout;
use tonic::Code;

use crate::convert::etcd_kv;
use crate::dice::Dice;
use crate::native::{KEYS, put, read};
use crate::recorder::Recorder;
use crate::town::{Town, below};

/// How long a client waits for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// One client.
pub(crate) struct Etcd {
    pub id: u64,
    pub town: Town,
    pub dice: Dice,
    client: Option<Client>,
    written: u64,
    /// A version that was seen of a key, for conditions.
    seen: Option<Kv>,
}

/// An answer that came, or none in time.
pub(crate) type Told<T> = Result<T, String>;

type Answered = Result<(i64, Answer), Failed>;

/// Why there is no answer.
pub(crate) enum Failed {
    Said(Error),
    Silence,
    Odd(&'static str),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl Failed {
    /// What is known of the operation then.
    pub fn outcome(&self, recorder: &Recorder) -> Outcome {
        match self {
            Self::Silence => Outcome::Unknown("no answer in time".to_owned()),
            Self::Odd(what) => {
                recorder.is_broken(format!("an answer of etcd's wire {what}"));
                Outcome::Unknown((*what).to_owned())
            }
            Self::Said(Error::GRpcStatus(status)) => {
                if matches!(status.code(), Code::Internal | Code::DataLoss) && !is_transport(status) {
                    recorder.is_broken(format!("a client of etcd's wire was told: {status}"));
                }
                let refused = matches!(
                    status.code(),
                    Code::InvalidArgument
                        | Code::FailedPrecondition
                        | Code::NotFound
                        | Code::OutOfRange
                        | Code::AlreadyExists
                );
                let text = status.message().to_owned();
                if refused || is_not_sent(status) { Outcome::Refused(text) } else { Outcome::Unknown(text) }
            }
            Self::Said(error) => Outcome::Unknown(error.to_string()),
        }
    }
}

/// There was no connection, so nothing was sent.
fn is_not_sent(status: &tonic::Status) -> bool {
    status.code() == Code::Unavailable && status.message() == "tcp connect error"
}

/// A connection that breaks is told as an internal error by the client's own library.
fn is_transport(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some() || status.message().contains("h2 protocol error")
}

pub(crate) fn revision(header: Option<&ResponseHeader>) -> Result<i64, Failed> {
    header.map(ResponseHeader::revision).ok_or(Failed::Odd("has no header"))
}

impl Etcd {
    pub fn new(id: u64, town: Town, dice: Dice) -> Self {
        Self { id, town, dice, client: None, written: 0, seen: None }
    }

    /// The client; connects to any member if there is none. `None`: nobody answers, and it is over.
    pub async fn client(&mut self) -> Option<Client> {
        while self.client.is_none() && !self.town.is_over() {
            self.client = self.connect().await;
            if self.client.is_none() {
                self.town.pause(Duration::from_millis(50)).await;
            }
        }
        self.client.clone()
    }

    /// A new connection to any member, if it answers.
    pub async fn connect(&mut self) -> Option<Client> {
        let member = self.dice.below(self.town.plan.endpoints.len());
        let endpoint = self.town.plan.endpoints[member].clone();
        let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(1));
        timeout(PATIENCE, Box::pin(Client::connect([endpoint], Some(options)))).await.ok()?.ok()
    }

    /// The next request goes to whatever other member.
    pub fn move_on(&mut self) {
        self.client = None;
    }

    /// Asks until it is over.
    pub async fn live(mut self) {
        while self.town.think(&mut self.dice, 1).await {
            if self.dice.happens(20) {
                self.move_on();
            }
            let Some(client) = self.client().await else { continue };
            let key = format!("{}/{}", self.town.keys(), self.dice.below(KEYS));
            match self.dice.below(100) {
                0..32 => drop(self.get(client, &key).await),
                32..40 => self.range(client).await,
                40..65 => self.put(client, &key).await,
                65..75 => self.delete(client, &key).await,
                _ => self.txn(client, &key).await,
            }
        }
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.id, self.written)
    }

    /// What is called is boxed: the futures of the library are large.
    pub async fn record(&mut self, input: Input, call: BoxFuture<'_, Answered>) -> Outcome {
        let begun = self.town.recorder.begin(self.id, input);
        let answered = timeout(PATIENCE, call).await.unwrap_or(Err(Failed::Silence));
        let outcome = match answered {
            Ok((revision, answer)) => Outcome::Done { revision, answer },
            Err(failed) => failed.outcome(&self.town.recorder),
        };
        match &outcome {
            Outcome::Done { answer, .. } => {
                if let Some(Done::Read(found)) = answer.results.first() {
                    self.seen = found.first().cloned().or(self.seen.take());
                }
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => self.move_on(),
        }
        self.town.recorder.end(begun, outcome.clone());
        outcome
    }

    pub async fn get(&mut self, mut client: Client, key: &str) -> Outcome {
        let call = async move {
            let answer = client.get(key, None).await?;
            let found = answer.kvs().iter().map(etcd_kv).collect();
            Ok((revision(answer.header())?, Answer::of(vec![Done::Read(found)])))
        };
        self.record(Input::get(key), call.boxed()).await
    }

    async fn range(&mut self, mut client: Client) {
        let (start, end) = below(&self.town.keys());
        let input = Input::range(&start, Some(end.as_str().into()));
        let call = async move {
            let answer = client.get(start, Some(GetOptions::new().with_range(end))).await?;
            let found = answer.kvs().iter().map(etcd_kv).collect();
            Ok((revision(answer.header())?, Answer::of(vec![Done::Read(found)])))
        };
        self.record(input, call.boxed()).await;
    }

    async fn put(&mut self, mut client: Client, key: &str) {
        let value = self.value();
        let input = Input::put(key, &value);
        let call = async move {
            let answer = client.put(key, value, Some(PutOptions::new().with_prev_key())).await?;
            let done = Done::Put { key: key.into(), previous: Some(answer.prev_key().map(etcd_kv)) };
            Ok((revision(answer.header())?, Answer::of(vec![done])))
        };
        self.record(input, call.boxed()).await;
    }

    async fn delete(&mut self, mut client: Client, key: &str) {
        let call = async move {
            let answer = client.delete(key, None).await?;
            let deleted = u64::try_from(answer.deleted()).map_err(|_| Failed::Odd("deleted less than nothing"))?;
            Ok((revision(answer.header())?, Answer::of(vec![Done::Deleted(deleted)])))
        };
        self.record(Input::delete(key), call.boxed()).await;
    }

    /// Writes a key if it is at the version seen, else reads it.
    async fn txn(&mut self, mut client: Client, key: &str) {
        let mod_revision = self.seen.as_ref().filter(|kv| kv.key == key.into()).map_or(0, |kv| kv.mod_revision);
        let value = self.value();
        let compare = Compare { key: key.into(), relation: Relation::Equal, target: Target::ModRevision(mod_revision) };
        let txn = Txn {
            compares: vec![compare],
            then: vec![put(key, &value, 0)],
            otherwise: vec![read(Span::Key(key.into()))],
            ..Txn::default()
        };
        let wire = Wire::new()
            .when([When::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([TxnOp::put(key, value, None)])
            .or_else([TxnOp::get(key, None)]);
        let call = async move {
            let answer = client.txn(wire).await?;
            let results = answer.op_responses().into_iter().filter_map(|one| match one {
                TxnOpResponse::Get(found) => Some(Done::Read(found.kvs().iter().map(etcd_kv).collect())),
                TxnOpResponse::Put(_) => Some(Done::Put { key: key.into(), previous: None }),
                // Not asked for: then there are too few results, which the checkers see.
                TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
            });
            let done = Answer { succeeded: answer.succeeded(), results: results.collect() };
            Ok((revision(answer.header())?, done))
        };
        self.record(Input::Txn(txn), call.boxed()).await;
    }
}
