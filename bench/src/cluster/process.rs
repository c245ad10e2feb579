//! One member as a process.
//!
//! Invariants:
//! - The process is killed when its handle is dropped.
//! - It sees none of the variables by which either system can be set up: only its arguments count.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{Result, io, wrong};

/// A running member.
pub struct Process(Child);

impl Process {
    /// Starts `program`; its output is appended to `output`.
    pub fn start(program: &Path, arguments: &[String], output: &Path) -> Result<Self> {
        let shown = program.display();
        let file = File::options().create(true).append(true).open(output).map_err(io("cannot open the output file"))?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD_") || text.starts_with("QUORATE_") {
                command.env_remove(&name);
            }
        }
        let errors = file.try_clone().map_err(io("cannot share the output file"))?;
        command.args(arguments).stdin(Stdio::null()).stdout(file).stderr(errors);
        Ok(Self(command.spawn().map_err(io(format!("cannot start {shown}")))?))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// kill -9, and it is gone when this returns.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill().map_err(io("cannot kill a member"))?;
        self.0.wait().map_err(io("cannot wait for a member"))?;
        Ok(())
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        let signalled = kill_process(Pid::from_child(&self.0), Signal::TERM);
        signalled.map_err(|error| io("cannot signal a member")(error.into()))?;
        self.0.wait().map_err(io("cannot wait for a member"))?;
        Ok(())
    }

    /// An error if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.0.try_wait().map_err(io("cannot look at a member"))? {
            None => Ok(()),
            Some(status) => wrong(format!("a member ended by itself: {status}")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
