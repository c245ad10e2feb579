//! Running a command while something is held: `quorate lock … -- COMMAND` and `quorate elect … -- COMMAND`.
//!
//! Invariants:
//! - The command has ended before the hold is given back.
//! - On loss of the hold the command is told to end, and after a grace is made to.
//! - A signal reaches the command once: what the terminal sends to all of its foreground is not sent again.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use quorate::{LeaseGuard, Lost};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Incoming, SignalKind, signal};

use crate::failure::Failure;

/// How long giving back may take when this process is to end.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(3);
/// Exit codes of a shell: found but not startable, not found, ended by a signal.
const NOT_STARTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const BY_SIGNAL: u8 = 128;

/// The signals that end this process.
pub struct Signals {
    interrupt: Incoming,
    terminate: Incoming,
    hangup: Incoming,
}

impl Signals {
    /// Takes them over from now on.
    pub fn take() -> Result<Self, Failure> {
        let take = |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", &error));
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}

/// What ends when `signal` ended it.
pub fn ended_by(signal: Signal) -> Failure {
    if signal == Signal::INT { Failure::Interrupted } else { Failure::Command(code_of_signal(signal.as_raw())) }
}

/// Runs `acquire` until it is done or a signal comes, and then ends the session, and with it the place in the queue.
pub async fn unless_signalled<T>(
    acquire: impl Future<Output = quorate::Result<T>>,
    session: LeaseGuard,
    signals: &mut Signals,
) -> Result<(T, LeaseGuard), Failure> {
    let failure = tokio::select! {
        biased;
        signal = signals.next() => ended_by(signal),
        acquired = acquire => match acquired {
            Ok(hold) => return Ok((hold, session)),
            Err(error) => error.into(),
        },
    };
    end(session).await;
    Err(failure)
}

/// Ends the session of a hold, as well as it goes in a short time.
pub async fn end(session: LeaseGuard) {
    // Otherwise it ends by itself.
    let _ = tokio::time::timeout(GIVE_BACK_WITHIN, session.revoke()).await;
}

/// How the time of holding ended.
pub enum Ended {
    /// The command did.
    Command(ExitStatus),
    /// There was no command, and a signal came.
    Signal(Signal),
    /// The hold was lost, and the command was ended.
    Lost,
}

/// What is run while holding.
pub struct Work<'a> {
    /// Program and arguments; none: until a signal comes.
    pub command: &'a [OsString],
    /// More variables.
    pub environment: Vec<(&'static str, OsString)>,
    /// Between telling the command to end and making it.
    pub grace: Duration,
}

impl Work<'_> {
    /// Runs it until it ends, or `lost` does.
    pub async fn run(self, lost: impl Future<Output = Lost>, signals: &mut Signals) -> Result<Ended, Failure> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Ok(tokio::select! {
                biased;
                _ = lost => Ended::Lost,
                signal = signals.next() => Ended::Signal(signal),
            });
        };
        // In a terminal the command stays in the foreground with us; otherwise it gets a group, which is signalled whole.
        let group = !std::io::stdin().is_terminal();
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment).kill_on_drop(true);
        if group {
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(|error| {
            eprintln!("quorate: cannot start {}: {error}", program.display());
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            Failure::Command(if missing { NOT_FOUND } else { NOT_STARTABLE })
        })?;
        let target = Target { group, pid: child.id().and_then(|id| Pid::from_raw(id.cast_signed())) };
        tokio::pin!(lost);
        loop {
            tokio::select! {
                biased;
                status = child.wait() => return Ok(Ended::Command(waited(status)?)),
                _ = &mut lost => {
                    target.make_end(&mut child, self.grace).await?;
                    return Ok(Ended::Lost);
                }
                signal = signals.next() => target.pass_on(signal),
            }
        }
    }
}

/// Whom signals go to.
struct Target {
    group: bool,
    pid: Option<Pid>,
}

impl Target {
    fn send(&self, signal: Signal) {
        let Some(pid) = self.pid else { return };
        // It may have ended.
        let _ = if self.group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    }

    /// What a terminal sends, it sends to the command itself.
    fn pass_on(&self, signal: Signal) {
        if self.group || signal == Signal::TERM {
            self.send(signal);
        }
    }

    async fn make_end(&self, child: &mut Child, grace: Duration) -> Result<(), Failure> {
        self.send(Signal::TERM);
        // One that is stopped hears nothing else.
        self.send(Signal::CONT);
        if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
            return waited(status).map(drop);
        }
        self.send(Signal::KILL);
        waited(child.wait().await).map(drop)
    }
}

fn waited(status: std::io::Result<ExitStatus>) -> Result<ExitStatus, Failure> {
    status.map_err(|error| Failure::io("cannot wait for the command", &error))
}

/// The command's own exit code, as a shell would give it.
pub fn result_of(status: ExitStatus) -> Result<(), Failure> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::Command(u8::try_from(code).unwrap_or(u8::MAX))),
        (None, Some(signal)) => Err(Failure::Command(code_of_signal(signal))),
        (None, None) => Err(Failure::Failed(format!("the command ended with {status}"))),
    }
}

fn code_of_signal(signal: i32) -> u8 {
    BY_SIGNAL.saturating_add(u8::try_from(signal).unwrap_or_default())
}

/// Who this is when nobody says: `host:pid`.
pub fn default_owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_a_shell() {
        let code = |raw| result_of(ExitStatus::from_raw(raw)).err().map(|failure| failure.exit_code());
        assert_eq!(code(0), None);
        assert_eq!(code(3 << 8), Some(3));
        assert_eq!(code(9), Some(137));
        assert_eq!(ended_by(Signal::INT).exit_code(), 130);
        assert_eq!(ended_by(Signal::TERM).exit_code(), 143);
    }
}
