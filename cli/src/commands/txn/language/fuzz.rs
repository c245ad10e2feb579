//! Damaged scripts, and damaged words of the command line beside them.

use quorate_state::testing::fuzz::fuzz;

use super::*;
use crate::output::printable;

#[test]
fn scripts() {
    let corpus = include_str!("../../../../../tests/corpus/scripts.txt");
    fuzz("scripts", corpus, |input| {
        let shown = printable(input);
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        let Ok(text) = std::str::from_utf8(input) else { return false };
        match parse(text) {
            Ok(script) => {
                let commented = text.lines().flat_map(|line| [" ", line, "\t # x\n\n"]).collect::<String>();
                assert_eq!(parse(&commented), Ok(script));
                true
            }
            Err(error) => {
                assert!(error.line <= text.lines().count().max(1) && !error.reason.is_empty());
                false
            }
        }
    });
}

#[test]
fn words_of_the_command_line() {
    let corpus = include_str!("../../../../../tests/corpus/words.txt");
    fuzz("words of the command line", corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let lease = input::lease_id(text).inspect(|id| assert_eq!(input::lease_id(&id.to_string()), Ok(*id)));
        let directory = input::directory(text).inspect(|path| assert_eq!(path, text));
        lease.is_ok() | directory.is_ok() | input::duration(text).is_ok()
    });
}
