//! One instance of a service: where it is, how well it is, and what checks it.
//!
//! Invariants:
//! - What the cluster sets (revisions, lease, `expired`, `malformed`) is never sent back to it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use quorate_proto::{LeaseId, Revision, v1};

/// Share of the load of an instance that says nothing else.
const WEIGHT_DEFAULT: u32 = 100;

/// How well an instance is.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let all = client.service("orders").worst(quorate::Health::Maintenance).resolve().await?;
/// println!("{} pass", all.instances.iter().filter(|each| each.health == quorate::Health::Passing).count());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Health {
    /// Not said. Of a registration: passing, or critical until the first check if it has checks.
    Unspecified,
    /// Serves.
    Passing,
    /// Serves, but something wants attention.
    Warning,
    /// Should get no calls.
    Critical,
    /// Taken out of service by hand.
    Maintenance,
}

impl Health {
    pub(crate) fn wire(self) -> i32 {
        match self {
            Self::Unspecified => v1::Health::Unspecified,
            Self::Passing => v1::Health::Passing,
            Self::Warning => v1::Health::Warning,
            Self::Critical => v1::Health::Critical,
            Self::Maintenance => v1::Health::Maintenance,
        }
        .into()
    }

    pub(crate) fn of(wire: i32) -> Self {
        match v1::Health::try_from(wire) {
            Ok(v1::Health::Passing) => Self::Passing,
            Ok(v1::Health::Warning) => Self::Warning,
            Ok(v1::Health::Critical) => Self::Critical,
            Ok(v1::Health::Maintenance) => Self::Maintenance,
            Ok(v1::Health::Unspecified) | Err(_) => Self::Unspecified,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        })
    }
}

/// An instance of a service: built up to be registered, or as the cluster tells of it.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use quorate::{HealthCheck, Instance};
/// let instance = Instance::new("orders", "orders-1")
///     .address("10.0.0.7")
///     .port(8080)
///     .tag("canary")
///     .metadata("version", "2.4")
///     .zone("eu-1")
///     .check(HealthCheck::grpc("10.0.0.7:8080"));
/// let registration = client.register(instance).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// Service that it belongs to.
    pub service: String,
    /// Its id, unique within the service.
    pub id: String,
    /// IP address or host name.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// Whatever its users want to know of it.
    pub metadata: BTreeMap<String, String>,
    /// Share of the load, compared with the others.
    pub weight: u32,
    /// Zone; empty for none.
    pub zone: String,
    /// What counts: the worst of what it reports and what its checks say.
    pub health: Health,
    /// Why, for people.
    pub health_note: String,
    /// What checks it.
    pub checks: Vec<HealthCheck>,
    /// Revision at which it was registered.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Lease that it lives by; `None` when it is permanent.
    pub lease: Option<LeaseId>,
    /// The document at its key could not be read, for this reason; only `service` and `id` are right.
    pub malformed: Option<String>,
    /// Its lease has ended; told because many ended at once. Use it while it answers.
    pub expired: bool,
}

impl Instance {
    /// An instance of `service` under `id`, which no other of the service has.
    ///
    /// ```no_run
    /// let instance = quorate::Instance::new("orders", "orders-1").address("10.0.0.7").port(8080);
    /// ```
    pub fn new(service: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            id: id.into(),
            address: String::new(),
            port: 0,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            weight: WEIGHT_DEFAULT,
            zone: String::new(),
            health: Health::Unspecified,
            health_note: String::new(),
            checks: Vec::new(),
            create_revision: Revision::ZERO,
            mod_revision: Revision::ZERO,
            lease: None,
            malformed: None,
            expired: false,
        }
    }

    /// At this IP address or host name.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// At this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// With this tag, beside those that it has.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// With this of what its users may want to know.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// With this share of the load, compared with the others (1 to 65 535); 100 when left out.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// In this zone.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// As well as it says by itself.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Checked by this, beside what checks it already.
    #[must_use]
    pub fn check(mut self, check: HealthCheck) -> Self {
        self.checks.push(check);
        self
    }

    /// `host:port`, with an IPv6 address in brackets.
    ///
    /// ```
    /// let instance = quorate::Instance::new("orders", "a").address("::1").port(80);
    /// assert_eq!(instance.authority(), "[::1]:80");
    /// ```
    pub fn authority(&self) -> String {
        let (address, port) = (&self.address, self.port);
        if address.contains(':') && !address.starts_with('[') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    }

    pub(crate) fn wire(&self) -> v1::Instance {
        v1::Instance {
            service: self.service.clone(),
            id: self.id.clone(),
            address: self.address.clone(),
            port: u32::from(self.port),
            tags: self.tags.clone(),
            metadata: self.metadata.clone().into_iter().collect(),
            weight: self.weight,
            zone: self.zone.clone(),
            health: self.health.wire(),
            checks: self.checks.iter().map(HealthCheck::wire).collect(),
            health_note: self.health_note.clone(),
            ..v1::Instance::default()
        }
    }
}

impl From<v1::Instance> for Instance {
    fn from(wire: v1::Instance) -> Self {
        Self {
            service: wire.service,
            id: wire.id,
            address: wire.address,
            port: u16::try_from(wire.port).unwrap_or_default(),
            tags: wire.tags,
            metadata: wire.metadata.into_iter().collect(),
            weight: if wire.weight == 0 { WEIGHT_DEFAULT } else { wire.weight },
            zone: wire.zone,
            health: Health::of(wire.health),
            health_note: wire.health_note,
            checks: wire.checks.into_iter().filter_map(HealthCheck::of).collect(),
            create_revision: Revision(wire.create_revision),
            mod_revision: Revision(wire.mod_revision),
            lease: LeaseId::new(wire.lease_id),
            malformed: (!wire.malformed.is_empty()).then_some(wire.malformed),
            expired: wire.expired,
        }
    }
}

/// What a [`HealthCheck`] does.
///
/// ```no_run
/// # fn example(check: quorate::HealthCheck) {
/// if let quorate::CheckKind::Http(url) = &check.kind { println!("GET {url}"); }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckKind {
    /// GET of this URL: 2xx passes, 429 warns, all else is critical.
    Http(String),
    /// A connection to this `host:port`.
    Tcp(String),
    /// A question to `grpc.health.v1` at `host:port` or `host:port/service`.
    Grpc(String),
    /// The instance reports by itself at least this often.
    Ttl(Duration),
}

/// A check that the cluster makes of an instance.
///
/// ```no_run
/// use std::time::Duration;
/// use quorate::HealthCheck;
/// let check = HealthCheck::http("http://10.0.0.7:8080/health")
///     .interval(Duration::from_secs(5))
///     .failures(2)
///     .remove_after(Duration::from_secs(600));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What it does.
    pub kind: CheckKind,
    /// How often; 10 s when left out.
    pub interval: Option<Duration>,
    /// How long an answer may take; 5 s or the interval when left out.
    pub timeout: Option<Duration>,
    /// Successes in a row until it passes; 0 for the default, 1.
    pub passes: u32,
    /// Failures in a row until it is critical; 0 for the default, 3.
    pub failures: u32,
    /// The instance is deregistered after being critical so long.
    pub remove_after: Option<Duration>,
}

impl HealthCheck {
    /// GET this URL.
    ///
    /// ```no_run
    /// let check = quorate::HealthCheck::http("http://10.0.0.7:8080/health");
    /// ```
    pub fn http(url: impl Into<String>) -> Self {
        Self::new(CheckKind::Http(url.into()))
    }

    /// Connect to this `host:port`.
    ///
    /// ```no_run
    /// let check = quorate::HealthCheck::tcp("10.0.0.7:8080");
    /// ```
    pub fn tcp(address: impl Into<String>) -> Self {
        Self::new(CheckKind::Tcp(address.into()))
    }

    /// Ask `grpc.health.v1` at `host:port` or `host:port/service`.
    ///
    /// ```no_run
    /// let check = quorate::HealthCheck::grpc("10.0.0.7:8080/shop.Orders");
    /// ```
    pub fn grpc(target: impl Into<String>) -> Self {
        Self::new(CheckKind::Grpc(target.into()))
    }

    /// The instance says itself how it is, at least this often ([`Registration::report`](crate::Registration::report)).
    ///
    /// ```no_run
    /// let check = quorate::HealthCheck::ttl(std::time::Duration::from_secs(30));
    /// ```
    pub fn ttl(ttl: Duration) -> Self {
        Self::new(CheckKind::Ttl(ttl))
    }

    /// So often (1 s to a day).
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// With so long for an answer (100 ms to the interval, at most a minute).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Passing after so many successes in a row (1 to 100).
    #[must_use]
    pub fn passes(mut self, passes: u32) -> Self {
        self.passes = passes;
        self
    }

    /// Critical after so many failures in a row (1 to 100).
    #[must_use]
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Deregistered after being critical so long (10 s or more).
    #[must_use]
    pub fn remove_after(mut self, after: Duration) -> Self {
        self.remove_after = Some(after);
        self
    }

    fn new(kind: CheckKind) -> Self {
        Self { kind, interval: None, timeout: None, passes: 0, failures: 0, remove_after: None }
    }

    fn wire(&self) -> v1::HealthCheck {
        use v1::health_check::Kind;
        v1::HealthCheck {
            kind: Some(match &self.kind {
                CheckKind::Http(url) => Kind::Http(url.clone()),
                CheckKind::Tcp(address) => Kind::Tcp(address.clone()),
                CheckKind::Grpc(target) => Kind::Grpc(target.clone()),
                CheckKind::Ttl(ttl) => Kind::TtlMs(milliseconds(*ttl)),
            }),
            interval_ms: self.interval.map_or(0, milliseconds),
            timeout_ms: self.timeout.map_or(0, milliseconds),
            passes: self.passes,
            failures: self.failures,
            remove_after_ms: self.remove_after.map_or(0, milliseconds),
        }
    }

    /// `None` for a kind that this client does not know.
    fn of(wire: v1::HealthCheck) -> Option<Self> {
        use v1::health_check::Kind;
        let some = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        Some(Self {
            kind: match wire.kind? {
                Kind::Http(url) => CheckKind::Http(url),
                Kind::Tcp(address) => CheckKind::Tcp(address),
                Kind::Grpc(target) => CheckKind::Grpc(target),
                Kind::TtlMs(ms) => CheckKind::Ttl(Duration::from_millis(ms)),
            },
            interval: some(wire.interval_ms),
            timeout: some(wire.timeout_ms),
            passes: wire.passes,
            failures: wire.failures,
            remove_after: some(wire.remove_after_ms),
        })
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_survives_the_wire() {
        let instance = Instance::new("orders", "a")
            .address("10.0.0.7")
            .port(80)
            .tag("x")
            .metadata("k", "v")
            .weight(7)
            .zone("z")
            .health(Health::Warning)
            .check(HealthCheck::http("http://a/").interval(Duration::from_secs(2)).failures(4))
            .check(HealthCheck::ttl(Duration::from_secs(9)).remove_after(Duration::from_secs(20)));
        assert_eq!(Instance::from(instance.wire()), instance);
    }

    #[test]
    fn what_the_cluster_sets_is_not_sent_back() {
        let wire = v1::Instance { lease_id: 7, mod_revision: 9, expired: true, ..Default::default() };
        let back = Instance::from(wire).wire();
        assert_eq!((back.lease_id, back.mod_revision, back.expired), (0, 0, false));
    }
}
