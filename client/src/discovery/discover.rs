//! A service's instances as a `tower::discover::Discover`.
//!
//! Invariants:
//! - What was inserted and not removed is what the cluster has; an instance that moved is inserted anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{Stream, StreamExt as _};
use tower::discover::Change;

use super::instance::Instance;
use super::watch::{ServiceChange, ServiceWatch};
use crate::error::Result;

/// A stream of instances that come and go, each with what was made of it: a `tower::discover::Discover`. From
/// [`Service::discover`](crate::Service::discover).
///
/// ```no_run
/// # async fn example(client: quorate::Client) {
/// use futures::StreamExt as _;
/// let mut addresses = client.service("orders").discover(|instance| instance.authority());
/// while let Some(Ok(change)) = addresses.next().await { println!("{change:?}"); }
/// # }
/// ```
#[must_use = "a stream does nothing until polled"]
pub struct ServiceDiscover<S> {
    watch: ServiceWatch,
    make: Box<dyn FnMut(&Instance) -> S + Send>,
    known: BTreeMap<String, String>,
    ready: VecDeque<Change<String, S>>,
}

impl<S> ServiceDiscover<S> {
    pub(super) fn new(watch: ServiceWatch, make: impl FnMut(&Instance) -> S + Send + 'static) -> Self {
        Self { watch, make: Box::new(make), known: BTreeMap::new(), ready: VecDeque::new() }
    }

    fn apply(&mut self, change: ServiceChange) {
        if change.snapshot {
            let there: BTreeSet<&String> = change.changed.iter().map(|instance| &instance.id).collect();
            let gone: Vec<String> = self.known.keys().filter(|id| !there.contains(id)).cloned().collect();
            for id in gone {
                self.remove(id);
            }
        }
        change.removed.into_iter().for_each(|id| self.remove(id));
        for instance in change.changed.iter().filter(|instance| instance.malformed.is_none()) {
            let authority = instance.authority();
            if self.known.insert(instance.id.clone(), authority.clone()) != Some(authority) {
                let made = (self.make)(instance);
                self.ready.push_back(Change::Insert(instance.id.clone(), made));
            }
        }
    }

    fn remove(&mut self, id: String) {
        if self.known.remove(&id).is_some() {
            self.ready.push_back(Change::Remove(id));
        }
    }
}

impl<S> Unpin for ServiceDiscover<S> {}

impl<S> Stream for ServiceDiscover<S> {
    type Item = Result<Change<String, S>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(change)));
            }
            match ready!(self.watch.poll_next_unpin(context)) {
                Some(Ok(change)) => self.apply(change),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<S> std::fmt::Debug for ServiceDiscover<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceDiscover").field("known", &self.known).finish_non_exhaustive()
    }
}
