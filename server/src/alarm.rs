//! An alarm: lets a task that is woken often pay for what happens seldom only when it has happened.
//!
//! A watch stream waits for events, and besides for requests, for the member's end, for jobs and timers. Polling all of
//! them at each event costs more than the event does. So these are polled with the alarm's own waker, and looked at
//! again only after it rang. A socket that gathers writes learns so, among many wakes, which one is the end of the tick.
//!
//! Invariants:
//! - What rings after a look is seen by the next one; nothing that rang is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use futures::task::AtomicWaker;

/// The alarm of one task.
#[derive(Debug)]
pub struct Alarm {
    rang: AtomicBool,
    task: AtomicWaker,
}

impl Alarm {
    /// One that rings at first, so that everything is polled once.
    pub fn ringing() -> Arc<Self> {
        Arc::new(Self { rang: AtomicBool::new(true), task: AtomicWaker::new() })
    }

    /// One that rings only when it is woken.
    pub fn silent() -> Arc<Self> {
        Arc::new(Self { rang: AtomicBool::new(false), task: AtomicWaker::new() })
    }

    /// If it rang: what to poll with, to be rung again.
    pub fn rang(self: &Arc<Self>) -> Option<Waker> {
        let rang = self.rang.load(Ordering::Relaxed) && self.rang.swap(false, Ordering::AcqRel);
        rang.then(|| Waker::from(Arc::clone(self)))
    }

    /// Has the next look take place, which is to come by itself: wakes nobody.
    pub fn again(&self) {
        self.rang.store(true, Ordering::Release);
    }

    /// From now on the alarm wakes this task. Look once more before waiting.
    pub fn wakes(&self, task: &Waker) {
        self.task.register(task);
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn what_rings_wakes_the_task_and_is_seen_once() {
        assert!(Alarm::silent().rang().is_none());
        let alarm = Alarm::ringing();
        let waker = alarm.rang().expect("everything is polled once");
        assert!(alarm.rang().is_none());
        let ringer = std::thread::spawn(move || waker.wake());
        poll_fn(|cx| {
            alarm.wakes(cx.waker());
            if alarm.rang().is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        ringer.join().unwrap();
        assert!(alarm.rang().is_none());
        alarm.again();
        assert!(alarm.rang().is_some());
    }
}
