//! Identifiers and counters as types of their own, so that none is passed where another is meant.
//!
//! Invariants:
//! - A [`LeaseId`], [`MemberId`], [`ClusterId`] and [`ClientId`] is never 0: zero means "none" on the wire.

use std::fmt;
use std::num::{NonZeroI64, NonZeroU64};

/// The store's logical clock: 1 when empty, one more for each transaction that changes anything.
/// 0 stands for "none" or "newest" where a wire says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl Revision {
    /// Revision of an empty store.
    pub const FIRST: Self = Self(1);
    /// No revision.
    pub const ZERO: Self = Self(0);

    /// The number itself, as the wire has it.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease. Any integer but 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(NonZeroI64);

impl LeaseId {
    /// `None` when `id` is 0, which means "no lease" on the wire.
    pub const fn new(id: i64) -> Option<Self> {
        match NonZeroI64::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number itself.
    pub const fn get(self) -> i64 {
        self.0.get()
    }

    /// The number of an optional lease, 0 for none, as the wire has it.
    pub fn wire(lease: Option<Self>) -> i64 {
        lease.map_or(0, Self::get)
    }
}

impl fmt::Display for LeaseId {
    /// Hexadecimal, as the command line shows and takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// `None` when `id` is 0, which means "none" on the wire.
            pub const fn new(id: u64) -> Option<Self> {
                match NonZeroU64::new(id) {
                    Some(id) => Some(Self(id)),
                    None => None,
                }
            }

            /// The number itself.
            pub const fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

hex_id! {
    /// Names a member of a cluster. Random, minted and fsynced at the member's first start; never reused.
    MemberId
}

hex_id! {
    /// Names a cluster: derived from the ids of its first members, and minted anew by a restore.
    ClusterId
}

hex_id! {
    /// Names a client process, for request ids. Random, chosen once by each process.
    ClientId
}

/// A fencing token: grows with every conflicting grant, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token(pub i64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
