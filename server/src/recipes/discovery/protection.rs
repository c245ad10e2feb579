//! Protection: when most instances of a service expire at once, it is more likely that the cluster lost sight of them
//! than that all of them are gone. Then they go on being listed, marked as expired, for a while.
//!
//! The rule: of the instances that a service had, more than the share (its settings, else half of them) and at least
//! [`LOST_MIN`] expired within [`WINDOW`] and are not back. It ends when enough are back, or new ones are there, or its
//! time is over. What was deregistered is not lost. So a service of two that loses one is never protected.
//!
//! This member's own knowledge: a task watches the leases of instances end. A member that was restarted knows nothing of
//! what expired before.
//!
//! Invariants:
//! - Documents are read from history just below the revision at which they ended; one that is compacted is not listed.
//! - Nothing is held for instances that live: they are counted in the store, by their directory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::{Revision, v1};
use quorate_state::outcome::ChangeKind;
use quorate_state::view::ReadError;
use tokio::time::{Instant, sleep, timeout};

use super::Discovery;
use super::instance;
use super::names::{Place, ROOT, ServiceName, place};
use super::resolve::settings;
use super::settings::ServiceSettings;
use crate::api::{StoreView, Weight};
use crate::due;
use crate::sync::watch;
use crate::watch::{Interest, OnContactLoss, Picked, Scope, Session, WatchNotice, WatchSpec};

/// At once.
const WINDOW: Duration = Duration::from_secs(30);
/// Fewer are not suspicious.
const LOST_MIN: usize = 3;
/// Expired instances that are remembered for one service.
const LOST_MAX: usize = 10_000;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const TAG: u64 = 1;

/// A protected service.
#[derive(Debug, Clone)]
pub struct Protection {
    /// What expired, by id, as it was, marked.
    pub expired: Arc<BTreeMap<String, v1::Instance>>,
}

impl Protection {
    /// Nothing has changed between the two.
    pub fn is_same(left: Option<&Self>, right: Option<&Self>) -> bool {
        match (left, right) {
            (None, None) => true,
            (Some(left), Some(right)) => Arc::ptr_eq(&left.expired, &right.expired),
            _ => false,
        }
    }
}

type Protected = Arc<BTreeMap<ServiceName, Protection>>;

/// What this member knows of protected services, for those who resolve.
#[derive(Debug)]
pub struct Protections {
    protected: watch::Sender<Protected>,
    /// All that happened up to here was looked at.
    seen: watch::Sender<Revision>,
}

impl Default for Protections {
    fn default() -> Self {
        Self { protected: watch::Sender::default(), seen: watch::Sender::new(Revision::ZERO) }
    }
}

impl Protections {
    /// Of one service.
    pub fn of(&self, service: &ServiceName) -> Option<Protection> {
        self.protected.borrow().get(service).cloned()
    }

    /// Wakes at every change.
    pub fn changes(&self) -> watch::Receiver<Protected> {
        self.protected.subscribe()
    }

    /// Waits until what happened up to a revision was looked at; at most so long.
    pub async fn reached(&self, revision: Revision, patience: Duration) {
        let mut seen = self.seen.subscribe();
        // Late is no harm: what expired is told then.
        let _ = timeout(patience, seen.wait_for(|seen| *seen >= revision)).await;
    }
}

/// An instance that expired.
#[derive(Debug, Clone)]
struct Lost {
    revision: Revision,
    at: Instant,
    /// Read once the service is protected; then `None` is one that could not be.
    document: Option<v1::Instance>,
}

/// What is remembered of a service.
#[derive(Debug, Default)]
struct Trouble {
    lost: BTreeMap<String, Lost>,
    /// Protected until then.
    until: Option<Instant>,
}

/// Watches services until the member stops.
pub async fn run(discovery: Arc<Discovery>) -> Result<(), Infallible> {
    let tasks = discovery.rooms.tasks.clone();
    tokio::select! {
        biased;
        () = tasks.stopped() => {}
        () = follow(&discovery) => {}
    }
    Ok(())
}

async fn follow(discovery: &Discovery) {
    let mut tracker = Tracker { discovery, troubles: BTreeMap::new() };
    loop {
        let mut session = tracker.open();
        loop {
            let due = tracker.due();
            let notice = tokio::select! {
                biased;
                notice = poll_fn(|cx| session.poll_next(cx)) => notice,
                () = due::at(due) => {
                    tracker.look(Instant::now()).await;
                    continue;
                }
            };
            match notice {
                WatchNotice::Created { revision, .. } => tracker.saw(revision),
                WatchNotice::Events { items, .. } => tracker.take(items).await,
                WatchNotice::Mark { .. } | WatchNotice::SessionMark { .. } => {}
                WatchNotice::Ended { over, .. } => {
                    tracing::debug!(?over, "the watch of services ended; it begins anew");
                    break;
                }
            }
        }
        sleep(RETRY_PAUSE).await;
    }
}

struct Tracker<'a> {
    discovery: &'a Discovery,
    troubles: BTreeMap<ServiceName, Trouble>,
}

impl Tracker<'_> {
    fn open(&self) -> Session {
        let mut session = self.discovery.rooms.watches(OnContactLoss::Wait);
        session.create(
            TAG,
            WatchSpec {
                interest: Interest { scope: Scope::Subtree(ROOT.into()), puts: true, deletes: true },
                start: None,
                previous_values: false,
                progress_interval: None,
                min_revision: None,
            },
        );
        session
    }

    fn saw(&self, revision: Revision) {
        self.discovery.protections.seen.send_if_modified(|seen| {
            let newer = revision > *seen;
            if newer {
                *seen = revision;
            }
            newer
        });
    }

    /// When something is over, at the earliest.
    fn due(&self) -> Option<Instant> {
        let of = |trouble: &Trouble| match trouble.until {
            Some(until) => Some(until),
            None => trouble.lost.values().map(|lost| lost.at + WINDOW).min(),
        };
        self.troubles.values().filter_map(of).min()
    }

    async fn take(&mut self, items: Vec<Picked>) {
        let now = Instant::now();
        let mut newest = Revision::ZERO;
        let mut touched = false;
        for picked in items {
            newest = picked.item.revision;
            for change in picked.changes.iter().filter_map(|at| picked.item.changes.get(*at as usize)) {
                let Some(Place::Instance(service, id)) = place(&change.key) else { continue };
                if change.kind == (ChangeKind::Delete { lease_ended: true }) {
                    let lost = &mut self.troubles.entry(service).or_default().lost;
                    if lost.len() < LOST_MAX {
                        lost.insert(id.to_owned(), Lost { revision: newest, at: now, document: None });
                    }
                    touched = true;
                } else if let Some(trouble) = self.troubles.get_mut(&service) {
                    trouble.lost.remove(id);
                    touched = true;
                }
            }
        }
        if touched || !self.troubles.is_empty() {
            self.look(now).await;
        }
        self.saw(newest);
    }

    /// Decides anew for all services that lost something.
    async fn look(&mut self, now: Instant) {
        let services: Vec<ServiceName> = self.troubles.keys().cloned().collect();
        for service in services {
            let reader = service.clone();
            let read = self.discovery.rooms.read(Weight::Light, move |view| counted(view, &reader)).await;
            let Ok((alive, settings)) = read else { continue };
            let Some(trouble) = self.troubles.get_mut(&service) else { continue };
            if !trouble.stands(alive, settings, now) {
                self.troubles.remove(&service);
                continue;
            }
            if trouble.until.is_some() {
                self.remember(&service).await;
            }
        }
        self.publish();
    }

    /// Reads what was not read yet of the instances that expired.
    async fn remember(&mut self, service: &ServiceName) {
        let Some(trouble) = self.troubles.get_mut(service) else { return };
        let unread = trouble.lost.iter().filter(|(_, lost)| lost.document.is_none());
        let unread: Vec<(String, Revision)> = unread.map(|(id, lost)| (id.clone(), lost.revision)).collect();
        if unread.is_empty() {
            return;
        }
        let reader = service.clone();
        let read = self.discovery.rooms.read(Weight::Heavy, move |view| {
            let read = unread.iter().map(|(id, revision)| Ok((before(view, &reader, id, *revision)?, id.clone())));
            read.collect::<Result<Vec<_>, ReadError>>()
        });
        for (document, id) in read.await.unwrap_or_default() {
            match document {
                Some(document) => {
                    if let Some(lost) = trouble.lost.get_mut(&id) {
                        lost.document = Some(document);
                    }
                }
                // Compacted, or never readable: there is nothing to list.
                None => drop(trouble.lost.remove(&id)),
            }
        }
    }

    fn publish(&self) {
        self.discovery.protections.protected.send_if_modified(|protected| {
            let mut new = BTreeMap::new();
            for (service, trouble) in self.troubles.iter().filter(|(_, trouble)| trouble.until.is_some()) {
                let told = protected.get(service);
                let lost = trouble.lost.iter().filter_map(|(id, lost)| Some((id, lost.document.as_ref()?)));
                let same = told.is_some_and(|told| {
                    told.expired.len() == lost.clone().count()
                        && lost.clone().zip(told.expired.iter()).all(|((id, _), (other, _))| id == other)
                });
                let protection = match told {
                    Some(told) if same => told.clone(),
                    _ => {
                        let expired = lost.map(|(id, document)| (id.clone(), document.clone())).collect();
                        Protection { expired: Arc::new(expired) }
                    }
                };
                new.insert(service.clone(), protection);
            }
            let changed = new.len() != protected.len()
                || new
                    .iter()
                    .any(|(service, protection)| !Protection::is_same(Some(protection), protected.get(service)));
            if changed {
                *protected = Arc::new(new);
            }
            changed
        });
    }
}

impl Trouble {
    /// Decides whether the service is protected; false: there is nothing more to remember.
    fn stands(&mut self, alive: u64, settings: ServiceSettings, now: Instant) -> bool {
        if self.until.is_some_and(|until| until <= now) {
            return false;
        }
        if self.until.is_none() {
            self.lost.retain(|_, lost| lost.at + WINDOW > now);
        }
        let is_protected = suspicious(self.lost.len(), alive, settings.protect_share);
        match (is_protected, self.until) {
            (true, None) => self.until = Some(now + Duration::from_secs(settings.protect_for_s)),
            (false, Some(_)) => return false,
            _ => {}
        }
        !self.lost.is_empty()
    }
}

/// Whether so many cannot have gone at once.
fn suspicious(lost: usize, alive: u64, share: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let (gone, all) = (lost as f64, lost as f64 + alive as f64);
    lost >= LOST_MIN && gone > share * all
}

fn counted(view: &StoreView<'_>, service: &ServiceName) -> Result<(u64, ServiceSettings), ReadError> {
    let directory = view.stat(service.directory().as_bytes())?.directory;
    Ok((directory.map_or(0, |directory| directory.children), settings(view, service)?))
}

/// An instance as it stood before a revision; `None`: that is compacted, or there was none.
fn before(
    view: &StoreView<'_>,
    service: &ServiceName,
    id: &str,
    revision: Revision,
) -> Result<Option<v1::Instance>, ReadError> {
    let Ok(key) = quorate_proto::Key::new(format!("{}/{id}", service.directory())) else { return Ok(None) };
    let kv = match view.get(&key, Some(Revision(revision.get() - 1))) {
        Err(ReadError::Compacted { .. }) => None,
        read => read?,
    };
    let found = kv.and_then(|kv| instance::at(&kv.key, &kv.value, kv.meta));
    Ok(found.map(|found| v1::Instance { expired: true, ..found }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_loses_a_few_or_the_smaller_part_is_not_protected() {
        assert!(!suspicious(1, 1, 0.5), "one of two");
        assert!(!suspicious(2, 0, 0.5), "both of two");
        assert!(suspicious(3, 0, 0.5) && suspicious(3, 1, 0.5), "three of three, three of four");
        assert!(!suspicious(5, 5, 0.5) && suspicious(6, 5, 0.5), "more than half");
        assert!(!suspicious(100, 0, 1.0), "a share of 1 is never exceeded");
    }

    #[test]
    fn what_expired_long_ago_counts_no_more_unless_the_service_is_protected() {
        let settings = ServiceSettings { protect_for_s: 60, ..ServiceSettings::default() };
        let began = Instant::now();
        let lost = |count: usize, at| {
            (0..count).map(move |id| (format!("{id}"), Lost { revision: Revision(5), at, document: None }))
        };
        let mut slow = Trouble { lost: lost(2, began).collect(), until: None };
        slow.lost.insert("late".to_owned(), Lost { revision: Revision(9), at: began + WINDOW, document: None });
        assert!(slow.stands(0, settings, began + WINDOW) && slow.until.is_none(), "never three at once");
        assert_eq!(slow.lost.len(), 1);
        let mut quick = Trouble { lost: lost(3, began).collect(), until: None };
        assert!(quick.stands(1, settings, began) && quick.until.is_some());
        assert!(quick.stands(1, settings, began + Duration::from_secs(59)), "they are remembered while it lasts");
        quick.lost.pop_first();
        assert!(!quick.stands(2, settings, began + Duration::from_secs(59)), "enough are back");
        let mut over = Trouble { lost: lost(3, began).collect(), until: None };
        assert!(over.stands(1, settings, began));
        assert!(!over.stands(1, settings, began + Duration::from_mins(1)), "its time is over");
    }
}
