//! From text to a valid [`Config`].
//!
//! Invariants:
//! - Every refusal names the setting as the user wrote it, its value, and what to write instead.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::Name;
use ipnet::IpNet;

use super::table::{SETTINGS, Setting};
use super::{AutoCompaction, Config, ConfigError, Limits, Settings, Source, Start, Timing};
use crate::recipes::discovery::Networks;

/// Longest domain.
const DOMAIN_BYTES_MAX: usize = 128;

/// What the table says, for those who set nothing.
pub fn defaults() -> Config {
    #[expect(clippy::expect_used, reason = "a test resolves the table's own defaults")]
    resolve(&Settings::default()).expect("the table's defaults are valid")
}

/// Checks everything and fills in the defaults.
pub fn resolve(settings: &Settings) -> Result<Config, ConfigError> {
    let name = settings.text("name");
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(settings.refuse("name", "a name has 1 to 64 letters, digits, '-', '_' or '.'"));
    }
    Ok(Config {
        start: start(settings, &name)?,
        name,
        data_dir: data_dir(settings)?,
        listen: settings.address("listen")?,
        advertise: settings.optional_address("advertise")?,
        peer_listen: settings.address("peer-listen")?,
        peer_advertise: settings.optional_address("peer-advertise")?,
        timing: timing(settings)?,
        limits: limits(settings)?,
        auto_compaction: AutoCompaction {
            age: Some(settings.number("compact-age-s")?).filter(|s| *s > 0).map(Duration::from_secs),
            revisions: Some(settings.number("compact-revisions")?).filter(|n| *n > 0),
        },
        door_threads: door_threads(settings.size("door-threads")?),
        disk_reserve_bytes: settings.number("disk-reserve-bytes")?,
        snapshot_log_bytes: settings.number("snapshot-log-bytes")?,
        watch_window_bytes: settings.size("watch-window-bytes")?,
        cache_bytes: settings.size("cache-bytes")?,
        dns_listen: settings.optional_address("dns-listen")?,
        dns_domain: dns_domain(settings)?,
        check_networks: check_networks(settings)?,
    })
}

fn dns_domain(settings: &Settings) -> Result<Name, ConfigError> {
    let refused = || settings.refuse("dns-domain", "write a domain, for example quorate or sd.example.com");
    let text = settings.text("dns-domain");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(refused());
    }
    let mut name = Name::from_ascii(text.to_ascii_lowercase()).map_err(|_| refused())?;
    name.set_fqdn(true);
    // Room for the names below it.
    if name.is_root() || name.len() > DOMAIN_BYTES_MAX { Err(refused()) } else { Ok(name) }
}

fn check_networks(settings: &Settings) -> Result<Networks, ConfigError> {
    let text = settings.text("check-networks");
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let network = |part: &str| {
        let bare = || part.parse::<IpAddr>().map(IpNet::from).ok();
        part.parse::<IpNet>().ok().or_else(bare).ok_or_else(|| {
            settings.refuse("check-networks", &format!("{part:?} is no network; write for example 10.0.0.0/8,fc00::/7"))
        })
    };
    Ok(Networks(parts.map(network).collect::<Result<_, _>>()?))
}

fn data_dir(settings: &Settings) -> Result<std::path::PathBuf, ConfigError> {
    let dir = settings.text("data-dir");
    if dir.is_empty() {
        return Err(settings.refuse("data-dir", "name a directory"));
    }
    Ok(dir.into())
}

fn start(settings: &Settings, name: &str) -> Result<Start, ConfigError> {
    let (cluster, join) = (settings.text("cluster"), settings.text("join"));
    match (cluster.is_empty(), join.is_empty()) {
        (true, true) => Ok(Start::Single),
        (true, false) => Ok(Start::Join(settings.address("join")?)),
        (false, true) => cluster_members(settings, &cluster, name),
        (false, false) => Err(ConfigError::Contradiction(format!(
            "{} and {} exclude each other: a member begins a new cluster or joins one that exists; give one of them",
            settings.origin("cluster"),
            settings.origin("join"),
        ))),
    }
}

fn cluster_members(settings: &Settings, cluster: &str, name: &str) -> Result<Start, ConfigError> {
    let mut members: Vec<(String, String)> = Vec::new();
    for part in cluster.split(',') {
        let Some((member, address)) = part.split_once('=') else {
            return Err(settings.refuse("cluster", "write NAME=HOST:PORT for each member, separated by ','"));
        };
        let (member, address) = (member.trim(), address.trim());
        check_address(address).map_err(|reason| settings.refuse("cluster", &format!("{member}: {reason}")))?;
        if members.iter().any(|(there, at)| there == member || at == address) {
            return Err(settings.refuse("cluster", &format!("{member}={address} stands there twice in part")));
        }
        members.push((member.to_owned(), address.to_owned()));
    }
    if !members.iter().any(|(member, _)| member == name) {
        return Err(ConfigError::Contradiction(format!(
            "{} does not list this member, whose name is {name:?}; add it, or set --name to one of those listed",
            settings.origin("cluster"),
        )));
    }
    Ok(Start::Cluster(members))
}

fn timing(settings: &Settings) -> Result<Timing, ConfigError> {
    let heartbeat = settings.number("heartbeat-ms")?;
    let min = settings.number("election-min-ms")?;
    let max = settings.number("election-max-ms")?;
    if min < heartbeat * 2 {
        return Err(ConfigError::Contradiction(format!(
            "election-min-ms ({min}) is less than twice heartbeat-ms ({heartbeat}): one late heartbeat would cost an \
             election; raise the one or lower the other"
        )));
    }
    if max * 10 < min * 12 {
        return Err(ConfigError::Contradiction(format!(
            "election-max-ms ({max}) is less than 1.2 times election-min-ms ({min}): members would ask for votes at \
             the same moment; raise it"
        )));
    }
    Ok(Timing {
        heartbeat: Duration::from_millis(heartbeat),
        election_min: Duration::from_millis(min),
        election_max: Duration::from_millis(max),
    })
}

fn limits(settings: &Settings) -> Result<Limits, ConfigError> {
    let limits = Limits {
        value_bytes_max: settings.size("value-bytes-max")?,
        txn_ops_max: settings.size("txn-ops-max")?,
        request_bytes_max: settings.size("request-bytes-max")?,
        watch_progress: Duration::from_secs(settings.number("watch-progress-s")?),
    };
    if limits.request_bytes_max < limits.value_bytes_max + 8_192 {
        return Err(ConfigError::Contradiction(format!(
            "request-bytes-max ({}) leaves no room for a value of value-bytes-max ({}) and its key; raise it",
            limits.request_bytes_max, limits.value_bytes_max
        )));
    }
    Ok(limits)
}

fn door_threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(4),
        threads => threads,
    }
}

fn check_address(address: &str) -> Result<(), String> {
    let wrong = || "write HOST:PORT, for example 127.0.0.1:2379".to_owned();
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || host.contains(['/', ' ', '@']) {
        return Err(wrong());
    }
    port.parse::<u16>().map(|_| ()).map_err(|_| format!("{port:?} is not a port (0 to 65535)"))
}

impl Settings {
    fn entry(&self, name: &str) -> (&'static Setting, Option<&(Source, String)>) {
        #[expect(clippy::expect_used, reason = "called with names of the table only; a test resolves all")]
        let setting = SETTINGS.iter().find(|setting| setting.name == name).expect("a name of the table");
        (setting, self.values.get(name))
    }

    fn text(&self, name: &str) -> String {
        let (setting, value) = self.entry(name);
        value.map_or_else(|| setting.default.to_owned(), |(_, text)| text.trim().to_owned())
    }

    fn origin(&self, name: &str) -> String {
        let (_, value) = self.entry(name);
        value.map_or_else(|| name.to_owned(), |(source, _)| source.origin(name))
    }

    fn refuse(&self, name: &str, reason: &str) -> ConfigError {
        ConfigError::Value { origin: self.origin(name), value: self.text(name), reason: reason.to_owned() }
    }

    fn address(&self, name: &str) -> Result<String, ConfigError> {
        let text = self.text(name);
        check_address(&text).map_err(|reason| self.refuse(name, &reason))?;
        Ok(text)
    }

    fn optional_address(&self, name: &str) -> Result<Option<String>, ConfigError> {
        if self.text(name).is_empty() { Ok(None) } else { self.address(name).map(Some) }
    }

    fn number(&self, name: &str) -> Result<u64, ConfigError> {
        let (setting, _) = self.entry(name);
        let (least, most) = setting.bounds.unwrap_or((0, u64::MAX));
        self.text(name).replace('_', "").parse::<u64>().ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| {
            self.refuse(
                name,
                &format!("write a whole number of {} from {least} to {most}", setting.value.to_lowercase()),
            )
        })
    }

    fn size(&self, name: &str) -> Result<usize, ConfigError> {
        let number = self.number(name)?;
        usize::try_from(number).map_err(|_| self.refuse(name, "this machine cannot address so much"))
    }
}
