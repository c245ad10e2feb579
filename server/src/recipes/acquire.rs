//! From a call to a hold.
//!
//! Without others it is one write. With others it is a write, a wait for one's turn in the line that this member follows
//! for all who wait here, a read barrier, and a look at one's own key.
//!
//! Invariants:
//! - A hold is told when the contender's key was there after it was its turn; a key that is gone is never told as a hold.
//! - A call that ends otherwise gives its place up, except where the caller is sent to another member.

use std::time::Duration;

use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::command::{Owner, Txn};
use quorate_state::flaw::Flaw;
use quorate_state::outcome::KeyValue;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::call::{Call, Interrupted};
use super::contender::{ACQUIRES_MAX, Claim, Document, lease_of};
use super::error::RecipeError;
use super::follow::{another, refusal};
use super::lines::Word;
use super::look::{Contest, Look};
use super::place::{Attempt, Bid, Fate, Place, Standing};
use crate::api::{Trouble, Weight, deadline_default};
use crate::consensus::Haste;
use crate::error::{ConsensusError, Happened};

/// How often what others change meanwhile is decided anew.
pub const ROUNDS_MAX: usize = 16;
/// Between two barriers that failed.
const CONFIRM_PAUSE: Duration = Duration::from_millis(20);
/// To take a place back before the answer, where the call has no deadline.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What is put.
    pub bid: Bid,
    /// The acquire's id.
    pub acquire: u64,
    /// How it is to be held.
    pub claim: Claim,
    /// Not to be waited for.
    pub try_only: bool,
    /// Joins a hold of this owner.
    pub reentrant: Option<String>,
}

/// A hold.
#[derive(Debug, Clone)]
pub struct Held {
    /// The contender.
    pub key: Key,
    /// The revision of its creation: the token, or the term.
    pub token: Revision,
    /// The lease of the companion.
    pub delay_lease: Option<LeaseId>,
    /// The store was at least here.
    pub revision: Revision,
}

/// Waits until it is held. Dropping the future gives the place up, as `place.rs` says.
pub async fn acquire(contest: &Contest, call: Call, wanted: &Wanted) -> Result<Held, RecipeError> {
    let attempt = Attempt::new(contest.clone(), call);
    let acquiring = Acquiring { contest, wanted, attempt };
    if let Some(owner) = &wanted.reentrant
        && let Some(held) = acquiring.reenter(owner).await?
    {
        return Ok(held);
    }
    if wanted.try_only { acquiring.try_once().await } else { acquiring.queue().await }
}

struct Acquiring<'a> {
    contest: &'a Contest,
    wanted: &'a Wanted,
    attempt: Attempt,
}

impl Acquiring<'_> {
    /// Joins a hold of the same lease and owner, or holds at once when nobody is there.
    async fn reenter(&self, owner: &str) -> Result<Option<Held>, RecipeError> {
        let call = &self.attempt.call;
        let placed = self.put(self.wanted.bid.txn(self.contest, call.as_of(), false), Haste::AtOnce).await?;
        if placed.standing == Standing::Alone {
            return Ok(Some(self.granted(placed)));
        }
        placed.stays();
        self.attempt.decide(Fate::Abandoned);
        for _ in 0..ROUNDS_MAX {
            let look = self.look().await?;
            let Some((kv, document)) = self.hold_of(&look, owner)? else { return Ok(None) };
            if document.acquires.len() >= ACQUIRES_MAX && !document.has(self.wanted.acquire) {
                return Err(RecipeError::Conflict(format!(
                    "{owner:?} holds {} {ACQUIRES_MAX} times already, which is the most: release some",
                    self.contest.name
                )));
            }
            let place = self.placed(self.attempt.join(&kv, document, self.wanted.acquire)).await?;
            if place.standing != Standing::Refused {
                let held = self.held(&kv, place.revision);
                place.stays();
                return Ok(Some(held));
            }
            place.stays();
        }
        Err(RecipeError::contended())
    }

    /// The hold of the same lease and owner.
    fn hold_of(&self, look: &Look, owner: &str) -> Result<Option<(KeyValue, Document)>, RecipeError> {
        let own_lease = self.contest.name.segment_of(&self.wanted.bid.put.key).and_then(lease_of);
        for (contender, _, holds) in look.line.places() {
            let Some(kv) = contender.filter(|_| holds).and_then(|contender| look.kvs.get(&contender.key)) else {
                continue;
            };
            let Some(document) = self.contest.document(kv) else { continue };
            if document.owner != owner || kv.meta.lease != own_lease {
                continue;
            }
            if document.claim() != self.wanted.claim {
                return Err(RecipeError::Conflict(format!(
                    "{owner:?} holds {} as {:?} and cannot hold it as {:?} besides: release it first, or downgrade it",
                    self.contest.name,
                    document.claim(),
                    self.wanted.claim
                )));
            }
            return Ok(Some((kv.clone(), document)));
        }
        Ok(None)
    }

    /// Holds at once, or not at all.
    async fn try_once(&self) -> Result<Held, RecipeError> {
        let key = &self.wanted.bid.put.key;
        for _ in 0..ROUNDS_MAX {
            let look = self.look().await?;
            if let (Some(kv), Some(contender)) = (look.kvs.get(key), look.line.get(key)) {
                return if contender.claim != self.wanted.claim {
                    Err(RecipeError::Conflict(another(self.contest, contender.claim)))
                } else if look.line.holds(key) {
                    self.have_again(kv.meta.create_revision).await
                } else {
                    Err(self.busy())
                };
            }
            let otherwise = look.line.would_count_otherwise(self.wanted.claim);
            if let Some(why) = refusal(&look.line, self.contest, otherwise) {
                return Err(RecipeError::Conflict(why));
            }
            if !look.line.would_admit(self.wanted.claim) {
                return Err(self.busy());
            }
            let txn = self.wanted.bid.txn_unchanged_since(self.contest, look.revision);
            let place = self.put(txn, Haste::AtOnce).await?;
            if place.standing == Standing::Alone {
                return Ok(self.granted(place));
            }
            place.stays();
            self.attempt.decide(Fate::Abandoned);
        }
        Err(self.busy())
    }

    /// An earlier attempt holds already: it is made this one's, so that nobody takes it back.
    async fn have_again(&self, token: Revision) -> Result<Held, RecipeError> {
        let txn = self.wanted.bid.txn(self.contest, self.attempt.call.as_of(), true);
        let place = self.put(txn, Haste::AtOnce).await?;
        if place.standing == Standing::Alone {
            return Ok(self.granted(place));
        }
        let look = self.look().await?;
        if let Some(kv) = look.kvs.get(&place.key).filter(|kv| kv.meta.create_revision == token) {
            let held = self.held(kv, look.revision);
            place.stays();
            return Ok(held);
        }
        place.give_up(self.leave_until()).await;
        Err(self.busy())
    }

    /// Takes a place, and waits for its turn.
    async fn queue(&self) -> Result<Held, RecipeError> {
        // Behind others nothing is gained by being there a moment sooner.
        let lines = &self.contest.rooms.lines;
        let haste = if lines.is_waited_in(self.contest) {
            lines.counts.unhurried();
            Haste::WithOthers
        } else {
            Haste::AtOnce
        };
        let place = self.put(self.wanted.bid.txn(self.contest, self.attempt.call.as_of(), true), haste).await?;
        if place.standing == Standing::Alone {
            return Ok(self.granted(place));
        }
        match self.wait(&place).await {
            Ok(held) => {
                place.stays();
                Ok(held)
            }
            Err(Stop::Refused(error)) => {
                place.give_up(self.leave_until()).await;
                Err(error)
            }
            Err(Stop::Error(error)) => {
                place.stays();
                Err(error)
            }
            Err(Stop::Interrupted(why)) => Err(self.interrupted(why, Some(place)).await),
        }
    }

    /// Waits in the line.
    async fn wait(&self, place: &Place) -> Result<Held, Stop> {
        let rooms = &self.contest.rooms;
        let waiting = async {
            let alive = self.alive(place).await?;
            let followed = rooms.lines.join(self.contest);
            let word = tokio::select! {
                biased;
                word = followed.word(&place.key, place.revision, self.wanted.claim) => word,
                () = self.keep_alive(&alive) => None,
            };
            match word {
                Some(Word::Holds(created)) => self.confirm(&place.key, created).await,
                Some(Word::Lost) => Err(Stop::Error(self.lost())),
                Some(Word::Refused(why)) => Err(Stop::Refused(RecipeError::Conflict(why))),
                Some(Word::Another(claim)) => Err(Stop::Error(RecipeError::Conflict(another(self.contest, claim)))),
                None => Err(Stop::Error(ConsensusError::ShuttingDown.into())),
            }
        };
        tokio::select! {
            biased;
            done = waiting => done,
            why = self.attempt.call.interrupted(rooms) => Err(Stop::Interrupted(why)),
        }
    }

    /// It is its turn: once the key is known to be there still, it holds.
    async fn confirm(&self, key: &Key, created: Revision) -> Result<Held, Stop> {
        let rooms = &self.contest.rooms;
        loop {
            rooms.lines.counts.barriers();
            match rooms.barrier(deadline_default()).await {
                Ok(()) => break,
                // It ends when the call is to end: see `Call::interrupted`. A member that stops, or whose Raft has ended,
                // refuses at once: without a pause nobody would look whether the call is to end.
                Err(ConsensusError::NoQuorum { .. } | ConsensusError::Deadline { .. }) => sleep(CONFIRM_PAUSE).await,
                Err(error) => return Err(Stop::Error(error.into())),
            }
        }
        let (kv, revision) = self.contest.get_at(key).await?;
        if kv.is_none() && Flaw::GrantsToDead.is_put_in() {
            return Ok(Held { key: key.clone(), token: created, delay_lease: None, revision });
        }
        // Another create_revision: it was taken away, and put again by another call, which has a place of its own.
        match kv.filter(|kv| kv.meta.create_revision == created) {
            Some(kv) => Ok(self.held(&kv, revision)),
            None => Err(Stop::Error(self.lost())),
        }
    }

    /// Which leases are to be kept alive here while it waits, and how often.
    async fn alive(&self, place: &Place) -> Result<Vec<(LeaseId, Duration)>, Stop> {
        let own_lease = matches!(self.wanted.bid.put.owner, Owner::Ttl { .. });
        if !own_lease && self.wanted.bid.companion.is_none() {
            return Ok(Vec::new());
        }
        let rooms = &self.contest.rooms;
        while let Err(error) = rooms.consensus.wait_revision(place.revision, deadline_default()).await {
            // The call's own end is looked at by others.
            if !matches!(error, ConsensusError::Deadline { .. }) {
                return Err(Stop::Error(error.into()));
            }
        }
        let own = self.contest.get(&place.key).await?;
        let mut leases = Vec::new();
        leases.extend(own.as_ref().filter(|_| own_lease).and_then(|kv| kv.meta.lease));
        leases.extend(own.as_ref().and_then(|kv| self.delay_lease(kv)));
        let mut alive = Vec::new();
        for lease in leases {
            let ttl_ms = rooms.read(Weight::Light, move |view| Ok(view.lease(lease)?.map(|record| record.ttl_ms)));
            if let Some(ttl_ms) = ttl_ms.await? {
                alive.push((lease, Duration::from_millis(ttl_ms / 3)));
            }
        }
        Ok(alive)
    }

    /// Keeps leases alive that are this call's own. Never completes.
    async fn keep_alive(&self, leases: &[(LeaseId, Duration)]) {
        let Some(pause) = leases.iter().map(|(_, pause)| *pause).min() else { return std::future::pending().await };
        loop {
            sleep(pause).await;
            let until = Instant::now() + pause;
            for (lease, _) in leases {
                // What comes of it is seen by the key: it is there, or it is gone.
                let _ = self.contest.rooms.consensus.keep_alive(*lease, until).await;
            }
        }
    }

    async fn look(&self) -> Result<Look, RecipeError> {
        let look = async {
            self.contest.rooms.barrier(self.attempt.call.deadline.unwrap_or_else(deadline_default)).await?;
            Ok::<_, RecipeError>(self.contest.look().await?)
        };
        tokio::select! {
            biased;
            look = look => look,
            why = self.attempt.call.interrupted(&self.contest.rooms) => Err(self.interrupted(why, None).await),
        }
    }

    async fn put(&self, txn: Txn, haste: Haste) -> Result<Place, RecipeError> {
        self.placed(self.attempt.put(&self.wanted.bid.put.key, txn, haste)).await
    }

    async fn placed(&self, put: oneshot::Receiver<Result<Place, Trouble>>) -> Result<Place, RecipeError> {
        tokio::select! {
            biased;
            placed = put => match placed {
                Ok(placed) => Ok(placed?),
                Err(_) => Err(ConsensusError::ShuttingDown.into()),
            },
            why = self.attempt.call.interrupted(&self.contest.rooms) => Err(self.interrupted(why, None).await),
        }
    }

    /// What the caller is told, and what becomes of the place.
    async fn interrupted(&self, why: Interrupted, place: Option<Place>) -> RecipeError {
        match why {
            Interrupted::Closing | Interrupted::ContactLost => {
                self.attempt.decide(Fate::Stays);
                if why == Interrupted::Closing { ConsensusError::ShuttingDown.into() } else { RecipeError::no_leader() }
            }
            Interrupted::Deadline | Interrupted::Waited => {
                self.attempt.decide(Fate::GivenUp);
                let has_left = match place {
                    Some(place) => place.give_up(self.leave_until()).await,
                    None => false,
                };
                match why {
                    Interrupted::Waited if has_left => self.busy(),
                    _ if has_left => RecipeError::deadline(Happened::No),
                    _ => RecipeError::deadline(Happened::Unknown),
                }
            }
        }
    }

    fn leave_until(&self) -> Instant {
        let call = &self.attempt.call;
        let margin = call.deadline.map(|deadline| deadline + crate::api::DEADLINE_MARGIN / 2);
        margin.unwrap_or_else(|| Instant::now() + LEAVE_PATIENCE)
    }

    /// A place that holds at once.
    fn granted(&self, place: Place) -> Held {
        let rooms = &self.contest.rooms;
        rooms.lines.fresh.granted(&self.wanted.bid.put, place.revision, rooms.hub.revision());
        let companion = self.wanted.bid.companion.as_ref();
        let delay_lease = companion.and_then(|companion| match companion.owner {
            Owner::Ttl { lease, .. } => Some(lease),
            _ => None,
        });
        let held = Held { key: place.key.clone(), token: place.revision, delay_lease, revision: place.revision };
        place.stays();
        held
    }

    fn held(&self, kv: &KeyValue, revision: Revision) -> Held {
        Held { key: kv.key.clone(), token: kv.meta.create_revision, delay_lease: self.delay_lease(kv), revision }
    }

    fn delay_lease(&self, kv: &KeyValue) -> Option<LeaseId> {
        lease_of(&self.contest.document(kv)?.companion?)
    }

    fn busy(&self) -> RecipeError {
        RecipeError::Busy { name: self.contest.name.to_string() }
    }

    fn lost(&self) -> RecipeError {
        RecipeError::Lost { what: "the place in the line", name: self.contest.name.to_string() }
    }
}

/// Why a wait is over without a hold.
enum Stop {
    /// The place is given up.
    Refused(RecipeError),
    /// There is no place, or it is kept for another call.
    Error(RecipeError),
    /// From outside.
    Interrupted(Interrupted),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Error(trouble.into())
    }
}
