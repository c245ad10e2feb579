//! Watching a service: what there is, then each change.
//!
//! It is a watch of the service's keys. What was told is remembered by id, so that only those are taken back that were
//! told. Who goes on after a revision is given the difference to what stood there then.
//!
//! Invariants:
//! - The revision of an update says that everything up to it was told; going on after it misses nothing.
//! - An instance that came back is never taken back because its earlier life is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;

use quorate_proto::{Key, Revision, v1};
use quorate_state::outcome::{Change, ChangeKind};
use quorate_state::view::ReadError;
use tokio::time::Instant;

use super::Discovery;
use super::error::DiscoveryError;
use super::names::{Place, ServiceName, place};
use super::protection::Protection;
use super::resolve::{Filter, Resolved};
use crate::api::{Trouble, Weight};
use crate::sync::watch;
use crate::watch::{Interest, OnContactLoss, Picked, Scope, Session, WatchNotice, WatchOver, WatchSpec};

const TAG: u64 = 1;

/// What has changed.
#[derive(Debug, Default, PartialEq)]
pub struct Update {
    /// Everything up to here is told.
    pub revision: Revision,
    /// `changed` is all there is.
    pub snapshot: bool,
    /// New or different, by id.
    pub changed: BTreeMap<String, v1::Instance>,
    /// No longer there, or no longer wanted.
    pub removed: BTreeSet<String>,
    /// Expired ones stay.
    pub protected: bool,
}

/// What was told of an instance.
#[derive(Debug, Clone, Copy)]
struct Told {
    mod_revision: i64,
    expired: bool,
}

/// A watch of a service.
pub struct Watching {
    discovery: Arc<Discovery>,
    filter: Filter,
    session: Session,
    told: BTreeMap<String, Told>,
    protection: Option<Protection>,
    protections: watch::Receiver<Arc<BTreeMap<ServiceName, Protection>>>,
    revision: Revision,
    /// To be given out next.
    first: Option<Update>,
}

impl Discovery {
    /// Watches a service, on the runtime that this is called on. `after`: goes on there, if it can.
    pub async fn watch(
        self: &Arc<Self>,
        filter: Filter,
        after: Option<Revision>,
        deadline: Instant,
    ) -> Result<Watching, DiscoveryError> {
        let protections = self.protections.changes();
        self.barrier(deadline).await?;
        let session = self.rooms.watches(OnContactLoss::End);
        let mut watching = Watching {
            discovery: Arc::clone(self),
            filter,
            session,
            told: BTreeMap::new(),
            protection: None,
            protections,
            revision: Revision::ZERO,
            first: None,
        };
        match after {
            Some(after) => match self.standing(&watching.filter, Some(after)).await {
                Ok((resolved, _)) => watching.go_on(resolved).await?,
                Err(error) if is_compacted(&error) => watching.begin().await?,
                Err(error) => return Err(error),
            },
            None => watching.begin().await?,
        }
        Ok(watching)
    }
}

impl Watching {
    /// The next update. Waits for it.
    pub async fn next(&mut self) -> Result<Update, DiscoveryError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            let notice = tokio::select! {
                biased;
                notice = poll_fn(|cx| self.session.poll_next(cx)) => notice,
                // The sender lives in the discovery.
                _ = self.protections.changed() => {
                    if let Some(update) = self.protection_changed().await? {
                        return Ok(update);
                    }
                    continue;
                }
            };
            match notice {
                WatchNotice::Events { items, .. } => {
                    if let Some(update) = self.events(items).await? {
                        return Ok(update);
                    }
                }
                WatchNotice::Ended { over: WatchOver::Compacted { .. }, .. } => {
                    self.begin().await?;
                    return Ok(self.first.take().unwrap_or_default());
                }
                WatchNotice::Ended { over: WatchOver::Unavailable(reason), .. } => {
                    return Err(DiscoveryError::Unavailable(reason));
                }
                WatchNotice::Ended { over: WatchOver::Cancelled, .. }
                | WatchNotice::Created { .. }
                | WatchNotice::Mark { .. }
                | WatchNotice::SessionMark { .. } => {}
            }
        }
    }

    /// Begins with all there is.
    async fn begin(&mut self) -> Result<(), DiscoveryError> {
        let (mut resolved, changed) = self.discovery.standing(&self.filter, None).await?;
        self.protection = self.discovery.protection(&self.filter.service, changed).await;
        if let Some(protection) = &self.protection {
            resolved.add(protection, &self.filter);
        }
        self.told = told(&resolved);
        self.watch_after(resolved.revision);
        let changed = resolved.instances.into_iter().map(|instance| (instance.id.clone(), instance)).collect();
        let update = Update { snapshot: true, changed, ..self.update() };
        self.first = Some(update);
        Ok(())
    }

    /// Goes on from what stood there.
    async fn go_on(&mut self, resolved: Resolved) -> Result<(), DiscoveryError> {
        self.told = told(&resolved);
        self.watch_after(resolved.revision);
        let update = self.protection_changed().await?;
        self.first = Some(update.unwrap_or_else(|| self.update()));
        Ok(())
    }

    fn watch_after(&mut self, revision: Revision) {
        self.revision = revision;
        self.session.create(
            TAG,
            WatchSpec {
                interest: Interest {
                    scope: Scope::Subtree(self.filter.service.directory().into()),
                    puts: true,
                    deletes: true,
                },
                start: Some(revision.next()),
                previous_values: false,
                progress_interval: None,
                min_revision: None,
            },
        );
    }

    fn update(&self) -> Update {
        Update { revision: self.revision, protected: self.protection.is_some(), ..Update::default() }
    }

    async fn events(&mut self, items: Vec<Picked>) -> Result<Option<Update>, DiscoveryError> {
        let before = self.protection.clone();
        let expired_at = items.iter().rev().find(|picked| changes(picked).any(is_expiry));
        if let Some(revision) = expired_at.map(|picked| picked.item.revision) {
            // Whether they are to stay is known when this member has looked at it.
            self.protection = self.discovery.protection(&self.filter.service, revision).await;
        }
        let mut update = self.update();
        for picked in &items {
            self.revision = picked.item.revision;
            for change in changes(picked) {
                self.event(change, &mut update);
            }
        }
        update.revision = self.revision;
        let differs = !Protection::is_same(before.as_ref(), self.protection.as_ref());
        if differs {
            self.tell_protection(&mut update).await?;
        }
        Ok((differs || !update.changed.is_empty() || !update.removed.is_empty()).then_some(update))
    }

    fn event(&mut self, change: &Change, update: &mut Update) {
        let Some(Place::Instance(_, id)) = place(&change.key) else { return };
        let now = match &change.kind {
            ChangeKind::Put { meta, value } => self.discovery.known.at(&change.key, value, *meta),
            ChangeKind::Delete { .. } => self.expired(id).map(Arc::new),
        };
        let mod_revision = match &change.kind {
            ChangeKind::Put { meta, .. } => meta.mod_revision.get(),
            ChangeKind::Delete { .. } => change.previous.get(),
        };
        let Some(instance) = now.filter(|instance| self.filter.wants(instance)) else {
            update.changed.remove(id);
            if self.told.remove(id).is_some() {
                update.removed.insert(id.to_owned());
            }
            return;
        };
        update.removed.remove(id);
        let told = Told { mod_revision, expired: instance.expired };
        let before = self.told.insert(id.to_owned(), told);
        // Its end may have been told before this event came.
        if !(instance.expired && before.is_some_and(|before| before.expired)) {
            update.changed.insert(id.to_owned(), Arc::unwrap_or_clone(instance));
        }
    }

    fn expired(&self, id: &str) -> Option<v1::Instance> {
        self.protection.as_ref()?.expired.get(id).cloned()
    }

    /// What follows from a change of the protection.
    async fn protection_changed(&mut self) -> Result<Option<Update>, DiscoveryError> {
        let now = self.protections.borrow_and_update().get(&self.filter.service).cloned();
        if Protection::is_same(now.as_ref(), self.protection.as_ref()) {
            return Ok(None);
        }
        self.protection = now;
        let mut update = self.update();
        self.tell_protection(&mut update).await?;
        Ok(Some(update))
    }

    /// Tells of all that is listed as expired and was not told so, and takes back what is no longer.
    async fn tell_protection(&mut self, update: &mut Update) -> Result<(), DiscoveryError> {
        for (id, instance) in self.protection.iter().flat_map(|protection| protection.expired.iter()) {
            let told = self.told.get(id);
            // Told already, or a later life of it is.
            let known = told.is_some_and(|told| told.expired || told.mod_revision > instance.mod_revision);
            if !known && self.filter.wants(instance) {
                update.removed.remove(id);
                update.changed.insert(id.clone(), instance.clone());
            }
        }
        for (id, instance) in update.changed.iter().filter(|(_, instance)| instance.expired) {
            self.told.insert(id.clone(), Told { mod_revision: instance.mod_revision, expired: true });
        }
        for id in self.forgotten().await? {
            self.told.remove(&id);
            update.changed.remove(&id);
            update.removed.insert(id);
        }
        Ok(())
    }

    /// Those that were told as expired, are no longer, and are not back.
    async fn forgotten(&self) -> Result<Vec<String>, DiscoveryError> {
        let expired = self.told.iter().filter(|(id, told)| told.expired && self.expired(id).is_none());
        let ids: Vec<String> = expired.map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        let directory = self.filter.service.directory();
        let read = self.discovery.rooms.read(Weight::Heavy, move |view| {
            let mut gone = Vec::new();
            for id in &ids {
                // Of one that is back, an event tells.
                let key = Key::new(format!("{directory}/{id}"));
                if key.map_or(Ok(true), |key| Ok::<_, ReadError>(view.get(&key, None)?.is_none()))? {
                    gone.push(id.clone());
                }
            }
            Ok(gone)
        });
        Ok(read.await?)
    }
}

fn told(resolved: &Resolved) -> BTreeMap<String, Told> {
    let told = |instance: &v1::Instance| Told { mod_revision: instance.mod_revision, expired: instance.expired };
    resolved.instances.iter().map(|instance| (instance.id.clone(), told(instance))).collect()
}

fn changes(picked: &Picked) -> impl Iterator<Item = &Change> {
    picked.changes.iter().filter_map(|at| picked.item.changes.get(*at as usize))
}

fn is_expiry(change: &Change) -> bool {
    change.kind == ChangeKind::Delete { lease_ended: true }
}

fn is_compacted(error: &DiscoveryError) -> bool {
    matches!(error, DiscoveryError::Trouble(Trouble::Unreadable(ReadError::Compacted { .. })))
}
