//! Request ids: what makes a write safe to send twice.
//!
//! Invariants:
//! - A sequence is used for one write only, and counts as unacknowledged until every [`WriteId`] of it is dropped.
//! - The log index that an id carries is the one seen *before its first* sending, on every attempt: a newer one would
//!   tell the cluster that it still remembers what it may have forgotten, and the write could be applied twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::v1;
use tokio::time::Instant;

use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Result};

/// An index seen longer ago than this is asked for anew before the next write: the cluster remembers ids for a
/// bounded part of its log only, and refuses what may be older.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// Names one write. It is remembered by the cluster while it is kept: see [`Error::write_id`](crate::Error::write_id).
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let id: Option<quorate::WriteId> = client.put("/a", "1").await.err().and_then(|error| error.write_id());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct WriteId(Arc<Ticket>);

struct Ticket {
    ids: Arc<WriteIds>,
    sequence: u64,
    seen_log_index: u64,
}

impl WriteId {
    /// The number of this write among those of its client: 1, 2, 3, …
    ///
    /// ```no_run
    /// # fn example(id: quorate::WriteId) {
    /// println!("write {} is in doubt", id.sequence());
    /// # }
    /// ```
    pub fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// The id as it is sent now.
    pub(crate) fn wire(&self) -> v1::WriteId {
        let Ticket { ids, sequence, seen_log_index } = &*self.0;
        v1::WriteId {
            client_id: ids.client,
            sequence: *sequence,
            lowest_unacknowledged: ids.state.lock().unacknowledged.first().copied().unwrap_or(*sequence),
            seen_log_index: *seen_log_index,
        }
    }

    /// Whether the id was given out by this client.
    pub(crate) fn is_of(&self, ids: &Arc<WriteIds>) -> bool {
        Arc::ptr_eq(&self.0.ids, ids)
    }
}

impl std::fmt::Debug for WriteId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriteId({:016x}/{})", self.0.ids.client, self.0.sequence)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ids.state.lock().unacknowledged.remove(&self.sequence);
    }
}

/// Gives out the ids of one client; shared by its clones.
pub(crate) struct WriteIds {
    client: u64,
    state: Mutex<State>,
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    last: u64,
    unacknowledged: BTreeSet<u64>,
    seen_log_index: u64,
    seen_at: Option<Instant>,
}

impl WriteIds {
    pub(crate) fn new() -> Self {
        Self {
            client: rand::random::<u64>().max(1),
            state: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        }
    }

    /// The id of a new write.
    pub(crate) fn next(self: &Arc<Self>) -> WriteId {
        let mut state = self.state.lock();
        state.last += 1;
        let sequence = state.last;
        state.unacknowledged.insert(sequence);
        WriteId(Arc::new(Ticket { ids: self.clone(), sequence, seen_log_index: state.seen_log_index }))
    }

    /// An answer came that carries this log index.
    pub(crate) fn saw(&self, log_index: u64) {
        if log_index > 0 {
            let mut state = self.state.lock();
            state.seen_log_index = state.seen_log_index.max(log_index);
            state.seen_at = Some(Instant::now());
        }
    }

    /// The log index last seen is old, or none was seen: ask for one before the next new id.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale_at(Instant::now())
    }

    fn is_stale_at(&self, now: Instant) -> bool {
        self.state.lock().seen_at.is_none_or(|at| now.saturating_duration_since(at) > FRESH_FOR)
    }

    /// Asks a member for its log index; one asker at a time, the others take what it brings.
    pub(crate) async fn refresh(&self, endpoint: &Endpoint) -> Result<()> {
        let _one = self.refreshing.lock().await;
        if !self.is_stale() {
            return Ok(());
        }
        match endpoint.admin().status(v1::StatusRequest {}).await {
            Ok(status) => self.saw(status.get_ref().applied_index),
            Err(status) => return Err(Error::from_status(&status, &endpoint.address).of_call(Happened::No, None)),
        }
        self.state.lock().seen_at = Some(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_unacknowledged_waits_for_the_slowest_write() {
        let ids = Arc::new(WriteIds::new());
        let (first, second) = (ids.next(), ids.next());
        assert_eq!((second.wire().sequence, second.wire().lowest_unacknowledged), (2, 1));
        let kept = first.clone();
        drop(first);
        assert_eq!(second.wire().lowest_unacknowledged, 1, "a clone keeps it");
        drop(kept);
        assert_eq!(second.wire().lowest_unacknowledged, 2);
    }

    #[test]
    fn an_id_keeps_the_log_index_of_its_first_sending() {
        let ids = Arc::new(WriteIds::new());
        ids.saw(7);
        let id = ids.next();
        ids.saw(900);
        ids.saw(800);
        assert_eq!(id.wire().seen_log_index, 7);
        assert_eq!(ids.next().wire().seen_log_index, 900);
    }

    #[test]
    fn an_index_seen_long_ago_is_stale() {
        let ids = WriteIds::new();
        assert!(ids.is_stale());
        ids.saw(7);
        assert!(!ids.is_stale());
        assert!(ids.is_stale_at(Instant::now() + FRESH_FOR + Duration::from_secs(1)));
    }
}
