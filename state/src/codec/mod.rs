//! The formats: log entries, outcomes, and every stored key and value. docs/formats.md has the bytes in words.
//!
//! Invariants:
//! - What is encoded decodes to the same; any other input is refused with an error, never a panic.
//! - Each value starts with a format byte; a change of layout takes a new one.

mod command;
mod describe;
pub(crate) mod keys;
mod outcome;
pub(crate) mod records;
pub(crate) mod varint;

pub use command::{decode_batch, decode_envelope, encode_batch, encode_envelope};
pub use describe::{describe, describe_key};
pub use outcome::{decode_outcome, encode_outcome};
pub use varint::DecodeError;

pub(crate) use outcome::{put_outcome, read_outcome};

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
