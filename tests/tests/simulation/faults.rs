//! What goes wrong: one thing after the other, some of them at the same time, until all is healed.
//!
//! Invariants:
//! - When it ends the network is whole, every member that was not removed runs, and every clock and disk is well again.
//! - While something is wrong, leases may begin their time anew at any moment; that is noted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_server::consensus::{Leadership, Member};
use quorate_state::versions::STATE_VERSION;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::member::{Process, member_id, node};
use crate::net::Weather;
use crate::world::World;

/// For one step of a change of membership.
const CHANGE_PATIENCE: Duration = Duration::from_secs(8);
/// Members that a cluster has at most.
const MEMBERS_MAX: usize = 6;

pub struct Faults {
    dice: Dice,
    next_id: u64,
}

/// Everything that can go wrong, and how often.
const ALL: [(u32, Fault); 19] = [
    (10, Fault::Partition),
    (6, Fault::Heal),
    (10, Fault::Crash),
    (3, Fault::CrashMany),
    (8, Fault::Restart),
    (4, Fault::Stop),
    (6, Fault::SlowDisk),
    (3, Fault::BrokenDisk),
    (4, Fault::Clock),
    (6, Fault::Weather),
    (5, Fault::Transfer),
    (6, Fault::Flush),
    (8, Fault::Snapshot),
    (4, Fault::Replace),
    (5, Fault::Compact),
    (3, Fault::Mend),
    (8, Fault::Depose),
    (8, Fault::CrashUnderWrite),
    (5, Fault::Reboot),
];

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Some ways are cut.
    Partition,
    /// All ways are open again.
    Heal,
    /// The power of one goes.
    Crash,
    /// The power of a majority, or of all, goes.
    CrashMany,
    /// Who does not run runs again.
    Restart,
    /// One ends in good order and begins again.
    Stop,
    /// The disk of one, or of all, takes long.
    SlowDisk,
    /// The disk of one fails.
    BrokenDisk,
    /// The wall clock of one jumps.
    Clock,
    /// The network becomes rough, or fair.
    Weather,
    /// Leadership is handed over.
    Transfer,
    /// The store of one is written to its disk.
    Flush,
    /// One makes a snapshot and shortens its log.
    Snapshot,
    /// A new member comes, and an old one may go.
    Replace,
    /// History is compacted.
    Compact,
    /// Disks and clocks are well again.
    Mend,
    /// The leader loses all others for longer than they need to find another; clients reach it.
    Depose,
    /// The power of a majority goes while a write is under way.
    CrashUnderWrite,
    /// The stores of one, or of all, are written to their disks, and they begin again.
    Reboot,
}

impl Faults {
    pub fn new(dice: Dice) -> Self {
        Self { dice, next_id: 10 }
    }

    /// Goes on until then, and heals all of it.
    pub async fn happen(mut self, world: &mut World, until: Instant) {
        let mut wrong = note_leaders(world);
        while Instant::now() < until {
            if self.dice.happens(60) {
                self.heal(world).await;
                wrong.abort();
                world.surroundings.trace.note("calm");
                sleep(self.dice.between_ms(2_000, 15_000)).await;
                wrong = note_leaders(world);
            }
            sleep(self.dice.between_ms(50, 1500)).await;
            let fault = self.any();
            world.surroundings.trace.note(format!("fault: {fault:?}"));
            self.happens(world, fault).await;
        }
        self.heal(world).await;
        wrong.abort();
    }

    fn any(&self) -> Fault {
        let sum = ALL.iter().map(|(weight, _)| *weight).sum::<u32>();
        let mut left = u32::try_from(self.dice.below(sum as usize)).unwrap();
        for (weight, fault) in ALL {
            if left < weight {
                return fault;
            }
            left -= weight;
        }
        unreachable!("the weights add up");
    }

    #[allow(clippy::too_many_lines, reason = "a list of what can go wrong")]
    async fn happens(&mut self, world: &mut World, fault: Fault) {
        match fault {
            Fault::Partition => self.part(world),
            Fault::Heal => world.surroundings.net.heal(),
            Fault::Crash => {
                if let Some(process) = self.any_process(world) {
                    world.crash(process.origin.id);
                }
            }
            Fault::CrashMany => {
                let ids = self.dice.shuffled(world.running.keys().copied().collect());
                let count = if self.dice.happens(500) { ids.len() } else { ids.len() / 2 + 1 };
                ids.into_iter().take(count).for_each(|id| world.crash(id));
            }
            Fault::Restart => restart_all(world).await,
            Fault::Stop => {
                if let Some(process) = self.any_process(world) {
                    let id = process.origin.id;
                    drop(process);
                    world.stop(id).await;
                    sleep(self.dice.between_ms(0, 1000)).await;
                    world.start(id).await;
                }
            }
            Fault::SlowDisk if self.dice.happens(300) => {
                let slowness = *self.dice.of(&[10, 50]);
                for machine in world.machines.values() {
                    machine.conditions.slowness.store(slowness, Ordering::Relaxed);
                }
            }
            Fault::SlowDisk => {
                if let Some(process) = self.any_process(world) {
                    let slowness = *self.dice.of(&[10, 50, 200, 1000]);
                    world.machines[&process.origin.id].conditions.slowness.store(slowness, Ordering::Relaxed);
                }
            }
            Fault::BrokenDisk => self.break_disk(world).await,
            Fault::Clock => {
                if let Some(process) = self.any_process(world) {
                    let skew = i64::try_from(self.dice.below(7_200_000)).unwrap() - 3_600_000;
                    world.machines[&process.origin.id].conditions.skew_ms.store(skew, Ordering::Relaxed);
                }
            }
            Fault::Weather => {
                let weather = if self.dice.happens(600) { Weather::ROUGH } else { Weather::FAIR };
                world.surroundings.net.set_weather(weather);
            }
            Fault::Transfer => {
                if let Some(process) = self.any_process(world) {
                    let to = self.any_process(world).filter(|_| self.dice.happens(500)).map(|to| to.consensus.id());
                    let done = process.consensus.transfer_leader(to, Instant::now() + CHANGE_PATIENCE).await;
                    world.surroundings.trace.note(format!("transferred: {done:?}"));
                }
            }
            Fault::Flush => {
                if let Some(process) = self.any_process(world) {
                    process.consensus.store().flush(true).unwrap();
                }
            }
            Fault::Snapshot => self.snapshot(world).await,
            Fault::Replace => self.replace(world).await,
            Fault::Compact => self.compact(world),
            Fault::Mend => mend(world),
            Fault::Depose => self.depose(world).await,
            Fault::CrashUnderWrite => self.crash_under_write(world).await,
            Fault::Reboot => self.reboot(world).await,
        }
    }

    fn any_process(&self, world: &World) -> Option<Process> {
        let running: Vec<_> = world.running.values().cloned().collect();
        (!running.is_empty()).then(|| self.dice.of(&running).clone())
    }

    fn part(&self, world: &World) {
        let ids = self.dice.shuffled(world.running.keys().copied().collect());
        if ids.len() < 2 {
            return;
        }
        let ids = &ids[..];
        let both = |a: u64, b: u64| [(a, b), (b, a)];
        let between = |some: &[u64], others: &[u64]| -> Vec<(u64, u64)> {
            some.iter().flat_map(|a| others.iter().flat_map(move |b| both(*a, *b))).collect()
        };
        let (kind, ways) = match self.dice.below(5) {
            0 => ("one", between(&ids[..1], &ids[1..])),
            1 => ("halves", between(&ids[..ids.len() / 2], &ids[ids.len() / 2..])),
            2 => ("one way", vec![(ids[0], ids[1])]),
            3 => ("one hears nothing", ids[1..].iter().map(|other| (*other, ids[0])).collect()),
            _ => {
                // Each reaches the next one in the ring only, and, where they are five, the one before.
                let next = |at: usize, by: usize| ids[(at + by) % ids.len()];
                let kept = &|a: usize, b: u64| b == next(a, 1) || (ids.len() > 4 && b == next(a, ids.len() - 1));
                let ways = (0..ids.len()).flat_map(|a| {
                    let cut = ids.iter().filter(move |b| **b != ids[a] && !kept(a, **b));
                    cut.map(|b| (ids[a], *b)).collect::<Vec<_>>()
                });
                ("ring", ways.collect())
            }
        };
        world.surroundings.trace.note(format!("partition: {kind} {ways:?}"));
        world.surroundings.net.cut(ways);
    }

    /// What the others decide meanwhile reaches it as a log or, where that was shortened, as a snapshot.
    async fn depose(&self, world: &World) {
        let Some(leader) = leader(world) else { return };
        let id = leader.origin.id;
        let others: Vec<u64> = world.running.keys().copied().filter(|other| *other != id).collect();
        let net = &world.surroundings.net;
        net.cut(others.iter().map(|other| (*other, id)));
        if self.dice.happens(500) {
            // The others still get entries of which it never hears that they have them.
            sleep(self.dice.between_ms(5, 100)).await;
        }
        net.cut(others.iter().map(|other| (id, *other)));
        sleep(self.dice.between_ms(1_000, 5_000)).await;
        if let Some(next) = leader_but(world, Some(id)).filter(|_| self.dice.happens(500)) {
            shorten_log(&next, Duration::from_millis(200)).await;
        }
        net.heal();
    }

    async fn crash_under_write(&self, world: &mut World) {
        if self.dice.happens(500) {
            for machine in world.machines.values() {
                machine.conditions.slowness.store(30, Ordering::Relaxed);
            }
        }
        let net = Arc::clone(&world.surroundings.net);
        let written = Arc::clone(&world.town.recorder.written);
        let moment = if self.dice.happens(500) { net.commands.notified() } else { written.notified() };
        // Where nobody writes, anything else may be under way.
        let _ = timeout(CHANGE_PATIENCE, moment).await;
        sleep(self.dice.between_ms(0, 8)).await;
        let ids = self.dice.shuffled(world.running.keys().copied().collect());
        let count = if self.dice.happens(300) { ids.len() } else { ids.len() / 2 + 1 };
        let first = leader(world).map(|leader| leader.origin.id);
        let rest = ids.into_iter().filter(|id| Some(*id) != first);
        let going: Vec<u64> = first.into_iter().chain(rest).take(count).collect();
        for id in going {
            world.crash(id);
        }
        sleep(self.dice.between_ms(100, 3_000)).await;
        mend(world);
        restart_all(world).await;
    }

    async fn reboot(&self, world: &mut World) {
        let ids = self.dice.shuffled(world.running.keys().copied().collect());
        let count = if self.dice.happens(500) { ids.len() } else { 1 };
        for id in ids.iter().take(count) {
            world.running[id].consensus.store().flush(true).unwrap();
            world.crash(*id);
        }
        sleep(self.dice.between_ms(0, 500)).await;
        restart_all(world).await;
    }

    async fn break_disk(&self, world: &mut World) {
        let Some(process) = self.any_process(world) else { return };
        let origin = process.origin;
        world.may_fail.lock().push((origin.id, origin.process));
        world.machines[&origin.id].platter.fail();
        sleep(self.dice.between_ms(0, 2000)).await;
        // Whoever looks after it puts another process in its place, once its disk is well again.
        world.crash(origin.id);
    }

    async fn snapshot(&self, world: &World) {
        let Some(process) = self.any_process(world) else { return };
        shorten_log(&process, self.dice.between_ms(0, 200)).await;
    }

    /// A new member comes in, and mostly an old one goes: what came of a step that was not answered is seen at the end.
    async fn replace(&mut self, world: &mut World) {
        let Some(process) = self.any_process(world) else { return };
        let consensus = process.consensus;
        let old = world.machines.keys().copied().collect::<Vec<_>>();
        if old.len() >= MEMBERS_MAX {
            return self.remove_one(world, &old).await;
        }
        self.next_id += 1;
        let id = self.next_id;
        world.add_machine(id);
        world.start(id).await;
        let about = node(id);
        let member = Member {
            id: member_id(id),
            name: about.name,
            peer_address: about.peer_address,
            client_address: about.client_address,
            learner: true,
        };
        let added = consensus.add_learner(member, STATE_VERSION, Instant::now() + CHANGE_PATIENCE).await;
        world.surroundings.trace.note(format!("learner {id}: {added:?}"));
        world.town.known.lock().push(id);
        if added.is_ok() {
            let promoted = consensus.promote(member_id(id), Instant::now() + CHANGE_PATIENCE).await;
            world.surroundings.trace.note(format!("promoted {id}: {promoted:?}"));
            if promoted.is_ok() && self.dice.happens(700) {
                self.remove_one(world, &old).await;
            }
        }
    }

    async fn remove_one(&self, world: &mut World, old: &[u64]) {
        let Some(process) = self.any_process(world) else { return };
        let id = *self.dice.of(old);
        let removed = process.consensus.remove(member_id(id), Instant::now() + CHANGE_PATIENCE).await;
        world.surroundings.trace.note(format!("removed {id}: {removed:?}"));
        if removed.is_ok() {
            world.crash(id);
            world.machines.remove(&id);
            world.removed.push(id);
        }
    }

    fn compact(&self, world: &World) {
        let Some(process) = self.any_process(world) else { return };
        let revision = process.consensus.applied().borrow().revision - self.dice.below(20) as i64;
        if revision > 1 {
            world.compact(revision, self.dice.named(revision));
        }
    }

    async fn heal(&self, world: &mut World) {
        world.surroundings.net.heal();
        world.surroundings.net.set_weather(Weather::FAIR);
        mend(world);
        restart_all(world).await;
        world.settle().await;
        world.town.recorder.leader();
    }
}

/// Has a snapshot made and, a while later, the log shortened. Errors say that the process has ended meanwhile.
pub async fn shorten_log(process: &Process, later: Duration) {
    let raft = process.consensus.raft();
    let _ = raft.trigger().snapshot().await;
    sleep(later).await;
    let applied = process.consensus.status().applied_index;
    let _ = raft.trigger().purge_log(applied).await;
}

/// The leader of the newest term.
pub fn leader(world: &World) -> Option<Process> {
    leader_but(world, None)
}

fn leader_but(world: &World, not: Option<u64>) -> Option<Process> {
    let leaders = world.running.values().filter(|process| leads(process) && Some(process.origin.id) != not);
    leaders.max_by_key(|process| process.consensus.term()).cloned()
}

/// While something is wrong, leases may begin their time anew, or not end for want of a leader.
fn note_leaders(world: &World) -> AbortHandle {
    let recorder = world.town.recorder.clone();
    let noting = tokio::spawn(async move {
        loop {
            recorder.leader();
            sleep(Duration::from_millis(200)).await;
        }
    });
    noting.abort_handle()
}

async fn restart_all(world: &mut World) {
    let down = world.machines.keys().copied().filter(|id| !world.running.contains_key(id)).collect::<Vec<_>>();
    for id in down {
        world.start(id).await;
    }
}

fn mend(world: &World) {
    for machine in world.machines.values() {
        machine.conditions.slowness.store(1, Ordering::Relaxed);
        machine.conditions.skew_ms.store(0, Ordering::Relaxed);
    }
}

/// Whether it leads.
pub fn leads(process: &Process) -> bool {
    matches!(*process.consensus.leadership().borrow(), Leadership::Leading { .. })
}
