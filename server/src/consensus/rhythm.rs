//! Whether the next append is likely to follow soon after word of a commit: so it is with a caller that writes one thing
//! after the other. It is learnt from what came before.
//!
//! Invariants:
//! - Proof is that appends came soon more often than not. Each mistake asks for twice as much, until one of those who relied
//!   upon it was right: so whoever waits for the word itself before it writes again is held up rarely.

use std::time::Duration;

use tokio::time::Instant;

/// The next append came soon.
const SOON: Duration = Duration::from_micros(1_500);
/// How much proof is asked for, at first and after many mistakes.
const PROOF_MIN: u32 = 8;
const PROOF_MAX: u32 = 1024;
/// How much more of it is kept in store.
const SURPLUS_MAX: u32 = 8;
/// What an append that did not come soon takes of it.
const LATE: u32 = 2;

/// What was learnt of one follower's appends.
#[derive(Debug)]
pub struct Rhythm {
    /// When there was word of a commit that no append has followed, and whether it was relied upon that one would.
    committed: Option<(Instant, bool)>,
    proof: u32,
    asked: u32,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { committed: None, proof: 0, asked: PROOF_MIN }
    }
}

impl Rhythm {
    /// There is word of a commit. Whether to rely on an append that follows soon.
    pub fn committed(&mut self) -> bool {
        let relied = self.proof >= self.asked;
        self.committed = Some((Instant::now(), relied));
        relied
    }

    /// An append follows.
    pub fn appended(&mut self) {
        let Some((committed, relied)) = self.committed.take() else { return };
        if committed.elapsed() > SOON {
            self.proof = self.proof.saturating_sub(LATE);
            return;
        }
        if relied {
            self.asked = PROOF_MIN;
        }
        self.proof = (self.proof + 1).min(self.asked + SURPLUS_MAX);
    }

    /// None has followed for too long.
    pub fn mistaken(&mut self) {
        if self.committed.take().is_some_and(|(_, relied)| relied) {
            self.asked = (self.asked * 2).min(PROOF_MAX);
            self.proof /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many commits, each followed by an append after so long. Whether the last one was relied upon.
    async fn rounds(rhythm: &mut Rhythm, rounds: u32, gap: Duration) -> bool {
        let mut relied = false;
        for _ in 0..rounds {
            relied = rhythm.committed();
            tokio::time::advance(gap).await;
            rhythm.appended();
        }
        relied
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_relied_upon_after_some_proof_and_no_more_after_late_ones() {
        let mut rhythm = Rhythm::default();
        assert!(!rounds(&mut rhythm, PROOF_MIN, SOON).await);
        rhythm.appended();
        assert!(rounds(&mut rhythm, 1, SOON).await, "an append that follows no commit is neither");
        assert!(rounds(&mut rhythm, 1, SOON * 2).await);
        assert!(!rounds(&mut rhythm, 1, SOON * 2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_one_now_and_then_does_not_matter() {
        let mut rhythm = Rhythm::default();
        for _ in 0..100 {
            rounds(&mut rhythm, 4, SOON).await;
            rounds(&mut rhythm, 1, SOON * 2).await;
        }
        assert!(rounds(&mut rhythm, 1, SOON).await);
    }

    /// So it is when whoever writes next waits for this word.
    #[tokio::test(start_paused = true)]
    async fn mistakes_alone_become_rare() {
        let (mut rhythm, mut mistakes) = (Rhythm::default(), 0);
        for _ in 0..10_000 {
            if rhythm.committed() {
                rhythm.mistaken();
                mistakes += 1;
            } else {
                rhythm.appended();
            }
        }
        assert!((8..=32).contains(&mistakes), "{mistakes}");
        // From then on they are right.
        rounds(&mut rhythm, PROOF_MAX, Duration::ZERO).await;
        assert!(rhythm.committed());
        rhythm.mistaken();
        assert!(!rounds(&mut rhythm, 1, Duration::ZERO).await);
        assert!(rounds(&mut rhythm, 2 * PROOF_MIN, Duration::ZERO).await, "a mistake counts little");
    }
}
