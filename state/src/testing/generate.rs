//! Random histories over few keys, leases and clients, so that they meet often.
//!
//! Invariants:
//! - A history is a log: indexes without gaps, terms that never fall. Its groups say how it is cut into calls.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use quorate_proto::{ClientId, Key, LeaseId, Path, Revision};

use crate::apply::{Entry, LogPosition, Payload};
use crate::command::{
    Batch, Command, Compare, CopyTree, Delete, Envelope, Expect, LeaseEnd, Owner, Principal, Put, RangeQuery, Refine,
    Relation, RequestId, SortBy, Span, Target, Txn, TxnOp,
};

/// A log, and how it is cut into calls of apply.
#[derive(Debug, Clone)]
pub struct History {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Lengths of the groups; repeated when the log is longer.
    pub groups: Vec<usize>,
}

impl History {
    /// The entries in groups.
    pub fn grouped(&self) -> Vec<&[Entry]> {
        let mut rest = &self.entries[..];
        let mut lengths = self.groups.iter().copied().chain([1]).cycle();
        let mut groups = Vec::new();
        while !rest.is_empty() {
            let length = lengths.next().unwrap_or(1).clamp(1, rest.len());
            let (group, tail) = rest.split_at(length);
            groups.push(group);
            rest = tail;
        }
        groups
    }
}

/// Keys: paths that nest, share prefixes and order awkwardly; plain keys with zero bytes; keys that are almost paths.
const KEYS: [&[u8]; 18] = [
    b"/a", b"/a/b", b"/a/b/c", b"/a/b/d", b"/a/c", b"/a-x", b"/a/b-x", b"/a/b!", b"/b", b"/b/a", b"/c/d/e", b"/a0",
    b"k", b"k\0", b"k\0\x01", b"\xff", b"/a//b", b"/a/",
];

/// Those of them that are paths, and some that never are keys.
const PATHS: [&str; 10] = ["/a", "/a/b", "/a/b/c", "/a/c", "/b", "/c", "/c/d", "/d", "/d/e", "/a-x"];

fn key() -> impl Strategy<Value = Key> {
    (0..KEYS.len()).prop_map(|which| Key::new(KEYS[which]).expect("a key"))
}

fn path() -> impl Strategy<Value = Path> {
    (0..PATHS.len()).prop_map(|which| Path::new(PATHS[which]).expect("a path"))
}

fn value() -> impl Strategy<Value = Bytes> {
    (0u8..4).prop_map(|byte| Bytes::from(vec![byte; usize::from(byte)]))
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![1i64..6, Just(-3i64)].prop_map(|id| LeaseId::new(id).expect("a lease"))
}

fn revision() -> impl Strategy<Value = Revision> {
    prop_oneof![9 => 0i64..30, 1 => Just(-1i64)].prop_map(Revision)
}

fn ttl_ms() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 500u64..5000, 1 => Just(1u64)]
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        4 => Just(Owner::None),
        3 => lease().prop_map(Owner::Lease),
        2 => Just(Owner::Keep),
        2 => (lease(), ttl_ms()).prop_map(|(lease, ttl_ms)| Owner::Ttl { lease, ttl_ms }),
    ]
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        8 => Just(Expect::Anything),
        1 => Just(Expect::Absent),
        1 => Just(Expect::Present),
        1 => revision().prop_map(Expect::ModRevision),
    ]
}

fn put() -> impl Strategy<Value = Put> {
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (key(), option::weighted(0.9, value()), owner(), expect(), flags).prop_map(
        |(key, value, owner, expect, (return_previous, must_have_parent, sequential))| Put {
            key,
            value,
            owner,
            expect,
            return_previous,
            must_have_parent,
            sequential,
        },
    )
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![
        4 => key().prop_map(Span::Key),
        1 => (key(), option::of(key())).prop_map(|(start, end)| Span::Range {
            start: start.into_bytes(),
            end: end.map(Key::into_bytes),
        }),
        1 => option::of(key()).prop_map(|end| Span::Range { start: Bytes::new(), end: end.map(Key::into_bytes) }),
        2 => path().prop_map(Span::Subtree),
    ]
}

fn delete() -> impl Strategy<Value = Delete> {
    (span(), expect(), prop::bool::weighted(0.2), any::<bool>(), option::weighted(0.3, 0u64..5)).prop_map(
        |(span, expect, must_be_empty, return_previous, limit)| Delete {
            span,
            expect,
            must_be_empty,
            return_previous,
            limit,
        },
    )
}

fn query() -> impl Strategy<Value = RangeQuery> {
    let bounds =
        (option::weighted(0.4, revision()), option::weighted(0.4, 0usize..4), option::weighted(0.3, 0usize..9));
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (span(), bounds, flags, refine()).prop_map(
        |(span, (revision, limit, bytes_max), (descending, keys_only, count_only, count_all), refine)| RangeQuery {
            span,
            revision,
            limit,
            bytes_max,
            descending,
            keys_only,
            count_only,
            count_all,
            refine,
        },
    )
}

fn refine() -> impl Strategy<Value = Refine> {
    let sort = option::of(prop_oneof![
        Just(SortBy::Version),
        Just(SortBy::CreateRevision),
        Just(SortBy::ModRevision),
        Just(SortBy::Value),
    ]);
    let bound = || option::weighted(0.3, revision());
    let refined = (sort, any::<bool>(), (bound(), bound()), (bound(), bound())).prop_map(
        |(sort, window_first, (mod_min, mod_max), (create_min, create_max))| Refine {
            sort,
            window_first,
            mod_min,
            mod_max,
            create_min,
            create_max,
        },
    );
    prop_oneof![2 => Just(Refine::default()), 1 => refined]
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0i64..3).prop_map(Target::Version),
        revision().prop_map(Target::CreateRevision),
        revision().prop_map(Target::ModRevision),
        option::of(lease()).prop_map(Target::Lease),
        value().prop_map(Target::Value),
        any::<bool>().prop_map(Target::Exists),
    ];
    let relation = prop_oneof![
        4 => Just(Relation::Equal),
        2 => Just(Relation::NotEqual),
        1 => Just(Relation::Greater),
        1 => Just(Relation::Less),
    ];
    (span(), any::<bool>(), relation, target).prop_map(|(span, empty_as_missing, relation, target)| Compare {
        span,
        empty_as_missing,
        relation,
        target,
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        2 => query().prop_map(TxnOp::Range),
        5 => put().prop_map(TxnOp::Put),
        2 => delete().prop_map(TxnOp::Delete),
    ];
    let op = leaf.prop_recursive(2, 8, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compares, then, otherwise)| TxnOp::Txn(Txn { compares, then, otherwise }))
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4)).prop_map(|(compares, then, otherwise)| Txn {
        compares,
        then,
        otherwise,
    })
}

fn command() -> impl Strategy<Value = Command> {
    let cause = any::<bool>().prop_map(|asked| if asked { LeaseEnd::Asked } else { LeaseEnd::Expired });
    prop_oneof![
        10 => put().prop_map(Command::Put),
        4 => delete().prop_map(Command::Delete),
        6 => txn().prop_map(Command::Txn),
        3 => (path(), path(), any::<bool>(), any::<bool>(), prop_oneof![3 => Just(100u64), 1 => 0u64..3]).prop_map(
            |(from, to, keep_leases, remove_source, limit)| Command::CopyTree(CopyTree {
                from,
                to,
                keep_leases,
                remove_source,
                limit,
            }),
        ),
        4 => (lease(), ttl_ms()).prop_map(|(lease, ttl_ms)| Command::LeaseGrant { lease, ttl_ms }),
        3 => (vec(lease(), 0..3), cause).prop_map(|(leases, cause)| Command::LeaseRevoke { leases, cause }),
        1 => vec((lease(), option::of(0u64..9000)), 0..3).prop_map(Command::LeaseCheckpoint),
        2 => (revision(), any::<bool>())
            .prop_map(|(revision, only_forward)| Command::Compact { revision, only_forward }),
        1 => (0u32..3).prop_map(Command::SetStateVersion),
        1 => Just(Command::Scrub),
    ]
}

fn request() -> impl Strategy<Value = RequestId> {
    (1u64..3, 1u64..8, 0u64..8, 0u64..30).prop_map(|(client, sequence, lowest_unacknowledged, seen_index)| RequestId {
        client: ClientId::new(client).expect("a client"),
        sequence,
        lowest_unacknowledged,
        seen_index,
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let envelope = (option::weighted(0.3, request()), command()).prop_map(|(request, command)| Envelope {
        request,
        principal: Principal::default(),
        command,
    });
    prop_oneof![
        1 => Just(Payload::Blank),
        1 => any::<u8>().prop_map(|byte| Payload::Membership(Bytes::from(vec![byte]))),
        20 => (0i64..1000, vec(envelope, 0..5))
            .prop_map(|(stamp_ms, commands)| Payload::Batch(Batch { stamp_ms, commands })),
    ]
}

/// Logs of up to `entries_max` entries.
pub fn histories(entries_max: usize) -> impl Strategy<Value = History> {
    let entry = (prop::bool::weighted(0.1), payload());
    let first = Payload::Membership(Bytes::from_static(b"first"));
    (0u64..2, vec(entry, 1..=entries_max), vec(1usize..4, 1..4)).prop_map(move |(first_index, mut payloads, groups)| {
        if first_index == 0 {
            payloads[0].1 = first.clone();
        }
        let mut term = 1;
        let place = |(offset, (new_term, payload)): (u64, (bool, Payload))| {
            term += u64::from(new_term);
            Entry { position: LogPosition { term, index: first_index + offset }, payload }
        };
        History { entries: (0u64..).zip(payloads).map(place).collect(), groups }
    })
}
