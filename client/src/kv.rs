//! The key space: one builder for each verb, awaited to run it.
//!
//! Invariants:
//! - A builder sends nothing until it is awaited (or its stream is polled).

mod point;
mod range;
mod tree;
mod verbs;

pub use point::{Delete, DeleteResponse, Get, GetResponse, Put, PutResponse};
pub use range::{KeyValues, Range, RangeResponse};
pub use tree::{
    Child, Compact, CompactResponse, CopyTree, CopyTreeResponse, Cursor, Directory, List, ListChildren, ListResponse,
    Stat, StatResponse,
};

/// What all builders of calls share: a deadline, and being awaited.
macro_rules! awaited {
    ($builder:ty => $answer:ty, write) => {
        impl $builder {
            /// Sends the write again under the id of an earlier attempt: see [`Error::write_id`](crate::Error::write_id).
            /// Everything else must be as it was then.
            pub fn write_id(mut self, id: $crate::WriteId) -> Self {
                self.options.write_id = Some(id);
                self
            }
        }

        $crate::kv::awaited!($builder => $answer);
    };
    ($builder:ty => $answer:ty) => {
        impl $builder {
            /// How long the call may take in all, instead of the client's default.
            pub fn deadline(mut self, deadline: std::time::Duration) -> Self {
                self.options.deadline = Some(deadline);
                self
            }
        }

        impl IntoFuture for $builder {
            type Output = $crate::Result<$answer>;
            type IntoFuture = futures::future::BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.run())
            }
        }
    };
}

/// What all builders of reads share: how fresh they must be.
macro_rules! fresh {
    ($builder:ty) => {
        impl $builder {
            /// Answered from the member's own state, which may be behind: faster, and possible without a quorum.
            pub fn serializable(mut self) -> Self {
                self.request.read.get_or_insert_default().serializable = true;
                self
            }

            /// The answering member waits until it has reached this revision: with
            /// [`serializable`](Self::serializable), a cheap way to read one's own writes.
            pub fn min_revision(mut self, revision: quorate_proto::Revision) -> Self {
                self.request.read.get_or_insert_default().min_revision = revision.get();
                self
            }
        }
    };
}

pub(crate) use awaited;
pub(crate) use fresh;
