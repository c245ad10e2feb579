//! Health checks that the cluster makes: each by one member, whose outcome goes into the instance's document when it
//! changes something.
//!
//! Every member follows all instances that have checks, and all members that check; whose turn a check is follows from
//! that ([`turns`]). When a member dies its key goes ([`holding`]), and the others make its checks.
//!
//! Invariants:
//! - A document is written when a check's status changes, never for a check that only says the same again.
//! - Two members that make the same check for a moment do no harm: a write expects the document as it was read.
//! - What is under way at once is bounded; what is due meanwhile is late.

mod holding;
mod jobs;
mod networks;
mod probe;
mod standing;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use quorate_proto::{Key, MemberId, Revision};
use quorate_state::outcome::{Change, ChangeKind};
use quorate_state::view::ReadError;
use tokio::time::{Instant, sleep};

use super::Discovery;
use super::check::{Check, Kind};
use super::document::Document;
use super::names::{InstanceName, Place, ROOT, all_checkers, all_ttl_keys, checker_of, place, ttl_check_of};
use crate::api::{StoreView, Weight};
use crate::chance;
use crate::due;
use crate::recipes::scan::scan;
use crate::sync::watch;
use crate::watch::{Interest, OnContactLoss, Picked, Scope, Session, WatchNotice, WatchSpec};
use jobs::{Done, Job};
pub use networks::Networks;
use probe::Prober;
use standing::Standing;

/// Checks that are under way at once.
const JOBS_MAX: usize = 64;
/// A new check is made within this.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// Whose turn a check is, is asked this often.
const LOOKS_AGAIN: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const INSTANCES: u64 = 1;
const MEMBERS: u64 = 2;
const TTLS: u64 = 3;

/// A check: of which instance, and its place there.
type Which = (InstanceName, usize);

/// Makes checks until the member stops.
pub async fn run(discovery: Arc<Discovery>, networks: Networks) -> Result<(), Infallible> {
    let mut closing = discovery.rooms.until_closing();
    let wanted = watch::Sender::new(false);
    let holding = holding::run(&discovery, wanted.subscribe());
    let checker = async {
        tokio::select! {
            biased;
            () = &mut closing => {}
            () = follow(&discovery, networks, &wanted) => {}
        }
    };
    tokio::join!(holding, checker);
    Ok(())
}

async fn follow(discovery: &Arc<Discovery>, networks: Networks, wanted: &watch::Sender<bool>) {
    let prober = Arc::new(Prober::new(networks));
    loop {
        let mut checker = Checker {
            discovery: Arc::clone(discovery),
            prober: Arc::clone(&prober),
            me: discovery.rooms.identity.member_id,
            checks: BTreeMap::new(),
            members: BTreeSet::new(),
            due: BTreeSet::new(),
            jobs: FuturesUnordered::new(),
        };
        match discovery.rooms.read(Weight::Heavy, load).await {
            Ok(loaded) => checker.begin(loaded, wanted).await,
            Err(error) => tracing::warn!(%error, "the instances to be checked cannot be read"),
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// What there is when a member begins.
struct Loaded {
    checked: Vec<(InstanceName, Vec<Check>)>,
    members: BTreeSet<MemberId>,
    revision: Revision,
}

fn load(view: &StoreView<'_>) -> Result<Loaded, ReadError> {
    let mut loaded = Loaded { checked: Vec::new(), members: BTreeSet::new(), revision: view.revision() };
    let services = (format!("{ROOT}/").into(), format!("{ROOT}0").into());
    scan(view, services, None, |kv| {
        if let Some(name) = instance_at(&kv.key) {
            let checks = Document::read(&kv.value).map(|document| document.checks).unwrap_or_default();
            if !checks.is_empty() {
                loaded.checked.push((name, checks));
            }
        }
        true
    })?;
    scan(view, all_checkers(), None, |kv| {
        loaded.members.extend(checker_of(&kv.key));
        true
    })?;
    Ok(loaded)
}

struct Checker {
    discovery: Arc<Discovery>,
    prober: Arc<Prober>,
    me: MemberId,
    checks: BTreeMap<Which, Standing>,
    members: BTreeSet<MemberId>,
    due: BTreeSet<(Instant, Which)>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Checker {
    /// Until what it watches ends.
    async fn begin(&mut self, loaded: Loaded, wanted: &watch::Sender<bool>) {
        let mut session = self.open(loaded.revision);
        self.members = loaded.members;
        for (name, checks) in loaded.checked {
            self.set(&name, checks);
        }
        loop {
            wanted.send_if_modified(|wanted| {
                std::mem::replace(wanted, !self.checks.is_empty()) == self.checks.is_empty()
            });
            let room = self.jobs.len() < JOBS_MAX;
            let next = self.due.first().map(|(due, _)| *due).filter(|_| room);
            tokio::select! {
                biased;
                notice = poll_fn(|cx| session.poll_next(cx)) => match notice {
                    WatchNotice::Events { items, .. } => self.events(&items),
                    WatchNotice::Ended { over, .. } => {
                        tracing::debug!(?over, "a watch of the checks ended; they begin anew");
                        return;
                    }
                    WatchNotice::Created { .. } | WatchNotice::Mark { .. } | WatchNotice::SessionMark { .. } => {}
                },
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.finished(done),
                () = due::at(next) => self.turn(),
            }
        }
    }

    fn open(&self, revision: Revision) -> Session {
        let mut session = self.discovery.rooms.watches(OnContactLoss::Wait);
        let range = |(start, end)| Scope::Range { start, end: Some(end) };
        let scopes =
            [(INSTANCES, Scope::Subtree(ROOT.into())), (MEMBERS, range(all_checkers())), (TTLS, range(all_ttl_keys()))];
        for (tag, scope) in scopes {
            session.create(
                tag,
                WatchSpec {
                    interest: Interest { scope, puts: tag != TTLS, deletes: true },
                    start: Some(revision.next()),
                    previous_values: false,
                    progress_interval: None,
                    min_revision: None,
                },
            );
        }
        session
    }

    fn events(&mut self, items: &[Picked]) {
        for picked in items {
            for change in picked.changes.iter().filter_map(|at| picked.item.changes.get(*at as usize)) {
                self.event(change);
            }
        }
    }

    fn event(&mut self, change: &Change) {
        if let Some(member) = checker_of(&change.key) {
            match change.kind {
                ChangeKind::Put { .. } => self.members.insert(member),
                ChangeKind::Delete { .. } => self.members.remove(&member),
            };
        } else if let Some(which) = ttl_check_of(&change.key) {
            // No report came in time: to be looked at.
            if self.checks.contains_key(&which) {
                self.schedule(&which, Instant::now());
            }
        } else if let Some(name) = instance_at(&change.key) {
            let checks = match &change.kind {
                ChangeKind::Put { value, .. } => {
                    Document::read(value).map(|document| document.checks).unwrap_or_default()
                }
                ChangeKind::Delete { .. } => Vec::new(),
            };
            self.set(&name, checks);
        }
    }

    /// The checks of an instance are these now.
    fn set(&mut self, name: &InstanceName, checks: Vec<Check>) {
        let now = Instant::now();
        let count = checks.len();
        for (at, check) in checks.into_iter().enumerate() {
            let which = (name.clone(), at);
            match self.checks.get_mut(&which) {
                Some(standing) if standing.check.is_same(&check) => standing.says(check, now),
                _ => {
                    self.forget(&which);
                    let interval = Duration::from_millis(check.interval_ms);
                    let due = now + interval.min(FIRST_WITHIN).mul_f64(chance::fraction());
                    self.checks.insert(which.clone(), Standing::new(check, due, now));
                    self.due.insert((due, which));
                }
            }
        }
        let beyond = self.checks.range((name.clone(), count)..).take_while(|((other, _), _)| other == name);
        let gone: Vec<Which> = beyond.map(|(which, _)| which.clone()).collect();
        for which in gone {
            self.forget(&which);
        }
    }

    fn forget(&mut self, which: &Which) {
        if let Some(standing) = self.checks.remove(which) {
            self.due.remove(&(standing.due, which.clone()));
        }
    }

    fn schedule(&mut self, which: &Which, at: Instant) {
        if let Some(standing) = self.checks.get_mut(which) {
            self.due.remove(&(standing.due, which.clone()));
            standing.due = at;
            self.due.insert((at, which.clone()));
        }
    }

    /// Begins what is due, as far as there is room.
    fn turn(&mut self) {
        let now = Instant::now();
        while self.jobs.len() < JOBS_MAX {
            let Some((_, which)) = self.due.first().filter(|(due, _)| *due <= now).cloned() else { return };
            let mine = turns::of(&which.0, which.1, &self.members) == Some(self.me);
            let Some(standing) = self.checks.get_mut(&which) else { return };
            let interval = Duration::from_millis(standing.check.interval_ms).mul_f64(0.9 + 0.2 * chance::fraction());
            let removal = standing.removal();
            let mut next = removal.filter(|removal| *removal > now).map_or(now + interval, |at| at.min(now + interval));
            if !mine {
                standing.rest();
                next = now + interval.min(LOOKS_AGAIN);
            } else if !standing.busy {
                standing.busy = true;
                let job = match standing.check.kind() {
                    _ if removal.is_some_and(|at| at <= now) => Job::Remove,
                    Some(Kind::Ttl(_)) => Job::Reported,
                    _ => Job::Probe(Arc::clone(&self.prober)),
                };
                let check = standing.check.clone();
                self.jobs.push(job.run(Arc::clone(&self.discovery), which.clone(), check));
            }
            self.schedule(&which, next);
        }
    }

    /// A job has ended. Its check may be another meanwhile.
    fn finished(&mut self, done: Done) {
        let Done { which, check, came_to } = done;
        let Some(standing) = self.checks.get_mut(&which).filter(|standing| standing.check.is_same(&check)) else {
            return;
        };
        standing.busy = false;
        let next = match came_to {
            jobs::CameTo::Outcome(outcome) => standing.take(outcome).map(|(status, note)| Job::Write { status, note }),
            jobs::CameTo::Silence => Some(Job::Lapse),
            jobs::CameTo::Written(check) => {
                standing.wrote(check, Instant::now());
                None
            }
            jobs::CameTo::Nothing => None,
        };
        if let Some(job) = next {
            let check = standing.begin_to_write();
            self.jobs.push(job.run(Arc::clone(&self.discovery), which, check));
        }
    }
}

/// Whose key this is. Somebody may have put an id that is none, so long that the keys of its checks would be too long: it
/// is shown as malformed, and not checked.
fn instance_at(key: &Key) -> Option<InstanceName> {
    match place(key)? {
        Place::Instance(service, id) => InstanceName::new(service.as_str(), id).ok(),
        Place::Settings(_) => None,
    }
}
