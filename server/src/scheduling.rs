//! How the kernel schedules a thread of ours.
//!
//! Invariants:
//! - Nothing depends on it but speed: where it is not allowed or not known, the thread runs as all others do.

use rustix::process::getpriority_process;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};

/// Niceness 0 in the library's own measure, of 0 to 99.
const NICENESS_ZERO: u8 = 48;

/// What threads have that nobody has given another.
const USUAL: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);

/// Lets whoever wakes this thread go on first, where both are on one core (`SCHED_BATCH`, see sched(7)). A leader's Raft
/// wakes the writer of the log, and would send the same entries to the followers only when that has slept again.
pub fn let_the_waker_go_on() {
    // Another policy or niceness (which the library sets, too) than the usual one is somebody's choice, and stays.
    let is_usual = thread_schedule_policy().is_ok_and(|policy| policy == USUAL)
        && getpriority_process(None).is_ok_and(|niceness| niceness == 0);
    if !is_usual {
        return;
    }
    let Ok(priority) = ThreadPriorityValue::try_from(NICENESS_ZERO) else { return };
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    if let Err(error) =
        set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(priority), policy)
    {
        tracing::debug!(%error, "the kernel does not let a thread yield to those who wake it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_is_told_apart_and_keeps_its_niceness() {
        let now = || (thread_schedule_policy().unwrap(), getpriority_process(None).unwrap());
        let here = now();
        let apart = std::thread::spawn(move || {
            let_the_waker_go_on();
            now()
        });
        let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        let expected = if here == (USUAL, 0) { (batch, 0) } else { here };
        assert_eq!(apart.join().unwrap(), expected);
        assert_eq!(now(), here, "no other thread is meant");
    }
}
