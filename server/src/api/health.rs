//! `grpc.health.v1`: whether this member serves, and the task that finds out.
//!
//! Invariants:
//! - Not serving = no leader was heard of for three election timeouts; the same moment ends the watches here.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::consensus::Consensus;
use crate::tasks::{Task, Tasks};
use crate::watch::Hub;

/// So many election timeouts without a leader, and contact counts as lost.
const TIMEOUTS: u32 = 3;

/// Keeps the hub told whether contact with a leader is lost.
pub fn watch_contact(consensus: Arc<Consensus>, hub: Arc<Hub>, election_timeout: Duration, tasks: &Tasks, on: &Handle) {
    let stopping = tasks.clone();
    tasks.spawn(Task::Contact, on, async move {
        let started = Instant::now();
        let watch = async {
            loop {
                let heard = consensus.leader_contact().unwrap_or(started);
                hub.set_contact_lost(heard.elapsed() > TIMEOUTS * election_timeout);
                sleep(election_timeout / 2).await;
            }
        };
        tokio::select! {
            biased;
            () = stopping.stopped() => Ok::<(), Infallible>(()),
            () = watch => Ok(()),
        }
    });
}

/// The service.
pub fn service(hub: &Arc<Hub>) -> HealthServer<HealthDoor> {
    HealthServer::new(HealthDoor(Arc::clone(hub)))
}

/// Answers for the whole member and for each service of the native API.
pub struct HealthDoor(Arc<Hub>);

fn is_known(service: &str) -> bool {
    let known = ["Kv", "Batch", "Watch", "Lease", "Lock", "Election", "Discovery", "Cluster", "Admin"];
    service.is_empty() || service.strip_prefix("quorate.v1.").is_some_and(|name| known.contains(&name))
}

fn response(contact_lost: bool) -> HealthCheckResponse {
    let status = if contact_lost { ServingStatus::NotServing } else { ServingStatus::Serving };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthDoor {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if is_known(&request.get_ref().service) {
            Ok(Response::new(response(*self.0.contact_lost().borrow())))
        } else {
            Err(Status::not_found("there is no such service here"))
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !is_known(&request.get_ref().service) {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            return Ok(Response::new(Box::pin(futures::stream::iter([Ok(unknown)]))));
        }
        let mut states = self.0.contact_lost();
        let now = *states.borrow_and_update();
        let states = futures::stream::iter([now]).chain(states.into_changes());
        Ok(Response::new(Box::pin(states.map(|lost| Ok(response(lost))))))
    }
}
