//! All tasks of the client, in one table. Only this file spawns them.
//!
//! Invariants:
//! - Every task ends when its [`TaskGuard`] is dropped, or by itself; those of the client itself do not keep it alive.
//! - A task that ends early breaks no promise: its owner notices and starts over, or says so to its callers.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A task of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Reads the answers of one endpoint's batch stream. Owner: the endpoint.
    Lane,
    /// Keeps leases alive. Owner: the client, while it has guards.
    LeaseKeeper,
    /// Revokes a lease whose guard was dropped. Ends by itself.
    LeaseRevoke,
    /// Follows a subtree. Owner: the reflector.
    Reflector,
    /// Watches the keys of locks and leaderships that are held. Owner: the client, while it holds some.
    HoldWatch,
    /// Gives back a lock, or a place in its queue, whose guard or future was dropped. Ends by itself.
    Release,
    /// Follows the instances of a service. Owner: the live set.
    ServiceWatch,
    /// Keeps an instance registered. Owner: the registration.
    Registration,
    /// Removes an instance whose registration was dropped. Ends by itself.
    Deregister,
}

/// Ends its task when dropped.
#[derive(Debug)]
pub(crate) struct TaskGuard(JoinHandle<()>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `future` until it ends or its guard is dropped.
#[must_use]
pub(crate) fn spawn(runtime: &Handle, task: Task, future: impl Future<Output = ()> + Send + 'static) -> TaskGuard {
    TaskGuard(start(runtime, task, future))
}

/// Runs `future` until it ends.
pub(crate) fn spawn_detached(runtime: &Handle, task: Task, future: impl Future<Output = ()> + Send + 'static) {
    drop(start(runtime, task, future));
}

fn start(runtime: &Handle, task: Task, future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    runtime.spawn(async move {
        future.await;
        tracing::trace!(?task, "ended");
    })
}
