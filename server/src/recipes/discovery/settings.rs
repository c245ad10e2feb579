//! Settings of one service: a JSON document at the service's own key, replicated as all else. Absent: the defaults.
//!
//! Invariants:
//! - A document that cannot be read counts as absent; nothing of a service depends on it.

use serde::Deserialize;

/// The document. Unknown fields are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceSettings {
    /// More than this share of its instances expired at once: the service is protected. 1 and above: never.
    pub protect_share: f64,
    /// For at most so long.
    pub protect_for_s: u64,
    /// How long others may keep answers of DNS.
    pub dns_ttl_s: u32,
}

/// Longest protection: a day.
const PROTECT_FOR_MAX_S: u64 = 86_400;
/// Longest time to live of an answer: an hour.
const DNS_TTL_MAX_S: u32 = 3_600;

impl Default for ServiceSettings {
    fn default() -> Self {
        Self { protect_share: 0.5, protect_for_s: 300, dns_ttl_s: 5 }
    }
}

impl ServiceSettings {
    /// Reads a document; the defaults where it cannot be.
    pub fn read(bytes: &[u8]) -> Self {
        let settings: Self = serde_json::from_slice(bytes).unwrap_or_default();
        Self {
            protect_share: settings.protect_share.max(0.0),
            protect_for_s: settings.protect_for_s.min(PROTECT_FOR_MAX_S),
            dns_ttl_s: settings.dns_ttl_s.min(DNS_TTL_MAX_S),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        assert_eq!(ServiceSettings::read(b""), ServiceSettings::default());
        assert_eq!(ServiceSettings::read(br#"{"protect_share": "x"}"#), ServiceSettings::default());
        let read = ServiceSettings::read(br#"{"protect_share": 0.8, "dns_ttl_s": 1000000, "owner": "me"}"#);
        assert_eq!(read, ServiceSettings { protect_share: 0.8, protect_for_s: 300, dns_ttl_s: 3_600 });
    }
}
