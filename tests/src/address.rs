//! Loopback addresses that no other test of this machine uses at the same time.
//!
//! Invariants:
//! - Two callers in one process get different addresses; two processes almost never share one, because the process id
//!   is in it. (All of 127.0.0.0/8 is this machine, so ports can be the same everywhere.)

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU8, Ordering};

/// A loopback address of one's own.
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let [_, _, high, low] = (pid % 0x7fff).to_be_bytes();
    // 127.64.x.y upwards, so that 127.0.0.1 and its neighbours stay free.
    Ipv4Addr::new(127, 64 + (high & 0x7f), low, NEXT.fetch_add(1, Ordering::Relaxed).max(1))
}

/// `loopback()` with a port.
pub fn at(address: Ipv4Addr, port: u16) -> String {
    SocketAddrV4::new(address, port).to_string()
}
