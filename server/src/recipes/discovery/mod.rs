//! Service discovery: who serves what, where, and how well it is.
//!
//! | file | what |
//! |---|---|
//! | `names.rs`, `document.rs`, `check.rs` | keys, and the JSON at them |
//! | `register.rs`, `report.rs` | writes |
//! | `resolve.rs`, `watch.rs` | reads; `known.rs` has what was read lately |
//! | `checks/` | health checks that the cluster makes |
//! | `protection.rs` | suspects itself when most instances of a service expire at once |
//!
//! Invariants:
//! - Only keys, transactions, leases and watches: whoever writes the same documents by another door is served alike.
//! - Documents that cannot be read hide nothing but themselves.

mod check;
mod checks;
mod document;
mod error;
mod instance;
mod known;
mod names;
mod protection;
mod register;
mod report;
mod resolve;
mod settings;
mod watch;

use std::io;
use std::sync::Arc;

use quorate_proto::Key;
use quorate_state::command::{Expect, Owner, Put};
use quorate_state::view::ReadError;
use tokio::runtime::Handle;
use tokio::time::Instant;

pub use checks::Networks;
pub use document::{Health, Maintenance, Reported};
pub use error::DiscoveryError;
#[cfg(test)]
pub use instance::at as instance_at;
pub use instance::{Registration, maintenance, reported};
pub use names::{InstanceName, ServiceName};
pub use register::Registered;
pub use resolve::{Filter, Looked, Resolved, Services, is_healthy};
#[cfg(test)]
pub use settings::ServiceSettings;
pub use watch::{Update, Watching};

use crate::api::{Rooms, StoreView, Trouble};
use crate::tasks::Task;
use document::Document;
use instance::Stored;
use known::Known;
use protection::Protections;

/// A write that meets others is tried so often.
const ATTEMPTS_MAX: usize = 16;

/// Discovery on one member.
pub struct Discovery {
    rooms: Arc<Rooms>,
    protections: Protections,
    known: Arc<Known>,
    runtime: Handle,
}

impl Discovery {
    /// On this member's rooms. What it does by itself runs on a thread of its own, until the member stops; its health
    /// checks go to these networks only.
    pub fn start(rooms: &Arc<Rooms>, networks: Networks) -> io::Result<Arc<Self>> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).thread_name("q-found");
        let runtime = rooms.tasks.own_runtime(Task::Discovery, &mut builder)?;
        let (protections, known) = (Protections::default(), Arc::default());
        let discovery = Arc::new(Self { rooms: Arc::clone(rooms), protections, known, runtime });
        let tasks = discovery.rooms.tasks.clone();
        tasks.spawn(Task::Protection, &discovery.runtime, protection::run(Arc::clone(&discovery)));
        tasks.spawn(Task::Checker, &discovery.runtime, checks::run(Arc::clone(&discovery), networks));
        Ok(discovery)
    }

    /// Where its own work runs: apart from consensus and from the doors.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// A number that grows when something changes.
    pub fn serial(&self) -> u32 {
        let [_, _, _, _, low @ ..] = self.rooms.hub.revision().get().to_be_bytes();
        u32::from_be_bytes(low)
    }

    async fn barrier(&self, deadline: Instant) -> Result<(), Trouble> {
        Ok(self.rooms.barrier(deadline).await?)
    }
}

/// What stands at the key of an instance.
fn get(view: &StoreView<'_>, key: &Key) -> Result<Option<Stored>, ReadError> {
    Ok(view.get(key, None)?.as_ref().map(Stored::new))
}

/// Writes a document.
fn put(key: Key, document: &Document, owner: Owner, expect: Expect) -> Result<Put, DiscoveryError> {
    let value = document.write().map_err(DiscoveryError::TooLarge)?;
    Ok(Put { expect, ..Put::new(key, value.into(), owner) })
}

/// Threads for long reads and for names that are looked up.
const BLOCKING_THREADS_MAX: usize = 8;
