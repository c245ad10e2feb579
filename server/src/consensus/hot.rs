//! The picture of the store that readers take, and that the apply thread keeps in step.
//!
//! Invariants:
//! - Nobody gets a picture while a write is under way: who has seen a state of the store, in a picture or in the store
//!   itself, gets no older one afterwards.
//! - A reader never waits for it; without one, the store answers.
//! - After a write that failed there is none any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use quorate_state::apply::{Applied, Decided, Machine};
use quorate_state::outcome::Fault;
use quorate_state::picture::{Found, Picture};
use rocksdb::Cache;

use crate::store_rocks::RocksStore;

/// What of the store may be in memory.
#[derive(Clone)]
pub struct Caches {
    /// Blocks of its files.
    pub blocks: Cache,
    /// Bytes of keys that are read often.
    pub picture_bytes: usize,
}

/// Of so many reads that the picture does not answer it learns one: of what is read once it keeps little.
const LEARNS_ONE_OF: usize = 4;

/// See the module.
pub struct Hot {
    picture: RwLock<Option<Picture>>,
    not_known: AtomicUsize,
}

impl Caches {
    /// So many bytes in all, of which half are for keys. Behind the blocks stands the system's page cache.
    pub fn new(bytes: usize) -> Self {
        Self { blocks: Cache::new_lru_cache(bytes - bytes / 2), picture_bytes: bytes / 2 }
    }
}

impl Hot {
    /// Begins with this picture.
    pub fn new(picture: Picture) -> Self {
        Self { picture: RwLock::new(Some(picture)), not_known: AtomicUsize::new(0) }
    }

    /// What is known of the store as it is now, if that can be had at once.
    pub fn picture(&self) -> Option<Picture> {
        self.picture.try_read()?.clone()
    }

    /// Writes what the machine has decided, and shows it.
    pub fn write(&self, machine: &mut Machine<Arc<RocksStore>>, decided: Decided) -> Result<Vec<Applied>, Fault> {
        let mut shown = self.picture.write();
        let picture = shown.take();
        let applied = machine.write(decided)?;
        *shown = picture.map(|mut picture| {
            picture.follow(machine, &applied);
            picture
        });
        Ok(applied)
    }

    /// What a reader has found, if it is its turn, unless the store has moved on.
    pub fn learn(&self, found: Vec<Found>) {
        if !found.is_empty()
            && self.not_known.fetch_add(1, Ordering::Relaxed).is_multiple_of(LEARNS_ONE_OF)
            && let Some(mut shown) = self.picture.try_write()
            && let Some(picture) = &mut *shown
        {
            picture.learn(found);
        }
    }
}
