//! What a run leaves: a table to read, the same as JSON with every round, and a picture.
//!
//! Invariants:
//! - All three are made from the same figures; nothing is rounded before it is written.

mod picture;
mod table;

use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::cluster::{Places, proc};
use crate::failure::{Failure, Result, io};
use crate::figures::Figures;
use crate::plan::{self, Plan};

/// A finished run.
#[derive(Serialize)]
pub struct Report {
    machine: String,
    peer: String,
    quorate: String,
    seed: u64,
    members: usize,
    connections_per_member: usize,
    value_bytes: usize,
    keys: u64,
    plan: Plan,
    /// Why the run ended before all works were done.
    failure: Option<String>,
    figures: Figures,
}

impl Report {
    /// Of these figures; of a run that ended early, with what it ended for.
    pub fn new(places: &Places, plan: Plan, figures: Figures, failure: Option<&Failure>) -> Result<Self> {
        Ok(Self {
            machine: proc::machine(),
            peer: version(&places.peer)?,
            quorate: version(&places.quorate)?,
            seed: plan::SEED,
            members: plan::MEMBERS,
            connections_per_member: plan::CONNECTIONS_PER_MEMBER,
            value_bytes: plan::VALUE_BYTES,
            keys: plan::KEYS,
            plan,
            failure: failure.map(ToString::to_string),
            figures,
        })
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let Self { peer, quorate, machine, .. } = self;
        let ended = self.failure.as_ref().map(|failure| format!("\n**This run ended early: {failure}.**\n"));
        format!("{quorate} against {peer}; {machine}.\n\n{}{}", table::of(&self.figures), ended.unwrap_or_default())
    }

    /// Writes all three into a directory: `results.md`, `results.json`, `results.svg`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|error| Failure::Wrong(error.to_string()))?;
        std::fs::create_dir_all(dir).map_err(io(format!("cannot make {}", dir.display())))?;
        let picture = picture::of(&self.figures, &format!("{} against {}", self.quorate, self.peer));
        for (name, text) in [("results.md", self.table()), ("results.json", json + "\n"), ("results.svg", picture)] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(io(format!("cannot write {}", path.display())))?;
        }
        Ok(())
    }
}

/// The first line that a program prints of its version.
fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(io(format!("cannot run {}", program.display())))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().replace(" Version:", ""))
}
