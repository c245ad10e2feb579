//! Documents: their bytes, what is read from those of others, and what counts.

use proptest::prelude::*;

use super::*;

fn read(json: &str) -> Document {
    Document::read(json.as_bytes()).unwrap()
}

fn bad(json: &str) -> String {
    Document::read(json.as_bytes()).unwrap_err()
}

/// The example of docs/formats.md.
const GOLDEN: &str = concat!(
    r#"{"address":"10.0.0.5","port":8080,"tags":["v2"],"metadata":{"rack":"7"},"weight":100,"zone":"eu-1","#,
    r#""health":"critical","health_note":"HTTP 503 Service Unavailable","reported":{"health":"warning","note":"hot"},"#,
    r#""checks":[{"http":"http://10.0.0.5:8080/health","interval_ms":10000,"timeout_ms":5000,"passes":1,"failures":3,"#,
    r#""remove_after_ms":0,"status":"critical","note":"HTTP 503 Service Unavailable"}],"owner":"team-a"}"#
);

#[test]
fn the_bytes_of_a_document_stay_what_they_are() {
    let mut document = read(GOLDEN);
    assert_eq!(
        document.checks[0].kind(),
        Some(crate::recipes::discovery::check::Kind::Http("http://10.0.0.5:8080/health"))
    );
    assert_eq!(String::from_utf8(document.write().unwrap()).unwrap(), GOLDEN);
    document.settle();
    assert_eq!(String::from_utf8(document.write().unwrap()).unwrap(), GOLDEN, "what counts follows from the rest");
}

#[test]
fn a_document_of_others_needs_an_address_and_a_port() {
    let document = read(r#"{"address":"db.example","port":5432}"#);
    assert_eq!((document.weight, document.health(), document.zone.as_str()), (100, Health::Passing, ""));
    let checked = read(r#"{"address":"::1","port":1,"checks":[{"tcp":"h:1"}]}"#);
    assert_eq!(checked.health(), Health::Critical, "not before the first check");
    let check = &checked.checks[0];
    assert_eq!((check.interval_ms, check.timeout_ms, check.passes, check.failures), (10_000, 5_000, 1, 3));
    assert_eq!(read(r#"{"address":"h","port":1,"health":"warning"}"#).health(), Health::Warning, "its author says so");
}

#[test]
fn what_cannot_be_read_says_why() {
    for (json, why) in [
        ("{", "EOF"),
        ("[]", "sequence"),
        (r#"{"address":"h"}"#, "port"),
        (r#"{"address":"h","port":65536}"#, "65536"),
        (r#"{"address":"h","port":0}"#, "port"),
        (r#"{"address":"","port":1}"#, "address"),
        (r#"{"address":"a b","port":1}"#, "address"),
        (r#"{"address":"1.2.3","port":1}"#, "address"),
        (r#"{"address":"h","port":1,"health":"fine"}"#, "fine"),
        (r#"{"address":"h","port":1,"tags":["a","a"]}"#, "twice"),
        (r#"{"address":"h","port":1,"tags":["\u0000"]}"#, "control"),
        (r#"{"address":"h","port":1,"reported":{"health":"maintenance"}}"#, "maintenance"),
        (r#"{"address":"h","port":1,"checks":[{}]}"#, "exactly one"),
        (r#"{"address":"h","port":1,"checks":[{"http":"http://h:0/"}]}"#, "a port that is none"),
        (r#"{"address":"h","port":1,"checks":[{"http":"http://h:99999/"}]}"#, "a port that is none"),
        (r#"{"address":"h","port":1,"checks":[{"tcp":"h:1","ttl_ms":1000}]}"#, "exactly one"),
        (r#"{"address":"h","port":1,"checks":[{"tcp":"h:1","interval_ms":999}]}"#, "interval_ms"),
        (r#"{"address":"h","port":1,"checks":[{"tcp":"h:1","timeout_ms":99}]}"#, "timeout_ms"),
        (
            r#"{"address":"h","port":1,"checks":[{"tcp":"h:1","interval_ms":120000,"timeout_ms":60001}]}"#,
            "timeout_ms of a check is 100 to 60000",
        ),
        (r#"{"address":"h","port":1,"checks":[{"tcp":"h:1","failures":101}]}"#, "failures"),
        (r#"{"address":"h","port":1,"checks":[{"tcp":"h:1","remove_after_ms":9999}]}"#, "remove_after_ms"),
        (r#"{"address":"h","port":1,"checks":[{"http":"http://u@h/"}]}"#, "user"),
        (r#"{"address":"h","port":1,"checks":[{"http":"/x"}]}"#, "http://"),
        (r#"{"address":"h","port":1,"checks":[{"grpc":"a:b:1/x"}]}"#, "host:port"),
    ] {
        let said = bad(json);
        assert!(said.contains(why), "{json}: {said}");
    }
    assert!(Document::read(&vec![b' '; DOCUMENT_BYTES_MAX + 1]).unwrap_err().contains("bytes"));
}

#[test]
fn maintenance_counts_first_then_the_worst() {
    let mut document = read(GOLDEN);
    document.maintenance = Some(Maintenance { note: "disks".to_owned() });
    document.settle();
    assert_eq!((document.health(), document.health_note.as_str()), (Health::Maintenance, "disks"));
    document.maintenance = None;
    document.checks[0].status = Health::Passing;
    document.settle();
    assert_eq!((document.health(), document.health_note.as_str()), (Health::Warning, "hot"));
}

#[test]
fn a_note_is_cut_between_characters() {
    let long = "ä".repeat(NOTE_BYTES_MAX);
    assert_eq!(note(&long).len(), NOTE_BYTES_MAX);
    assert_eq!(note(&format!("a{long}")).len(), NOTE_BYTES_MAX - 1);
    assert_eq!(note("short"), "short");
}

#[test]
fn names_of_hosts_are_known_from_others() {
    for good in ["h", "a.b.c", "a-1.example.com.", "_x.y"] {
        assert!(is_host_name(good), "{good}");
    }
    for wrong in ["", ".", "a..b", "-a", "a-", "a b", "ä", "1.2.3.4.5", &"a".repeat(64)] {
        assert!(!is_host_name(wrong), "{wrong}");
    }
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_and_read_again(
        at in 0..GOLDEN.len(), byte: u8, cut in 0..GOLDEN.len(), bytes in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut changed = GOLDEN.as_bytes().to_vec();
        changed[at] = byte;
        for bytes in [&changed[..], &changed[..cut], &bytes] {
            if let Ok(document) = Document::read(bytes) {
                let again = Document::read(&document.write().unwrap());
                prop_assert_eq!(again.as_ref(), Ok(&document));
            }
        }
    }
}
