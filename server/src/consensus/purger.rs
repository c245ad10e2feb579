//! Purges compacted history, at each member by itself, in small steps beside everything else.
//!
//! Invariants:
//! - A step is bounded and followed by a pause, because apply waits for the store behind it.
//! - It works on the store in force; a store that was replaced is left alone.

use std::sync::Arc;
use std::time::Duration;

use quorate_state::compaction::{Purge, purge_step};

use crate::consensus::state_dir::CurrentStore;
use crate::tasks::Tasks;

/// Between steps while there is more.
const PAUSE: Duration = Duration::from_millis(2);
/// How often the compaction mark is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Works until the member stops. Steps run on blocking threads: they read and write the store.
pub async fn purge(store: Arc<CurrentStore>, tasks: Tasks) -> Result<(), String> {
    loop {
        let store = store.get();
        let step = tokio::task::spawn_blocking(move || purge_step(store.as_ref()));
        let purged = step.await.map_err(|error| error.to_string())?.map_err(|fault| fault.to_string())?;
        let pause = if purged == Purge::More { PAUSE } else { INTERVAL };
        if tokio::time::timeout(pause, tasks.stopped()).await.is_ok() {
            return Ok(());
        }
    }
}
