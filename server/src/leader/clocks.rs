//! The clocks of leases: plain data and arithmetic, no waiting.
//!
//! Time here is *lease time*: the monotonic clock less all lateness noticed so far. When the tick that expires leases
//! runs late (the process was paused, the machine was busy), keep-alives that arrived meanwhile may not have been read
//! yet; adding the lateness to every deadline is then one addition.
//!
//! Invariants:
//! - A lease is never due before its time to live has passed since it was granted, last renewed (as received), or
//!   taken over from another leader.
//! - Each lease stands in the heap of deadlines at most once with its current generation; a renewal moves nothing, the
//!   old place is found to be early when it comes up. Places of ended leases are dropped at the latest when they are
//!   more than half of the heap.
//! - A lease that is being renewed is not due; one that is due is not renewed any more.
//!
//! Example: lease 7 with 10 s is granted at 0 s and renewed at 8 s. The heap has (10 s, 7). At 10 s that place comes
//! up, the deadline is found to be 18 s, and the place becomes (18 s, 7).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use quorate_proto::LeaseId;
use quorate_state::flaw::Flaw;
use tokio::time::Instant;

/// Leases shorter than this are never noted: a new leader starts them afresh.
pub const NOTE_TTL_MIN: Duration = Duration::from_mins(1);
/// The longest time that a lease goes without a note of its remaining time.
const NOTE_AGE_MAX: Duration = Duration::from_mins(5);

/// One heap: (when, which lease, its generation).
type Places = BinaryHeap<Reverse<(Instant, LeaseId, u64)>>;

/// The clocks of all leases.
pub struct Clocks {
    leases: HashMap<LeaseId, Clock>,
    deadlines: Places,
    notes: Places,
    note_ttl_min: Duration,
    late: Duration,
    generations: u64,
}

impl Default for Clocks {
    fn default() -> Self {
        Self::noting_from(NOTE_TTL_MIN)
    }
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and all combinations occur")]
struct Clock {
    generation: u64,
    ttl: Duration,
    /// In lease time.
    deadline: Instant,
    expiring: bool,
    /// Renewals under way.
    renewing: u32,
    /// Came up while it was being renewed; stands in no heap until that is over.
    held: bool,
    /// The log holds, or may hold, a note of the remaining time that binds the next leader.
    noted: bool,
    /// Such a note is being proposed.
    noting: bool,
    /// Of the last renewal or note, in lease time.
    noted_at: Instant,
}

/// Names a renewal that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    lease: LeaseId,
    generation: u64,
    received: Instant,
}

/// What a renewal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// Done; the time to live counts from receipt.
    Done {
        /// In full.
        ttl_ms: u64,
    },
    /// The lease is over, or about to be.
    Gone,
    /// A note is being proposed: wait until it is settled, try again.
    NoteUnsettled,
    /// A note must be cleared first.
    Noted,
}

impl Clocks {
    /// None yet. Leases with a time to live shorter than this are never noted.
    pub fn noting_from(note_ttl_min: Duration) -> Self {
        Self {
            leases: HashMap::new(),
            deadlines: Places::new(),
            notes: Places::new(),
            note_ttl_min,
            late: Duration::ZERO,
            generations: 0,
        }
    }

    /// Starts the clock of a lease, with what it has left if that was noted.
    pub fn start(&mut self, lease: LeaseId, ttl_ms: u64, remaining_ms: Option<u64>, now: Instant) {
        self.generations += 1;
        let (generation, at) = (self.generations, self.lease_time(now));
        let ttl = Duration::from_millis(ttl_ms);
        let left = remaining_ms.map_or(ttl, |left| Duration::from_millis(left).min(ttl));
        let deadline = at + left;
        let clock = Clock {
            generation,
            ttl,
            deadline,
            expiring: false,
            renewing: 0,
            held: false,
            noted: remaining_ms.is_some(),
            noting: false,
            noted_at: at,
        };
        if ttl >= self.note_ttl_min {
            self.notes.push(Reverse((clock.note_due(), lease, generation)));
        }
        self.leases.insert(lease, clock);
        self.deadlines.push(Reverse((deadline, lease, generation)));
    }

    /// The lease is over.
    pub fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let bound = self.leases.len() * 2 + 64;
        for places in [&mut self.deadlines, &mut self.notes] {
            if places.len() > bound {
                let is_current = |place: &Reverse<(Instant, LeaseId, u64)>| {
                    self.leases.get(&place.0.1).is_some_and(|clock| clock.generation == place.0.2)
                };
                places.retain(is_current);
            }
        }
    }

    /// Whether the end of the lease is proposed.
    pub fn is_expiring(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some_and(|clock| clock.expiring)
    }

    /// A note was applied, or cleared.
    pub fn noted(&mut self, lease: LeaseId, noted: bool) {
        if let Some(clock) = self.leases.get_mut(&lease) {
            clock.noted = noted;
        }
    }

    /// `(granted, remaining)` in ms.
    pub fn remaining(&self, lease: LeaseId, now: Instant) -> Option<(u64, u64)> {
        let clock = self.leases.get(&lease)?;
        let left = clock.deadline.saturating_duration_since(self.lease_time(now));
        Some((millis(clock.ttl), millis(left)))
    }

    /// A keep-alive was received. From now until [`Clocks::end_renewal`] the lease does not come due.
    pub fn begin_renewal(&mut self, lease: LeaseId, received: Instant) -> Option<Renewal> {
        let may_be_renewed = |clock: &&mut Clock| !clock.expiring || Flaw::RenewsEnded.is_put_in();
        let clock = self.leases.get_mut(&lease).filter(may_be_renewed)?;
        clock.renewing += 1;
        Some(Renewal { lease, generation: clock.generation, received })
    }

    /// A quorum confirmed the leader after the receipt: renews, if no note stands in the way.
    pub fn renew(&mut self, renewal: Renewal) -> Renewed {
        let received = self.lease_time(renewal.received);
        let Some(clock) = self.current(renewal) else { return Renewed::Gone };
        if clock.expiring && !Flaw::RenewsEnded.is_put_in() {
            return Renewed::Gone;
        }
        if clock.noting {
            return Renewed::NoteUnsettled;
        }
        if clock.noted && !Flaw::KeepsNote.is_put_in() {
            return Renewed::Noted;
        }
        clock.deadline = clock.deadline.max(received + clock.ttl);
        clock.noted_at = clock.noted_at.max(received);
        Renewed::Done { ttl_ms: millis(clock.ttl) }
    }

    /// The entry that clears the note was applied. No note was proposed since the renewal began, so none is left.
    pub fn cleared(&mut self, renewal: Renewal) {
        if let Some(clock) = self.current(renewal) {
            clock.noted = false;
        }
    }

    /// The renewal is answered, or given up. True: the lease may have come due meanwhile.
    pub fn end_renewal(&mut self, renewal: Renewal) -> bool {
        let Some(clock) = self.current(renewal) else { return false };
        clock.renewing -= 1;
        if clock.renewing > 0 || !clock.held {
            return false;
        }
        clock.held = false;
        let place = (clock.deadline, renewal.lease, clock.generation);
        self.deadlines.push(Reverse(place));
        true
    }

    /// The tick ran so late: everybody gets that much longer.
    pub fn ran_late(&mut self, late: Duration) {
        self.late += late;
    }

    /// When to look for due leases next.
    pub fn next_due(&self) -> Option<Instant> {
        self.deadlines.peek().map(|place| place.0.0 + self.late)
    }

    /// Takes up to `count_max` leases whose time is over. From now on they are not renewed.
    pub fn take_due(&mut self, now: Instant, count_max: usize) -> Vec<LeaseId> {
        let at = self.lease_time(now);
        let mut due = Vec::new();
        while due.len() < count_max {
            let Some(&Reverse((place, lease, generation))) = self.deadlines.peek() else { break };
            if place > at {
                break;
            }
            self.deadlines.pop();
            let Some(clock) = self.leases.get_mut(&lease).filter(|clock| clock.generation == generation) else {
                continue;
            };
            if clock.deadline > at {
                if !Flaw::Immortal.is_put_in() {
                    self.deadlines.push(Reverse((clock.deadline, lease, generation)));
                }
            } else if clock.renewing > 0 {
                clock.held = true;
            } else if !clock.expiring {
                clock.expiring = true;
                due.push(lease);
            }
        }
        due
    }

    /// Nothing came of proposing their end, for certain: they may be renewed again, or come due again.
    pub fn not_expired(&mut self, leases: &[LeaseId]) {
        for lease in leases {
            if let Some(clock) = self.leases.get_mut(lease) {
                clock.expiring = false;
                self.deadlines.push(Reverse((clock.deadline, *lease, clock.generation)));
            }
        }
    }

    /// Takes up to `count_max` leases whose remaining time should be noted, with that time in ms. Until
    /// [`Clocks::note_settled`] none of them is renewed.
    pub fn take_notes(&mut self, now: Instant, count_max: usize) -> Vec<(LeaseId, u64)> {
        let at = self.lease_time(now);
        let mut notes = Vec::new();
        let mut again = Vec::new();
        while notes.len() < count_max {
            let Some(&Reverse((place, lease, generation))) = self.notes.peek() else { break };
            if place > at {
                break;
            }
            self.notes.pop();
            let Some(clock) = self.leases.get_mut(&lease).filter(|clock| clock.generation == generation) else {
                continue;
            };
            if clock.note_due() > at {
                self.notes.push(Reverse((clock.note_due(), lease, generation)));
            } else if clock.renewing > 0 || clock.expiring || clock.deadline <= at {
                // It is about to be renewed, or to end.
                again.push(Reverse((at + Duration::from_secs(1), lease, generation)));
            } else {
                clock.noting = true;
                clock.noted_at = at;
                notes.push((lease, millis(clock.deadline - at)));
                again.push(Reverse((clock.note_due(), lease, generation)));
            }
        }
        self.notes.extend(again);
        notes
    }

    /// Proposing the notes came to an end. `maybe`: they stand in the log, or may.
    pub fn note_settled(&mut self, leases: impl IntoIterator<Item = LeaseId>, maybe: bool) {
        for lease in leases {
            if let Some(clock) = self.leases.get_mut(&lease) {
                clock.noting = false;
                clock.noted |= maybe;
            }
        }
    }

    fn current(&mut self, renewal: Renewal) -> Option<&mut Clock> {
        self.leases.get_mut(&renewal.lease).filter(|clock| clock.generation == renewal.generation)
    }

    fn lease_time(&self, now: Instant) -> Instant {
        now.checked_sub(self.late).unwrap_or(now)
    }
}

impl Clock {
    /// Half the time to live, at most five minutes, after the last sign of life or note: a session that renews in time
    /// is not noted at all, or seldom.
    fn note_due(&self) -> Instant {
        self.noted_at + (self.ttl / 2).min(NOTE_AGE_MAX)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn lease(id: i64) -> LeaseId {
        LeaseId::new(id).unwrap()
    }

    #[test]
    fn a_lease_is_due_when_its_time_is_over_and_not_before() {
        let zero = Instant::now();
        let mut clocks = Clocks::default();
        clocks.start(lease(1), 10_000, None, zero);
        clocks.start(lease(2), 5_000, None, zero);
        assert_eq!(clocks.next_due(), Some(zero + 5 * S));
        assert!(clocks.take_due(zero + 5 * S - Duration::from_nanos(1), 10).is_empty());
        assert_eq!(clocks.take_due(zero + 5 * S, 10), [lease(2)]);
        assert!(clocks.begin_renewal(lease(2), zero + 5 * S).is_none(), "its end is proposed");
        assert_eq!(clocks.take_due(zero + 60 * S, 10), [lease(1)]);
    }

    #[test]
    fn a_renewal_counts_from_receipt_and_holds_the_lease_meanwhile() {
        let zero = Instant::now();
        let mut clocks = Clocks::default();
        clocks.start(lease(1), 10_000, None, zero);
        let renewal = clocks.begin_renewal(lease(1), zero + 9 * S).unwrap();
        assert!(clocks.take_due(zero + 12 * S, 10).is_empty(), "received in time, so not due while the quorum answers");
        assert_eq!(clocks.renew(renewal), Renewed::Done { ttl_ms: 10_000 });
        assert!(clocks.end_renewal(renewal));
        assert_eq!(clocks.next_due(), Some(zero + 19 * S));
        assert_eq!(clocks.take_due(zero + 19 * S, 10), [lease(1)]);
    }

    #[test]
    fn a_renewal_that_fails_lets_the_lease_end() {
        let zero = Instant::now();
        let mut clocks = Clocks::default();
        clocks.start(lease(1), 10_000, None, zero);
        let renewal = clocks.begin_renewal(lease(1), zero + 9 * S).unwrap();
        assert!(clocks.take_due(zero + 12 * S, 10).is_empty());
        clocks.end_renewal(renewal);
        assert_eq!(clocks.take_due(zero + 12 * S, 10), [lease(1)]);
    }

    #[test]
    fn lateness_of_the_tick_is_added_to_all_deadlines() {
        let zero = Instant::now();
        let mut clocks = Clocks::default();
        clocks.start(lease(1), 10_000, None, zero);
        clocks.ran_late(3 * S);
        assert!(clocks.take_due(zero + 12 * S, 10).is_empty());
        assert_eq!(clocks.next_due(), Some(zero + 13 * S));
        assert_eq!(clocks.remaining(lease(1), zero + 12 * S), Some((10_000, 1_000)));
        assert_eq!(clocks.take_due(zero + 13 * S, 10), [lease(1)]);
    }

    #[test]
    fn a_noted_remaining_time_binds_and_must_be_cleared_before_a_renewal() {
        let zero = Instant::now();
        let mut clocks = Clocks::default();
        clocks.start(lease(1), 100_000, Some(20_000), zero);
        let renewal = clocks.begin_renewal(lease(1), zero + S).unwrap();
        assert_eq!(clocks.renew(renewal), Renewed::Noted);
        clocks.cleared(renewal);
        assert_eq!(clocks.renew(renewal), Renewed::Done { ttl_ms: 100_000 });
        clocks.end_renewal(renewal);
        assert!(clocks.take_due(zero + 20 * S, 10).is_empty());
        assert_eq!(clocks.take_due(zero + 101 * S, 10), [lease(1)]);
    }

    #[test]
    fn notes_are_taken_of_long_leases_that_nobody_renews() {
        let zero = Instant::now();
        let mut clocks = Clocks::default();
        clocks.start(lease(1), 100_000, None, zero);
        clocks.start(lease(2), 10_000, None, zero);
        assert!(clocks.take_notes(zero + 49 * S, 10).is_empty());
        let renewal = clocks.begin_renewal(lease(1), zero + 33 * S).unwrap();
        assert_eq!(clocks.renew(renewal), Renewed::Done { ttl_ms: 100_000 });
        clocks.end_renewal(renewal);
        assert!(clocks.take_notes(zero + 60 * S, 10).is_empty(), "it was renewed");
        assert_eq!(clocks.take_notes(zero + 83 * S, 10), [(lease(1), 50_000)]);
        let renewal = clocks.begin_renewal(lease(1), zero + 84 * S).unwrap();
        assert_eq!(clocks.renew(renewal), Renewed::NoteUnsettled);
        clocks.note_settled([lease(1)], true);
        assert_eq!(clocks.renew(renewal), Renewed::Noted);
    }

    #[test]
    fn ended_leases_do_not_stay_in_the_heaps() {
        let zero = Instant::now();
        let mut clocks = Clocks::default();
        for id in 1..10_000 {
            clocks.start(lease(id), 315_360_000_000, None, zero);
            clocks.end(lease(id));
        }
        assert!(clocks.deadlines.len() < 100 && clocks.notes.len() < 100);
    }

    #[test]
    fn a_lease_granted_anew_under_its_old_id_has_its_own_clock() {
        let zero = Instant::now();
        let mut clocks = Clocks::default();
        clocks.start(lease(1), 1_000, None, zero);
        let renewal = clocks.begin_renewal(lease(1), zero).unwrap();
        clocks.end(lease(1));
        clocks.start(lease(1), 50_000, None, zero);
        assert!(clocks.take_due(zero + 10 * S, 10).is_empty());
        assert_eq!(clocks.renew(renewal), Renewed::Gone);
        assert!(!clocks.end_renewal(renewal));
    }
}
