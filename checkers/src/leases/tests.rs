//! A lease of one second; moments in ms here.

use super::super::history::{ChangeLog, Kv};
use super::*;

const ALIVE: Learned = Learned::Alive { ttl_ms: 1_000 };

fn facts(facts: &[(u64, u64, Learned)]) -> History {
    let fact = |(invoked_ms, completed_ms, what): &(u64, u64, Learned)| LeaseFact {
        lease: 7,
        invoked: micros(*invoked_ms),
        completed: micros(*completed_ms),
        what: *what,
    };
    History { leases: facts.iter().map(fact).collect(), ..History::default() }
}

fn passes(of: &[(u64, u64, Learned)]) -> bool {
    check(&facts(of), 500).is_ok()
}

#[test]
fn it_lives_its_time_from_when_the_renewal_left() {
    assert!(passes(&[(0, 50, ALIVE), (1_000, 1_010, Learned::Gone)]));
    assert!(!passes(&[(0, 50, ALIVE), (900, 990, Learned::Gone)]), "early");
    assert!(!passes(&[(0, 50, ALIVE), (600, 650, ALIVE), (1_500, 1_590, Learned::Gone)]), "early after a renewal");
    let maybe = Learned::MaybeRenewed { ttl_ms: 1_000 };
    assert!(passes(&[(0, 50, ALIVE), (600, 650, maybe), (1_000, 1_010, Learned::Gone)]), "never renewed");
    assert!(passes(&[(0, 50, ALIVE), (100, 300, Learned::Revoked), (200, 250, Learned::Gone)]), "it was asked for");
}

#[test]
fn what_is_gone_does_not_come_back() {
    assert!(!passes(&[(0, 50, ALIVE), (1_000, 1_010, Learned::Gone), (1_020, 1_030, ALIVE)]));
    assert!(!passes(&[(0, 50, ALIVE), (1_000, 1_010, Learned::Gone), (1_020, 1_030, Learned::Seen)]));
}

#[test]
fn it_ends_when_nobody_renews_it() {
    assert!(passes(&[(0, 50, ALIVE), (1_549, 1_600, Learned::Seen)]));
    assert!(!passes(&[(0, 50, ALIVE), (1_600, 1_700, Learned::Seen)]), "immortal");
    assert!(!passes(&[(0, 50, ALIVE), (1_600, 1_700, ALIVE)]), "renewed after its end");
    let maybe = Learned::MaybeRenewed { ttl_ms: 1_000 };
    assert!(passes(&[(0, 50, ALIVE), (600, 650, maybe), (2_100, 2_110, Learned::Seen)]));
    assert!(!passes(&[(0, 50, ALIVE), (600, 650, maybe), (2_200, 2_210, Learned::Seen)]));
}

#[test]
fn a_new_leader_may_begin_its_time_anew_but_not_for_ever() {
    let mut history = facts(&[(0, 50, ALIVE), (2_300, 2_310, Learned::Seen)]);
    assert!(check(&history, 500).is_err());
    history.leaders = vec![micros(900)];
    assert_eq!(check(&history, 500), Ok(()));
    history.leaders = vec![micros(700)];
    assert!(check(&history, 500).is_err());
    history.leaders = vec![micros(1_700)];
    assert!(check(&history, 500).is_err(), "it was over before that leader came");
}

#[test]
fn all_keys_of_a_lease_that_is_gone_are_gone() {
    let mut history = facts(&[(0, 50, ALIVE), (1_000, 1_010, Learned::Gone)]);
    let put = |key: &str, revision| {
        let (create_revision, mod_revision) = (revision, revision);
        Change::Put(Kv { key: key.into(), value: "v".into(), create_revision, mod_revision, version: 1, lease: 7 })
    };
    let delete = |key: &str| Change::Delete { key: key.into(), revision: 4 };
    let mut with = |deleted: &[&str]| {
        let changes = [put("a", 2), put("b", 3)].into_iter().chain(deleted.iter().map(|key| delete(key))).collect();
        history.log = Some(ChangeLog { from: 2, to: 4, changes });
        check(&history, 500)
    };
    assert_eq!(with(&["a", "b"]), Ok(()));
    assert!(with(&["a"]).is_err(), "b is left");
}
