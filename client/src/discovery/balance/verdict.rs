//! What an answer, or its failing, says of the instance, and whether another may be asked.
//!
//! A failure of the instance: no connection, a broken one, and the codes UNAVAILABLE, INTERNAL, UNKNOWN and
//! `DEADLINE_EXCEEDED`. All other codes are answers of the application.
//!
//! Invariants:
//! - "Never sent" is claimed only where the transport says that no byte of the request went out, or where the peer says
//!   by the rules of HTTP/2 that it has not looked at it.

use std::error::Error as StdError;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tonic::Code;

use super::breaker::Failure;

/// What came of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The instance did its part, whatever the application answered.
    Served,
    /// It was not even asked: another may be, whatever the call does.
    NeverSent(Failure),
    /// It failed, and may have done the work; another may be asked if doing it twice is harmless.
    Failed,
    /// It failed, and asking another is of no use.
    FailedForGood,
}

/// What an error of the transport says.
pub(super) fn of_error(error: &(dyn StdError + 'static)) -> Verdict {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return Verdict::NeverSent(Failure::Refused);
        }
        if error.is::<tonic::TimeoutExpired>() {
            return Verdict::FailedForGood;
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return Verdict::NeverSent(Failure::Failed);
        }
        if error.downcast_ref::<h2::Error>().is_some_and(is_unprocessed) {
            return Verdict::NeverSent(Failure::Failed);
        }
        next = error.source();
    }
    Verdict::Failed
}

/// The peer refused the stream, or was closing when it came.
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let closing = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || closing)
}

/// What a gRPC code says.
pub(super) fn of_code(code: Code) -> Verdict {
    match code {
        Code::Unavailable => Verdict::Failed,
        // An error inside the application is seldom healed by asking again.
        Code::Internal | Code::Unknown | Code::DeadlineExceeded => Verdict::FailedForGood,
        _ => Verdict::Served,
    }
}

/// The code of an answer that is no gRPC, by its status: a proxy in front of the instance says so, for example. The
/// mapping is that of gRPC. `None`: it may be gRPC.
pub(super) fn code_of_http(status: StatusCode) -> Option<Code> {
    match status.as_u16() {
        200 => None,
        400 => Some(Code::Internal),
        401 => Some(Code::Unauthenticated),
        403 => Some(Code::PermissionDenied),
        404 => Some(Code::Unimplemented),
        429 | 502..=504 => Some(Code::Unavailable),
        _ => Some(Code::Unknown),
    }
}

/// The code in headers or trailers, if one is there.
pub(super) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

/// The time that the caller gives, as gRPC writes it: up to eight digits and a unit.
pub(super) fn timeout_in(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// The time that is left, as gRPC writes it.
pub(super) fn timeout_text(left: Duration) -> String {
    match left.as_micros() {
        micros if micros < 100_000_000 => format!("{micros}u"),
        micros if micros / 1000 < 100_000_000 => format!("{}m", micros / 1000),
        micros => format!("{}S", (micros / 1_000_000).min(99_999_999)),
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_application_are_not_the_instances_fault() {
        for code in [Code::Ok, Code::NotFound, Code::InvalidArgument, Code::ResourceExhausted, Code::Aborted] {
            assert_eq!(of_code(code), Verdict::Served, "{code:?}");
        }
        assert_eq!(of_code(Code::Unavailable), Verdict::Failed);
        assert_eq!(of_code(Code::Internal), Verdict::FailedForGood);
    }

    #[test]
    fn times_are_read_and_written_as_grpc_does() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout_in(&headers)
        };
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        for wrong in ["", "S", "5", "123456789S", "5x", "-1S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        for left in [Duration::from_micros(7), Duration::from_secs(100), Duration::from_hours(100)] {
            assert_eq!(read(&timeout_text(left)), Some(left));
        }
    }

    #[test]
    fn a_connection_that_could_not_be_made_is_found_in_the_chain() {
        let error = tonic::Status::from_error(Box::new(tonic::ConnectError("refused".into())));
        assert_eq!(of_error(&error), Verdict::NeverSent(Failure::Refused));
        assert_eq!(of_error(&std::io::Error::other("broken")), Verdict::Failed);
    }
}
