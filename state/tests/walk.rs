//! A walk through the machine from outside: put, overwrite, transaction, lease, history, directories.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use bytes::Bytes;
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::apply::{Entry, LogPosition, Machine, Payload};
use quorate_state::command::*;
use quorate_state::outcome::*;
use quorate_state::store::{MemoryStore, Store};
use quorate_state::view::{ListQuery, View};

fn key(text: &str) -> Key {
    Key::new(text.to_owned()).unwrap()
}

fn put(text: &str, value: &str) -> Put {
    Put {
        key: key(text),
        value: Some(Bytes::from(value.to_owned())),
        owner: Owner::None,
        expect: Expect::Anything,
        return_previous: false,
        must_have_parent: false,
        sequential: false,
    }
}

fn apply(machine: &mut Machine<MemoryStore>, commands: Vec<Command>) -> Vec<Outcome> {
    let index = machine.applied().0.map_or(0, |position| position.index + 1);
    let envelope = |command| Envelope { request: None, principal: Principal::default(), command };
    let commands = commands.into_iter().map(envelope).collect();
    let payload = Payload::Batch(Batch { stamp_ms: 1000, commands });
    let entry = Entry { position: LogPosition { term: 1, index }, payload };
    machine.apply(&[entry]).unwrap().remove(0).outcomes
}

#[test]
fn a_walk_through_the_machine() {
    let mut machine = Machine::open(MemoryStore::new()).unwrap();
    let lease = LeaseId::new(7).unwrap();
    let outcomes = apply(
        &mut machine,
        vec![
            Command::Put(put("/a/b", "1")),
            Command::Put(put("/a/b", "2")),
            Command::LeaseGrant { lease, ttl_ms: 1000 },
            Command::Put(Put { owner: Owner::Lease(lease), ..put("/a/c", "3") }),
        ],
    );
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
    assert_eq!(machine.revision(), Revision(4));
    apply(&mut machine, vec![Command::LeaseRevoke { leases: vec![lease], cause: LeaseEnd::Asked }]);
    let view = View::new(machine.store().snapshot()).unwrap();
    assert_eq!(view.get(&key("/a/b"), None).unwrap().unwrap().value, "2");
    assert_eq!(view.get(&key("/a/b"), Some(Revision(2))).unwrap().unwrap().value, "1");
    assert_eq!(view.get(&key("/a/c"), None).unwrap(), None);
    assert_eq!(view.get(&key("/a/c"), Some(Revision(4))).unwrap().unwrap().value, "3");
    for (revision, names) in [(None, vec!["b"]), (Some(Revision(4)), vec!["b", "c"])] {
        let query = ListQuery { dir: "/a".into(), after: None, limit: 10, with_values: true, revision };
        let children = view.list(&query).unwrap().children;
        assert_eq!(children.iter().map(|child| child.name.clone()).collect::<Vec<_>>(), names);
    }
    let chunk = view.changes(Revision(2), 1 << 20, |_| true).unwrap();
    assert_eq!((chunk.revisions.len(), chunk.next), (4, Revision(6)));
}
