//! Damaged bytes for the decoders of this crate, with an eye on their memory. For tests only; the targets are in files
//! `fuzz.rs` beside their decoders.
//!
//! Invariants:
//! - Only what the thread of the target takes is counted: other tests run beside it.

use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::apply::{Entry, LogPosition, Machine, Payload};
use quorate_state::codec::{decode_envelope, encode_envelope};
use quorate_state::command::{Batch, Command, Envelope, Owner, Principal, Put, RangeQuery, RequestId};
use quorate_state::store::{MemoryStore, Store as _};
use quorate_state::testing::fuzz::{Room, fuzz_within, inputs};
use quorate_state::versions::STATE_VERSION;
use quorate_state::view::{ReadError, View};

/// Throws damaged inputs of the corpus at a decoder, which says whether it took them.
pub fn fuzz(name: &str, corpus: &str, target: impl Fn(&[u8]) -> bool) {
    fuzz_in(Room::DECODER, name, corpus, target);
}

/// The same for what needs other room than a decoder.
pub fn fuzz_in(room: Room, name: &str, corpus: &str, target: impl Fn(&[u8]) -> bool) {
    fuzz_within(room, |run| allocation_counter::measure(run).bytes_max, name, corpus, target);
}

/// The same for requests, of which what passes is decided on a small store: see [`Decided`]. All of the corpus has to pass.
pub fn fuzz_requests(name: &str, corpus: &str, target: impl Fn(&[u8]) -> bool) {
    for input in inputs(corpus) {
        assert!(target(&input), "{input:02x?} is refused");
    }
    // Each decision copies what it changes of the store.
    fuzz_in(Room { base: 256 << 10, each: 512 }, name, corpus, target);
}

/// A small store on which is decided what passed a door.
pub struct Decided {
    store: MemoryStore,
    next: u64,
}

impl Decided {
    /// With keys of every kind, two leases, contenders, and some history.
    pub fn new() -> Self {
        let mut machine = Machine::open(MemoryStore::new()).unwrap();
        let key = |text: &str| Key::new(text.to_owned()).unwrap();
        let lease = LeaseId::new(7).unwrap();
        let put = |at: &str, owner| Command::Put(Put::new(key(at), "1".into(), owner));
        let sequential =
            |at: &str| Command::Put(Put { sequential: true, ..Put::new(key(at), "2".into(), Owner::None) });
        let commands = vec![
            Command::SetStateVersion(STATE_VERSION),
            Command::LeaseGrant { lease, ttl_ms: 5_000 },
            put("k", Owner::None),
            put("/a", Owner::None),
            put("/a/b", Owner::Lease(lease)),
            put("/a/b/c", Owner::Ttl { lease: LeaseId::new(8).unwrap(), ttl_ms: 1_000 }),
            sequential("/a/q"),
            put("l/7", Owner::Lease(lease)),
            put("l/7-1", Owner::Lease(lease)),
            put("k", Owner::None),
            Command::Compact { revision: Revision(3), only_forward: false },
        ];
        let next = 1 + commands.len() as u64;
        let entries: Vec<_> = (1..).zip(commands).map(|(index, command)| entry(index, None, command)).collect();
        let applied = machine.apply(&entries).unwrap();
        assert!(applied.iter().flat_map(|applied| &applied.outcomes).all(|outcome| outcome.result.is_ok()));
        Self { store: machine.store().clone(), next }
    }

    /// The log takes a command and gives it back; the machine decides it, and again, and never fails.
    pub fn decide(&self, request: Option<RequestId>, command: &Command) {
        let entries: Vec<_> = [0, 1].iter().map(|more| entry(self.next + more, request, command.clone())).collect();
        let Payload::Batch(batch) = &entries[0].payload else { unreachable!() };
        let envelope = &batch.commands[0];
        assert_eq!(decode_envelope(&encode_envelope(envelope)).as_ref(), Ok(envelope));
        let decided = || {
            let mut machine = Machine::open(self.store.clone()).unwrap();
            (machine.apply(&entries).unwrap(), machine.digest())
        };
        assert_eq!(decided(), decided());
    }

    /// The store answers a read, or says why not.
    pub fn read(&self, query: &RangeQuery) {
        let view = View::new(self.store.snapshot()).unwrap();
        match view.range(query) {
            Ok(done) => assert!(query.limit.is_none_or(|limit| done.kvs.len() <= limit)),
            Err(ReadError::Future { .. } | ReadError::Compacted { .. }) => {}
            Err(ReadError::Fault(fault)) => panic!("{fault}"),
        }
    }
}

fn entry(index: u64, request: Option<RequestId>, command: Command) -> Entry {
    let envelope = Envelope { request, principal: Principal::default(), command };
    let batch = Batch { stamp_ms: 1_000, commands: vec![envelope] };
    Entry { position: LogPosition { term: 1, index }, payload: Payload::Batch(batch) }
}
