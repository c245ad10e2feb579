//! Damaged `grpc-timeout` headers.

use super::*;
use crate::fuzzing::fuzz;

#[test]
fn deadlines() {
    let corpus = include_str!("../../../../tests/corpus/deadlines.txt");
    fuzz("deadlines", corpus, |input| {
        let Ok(value) = tonic::metadata::MetadataValue::try_from(input) else { return false };
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", value);
        let (request, wait) = (of_request(&metadata), of_wait(&metadata));
        assert_eq!(request.is_ok(), wait.is_ok());
        if let Ok(at) = request {
            assert!(at <= Instant::now() + DEADLINE_MAX);
        }
        wait.is_ok()
    });
}
