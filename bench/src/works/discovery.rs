//! The works of service discovery: to come and go as an instance, and to ask who is there.
//!
//! etcd has no such service: there, an instance is what its users make of a lease and a key, and finding the others is a
//! range of keys. Quorate is driven in the same way on etcd's wire, and by its own calls with its own client.
//!
//! Invariants:
//! - All systems hold the same documents under the same keys, [`VALUE_BYTES`] long.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::failure::{Result, wrong};
use crate::load::Caller;
use crate::plan::{INSTANCES, VALUE_BYTES};
use crate::wire::Connection;

/// The service that all callers ask for.
const ASKED: &str = "bench-asked";

/// The key of an instance.
pub fn key(service: &str, id: &str) -> Bytes {
    Bytes::from(format!("/services/{service}/{id}"))
}

/// The document of an instance, in which the weight counts.
pub fn document(weight: u64) -> Bytes {
    let text = |rest: &str| {
        format!(
            r#"{{"address":"127.0.0.1","port":8080,"weight":{weight},"health":"passing","metadata":{{"rest":"{rest}"}}}}"#
        )
    };
    let rest = VALUE_BYTES.saturating_sub(text("").len());
    Bytes::from(text(&"x".repeat(rest)))
}

struct Register {
    service: String,
    id: String,
}

struct Resolve {
    /// Of all callers one registers them.
    registers: bool,
}

/// Registers an instance of its own, and deregisters it.
pub fn register(_round: usize, caller: usize) -> Box<dyn Caller> {
    Box::new(Register { service: format!("bench-{}", caller % 8), id: format!("caller-{caller}") })
}

/// Asks for the instances of one service.
pub fn resolve(_round: usize, caller: usize) -> Box<dyn Caller> {
    Box::new(Resolve { registers: caller == 0 })
}

impl Caller for Register {
    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(connection.come_and_go(&self.service, &self.id))
    }
}

impl Caller for Resolve {
    fn prepare<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            if self.registers {
                for nth in 0..INSTANCES {
                    connection.put(key(ASKED, &format!("i{nth}")), document(nth as u64 + 1), 0).await?;
                }
            }
            Ok(())
        })
    }

    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            match connection.resolve(ASKED).await? {
                INSTANCES => Ok(()),
                found => wrong(format!("{found} instances were found of {INSTANCES}")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_the_length_of_all_values() {
        for weight in [1, 65_535] {
            assert_eq!(document(weight).len(), VALUE_BYTES);
        }
    }
}
