//! Errors out of what members answer: gRPC status and `ErrorDetail`.
//!
//! Invariants:
//! - `Happened::No` is claimed only where the member says so, or where no connection could be made.

use std::time::Duration;

use prost::Message as _;
use quorate_proto::{Revision, v1};
use tonic::{Code, Status};

use super::{Error, Happened, Reason, Refusal};

impl Error {
    /// The error that a status of a member stands for.
    pub(crate) fn from_status(status: &Status, endpoint: &str) -> Self {
        if let Some(detail) = detail_of(status) {
            return Self::from_detail(&detail, status.message(), endpoint);
        }
        let unreachable =
            |happened, message| Self::Unreachable { endpoint: endpoint.to_owned(), message, happened, write_id: None };
        let happened = if never_sent(status) { Happened::No } else { Happened::Unknown };
        let (reason, happened) = match status.code() {
            Code::InvalidArgument | Code::OutOfRange | Code::PermissionDenied | Code::Unauthenticated => {
                (Reason::InvalidArgument, Happened::No)
            }
            Code::Unimplemented => (Reason::Unimplemented, Happened::No),
            Code::NotFound => (Reason::KeyNotFound, Happened::No),
            Code::FailedPrecondition | Code::AlreadyExists => (Reason::Precondition, Happened::No),
            Code::ResourceExhausted => (Reason::Overloaded, Happened::No),
            Code::DeadlineExceeded => (Reason::Deadline, Happened::Unknown),
            Code::DataLoss => (Reason::Internal, Happened::Unknown),
            _ => return unreachable(happened, describe(status)),
        };
        Self::refused(reason, happened, &describe(status), endpoint)
    }

    /// The error that the details of an answer stand for.
    pub(crate) fn from_detail(detail: &v1::ErrorDetail, message: &str, endpoint: &str) -> Self {
        if detail.kind() == v1::error_detail::Kind::Compacted {
            return Self::Compacted {
                compact_revision: Revision(detail.compact_revision),
                message: message.to_owned(),
            };
        }
        Self::Refused(Box::new(Refusal {
            reason: reason_of(detail.kind()),
            message: message.to_owned(),
            endpoint: endpoint.to_owned(),
            happened: match detail.happened() {
                v1::error_detail::Happened::No => Happened::No,
                v1::error_detail::Happened::Yes => Happened::Yes,
                v1::error_detail::Happened::Unknown => Happened::Unknown,
            },
            retry_after: (detail.retry_after_ms > 0).then(|| Duration::from_millis(detail.retry_after_ms)),
            current_mod_revision: Revision(detail.current_mod_revision),
            write_id: None,
        }))
    }

    pub(crate) fn refused(reason: Reason, happened: Happened, message: &str, endpoint: &str) -> Self {
        Self::Refused(Box::new(Refusal {
            reason,
            message: message.to_owned(),
            endpoint: endpoint.to_owned(),
            happened,
            retry_after: None,
            current_mod_revision: Revision::ZERO,
            write_id: None,
        }))
    }
}

fn detail_of(status: &Status) -> Option<v1::ErrorDetail> {
    if status.details().is_empty() {
        return None;
    }
    let detail = v1::ErrorDetail::decode(status.details()).ok()?;
    (detail.kind() != v1::error_detail::Kind::Unspecified).then_some(detail)
}

fn reason_of(kind: v1::error_detail::Kind) -> Reason {
    use v1::error_detail::Kind;
    match kind {
        Kind::InvalidArgument => Reason::InvalidArgument,
        Kind::FutureRevision => Reason::FutureRevision,
        Kind::Compacted => Reason::Compacted,
        Kind::LeaseNotFound => Reason::LeaseNotFound,
        Kind::LeaseExists => Reason::LeaseExists,
        Kind::KeyNotFound => Reason::KeyNotFound,
        Kind::Precondition => Reason::Precondition,
        Kind::NoQuorum => Reason::NoQuorum,
        Kind::RequestExpired => Reason::RequestExpired,
        Kind::Overloaded => Reason::Overloaded,
        Kind::DiskSpace => Reason::DiskSpace,
        Kind::Deadline => Reason::Deadline,
        Kind::ShuttingDown => Reason::ShuttingDown,
        Kind::MemberFailed => Reason::MemberFailed,
        Kind::TooLarge => Reason::TooLarge,
        Kind::Membership => Reason::Membership,
        Kind::StateVersion => Reason::StateVersion,
        Kind::Unimplemented => Reason::Unimplemented,
        Kind::LockBusy => Reason::LockBusy,
        Kind::LockLost => Reason::LockLost,
        Kind::LockConflict => Reason::LockConflict,
        Kind::InstanceNotFound => Reason::InstanceNotFound,
        Kind::InstanceExists => Reason::InstanceExists,
        Kind::Internal | Kind::Unspecified => Reason::Internal,
    }
}

/// The request cannot have reached a member: no connection could be made.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The words of a status and of what caused it; transport errors keep the telling part in their sources.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        source = error.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}

#[cfg(test)]
mod fuzz;
