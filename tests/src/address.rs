//! Loopback addresses that no other test of this machine uses at the same time.
//!
//! Invariants:
//! - Two callers in one process get different addresses; two processes almost never share one, because the process id
//!   is in it. (All of 127.0.0.0/8 is this machine, so ports can be the same everywhere.)
//! - No connection that somebody opens takes such an address for its own end (those are of 127.0.0.1), so it is free
//!   again as soon as its listener is gone: a member that comes back finds it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

/// A loopback address of one's own.
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    of_this_process(NEXT.fetch_add(1, Ordering::Relaxed).max(1))
}

/// A loopback address with a port of one's own, for a listener.
pub fn free() -> SocketAddrV4 {
    // Below the ports that the kernel gives out.
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    SocketAddrV4::new(of_this_process(0), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn of_this_process(last: u8) -> Ipv4Addr {
    let pid = std::process::id();
    let [_, _, high, low] = (pid % 0x7fff).to_be_bytes();
    // 127.64.x.y upwards, so that 127.0.0.1 and its neighbours stay free.
    Ipv4Addr::new(127, 64 + (high & 0x7f), low, last)
}

/// `loopback()` with a port.
pub fn at(address: Ipv4Addr, port: u16) -> String {
    SocketAddrV4::new(address, port).to_string()
}
