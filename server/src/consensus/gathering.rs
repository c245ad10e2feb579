//! How many commands a batch waits for before it is sealed.
//!
//! Whoever is answered often asks again at once. A batch that is sealed when the one before it is answered finds only
//! those who asked meanwhile: two groups of callers then take turns, every batch carries half of them, and what a batch
//! costs besides its commands (a sync, a round, wakes, on every member) is paid twice as often. So a batch waits for
//! most of those who are likely to come, which is a small part of a round when they do ask again at once.
//!
//! Where they do not (each asks once and goes), commands come as fast after an answer as before it, and a batch that
//! waited finds yet more to wait for, until the wait is longer than a round. That, or a wait in vain, is a sign: then a
//! number of batches does not wait, more each time.
//!
//! While processors are short, all this does not matter: what is saved by fewer batches is what everybody waits for. Then
//! every batch waits, whoever calls.
//!
//! Invariants:
//! - Few callers never wait.
//! - Of batches that wait in vain there is at most one in [`PAUSE_MAX`] after a while, unless processors are short.
//! - None waits much longer than [`WAIT_MAX`], nor than a round.

use std::time::Duration;

/// Longest wait.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// Which part of those who may come is waited for: a few always do something else first.
const PART: (usize, usize) = (3, 4);
/// Fewer are not waited for: among so few, chance looks like coming again.
const EXPECTED_MIN: usize = 8;
/// So many waits in a row that were not in vain are no chance.
const TRUSTED: u32 = 4;
/// Batches that do not wait after many waits in vain.
const PAUSE_MAX: u32 = 64;

/// What is known of the callers.
#[derive(Debug, Default)]
pub struct Gathering {
    /// Callers that were just answered, and those who waited then.
    expected: usize,
    /// How long the last batch took.
    round: Duration,
    /// How many batches do not wait after the next wait in vain.
    pause: u32,
    /// How many still do not, the one under way included.
    left: u32,
    /// Waits that were not in vain since the last that was.
    in_a_row: u32,
    /// The batch under way waits because processors are short, which says nothing of the callers.
    saves: bool,
}

impl Gathering {
    /// How many commands the next batch is to wait for. Whether processors are short is asked where it matters.
    pub fn wanted(&mut self, processors_are_short: impl FnOnce() -> bool) -> usize {
        if self.expected < EXPECTED_MIN {
            return 0;
        }
        self.saves = processors_are_short();
        if self.saves || self.left == 0 { self.expected * PART.0 / PART.1 } else { 0 }
    }

    /// How long it is to wait for them at most. Timers end up to a millisecond later.
    pub fn patience(&self) -> Duration {
        WAIT_MAX.min(self.round)
    }

    /// The next batch waited so long, for all that were wanted or in vain.
    pub fn waited(&mut self, all: bool, waited: Duration) {
        if self.saves {
            return;
        }
        if all && waited <= self.round {
            self.in_a_row = self.in_a_row.saturating_add(1);
            if self.in_a_row >= TRUSTED {
                self.pause /= 2;
            }
        } else {
            self.in_a_row = 0;
            self.pause = (self.pause * 2).clamp(1, PAUSE_MAX);
            // And the one that waited.
            self.left = self.pause + 1;
        }
    }

    /// A batch of so many was answered, a while after it was sealed, while so many others wait.
    pub fn answered(&mut self, commands: usize, round: Duration, waiting: usize) {
        self.expected = commands + waiting;
        self.round = round;
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_millis(1);

    /// Commands that are there or will be: of callers that come again, and of strangers who come all the time.
    #[derive(Default)]
    struct Callers {
        /// When each caller's next command is there, in microseconds.
        ready: Vec<u64>,
        strangers_a_round: u64,
        strangers_taken: u64,
        round_us: u64,
        processors_are_short: bool,
    }

    impl Callers {
        fn strangers(&self, at: u64) -> u64 {
            at * self.strangers_a_round / self.round_us
        }

        fn waiting(&self, at: u64) -> usize {
            let strangers = self.strangers(at) - self.strangers_taken;
            self.ready.iter().filter(|ready| **ready <= at).count() + usize::try_from(strangers).unwrap()
        }

        fn take(&mut self, at: u64, ready_again: u64) {
            self.strangers_taken = self.strangers(at);
            self.ready.iter_mut().filter(|ready| **ready <= at).for_each(|ready| *ready = ready_again);
        }
    }

    /// 2000 batches of callers that come again `think_us` after their answer, and of strangers, so many a round. A wait
    /// ends late, as with timers. Gives the mean size of the later half and how many waited.
    fn batches(callers: usize, think_us: u64, strangers_a_round: u64, round_us: u64) -> (usize, usize) {
        batches_of(Callers { ready: vec![0; callers], strangers_a_round, round_us, ..Callers::default() }, think_us)
    }

    fn batches_of(mut callers: Callers, think_us: u64) -> (usize, usize) {
        let round_us = callers.round_us;
        let mut gathering = Gathering::default();
        let (mut now, mut later, mut waits) = (0, 0, 0);
        for batch in 0..2000 {
            while callers.waiting(now) == 0 {
                now += 10;
            }
            let (wanted, began) = (gathering.wanted(|| callers.processors_are_short), now);
            while callers.waiting(now) < wanted && Duration::from_micros(now - began) < gathering.patience() + LATE {
                now += 10;
            }
            let size = callers.waiting(now);
            if now > began {
                waits += 1;
                gathering.waited(size >= wanted, Duration::from_micros(now - began));
            }
            let answered = now + round_us;
            callers.take(now, answered + think_us);
            now = answered;
            gathering.answered(size, Duration::from_micros(round_us), callers.waiting(now));
            later += if batch < 1000 { 0 } else { size };
        }
        (later / 1000, waits)
    }

    #[test]
    fn callers_that_come_again_at_once_share_a_batch() {
        for (think_us, round_us) in [(300, 1000), (300, 3000), (1500, 3000), (300, 20_000)] {
            let (size, _) = batches(64, think_us, 0, round_us);
            assert!(size >= 48, "{size} of 64 that think {think_us} µs share a batch of {round_us} µs");
        }
    }

    #[test]
    fn few_callers_never_wait() {
        for callers in 1..EXPECTED_MIN {
            assert_eq!(batches(callers, 300, 0, 3000).1, 0);
        }
    }

    #[test]
    fn callers_that_come_once_are_hardly_ever_waited_for() {
        for round_us in [300, 1000, 3000, 20_000] {
            for a_round in (1..20).chain([50, 100, 200]) {
                let (_, waits) = batches(0, 0, a_round, round_us);
                assert!(waits <= 2000 / 10, "{waits} of 2000 batches waited for {a_round} in {round_us} µs");
            }
        }
        // Nor those who take long to come again.
        let (_, waits) = batches(64, 6000, 0, 3000);
        assert!(waits <= 2000 / 10, "{waits}");
    }

    #[test]
    fn while_processors_are_short_every_batch_waits_whoever_calls() {
        let strangers = |a_round, processors_are_short| {
            let round_us = 3000;
            batches_of(Callers { strangers_a_round: a_round, round_us, processors_are_short, ..Callers::default() }, 0)
        };
        for a_round in [20, 50, 200] {
            let (size_otherwise, waits_otherwise) = strangers(a_round, false);
            let (size, waits) = strangers(a_round, true);
            assert!(size >= size_otherwise * 3 / 2, "{size} a batch instead of {size_otherwise}");
            assert!(waits > 1900 && waits_otherwise < 200, "{waits} waited instead of {waits_otherwise}");
        }
        assert_eq!(strangers(1, true).1, 0, "but for few");
    }
}
