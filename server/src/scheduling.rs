//! How the kernel schedules a thread of ours.
//!
//! Invariants:
//! - Nothing depends on it but speed: where it is not allowed or not known, the thread runs as all others do.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

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

/// Of a thread's time, the part in which it could run and waited for a processor, in thousandths: from so much on there
/// are too few processors for what is to be done.
const SHORT_PER_MILLE: u64 = 150;
/// A look counts for one part of so many of what is believed.
const LOOKS: u64 = 8;

/// How long a thread waits for a processor while it could run, by the kernel's own count (`schedstat`, see proc(5)).
#[derive(Debug, Default)]
pub struct Contention {
    counted: Option<File>,
    last: Option<(Instant, Duration)>,
    share_per_mille: u64,
}

impl Contention {
    /// Of the thread that calls this. Where the kernel does not count, processors are never short.
    pub fn of_this_thread() -> Self {
        Self { counted: File::open("/proc/thread-self/schedstat").ok(), ..Self::default() }
    }

    /// Looks, and says whether processors have been short lately. Takes some microseconds.
    pub fn processors_are_short(&mut self) -> bool {
        let mut text = [0; 64];
        let read = self.counted.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let Some(waited) = read.and_then(|length| waited_in(text.get(..length)?)) else { return false };
        let now = Instant::now();
        if let Some((before, waited_before)) = self.last.replace((now, waited)) {
            let passed = now.duration_since(before).as_micros().max(1);
            let waited = waited.saturating_sub(waited_before).as_micros().min(passed);
            let share = u64::try_from(waited * 1000 / passed).unwrap_or(1000);
            self.share_per_mille = (self.share_per_mille * (LOOKS - 1) + share) / LOOKS;
        }
        self.share_per_mille >= SHORT_PER_MILLE
    }
}

/// The second of its three numbers: nanoseconds.
fn waited_in(schedstat: &[u8]) -> Option<Duration> {
    let second = std::str::from_utf8(schedstat).ok()?.split_ascii_whitespace().nth(1)?;
    second.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn the_kernels_count_is_read() {
        assert_eq!(waited_in(b"6161000 2029 17\n"), Some(Duration::from_nanos(2029)));
        assert_eq!(waited_in(b"0 0 0\n"), Some(Duration::ZERO));
        for other in [&b""[..], b"6161000", b"6161000 \n", b"6161000 -1 17\n", b"\xff 1 2"] {
            assert_eq!(waited_in(other), None);
        }
    }

    #[test]
    fn processors_are_short_while_more_threads_want_them_than_there_are() {
        let mut here = Contention::of_this_thread();
        let over = AtomicBool::new(false);
        let turn = || {
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let threads = 3 * std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(turn);
            }
            // How the kernel shares them out over a moment is its own affair.
            let seen = (0..10_000).any(|_| {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_millis(1) {
                    std::hint::spin_loop();
                }
                here.processors_are_short()
            });
            over.store(true, Ordering::Relaxed);
            assert!(seen, "{here:?}");
        });
    }

    #[test]
    fn without_a_count_they_never_are() {
        assert!(!Contention::default().processors_are_short());
    }

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
