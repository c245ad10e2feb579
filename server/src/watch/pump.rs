//! Wakes the sessions of a runtime from within it.
//!
//! Apply publishes on a thread of its own. Waking each session from there costs a system call each; so it puts them on
//! the list of their runtime and wakes that runtime's pump, once, which wakes them where it costs next to nothing. All of
//! them then have their messages ready before their connections write.
//!
//! Invariants:
//! - A session is on the list at most once (see [`Mailbox`]); the pump is woken when the list stops being empty.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::watcher::Mailbox;
use crate::tasks::{Task, Tasks};

/// The pumps of a member, one for each runtime that has sessions.
#[derive(Default)]
pub struct Pumps(Mutex<HashMap<tokio::runtime::Id, Arc<Pump>>>);

impl Pumps {
    /// The pump of the runtime that this is called on; started when it is the first time.
    pub fn here(&self, tasks: &Tasks) -> Arc<Pump> {
        let runtime = Handle::current();
        let mut pumps = self.0.lock();
        let pump = pumps.entry(runtime.id()).or_insert_with(|| {
            let pump = Arc::new(Pump::default());
            tasks.spawn(Task::WatchPump, &runtime, Arc::clone(&pump).run(tasks.clone()));
            pump
        });
        Arc::clone(pump)
    }
}

/// The pump of one runtime.
#[derive(Debug, Default)]
pub struct Pump {
    filled: Mutex<Vec<Arc<Mailbox>>>,
    notify: Notify,
}

impl Pump {
    /// Something is in this mailbox, of a session of this runtime.
    pub(super) fn add(&self, mailbox: Arc<Mailbox>) {
        let is_first = {
            let mut filled = self.filled.lock();
            filled.push(mailbox);
            filled.len() == 1
        };
        if is_first {
            self.notify.notify_one();
        }
    }

    async fn run(self: Arc<Self>, tasks: Tasks) -> Result<(), Infallible> {
        let mut stopped = std::pin::pin!(tasks.stopped());
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                () = self.notify.notified() => {}
            }
            let filled = std::mem::take(&mut *self.filled.lock());
            for mailbox in filled {
                mailbox.wake_session();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_session_is_woken_by_its_runtimes_pump_each_time_its_mailbox_was_empty() {
        let (tasks, pumps) = (Tasks::default(), Pumps::default());
        let mailbox = Arc::new(Mailbox::woken_by(Some(pumps.here(&tasks))));
        assert!(Arc::ptr_eq(&pumps.here(&tasks), &pumps.here(&tasks)), "one for a runtime");
        for round in 0..3 {
            let other = Arc::clone(&mailbox);
            std::thread::spawn(move || [1, 2, 3].map(|tag| other.put(tag))).join().unwrap();
            let mut tags = Vec::new();
            let filled = poll_fn(|cx| {
                mailbox.wakes(cx.waker());
                while let Some(tag) = mailbox.pop() {
                    tags.push(tag);
                }
                if tags.len() < 3 { Poll::Pending } else { Poll::Ready(()) }
            });
            assert!(tokio::time::timeout(Duration::from_secs(10), filled).await.is_ok(), "round {round}");
            assert_eq!(tags, [1, 2, 3]);
        }
        tasks.stop();
        tasks.ended().await;
    }
}
