//! Damaged details of a refusal: an error all the same, and one that nobody takes for "did not happen" who was not told.

use quorate_state::testing::fuzz::fuzz;

use super::*;

#[test]
fn details_of_refusals() {
    let corpus = include_str!("../../../../tests/corpus/details.txt");
    fuzz("details of refusals", corpus, |input| {
        let status = Status::with_details(Code::Unavailable, "m", input.to_vec().into());
        let error = Error::from_status(&status, "a:1");
        assert!(!error.to_string().is_empty());
        let Some(detail) = detail_of(&status) else {
            let unknown = matches!(error, Error::Unreachable { happened: Happened::Unknown, .. });
            assert!(unknown, "{error:?}");
            return false;
        };
        let says_no = detail.happened() == v1::error_detail::Happened::No;
        if let Error::Refused(refusal) = error {
            assert_eq!(refusal.happened == Happened::No, says_no);
        }
        true
    });
}
