//! The keys and values of all works.
//!
//! Invariants:
//! - Key `n` is the same for both systems, and byte order is the order of `n`.
//! - Every value has `VALUE_BYTES` bytes; two writes differ.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::plan::{SEED, VALUE_BYTES};

/// Key number `n` of those that exist from the start. 1000 to a directory.
pub fn key(n: u64) -> Bytes {
    Bytes::from(format!("/bench/keys/{:05}/{n:08}", n / 1_000))
}

/// The key that every store has.
pub fn first_key() -> Bytes {
    key(0)
}

/// A key of one caller's own.
pub fn own_key(work: &str, caller: usize) -> Bytes {
    Bytes::from(format!("/bench/{work}/{caller:04}"))
}

/// A source of random numbers that depends only on the seed, the round and the caller.
pub fn random(round: usize, caller: usize) -> SmallRng {
    SmallRng::seed_from_u64(SEED ^ ((round as u64) << 32) ^ caller as u64)
}

/// Values: bytes that do not compress, in which the first eight count.
pub struct Values {
    filling: [u8; VALUE_BYTES],
    count: u64,
}

impl Values {
    /// Values of a caller.
    pub fn new(random: &mut SmallRng) -> Self {
        let mut filling = [0; VALUE_BYTES];
        random.fill_bytes(&mut filling);
        Self { filling, count: 0 }
    }

    /// The next value.
    pub fn fresh(&mut self) -> Bytes {
        self.count += 1;
        self.filling[..8].copy_from_slice(&self.count.to_be_bytes());
        Bytes::copy_from_slice(&self.filling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_their_numbers() {
        for (low, high) in [(0, 1), (9, 10), (999, 1_000), (99_999, 100_000), (1_999_998, 1_999_999)] {
            assert!(key(low) < key(high));
        }
    }

    #[test]
    fn values_have_one_length_and_differ() {
        let mut values = Values::new(&mut random(0, 0));
        let (first, second) = (values.fresh(), values.fresh());
        assert_eq!((first.len(), second.len()), (VALUE_BYTES, VALUE_BYTES));
        assert_ne!(first, second);
        assert_ne!(Values::new(&mut random(0, 1)).fresh(), first, "callers differ");
        assert_eq!(Values::new(&mut random(0, 0)).fresh(), first, "the same seed gives the same values");
    }
}
