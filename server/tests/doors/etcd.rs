//! A member's door for etcd's wire, as a client sees it.
//!
//! Invariants:
//! - Codes and texts of refusals are compared to the letter.

use std::time::Duration;

use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::mvccpb::KeyValue;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

use super::Doors;

pub fn kv(doors: &Doors) -> pb::kv_client::KvClient<Channel> {
    let client = pb::kv_client::KvClient::new(doors.channel());
    client.max_encoding_message_size(32 << 20).max_decoding_message_size(32 << 20)
}

pub fn lease(doors: &Doors) -> pb::lease_client::LeaseClient<Channel> {
    pb::lease_client::LeaseClient::new(doors.channel())
}

pub fn maintenance(doors: &Doors) -> pb::maintenance_client::MaintenanceClient<Channel> {
    pb::maintenance_client::MaintenanceClient::new(doors.channel())
}

pub fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

pub fn range(key: &str, range_end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), range_end: range_end.to_owned().into(), ..Default::default() }
}

pub fn delete(key: &str, range_end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.to_owned().into(), range_end: range_end.to_owned().into(), prev_kv: false }
}

/// Names of keys, in the order in which they came.
pub fn names(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

/// `(value, create revision, mod revision, version, lease)`
pub fn whole(kv: &KeyValue) -> (String, i64, i64, i64, i64) {
    let value = String::from_utf8(kv.value.to_vec()).unwrap();
    (value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code, text: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

/// The same request from a client that wants a leader.
pub fn with_leader<T>(request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request
}

/// A watch stream.
pub struct Watching {
    sender: Option<mpsc::Sender<pb::WatchRequest>>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watching {
    pub async fn open(doors: &Doors) -> Self {
        Self::open_as(doors, Request::new).await
    }

    pub async fn open_as(
        doors: &Doors,
        dress: fn(ReceiverStream<pb::WatchRequest>) -> Request<ReceiverStream<pb::WatchRequest>>,
    ) -> Self {
        let (sender, requests) = mpsc::channel(16);
        let mut client = pb::watch_client::WatchClient::new(doors.channel());
        let answers = client.watch(dress(ReceiverStream::new(requests))).await.unwrap().into_inner();
        Self { sender: Some(sender), answers }
    }

    pub async fn send(&self, request: pb::watch_request::RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.sender.as_ref().unwrap().send(request).await.unwrap();
    }

    /// The client has nothing more to say.
    pub fn half_close(&mut self) {
        self.sender = None;
    }

    /// Creates a watch and gives the answer.
    pub async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send(pb::watch_request::RequestUnion::CreateRequest(create)).await;
        let answer = self.next().await;
        assert!(answer.created, "{answer:?}");
        answer
    }

    pub async fn cancel(&self, watch_id: i64) {
        let cancel = pb::WatchCancelRequest { watch_id };
        self.send(pb::watch_request::RequestUnion::CancelRequest(cancel)).await;
    }

    pub async fn ask_progress(&self) {
        self.send(pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    pub async fn try_next(&mut self) -> Result<Option<pb::WatchResponse>, tonic::Status> {
        timeout(Duration::from_secs(20), self.answers.message()).await.expect("a message comes")
    }

    pub async fn next(&mut self) -> pb::WatchResponse {
        self.try_next().await.unwrap().expect("the stream goes on")
    }
}

/// A watch of a range, from now on.
pub fn watch(key: &str, range_end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.to_owned().into(), range_end: range_end.to_owned().into(), ..Default::default() }
}

/// `PUT a=1@7` or `DELETE a@8` for each event.
pub fn events(response: &pb::WatchResponse) -> Vec<String> {
    let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let event = |event: &quorate_proto::etcd::mvccpb::Event| {
        let kv = event.kv.as_ref().unwrap();
        if event.r#type == 0 {
            format!("PUT {}={}@{}", text(&kv.key), text(&kv.value), kv.mod_revision)
        } else {
            assert_eq!((kv.create_revision, kv.version, kv.lease, kv.value.len()), (0, 0, 0, 0), "{event:?}");
            format!("DELETE {}@{}", text(&kv.key), kv.mod_revision)
        }
    };
    response.events.iter().map(event).collect()
}
