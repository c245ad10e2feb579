//! Watchers by the crate `etcd-client`, which does not go on by itself: each begins anew elsewhere where its stream breaks.
//!
//! Invariants:
//! - A watcher goes on right after the last revision that it was told whole.
//! - At the end it waits until it was told everything.

use std::time::Duration;

use etcd_client::WatchOptions;
use quorate_checkers::history::{Span, Told, Watch};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::convert::etcd_event;
use crate::etcd::{Etcd, Failed};
use crate::town::below;

/// A stream that is silent for so long is left for another: marks come more often.
const SILENCE_MAX: Duration = Duration::from_secs(3);
const MARKS: Duration = Duration::from_millis(500);

/// A watcher and what it was told.
pub(crate) struct EtcdWatcher {
    client: Etcd,
    watch: Watch,
    /// The next revision that it has not been told whole.
    next: i64,
    /// Where to end: the last revision of the run, once that is known.
    goal: watch::Receiver<Option<i64>>,
}

/// Why a stream is not followed any more.
enum End {
    /// Everything was told, or what comes next is compacted.
    Done,
    /// Go on elsewhere.
    Broken,
}

impl EtcdWatcher {
    /// Of all that changes on the shared keys from `start` on.
    pub fn new(mut client: Etcd, start: i64, goal: watch::Receiver<Option<i64>>) -> Self {
        let (first, end) = below(&client.town.keys());
        let (name, span) =
            (format!("of client {}, etcd's wire", client.id), Span::Range(first.into(), Some(end.into())));
        let watch = Watch { previous: client.dice.happens(500), ..Watch::new(name, span, start) };
        Self { client, watch, next: start, goal }
    }

    fn is_done(&self) -> bool {
        self.goal.borrow().is_some_and(|goal| self.next > goal)
    }

    /// Watches until everything was told.
    pub async fn live(mut self) {
        loop {
            match self.follow().await {
                Ok(End::Done) => break,
                Ok(End::Broken) => {}
                Err(failed) => drop(failed.outcome(&self.client.town.recorder)),
            }
            self.client.move_on();
            self.watch.told.push(Told::Resumed);
            let away = self.client.dice.between_ms(10, 300);
            self.client.town.pause(away).await;
            if self.client.town.is_over() {
                // The cluster is healed then, and need not be asked more often.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.client.town.recorder.watch(self.watch);
    }

    async fn follow(&mut self) -> Result<End, Failed> {
        let (first, end) = below(&self.client.town.keys());
        let Some(mut client) = self.client.connect().await else { return Ok(End::Broken) };
        let options = WatchOptions::new().with_range(end).with_start_revision(self.next);
        let options = if self.watch.previous { options.with_prev_key() } else { options };
        let Ok(opened) = timeout(SILENCE_MAX, client.watch(first, Some(options))).await else {
            return Ok(End::Broken);
        };
        let (mut ask, mut stream) = opened?.split();
        let mut asked = tokio::time::Instant::now();
        let mut heard = asked;
        while heard.elapsed() < SILENCE_MAX {
            if asked.elapsed() >= MARKS {
                asked = tokio::time::Instant::now();
                ask.request_progress().await?;
            }
            let Ok(message) = timeout(MARKS, stream.message()).await else { continue };
            let Some(message) = message? else { return Ok(End::Broken) };
            heard = tokio::time::Instant::now();
            let revision = message.header().map_or(0, etcd_client::ResponseHeader::revision);
            if message.created() {
                self.watch.told.push(Told::Created(revision));
            }
            if message.canceled() {
                return Ok(self.ended(message.compact_revision()));
            }
            if !message.events().is_empty() {
                let events: Option<Vec<_>> = message.events().iter().map(etcd_event).collect();
                let events = events.ok_or(Failed::Odd("has an event without a key"))?;
                let last = events.last().map_or(0, |event| event.change.revision());
                self.watch.told.push(Told::Events { revision, events, fragment: false });
                self.next = self.next.max(last + 1);
            } else if !message.created() {
                self.watch.told.push(Told::Progress(revision));
                self.next = self.next.max(revision + 1);
            }
            if self.is_done() {
                return Ok(End::Done);
            }
        }
        Ok(End::Broken)
    }

    /// A watch whose next revision is compacted ends; one that a member ends for another reason goes on.
    fn ended(&mut self, compacted: i64) -> End {
        if compacted <= self.next {
            return End::Broken;
        }
        self.watch.told.push(Told::Compacted(compacted));
        End::Done
    }
}
