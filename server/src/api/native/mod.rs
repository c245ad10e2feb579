//! The native gRPC API, package `quorate.v1`, and the routes of the client port.
//!
//! Invariants:
//! - A service here translates, and nothing else: what a request means is decided by `state`.

mod admin;
mod archive_stream;
mod batch;
mod broken;
mod cluster;
mod contenders;
mod discovery;
mod election;
#[cfg(test)]
mod fuzz;
mod kv;
mod lease;
mod lock;
mod reads;
mod register_stream;
mod watch;

use std::sync::Arc;

use quorate_proto::v1;
use tonic::service::Routes;

use super::limits::MESSAGE_EXTRA_BYTES;
use super::rooms::Rooms;
use super::watches::WatchService;
use super::{etcd, health};
use crate::recipes::discovery::Discovery;

/// All services of the client port: those of the native API and of etcd's wire, with health.
pub fn routes(rooms: &Arc<Rooms>, discovery: &Arc<Discovery>) -> Routes {
    let bytes_max = rooms.limits.request_bytes_max + MESSAGE_EXTRA_BYTES;
    let kv = v1::kv_server::KvServer::new(kv::KvDoor(Arc::clone(rooms))).max_decoding_message_size(bytes_max);
    let found = discovery::DiscoveryDoor { rooms: Arc::clone(rooms), discovery: Arc::clone(discovery) };
    let found = v1::discovery_server::DiscoveryServer::new(found);
    let batch = v1::batch_server::BatchServer::new(batch::BatchDoor(Arc::clone(rooms)));
    let mut routes = Routes::builder();
    routes
        .add_service(kv)
        .add_service(batch.max_decoding_message_size(bytes_max))
        .add_service(WatchService::<watch::Watches>::new(Arc::clone(rooms)))
        .add_service(v1::lease_server::LeaseServer::new(lease::LeaseDoor(Arc::clone(rooms))))
        .add_service(v1::lock_server::LockServer::new(lock::LockDoor(Arc::clone(rooms))))
        .add_service(
            v1::election_server::ElectionServer::new(election::ElectionDoor(Arc::clone(rooms)))
                .max_decoding_message_size(bytes_max),
        )
        .add_service(v1::cluster_server::ClusterServer::new(cluster::ClusterDoor(Arc::clone(rooms))))
        .add_service(v1::admin_server::AdminServer::new(admin::AdminDoor(Arc::clone(rooms))))
        .add_service(broken::TellsBroken(found))
        .add_service(health::service(&rooms.hub));
    etcd::add_services(&mut routes, rooms);
    routes.routes().prepare()
}

/// Those services, and reflection, by which tools learn of them.
pub fn with_reflection(routes: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(quorate_proto::DESCRIPTORS)
        .build_v1()?;
    Ok(routes.add_service(reflection).prepare())
}
