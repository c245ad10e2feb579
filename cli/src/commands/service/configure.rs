//! `quorate service configure`: the settings document at `/services/<service>`.
//!
//! Invariants:
//! - What is not named stays as it is, fields that this version does not know as well; a change by another in between is
//!   never written over.

use std::time::Duration;

use clap::Args;
use quorate::Client;
use serde_json::{Map, Value as Json};

use crate::failure::Failure;
use crate::input;
use crate::output::{Output, printable};

/// Examples for the help.
pub const EXAMPLES: &str = "\
Without flags it shows what is set; what is not set has its default (protect_share 0.5, \
protect_for_s 300, dns_ttl_s 5).

Examples:
  quorate service configure orders
  quorate service configure orders --protect-share 0.7 --protect-for 10m
  quorate service configure orders --dns-ttl 1s";

/// Flags of `service configure`.
#[derive(Debug, Args)]
pub struct ConfigureArgs {
    /// Service
    pub service: String,
    /// More than this share of its instances expired at once: they are kept, marked as expired. 1: never
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub protect_share: Option<f64>,
    /// For at most so long
    #[arg(long, value_name = "DURATION", value_parser = input::duration)]
    pub protect_for: Option<Duration>,
    /// How long others may keep answers of DNS
    #[arg(long, value_name = "DURATION", value_parser = input::duration)]
    pub dns_ttl: Option<Duration>,
}

/// Shows or changes it.
pub async fn run(args: ConfigureArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let key = input::path(&format!("/services/{}", args.service)).map_err(Failure::Usage)?;
    let found = client.get(key.as_str()).await?.kv;
    let mut document = match &found {
        Some(kv) => serde_json::from_slice::<Map<String, Json>>(&kv.value).map_err(|error| {
            Failure::Failed(format!("{key} is no settings document ({error}); put one there, or delete it"))
        })?,
        None => Map::new(),
    };
    let changes = changes(&args);
    if !changes.is_empty() {
        document.extend(changes);
        let put = client.put(key.as_str(), Json::Object(document.clone()).to_string());
        let put = match &found {
            Some(kv) => put.expect_revision(kv.mod_revision),
            None => put.expect_absent(),
        };
        put.await?;
    }
    if output.is_json() {
        return output.json(&Json::Object(document));
    }
    if document.is_empty() {
        return output.line("nothing is set: the defaults");
    }
    document.iter().try_for_each(|(name, value)| output.line(&printable(format!("{name} = {value}").as_bytes())))
}

fn changes(args: &ConfigureArgs) -> Map<String, Json> {
    let mut changes = Map::new();
    let mut set = |name: &str, value: Option<Json>| {
        if let Some(value) = value {
            changes.insert(name.to_owned(), value);
        }
    };
    set("protect_share", args.protect_share.map(Json::from));
    set("protect_for_s", args.protect_for.map(|time| time.as_secs().into()));
    set("dns_ttl_s", args.dns_ttl.map(|time| time.as_secs().into()));
    changes
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share is from 0 to 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let args = ConfigureArgs {
            service: "orders".to_owned(),
            protect_share: Some(0.7),
            protect_for: None,
            dns_ttl: Some(Duration::from_secs(1)),
        };
        assert_eq!(Json::Object(changes(&args)), serde_json::json!({"protect_share": 0.7, "dns_ttl_s": 1}));
    }

    #[test]
    fn a_share_is_from_0_to_1() {
        assert_eq!(share("0.7"), Ok(0.7));
        for wrong in ["2", "-0.1", "NaN", "x"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
