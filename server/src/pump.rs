//! Wakes the tasks of a door's runtime from within it.
//!
//! Raft answers and apply publishes on threads of their own. Waking a task from there costs a system call each; so those
//! that are to be woken are put on the list of their runtime, and that runtime's pump is woken, once, which wakes them
//! where it costs next to nothing. All of them then have their messages ready before their connections write.
//!
//! Invariants:
//! - Who is on the list sees to it that it is there at most once; the pump is woken when the list stops being empty.
//! - No wake is lost when the member stops: from then on each is passed on at once.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::tasks::{Task, Tasks};

/// What wakes a task when the pump tells it to.
pub trait Wakes: Send + Sync {
    /// Called from within the runtime of the task.
    fn wake_task(&self);
}

/// The pumps of a member, one for each runtime that serves clients.
#[derive(Default)]
pub struct Pumps(Mutex<HashMap<tokio::runtime::Id, Arc<Pump>>>);

impl Pumps {
    /// The pump of the runtime that this is called on; started when it is the first time.
    pub fn here(&self, tasks: &Tasks) -> Arc<Pump> {
        let runtime = Handle::current();
        let mut pumps = self.0.lock();
        let pump = pumps.entry(runtime.id()).or_insert_with(|| {
            let pump = Arc::new(Pump::default());
            tasks.spawn(Task::Pump, &runtime, Arc::clone(&pump).run(tasks.clone()));
            pump
        });
        Arc::clone(pump)
    }
}

/// The pump of one runtime.
#[derive(Default)]
pub struct Pump {
    list: Mutex<List>,
    notify: Notify,
}

#[derive(Default)]
struct List {
    waiting: Vec<Arc<dyn Wakes>>,
    /// The member stops; nobody looks at the list any more.
    ended: bool,
}

impl Pump {
    /// A task of this runtime is to be woken.
    pub fn add(&self, one: Arc<dyn Wakes>) {
        let mut list = self.list.lock();
        if list.ended {
            drop(list);
            return one.wake_task();
        }
        list.waiting.push(one);
        let is_first = list.waiting.len() == 1;
        drop(list);
        if is_first {
            self.notify.notify_one();
        }
    }

    async fn run(self: Arc<Self>, tasks: Tasks) -> Result<(), Infallible> {
        let mut stopped = std::pin::pin!(tasks.stopped());
        loop {
            let goes_on = tokio::select! {
                biased;
                () = &mut stopped => false,
                () = self.notify.notified() => true,
            };
            let waiting = {
                let mut list = self.list.lock();
                list.ended = !goes_on;
                std::mem::take(&mut list.waiting)
            };
            for one in waiting {
                one.wake_task();
            }
            if !goes_on {
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;
    use crate::watch::Mailbox;

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
