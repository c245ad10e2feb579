//! Faults of a cluster of others: leadership is handed over through its own API, and its owner's commands are run.
//!
//! Invariants:
//! - Members are never stopped or removed: that is the owner's to do, by a command.

use quorate::Client;
use quorate_chaos::Dice;

use super::hook::Hook;
use crate::connection::Connection;
use crate::failure::Failure;

/// What may be done, and what is broken now.
pub struct Foreign {
    connection: Connection,
    hooks: Vec<Hook>,
    broken: Option<Hook>,
}

impl Foreign {
    /// By these commands, and by transfers.
    pub fn new(connection: &Connection, hooks: Vec<Hook>) -> Self {
        Self { connection: connection.clone(), hooks, broken: None }
    }

    /// As given.
    pub fn endpoints(&self) -> Vec<String> {
        self.connection.endpoints.clone()
    }

    /// Breaks something; says what.
    pub async fn strike(&mut self, dice: &mut Dice) -> Result<String, Failure> {
        // Commands, where there are some, are three of four faults.
        if self.hooks.is_empty() || dice.below(4) == 0 {
            let client: Client = self.connection.open()?;
            return Ok(match client.transfer_leader(None).await {
                Ok(_) => "transfer of leadership".to_owned(),
                Err(error) => format!("transfer of leadership, answered: {error}"),
            });
        }
        let hook = self.hooks[dice.below(self.hooks.len())].clone();
        let name = hook.name.clone();
        self.broken = Some(hook.clone());
        hook.strike().await.map_err(|said| Failure::Failed(format!("the fault {name} cannot be made: {said}")))?;
        Ok(name)
    }

    /// Mends it.
    pub async fn heal(&mut self) -> Result<(), Failure> {
        let Some(hook) = self.broken.take() else { return Ok(()) };
        let mended = hook.mend().await;
        mended.map_err(|said| Failure::Failed(format!("the fault {} cannot be mended, see to it: {said}", hook.name)))
    }
}
