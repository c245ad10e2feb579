//! A lock or election of this member's store, and a look at its line at one revision.
//!
//! Invariants:
//! - All of a look comes from one view.
//! - What a look holds is bounded by the number of contenders, whatever their values.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{Key, Revision};
use quorate_state::outcome::KeyValue;
use quorate_state::view::ReadError;

use super::contender::{Document, Kind, Name};
use super::line::Line;
use super::scan::scan;
use crate::api::{Rooms, StoreView, Trouble, Weight};

/// A lock or an election, and the rooms to reach it by. Cheap to clone.
#[derive(Clone)]
pub struct Contest {
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// Lock or election.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
}

/// The line as it stands at one revision.
pub struct Look {
    /// Who stands where.
    pub line: Line,
    /// All keys below the name. Values are left out that say nothing to the line, as those of an election's candidates.
    pub kvs: HashMap<Key, KeyValue>,
    /// As of when.
    pub revision: Revision,
}

impl Contest {
    /// The lock with this name.
    pub fn lock(rooms: &Arc<Rooms>, name: &[u8]) -> Self {
        Self { rooms: Arc::clone(rooms), kind: Kind::Lock, name: Name::new(name) }
    }

    /// The election with this name.
    pub fn election(rooms: &Arc<Rooms>, name: &[u8]) -> Self {
        Self { kind: Kind::Election, ..Self::lock(rooms, name) }
    }

    /// Looks at the newest that this member has; take a barrier first where that matters.
    pub async fn look(&self) -> Result<Look, Trouble> {
        self.rooms.lines.counts.reads();
        let contest = self.clone();
        self.rooms.read(Weight::Heavy, move |view| contest.look_at(view)).await
    }

    /// Who leads the election, value and all, and as of which revision.
    pub async fn leader(&self) -> Result<(Option<KeyValue>, Revision), Trouble> {
        self.rooms.lines.counts.reads();
        let contest = self.clone();
        let read = self.rooms.read(Weight::Heavy, move |view| {
            let look = contest.look_at(view)?;
            let leader = look.line.first().map(|first| view.get(&first.key, None)).transpose()?.flatten();
            Ok((leader, look.revision))
        });
        read.await
    }

    fn look_at(&self, view: &StoreView<'_>) -> Result<Look, ReadError> {
        let mut look = Look { line: Line::default(), kvs: HashMap::new(), revision: view.revision() };
        scan(view, self.name.bounds(), None, |mut kv| {
            if Document::of(self.kind, &kv.value).is_none() {
                kv.value = Bytes::new();
            }
            self.enter(&mut look.line, &kv);
            look.kvs.insert(kv.key.clone(), kv);
            true
        })?;
        look.line.granted();
        Ok(look)
    }

    /// A key of the name, as this member has it.
    pub(super) async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Trouble> {
        Ok(self.get_at(key).await?.0)
    }

    /// The same, and as of which revision.
    pub(super) async fn get_at(&self, key: &Key) -> Result<(Option<KeyValue>, Revision), Trouble> {
        self.rooms.lines.counts.reads();
        let key = key.clone();
        self.rooms.read(Weight::Light, move |view| Ok((view.get(&key, None)?, view.revision()))).await
    }

    /// What the value of a contender says.
    pub fn document(&self, kv: &KeyValue) -> Option<Document> {
        Document::of(self.kind, &kv.value)
    }

    /// A key has come, or has changed.
    fn enter(&self, line: &mut Line, kv: &KeyValue) {
        match self.name.contender(self.kind, &kv.key, &kv.meta, &kv.value) {
            Some(contender) => line.put(contender),
            None => line.put_stranger(kv.key.clone()),
        }
    }
}
