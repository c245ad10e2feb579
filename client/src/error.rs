//! What went wrong, whether the write happened all the same, and what to do next.
//!
//! Invariants:
//! - A failed read never "happened": its [`Happened`] is `No`.
//! - An error of a write whose outcome is unknown carries its [`WriteId`], so that the caller can ask again.

use std::fmt;
use std::time::Duration;

use quorate_proto::{LeaseId, Revision};

use crate::write_id::WriteId;

mod from_wire;

/// The result of every call of this library.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// client.put("/a", "1").await?;
/// # Ok(()) }
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether a write has taken effect.
///
/// ```no_run
/// # async fn example(client: quorate::Client) {
/// if let Err(error) = client.put("/a", "1").await
///     && error.happened() == quorate::Happened::Unknown
/// {
///     println!("read /a, or put it again under the same id");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It has not and will not.
    No,
    /// It has.
    Yes,
    /// It may have, or may yet.
    Unknown,
}

/// What to do about an [`Error`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) {
/// use quorate::ErrorKind;
/// if let Err(error) = client.get("/a").await {
///     match error.kind() {
///         ErrorKind::Retry | ErrorKind::RetrySameId => println!("later: {error}"),
///         ErrorKind::FixRequest | ErrorKind::Reacquire | ErrorKind::GiveUp => println!("no use: {error}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nothing happened. The same call may succeed later; [`Error::retry_after`] says when to come back.
    Retry,
    /// The write may have happened. Send it again with [`Error::write_id`], or read and decide.
    RetrySameId,
    /// The request cannot succeed as it is: change it, or read again what it was based on.
    FixRequest,
    /// The lease, the lock or the leadership is gone, and with it what it owned or protected: get a new one and build
    /// up again.
    Reacquire,
    /// Neither waiting nor changing the request helps.
    GiveUp,
}

/// Why the cluster refused.
///
/// ```no_run
/// # async fn example(client: quorate::Client) {
/// if let Err(error) = client.put("/a", "1").expect_absent().await
///     && error.reason() == Some(quorate::Reason::Precondition)
/// {
///     println!("somebody was faster");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The request is malformed.
    InvalidArgument,
    /// A revision was asked for that is not there yet.
    FutureRevision,
    /// The revision is compacted.
    Compacted,
    /// The lease does not exist (any more).
    LeaseNotFound,
    /// The id of a new lease is in use.
    LeaseExists,
    /// A key is needed but absent.
    KeyNotFound,
    /// A stated expectation did not hold.
    Precondition,
    /// No leader or no quorum can be reached.
    NoQuorum,
    /// The request id is older than the cluster remembers: the outcome is unknown.
    RequestExpired,
    /// A queue is full.
    Overloaded,
    /// Disk space is short on a member that the quorum needs.
    DiskSpace,
    /// The deadline passed at the member.
    Deadline,
    /// The member is stopping.
    ShuttingDown,
    /// The member cannot serve.
    MemberFailed,
    /// The request is over a limit.
    TooLarge,
    /// A change of membership was refused.
    Membership,
    /// Not all members know what was asked for: upgrade them first.
    StateVersion,
    /// A fault inside the member.
    Internal,
    /// The member does not know this call.
    Unimplemented,
    /// Others hold the lock, and it was not to be waited for (any longer).
    LockBusy,
    /// The hold, the place in the queue or the leadership is gone.
    LockLost,
    /// What was asked does not go together with the lock as it is.
    LockConflict,
    /// The instance of a service is not registered (any more).
    InstanceNotFound,
    /// Another live registration has the id of the instance.
    InstanceExists,
}

/// A refusal by the cluster, as it was answered.
///
/// ```no_run
/// # async fn example(client: quorate::Client) {
/// if let Err(quorate::Error::Refused(refusal)) = client.put("/a", "1").expect_absent().await {
///     println!("{:?} from {}: {}", refusal.reason, refusal.endpoint, refusal.message);
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The member's words.
    pub message: String,
    /// Which endpoint answered.
    pub endpoint: String,
    /// Whether the write has taken effect.
    pub happened: Happened,
    /// When to come back, if the member said so.
    pub retry_after: Option<Duration>,
    /// For a failed precondition: mod revision of what stands there, 0 when absent.
    pub current_mod_revision: Revision,
    /// Id of the write, when its outcome is unknown.
    pub write_id: Option<WriteId>,
}

/// Why a lease, a lock or a leadership counts as lost.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let lease = client.lease(std::time::Duration::from_secs(10)).grant().await?;
/// println!("lost: {}", lease.lost().await);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// The cluster says that it does not exist (any more): it has expired or was revoked.
    Gone,
    /// No keep-alive was confirmed in time, so it may have expired.
    NotConfirmed,
    /// The guard has given it up.
    Released,
    /// Its key is gone, and not by the end of its lease as far as was seen: an operator released it by force, something wrote
    /// there, or it had gone before the client looked for the first time.
    Taken,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the cluster has ended it",
            Self::NotConfirmed => "no keep-alive was confirmed within its time to live",
            Self::Released => "it was released",
            Self::Taken => "its key was deleted, as a forced release does",
        })
    }
}

/// What can go wrong in a call. [`Error::kind`] says what to do about it.
///
/// ```no_run
/// # async fn example(client: quorate::Client) {
/// match client.get("/a").at(quorate::Revision(7)).await {
///     Ok(answer) => println!("{:?}", answer.kv),
///     Err(quorate::Error::Compacted { compact_revision, .. }) => println!("the oldest is {compact_revision}"),
///     Err(error) => println!("{:?}: {error}", error.kind()),
/// }
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A member answered with a refusal.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The revision wanted is not readable any more.
    #[error("{message}")]
    Compacted {
        /// The oldest readable revision.
        compact_revision: Revision,
        /// What was asked for.
        message: String,
    },
    /// No answer came from an endpoint.
    #[error("no answer from {endpoint}: {message}")]
    Unreachable {
        /// Which.
        endpoint: String,
        /// What was seen.
        message: String,
        /// Whether the write has taken effect.
        happened: Happened,
        /// Id of the write, when its outcome is unknown.
        write_id: Option<WriteId>,
    },
    /// The deadline of the call passed.
    #[error("no outcome within {} ms{}", after.as_millis(), last.as_ref().map(|last| format!("; last: {last}")).unwrap_or_default())]
    Deadline {
        /// How long the call was allowed to take.
        after: Duration,
        /// Whether the write has taken effect.
        happened: Happened,
        /// Id of the write, when its outcome is unknown.
        write_id: Option<WriteId>,
        /// What went wrong before.
        last: Option<Box<Error>>,
    },
    /// The lease is lost.
    #[error("lease {lease} is lost: {reason}; grant a new one")]
    LeaseLost {
        /// Which.
        lease: LeaseId,
        /// Why.
        reason: Lost,
    },
    /// The lock or the leadership is lost.
    #[error("{name} is lost: {reason}; whatever it protected may belong to another now")]
    HoldLost {
        /// Its name, as in "lock jobs/nightly".
        name: String,
        /// Why.
        reason: Lost,
    },
    /// The client itself refused what it was given.
    #[error("{what}")]
    Invalid {
        /// What is wrong, and how to write it.
        what: String,
    },
    /// An answer that breaks the protocol.
    #[error("{endpoint} answered against the protocol: {what}")]
    Protocol {
        /// Which endpoint.
        endpoint: String,
        /// What was wrong.
        what: String,
    },
    /// What was asked has been stopped.
    #[error("it has been stopped: the client or its runtime is going away")]
    Closed,
}

impl Error {
    /// What to do next.
    ///
    /// ```no_run
    /// # fn example(error: quorate::Error) {
    /// if error.kind() == quorate::ErrorKind::FixRequest { eprintln!("{error}"); }
    /// # }
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(refusal) => refusal_kind(refusal),
            Self::Compacted { .. } | Self::Invalid { .. } => ErrorKind::FixRequest,
            Self::Unreachable { happened, .. } | Self::Deadline { happened, .. } => kind_of_unanswered(*happened),
            Self::LeaseLost { .. } | Self::HoldLost { .. } => ErrorKind::Reacquire,
            Self::Protocol { .. } | Self::Closed => ErrorKind::GiveUp,
        }
    }

    /// Whether the write has taken effect; `No` for reads.
    ///
    /// ```no_run
    /// # fn example(error: quorate::Error) {
    /// println!("{:?}", error.happened());
    /// # }
    /// ```
    pub fn happened(&self) -> Happened {
        match self {
            Self::Refused(refusal) => refusal.happened,
            Self::Unreachable { happened, .. } | Self::Deadline { happened, .. } => *happened,
            Self::Protocol { .. } => Happened::Unknown,
            Self::Compacted { .. }
            | Self::LeaseLost { .. }
            | Self::HoldLost { .. }
            | Self::Invalid { .. }
            | Self::Closed => Happened::No,
        }
    }

    /// Why the cluster refused; `None` when it did not answer.
    ///
    /// ```no_run
    /// # fn example(error: quorate::Error) {
    /// if error.reason() == Some(quorate::Reason::DiskSpace) { eprintln!("free some disk"); }
    /// # }
    /// ```
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => Some(refusal.reason),
            Self::Compacted { .. } => Some(Reason::Compacted),
            Self::HoldLost { .. } => Some(Reason::LockLost),
            Self::Deadline { last: Some(last), .. } => last.reason(),
            _ => None,
        }
    }

    /// Whether a stated expectation did not hold.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) {
    /// if let Err(error) = client.put("/a", "1").expect_absent().await && error.is_precondition() {
    ///     println!("/a is there already");
    /// }
    /// # }
    /// ```
    pub fn is_precondition(&self) -> bool {
        self.reason() == Some(Reason::Precondition)
    }

    /// When to come back, if the cluster said so.
    ///
    /// ```no_run
    /// # fn example(error: quorate::Error) {
    /// if let Some(pause) = error.retry_after() { println!("again in {pause:?}"); }
    /// # }
    /// ```
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Deadline { last: Some(last), .. } => last.retry_after(),
            _ => None,
        }
    }

    /// Id of a write whose outcome is unknown. While it (or the error) is kept, the cluster remembers the outcome;
    /// give it to the builder of the same write to send it again safely.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// if let Err(error) = client.put("/a", "1").await && let Some(id) = error.write_id() {
    ///     client.put("/a", "1").write_id(id).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn write_id(&self) -> Option<WriteId> {
        match self {
            Self::Refused(refusal) => refusal.write_id.clone(),
            Self::Unreachable { write_id, .. } | Self::Deadline { write_id, .. } => write_id.clone(),
            _ => None,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    pub(crate) fn protocol(endpoint: &str, what: impl Into<String>) -> Self {
        Self::Protocol { endpoint: endpoint.to_owned(), what: what.into() }
    }

    /// The same call may be sent again, to this or another member, if sending it twice is safe.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => match refusal.reason {
                Reason::NoQuorum
                | Reason::Overloaded
                | Reason::ShuttingDown
                | Reason::MemberFailed
                | Reason::Deadline => true,
                // Clears by itself, but only then soon enough for a call when the member says so.
                Reason::DiskSpace => refusal.retry_after.is_some(),
                _ => false,
            },
            _ => false,
        }
    }

    /// Says of the whole call what this error says of its last attempt.
    pub(crate) fn of_call(mut self, happened: Happened, id: Option<&WriteId>) -> Self {
        let id = (happened == Happened::Unknown).then(|| id.cloned()).flatten();
        match &mut self {
            Self::Refused(refusal) => {
                refusal.happened = happened;
                refusal.write_id = id;
            }
            Self::Unreachable { happened: attempt, write_id, .. }
            | Self::Deadline { happened: attempt, write_id, .. } => {
                *attempt = happened;
                *write_id = id;
            }
            _ => {}
        }
        self
    }
}

fn refusal_kind(refusal: &Refusal) -> ErrorKind {
    match refusal.reason {
        Reason::InvalidArgument
        | Reason::FutureRevision
        | Reason::Compacted
        | Reason::LeaseExists
        | Reason::KeyNotFound
        | Reason::Precondition
        | Reason::TooLarge
        | Reason::Membership
        | Reason::StateVersion
        | Reason::LockConflict
        | Reason::InstanceExists => ErrorKind::FixRequest,
        Reason::LeaseNotFound | Reason::LockLost | Reason::InstanceNotFound => ErrorKind::Reacquire,
        Reason::LockBusy => ErrorKind::Retry,
        Reason::NoQuorum
        | Reason::Overloaded
        | Reason::DiskSpace
        | Reason::Deadline
        | Reason::ShuttingDown
        | Reason::MemberFailed => kind_of_unanswered(refusal.happened),
        Reason::RequestExpired | Reason::Internal | Reason::Unimplemented => ErrorKind::GiveUp,
    }
}

fn kind_of_unanswered(happened: Happened) -> ErrorKind {
    match happened {
        Happened::No => ErrorKind::Retry,
        Happened::Yes | Happened::Unknown => ErrorKind::RetrySameId,
    }
}
