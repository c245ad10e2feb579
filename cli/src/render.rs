//! Key-value pairs and times as text and as JSON.
//!
//! Invariants:
//! - The JSON names of fields are stable: scripts rely on them.

use quorate::{KeyValue, LeaseId};
use serde_json::{Map, Value as Json, json};

use crate::output::{json_bytes, printable};

/// All that is known of a pair. `value` is left out when only keys were asked for.
pub fn key_value(kv: &KeyValue, with_value: bool) -> Json {
    let mut object = Map::new();
    json_bytes(&mut object, "key", &kv.key);
    if with_value {
        json_bytes(&mut object, "value", &kv.value);
    }
    object.insert("create_revision".to_owned(), kv.create_revision.get().into());
    object.insert("mod_revision".to_owned(), kv.mod_revision.get().into());
    object.insert("version".to_owned(), kv.version.into());
    object.insert("lease".to_owned(), lease(kv.lease));
    object.insert("created_unix_ms".to_owned(), kv.created_unix_ms.into());
    object.insert("modified_unix_ms".to_owned(), kv.modified_unix_ms.into());
    Json::Object(object)
}

/// A lease id as text, or null.
pub fn lease(id: Option<LeaseId>) -> Json {
    id.map_or(Json::Null, |id| json!(id.to_string()))
}

/// A key alone, for documents that name one.
pub fn with_key(key: &[u8], rest: Json) -> Json {
    let mut object = Map::new();
    json_bytes(&mut object, "key", key);
    if let Json::Object(rest) = rest {
        object.extend(rest);
    }
    Json::Object(object)
}

/// A lease id, or `-`.
pub fn lease_text(id: Option<LeaseId>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.to_string())
}

/// A value for one line, cut when it is long.
pub fn short_value(value: &[u8]) -> String {
    const CHARS_MAX: usize = 80;
    // Four bytes a character at most, so that a value of megabytes is not escaped whole.
    let head = &value[..value.len().min(4 * CHARS_MAX)];
    let head = match std::str::from_utf8(head) {
        Err(error) if error.error_len().is_none() && head.len() < value.len() => &head[..error.valid_up_to()],
        _ => head,
    };
    let text = printable(head);
    if head.len() == value.len() && text.chars().count() <= CHARS_MAX {
        return text;
    }
    let cut: String = text.chars().take(CHARS_MAX).collect();
    format!("{cut}… ({} bytes)", value.len())
}

/// `2026-11-21T08:35:49.120Z`.
pub fn time(unix_ms: i64) -> String {
    let days = unix_ms.div_euclid(86_400_000);
    let ms_of_day = unix_ms.rem_euclid(86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60);
    let (second, ms) = (ms_of_day / 1000 % 60, ms_of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day since the Unix epoch, in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    // Years begin in March here, so that the leap day is the last day of a year.
    let since_march_of_year_0 = days + 719_468;
    let cycle = since_march_of_year_0.div_euclid(DAYS_OF_400_YEARS);
    let day_of_cycle = since_march_of_year_0.rem_euclid(DAYS_OF_400_YEARS);
    let leap_days = day_of_cycle / 1460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
    let year_of_cycle = (day_of_cycle - leap_days) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // March to July and August to December both go 31, 30, 31, 30, 31: 153 days in 5 months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * cycle + year_of_cycle + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate::Revision;

    use super::*;

    #[test]
    fn a_pair_as_json() {
        let kv = KeyValue {
            key: Bytes::from("/a"),
            value: Bytes::from(vec![0xff]),
            create_revision: Revision(2),
            mod_revision: Revision(3),
            version: 2,
            lease: LeaseId::new(255),
            created_unix_ms: 1,
            modified_unix_ms: 2,
        };
        let expected = json!({
            "key": "/a", "value_base64": "/w==", "create_revision": 2, "mod_revision": 3, "version": 2,
            "lease": "00000000000000ff", "created_unix_ms": 1, "modified_unix_ms": 2,
        });
        assert_eq!(key_value(&kv, true), expected);
        assert!(key_value(&kv, false).get("value_base64").is_none());
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(time(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(short_value(b"x"), "x");
        assert_eq!(short_value("ä".repeat(80).as_bytes()), "ä".repeat(80));
        assert_eq!(short_value("ä".repeat(5000).as_bytes()), format!("{}… (10000 bytes)", "ä".repeat(80)));
        assert!(short_value(&[0xff; 1000]).ends_with("… (1000 bytes)"));
    }
}
