//! The members that a client knows, and which of them it talks to now.
//!
//! Invariants:
//! - A client stays with one endpoint until that fails; then it takes the next that is not resting, and when all
//!   rest, the one that has rested longest. So there is always one to try.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::v1;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::config::Config;
use crate::error::{Error, Reason, Result};
use crate::lane::Lane;

/// Port of the native API.
const DEFAULT_PORT: u16 = 2379;
/// Largest answer that is taken: a batch of pages of 4 MiB, or a transaction with its parts.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes that a member may send ahead on one stream, and on one connection.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// How long an endpoint rests after its first failure, and at most.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(5);

/// One member, as the client reaches it.
pub(crate) struct Endpoint {
    /// `host:port`.
    pub(crate) address: String,
    channel: Channel,
    lane: OnceLock<Lane>,
    runtime: Handle,
}

macro_rules! service {
    ($name:ident, $module:ident, $client:ident) => {
        pub(crate) fn $name(&self) -> v1::$module::$client<Channel> {
            v1::$module::$client::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
        }
    };
}

impl Endpoint {
    /// Needs a tokio runtime around it: the channel has a task.
    pub(crate) fn new(address: &str, config: &Config, runtime: &Handle) -> Result<Self> {
        let address = parse(address)?;
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Error::invalid(format!("the endpoint {address:?} is malformed: {error}")))?
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(config.keep_alive_interval)
            .keep_alive_timeout(config.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_lazy();
        Ok(Self { address, channel, lane: OnceLock::new(), runtime: runtime.clone() })
    }

    service!(kv, kv_client, KvClient);
    service!(watch, watch_client, WatchClient);
    service!(lease, lease_client, LeaseClient);
    service!(cluster, cluster_client, ClusterClient);
    service!(lock, lock_client, LockClient);
    service!(election, election_client, ElectionClient);
    service!(admin, admin_client, AdminClient);
    service!(batch, batch_client, BatchClient);
    service!(discovery, discovery_client, DiscoveryClient);

    /// The discovery service over the channel as `wrap` has it, and what else that made.
    pub(crate) fn discovery_with<S, T>(
        &self,
        wrap: impl FnOnce(Channel) -> (S, T),
    ) -> (v1::discovery_client::DiscoveryClient<S>, T)
    where
        S: tonic::client::GrpcService<tonic::body::Body>,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        <S::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let (service, made) = wrap(self.channel.clone());
        (v1::discovery_client::DiscoveryClient::new(service).max_decoding_message_size(ANSWER_BYTES_MAX), made)
    }

    /// The stream that concurrent calls share.
    pub(crate) fn lane(&self) -> &Lane {
        self.lane.get_or_init(|| Lane::new(self.batch(), &self.address, &self.runtime))
    }
}

/// `host:port` out of what a user writes.
fn parse(given: &str) -> Result<String> {
    let bare = given.strip_prefix("http://").unwrap_or(given);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let wrong = |why: &str| Error::invalid(format!("the endpoint {given:?} {why}; write it as \"host:port\""));
    if bare.contains("://") {
        return Err(wrong("has a scheme other than http"));
    }
    let uri: http::Uri = format!("http://{bare}").parse().map_err(|_| wrong("is malformed"))?;
    if uri.path() != "/" || uri.query().is_some() {
        return Err(wrong("has a path"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
    // A fragment is in no part of it.
    if authority.host().is_empty() || authority.as_str().contains('@') || authority.as_str() != bare {
        return Err(wrong("is malformed"));
    }
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Ok(format!("{bare}:{DEFAULT_PORT}")),
        Some(port) if port.strip_prefix(':').is_some_and(is_port) => Ok(bare.to_owned()),
        _ => Err(wrong("has a port that is none")),
    }
}

/// Digits alone: a sign before them would be read as well.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// All endpoints, and the choice among them.
pub(crate) struct Endpoints {
    all: Vec<Arc<Endpoint>>,
    choice: Mutex<Choice>,
}

struct Choice {
    current: usize,
    health: Vec<Health>,
}

#[derive(Clone, Default)]
struct Health {
    failures: u32,
    rest_until: Option<Instant>,
}

impl Endpoints {
    /// `all` has at least one.
    pub(crate) fn new(all: Vec<Arc<Endpoint>>) -> Self {
        let choice =
            Choice { current: rand::random_range(0..all.len().max(1)), health: vec![Health::default(); all.len()] };
        Self { all, choice: Mutex::new(choice) }
    }

    pub(crate) fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// The endpoint to talk to now.
    pub(crate) fn pick(&self) -> Arc<Endpoint> {
        let mut choice = self.choice.lock();
        choice.settle(Instant::now());
        self.all[choice.current].clone()
    }

    /// It has answered.
    pub(crate) fn succeeded(&self, endpoint: &Arc<Endpoint>) {
        if let Some(at) = self.index(endpoint) {
            self.choice.lock().health[at] = Health::default();
        }
    }

    /// It gave this error: take another if it is the endpoint's own.
    pub(crate) fn failed(&self, endpoint: &Arc<Endpoint>, error: &Error) {
        let broken = match error {
            Error::Unreachable { .. } | Error::Protocol { .. } => true,
            Error::Refused(refusal) => match refusal.reason {
                Reason::ShuttingDown | Reason::MemberFailed => true,
                Reason::NoQuorum | Reason::Deadline => false,
                _ => return self.succeeded(endpoint),
            },
            _ => return,
        };
        let Some(at) = self.index(endpoint) else { return };
        let mut choice = self.choice.lock();
        let now = Instant::now();
        choice.health[at].rest(broken, now);
        choice.settle(now);
    }

    fn index(&self, endpoint: &Arc<Endpoint>) -> Option<usize> {
        self.all.iter().position(|each| Arc::ptr_eq(each, endpoint))
    }
}

impl Choice {
    /// Moves on if the current endpoint rests.
    fn settle(&mut self, now: Instant) {
        let count = self.health.len();
        let ready = (0..count).map(|step| (self.current + step) % count).find(|at| self.health[*at].is_ready(now));
        let rested = || (0..count).min_by_key(|at| self.health[*at].rest_until);
        if let Some(at) = ready.or_else(rested) {
            self.current = at;
        }
    }
}

impl Health {
    fn is_ready(&self, now: Instant) -> bool {
        self.rest_until.is_none_or(|until| until <= now)
    }

    /// A broken endpoint rests longer each time; one that merely lacks a quorum is asked again soon.
    fn rest(&mut self, broken: bool, now: Instant) {
        let longest = if broken {
            self.failures = self.failures.saturating_add(1);
            REST_MIN.saturating_mul(1 << self.failures.min(6)).min(REST_MAX)
        } else {
            REST_MIN
        };
        self.rest_until = Some(now + longest.mul_f64(rand::random_range(0.5..1.0)));
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        for (given, read) in [
            ("127.0.0.1:2379", "127.0.0.1:2379"),
            ("http://db.example:99/", "db.example:99"),
            ("db.example", "db.example:2379"),
            ("[::1]:2379", "[::1]:2379"),
        ] {
            assert_eq!(parse(given).unwrap(), read);
        }
        for wrong in ["", "https://a:1", "a:b", "a:", "a:99999", "a/b", "a b", "me@a:1"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains("host:port"), "{wrong}: {error}");
        }
    }

    fn choice(count: usize) -> Choice {
        Choice { current: 0, health: vec![Health::default(); count] }
    }

    #[test]
    fn a_failed_endpoint_is_left_until_it_has_rested() {
        let (mut choice, now) = (choice(3), Instant::now());
        choice.health[0].rest(true, now);
        choice.settle(now);
        assert_eq!(choice.current, 1);
        choice.settle(now + REST_MAX);
        assert_eq!(choice.current, 1, "it stays where it works");
    }

    #[test]
    fn when_all_rest_the_one_that_is_ready_first_is_taken() {
        let (mut choice, now) = (choice(2), Instant::now());
        choice.current = 1;
        choice.health[0].rest(false, now);
        for _ in 0..6 {
            choice.health[1].rest(true, now);
        }
        choice.settle(now);
        assert_eq!(choice.current, 0);
    }
}
