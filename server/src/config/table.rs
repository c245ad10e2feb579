//! The table of settings: what help texts, the file, the environment and the parser all read.
//!
//! Invariants:
//! - Every default is a value that the parser takes and that lies within the bounds.

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// As a flag and in the file; in the environment `QUORATE_` and upper case.
    pub name: &'static str,
    /// What stands for its value in help texts; says the unit.
    pub value: &'static str,
    /// As text; empty for none.
    pub default: &'static str,
    /// Smallest and largest value, for numbers and durations (in the unit of `value`).
    pub bounds: Option<(u64, u64)>,
    /// One sentence, and when to change it.
    pub about: &'static str,
}

/// `QUORATE_*` variables that belong to the client's verbs or to `serve` itself.
pub const NOT_SETTINGS: &[&str] = &["endpoints", "timeout", "output", "config", "log", "color"];

const fn text(name: &'static str, value: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, value, default, bounds: None, about }
}

const fn number(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    bounds: (u64, u64),
    about: &'static str,
) -> Setting {
    Setting { name, value, default, bounds: Some(bounds), about }
}

/// All settings, in the order of the help text.
pub const SETTINGS: &[Setting] = &[
    text("name", "NAME", "quorate", "Name of this member, unique in its cluster."),
    text("data-dir", "DIR", "quorate-data", "Where this member keeps its log and state. One process at a time."),
    text("listen", "HOST:PORT", "127.0.0.1:2379", "Where clients are served."),
    text(
        "advertise",
        "HOST:PORT",
        "",
        "What clients are told to connect to. Change it when they cannot reach `listen` by its own name.",
    ),
    text("peer-listen", "HOST:PORT", "127.0.0.1:2380", "Where other members are served."),
    text(
        "peer-advertise",
        "HOST:PORT",
        "",
        "What members are told to connect to. Change it when they cannot reach `peer-listen` by its own name.",
    ),
    text(
        "cluster",
        "NAME=HOST:PORT,...",
        "",
        "All members of a new cluster with their peer addresses, this one among them. Read only while the data directory is empty.",
    ),
    text(
        "join",
        "HOST:PORT",
        "",
        "Client address of a member of the cluster to join. Read only while the data directory is empty.",
    ),
    number(
        "heartbeat-ms",
        "MS",
        "75",
        (10, 5_000),
        "How often the leader says that it leads. Raise it with the election timeouts when members are far apart.",
    ),
    number(
        "election-min-ms",
        "MS",
        "250",
        (30, 50_000),
        "A follower waits at least so long for the leader; at least twice the heartbeat. Raise it when a busy network causes elections.",
    ),
    number(
        "election-max-ms",
        "MS",
        "500",
        (60, 100_000),
        "A follower waits at most so long; at least 1.2 times the minimum.",
    ),
    number(
        "value-bytes-max",
        "BYTES",
        "1572864",
        (1_024, 16_777_216),
        "Longest value. Raise it with care: a value travels to every member and watcher.",
    ),
    number("txn-ops-max", "COUNT", "128", (1, 10_000), "Most operations in a transaction, nested ones counted."),
    number("request-bytes-max", "BYTES", "16777216", (65_536, 67_108_864), "Largest request message."),
    number(
        "watch-progress-s",
        "SECONDS",
        "600",
        (1, 86_400),
        "How often an idle etcd watch that asked for it hears how far it is. Lower it to 5 for a Kubernetes API server.",
    ),
    number(
        "compact-age-s",
        "SECONDS",
        "86400",
        (0, 315_360_000),
        "History older than this is compacted; 0: age does not matter. Lower it when the store grows too large.",
    ),
    number(
        "compact-revisions",
        "COUNT",
        "0",
        (0, 1_000_000_000_000),
        "Only so many revisions are kept; 0: number does not matter.",
    ),
    number("door-threads", "COUNT", "0", (0, 64), "Threads that serve clients; 0: one a core, at most 4."),
    number(
        "disk-reserve-bytes",
        "BYTES",
        "268435456",
        (1_048_576, 1_099_511_627_776),
        "Below so much free disk on a member that the quorum needs, growing writes are refused.",
    ),
    number(
        "snapshot-log-bytes",
        "BYTES",
        "268435456",
        (1_048_576, 68_719_476_736),
        "A snapshot is taken, and the log purged, after so many bytes of log.",
    ),
    number(
        "watch-window-bytes",
        "BYTES",
        "16777216",
        (65_536, 4_294_967_296),
        "Recent changes kept in memory for watchers; slower ones are fed from history.",
    ),
    number(
        "cache-bytes",
        "BYTES",
        "33554432",
        (1_048_576, 68_719_476_736),
        "Of the store, in memory: half keys that are read often, the rest blocks of its files. Raise it when reads miss.",
    ),
    text(
        "dns-listen",
        "HOST:PORT",
        "",
        "Where names of services are answered, over UDP and TCP; empty: nowhere. Set it to let programs find services by DNS.",
    ),
    text("dns-domain", "DOMAIN", "quorate", "The domain of those names: SERVICE.service.DOMAIN."),
    text(
        "check-networks",
        "CIDR,...",
        "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7",
        "Networks that health checks may connect to; the default is private networks. Add 127.0.0.0/8 only where whoever registers may reach what listens on this machine.",
    ),
];

/// The name of a setting that differs from `name` in at most two places.
pub fn nearest(name: &str) -> Option<&'static str> {
    SETTINGS
        .iter()
        .map(|setting| (distance(setting.name, name), setting.name))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, on bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
