//! Watchers by the crate `quorate`, which goes on elsewhere by itself where a stream breaks: without a gap, it says, and
//! without a repetition.
//!
//! Invariants:
//! - At the end a watcher waits until it was told everything.

use std::time::Duration;

use futures::StreamExt as _;
use quorate::{Error, Revision, WatchStream};
use quorate_checkers::history::{Span, Told, Watch};
use tokio::sync::watch;

use crate::convert::event;
use crate::native::Native;
use crate::town::below;

/// How often a silent watch is told how far it is.
const MARKS: Duration = Duration::from_millis(300);

/// A watcher and what it was told.
pub(crate) struct Watcher {
    client: Native,
    watch: Watch,
    /// The next revision that it has not been told whole.
    next: i64,
    /// Where to end: the last revision of the run, once that is known.
    goal: watch::Receiver<Option<i64>>,
    /// It reads slowly now and then, so that it falls behind.
    slow: bool,
}

impl Watcher {
    /// Of all that changes from `start` on: the shared keys, or everything below the prefix.
    pub fn new(mut client: Native, start: i64, goal: watch::Receiver<Option<i64>>) -> Self {
        let everything = client.dice.happens(500);
        let span = if everything {
            Span::Subtree(client.town.plan.prefix.as_str().into())
        } else {
            let (start, end) = below(&client.town.keys());
            Span::Range(start.into(), Some(end.into()))
        };
        let watch = Watch {
            previous: client.dice.happens(500),
            no_deletes: client.dice.happens(200),
            ..Watch::new(format!("of client {}", client.id), span, start)
        };
        let slow = client.dice.happens(300);
        Self { client, watch, next: start, goal, slow }
    }

    fn is_done(&self) -> bool {
        self.goal.borrow().is_some_and(|goal| self.next > goal)
    }

    /// Watches until everything was told.
    pub async fn live(mut self) {
        while !self.is_done() {
            if let Err(error) = self.follow().await {
                self.client.town.recorder.look_at(&error);
                if let Error::Compacted { compact_revision, .. } = error {
                    self.watch.told.push(Told::Compacted(compact_revision.get()));
                    break;
                }
                self.watch.told.push(Told::Resumed);
                self.client.town.pause(Duration::from_millis(50)).await;
            }
        }
        self.client.town.recorder.watch(self.watch);
    }

    async fn start(&self) -> Result<WatchStream, Error> {
        let create = match &self.watch.span {
            Span::Range(start, Some(end)) => {
                self.client.client.watch(start.as_slice().to_vec()).range_to(end.as_slice().to_vec())
            }
            _ => self.client.client.watch(self.client.town.plan.prefix.clone()).subtree(),
        };
        let create = create.from(Revision(self.next)).progress(MARKS);
        let create = if self.watch.previous { create.previous() } else { create };
        let create = if self.watch.no_deletes { create.no_deletes() } else { create };
        create.start().await
    }

    async fn follow(&mut self) -> Result<(), Error> {
        let mut stream = self.start().await?;
        while !self.is_done() {
            let Ok(item) = tokio::time::timeout(MARKS, stream.next()).await else { continue };
            let Some(item) = item else { return Ok(()) };
            let changes = item?;
            let revision = changes.revision.get();
            self.next = self.next.max(revision + 1);
            if changes.is_progress() {
                self.watch.told.push(Told::Progress(revision));
            } else {
                let events = changes.events.iter().map(event).collect();
                self.watch.told.push(Told::Events { revision, events, fragment: false });
            }
            if self.slow && self.client.dice.happens(3) {
                let pause = self.client.dice.between_ms(200, 2_000);
                self.client.town.pause(pause).await;
            }
        }
        Ok(())
    }
}
