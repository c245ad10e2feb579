//! From global flags to a client, and from its errors to exit codes.
//!
//! Invariants:
//! - "Unavailable" is said only of what certainly did not happen; a write that may have happened is "outcome unknown".

use std::time::Duration;

use quorate::{Client, Error, Happened, Reason};

use crate::args::Global;
use crate::failure::Failure;

/// Whom to talk to, and for how long.
#[derive(Debug, Clone)]
pub struct Connection {
    /// `host:port` each.
    pub endpoints: Vec<String>,
    timeout: Duration,
}

impl Connection {
    /// As the global flags say.
    pub fn new(global: &Global) -> Self {
        Self { endpoints: global.endpoints.clone(), timeout: global.timeout }
    }

    /// A client of all endpoints.
    pub fn open(&self) -> Result<Client, Failure> {
        build(&self.endpoints, self.timeout)
    }

    /// A client for questions about single members, which are not worth waiting for as long as for a quorum.
    pub fn open_for_questions(&self) -> Result<Client, Failure> {
        build(&self.endpoints, self.timeout.min(Duration::from_secs(3)))
    }
}

/// The error table.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match (error.happened(), error.reason()) {
            (Happened::Unknown, _) => Self::OutcomeUnknown(text),
            (_, Some(Reason::Precondition | Reason::LeaseExists | Reason::InstanceExists | Reason::LockConflict)) => {
                Self::Precondition(text)
            }
            (_, Some(Reason::InvalidArgument)) => Self::Usage(text),
            (_, Some(Reason::KeyNotFound | Reason::LeaseNotFound | Reason::InstanceNotFound)) => Self::NotFound(text),
            (_, Some(Reason::LockBusy)) => Self::Busy(text),
            (_, Some(Reason::LockLost)) => Self::Lost(text),
            (_, Some(Reason::NoQuorum | Reason::Overloaded | Reason::ShuttingDown | Reason::MemberFailed)) => {
                Self::Unavailable(text)
            }
            (_, Some(Reason::Deadline | Reason::DiskSpace)) => Self::Unavailable(text),
            _ => match error {
                Error::Unreachable { .. } | Error::Deadline { .. } => Self::Unavailable(text),
                Error::LeaseLost { .. } => Self::NotFound(text),
                Error::HoldLost { .. } => Self::Lost(text),
                Error::Invalid { .. } => Self::Usage(text),
                _ => Self::Failed(text),
            },
        }
    }
}

/// Connects to nobody yet: the first call does, within its own deadline.
fn build(endpoints: &[String], timeout: Duration) -> Result<Client, Failure> {
    Ok(Client::builder().endpoints(endpoints).deadline(timeout).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(happened: Happened) -> Failure {
        let (endpoint, message) = ("a:1".to_owned(), "gone".to_owned());
        Error::Unreachable { endpoint, message, happened, write_id: None }.into()
    }

    #[test]
    fn what_may_have_happened_is_never_called_unavailable() {
        assert_eq!(unreachable(Happened::No).exit_code(), 5);
        assert_eq!(unreachable(Happened::Unknown).exit_code(), 6);
    }

    #[test]
    fn what_cannot_be_asked_is_wrong_usage() {
        assert_eq!(Failure::from(Error::Invalid { what: "no".to_owned() }).exit_code(), 2);
    }
}
