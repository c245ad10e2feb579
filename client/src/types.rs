//! What several calls share: headers, key-value pairs, and what can be given as a key or value.
//!
//! Invariants:
//! - Nothing here can fail: what a member answers is taken as it is.

use std::borrow::Cow;

use bytes::Bytes;
use quorate_proto::{Key, LeaseId, MemberId, Path, Revision, v1};

/// Which cluster and member answered, and at which revision of the store.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let written = client.put("/a", "1").await?;
/// println!("at revision {}", written.header.revision);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The cluster.
    pub cluster_id: u64,
    /// The member that answered.
    pub member: Option<MemberId>,
    /// Revision of the store that the answer reflects.
    pub revision: Revision,
    /// Raft term in which the member believed itself to be.
    pub raft_term: u64,
}

impl From<Option<v1::Header>> for Header {
    fn from(header: Option<v1::Header>) -> Self {
        let header = header.unwrap_or_default();
        Self {
            cluster_id: header.cluster_id,
            member: MemberId::new(header.member_id),
            revision: Revision(header.revision),
            raft_term: header.raft_term,
        }
    }
}

/// A key with its value and what is known of it.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// for kv in client.prefix("/config/").await?.kvs {
///     println!("{} = {} (version {})", kv.key_text(), kv.value_text(), kv.version);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty when only keys were asked for.
    pub value: Bytes,
    /// Revision at which the key came into being.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Changes since creation; 1 at creation.
    pub version: i64,
    /// Lease that owns the key.
    pub lease: Option<LeaseId>,
    /// When it came into being, in ms since the Unix epoch, as the leader stamped it.
    pub created_unix_ms: i64,
    /// When it last changed, in ms since the Unix epoch, as the leader stamped it.
    pub modified_unix_ms: i64,
}

impl KeyValue {
    /// The key as text; what is not UTF-8 is replaced.
    ///
    /// ```no_run
    /// # fn example(kv: quorate::KeyValue) {
    /// println!("{}", kv.key_text());
    /// # }
    /// ```
    pub fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }

    /// The value as text; what is not UTF-8 is replaced.
    ///
    /// ```no_run
    /// # fn example(kv: quorate::KeyValue) {
    /// println!("{}", kv.value_text());
    /// # }
    /// ```
    pub fn value_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.value)
    }
}

impl From<v1::KeyValue> for KeyValue {
    fn from(kv: v1::KeyValue) -> Self {
        Self {
            key: kv.key,
            value: kv.value,
            create_revision: Revision(kv.create_revision),
            mod_revision: Revision(kv.mod_revision),
            version: kv.version,
            lease: LeaseId::new(kv.lease_id),
            created_unix_ms: kv.created_unix_ms,
            modified_unix_ms: kv.modified_unix_ms,
        }
    }
}

/// What can be given as a key, a path or a value: text and bytes, owned (not copied) or borrowed (copied).
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let name = String::from("/users/7");
/// client.put(&name, "text").await?;
/// client.put(format!("{name}/photo"), vec![0xff, 0xd8]).await?;
/// client.put(b"any \x00 bytes", &[1, 2, 3][..]).await?;
/// # Ok(()) }
/// ```
pub trait IntoBytes {
    /// The bytes.
    fn into_bytes(self) -> Bytes;
}

macro_rules! owned {
    ($($kind:ty),*) => {$(
        impl IntoBytes for $kind {
            fn into_bytes(self) -> Bytes {
                Bytes::from(self)
            }
        }
    )*};
}

macro_rules! borrowed {
    ($($kind:ty),*) => {$(
        impl IntoBytes for &$kind {
            fn into_bytes(self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        }
    )*};
}

owned!(String, Vec<u8>, Box<[u8]>);
borrowed!(str, String, [u8], Vec<u8>);

impl IntoBytes for Bytes {
    fn into_bytes(self) -> Bytes {
        self
    }
}

impl IntoBytes for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl IntoBytes for Cow<'_, str> {
    fn into_bytes(self) -> Bytes {
        Bytes::from(self.into_owned())
    }
}

impl IntoBytes for Key {
    fn into_bytes(self) -> Bytes {
        Key::into_bytes(self)
    }
}

impl IntoBytes for &Key {
    fn into_bytes(self) -> Bytes {
        self.to_bytes()
    }
}

impl IntoBytes for Path {
    fn into_bytes(self) -> Bytes {
        self.into_key().into_bytes()
    }
}

impl IntoBytes for &Path {
    fn into_bytes(self) -> Bytes {
        self.as_key().to_bytes()
    }
}
