//! Which addresses health checks may go to. Whoever may register could otherwise have the cluster connect to anything.
//!
//! Invariants:
//! - What is compared is the address that is connected to, after names were looked up.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::net::{TcpStream, lookup_host};

/// The networks that are allowed.
#[derive(Debug, Clone, Default)]
pub struct Networks(pub Vec<IpNet>);

impl Networks {
    /// Whether an address is in one of them.
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Connects to a host, at the first of its addresses that are allowed and answer; else why not.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let found = lookup_host((host, port)).await;
        let found: Vec<SocketAddr> = found.map_err(|error| format!("{host} cannot be looked up: {error}"))?.collect();
        let allowed: Vec<SocketAddr> = found.iter().copied().filter(|address| self.allow(address.ip())).collect();
        if allowed.is_empty() {
            let refused = found.first().map_or_else(|| host.to_owned(), |address| address.ip().to_string());
            return Err(format!("{refused} is not within check-networks: it is not checked"));
        }
        let mut failed = String::new();
        for address in allowed {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = format!("connecting to {address}: {error}"),
            }
        }
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_allowed_however_it_is_written() {
        let networks = Networks(vec!["10.0.0.0/8".parse().unwrap(), "fc00::/7".parse().unwrap()]);
        for allowed in ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1"] {
            assert!(networks.allow(allowed.parse().unwrap()), "{allowed}");
        }
        for refused in ["127.0.0.1", "::ffff:127.0.0.1", "::1", "169.254.169.254", "fe80::1", "8.8.8.8", "11.0.0.1"] {
            assert!(!networks.allow(refused.parse().unwrap()), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up_before_it_is_judged() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = Networks(vec!["10.0.0.0/8".parse().unwrap()]).connect("localhost", port).await.unwrap_err();
        assert!(refused.contains("check-networks"), "{refused}");
        let allowed = Networks(vec!["127.0.0.0/8".parse().unwrap()]);
        assert!(allowed.connect("localhost", port).await.is_ok());
    }
}
