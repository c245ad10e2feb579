//! Random steps that collide: few keys, and revisions that mean something.
//!
//! The generator looks at what the first server did so far (its changes, its watches, where it stands), so that it asks
//! for the revisions at which something happened and their neighbours. A sequence depends on the seed and on those answers only.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::etcd::etcdserverpb::compare::TargetUnion;
use quorate_proto::etcd::etcdserverpb::request_op::Request;
use quorate_proto::etcd::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use quorate_proto::etcd::mvccpb::{KeyValue, event::EventType};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::step::Step;
use super::target::Target;

/// Few, so that they collide; some are paths with places in the tree, some nearly are, some are at the ends of the order.
const KEYS: [&[u8]; 14] =
    [b"a", b"aa", b"b", b"b\0", b"c", b"m", b"/", b"/d", b"/d/", b"/d/x", b"/d/y", b"/e", b"\0", b"\xff\xff"];

const VALUES: [&[u8]; 6] = [b"", b"x", b"y", b"yy", b"\0", b"1"];

const LEASES: [i64; 4] = [1, 2, 3, 4];

/// Steps of one seed.
pub struct Generator {
    random: StdRng,
    live: BTreeMap<Bytes, KeyValue>,
    /// Revisions at which something happened.
    revisions: Vec<i64>,
    revision: i64,
    compacted: i64,
    watches: Vec<(usize, i64)>,
    closed: [bool; 2],
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            live: BTreeMap::new(),
            revisions: Vec::new(),
            revision: 0,
            compacted: 0,
            watches: Vec::new(),
            closed: [false; 2],
        }
    }

    /// How many steps the sequence has.
    pub fn length(&mut self) -> usize {
        self.random.random_range(6..28)
    }

    /// The next step for a server that stands where `target` does.
    pub fn next(&mut self, target: &Target) -> Step {
        self.learn(target);
        match self.random.random_range(0..1000) {
            0..230 => Step::Range(self.range()),
            230..440 => Step::Put(self.put()),
            440..540 => Step::Delete(self.delete()),
            540..720 => Step::Txn(self.txn(0)),
            720..750 => Step::Compact(self.compact()),
            750..775 => Step::Burst((0..self.random.random_range(2..6)).map(|_| self.put()).collect()),
            775..815 => Step::Grant(self.grant(&[60, 600, 1000, 9_000_000_000, 9_000_000_001, i64::MAX])),
            815..820 => Step::GrantAndRevoke(self.grant(&[-1, 0, 1, 2, 5])),
            820..850 => Step::Revoke(LeaseRevokeRequest { id: self.lease() }),
            850..870 => {
                let keys = self.random.random_bool(0.7);
                Step::TimeToLive(LeaseTimeToLiveRequest { id: self.lease(), keys })
            }
            870..880 => Step::Leases,
            880..890 => Step::KeepAlive(LeaseKeepAliveRequest { id: self.lease() }),
            890..960 => Step::Watch { stream: self.stream(), create: self.watch() },
            960..980 => {
                let known = self.watches.choose(&mut self.random).copied();
                let (stream, id) = known.filter(|_| self.random.random_bool(0.9)).unwrap_or((0, 107));
                Step::Cancel { stream, id }
            }
            980..995 => Step::Progress { stream: self.stream() },
            _ => {
                let stream = self.stream();
                self.closed[stream] = true;
                Step::HalfClose { stream }
            }
        }
    }

    fn learn(&mut self, target: &Target) {
        self.live.clear();
        self.revisions.clear();
        for event in target.changes() {
            let Some(kv) = event.kv.clone() else { continue };
            self.revisions.push(kv.mod_revision);
            if event.r#type() == EventType::Delete {
                self.live.remove(&kv.key);
            } else {
                self.live.insert(kv.key.clone(), kv);
            }
        }
        self.revision = target.revision();
        self.compacted = target.compacted();
        self.watches = target.watches();
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn one_of(&mut self, of: &[i64]) -> i64 {
        of.choose(&mut self.random).copied().unwrap_or_default()
    }

    fn key(&mut self) -> Bytes {
        if self.chance(0.01) {
            return Bytes::new();
        }
        let live: Vec<Bytes> = self.live.keys().cloned().collect();
        match live.choose(&mut self.random) {
            Some(key) if self.chance(0.5) => key.clone(),
            _ => Bytes::from_static(KEYS[self.random.random_range(0..KEYS.len())]),
        }
    }

    /// A key and the end of a range: single keys, prefixes, neighbours, everything after, everything, nothing.
    fn keys(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.random.random_range(0..100) {
            0..35 => Bytes::new(),
            35..50 => {
                let mut end = key.to_vec();
                if let Some(last) = end.last_mut() {
                    *last = last.saturating_add(1);
                }
                end.into()
            }
            50..75 => self.key(),
            75..88 => Bytes::from_static(b"\0"),
            _ => return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        };
        (key, end)
    }

    fn value(&mut self) -> Bytes {
        Bytes::from_static(VALUES[self.random.random_range(0..VALUES.len())])
    }

    fn lease(&mut self) -> i64 {
        if self.chance(0.02) { 0 } else { self.one_of(&LEASES) }
    }

    /// A stream whose client may still send.
    fn stream(&mut self) -> usize {
        let stream = self.random.random_range(0..2);
        if self.closed[stream] { 1 - stream } else { stream }
    }

    /// A revision at which something happened, or beside one, or one of no sense.
    fn revision(&mut self) -> i64 {
        let near = self.random.random_range(-1..=1);
        match self.random.random_range(0..100) {
            0..50 => self.revisions.choose(&mut self.random).copied().unwrap_or(self.revision),
            50..65 => self.revision + near,
            65..80 => self.compacted + near,
            80..95 => self.revision - self.random.random_range(0..4),
            95..97 => -1,
            97..98 => 1,
            _ => 1 << 40,
        }
    }

    fn revision_or_none(&mut self, probability: f64) -> i64 {
        if self.chance(probability) { self.revision() } else { 0 }
    }

    fn range(&mut self) -> RangeRequest {
        let (key, range_end) = self.keys();
        let ordered = self.chance(0.3);
        let filtered = if self.chance(0.25) { 0.4 } else { 0.0 };
        RangeRequest {
            key,
            range_end,
            limit: if self.chance(0.3) { self.one_of(&[1, 2, 3, 100, -1]) } else { 0 },
            revision: self.revision_or_none(0.35),
            // No values beyond: etcd 3.4 ends with a nil pointer on a sort target that it does not know.
            sort_order: if ordered { self.random.random_range(0..3) } else { 0 },
            sort_target: if ordered { self.random.random_range(0..5) } else { 0 },
            serializable: self.chance(0.2),
            keys_only: self.chance(0.15),
            count_only: self.chance(0.1),
            min_mod_revision: self.revision_or_none(filtered),
            max_mod_revision: self.revision_or_none(filtered),
            min_create_revision: self.revision_or_none(filtered),
            max_create_revision: self.revision_or_none(filtered),
        }
    }

    /// A value of an enumeration of so many, rarely one beyond.
    fn enumeration(&mut self, of: i32) -> i32 {
        if self.chance(0.004) { of } else { self.random.random_range(0..of) }
    }

    fn put(&mut self) -> PutRequest {
        let (ignore_value, ignore_lease) = (self.chance(0.08), self.chance(0.08));
        PutRequest {
            key: self.key(),
            value: if ignore_value && self.chance(0.9) { Bytes::new() } else { self.value() },
            lease: if self.chance(0.3) && (!ignore_lease || self.chance(0.1)) { self.lease() } else { 0 },
            prev_kv: self.chance(0.4),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let (key, range_end) = self.keys();
        DeleteRangeRequest { key, range_end, prev_kv: self.chance(0.5) }
    }

    fn compact(&mut self) -> CompactionRequest {
        CompactionRequest { revision: self.revision_or_none(0.95), physical: self.chance(0.5) }
    }

    fn grant(&mut self, ttls: &[i64]) -> LeaseGrantRequest {
        LeaseGrantRequest { id: if self.chance(0.1) { 0 } else { self.one_of(&LEASES) }, ttl: self.one_of(ttls) }
    }

    fn watch(&mut self) -> WatchCreateRequest {
        let (key, range_end) = self.keys();
        WatchCreateRequest {
            key,
            range_end,
            start_revision: match self.random.random_range(0..100) {
                0..45 => 0,
                45..75 => self.revision(),
                75..90 => self.revision + self.random.random_range(1..5),
                _ => self.compacted,
            },
            progress_notify: self.chance(0.2),
            filters: if self.chance(0.25) { vec![self.random.random_range(0..2)] } else { Vec::new() },
            prev_kv: self.chance(0.5),
            watch_id: if self.chance(0.3) { self.one_of(&[101, 102, 103, 107]) } else { 0 },
            fragment: self.chance(0.2),
        }
    }

    fn txn(&mut self, depth: usize) -> TxnRequest {
        let compares = self.random.random_range(0..3);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.ops(depth),
            failure: self.ops(depth),
        }
    }

    fn ops(&mut self, depth: usize) -> Vec<RequestOp> {
        let count = self.random.random_range(0..4);
        (0..count).map(|_| self.op(depth)).collect()
    }

    fn op(&mut self, depth: usize) -> RequestOp {
        let request = match self.random.random_range(0..100) {
            0..30 => Request::RequestRange(self.range()),
            30..48 => {
                let mut delete = self.delete();
                // An open end mostly makes the whole transaction an exception.
                if delete.range_end == "\0" && self.chance(0.9) {
                    delete.range_end = Bytes::from_static(b"\xff\xff\xff");
                }
                Request::RequestDeleteRange(delete)
            }
            48..64 if depth < 3 => Request::RequestTxn(self.txn(depth + 1)),
            64 => return RequestOp { request: None },
            _ => Request::RequestPut(self.put()),
        };
        RequestOp { request: Some(request) }
    }

    /// Mostly close to what is there, so that it holds about as often as not.
    fn compare(&mut self) -> Compare {
        let (key, range_end) = self.keys();
        let there = self.live.range(key.clone()..).next().map(|(_, kv)| kv.clone()).unwrap_or_default();
        let target = self.enumeration(5);
        let near = if self.chance(0.3) { self.random.random_range(-1..=1) } else { 0 };
        let spoken = if self.chance(0.97) { target } else { self.random.random_range(0..6) };
        let target_union = match spoken {
            0 => Some(TargetUnion::Version(there.version + near)),
            1 => Some(TargetUnion::CreateRevision(there.create_revision + near)),
            2 => Some(TargetUnion::ModRevision(there.mod_revision + near)),
            3 => Some(TargetUnion::Value(if near == 0 { there.value } else { self.value() })),
            4 => Some(TargetUnion::Lease(there.lease + near)),
            _ => None,
        };
        let range_end = if self.chance(0.6) { Bytes::new() } else { range_end };
        Compare { result: self.enumeration(4), target, key, range_end, target_union }
    }
}
