//! How the kernel schedules a thread of ours.
//!
//! Invariants:
//! - Nothing depends on it but speed: where it is not allowed or not known, the thread runs as all others do.

use rustix::process::getpriority_process;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Niceness 0 in the library's own measure, of 0 to 99.
const NICENESS_ZERO: u8 = 48;

/// Lets whoever wakes this thread go on first, where both are on one core (`SCHED_BATCH`, see sched(7)). A leader's Raft
/// wakes the writer of the log, and would send the same entries to the followers only when that has slept again.
pub fn let_the_waker_go_on() {
    // The library sets the niceness, too: another than the usual one is somebody's choice, and stays.
    if !getpriority_process(None).is_ok_and(|niceness| niceness == 0) {
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
    use thread_priority::thread_schedule_policy;

    use super::*;

    #[test]
    fn the_thread_is_told_apart_and_keeps_its_niceness() {
        let apart = std::thread::spawn(|| {
            let before = getpriority_process(None).unwrap();
            let_the_waker_go_on();
            (before, getpriority_process(None).unwrap(), thread_schedule_policy().unwrap())
        });
        let (before, after, policy) = apart.join().unwrap();
        assert_eq!(before, after);
        if before == 0 {
            assert_eq!(policy, ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch));
        }
        let here = thread_schedule_policy().unwrap();
        assert_eq!(here, ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other), "no other thread is meant");
    }
}
