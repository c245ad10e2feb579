//! Follows one line: a watch of its keys, a look at the store, and a word to each who waits when it is his turn.
//!
//! Invariants:
//! - The look is taken after the watch has begun, and changes up to its revision are passed over; so every change is
//!   taken once.
//! - Who waits is told once: that he holds, or that he does not wait any more.
//! - A change is looked at by those whose key it is, and by those who come to hold by it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::{Key, Revision};
use quorate_state::outcome::ChangeKind;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::contender::{Claim, Kind};
use super::leaders::Leaders;
use super::line::Line;
use super::lines::{Ask, Word};
use super::look::Contest;
use crate::api::{Trouble, Weight};
use crate::watch::{Interest, OnContactLoss, Picked, Session, WatchNotice, WatchSpec};

/// The one watch of the session.
const TAG: u64 = 1;
/// Before a line whose store could not be read is begun anew.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The task of one line.
pub struct Follower {
    contest: Contest,
    asks: mpsc::Receiver<Ask>,
    leaders: Arc<Leaders>,
    line: Line,
    /// Everything up to here is in the line.
    seen: Revision,
    waiting: HashMap<Key, Vec<Ask>>,
}

/// Why the watch is to be begun anew.
struct Anew;

impl From<Trouble> for Anew {
    fn from(trouble: Trouble) -> Self {
        tracing::info!(%trouble, "a line could not be read; it is begun anew");
        Self
    }
}

impl Follower {
    /// Of a line that `asks` are about.
    pub fn new(contest: Contest, asks: mpsc::Receiver<Ask>, leaders: Arc<Leaders>) -> Self {
        let (line, waiting) = (Line::default(), HashMap::new());
        Self { contest, asks, leaders, line, seen: Revision::ZERO, waiting }
    }

    /// Runs until nobody is left who could ask.
    pub async fn run(mut self) -> Result<(), Infallible> {
        let tasks = self.contest.rooms.tasks.clone();
        tokio::select! {
            biased;
            () = tasks.stopped() => {}
            () = self.follow() => {}
        }
        Ok(())
    }

    async fn follow(&mut self) {
        while let Err(Anew) = self.once().await {
            if self.asks.is_closed() {
                return;
            }
            self.leaders.forget();
            sleep(RETRY_PAUSE).await;
        }
    }

    /// From one beginning of the watch to its end.
    async fn once(&mut self) -> Result<(), Anew> {
        let mut session = self.contest.rooms.watches(OnContactLoss::Wait);
        let interest = Interest { scope: self.contest.name.scope(), puts: true, deletes: true };
        session.create(
            TAG,
            WatchSpec { interest, start: None, previous_values: false, progress_interval: None, min_revision: None },
        );
        while !matches!(next(&mut session).await, WatchNotice::Created { .. }) {}
        let look = self.contest.look().await?;
        (self.line, self.seen) = (look.line, look.revision);
        self.note_leader().await?;
        let keys: Vec<Key> = self.waiting.keys().cloned().collect();
        for key in &keys {
            self.tell(key);
        }
        loop {
            tokio::select! {
                biased;
                notice = next(&mut session) => match notice {
                    WatchNotice::Events { items, .. } => self.take(&items).await?,
                    WatchNotice::Ended { .. } => return Err(Anew),
                    _ => {}
                },
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => return Ok(()),
                },
            }
        }
    }

    async fn take(&mut self, items: &[Picked]) -> Result<(), Anew> {
        let seen = self.seen;
        for picked in items.iter().filter(|picked| picked.item.revision > seen) {
            self.contest.rooms.lines.counts.events(picked.changes.len());
            let mut touched = Vec::with_capacity(picked.changes.len());
            for at in &picked.changes {
                let Some(change) = picked.item.changes.get(*at as usize) else { continue };
                match &change.kind {
                    ChangeKind::Put { meta, value } => {
                        match self.contest.name.contender(self.contest.kind, &change.key, meta, value) {
                            Some(contender) => self.line.put(contender),
                            None => self.line.put_stranger(change.key.clone()),
                        }
                    }
                    ChangeKind::Delete { .. } => self.line.remove(&change.key),
                }
                touched.push(change.key.clone());
            }
            self.seen = picked.item.revision;
            touched.extend(self.line.granted());
            for key in &touched {
                self.tell(key);
            }
            self.note_leader().await?;
        }
        Ok(())
    }

    fn ask(&mut self, ask: Ask) {
        let key = ask.key.clone();
        let waiting = self.waiting.entry(key.clone()).or_default();
        waiting.retain(|ask| !ask.word.is_closed());
        waiting.push(ask);
        self.tell(&key);
    }

    /// Tells those who wait for this key, if there is something to tell.
    fn tell(&mut self, key: &Key) {
        let Some(waiting) = self.waiting.remove(key) else { return };
        let mut still = Vec::new();
        for mut ask in waiting {
            match self.word(&mut ask) {
                None => still.push(ask),
                Some(word) => {
                    self.contest.rooms.lines.counts.wakes();
                    // Who does not listen any more needs no word.
                    let _ = ask.word.send(word);
                }
            }
        }
        if !still.is_empty() {
            self.waiting.insert(key.clone(), still);
        }
    }

    fn word(&self, ask: &mut Ask) -> Option<Word> {
        let Some(contender) = self.line.get(&ask.key) else {
            return (self.seen >= ask.placed).then_some(Word::Lost);
        };
        if contender.modified < ask.placed {
            return None;
        }
        if contender.claim != ask.claim {
            return Some(Word::Another(contender.claim));
        }
        // One that was there before has been asked already.
        let is_new = contender.created == ask.placed;
        if !std::mem::replace(&mut ask.checked, true)
            && is_new
            && let Some(why) = refusal(&self.line, &self.contest, self.line.counts_otherwise(&ask.key))
        {
            return Some(Word::Refused(why));
        }
        self.line.holds(&ask.key).then_some(Word::Holds(contender.created))
    }

    /// Has those who observe an election told who leads, if that has changed.
    async fn note_leader(&self) -> Result<(), Anew> {
        if self.contest.kind != Kind::Election {
            return Ok(());
        }
        let first = self.line.first();
        if !self.leaders.is_news(first.map(|first| (&first.key, first.modified))) {
            return Ok(());
        }
        let leader = match first {
            None => None,
            Some(first) => {
                let (key, at) = (first.key.clone(), self.seen);
                // As it was then; where that is compacted, what came between may be, too.
                self.contest.rooms.read(Weight::Light, move |view| view.get(&key, Some(at))).await?
            }
        };
        self.leaders.note(self.seen, leader);
        Ok(())
    }
}

/// Why a contender cannot come into a line, if it cannot. `otherwise`: so many permits somebody ahead counts.
pub fn refusal(line: &Line, contest: &Contest, otherwise: Option<u32>) -> Option<String> {
    let name = &contest.name;
    if let Some(key) = line.stranger() {
        return Some(format!(
            "{key} stands below {name} and is no contender: names of locks and elections do not nest; choose another name"
        ));
    }
    otherwise.map(|permits| {
        format!("others in the line of {name} ask for one of {permits} permits; all must say the same number")
    })
}

/// Why an acquire that is there already cannot be asked for again in another way.
pub fn another(contest: &Contest, claim: Claim) -> String {
    let name = &contest.name;
    format!("this acquire of {name} is there already, as {claim:?}; each acquire needs its own acquire_id")
}

async fn next(session: &mut Session) -> WatchNotice {
    std::future::poll_fn(|cx| session.poll_next(cx)).await
}
