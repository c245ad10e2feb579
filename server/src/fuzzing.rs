//! Damaged bytes for the decoders of this crate, with an eye on their memory. For tests only; the targets are in files
//! `fuzz.rs` beside their decoders.
//!
//! Invariants:
//! - Only what the thread of the target takes is counted: other tests run beside it.

use quorate_state::testing::fuzz::{Room, fuzz_within};

/// Throws damaged inputs of the corpus at a decoder, which says whether it took them.
pub fn fuzz(name: &str, corpus: &str, target: impl Fn(&[u8]) -> bool) {
    fuzz_in(Room::DECODER, name, corpus, target);
}

/// The same for what needs other room than a decoder.
pub fn fuzz_in(room: Room, name: &str, corpus: &str, target: impl Fn(&[u8]) -> bool) {
    fuzz_within(room, |run| allocation_counter::measure(run).bytes_max, name, corpus, target);
}
