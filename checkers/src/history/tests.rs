//! Histories as lines.

use super::*;

#[test]
fn lines_can_be_read_by_people_and_by_us() {
    let operation = Operation {
        client: 1,
        request: None,
        invoked: 3,
        completed: 9,
        input: Input::put("/a", &[0xff, 0x00][..]),
        outcome: Outcome::Done {
            revision: 2,
            answer: Answer::of(vec![Done::Put { key: "/a".into(), previous: Some(None) }]),
        },
    };
    let history = History { operations: vec![operation], compacted: 7, ..History::default() };
    let mut written = Vec::new();
    history.write(&mut written).unwrap();
    let text = String::from_utf8(written).unwrap();
    let line = r#"{"operation":{"client":1,"invoked":3,"completed":9,"input":{"txn":{"then":[{"put":{"key":"/a","value":"hex:ff00"}}]}},"outcome":{"done":{"revision":2,"answer":{"succeeded":true,"results":[{"put":{"key":"/a","previous":null}}]}}}}}"#;
    assert_eq!(text, format!("{line}\n{{\"compacted\":7}}\n"));
    assert_eq!(History::read(text.as_bytes()).unwrap(), history);
}

#[test]
fn a_line_that_is_none_is_named() {
    let error = History::read(&b"{\"leader\":5}\n\n{\"leader\":}\n"[..]).unwrap_err();
    assert!(error.to_string().starts_with("line 3: "), "{error}");
}

#[test]
fn text_that_looks_like_hexadecimal_stays_what_it_is() {
    for bytes in [&b"hex:zz"[..], b"hex:", b"", b"\xff", "ä".as_bytes()] {
        let octets = Octets::from(bytes);
        let line = serde_json::to_string(&octets).unwrap();
        assert_eq!(serde_json::from_str::<Octets>(&line).unwrap(), octets, "{line}");
    }
    for wrong in ["\"hex:f\"", "\"hex:+f\"", "\"hex:é\""] {
        assert!(serde_json::from_str::<Octets>(wrong).is_err(), "{wrong}");
    }
}
