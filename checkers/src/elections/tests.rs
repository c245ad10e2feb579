//! Candidates and what was told of them.

use super::super::history::{ChangeLog, Kv, Picture};
use super::*;

fn fact(client: u64, moments: (u64, u64), what: Elected) -> ElectionFact {
    ElectionFact { election: "/e".into(), client, invoked: moments.0, completed: moments.1, what }
}

fn campaign(client: u64, moments: (u64, u64), term: i64) -> ElectionFact {
    let leads = (term > 0).then(|| (format!("/e/{client}").into(), term));
    fact(client, moments, Elected::Campaigned { value: format!("c{client}").into(), leads })
}

fn proclaim(client: u64, moments: (u64, u64), term: i64, value: &str, said: Said) -> ElectionFact {
    fact(client, moments, Elected::Proclaimed { term, value: value.into(), said })
}

#[expect(clippy::unnecessary_wraps, reason = "as facts have it")]
fn leading(client: u64, term: i64, value: &str) -> Option<Leading> {
    Some(Leading { key: format!("/e/{client}").into(), term, value: value.into() })
}

fn read(moments: (u64, u64), leading: Option<Leading>) -> ElectionFact {
    fact(90, moments, Elected::Read(leading))
}

fn observed(at: u64, leading: Option<Leading>) -> ElectionFact {
    fact(91, (at, at), Elected::Observed(leading))
}

/// The rule that is broken.
fn broken(facts: &[ElectionFact]) -> Option<&'static str> {
    let verdict = check(&History { elections: facts.to_vec(), ..History::default() });
    println!("{verdict:?}");
    verdict.err().map(|violation| violation.rule)
}

/// 1 leads in term 5, says something, resigns; 2 leads in term 7.
fn two_terms() -> Vec<ElectionFact> {
    vec![
        campaign(1, (1, 10), 5),
        proclaim(1, (11, 12), 5, "p1", Said::Done),
        fact(1, (20, 22), Elected::Resigned { term: 5, said: Said::Done }),
        campaign(2, (2, 30), 7),
        proclaim(2, (31, 33), 7, "p2", Said::Done),
    ]
}

fn with(more: &[ElectionFact]) -> Vec<ElectionFact> {
    [two_terms(), more.to_vec()].concat()
}

#[test]
fn what_was_told_while_it_was_so_passes() {
    let reads = [
        read((13, 14), leading(1, 5, "p1")),
        read((11, 14), leading(1, 5, "c1")),
        read((23, 25), None),
        read((21, 29), leading(2, 7, "c2")),
        read((40, 41), leading(2, 7, "p2")),
    ];
    let told = [
        observed(15, leading(1, 5, "c1")),
        observed(16, leading(1, 5, "p1")),
        observed(26, None),
        observed(40, leading(2, 7, "c2")),
        observed(41, leading(2, 7, "p2")),
    ];
    assert_eq!(broken(&with(&reads)), None);
    assert_eq!(broken(&with(&told)), None, "what comes unasked may be late");
}

#[test]
fn a_term_has_one_leader() {
    let rule = Some("a term has one leader");
    assert_eq!(broken(&with(&[campaign(3, (3, 40), 7)])), rule);
    assert_eq!(broken(&with(&[observed(40, leading(3, 7, "c2"))])), rule);
}

#[test]
fn who_is_deposed_does_not_lead() {
    let rule = Some("who is deposed does not lead");
    assert_eq!(broken(&with(&[proclaim(1, (35, 36), 5, "late", Said::Done)])), rule, "2 leads");
    assert_eq!(broken(&with(&[proclaim(1, (23, 24), 5, "late", Said::Done)])), rule, "it has resigned");
    assert_eq!(broken(&with(&[proclaim(1, (35, 36), 5, "late", Said::Lost)])), None);
    assert_eq!(broken(&with(&[proclaim(1, (35, 36), 5, "late", Said::Unknown)])), None);
    assert_eq!(broken(&with(&[campaign(3, (34, 50), 6)])), rule, "terms grow");
    // An observer was told of a term that nobody else knows of.
    let other = [campaign(3, (3, 60), 0), observed(40, leading(3, 9, "c3"))];
    assert_eq!(broken(&with(&[&other[..], &[proclaim(2, (41, 42), 7, "late", Said::Done)]].concat())), rule);
    assert_eq!(broken(&with(&[&other[..], &[proclaim(2, (39, 42), 7, "both", Said::Done)]].concat())), None);
}

#[test]
fn a_read_sees_what_was_done_before_it() {
    let rule = Some("who is deposed does not lead");
    assert_eq!(broken(&with(&[read((34, 35), leading(1, 5, "p1"))])), rule, "2 leads");
    assert_eq!(broken(&with(&[read((13, 14), leading(1, 5, "c1"))])), rule, "it had said something else");
    assert_eq!(broken(&with(&[read((34, 35), leading(2, 7, "c2"))])), rule, "the same of the second");
    let nobody = [read((15, 16), None), read((17, 18), leading(1, 5, "p1"))];
    assert_eq!(broken(&with(&nobody)), rule, "who did not lead leads again");
}

#[test]
fn observers_are_told_in_order() {
    let rule = Some("observers see terms, and what is said in them, in order");
    for (first, second) in [
        (leading(2, 7, "c2"), leading(1, 5, "p1")),
        (leading(1, 5, "p1"), leading(1, 5, "c1")),
        (leading(2, 7, "p2"), leading(2, 7, "c2")),
    ] {
        assert_eq!(broken(&with(&[observed(50, first.clone()), observed(51, second.clone())])), rule);
        assert_eq!(broken(&with(&[observed(50, second), observed(51, first)])), None);
    }
    let again = [observed(50, leading(2, 7, "p2")), observed(51, None), observed(52, leading(2, 7, "p2"))];
    assert_eq!(broken(&with(&again)), rule, "nobody, and then the same again");
}

#[test]
fn nobody_is_quoted_who_said_nothing() {
    let rule = Some("leaders say what is told of them");
    assert_eq!(broken(&with(&[observed(50, leading(2, 7, "made up"))])), rule);
    assert_eq!(broken(&with(&[observed(50, leading(2, 7, "p1"))])), rule, "that was said in another term");
    assert_eq!(broken(&with(&[observed(32, leading(2, 7, "p2")), observed(33, None)])), None, "it was under way");
    assert_eq!(broken(&with(&[observed(30, leading(2, 7, "p2"))])), rule, "it was not asked for yet");
    assert_eq!(
        broken(&[campaign(3, (1, 60), 0), read((5, 9), leading(3, 8, "c3"))]),
        None,
        "it was not told so itself"
    );
}

/// The history of [`two_terms`] with the log of the store.
fn stored(facts: Vec<ElectionFact>, changes: Vec<Change>) -> Option<&'static str> {
    let log = ChangeLog { from: 2, to: 20, changes };
    let start = Picture { revision: 1, keys: Vec::new() };
    let history = History { elections: facts, log: Some(log), start: Some(start), ..History::default() };
    let verdict = check(&history);
    println!("{verdict:?}");
    verdict.err().map(|violation| violation.rule)
}

fn written(client: u64, term: i64, mod_revision: i64, value: &str) -> Change {
    let key = format!("/e/{client}").into();
    Change::Put(Kv { key, value: value.into(), create_revision: term, mod_revision, ..Kv::default() })
}

fn log() -> Vec<Change> {
    vec![
        written(1, 5, 5, "c1"),
        written(2, 7, 7, "c2"),
        written(1, 5, 8, "p1"),
        Change::Delete { key: "/e/1".into(), revision: 10 },
        written(2, 7, 12, "p2"),
    ]
}

#[test]
fn the_log_says_who_led() {
    let rule = Some("who leads is who came first");
    assert_eq!(stored(with(&[read((11, 14), leading(1, 5, "c1"))]), log()), None);
    // Before the first had resigned, the second only waited.
    let early = [campaign(3, (1, 60), 0), observed(50, leading(3, 9, "c3"))];
    let mut changes = log();
    changes.push(written(3, 9, 13, "c3"));
    assert_eq!(stored(with(&early), changes.clone()), rule);
    changes.push(Change::Delete { key: "/e/2".into(), revision: 14 });
    assert_eq!(stored(with(&early), changes), None);
}

#[test]
fn a_proclamation_is_in_the_log_once_or_not_at_all() {
    let rule = Some("a proclamation is written once, by who leads, or refused");
    let without = |revision| log().into_iter().filter(|change| change.revision() != revision).collect::<Vec<_>>();
    assert_eq!(stored(two_terms(), without(8)), rule, "it was acknowledged");
    let unknown = proclaim(2, (35, 36), 7, "p3", Said::Unknown);
    assert_eq!(stored(with(&[unknown.clone()]), log()), None);
    let once = [log(), vec![written(2, 7, 13, "p3")]].concat();
    assert_eq!(stored(with(&[unknown.clone()]), once.clone()), None);
    let twice = [once.clone(), vec![written(2, 7, 14, "p3")]].concat();
    assert_eq!(stored(with(&[unknown]), twice), rule);
    assert_eq!(stored(with(&[proclaim(2, (35, 36), 7, "p3", Said::Lost)]), once), rule, "it was refused");
    let waits = [log(), vec![written(4, 13, 13, "c4"), written(4, 13, 14, "p4")]].concat();
    assert_eq!(stored(with(&[proclaim(4, (35, 36), 13, "p4", Said::Unknown)]), waits), rule, "2 led");
}

#[test]
fn a_campaign_that_was_asked_for_again_may_write_its_contender_again_as_it_is() {
    let rule = Some("a proclamation is written once, by who leads, or refused");
    let again = [log(), vec![written(2, 7, 13, "p2")]].concat();
    assert_eq!(stored(two_terms(), again.clone()), rule, "it was asked for once");
    let asked_again = with(&[campaign(2, (2, 30), 0)]);
    assert_eq!(stored(asked_again.clone(), again.clone()), None);
    let unsaid = [log(), vec![written(2, 7, 13, "c2"), written(2, 7, 14, "p2")]].concat();
    assert_eq!(stored(asked_again, unsaid), rule, "it was unsaid, and said again");
    assert_eq!(stored(with(&[campaign(2, (3, 30), 0)]), again.clone()), rule, "that was another campaign");
    assert_eq!(stored(with(&[campaign(1, (1, 10), 0)]), again), rule, "that was another's");
}
