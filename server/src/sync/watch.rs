//! A value, and those who wait for it to change. It has the shape of tokio's channel of the same name, which wakes its
//! receivers in random order; this one wakes them in the order in which they began to wait.
//!
//! Invariants:
//! - A change is noted before those who wait are taken from the list, and who joins the list looks once more under its
//!   lock: nobody waits for a change that has happened.
//! - A value and its number belong together: both change under the value's lock.
//! - A borrowed value keeps senders out: never hold one across an await, nor borrow twice.
//! - A task that asks again and again for what it is told at once (nobody is left who could change it) lets others run
//!   in between, as tokio's channels do.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures::Stream;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::task::coop::cooperative;

/// A value that is looked at.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

/// Why a receiver waits in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody is left who could change the value")]
pub struct Closed;

/// Why a value was not sent: nobody receives. It is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unheard<T>(pub T);

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value, and waits for changes that it has not seen.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    /// How often it has changed.
    number: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_ticket: BTreeMap<u64, Waker>,
}

/// A channel that holds `value` at first, which the receiver has seen.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Sender<T> {
    /// A channel without receivers yet.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            number: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            waiting: Mutex::default(),
        }))
    }

    /// A receiver that has seen the value of now.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::Relaxed);
        // Under the lock, or a change could be taken for seen.
        let _value = self.0.value.read();
        Receiver { shared: Arc::clone(&self.0), seen: self.0.number() }
    }

    /// Changes the value; gives it back when there is no receiver.
    pub fn send(&self, value: T) -> Result<(), Unheard<T>> {
        if self.0.receivers.load(Ordering::Relaxed) == 0 {
            return Err(Unheard(value));
        }
        self.send_replace(value);
        Ok(())
    }

    /// Changes the value, received or not; the one before it.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|held| std::mem::swap(held, &mut value));
        value
    }

    /// Changes the value in place.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Changes the value in place; nobody is told when `modify` says that nothing changed.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = {
            let mut value = self.0.value.write();
            let modified = modify(&mut value);
            if modified {
                self.0.number.fetch_add(1, Ordering::Release);
            }
            modified
        };
        if modified {
            self.0.wake_all();
        }
        modified
    }

    /// The value of now.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.value.read())
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake_all();
        }
    }
}

impl<T> Receiver<T> {
    /// The value of now; it counts as seen only if it was.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.value.read())
    }

    /// The value of now, seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.value.read();
        self.seen = self.shared.number();
        Ref(value)
    }

    /// Waits until there is a value that was not seen, and takes it for seen. Safe to cancel.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        cooperative(Changed::of(&self.shared, &mut self.seen)).await
    }

    /// Waits for a value that is wanted, and sees all until then. Safe to cancel.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        loop {
            {
                let value = self.shared.value.read();
                self.seen = self.shared.number();
                if wanted(&value) {
                    return Ok(Ref(value));
                }
            }
            cooperative(Changed::of(&self.shared, &mut self.seen)).await?;
        }
    }

    /// The values that are not seen yet, as they come; those that are replaced at once are passed over.
    pub fn into_changes(self) -> impl Stream<Item = T> + Send + Sync + use<T>
    where
        T: Clone + Send + Sync + 'static,
    {
        futures::stream::unfold(self, async |mut receiver| {
            receiver.changed().await.ok()?;
            let value = receiver.borrow_and_update().clone();
            Some((value, receiver))
        })
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> Shared<T> {
    fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Whether there is something new, or never will be.
    fn news(&self, seen: &mut u64) -> Option<Result<(), Closed>> {
        let closed = self.senders.load(Ordering::Acquire) == 0;
        let number = self.number();
        if number != *seen {
            *seen = number;
            return Some(Ok(()));
        }
        closed.then_some(Err(Closed))
    }

    fn wake_all(&self) {
        let waiting = std::mem::take(&mut self.waiting.lock().by_ticket);
        for waker in waiting.into_values() {
            waker.wake();
        }
    }
}

/// Waits; leaves the list when dropped.
struct Changed<'a, T> {
    shared: &'a Shared<T>,
    seen: &'a mut u64,
    ticket: Option<u64>,
}

impl<'a, T> Changed<'a, T> {
    fn of(shared: &'a Shared<T>, seen: &'a mut u64) -> Self {
        Self { shared, seen, ticket: None }
    }
}

impl<T> Future for Changed<'_, T> {
    type Output = Result<(), Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(news) = this.shared.news(this.seen) {
            return Poll::Ready(news);
        }
        let mut waiting = this.shared.waiting.lock();
        // Whoever changes it now finds this task on the list, or has noted the change before.
        if let Some(news) = this.shared.news(this.seen) {
            return Poll::Ready(news);
        }
        let ticket = this.ticket.unwrap_or(waiting.next);
        if this.ticket.replace(ticket).is_none() {
            waiting.next += 1;
        }
        waiting.by_ticket.entry(ticket).or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
        Poll::Pending
    }
}

impl<T> Drop for Changed<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.waiting.lock().by_ticket.remove(&ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    #[tokio::test]
    async fn who_is_answered_at_once_again_and_again_lets_others_run() {
        let (sender, mut receiver) = channel(0);
        drop(sender);
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let asking = tokio::spawn(async move {
            while counter.fetch_add(1, Ordering::Relaxed) < 1_000_000 {
                assert_eq!(receiver.changed().await, Err(Closed));
            }
        });
        tokio::task::yield_now().await;
        assert!((1..1_000_000).contains(&asked.load(Ordering::Relaxed)), "it ran, and not to its end");
        asking.abort();
    }

    #[tokio::test]
    async fn who_waits_first_is_woken_first() {
        let (sender, receiver) = channel(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        for waiter in 0..50 {
            let (mut receiver, order) = (receiver.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                receiver.changed().await.unwrap();
                order.lock().push(waiter);
            });
        }
        tokio::task::yield_now().await;
        sender.send(1).unwrap();
        while order.lock().len() < 50 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_last_of_many_is_the_one_that_is_seen() {
        let (sender, mut receiver) = channel(0);
        assert_eq!(receiver.changed().now_or_never(), None, "the first value is seen");
        sender.send_replace(1);
        assert_eq!(sender.send_replace(2), 1);
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow_and_update(), 2);
        assert_eq!(receiver.changed().now_or_never(), None);
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(receiver.changed().now_or_never(), None);
        assert_eq!(*receiver.wait_for(|value| *value == 2).await.unwrap(), 2, "what is wanted may be seen already");
        assert!(receiver.wait_for(|value| *value == 3).now_or_never().is_none());
        assert!(sender.0.waiting.lock().by_ticket.is_empty(), "who gave up is forgotten");
        assert_eq!(sender.subscribe().changed().now_or_never(), None);
    }

    #[tokio::test]
    async fn the_end_of_all_senders_is_told_after_what_they_sent() {
        let (sender, mut receiver) = channel(0);
        let other = sender.clone();
        drop(sender);
        let waiting = tokio::spawn({
            let mut receiver = receiver.clone();
            async move { receiver.wait_for(|value| *value == 9).await.map(|value| *value) }
        });
        tokio::task::yield_now().await;
        other.send(1).unwrap();
        drop(other);
        assert_eq!(waiting.await.unwrap(), Err(Closed));
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.changed().await, Err(Closed));
        let (sender, receiver) = channel(0);
        drop(receiver);
        assert_eq!(sender.send(7), Err(Unheard(7)));
        assert_eq!(*sender.borrow(), 0, "what nobody receives is not kept");
    }

    #[tokio::test]
    async fn a_stream_of_changes_ends_with_its_senders() {
        let (sender, receiver) = channel(0);
        let mut changes = std::pin::pin!(receiver.into_changes());
        sender.send_replace(1);
        sender.send_replace(2);
        assert_eq!(changes.next().await, Some(2));
        drop(sender);
        assert_eq!(changes.next().await, None);
    }

    /// Threads that wait while another changes the value never miss the last change.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_change_is_missed_between_threads() {
        let (sender, receiver) = channel(0_u64);
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let mut receiver = receiver.clone();
                tokio::spawn(async move { receiver.wait_for(|value| *value == 20_000).await.map(drop) })
            })
            .collect();
        let other = sender.clone();
        let writer = std::thread::spawn(move || (1..=20_000).for_each(|value| _ = other.send_replace(value)));
        let all = futures::future::join_all(waiters);
        assert!(tokio::time::timeout(Duration::from_mins(1), all).await.is_ok(), "someone missed the last change");
        writer.join().unwrap();
    }
}
