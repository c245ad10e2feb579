//! Waits for other threads without being woken by each of them.
//!
//! A call waits for Raft's thread or for apply. Both answer many callers at a time, and each wake of a task of another
//! runtime is a system call. So what a call waits for is polled with a waker that puts the call on the list of its
//! runtime's pump (`pump`): one system call for all that are answered together, and all their answers leave in one write.
//!
//! Invariants:
//! - A call is on the list at most once. What wakes it after it was taken off the list puts it there again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures::task::AtomicWaker;

use crate::pump::{Pump, Wakes};

/// Runs `future` on the runtime of the pump, where this must be called. Dropping it drops the future.
pub async fn relayed<T>(pump: Arc<Pump>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let relay = Arc::new(Relay { pump, listed: AtomicBool::new(false), task: AtomicWaker::new() });
    let waker = Waker::from(Arc::clone(&relay));
    std::future::poll_fn(|cx| {
        // Before the future is polled: a wake after that must find the task.
        relay.task.register(cx.waker());
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

struct Relay {
    pump: Arc<Pump>,
    listed: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.pump.add(Arc::clone(self) as Arc<dyn Wakes>);
        }
    }
}

impl Wakes for Relay {
    fn wake_task(&self) {
        // First: whoever wakes it from now on may not have been seen by the poll that follows.
        self.listed.store(false, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::pump::Pumps;
    use crate::tasks::Tasks;

    #[tokio::test]
    async fn what_other_threads_answer_arrives_all_of_it() {
        let (tasks, pumps) = (Tasks::default(), Pumps::default());
        for _ in 0..50 {
            let (senders, answers): (Vec<_>, Vec<_>) = (0..64).map(|_| oneshot::channel()).unzip();
            let calls = answers.into_iter().map(|answer| tokio::spawn(relayed(pumps.here(&tasks), answer)));
            let calls: Vec<_> = calls.collect();
            let thread = std::thread::spawn(move || {
                senders.into_iter().enumerate().for_each(|(n, sender)| sender.send(n).expect("the call waits"));
            });
            for (n, call) in calls.into_iter().enumerate() {
                let answer = tokio::time::timeout(Duration::from_secs(30), call).await.expect("it is woken");
                assert_eq!(answer.expect("it ends"), Ok(n));
            }
            thread.join().expect("the thread ends");
        }
        tasks.stop();
        tasks.ended().await;
    }

    /// Whoever still waits then is told that the member stops: by a wake that no pump passes on any more.
    #[tokio::test]
    async fn what_is_answered_after_the_member_stopped_arrives() {
        let (tasks, pumps) = (Tasks::default(), Pumps::default());
        let (sender, answer) = oneshot::channel();
        let call = tokio::spawn(relayed(pumps.here(&tasks), answer));
        tokio::task::yield_now().await;
        tasks.stop();
        tasks.ended().await;
        std::thread::spawn(move || sender.send(7)).join().expect("it ends").expect("the call waits");
        let answer = tokio::time::timeout(Duration::from_secs(30), call).await.expect("it is woken");
        assert_eq!(answer.expect("it ends"), Ok(7));
    }

    #[tokio::test]
    async fn a_future_that_is_woken_again_and_again_is_polled_each_time() {
        let (tasks, pumps) = (Tasks::default(), Pumps::default());
        let (sender, mut numbers) = tokio::sync::mpsc::channel(1);
        let thread = std::thread::spawn(move || (0..1000).for_each(|n| sender.blocking_send(n).expect("it is read")));
        let all = relayed(pumps.here(&tasks), async {
            let mut sum = 0;
            while let Some(n) = numbers.recv().await {
                sum += n;
                tokio::task::yield_now().await;
            }
            sum
        });
        let sum = tokio::time::timeout(Duration::from_secs(30), all).await.expect("it is woken");
        assert_eq!(sum, 999 * 1000 / 2);
        thread.join().expect("the thread ends");
        tasks.stop();
        tasks.ended().await;
    }
}
