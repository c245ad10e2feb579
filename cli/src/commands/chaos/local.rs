//! Faults of a cluster of one's own: members are killed, paused and asked to stop, and leadership is handed over.
//!
//! Invariants:
//! - After healing all members run and know one leader.

use std::time::Duration;

use quorate::Client;
use quorate_chaos::Dice;
use rustix::process::Signal;

use crate::commands::demo::members::Members;
use crate::commands::demo::observer::common_leader;
use crate::failure::Failure;

const MEMBERS: usize = 3;

/// Three members and what is wrong with them.
pub struct Local {
    members: Members,
    down: Vec<usize>,
    paused: Vec<usize>,
}

impl Local {
    /// Starts them.
    pub fn start() -> Result<Self, Failure> {
        let mut members = Members::prepare("quorate-chaos-", MEMBERS)?;
        for index in 0..MEMBERS {
            members.start(index)?;
        }
        Ok(Self { members, down: Vec::new(), paused: Vec::new() })
    }

    /// Waits for a leader; the endpoints.
    pub async fn ready(&mut self) -> Result<Vec<String>, Failure> {
        self.leader().await?;
        Ok(self.members.endpoints())
    }

    /// The leader that all know.
    async fn leader(&mut self) -> Result<usize, Failure> {
        let endpoints = self.members.endpoints();
        let leader = common_leader(&mut self.members, &endpoints).await?;
        // It was asked at one of them.
        endpoints
            .iter()
            .position(|endpoint| *endpoint == leader.member.client_address)
            .ok_or_else(|| Failure::Failed(format!("{} is none of the members", leader.member.client_address)))
    }

    /// Breaks something; says what.
    pub async fn strike(&mut self, dice: &mut Dice) -> Result<String, Failure> {
        let leader = self.leader().await?;
        let other = (leader + 1 + dice.below(MEMBERS - 1)) % MEMBERS;
        let name = |index: usize| format!("n{}", index + 1);
        match dice.below(10) {
            0..3 => {
                self.kill(leader).await?;
                Ok(format!("kill -9 of {}, which leads", name(leader)))
            }
            3 => {
                self.kill(other).await?;
                Ok(format!("kill -9 of {}", name(other)))
            }
            4 => {
                self.kill(leader).await?;
                self.kill(other).await?;
                Ok(format!("kill -9 of {} and {}, a majority", name(leader), name(other)))
            }
            5..7 => {
                self.pause(leader);
                Ok(format!("pause of {}, which leads", name(leader)))
            }
            7 => {
                self.pause(other);
                Ok(format!("pause of {}", name(other)))
            }
            8 => {
                self.members.stop_one(leader).await?;
                self.down.push(leader);
                Ok(format!("{}, which leads, is asked to stop", name(leader)))
            }
            _ => {
                let client = Client::builder().endpoints(self.members.endpoints()).build()?;
                let said = match client.transfer_leader(None).await {
                    Ok(_) => String::new(),
                    Err(error) => format!(" (answered: {error})"),
                };
                Ok(format!("{} is asked to hand over leadership{said}", name(leader)))
            }
        }
    }

    async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        self.members.kill(index).await?;
        self.down.push(index);
        Ok(())
    }

    fn pause(&mut self, index: usize) {
        self.members.signal(index, Signal::STOP);
        self.paused.push(index);
    }

    /// Lets paused members go on.
    pub fn resume(&mut self) {
        for index in self.paused.drain(..) {
            self.members.signal(index, Signal::CONT);
        }
    }

    /// Starts what is down, lets go on what is paused, and waits for a leader.
    pub async fn heal(&mut self) -> Result<(), Failure> {
        self.resume();
        for index in std::mem::take(&mut self.down) {
            self.members.start(index)?;
        }
        tokio::time::timeout(Duration::from_mins(1), self.leader())
            .await
            .map_err(|_| Failure::Violated("a minute after all was healed there is no leader".to_owned()))??;
        Ok(())
    }

    /// Stops them all and removes their directory.
    pub async fn stop(self) -> Result<(), Failure> {
        self.members.stop().await
    }
}
