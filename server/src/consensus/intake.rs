//! Commands on their way into a batch: the queue, what did not fit into the batch before, and what is in no hurry.
//!
//! A contender that comes into a line where others wait gains nothing by being there a millisecond sooner, and an entry of
//! its own costs every member as much as one that carries a release as well. So such a command waits for one that is in a
//! hurry, and goes with it; behind it, so that a release is decided first.
//!
//! Invariants:
//! - A command in no hurry waits no longer than [`PATIENCE`] to become a batch, counted from when it came.
//! - One in a hurry never waits for one that is not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::consensus::Proposed;
use crate::due;
use crate::error::ConsensusError;

/// Longest wait of a command in no hurry: some rounds on a fast disk. Timers end up to a millisecond later.
const PATIENCE: Duration = Duration::from_millis(2);

/// How soon a command is to be proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// At once.
    AtOnce,
    /// With the next one that is in a hurry; after a few milliseconds if none comes.
    WithOthers,
}

/// Where the outcome goes.
pub(super) type Answer = oneshot::Sender<Result<Proposed, ConsensusError>>;

/// A command that waits to be proposed.
pub(super) struct Waiting {
    /// As the log will have it.
    pub envelope: Bytes,
    /// Whether it may make the store larger.
    pub grows: bool,
    /// In which term only it may be proposed.
    pub term: Option<u64>,
    /// Set by whoever decides its fate first: its caller or the proposer.
    pub claimed: Arc<AtomicBool>,
    /// Where the outcome goes.
    pub answer: Answer,
    /// How soon it is to be proposed.
    pub haste: Haste,
    /// When it came.
    pub came: Instant,
}

/// See the module.
pub(super) struct Intake {
    queue: mpsc::Receiver<Waiting>,
    /// Taken from the queue, but not into a batch yet.
    over: VecDeque<Waiting>,
    /// In no hurry.
    patient: VecDeque<Waiting>,
}

impl Waiting {
    /// Until when it waits for others.
    fn patient_until(&self) -> Option<Instant> {
        (self.haste == Haste::WithOthers).then(|| self.came + PATIENCE)
    }
}

impl Intake {
    /// Of what comes by a queue.
    pub fn new(queue: mpsc::Receiver<Waiting>) -> Self {
        Self { queue, over: VecDeque::new(), patient: VecDeque::new() }
    }

    /// Waits for a command that is not to wait any longer. `None`: nobody is left who could bring one. Safe to cancel.
    pub async fn first(&mut self) -> Option<Waiting> {
        loop {
            if let Some(first) = self.over.pop_front() {
                return Some(first);
            }
            let patience = self.patient.front().and_then(Waiting::patient_until);
            tokio::select! {
                biased;
                next = self.queue.recv() => {
                    let next = next?;
                    if next.patient_until().is_none_or(|until| until <= Instant::now()) {
                        return Some(next);
                    }
                    self.patient.push_back(next);
                }
                () = due::at(patience) => return self.patient.pop_front(),
            }
        }
    }

    /// What can go into a batch now, whether it is in a hurry or not.
    pub fn next(&mut self) -> Option<Waiting> {
        self.over.pop_front().or_else(|| self.patient.pop_front()).or_else(|| self.queue.try_recv().ok())
    }

    /// Waits until the queue has another, which is the next one then. False: nobody is left who could bring one. Safe to
    /// cancel.
    pub async fn another(&mut self) -> bool {
        match self.queue.recv().await {
            Some(another) => self.over.push_back(another),
            None => return false,
        }
        true
    }

    /// It did not fit; it is the next one again.
    pub fn put_back(&mut self, waiting: Waiting) {
        self.over.push_front(waiting);
    }

    /// Whether something did not fit.
    pub fn is_over(&self) -> bool {
        !self.over.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.over.len() + self.patient.len() + self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands that come, by number, each with or without patience.
    struct Comes(mpsc::Sender<Waiting>);

    impl Comes {
        fn come(&self, number: u8, haste: Haste) {
            let waiting = Waiting {
                envelope: Bytes::copy_from_slice(&[number]),
                grows: false,
                term: None,
                claimed: Arc::default(),
                answer: oneshot::channel().0,
                haste,
                came: Instant::now(),
            };
            self.0.try_send(waiting).ok().unwrap();
        }
    }

    fn intake() -> (Comes, Intake) {
        let (comes, queue) = mpsc::channel(16);
        (Comes(comes), Intake::new(queue))
    }

    async fn batch(intake: &mut Intake) -> Vec<u8> {
        let mut batch = vec![intake.first().await.unwrap()];
        batch.extend(std::iter::from_fn(|| intake.next()));
        batch.iter().map(|waiting| waiting.envelope[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_no_hurry_goes_with_what_is_and_behind_it() {
        let (comes, mut intake) = intake();
        comes.come(1, Haste::WithOthers);
        comes.come(2, Haste::WithOthers);
        assert!(tokio::time::timeout(PATIENCE / 2, intake.first()).await.is_err(), "nothing to go with has come");
        comes.come(3, Haste::AtOnce);
        comes.come(4, Haste::AtOnce);
        let began = Instant::now();
        assert_eq!(batch(&mut intake).await, [3, 1, 2, 4]);
        assert_eq!(began.elapsed(), Duration::ZERO, "what is in a hurry does not wait");
        assert_eq!(intake.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_no_hurry_goes_alone_after_a_while() {
        let (comes, mut intake) = intake();
        let began = Instant::now();
        comes.come(1, Haste::WithOthers);
        tokio::time::advance(PATIENCE / 2).await;
        comes.come(2, Haste::WithOthers);
        assert_eq!(batch(&mut intake).await, [1, 2]);
        assert!((PATIENCE..PATIENCE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        // One that has waited in the queue, behind a batch under way, has waited.
        comes.come(3, Haste::WithOthers);
        tokio::time::advance(PATIENCE).await;
        let began = Instant::now();
        assert_eq!(batch(&mut intake).await, [3]);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_fit_is_the_first_of_the_next_batch() {
        let (comes, mut intake) = intake();
        comes.come(1, Haste::AtOnce);
        comes.come(2, Haste::AtOnce);
        let too_much = intake.first().await.unwrap();
        intake.put_back(too_much);
        assert!(intake.is_over());
        assert!(intake.another().await);
        assert_eq!(batch(&mut intake).await, [1, 2]);
        drop(comes);
        assert!(intake.first().await.is_none() && !intake.another().await);
    }
}
