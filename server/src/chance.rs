//! Chance: random numbers, from the operating system, or from a seed where a run must repeat itself.
//!
//! Everything in a member that is left to chance draws from here: ids, election timeouts, the shape of trees.
//!
//! Invariants:
//! - A thread that was not seeded draws what nobody can foretell. Only simulations seed theirs, of which they have one.

use std::cell::RefCell;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on this thread draws from a seed. For simulations.
pub fn seed_thread(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// A number.
pub fn draw() -> u64 {
    SEEDED.with_borrow_mut(|seeded| seeded.as_mut().map_or_else(rand::random, rand::Rng::next_u64))
}

/// From 0 on, less than 1.
pub fn fraction() -> f64 {
    let [a, b, c, d, ..] = draw().to_be_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_thread_draws_the_same_again_and_others_do_not() {
        let drawn = |seed| {
            seed_thread(seed);
            [draw(), draw(), draw()]
        };
        let first = drawn(7);
        assert_eq!(first, drawn(7));
        assert_ne!(first, drawn(8));
        assert_ne!(first[0], first[1]);
        assert!((0..1000).map(|_| fraction()).all(|fraction| (0.0..1.0).contains(&fraction)));
        assert_ne!(std::thread::spawn(draw).join().ok(), Some(first[0]));
    }
}
