//! Transactions: compare, then one of two lists of operations, all in one revision.
//!
//! Invariants:
//! - A transaction that only reads carries no write id.

use quorate_proto::{Key, LeaseId, Revision, v1};

use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::kv::{DeleteResponse, PutResponse, RangeResponse, awaited, fresh};
use crate::types::{Header, IntoBytes, KeyValue};

/// How two things compare.
///
/// ```no_run
/// use quorate::{Compare, Relation};
/// let changed_three_times = Compare::version("/a", Relation::Greater, 3);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// =
    Equal,
    /// ≠
    NotEqual,
    /// >
    Greater,
    /// <
    Less,
}

/// A condition on a key, or on every key of a range.
///
/// ```no_run
/// use quorate::{Compare, Relation, Revision};
/// let free = Compare::absent("/lock");
/// let unchanged = Compare::mod_revision("/a", Relation::Equal, Revision(7));
/// let all_old = Compare::version("/a/", Relation::Greater, 1).for_prefix();
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Compare(v1::Compare);

impl Compare {
    /// The key exists.
    ///
    /// ```no_run
    /// let compare = quorate::Compare::exists("/a");
    /// ```
    pub fn exists(key: impl IntoBytes) -> Self {
        Self::of(key, Relation::Equal, v1::compare::Target::Exists(true))
    }

    /// The key does not exist.
    ///
    /// ```no_run
    /// let compare = quorate::Compare::absent("/a");
    /// ```
    pub fn absent(key: impl IntoBytes) -> Self {
        Self::of(key, Relation::Equal, v1::compare::Target::Exists(false))
    }

    /// The key has this value. A missing key has none.
    ///
    /// ```no_run
    /// let compare = quorate::Compare::value_is("/a", "1");
    /// ```
    pub fn value_is(key: impl IntoBytes, value: impl IntoBytes) -> Self {
        Self::value(key, Relation::Equal, value)
    }

    /// The key's value relates so to `value`, bytewise. A missing key has none.
    ///
    /// ```no_run
    /// let compare = quorate::Compare::value("/a", quorate::Relation::NotEqual, "1");
    /// ```
    pub fn value(key: impl IntoBytes, relation: Relation, value: impl IntoBytes) -> Self {
        Self::of(key, relation, v1::compare::Target::Value(value.into_bytes()))
    }

    /// The key's number of changes since its creation relates so; 0 when it is missing.
    ///
    /// ```no_run
    /// let compare = quorate::Compare::version("/a", quorate::Relation::Equal, 1);
    /// ```
    pub fn version(key: impl IntoBytes, relation: Relation, version: i64) -> Self {
        Self::of(key, relation, v1::compare::Target::Version(version))
    }

    /// The revision of the key's creation relates so; 0 when it is missing.
    ///
    /// ```no_run
    /// use quorate::{Compare, Relation, Revision};
    /// let compare = Compare::create_revision("/lock/mine", Relation::Equal, Revision(7));
    /// ```
    pub fn create_revision(key: impl IntoBytes, relation: Relation, revision: Revision) -> Self {
        Self::of(key, relation, v1::compare::Target::CreateRevision(revision.get()))
    }

    /// The revision of the key's last change relates so; 0 when it is missing.
    ///
    /// ```no_run
    /// use quorate::{Compare, Relation, Revision};
    /// let compare = Compare::mod_revision("/a", Relation::Less, Revision(7));
    /// ```
    pub fn mod_revision(key: impl IntoBytes, relation: Relation, revision: Revision) -> Self {
        Self::of(key, relation, v1::compare::Target::ModRevision(revision.get()))
    }

    /// The key belongs to this lease, or to none.
    ///
    /// ```no_run
    /// let compare = quorate::Compare::lease("/a", None);
    /// ```
    pub fn lease(key: impl IntoBytes, lease: impl Into<Option<LeaseId>>) -> Self {
        Self::of(key, Relation::Equal, v1::compare::Target::LeaseId(LeaseId::wire(lease.into())))
    }

    /// Must hold for every key from this one to `end` (exclusive; empty: no end). It does for none.
    ///
    /// ```no_run
    /// use quorate::{Compare, Relation};
    /// let compare = Compare::version("/a", Relation::Less, 2).for_range_to("/b");
    /// ```
    #[must_use]
    pub fn for_range_to(mut self, end: impl IntoBytes) -> Self {
        self.0.range_end = end.into_bytes();
        self.0.to_end = self.0.range_end.is_empty();
        self
    }

    /// Must hold for every key that starts with this one. It does for none.
    ///
    /// ```no_run
    /// use quorate::{Compare, Relation};
    /// let compare = Compare::version("/a/", Relation::Less, 2).for_prefix();
    /// ```
    #[must_use]
    pub fn for_prefix(self) -> Self {
        let end = Key::prefix_end(&self.0.key).unwrap_or_default();
        self.for_range_to(end)
    }

    fn of(key: impl IntoBytes, relation: Relation, target: v1::compare::Target) -> Self {
        let relation = match relation {
            Relation::Equal => v1::compare::Relation::Equal,
            Relation::NotEqual => v1::compare::Relation::NotEqual,
            Relation::Greater => v1::compare::Relation::Greater,
            Relation::Less => v1::compare::Relation::Less,
        };
        let (key, relation) = (key.into_bytes(), relation.into());
        Self(v1::Compare { key, relation, target: Some(target), ..Default::default() })
    }
}

impl From<Compare> for Vec<Compare> {
    fn from(compare: Compare) -> Self {
        vec![compare]
    }
}

/// One operation of a [`Txn`]. It sees the effects of those before it.
///
/// A [`Put`](crate::Put), [`Delete`](crate::Delete), [`Get`](crate::Get) or [`Range`](crate::Range) built by a client
/// with its options is an operation too.
///
/// ```no_run
/// # fn example(client: quorate::Client) {
/// use quorate::{Op, Txn};
/// let txn = Txn::new()
///     .then(Op::put("/a", "1"))
///     .then(client.put("/b", "2").expect_present().previous())
///     .then(Op::prefix("/c/"));
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Op(v1::TxnOp);

impl Op {
    /// Reads one key.
    ///
    /// ```no_run
    /// let op = quorate::Op::get("/a");
    /// ```
    pub fn get(key: impl IntoBytes) -> Self {
        v1::txn_op::Op::Get(v1::GetRequest { key: key.into_bytes(), ..Default::default() }).into()
    }

    /// Reads the keys that start with these bytes, at most 1 000.
    ///
    /// ```no_run
    /// let op = quorate::Op::prefix("/a/");
    /// ```
    pub fn prefix(prefix: impl IntoBytes) -> Self {
        let start = prefix.into_bytes();
        let end = Key::prefix_end(&start).unwrap_or_default();
        v1::txn_op::Op::Range(v1::RangeRequest { start, end, ..Default::default() }).into()
    }

    /// Writes one key.
    ///
    /// ```no_run
    /// let op = quorate::Op::put("/a", "1");
    /// ```
    pub fn put(key: impl IntoBytes, value: impl IntoBytes) -> Self {
        let (key, value) = (key.into_bytes(), value.into_bytes());
        v1::txn_op::Op::Put(v1::PutRequest { key, value, ..Default::default() }).into()
    }

    /// Deletes one key.
    ///
    /// ```no_run
    /// let op = quorate::Op::delete("/a");
    /// ```
    pub fn delete(key: impl IntoBytes) -> Self {
        v1::txn_op::Op::Delete(v1::DeleteRequest { key: key.into_bytes(), ..Default::default() }).into()
    }

    /// Deletes a path and everything below it.
    ///
    /// ```no_run
    /// let op = quorate::Op::delete_subtree("/a");
    /// ```
    pub fn delete_subtree(path: impl IntoBytes) -> Self {
        let scope = v1::delete_request::Scope::Subtree.into();
        v1::txn_op::Op::Delete(v1::DeleteRequest { key: path.into_bytes(), scope, ..Default::default() }).into()
    }

    /// A transaction inside.
    ///
    /// ```no_run
    /// use quorate::{Compare, Op, Txn};
    /// let op = Op::txn(Txn::when(Compare::absent("/a")).then(Op::put("/a", "1")));
    /// ```
    pub fn txn(txn: Txn) -> Self {
        v1::txn_op::Op::Txn(txn.0).into()
    }
}

impl From<v1::txn_op::Op> for Op {
    fn from(op: v1::txn_op::Op) -> Self {
        Self(v1::TxnOp { op: Some(op) })
    }
}

/// A transaction: if all compares hold, `then` runs, else `otherwise`; in one revision, all or nothing.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use quorate::{Compare, Op, Txn};
/// let taken = client
///     .txn(Txn::when(Compare::absent("/leader"))
///         .then(Op::put("/leader", "me"))
///         .otherwise(Op::get("/leader")))
///     .await?;
/// println!("{}", if taken.succeeded { "mine" } else { "somebody else's" });
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[must_use = "a transaction does nothing until a client runs it"]
pub struct Txn(v1::TxnRequest);

impl Txn {
    /// Without a condition.
    ///
    /// ```no_run
    /// let both = quorate::Txn::new().then(quorate::Op::put("/a", "1")).then(quorate::Op::put("/b", "2"));
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// With a condition, or several as a list.
    ///
    /// ```no_run
    /// use quorate::{Compare, Txn};
    /// let one = Txn::when(Compare::exists("/a"));
    /// let two = Txn::when(vec![Compare::exists("/a"), Compare::absent("/b")]);
    /// ```
    pub fn when(compares: impl Into<Vec<Compare>>) -> Self {
        Self::new().and(compares)
    }

    /// One more condition.
    ///
    /// ```no_run
    /// use quorate::{Compare, Txn};
    /// let two = Txn::when(Compare::exists("/a")).and(Compare::absent("/b"));
    /// ```
    pub fn and(mut self, compares: impl Into<Vec<Compare>>) -> Self {
        self.0.compares.extend(compares.into().into_iter().map(|compare| compare.0));
        self
    }

    /// One more operation for when all conditions hold.
    ///
    /// ```no_run
    /// let txn = quorate::Txn::new().then(quorate::Op::put("/a", "1"));
    /// ```
    pub fn then(mut self, op: impl Into<Op>) -> Self {
        self.0.then.push(op.into().0);
        self
    }

    /// One more operation for when a condition does not hold.
    ///
    /// ```no_run
    /// use quorate::{Compare, Op, Txn};
    /// let txn = Txn::when(Compare::absent("/a")).then(Op::put("/a", "1")).otherwise(Op::get("/a"));
    /// ```
    pub fn otherwise(mut self, op: impl Into<Op>) -> Self {
        self.0.otherwise.push(op.into().0);
        self
    }
}

/// A transaction to be run; made by [`Client::txn`].
///
/// ```no_run
/// # async fn example(client: quorate::Client, txn: quorate::Txn) -> quorate::Result<()> {
/// let answer = client.txn(txn).deadline(std::time::Duration::from_secs(1)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct TxnCall {
    client: Client,
    request: v1::TxnRequest,
    options: CallOptions,
}

awaited!(TxnCall => TxnResponse, write);
fresh!(TxnCall);

impl TxnCall {
    async fn run(self) -> Result<TxnResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(answer.into())
    }
}

impl Client {
    /// Runs a transaction.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// use quorate::{Op, Txn};
    /// client.txn(Txn::new().then(Op::put("/a", "1")).then(Op::put("/b", "2"))).await?;
    /// # Ok(()) }
    /// ```
    pub fn txn(&self, txn: Txn) -> TxnCall {
        TxnCall { client: self.clone(), request: txn.0, options: CallOptions::default() }
    }
}

/// Answer of a transaction.
///
/// ```no_run
/// # async fn example(client: quorate::Client, txn: quorate::Txn) -> quorate::Result<()> {
/// for result in client.txn(txn).await?.results { println!("{result:?}"); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResponse {
    /// Who answered, as of which revision.
    pub header: Header,
    /// All conditions held.
    pub succeeded: bool,
    /// One for each operation that ran.
    pub results: Vec<OpResult>,
    /// The cluster knew this write from an earlier attempt: decision, revision and counts are those of then; values
    /// read are not given again.
    pub replayed: bool,
}

/// Answer of one operation of a transaction. The headers inside are empty: see that of the [`TxnResponse`].
///
/// ```no_run
/// # fn example(answer: quorate::TxnResponse) {
/// if let Some(quorate::OpResult::Get(Some(kv))) = answer.results.first() { println!("{}", kv.value_text()); }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult {
    /// Of a get.
    Get(Option<KeyValue>),
    /// Of a range.
    Range(RangeResponse),
    /// Of a put.
    Put(PutResponse),
    /// Of a delete.
    Delete(DeleteResponse),
    /// Of a transaction inside.
    Txn(TxnResponse),
}

impl From<v1::TxnResponse> for TxnResponse {
    fn from(answer: v1::TxnResponse) -> Self {
        Self {
            header: answer.header.into(),
            succeeded: answer.succeeded,
            results: answer.responses.into_iter().filter_map(|each| each.response.map(Into::into)).collect(),
            replayed: answer.replayed,
        }
    }
}

impl From<v1::txn_op_response::Response> for OpResult {
    fn from(response: v1::txn_op_response::Response) -> Self {
        use v1::txn_op_response::Response;
        match response {
            Response::Get(get) => Self::Get(get.kv.map(Into::into)),
            Response::Range(range) => Self::Range(range.into()),
            Response::Put(put) => Self::Put(put.into()),
            Response::Delete(delete) => Self::Delete(delete.into()),
            Response::Txn(txn) => Self::Txn(txn.into()),
        }
    }
}

macro_rules! op_of {
    ($($builder:ident),*) => {$(
        impl From<crate::kv::$builder> for Op {
            /// The request with its options, less deadline, freshness and write id: those are the transaction's.
            fn from(builder: crate::kv::$builder) -> Self {
                v1::txn_op::Op::$builder(builder.into_op()).into()
            }
        }
    )*};
}

op_of!(Get, Range, Put, Delete);
