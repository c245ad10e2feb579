//! What the model says, in small.

use super::*;

#[test]
fn actions_see_what_those_before_them_did() {
    let mut keys = Keys::default();
    let txn = Txn {
        then: vec![
            Action::Put { key: "/a/1".into(), value: "x".into(), lease: 4 },
            Action::Read { span: Span::Children("/a".into()), limit: None },
            Action::PutSequential { directory: "/q".into(), value: "y".into(), lease: 0 },
        ],
        ..Txn::default()
    };
    let name = Octets::from("/q/00000000000000000007");
    let told = Told { revision: 2, verdict: None, names: std::slice::from_ref(&name) };
    let effect = keys.evaluate(&Input::Txn(txn), told).unwrap();
    let first = Kv { key: "/a/1".into(), value: "x".into(), create_revision: 2, mod_revision: 2, version: 1, lease: 4 };
    assert_eq!(effect.answer.results[1], Done::Read(vec![first]));
    effect.changes.iter().for_each(|change| keys.apply(change));
    assert_eq!(keys.get(&name).map(|kv| &kv.value), Some(&"y".into()));
    let effect = keys.evaluate(&Input::Revoke { lease: 4 }, Told { revision: 3, ..Told::default() }).unwrap();
    assert_eq!(effect.changes, [Change::Delete { key: "/a/1".into(), revision: 3 }]);
}

#[test]
fn a_missing_key_matches_no_value_and_has_zero_for_all_numbers() {
    let of = |relation, target| Compare { key: "k".into(), relation, target };
    assert!(!relates(&of(Relation::NotEqual, Target::Value("x".into())), None));
    assert!(relates(&of(Relation::Equal, Target::Version(0)), None));
    assert!(relates(&of(Relation::Equal, Target::Exists(false)), None));
}

#[test]
fn only_paths_have_a_parent() {
    assert_eq!(parent(&"/a/b".into()), Some(&b"/a"[..]));
    assert_eq!(parent(&"/a".into()), Some(&b"/"[..]));
    for none in ["/", "a", "", "/a/", "//a", "/a//b"] {
        assert_eq!(parent(&none.into()), None, "{none}");
    }
}
