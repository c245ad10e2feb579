//! How a command can fail, and with which exit code.
//!
//! Invariants:
//! - Each failure has one exit code; scripts rely on them, so a code never changes its meaning.

use std::io;

/// Exit code of a failure that has no code of its own.
pub const FAILED: u8 = 1;

/// The table of exit codes, shown in `quorate --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong usage: unknown flag, bad argument, contradictory settings
  3    not found: the key, directory, lease or member does not exist
  4    precondition failed: an --if-… condition or a compare of a transaction did not hold
  5    unavailable: no member answered, or the cluster has no quorum; nothing was changed
  6    outcome unknown: the write may or may not have happened; read before you repeat it
  7    busy: the lock is held by others, or somebody else leads, for all of --wait; or --try was said
  8    lost: the lock or the leadership was lost while it was held, and the command was ended
  9    violated: chaos found a promise that was not kept
  130  interrupted by Ctrl-C
lock and elect pass on the exit code of the command that they ran.";

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing more precise.
    #[error("{0}")]
    Failed(String),
    /// The request makes no sense as given.
    #[error("{0}")]
    Usage(String),
    /// What was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A stated condition did not hold; nothing was changed.
    #[error("{0}")]
    Precondition(String),
    /// Nobody could serve it; nothing was changed.
    #[error("{0}")]
    Unavailable(String),
    /// It may have happened.
    #[error("{0}; the outcome is unknown: it may have happened, read before you repeat it")]
    OutcomeUnknown(String),
    /// Others have it, and it was not to be waited for (any longer).
    #[error("{0}")]
    Busy(String),
    /// What was held was lost.
    #[error("{0}")]
    Lost(String),
    /// A promise was not kept.
    #[error("{0}")]
    Violated(String),
    /// The exit code of a command that was run.
    #[error("the command ended with code {0}")]
    Command(u8),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Whoever read stdout has closed it, which is no failure (`quorate ls / | head -1`).
    #[error("output closed")]
    OutputClosed,
}

impl Failure {
    /// A local file or pipe failed.
    pub fn io(what: &str, error: &io::Error) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }

    /// The code of [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => FAILED,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Precondition(_) => 4,
            Self::Unavailable(_) => 5,
            Self::OutcomeUnknown(_) => 6,
            Self::Busy(_) => 7,
            Self::Lost(_) => 8,
            Self::Violated(_) => 9,
            Self::Command(code) => *code,
            Self::Interrupted => 130,
        }
    }

    /// A name for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OutputClosed => "output_closed",
            Self::Failed(_) => "failed",
            Self::Usage(_) => "usage",
            Self::NotFound(_) => "not_found",
            Self::Precondition(_) => "precondition_failed",
            Self::Unavailable(_) => "unavailable",
            Self::OutcomeUnknown(_) => "outcome_unknown",
            Self::Busy(_) => "busy",
            Self::Lost(_) => "lost",
            Self::Violated(_) => "violated",
            Self::Command(_) => "command",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether nothing is to be printed about it.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::OutputClosed | Self::Interrupted | Self::Command(_))
    }
}

/// Errors of writing to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("cannot write output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_in_the_help_text_is_that_of_a_failure() {
        let text = String::new;
        let all = [
            Failure::OutputClosed,
            Failure::Failed(text()),
            Failure::Usage(text()),
            Failure::NotFound(text()),
            Failure::Precondition(text()),
            Failure::Unavailable(text()),
            Failure::OutcomeUnknown(text()),
            Failure::Busy(text()),
            Failure::Lost(text()),
            Failure::Violated(text()),
            Failure::Interrupted,
        ];
        let codes: Vec<String> = all.iter().map(|failure| failure.exit_code().to_string()).collect();
        let documented: Vec<&str> = EXIT_CODES
            .lines()
            .filter(|line| line.starts_with(' '))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(codes, documented);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit_code(), 0);
        assert!(failure.is_silent());
    }
}
