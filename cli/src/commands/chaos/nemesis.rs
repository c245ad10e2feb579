//! Who breaks things: members of one's own, or a cluster of others by what its owner allows.
//!
//! Invariants:
//! - Every fault is healed before the next, and at the end, also when it was cut short.

use quorate_chaos::{Dice, Recorder};
use tokio::time::{Instant, sleep, sleep_until};

use super::foreign::Foreign;
use super::local::Local;
use crate::commands::demo::narrator::Narrator;
use crate::failure::Failure;

/// One or the other.
pub enum Nemesis {
    /// Members of its own.
    Local(Box<Local>),
    /// A cluster of others.
    Foreign(Foreign),
}

impl Nemesis {
    /// Waits until the cluster is there; its endpoints.
    pub async fn ready(&mut self) -> Result<Vec<String>, Failure> {
        match self {
            Self::Local(local) => local.ready().await,
            Self::Foreign(foreign) => Ok(foreign.endpoints()),
        }
    }

    /// Does one thing after the other, with some quiet in between.
    pub async fn strike_until(
        &mut self,
        until: Instant,
        dice: &mut Dice,
        recorder: &Recorder,
        narrator: Narrator,
    ) -> Result<(), Failure> {
        loop {
            let quiet = dice.between_ms(800, 2_500);
            if Instant::now() + quiet >= until {
                sleep_until(until).await;
                return Ok(());
            }
            sleep(quiet).await;
            let broken = match self {
                Self::Local(local) => local.strike(dice).await?,
                Self::Foreign(foreign) => foreign.strike(dice).await?,
            };
            let fault = recorder.fault(&broken);
            narrator.say(&broken)?;
            sleep(dice.between_ms(100, 4_000)).await;
            self.heal().await?;
            recorder.over(fault);
        }
    }

    async fn heal(&mut self) -> Result<(), Failure> {
        match self {
            Self::Local(local) => local.heal().await,
            Self::Foreign(foreign) => foreign.heal().await,
        }
    }

    /// Heals what is broken still, and stops members of its own.
    pub async fn end(mut self, narrator: Narrator) -> Result<(), Failure> {
        match &mut self {
            // Members that do not run need not be healed.
            Self::Local(local) => local.resume(),
            Self::Foreign(foreign) => foreign.heal().await?,
        }
        match self {
            Self::Local(local) => {
                local.stop().await?;
                narrator.say("stopped the members, removed their directory")
            }
            Self::Foreign(_) => Ok(()),
        }
    }
}
