//! `Discovery`: register, resolve, watch, report.
//!
//! Invariants:
//! - Translates only; what requests mean is decided by the recipe.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::Stream;
use quorate_proto::Revision;
use quorate_proto::v1;
use quorate_proto::v1::discovery_server::Discovery as Wire;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::register_stream;
use crate::api::cursor::Cursor;
use crate::api::errors::Refusal;
use crate::api::limits::DEADLINE_DEFAULT;
use crate::api::rooms::Rooms;
use crate::api::{deadline, validate};
use crate::recipes::discovery::{Discovery, Filter, InstanceName, Update, Watching, maintenance, reported};

/// What cursors of the list of services belong to.
const ALL_SERVICES: &[u8] = b"services";

/// The service.
pub struct DiscoveryDoor {
    /// For headers and streams.
    pub rooms: Arc<Rooms>,
    /// The recipe.
    pub discovery: Arc<Discovery>,
}

impl DiscoveryDoor {
    async fn deregister(
        &self,
        request: v1::DeregisterRequest,
        deadline: Instant,
    ) -> Result<v1::DeregisterResponse, Refusal> {
        let name = InstanceName::new(request.service, request.id)?;
        let (header, deregistered) = self.discovery.deregister(&name, deadline).await?;
        Ok(v1::DeregisterResponse { header: Some(header), deregistered })
    }

    async fn resolve(&self, request: v1::ResolveRequest, deadline: Instant) -> Result<v1::ResolveResponse, Refusal> {
        let filter = Filter::new(request.service, request.tags, request.zone, request.worst)?;
        let resolved = self.discovery.resolve(&filter, request.read.as_ref(), deadline).await?;
        Ok(v1::ResolveResponse {
            header: Some(self.rooms.header(resolved.revision)),
            instances: resolved.instances,
            protected: resolved.protected,
        })
    }

    async fn services(&self, request: v1::ServicesRequest, deadline: Instant) -> Result<v1::ServicesResponse, Refusal> {
        let limit = validate::page(request.page_size)?;
        let after = Cursor::given(&request.cursor, ALL_SERVICES)?.map(|cursor| cursor.after);
        let page = self.discovery.services(after, limit, request.read.as_ref(), deadline).await?;
        let cursor = |after: Bytes| Cursor { revision: page.revision, after }.encode(ALL_SERVICES);
        let next_cursor = page.more_after.map(cursor).unwrap_or_default();
        Ok(v1::ServicesResponse {
            header: Some(self.rooms.header(page.revision)),
            services: page.services,
            next_cursor,
        })
    }

    async fn report(
        &self,
        request: v1::ReportHealthRequest,
        deadline: Instant,
    ) -> Result<v1::ReportHealthResponse, Refusal> {
        let name = InstanceName::new(request.service, request.id)?;
        let reported = reported(request.health, request.note)?;
        let (header, health) = self.discovery.report(&name, reported, deadline).await?;
        Ok(v1::ReportHealthResponse { header: Some(header), health: v1::Health::from(health).into() })
    }

    async fn maintain(
        &self,
        request: v1::SetMaintenanceRequest,
        deadline: Instant,
    ) -> Result<v1::SetMaintenanceResponse, Refusal> {
        let name = InstanceName::new(request.service, request.id)?;
        let maintenance = maintenance(request.on, request.note)?;
        let (header, health) = self.discovery.set_maintenance(&name, maintenance, deadline).await?;
        Ok(v1::SetMaintenanceResponse { header: Some(header), health: v1::Health::from(health).into() })
    }

    async fn watch(&self, request: v1::WatchServiceRequest, deadline: Instant) -> Result<WatchAnswers, Refusal> {
        let filter = Filter::new(request.service, request.tags, request.zone, request.worst)?;
        let after = validate::at_revision(request.after_revision)?;
        let watching = self.discovery.watch(filter, after, deadline).await?;
        Ok(answers(&self.rooms, watching))
    }
}

/// The answers of a watch.
type WatchAnswers = Pin<Box<dyn Stream<Item = Result<v1::WatchServiceResponse, Status>> + Send>>;

fn answers(rooms: &Arc<Rooms>, watching: Watching) -> WatchAnswers {
    let state = (Arc::clone(rooms), watching, rooms.until_closing());
    Box::pin(futures::stream::unfold(Some(state), |state| async move {
        let (rooms, mut watching, mut closing) = state?;
        let update = tokio::select! {
            biased;
            () = &mut closing => Err(Refusal::shutting_down()),
            update = watching.next() => update.map_err(Refusal::from),
        };
        match update {
            Ok(update) => {
                let answer = response(update, |revision| rooms.header(revision));
                Some((Ok(answer), Some((rooms, watching, closing))))
            }
            Err(refusal) => Some((Err(refusal.into()), None)),
        }
    }))
}

fn response(update: Update, header: impl Fn(Revision) -> v1::Header) -> v1::WatchServiceResponse {
    v1::WatchServiceResponse {
        header: Some(header(update.revision)),
        snapshot: update.snapshot,
        changed: update.changed.into_values().collect(),
        removed: update.removed.into_iter().collect(),
        protected: update.protected,
    }
}

#[tonic::async_trait]
impl Wire for DiscoveryDoor {
    type RegisterStream = Pin<Box<dyn Stream<Item = Result<v1::RegisterResponse, Status>> + Send>>;
    type WatchStream = WatchAnswers;

    async fn register(
        &self,
        request: Request<Streaming<v1::RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let answers = register_stream::serve(&self.rooms, &self.discovery, request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(self.deregister(request.into_inner(), deadline).await?))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(self.resolve(request.into_inner(), deadline).await?))
    }

    async fn watch(&self, request: Request<v1::WatchServiceRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // A timeout of the call is that of the whole stream, not of its beginning.
        let deadline = deadline::of_request(request.metadata())?.min(deadline::after(DEADLINE_DEFAULT));
        Ok(Response::new(self.watch(request.into_inner(), deadline).await?))
    }

    async fn services(&self, request: Request<v1::ServicesRequest>) -> Result<Response<v1::ServicesResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(self.services(request.into_inner(), deadline).await?))
    }

    async fn report_health(
        &self,
        request: Request<v1::ReportHealthRequest>,
    ) -> Result<Response<v1::ReportHealthResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(self.report(request.into_inner(), deadline).await?))
    }

    async fn set_maintenance(
        &self,
        request: Request<v1::SetMaintenanceRequest>,
    ) -> Result<Response<v1::SetMaintenanceResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(self.maintain(request.into_inner(), deadline).await?))
    }
}
