//! Random histories that keep every promise: a store of ordered maps, clients that overlap, answers that get lost.
//!
//! Invariants:
//! - One seed, one history. Values are unique, so that every value tells who wrote it.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::history::{
    Action, Answer, Change, ChangeLog, Compare, Done, Event, History, Input, Moment, Octets, Operation, Outcome,
    Picture, Relation, RequestId, Span, Target, Told as WatchTold, Txn, Watch,
};
use super::model::{self, Keys, Told};

/// What is to be in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub operations: usize,
    pub clients: usize,
    pub keys: usize,
    /// Leases that end by themselves, sequential puts, reads of the past, conditions on revisions.
    pub rich: bool,
}

/// The seeds to try: that of `QUORATE_SEED`; with `QUORATE_SEEDS` so many from a random one on; else from 1 on. They are
/// printed.
pub(super) fn seeds(many: u64) -> impl Iterator<Item = u64> {
    let asked = std::env::var("QUORATE_SEED").ok().map(|seed| seed.parse::<u64>().expect("QUORATE_SEED is a number"));
    let first = match (asked, std::env::var("QUORATE_SEEDS")) {
        (Some(seed), _) => seed,
        (None, Ok(_)) => u64::from(rand::random::<u32>()),
        (None, Err(_)) => 1,
    };
    println!("QUORATE_SEED={first} and the {many} after it");
    first..first + if asked.is_some() { 1 } else { many }
}

/// A history without a fault.
pub(super) fn history(seed: u64, wanted: Wanted) -> History {
    let mut world = World::new(seed, wanted);
    while world.begun < wanted.operations || world.clients.iter().any(Option::is_some) {
        world.step();
    }
    world.finish()
}

/// What is under way: the operation, its place among the recorded, and what it was answered, once it was done.
struct Pending {
    place: usize,
    answered: Option<Outcome>,
}

struct World {
    rng: StdRng,
    wanted: Wanted,
    now: Moment,
    begun: usize,
    clients: Vec<Option<Pending>>,
    /// Given up by their clients, and not yet done.
    late: Vec<Input>,
    states: Vec<Keys>,
    log: Vec<Change>,
    sequence: u64,
    history: History,
}

impl World {
    fn new(seed: u64, wanted: Wanted) -> Self {
        let clients = (0..wanted.clients).map(|_| None).collect();
        let rng = StdRng::seed_from_u64(seed);
        // Revision 0 is never, 1 is empty.
        let states = vec![Keys::default(), Keys::default()];
        let (late, log, history) = (Vec::new(), Vec::new(), History::default());
        Self { rng, wanted, now: 0, begun: 0, clients, late, states, log, sequence: 0, history }
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn step(&mut self) {
        self.now += 1;
        if self.wanted.rich && self.rng.random_ratio(1, 40) {
            let lease = self.rng.random_range(1..4);
            self.apply(&Input::Revoke { lease });
        }
        if !self.late.is_empty() && self.rng.random_ratio(1, 20) {
            let late = self.rng.random_range(0..self.late.len());
            let late = self.late.swap_remove(late);
            self.apply(&late);
        }
        let client = self.rng.random_range(0..self.clients.len());
        match self.clients[client].take() {
            None if self.begun < self.wanted.operations => self.begin(client),
            None => {}
            Some(pending) => self.clients[client] = self.go_on(pending),
        }
    }

    fn begin(&mut self, client: usize) {
        self.begun += 1;
        let request = RequestId { client: client as u64 + 1, sequence: self.begun as u64 };
        let operation = Operation {
            client: client as u64,
            request: Some(request),
            invoked: self.now,
            completed: self.now,
            input: self.input(),
            outcome: Outcome::Unknown("the history ended".into()),
        };
        self.history.operations.push(operation);
        self.clients[client] = Some(Pending { place: self.history.operations.len() - 1, answered: None });
    }

    fn go_on(&mut self, mut pending: Pending) -> Option<Pending> {
        let input = self.history.operations[pending.place].input.clone();
        let outcome = match pending.answered.take() {
            Some(answer) if self.rng.random_ratio(1, 2) => {
                let lost = self.rng.random_ratio(1, 12);
                if lost { Outcome::Unknown("the answer was lost".into()) } else { answer }
            }
            Some(answer) => return Some(Pending { answered: Some(answer), ..pending }),
            None if self.rng.random_ratio(1, 15) => {
                self.late.push(input);
                Outcome::Unknown("gave up".into())
            }
            None if self.rng.random_ratio(1, 20) => Outcome::Refused("not now".into()),
            None => {
                pending.answered = Some(self.apply(&input));
                return Some(pending);
            }
        };
        let operation = &mut self.history.operations[pending.place];
        (operation.completed, operation.outcome) = (self.now, outcome);
        None
    }

    fn apply(&mut self, input: &Input) -> Outcome {
        let mut at = self.revision();
        if let Input::Txn(txn) = input {
            if txn.serializable {
                at = self.rng.random_range((at - 3).max(1)..=at);
            }
            at = if txn.at > 0 { txn.at } else { at };
        }
        let name = Octets::from(format!("/q/{:020}", self.sequence));
        let told = Told { revision: at + 1, verdict: None, names: std::slice::from_ref(&name) };
        let effect = self.states[at as usize].evaluate(input, told).expect("a name is there");
        if effect.changes.iter().any(|change| *change.key() == name) {
            self.sequence += 1;
        }
        let past = matches!(input, Input::Txn(txn) if txn.at > 0);
        let mut revision = if past { self.revision() } else { at };
        if !effect.changes.is_empty() {
            let mut keys = self.states[at as usize].clone();
            effect.changes.iter().for_each(|change| keys.apply(change));
            self.states.push(keys);
            self.log.extend(effect.changes);
            revision = self.revision();
        }
        Outcome::Done { revision, answer: effect.answer }
    }

    fn key(&mut self) -> Octets {
        Octets::from(format!("/k/{}", self.rng.random_range(0..self.wanted.keys)))
    }

    fn action(&mut self) -> Action {
        let key = self.key();
        let rich = self.wanted.rich;
        match self.rng.random_range(0..10) {
            0..=4 => {
                let lease = if rich && self.rng.random_ratio(1, 4) { self.rng.random_range(1..4) } else { 0 };
                Action::Put { key, value: format!("v{}", self.now).into(), lease }
            }
            5 if rich => {
                Action::PutSequential { directory: "/q".into(), value: format!("v{}", self.now).into(), lease: 0 }
            }
            5..=6 => Action::Delete { span: Span::Key(key) },
            7 if rich => Action::Read { span: Span::Subtree("/k".into()), limit: None },
            _ => Action::Read { span: Span::Key(key), limit: None },
        }
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let current = self.states[self.states.len() - 1].get(&key).cloned().unwrap_or_default();
        let target = match self.rng.random_range(0..5) {
            0 => Target::Exists(self.rng.random()),
            1 => Target::Version(current.version),
            2 if self.wanted.rich => Target::ModRevision(current.mod_revision),
            _ => Target::Value(current.value),
        };
        Compare { key, relation: Relation::Equal, target }
    }

    fn input(&mut self) -> Input {
        let mut txn = Txn::of(self.action());
        if self.rng.random_ratio(1, 3) {
            txn.compares.push(self.compare());
            let second = self.action();
            let clash = matches!((&txn.then[0], &second), (Action::PutSequential { .. }, Action::PutSequential { .. }));
            let same = match (&txn.then[0], &second) {
                (Action::Put { key: a, .. } | Action::Delete { span: Span::Key(a) }, Action::Put { key: b, .. })
                | (Action::Put { key: a, .. }, Action::Delete { span: Span::Key(b) }) => a == b,
                _ => false,
            };
            let branch = if self.rng.random() && !clash && !same { &mut txn.then } else { &mut txn.otherwise };
            branch.push(second);
        } else if txn.only_reads() && self.wanted.rich {
            txn.serializable = self.rng.random_ratio(1, 3);
            txn.at = if self.rng.random_ratio(1, 4) { self.rng.random_range(1..=self.revision()) } else { 0 };
        }
        Input::Txn(txn)
    }

    fn finish(mut self) -> History {
        let revision = self.revision();
        let keys = self.states[revision as usize].select(&EVERYTHING).cloned().collect();
        self.history.end = Some(Picture { revision, keys });
        for number in 0..4 {
            let watch = self.watch(number);
            self.history.watches.push(watch);
        }
        self.history.log = Some(ChangeLog { from: 2, to: revision, changes: self.log });
        self.history
    }

    /// A watch that was told the log, in messages and fragments of random lengths.
    fn watch(&mut self, number: usize) -> Watch {
        let spans =
            [Span::Subtree("/k".into()), Span::Key("/k/0".into()), EVERYTHING.clone(), Span::Children("/q".into())];
        let span = spans.choose(&mut self.rng).expect("not empty").clone();
        let created = self.rng.random_range(1..=self.revision());
        let start = if self.rng.random() { 0 } else { self.rng.random_range(1..=created) };
        let no_puts = self.rng.random_ratio(1, 6);
        let name = format!("w{number}");
        let mut watch = Watch {
            name,
            span,
            start,
            previous: true,
            no_puts,
            no_deletes: false,
            told: vec![WatchTold::Created(created)],
        };
        let from = if start == 0 { created + 1 } else { start };
        for revision in from..=self.revision() {
            let changes = self.log.iter().filter(|change| change.revision() == revision);
            let wanted = changes.filter(|change| {
                model::holds(&watch.span, change.key()) && !(no_puts && matches!(change, Change::Put(_)))
            });
            let before = &self.states[revision as usize - 1];
            let mut events: Vec<_> = wanted
                .map(|change| Event { change: change.clone(), previous: before.get(change.key()).cloned() })
                .collect();
            if events.len() > 1 && self.rng.random_ratio(1, 3) {
                let rest = events.split_off(1);
                watch.told.push(WatchTold::Events { revision: 0, events, fragment: true });
                events = rest;
            }
            if !events.is_empty() {
                watch.told.push(WatchTold::Events { revision: 0, events, fragment: false });
            }
            if self.rng.random_ratio(1, 5) && revision >= created {
                watch.told.push(WatchTold::Progress(revision));
            }
        }
        watch.told.push(WatchTold::Progress(self.revision()));
        watch
    }
}

static EVERYTHING: Span = Span::Range(Octets::EMPTY, None);

/// Places of operations that were done and are of this kind.
pub(super) fn done(history: &History, of: impl Fn(&Operation, &Answer) -> bool) -> Vec<usize> {
    let all = history.operations.iter().enumerate();
    let found = all.filter(|(_, operation)| match &operation.outcome {
        Outcome::Done { answer, .. } => of(operation, answer),
        Outcome::Refused(_) | Outcome::Unknown(_) => false,
    });
    found.map(|(place, _)| place).collect()
}

/// Reads of the newest that showed a key.
pub(super) fn reads(history: &History) -> Vec<usize> {
    done(history, |operation, answer| {
        let newest = matches!(&operation.input, Input::Txn(txn) if !txn.serializable && txn.at == 0);
        newest && answer.results.iter().any(|done| matches!(done, Done::Read(kvs) if !kvs.is_empty()))
    })
}
