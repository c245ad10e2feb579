//! Deadlines: from the `grpc-timeout` of a request, or the default.
//!
//! Invariants:
//! - The answer, also a refusal, leaves before the caller stops waiting: a little is kept back for the way.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::errors::Refusal;
use super::limits::{DEADLINE_DEFAULT, DEADLINE_MAX};

/// At most so much is kept back.
pub const MARGIN_MAX: Duration = Duration::from_millis(50);

/// When the request whose metadata this is must be answered.
pub fn of_request(metadata: &MetadataMap) -> Result<Instant, Refusal> {
    Ok(after(timeout(metadata)?.unwrap_or(DEADLINE_DEFAULT)))
}

/// The same for a request that may wait as long as its caller does; `None`: as long as it takes.
pub fn of_wait(metadata: &MetadataMap) -> Result<Option<Instant>, Refusal> {
    let timeout = timeout(metadata)?;
    Ok(timeout.and_then(|timeout| Instant::now().checked_add(timeout.saturating_sub(kept_back(timeout)))))
}

fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, Refusal> {
    let Some(text) = metadata.get("grpc-timeout") else { return Ok(None) };
    let timeout = text.to_str().ok().and_then(parse).ok_or_else(|| {
        Refusal::invalid("grpc-timeout is not 1 to 8 digits and one of H, M, S, m, u, n; see the gRPC protocol")
    })?;
    Ok(Some(timeout))
}

/// The deadline of what nobody has named one for.
pub fn default() -> Instant {
    after(DEADLINE_DEFAULT)
}

/// The deadline of what may take `timeout` from now.
pub fn after(timeout: Duration) -> Instant {
    let timeout = timeout.min(DEADLINE_MAX);
    Instant::now() + timeout.saturating_sub(kept_back(timeout))
}

fn kept_back(timeout: Duration) -> Duration {
    (timeout / 10).min(MARGIN_MAX)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(parse("2H"), Some(Duration::from_hours(2)));
        for wrong in ["", "S", "5", "5s", "-5S", "123456789S", "5é"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_little_is_kept_back_and_the_longest_wait_is_bounded() {
        let left = |timeout| after(timeout) - Instant::now();
        assert_eq!(left(Duration::from_millis(100)), Duration::from_millis(90));
        assert_eq!(left(Duration::from_secs(10)), Duration::from_millis(9_950));
        assert!(left(Duration::from_secs(100_000)) < DEADLINE_MAX);
    }
}
