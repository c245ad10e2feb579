//! Flaws: bugs that are put in on purpose, one at a time, to see that the simulation finds them. docs/simulation.md has
//! the table.
//!
//! Invariants:
//! - A program without debug assertions has none of them: there [`Flaw::is_put_in`] is `false` when it is compiled, and
//!   nothing can put one in. Every release is such a program.
//! - A flaw is one of its thread's alone. A simulation is one thread; real members, and other simulations, have none.

use crate::codec::keys;
use crate::store::WriteBatch;

/// A bug that can be put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// A write is answered before it is committed.
    AnswersBeforeCommit,
    /// The log says that entries are written before they are.
    AcksBeforeWrite,
    /// A vote is forgotten when the process ends.
    VoteNotSaved,
    /// The log is purged though what it did is not flushed.
    PurgesBeforeFlush,
    /// Entries are applied once more after a restart.
    AppliesAgain,
    /// Half of a snapshot is installed.
    HalfSnapshot,
    /// A removal is answered and not made: the removed member counts in the quorum.
    RemovedCounts,
    /// An entry that was discarded is told as "did not happen".
    DiscardedIsNo,
    /// A failure is told as "did not happen" though an attempt before it may have.
    UnknownIsNo,
    /// Reads need no barrier.
    NoBarrier,
    /// A leader believes in itself, without a round.
    TrustsStaleLeader,
    /// A read joins a barrier that is under way.
    JoinsRound,
    /// Request ids are forgotten by a restart and by a snapshot.
    ForgetsRequestIds,
    /// A watch joins one revision after where it should, at the window's edge.
    WindowEdge,
    /// A watch that read history goes on one revision too late.
    JointGap,
    /// A watch that read history goes on one revision too early.
    JointRepeat,
    /// A transaction is split between messages.
    TornTransaction,
    /// A mark overtakes events.
    EarlyMark,
    /// What is told as the previous value is the new one.
    WrongPrevious,
    /// History is read though it is compacted.
    ServesCompacted,
    /// A lease is renewed though its end is proposed.
    RenewsEnded,
    /// A keep-alive is answered without a round.
    DeposedKeepAlive,
    /// A renewal does not clear the note of a shorter time.
    KeepsNote,
    /// A new leader gives leases half of their time.
    HastyLeader,
    /// A renewed lease never comes due.
    Immortal,
    /// Keys outlive their lease.
    KeyOutlivesLease,
    /// A lock is granted though its contender is gone.
    GrantsToDead,
    /// A clean-up that is late takes back what another attempt holds.
    LateCleanUp,
    /// Two exclusive contenders hold.
    TwoHolders,
    /// A revision is given to two transactions.
    ReusesRevision,
    /// The compares of a transaction do not matter.
    IgnoresCompares,
    /// Members decide differently.
    MembersDiffer,
    /// Compaction takes what can still be read.
    CompactsTooMuch,
    /// A directory does not hear of a deleted child.
    StaleDirectory,
    /// What is held in memory for readers misses some changes.
    StalePicture,
}

#[cfg(debug_assertions)]
thread_local! {
    static PUT_IN: std::cell::Cell<Option<Flaw>> = const { std::cell::Cell::new(None) };
    static ASKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    static REACHED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 35] = [
        Self::AnswersBeforeCommit,
        Self::AcksBeforeWrite,
        Self::VoteNotSaved,
        Self::PurgesBeforeFlush,
        Self::AppliesAgain,
        Self::HalfSnapshot,
        Self::RemovedCounts,
        Self::DiscardedIsNo,
        Self::UnknownIsNo,
        Self::NoBarrier,
        Self::TrustsStaleLeader,
        Self::JoinsRound,
        Self::ForgetsRequestIds,
        Self::WindowEdge,
        Self::JointGap,
        Self::JointRepeat,
        Self::TornTransaction,
        Self::EarlyMark,
        Self::WrongPrevious,
        Self::ServesCompacted,
        Self::RenewsEnded,
        Self::DeposedKeepAlive,
        Self::KeepsNote,
        Self::HastyLeader,
        Self::Immortal,
        Self::KeyOutlivesLease,
        Self::GrantsToDead,
        Self::LateCleanUp,
        Self::TwoHolders,
        Self::ReusesRevision,
        Self::IgnoresCompares,
        Self::MembersDiffer,
        Self::CompactsTooMuch,
        Self::StaleDirectory,
        Self::StalePicture,
    ];

    /// Whether this thread has it.
    #[inline]
    pub fn is_put_in(self) -> bool {
        #[cfg(debug_assertions)]
        {
            let is_put_in = PUT_IN.get() == Some(self);
            if is_put_in {
                REACHED.set(REACHED.get() + 1);
            }
            is_put_in
        }
        #[cfg(not(debug_assertions))]
        {
            false
        }
    }

    /// From now on this thread has this one, or none.
    #[cfg(debug_assertions)]
    pub fn put_in(flaw: Option<Self>) {
        PUT_IN.set(flaw);
        ASKED.set(0);
        REACHED.set(0);
    }

    /// How often this thread came to where its flaw is, since that was put in.
    #[cfg(debug_assertions)]
    pub fn reached() -> u64 {
        REACHED.get()
    }
}

impl Flaw {
    /// True once in so many times that it is asked, where this thread has it.
    pub fn happens(self, one_in: u64) -> bool {
        #[cfg(debug_assertions)]
        return self.is_put_in()
            && ASKED.with(|asked| {
                asked.set(asked.get() + 1);
                asked.get().is_multiple_of(one_in)
            });
        #[cfg(not(debug_assertions))]
        return false && one_in > 0;
    }
}

/// Takes away what a snapshot lacks that is installed only half.
pub fn half_of_a_store() -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.delete_range([keys::table::CURRENT], keys::current(b"/sim/3"));
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "what another thread sees is what is tested")]
    fn a_flaw_is_of_its_thread_alone_and_one_at_a_time() {
        assert!(Flaw::ALL.iter().all(|flaw| !flaw.is_put_in()));
        #[cfg(debug_assertions)]
        {
            Flaw::put_in(Some(Flaw::NoBarrier));
            assert_eq!(Flaw::ALL.iter().filter(|flaw| flaw.is_put_in()).count(), 1);
            let elsewhere = std::thread::spawn(|| Flaw::NoBarrier.is_put_in()).join();
            assert!(!elsewhere.unwrap());
            Flaw::put_in(None);
            assert!(!Flaw::NoBarrier.is_put_in());
        }
    }
}
