//! Damaged times and codes in the headers of calls.

use http::HeaderValue;
use quorate_state::testing::fuzz::fuzz;

use super::*;

#[test]
fn headers_of_calls() {
    let corpus = include_str!("../../../../../tests/corpus/deadlines.txt");
    fuzz("headers of calls", corpus, |input| {
        let Ok(value) = HeaderValue::from_bytes(input) else { return false };
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", value.clone());
        headers.insert("grpc-timeout", value);
        let _ = of_code(code_in(&headers).unwrap());
        let Some(timeout) = timeout_in(&headers) else { return false };
        headers.insert("grpc-timeout", timeout_text(timeout).parse().unwrap());
        assert!(timeout_in(&headers).unwrap() <= timeout);
        true
    });
}
