//! A member for the tests of those who use Quorate: in this process, on a free port, gone when dropped.
//!
//! Invariants:
//! - Its data directory is a temporary one and is removed when the member is dropped.

use tempfile::TempDir;

use crate::config::Config;
use crate::server::{Server, StartError};

/// A single member in this process.
pub struct Ephemeral {
    // Dropped in this order: first the member, then its directory.
    server: Server,
    _dir: TempDir,
}

/// Starts a single durable member on a free loopback port, with everything in a temporary directory.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let quorate = quorate_server::ephemeral().await?;
/// println!("connect to {}", quorate.endpoint());
/// # Ok(())
/// # }
/// ```
pub async fn ephemeral() -> Result<Ephemeral, StartError> {
    let dir = tempfile::Builder::new().prefix("quorate-").tempdir()?;
    let free = "127.0.0.1:0".to_owned();
    let config = Config {
        data_dir: dir.path().join("data"),
        listen: free.clone(),
        peer_listen: free,
        // A test needs no reserve, and the disk of a test machine may be nearly full.
        disk_reserve_bytes: 1 << 20,
        ..Config::default()
    };
    Ok(Ephemeral { server: Server::start(config).await?, _dir: dir })
}

impl Ephemeral {
    /// `http://127.0.0.1:port`, for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.client_address())
    }

    /// The member itself.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Stops it in good order; dropping it cuts it off.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}
