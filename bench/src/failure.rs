//! What ends a run: whatever is not as a measurement needs it.
//!
//! Invariants:
//! - A work that met an error gives no numbers, and the run ends with it.

use std::fmt::Display;

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The machine refused something.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the machine said.
        error: std::io::Error,
    },
    /// A call failed.
    #[error("{call} failed: {message}")]
    Call {
        /// Which call.
        call: &'static str,
        /// What the member or the client library said.
        message: String,
    },
    /// Something was answered or found that a measurement cannot build on.
    #[error("{0}")]
    Wrong(String),
}

/// The result of whatever can end a run.
pub type Result<T> = std::result::Result<T, Failure>;

/// An error of the machine, with what was tried.
pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
    let what = what.into();
    move |error| Failure::Io { what, error }
}

/// An error of a call.
pub fn call<E: Display>(call: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Call { call, message: error.to_string() }
}

/// Something that must not be.
pub fn wrong<T>(message: impl Into<String>) -> Result<T> {
    Err(Failure::Wrong(message.into()))
}
