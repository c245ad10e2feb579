//! Copies of many short byte strings, side by side in few allocations.
//!
//! A range copies key and value of each entry out of the store; an allocation for each of them costs more than the copy.
//!
//! Invariants:
//! - A string that is kept keeps at most `BLOCK_BYTES_MAX` of others with it.

use bytes::{Bytes, BytesMut};

const BLOCK_BYTES_MIN: usize = 1 << 10;
const BLOCK_BYTES_MAX: usize = 32 << 10;
/// Longer ones have an allocation of their own.
const SHARED_BYTES_MAX: usize = BLOCK_BYTES_MAX / 8;

/// Where copies are made.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Its free end; what was copied has been split off.
    block: BytesMut,
    /// Of the last block.
    block_bytes: usize,
}

impl Copies {
    /// A copy.
    pub(crate) fn of(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > SHARED_BYTES_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        if self.block.capacity() < bytes.len() {
            // Few at first: most reads are short.
            let wanted = (self.block_bytes * 2).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
            self.block_bytes = wanted.max(bytes.len());
            self.block = BytesMut::with_capacity(self.block_bytes);
        }
        self.block.extend_from_slice(bytes);
        self.block.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_what_they_were_made_of_whatever_their_length() {
        let mut copies = Copies::default();
        let lengths = (0..200).chain([SHARED_BYTES_MAX - 1, SHARED_BYTES_MAX, SHARED_BYTES_MAX + 1, 1 << 20, 3, 0]);
        let made: Vec<_> = lengths.map(|n| (n, copies.of(&vec![n.to_le_bytes()[0]; n]))).collect();
        assert!(made.iter().all(|(n, copy)| copy[..] == vec![n.to_le_bytes()[0]; *n]));
    }
}
