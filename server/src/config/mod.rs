//! What a member can be told: every public setting with its unit, default and bounds, and where its value came from.
//!
//! A value may come from the builder, a file, the environment or a flag; the later of these wins. All of them are
//! text here and are parsed in one place, so that an error can name the setting, the source and what to write instead.
//!
//! Invariants:
//! - A [`Config`] is valid: bounds hold and its parts do not contradict each other.
//! - At most 25 settings; what nobody should need to change is a constant where it is used.

mod parse;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::recipes::discovery::Networks;
pub use table::{SETTINGS, Setting};

/// A valid configuration of a member.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this member, unique in its cluster.
    pub name: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// `host:port` on which clients are served.
    pub listen: String,
    /// `host:port` that clients are told; none: where it listens.
    pub advertise: Option<String>,
    /// `host:port` on which other members are served.
    pub peer_listen: String,
    /// `host:port` that members are told; none: where it listens.
    pub peer_advertise: Option<String>,
    /// How an empty member begins.
    pub start: Start,
    /// Raft's clocks.
    pub timing: Timing,
    /// Bounds on what a client may ask.
    pub limits: Limits,
    /// When history is compacted without being asked.
    pub auto_compaction: AutoCompaction,
    /// Threads that serve clients.
    pub door_threads: usize,
    /// Below so many free bytes on a member that the quorum needs, growing writes are refused.
    pub disk_reserve_bytes: u64,
    /// A snapshot is taken after so many bytes of log.
    pub snapshot_log_bytes: u64,
    /// Bytes of recent changes kept in memory for watchers.
    pub watch_window_bytes: usize,
    /// Of the store, in memory: keys that are read often, and blocks of its files.
    pub cache_bytes: usize,
    /// `host:port` on which names of services are answered; none: nowhere.
    pub dns_listen: Option<String>,
    /// The domain of those names.
    pub dns_domain: Name,
    /// Where health checks may connect to.
    pub check_networks: Networks,
}

/// How an empty member begins. One that has data goes on where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// As a cluster of one.
    Single,
    /// With these members, `(name, peer address)`; its own name is among them.
    Cluster(Vec<(String, String)>),
    /// By asking the member with this client address.
    Join(String),
}

/// Raft's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The leader says so often that it leads.
    pub heartbeat: Duration,
    /// A follower waits at least so long for it before it asks for votes.
    pub election_min: Duration,
    /// And at most so long.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(75),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(500),
        }
    }
}

/// Bounds on what a client may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest value in bytes.
    pub value_bytes_max: usize,
    /// Most operations in a transaction, nested ones counted.
    pub txn_ops_max: usize,
    /// Largest request message in bytes.
    pub request_bytes_max: usize,
    /// How often an etcd watch that asked for it hears how far it is, while nothing matches.
    pub watch_progress: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes_max: 1_572_864,
            txn_ops_max: 128,
            request_bytes_max: 16 << 20,
            watch_progress: Duration::from_mins(10),
        }
    }
}

/// When history is compacted without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoCompaction {
    /// Changes older than this go; none: age does not matter.
    pub age: Option<Duration>,
    /// Only so many revisions are kept; none: number does not matter.
    pub revisions: Option<u64>,
}

/// Where a value came from. A later variant wins over an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Set by the program that embeds the member.
    Builder,
    /// A TOML file.
    File(PathBuf),
    /// `QUORATE_<NAME>`.
    Environment,
    /// `--<name>`.
    Flag,
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such setting.
    #[error("{origin}: there is no setting {name:?}{hint}; `quorate serve --help` lists them")]
    Unknown {
        /// What was given.
        name: String,
        /// From where.
        origin: String,
        /// A name that is near.
        hint: String,
    },
    /// A value that cannot be used.
    #[error("{origin}: {value:?} cannot be used: {reason}")]
    Value {
        /// Setting and source, as the user wrote it.
        origin: String,
        /// What was given.
        value: String,
        /// What is wrong and what to write.
        reason: String,
    },
    /// Two settings that exclude each other.
    #[error("{0}")]
    Contradiction(String),
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Values as they were given, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, (Source, String)>,
}

impl Settings {
    /// Gives a setting a value. A value from a stronger source that is there already stays.
    pub fn set(&mut self, name: &str, value: impl Into<String>, source: Source) -> Result<(), ConfigError> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
            let hint = table::nearest(name).map_or_else(String::new, |near| format!(" (do you mean {near:?}?)"));
            return Err(ConfigError::Unknown { name: name.to_owned(), origin: source.origin(name), hint });
        };
        let stays = self.values.get(setting.name).is_some_and(|(there, _)| *there > source);
        if !stays {
            self.values.insert(setting.name, (source, value.into()));
        }
        Ok(())
    }

    /// Takes all values of a TOML file: one `name = value` a line, names as those of the flags.
    pub fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let failed = |reason: String| ConfigError::File { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        self.read_text(&text, path)
    }

    fn read_text(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let failed = |reason: String| ConfigError::File { path: path.to_owned(), reason };
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| failed(error.to_string()))?;
        for (name, value) in table {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                other => {
                    return Err(failed(format!("{name} is a {}; write a string or a number", other.type_str())));
                }
            };
            self.set(&name, value, Source::File(path.to_owned()))?;
        }
        Ok(())
    }

    /// Takes `QUORATE_<NAME>` from `variables`; those of other programs, and those of the client's verbs, are passed over.
    pub fn read_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix("QUORATE_") else { continue };
            let name = name.to_ascii_lowercase().replace('_', "-");
            if !table::NOT_SETTINGS.contains(&name.as_str()) {
                self.set(&name, value, Source::Environment)?;
            }
        }
        Ok(())
    }

    /// Checks everything and fills in the defaults.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        parse::resolve(self)
    }
}

impl Source {
    /// How the user wrote it: `--name`, `QUORATE_NAME`, `file.toml: name`.
    fn origin(&self, name: &str) -> String {
        match self {
            Self::Builder => name.to_owned(),
            Self::File(path) => format!("{}: {name}", path.display()),
            Self::Environment => format!("QUORATE_{}", name.to_ascii_uppercase().replace('-', "_")),
            Self::Flag => format!("--{name}"),
        }
    }
}

impl Default for Config {
    /// A single durable member on 127.0.0.1:2379.
    fn default() -> Self {
        parse::defaults()
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single => f.write_str("single"),
            Self::Cluster(members) => write!(f, "cluster of {}", members.len()),
            Self::Join(address) => write!(f, "join {address}"),
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
