//! The wire messages of Quorate, compiled from `proto/quorate/**.proto` and `proto/etcd/*.proto`, and the newtypes that
//! every side of a wire needs.
//!
//! Invariants:
//! - A [`Key`] is 1 to [`Key::BYTES_MAX`] bytes long; a [`Path`] is a key with a place in the tree.
//! - Without the `wire` feature this crate has no dependency worth naming, so that the state
//!   machine can use its newtypes and still build in seconds.

mod ids;
mod key;
mod path;

pub use ids::{ClientId, ClusterId, LeaseId, MemberId, Revision, Token};
pub use key::{Key, KeyError};
pub use path::{Path, PathError};

/// Messages and services of the native API, package `quorate.v1`.
#[cfg(feature = "wire")]
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("quorate.v1");
}

/// Messages and services between members, package `quorate.peer.v1`.
#[cfg(feature = "wire")]
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod peer {
    tonic::include_proto!("quorate.peer.v1");
}

/// Messages and services of etcd's v3 wire. The packages refer to each other as siblings.
#[cfg(feature = "wire")]
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod etcd {
    /// Package `authpb`.
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    /// Package `mvccpb`.
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    /// Package `etcdserverpb`.
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    /// Package `v3lockpb`.
    pub mod v3lockpb {
        tonic::include_proto!("v3lockpb");
    }
    /// Package `v3electionpb`.
    pub mod v3electionpb {
        tonic::include_proto!("v3electionpb");
    }
}

/// The encoded descriptors of all files, for gRPC reflection.
#[cfg(feature = "wire")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
