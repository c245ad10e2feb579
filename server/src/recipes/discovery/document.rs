//! The document of an instance, as it is stored: JSON, so that other languages can read and write it.
//!
//! It has no version: fields are only ever added, absent ones have defaults, and unknown ones at its top are kept when
//! the cluster rewrites it (inside a check they are dropped).
//!
//! Invariants:
//! - Whatever bytes somebody puts, reading them gives a [`Document`] within all bounds, or the reason why not.
//! - `health` and `health_note` say what counts; the cluster writes them together with what they follow from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use quorate_proto::v1;
use serde::{Deserialize, Serialize};

use super::check::Check;

/// Longest text for people.
pub const NOTE_BYTES_MAX: usize = 1_024;
const DOCUMENT_BYTES_MAX: usize = 256 << 10;
const TAGS_MAX: usize = 64;
const TAG_BYTES_MAX: usize = 253;
const METADATA_MAX: usize = 64;
const METADATA_NAME_BYTES_MAX: usize = 128;
const METADATA_VALUE_BYTES_MAX: usize = 4_096;
const CHECKS_MAX: usize = 16;
const WEIGHT_DEFAULT: u16 = 100;

/// How well an instance is, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Serves.
    #[default]
    Passing,
    /// Serves, but something wants attention.
    Warning,
    /// Does not serve.
    Critical,
    /// Taken out of service by hand.
    Maintenance,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// An IP address or a host name.
    pub address: String,
    /// 1 to 65 535.
    pub port: u16,
    /// For those who choose among instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// For those who use them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Share of the load; 0 is read as the default.
    #[serde(default = "weight_default")]
    pub weight: u16,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// What counts; absent in documents whose author does not care: then it follows from the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub health_note: String,
    /// What the instance says of itself.
    #[serde(default, skip_serializing_if = "Reported::is_default")]
    pub reported: Reported,
    /// There while it is taken out of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// What the cluster checks, and how that stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// What this version does not know.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// What an instance says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reported {
    /// Not `maintenance`.
    pub health: Health,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Taken out of service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Maintenance {
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Reported {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Document {
    /// Reads a document; else why it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(format!("it has {} bytes, at most {DOCUMENT_BYTES_MAX} are read", bytes.len()));
        }
        let mut document: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if document.weight == 0 {
            document.weight = WEIGHT_DEFAULT;
        }
        document.checks.iter_mut().for_each(Check::fill_defaults);
        document.check()?;
        Ok(document)
    }

    /// As it is stored.
    pub fn write(&self) -> Result<Vec<u8>, String> {
        let bytes = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(format!("the document has {} bytes, at most {DOCUMENT_BYTES_MAX} are allowed", bytes.len()));
        }
        Ok(bytes)
    }

    /// What counts.
    pub fn health(&self) -> Health {
        self.health.unwrap_or_else(|| self.verdict().0)
    }

    /// Writes down what counts now.
    pub fn settle(&mut self) {
        let (health, note) = self.verdict();
        let note = note.to_owned();
        self.health = Some(health);
        self.health_note = note;
    }

    /// Maintenance, else the worst of what the instance says and what its checks say, with the reason.
    fn verdict(&self) -> (Health, &str) {
        if let Some(maintenance) = &self.maintenance {
            return (Health::Maintenance, &maintenance.note);
        }
        let mut worst = (self.reported.health, self.reported.note.as_str());
        for check in &self.checks {
            if check.status > worst.0 {
                worst = (check.status, &check.note);
            }
        }
        worst
    }

    /// Whether all is within bounds; else what is not.
    pub fn check(&self) -> Result<(), String> {
        check_address(&self.address)?;
        if self.port == 0 {
            return Err("the port is 0; name one from 1 to 65535".to_owned());
        }
        self.check_tags()?;
        if self.metadata.len() > METADATA_MAX {
            return Err(format!("there are {} metadata, at most {METADATA_MAX} are allowed", self.metadata.len()));
        }
        for (name, value) in &self.metadata {
            text("a metadata name", name, METADATA_NAME_BYTES_MAX)?;
            if name.is_empty() || value.len() > METADATA_VALUE_BYTES_MAX {
                return Err(format!(
                    "the metadata {name:?} has no name, or a value of more than {METADATA_VALUE_BYTES_MAX} bytes"
                ));
            }
        }
        text("the zone", &self.zone, TAG_BYTES_MAX)?;
        let reported = [self.health_note.as_str(), &self.reported.note];
        let maintenance = self.maintenance.as_ref().map_or("", |maintenance| &maintenance.note);
        for note in reported.into_iter().chain([maintenance]).chain(self.checks.iter().map(|check| &*check.note)) {
            check_note(note)?;
        }
        if self.reported.health == Health::Maintenance {
            return Err("an instance reports passing, warning or critical; maintenance is set by itself".to_owned());
        }
        if self.checks.len() > CHECKS_MAX {
            return Err(format!("there are {} checks, at most {CHECKS_MAX} are allowed", self.checks.len()));
        }
        self.checks.iter().try_for_each(Check::check)
    }

    fn check_tags(&self) -> Result<(), String> {
        if self.tags.len() > TAGS_MAX {
            return Err(format!("there are {} tags, at most {TAGS_MAX} are allowed", self.tags.len()));
        }
        let mut seen = BTreeSet::new();
        for tag in &self.tags {
            text("a tag", tag, TAG_BYTES_MAX)?;
            if tag.is_empty() || !seen.insert(tag) {
                return Err(format!("the tag {tag:?} is empty or stands there twice"));
            }
        }
        Ok(())
    }
}

fn weight_default() -> u16 {
    WEIGHT_DEFAULT
}

/// Whether a text for people is short enough; else why not.
pub fn check_note(note: &str) -> Result<(), String> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(format!("a note has {} bytes, at most {NOTE_BYTES_MAX} are allowed", note.len()));
    }
    Ok(())
}

/// The beginning of a text for people.
pub fn note(text: &str) -> String {
    let end = (0..=text.len().min(NOTE_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

fn text(what: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max || text.chars().any(char::is_control) {
        return Err(format!("{what} has more than {bytes_max} bytes, or control characters: {:?}", note(text)));
    }
    Ok(())
}

fn check_address(address: &str) -> Result<(), String> {
    if address.parse::<IpAddr>().is_ok() || is_host_name(address) {
        return Ok(());
    }
    Err(format!("the address {:?} is neither an IP address nor a host name", note(address)))
}

/// Whether this can be the name of a host. The last label has a letter: `1.2.3` is a mistake.
pub fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && last.bytes().any(|byte| byte.is_ascii_alphabetic())
}

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Passing => Self::Passing,
            Health::Warning => Self::Warning,
            Health::Critical => Self::Critical,
            Health::Maintenance => Self::Maintenance,
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
