//! The line: what each rule grants, and random histories against the rule as it is written down.

use proptest::prelude::*;

use super::*;

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn contender(name: &str, created: i64, claim: Claim) -> Contender {
    let created = Revision(created);
    Contender { key: key(name), created, modified: created, claim, stands_for: None }
}

fn companion(name: &str, of: &str, created: i64, claim: Claim) -> Contender {
    Contender { stands_for: Some(key(of)), ..contender(name, created, claim) }
}

fn line(contenders: &[(&str, i64, Claim)]) -> Line {
    let mut line = Line::default();
    for (name, created, claim) in contenders {
        line.put(contender(name, *created, *claim));
    }
    line
}

fn granted(line: &mut Line) -> Vec<String> {
    line.granted().iter().map(|key| String::from_utf8(key.as_bytes().to_vec()).unwrap()).collect()
}

const X: Claim = Claim::Exclusive;
const S: Claim = Claim::Shared;

#[test]
fn the_one_who_came_first_holds_and_then_the_next() {
    let mut line = line(&[("c", 9, X), ("a", 5, X), ("b", 7, X)]);
    assert_eq!(granted(&mut line), ["a"]);
    assert!(granted(&mut line).is_empty(), "told once");
    line.remove(&key("b"));
    assert!(granted(&mut line).is_empty());
    line.remove(&key("a"));
    assert_eq!(granted(&mut line), ["c"]);
}

#[test]
fn shared_ones_hold_together_and_wait_behind_an_exclusive_one() {
    let mut line = line(&[("a", 5, S), ("b", 7, S), ("x", 8, X), ("c", 9, S)]);
    assert_eq!(granted(&mut line), ["a", "b"]);
    assert!(!line.would_admit(S), "one waits");
    line.remove(&key("a"));
    assert!(granted(&mut line).is_empty());
    line.remove(&key("b"));
    assert_eq!(granted(&mut line), ["x"]);
    line.remove(&key("x"));
    assert_eq!(granted(&mut line), ["c"]);
    assert!(line.would_admit(S) && !line.would_admit(X));
}

#[test]
fn so_many_permits_are_held_and_no_more() {
    let two = Claim::Permit(2);
    let mut line = line(&[("a", 5, two), ("b", 6, two), ("c", 7, two), ("d", 8, Claim::Permit(3)), ("e", 9, two)]);
    assert_eq!(granted(&mut line), ["a", "b"]);
    assert_eq!((line.counts_otherwise(&key("c")), line.counts_otherwise(&key("d"))), (None, Some(2)));
    assert_eq!((line.counts_otherwise(&key("e")), line.would_count_otherwise(S)), (Some(3), None));
    line.remove(&key("b"));
    assert_eq!(granted(&mut line), ["c"]);
    line.remove(&key("a"));
    assert!(granted(&mut line).is_empty(), "d counts otherwise");
    line.remove(&key("d"));
    assert_eq!(granted(&mut line), ["e"]);
    assert_eq!(line.counts_otherwise(&key("e")), None);
}

#[test]
fn one_that_becomes_shared_lets_the_next_shared_ones_in() {
    let mut line = line(&[("a", 5, X), ("b", 6, S), ("c", 7, X)]);
    assert_eq!(granted(&mut line), ["a"]);
    line.put(contender("a", 5, S));
    assert_eq!(granted(&mut line), ["b"]);
    assert!(line.holds(&key("a")) && line.holds(&key("b")) && !line.holds(&key("c")));
}

#[test]
fn a_companion_keeps_the_place_and_never_stands_in_its_own_contenders_way() {
    let mut line = line(&[("b", 7, X)]);
    line.put(companion("d", "a", 5, X));
    line.put(contender("a", 5, X));
    assert_eq!(granted(&mut line), ["a"]);
    line.remove(&key("a"));
    assert!(granted(&mut line).is_empty(), "the delay is not over");
    assert_eq!(line.first().unwrap().key, key("d"));
    line.remove(&key("d"));
    assert_eq!(granted(&mut line), ["b"]);
    let one = Claim::Permit(2);
    for (name, of, created) in [("p1", "p", 10), ("q1", "q", 11)] {
        line.put(contender(of, created, one));
        line.put(companion(name, of, created, one));
    }
    line.remove(&key("b"));
    assert_eq!(granted(&mut line), ["p", "q"], "each pair takes one permit");
}

#[test]
fn two_that_become_shared_before_anybody_is_told_do_not_hold_on() {
    let three = Claim::Permit(3);
    let mut line = line(&[("a", 5, three), ("b", 6, three), ("c", 7, three)]);
    assert_eq!(granted(&mut line), ["a", "b", "c"]);
    line.put(contender("c", 7, S));
    line.put(contender("b", 6, S));
    assert!(granted(&mut line).is_empty());
    assert_eq!(["a", "b", "c"].map(|name| line.holds(&key(name))), [true, false, false]);
}

#[test]
fn a_key_that_comes_back_is_another_place() {
    let mut line = line(&[("a", 5, X), ("b", 6, X)]);
    granted(&mut line);
    line.put(contender("a", 9, X));
    assert_eq!(granted(&mut line), ["b"]);
    assert!(!line.holds(&key("a")));
}

fn claims() -> impl Strategy<Value = Claim> {
    prop_oneof![Just(X), Just(S), Just(S), Just(Claim::Permit(1)), Just(Claim::Permit(2)), Just(Claim::Permit(3))]
}

/// The rule, word by word.
fn holds(ahead: &[Claim], claim: Claim) -> bool {
    match claim {
        Claim::Exclusive => ahead.is_empty(),
        Claim::Shared => ahead.iter().all(|other| *other == S),
        Claim::Permit(permits) => {
            ahead.iter().all(|other| *other == claim) && u32::try_from(ahead.len()).unwrap() < permits
        }
    }
}

proptest! {
    /// Comes (last, or with a restore anywhere), goes, becomes shared: those told are exactly those who come to hold.
    #[test]
    fn by_any_history_those_hold_whom_the_rule_names_and_all_of_them_are_told(
        steps in prop::collection::vec((0..10u8, claims(), any::<bool>(), any::<prop::sample::Index>()), 1..60),
    ) {
        let mut line = Line::default();
        let mut model: Vec<(i64, String, Claim)> = Vec::new();
        let mut told: BTreeSet<String> = BTreeSet::new();
        for (revision, (what, claim, settle, index)) in (1..).zip(steps) {
            if what < 4 || model.is_empty() {
                let name = format!("k{revision}");
                line.put(contender(&name, revision, claim));
                model.push((revision, name, claim));
            } else if what == 4 {
                // With the revision of one who is there already, and behind it by its name.
                let at = index.index(model.len());
                let (created, name) = (model[at].0, format!("{}+{revision}", model[at].1));
                line.put(contender(&name, created, claim));
                model.push((created, name, claim));
                model.sort_by(|left, right| (left.0, &left.1).cmp(&(right.0, &right.1)));
            } else if what < 8 {
                let (_, name, _) = model.remove(index.index(model.len()));
                line.remove(&key(&name));
                told.remove(&name);
            } else {
                let at = index.index(model.len());
                model[at].2 = S;
                let (created, name, claim) = model[at].clone();
                line.put(contender(&name, created, claim));
            }
            if !settle {
                continue;
            }
            let mut ahead = Vec::new();
            let mut now = BTreeSet::new();
            for (_, name, claim) in &model {
                if holds(&ahead, *claim) {
                    now.insert(name.clone());
                }
                ahead.push(*claim);
            }
            let new: Vec<String> = granted(&mut line);
            for name in &new {
                prop_assert!(now.contains(name), "{name} {now:?} {told:?}");
            }
            told.extend(new);
            told.retain(|name| now.contains(name));
            prop_assert_eq!(&told, &now);
            for (_, name, _) in &model {
                prop_assert_eq!(line.holds(&key(name)), now.contains(name));
            }
        }
    }
}
