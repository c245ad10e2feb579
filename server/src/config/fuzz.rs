//! Damaged configuration files: refused with a reason, or a configuration within its bounds.

use super::*;
use crate::fuzzing::fuzz_in;
use quorate_state::testing::fuzz::Room;

/// The parser of TOML keeps all tokens, and errors show the line.
const ROOM: Room = Room { base: 256 << 10, each: 1_024 };

#[test]
fn configurations() {
    let corpus = include_str!("../../../tests/corpus/configurations.txt");
    fuzz_in(ROOM, "configurations", corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let mut settings = Settings::default();
        if let Err(error) = settings.read_text(text, Path::new("quorate.toml")) {
            assert!(error.to_string().contains("quorate.toml"));
            return false;
        }
        match settings.resolve() {
            Ok(config) => {
                assert!(config.timing.heartbeat * 2 <= config.timing.election_min);
                assert!(config.limits.value_bytes_max < config.limits.request_bytes_max);
                true
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        }
    });
}
