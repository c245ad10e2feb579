//! Faults of the user's own: a command that breaks something, and one that mends it.
//!
//! Invariants:
//! - Whoever was told to break is told to mend, whether breaking went well or not.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// For the report.
    pub name: String,
    break_command: String,
    mend_command: String,
}

/// `name=cmd to break=cmd to heal`.
pub fn parse(text: &str) -> Result<Hook, String> {
    let parts: Vec<&str> = text.split('=').map(str::trim).collect();
    match parts.as_slice() {
        [name, break_command, mend_command] if parts.iter().all(|part| !part.is_empty()) => Ok(Hook {
            name: (*name).to_owned(),
            break_command: (*break_command).to_owned(),
            mend_command: (*mend_command).to_owned(),
        }),
        _ => Err("write NAME=BREAK=MEND; a command that has a = in it belongs into a script".to_owned()),
    }
}

impl Hook {
    /// Runs the first command.
    pub async fn strike(&self) -> Result<(), String> {
        shell(&self.break_command).await
    }

    /// Runs the second.
    pub async fn mend(&self) -> Result<(), String> {
        shell(&self.mend_command).await
    }
}

async fn shell(command: &str) -> Result<(), String> {
    let run =
        Command::new("sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).status();
    match timeout(PATIENCE, run).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{command:?} ended with {status}")),
        Ok(Err(error)) => Err(format!("{command:?} could not be run: {error}")),
        Err(_) => Err(format!("{command:?} took longer than {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_a_name_and_two_commands() {
        let hook = parse("net = ./cut b = ./mend b").unwrap();
        assert_eq!((hook.name.as_str(), hook.break_command.as_str()), ("net", "./cut b"));
        assert_eq!(hook.mend_command, "./mend b");
        for wrong in ["net", "net=cut", "net=cut=", "net=a=b=c", "=a=b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn what_a_command_says_by_its_exit_code_is_heard() {
        let hook = parse("odd=true=exit 3").unwrap();
        assert_eq!(hook.strike().await, Ok(()));
        assert!(hook.mend().await.unwrap_err().contains("exit status: 3"));
    }
}
