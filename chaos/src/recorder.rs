//! Records what clients ask and are told, in the form that the checkers read, and what was done to the cluster meanwhile.
//!
//! Invariants:
//! - An operation is begun before anything of it leaves the client, and over after its answer is there.
//! - Moments are of one monotonic clock and differ from each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate::{Error, ErrorKind, Reason};
use quorate_checkers::history::{
    Answer, Directory, Elected, ElectionFact, History, Hold, Input, Learned, LeaseFact, Moment, Operation, Outcome,
    Watch,
};

/// Cheap to clone; clones share what they record.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    last: Mutex<Moment>,
    history: Mutex<History>,
    faults: Mutex<Vec<Fault>>,
    /// Answers that no member may give, whatever goes wrong.
    broken: Mutex<Vec<String>>,
    given_up: Mutex<Vec<String>>,
}

/// Something that was done to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In words.
    pub name: String,
    /// When it began.
    pub from: Moment,
    /// When it was over; `None`: it never was.
    pub to: Option<Moment>,
}

/// An operation under way.
pub(crate) struct Begun {
    client: u64,
    invoked: Moment,
    input: Input,
}

impl Default for Recorder {
    fn default() -> Self {
        Self(Arc::new(Shared {
            began: Instant::now(),
            last: Mutex::default(),
            history: Mutex::default(),
            faults: Mutex::default(),
            broken: Mutex::default(),
            given_up: Mutex::default(),
        }))
    }
}

impl Recorder {
    /// Time since the beginning, in µs; never the same twice.
    pub fn moment(&self) -> Moment {
        let mut last = self.0.last.lock();
        let now = u64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(Moment::MAX);
        *last = now.max(*last + 1);
        *last
    }

    /// Something is done to the cluster; gives its number, for [`over`](Self::over).
    pub fn fault(&self, name: impl Into<String>) -> usize {
        let from = self.moment();
        let mut faults = self.0.faults.lock();
        faults.push(Fault { name: name.into(), from, to: None });
        faults.len() - 1
    }

    /// A fault is healed.
    pub fn over(&self, fault: usize) {
        let now = self.moment();
        if let Some(fault) = self.0.faults.lock().get_mut(fault) {
            fault.to = Some(now);
        }
    }

    /// What was done to the cluster so far.
    pub fn faults(&self) -> Vec<Fault> {
        self.0.faults.lock().clone()
    }

    /// The longest fault so far.
    pub fn longest_fault(&self) -> Duration {
        let faults = self.0.faults.lock();
        let longest = faults.iter().filter_map(|fault| fault.to.map(|to| to.saturating_sub(fault.from))).max();
        Duration::from_micros(longest.unwrap_or_default())
    }

    /// Answers that say that something is broken.
    pub fn broken(&self) -> Vec<String> {
        self.0.broken.lock().clone()
    }

    /// Native calls that could be repeated, and failed all the same when their time was over.
    pub fn given_up(&self) -> Vec<String> {
        self.0.given_up.lock().clone()
    }

    /// A copy of all that was recorded.
    pub fn history(&self) -> History {
        self.0.history.lock().clone()
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        change(&mut self.0.history.lock())
    }

    pub(crate) fn begin(&self, client: u64, input: Input) -> Begun {
        Begun { client, invoked: self.moment(), input }
    }

    pub(crate) fn end(&self, begun: Begun, outcome: Outcome) {
        let Begun { client, invoked, input } = begun;
        let completed = self.moment();
        let operation = Operation { client, request: None, invoked, completed, input, outcome };
        self.with(|history| history.operations.push(operation));
    }

    pub(crate) fn lease(&self, lease: i64, invoked: Moment, what: Learned) {
        let fact = LeaseFact { lease, invoked, completed: self.moment(), what };
        self.with(|history| history.leases.push(fact));
    }

    /// From here on leases may have begun their time anew.
    pub(crate) fn leader(&self) {
        let moment = self.moment();
        self.with(|history| history.leaders.push(moment));
    }

    pub(crate) fn watch(&self, watch: Watch) {
        self.with(|history| history.watches.push(watch));
    }

    pub(crate) fn hold(&self, hold: Hold) {
        self.with(|history| history.holds.push(hold));
    }

    /// Records something of an election that has an answer now; the moment of that.
    pub(crate) fn election(&self, election: &str, client: u64, invoked: Moment, what: Elected) -> Moment {
        let completed = self.moment();
        let fact = ElectionFact { election: election.into(), client, invoked, completed, what };
        self.with(|history| history.elections.push(fact));
        completed
    }

    pub(crate) fn directory(&self, directory: Directory) {
        self.with(|history| history.directories.push(directory));
    }

    /// What came of a native call.
    pub(crate) fn outcome(&self, answer: quorate::Result<(i64, Answer)>) -> Outcome {
        match answer {
            Ok((revision, answer)) => Outcome::Done { revision, answer },
            Err(error) => {
                self.look_at(&error);
                if matches!(error.kind(), ErrorKind::Retry | ErrorKind::RetrySameId) {
                    self.0.given_up.lock().push(error.to_string());
                }
                if error.happened() == quorate::Happened::No {
                    Outcome::Refused(error.to_string())
                } else {
                    Outcome::Unknown(error.to_string())
                }
            }
        }
    }

    /// Notes an error that no member may answer.
    pub(crate) fn look_at(&self, error: &Error) {
        if matches!(error.reason(), Some(Reason::Internal)) || matches!(error, Error::Protocol { .. }) {
            self.is_broken(format!("a client was told: {error}"));
        }
    }

    pub(crate) fn is_broken(&self, what: String) {
        self.0.broken.lock().push(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_grow_and_the_longest_fault_is_told() {
        let recorder = Recorder::default();
        let (one, two) = (recorder.moment(), recorder.moment());
        assert!(one < two);
        let fault = recorder.fault("kill n1");
        assert_eq!(recorder.longest_fault(), Duration::ZERO, "it is not over yet");
        recorder.over(fault);
        assert!(recorder.longest_fault() > Duration::ZERO);
        assert_eq!(recorder.faults()[0].name, "kill n1");
    }
}
