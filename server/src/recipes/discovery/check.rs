//! A health check, as it stands in the document of its instance: what is checked, and what the checks say.
//!
//! Invariants:
//! - A check that passed [`Check::check`] has exactly one kind, and all its numbers within bounds.

use quorate_proto::v1;
use serde::{Deserialize, Serialize};

use super::document::Health;

const INTERVAL_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
const INTERVAL_DEFAULT_MS: u64 = 10_000;
const TIMEOUT_MIN_MS: u64 = 100;
/// A member makes a bounded number of checks at a time: those that nobody answers must not keep others waiting for long.
const TIMEOUT_MAX_MS: u64 = 60_000;
const TIMEOUT_DEFAULT_MS: u64 = 5_000;
const IN_A_ROW_MAX: u32 = 100;
const FAILURES_DEFAULT: u32 = 3;
const REMOVE_AFTER_MIN_MS: u64 = 10_000;
const TARGET_BYTES_MAX: usize = 2_048;
/// Note of a check that was never made.
pub const NOT_CHECKED: &str = "not checked yet";

/// A check. Numbers that are 0 or absent are read as their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Check {
    /// GET this URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Connect to this `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// `host:port` or `host:port/service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// The instance reports at least this often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// How often.
    #[serde(default)]
    pub interval_ms: u64,
    /// For each.
    #[serde(default)]
    pub timeout_ms: u64,
    /// Successes in a row until it passes.
    #[serde(default)]
    pub passes: u32,
    /// Failures in a row until it is critical.
    #[serde(default)]
    pub failures: u32,
    /// The instance is removed after being critical so long; 0: never.
    #[serde(default)]
    pub remove_after_ms: u64,
    /// What the checks say.
    #[serde(default = "critical")]
    pub status: Health,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// GET this URL.
    Http(&'a str),
    /// Connect to this `host:port`.
    Tcp(&'a str),
    /// Ask `host:port` for the health of a service, or of all.
    Grpc {
        /// Where.
        target: &'a str,
        /// Which service; empty for the whole.
        service: &'a str,
    },
    /// The instance reports within so many ms.
    Ttl(u64),
}

fn critical() -> Health {
    Health::Critical
}

impl Check {
    /// As the wire has it.
    pub fn from_wire(wire: v1::HealthCheck) -> Self {
        use v1::health_check::Kind as Wire;
        let mut check = Self {
            interval_ms: wire.interval_ms,
            timeout_ms: wire.timeout_ms,
            passes: wire.passes,
            failures: wire.failures,
            remove_after_ms: wire.remove_after_ms,
            status: Health::Critical,
            note: NOT_CHECKED.to_owned(),
            ..Self::default()
        };
        match wire.kind {
            None => {}
            Some(Wire::Http(url)) => check.http = Some(url),
            Some(Wire::Tcp(target)) => check.tcp = Some(target),
            Some(Wire::Grpc(target)) => check.grpc = Some(target),
            Some(Wire::TtlMs(ttl_ms)) => check.ttl_ms = Some(ttl_ms),
        }
        check.fill_defaults();
        check
    }

    /// For the wire.
    pub fn to_wire(&self) -> v1::HealthCheck {
        use v1::health_check::Kind as Wire;
        let kind = [
            self.http.clone().map(Wire::Http),
            self.tcp.clone().map(Wire::Tcp),
            self.grpc.clone().map(Wire::Grpc),
            self.ttl_ms.map(Wire::TtlMs),
        ];
        v1::HealthCheck {
            kind: kind.into_iter().flatten().next(),
            interval_ms: self.interval_ms,
            timeout_ms: self.timeout_ms,
            passes: self.passes,
            failures: self.failures,
            remove_after_ms: self.remove_after_ms,
        }
    }

    /// What is checked.
    pub fn kind(&self) -> Option<Kind<'_>> {
        match self {
            Self { http: Some(url), .. } => Some(Kind::Http(url)),
            Self { tcp: Some(target), .. } => Some(Kind::Tcp(target)),
            Self { grpc: Some(target), .. } => {
                let (target, service) = target.split_once('/').unwrap_or((target, ""));
                Some(Kind::Grpc { target, service })
            }
            Self { ttl_ms: Some(ttl_ms), .. } => Some(Kind::Ttl(*ttl_ms)),
            _ => None,
        }
    }

    /// The same check, whatever it says at the moment.
    pub fn is_same(&self, other: &Self) -> bool {
        let bare = |check: &Self| Self { status: Health::Critical, note: String::new(), ..check.clone() };
        bare(self) == bare(other)
    }

    /// Puts the defaults where nothing was said.
    pub fn fill_defaults(&mut self) {
        let or = |number: &mut u64, default| {
            if *number == 0 {
                *number = default;
            }
        };
        or(&mut self.interval_ms, INTERVAL_DEFAULT_MS);
        or(&mut self.timeout_ms, TIMEOUT_DEFAULT_MS.min(self.interval_ms));
        self.passes = self.passes.max(1);
        if self.failures == 0 {
            self.failures = FAILURES_DEFAULT;
        }
    }

    /// Whether all is within bounds; else what is not.
    pub fn check(&self) -> Result<(), String> {
        let kinds = [self.http.is_some(), self.tcp.is_some(), self.grpc.is_some(), self.ttl_ms.is_some()];
        if kinds.into_iter().filter(|kind| *kind).count() != 1 {
            return Err("a check has exactly one of http, tcp, grpc and ttl_ms".to_owned());
        }
        match self.kind() {
            Some(Kind::Http(url)) => check_url(url)?,
            Some(Kind::Tcp(target) | Kind::Grpc { target, .. }) => check_target(target)?,
            Some(Kind::Ttl(ttl_ms)) if !INTERVAL_MS.contains(&ttl_ms) => {
                return Err(bounds("ttl_ms", ttl_ms, INTERVAL_MS));
            }
            _ => {}
        }
        if !INTERVAL_MS.contains(&self.interval_ms) {
            return Err(bounds("interval_ms", self.interval_ms, INTERVAL_MS));
        }
        let timeout_ms = TIMEOUT_MIN_MS..=TIMEOUT_MAX_MS.min(self.interval_ms);
        if !timeout_ms.contains(&self.timeout_ms) {
            return Err(bounds("timeout_ms", self.timeout_ms, timeout_ms));
        }
        for (what, count) in [("passes", self.passes), ("failures", self.failures)] {
            if !(1..=IN_A_ROW_MAX).contains(&count) {
                return Err(bounds(what, count.into(), 1..=IN_A_ROW_MAX.into()));
            }
        }
        if (1..REMOVE_AFTER_MIN_MS).contains(&self.remove_after_ms) {
            return Err(format!("remove_after_ms is 0, for never, or at least {REMOVE_AFTER_MIN_MS}"));
        }
        if self.status == Health::Maintenance {
            return Err("a check says passing, warning or critical".to_owned());
        }
        Ok(())
    }
}

fn bounds(what: &str, number: u64, bounds: std::ops::RangeInclusive<u64>) -> String {
    format!("{what} of a check is {} to {}, not {number}", bounds.start(), bounds.end())
}

/// A URL that can be asked.
fn check_url(url: &str) -> Result<(), String> {
    let wrong = |reason: &str| Err(format!("the URL {:?} of a check {reason}", super::document::note(url)));
    if url.len() > TARGET_BYTES_MAX {
        return wrong("is too long");
    }
    let Ok(uri) = url.parse::<http::Uri>() else { return wrong("is no URL") };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return wrong("does not begin with http:// or https://");
    }
    let Some(authority) = uri.authority() else { return wrong("names no host") };
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return wrong("has a user, or no host");
    }
    // The library takes any digits, and has no port then: the default one would be checked instead.
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if port.len() > 1 && authority.port_u16().is_none_or(|port| port == 0) {
        return wrong("has a port that is none; there are 1 to 65535");
    }
    Ok(())
}

/// `host:port`.
fn check_target(target: &str) -> Result<(), String> {
    let wrong = || Err(format!("the target {:?} of a check is not host:port", super::document::note(target)));
    let Some((host, port)) = target.rsplit_once(':') else { return wrong() };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty() && host.len() <= TARGET_BYTES_MAX && (bracketed || !host.contains(':'));
    match port.parse::<u16>() {
        Ok(port) if port > 0 && plain => Ok(()),
        _ => wrong(),
    }
}
