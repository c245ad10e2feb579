//! Two servers that are given the same steps, and the search for the shortest sequence on which they differ.
//!
//! Invariants:
//! - A sequence ends at its first difference: what comes after has another past.
//! - The shrunk sequence was run to its difference as it is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::exceptions::{Exception, explain};
use super::generate::Generator;
use super::show;
use super::step::Step;
use super::target::Target;

/// How long a sequence is made shorter.
const SHRINKING_MAX: Duration = Duration::from_secs(100);

/// Two servers.
pub struct Pair {
    pub left: Target,
    pub right: Target,
    pub exceptions: &'static [Exception],
    /// Falsifies the answers of the right one, to see that this is noticed.
    pub tamper: Option<fn(&Step, &mut Answer)>,
    /// How often each exception was needed.
    pub excused: BTreeMap<&'static str, usize>,
    pub steps_taken: usize,
}

/// The first difference of a sequence.
pub struct Mismatch {
    pub steps: Vec<Step>,
    pub left: (&'static str, Answer),
    pub right: (&'static str, Answer),
}

impl Mismatch {
    /// The sequence and the two answers to its last step.
    pub fn story(&self) -> String {
        let mut out = String::new();
        for (number, step) in self.steps.iter().enumerate() {
            let _ = writeln!(out, "  {:>3}. {step}", number + 1);
        }
        out + &show::both((self.left.0, &self.left.1), (self.right.0, &self.right.1))
    }
}

impl Pair {
    pub fn new(left: Target, right: Target, exceptions: &'static [Exception]) -> Self {
        Self { left, right, exceptions, tamper: None, excused: BTreeMap::new(), steps_taken: 0 }
    }

    /// Generates and runs the sequence of `seed`. `fresh` says that nobody wrote to these servers.
    pub async fn generate(&mut self, seed: u64, fresh: bool) -> Result<(), Box<Mismatch>> {
        let mut generator = Generator::new(seed);
        self.begin(fresh).await;
        let mut steps = Vec::new();
        for _ in 0..generator.length() {
            let step = generator.next(&self.left);
            if self.take(&mut steps, step).await?.is_break() {
                return Ok(());
            }
        }
        self.take(&mut steps, Step::End).await.map(|_| ())
    }

    /// Runs the steps of a sequence again.
    pub async fn replay(&mut self, sequence: &[Step]) -> Result<(), Box<Mismatch>> {
        self.begin(false).await;
        let mut steps = Vec::new();
        for step in sequence {
            if self.take(&mut steps, step.clone()).await?.is_break() || *step == Step::End {
                return Ok(());
            }
        }
        self.take(&mut steps, Step::End).await.map(|_| ())
    }

    async fn begin(&mut self, fresh: bool) {
        let (left, right) = tokio::join!(self.left.begin(fresh), self.right.begin(fresh));
        left.expect("the left server begins");
        right.expect("the right server begins");
    }

    /// Breaks when the servers are no longer in the same state, for a reason that is known.
    async fn take(&mut self, steps: &mut Vec<Step>, step: Step) -> Result<ControlFlow<()>, Box<Mismatch>> {
        let (left, mut right) = tokio::join!(self.left.take(&step), self.right.take(&step));
        if let Some(tamper) = self.tamper {
            tamper(&step, &mut right);
        }
        self.steps_taken += 1;
        let lost = left.reply.is_lost() || right.reply.is_lost();
        if left == right && !lost {
            steps.push(step);
            return Ok(ControlFlow::Continue(()));
        }
        if !lost && let Some(explained) = explain(self.exceptions, &step, &left, &right) {
            for name in explained.names {
                *self.excused.entry(name).or_default() += 1;
            }
            steps.push(step);
            return Ok(if explained.diverged { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
        }
        steps.push(step);
        let steps = std::mem::take(steps);
        Err(Box::new(Mismatch { steps, left: (self.left.name, left), right: (self.right.name, right) }))
    }

    /// Makes the sequence of a mismatch as short and plain as it still shows one, or of `enough` steps.
    pub async fn shrink(&mut self, found: Box<Mismatch>, enough: usize) -> Box<Mismatch> {
        let deadline = Instant::now() + SHRINKING_MAX;
        let mut best = found;
        loop {
            if best.steps.len() <= enough {
                return best;
            }
            let mut shorter = None;
            for candidate in candidates(&best.steps) {
                if Instant::now() > deadline {
                    return best;
                }
                if let Err(mismatch) = self.replay(&candidate).await {
                    shorter = Some(mismatch);
                    break;
                }
            }
            match shorter {
                Some(mismatch) => best = mismatch,
                None => return best,
            }
        }
    }
}

/// Sequences with less in them: large pieces cut out first, then single steps, then single steps with what follows asking
/// for one revision less, then simpler steps.
fn candidates(steps: &[Step]) -> Vec<Vec<Step>> {
    let mut found = Vec::new();
    let mut piece = steps.len() / 2;
    while piece > 0 {
        for from in (0..steps.len()).step_by(piece) {
            let rest = steps.iter().enumerate().filter(|(i, _)| !(from..from + piece).contains(i));
            found.push(rest.map(|(_, step)| step.clone()).collect());
        }
        piece /= 2;
    }
    for (i, _) in steps.iter().enumerate() {
        let later = steps[i + 1..].iter().map(Step::earlier);
        found.push(steps[..i].iter().cloned().chain(later).collect());
    }
    for (i, step) in steps.iter().enumerate() {
        for simpler in step.simpler() {
            let mut changed = steps.to_vec();
            changed[i] = simpler;
            found.push(changed);
        }
    }
    found
}
