//! What the kernel knows of a process and of connections, from /proc.
//!
//! Invariants:
//! - CPU time is that of the whole process, all threads, user and system.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::failure::{Result, io, wrong};

/// Linux gives CPU times to programs in hundredths of a second, on every architecture that Quorate runs on.
const TICK: Duration = Duration::from_millis(10);
/// `ESTABLISHED` in /proc/net/tcp.
const ESTABLISHED: &str = "01";

/// CPU time that a process has used.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(io(format!("cannot read {path}")))?;
    match ticks(&text) {
        Some(ticks) => Ok(TICK * ticks),
        None => wrong(format!("{path} is not as expected: {text}")),
    }
}

/// utime + stime. The name of the program stands in parentheses and may hold anything.
fn ticks(stat: &str) -> Option<u32> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(io(format!("cannot read {path}")))?;
    match field_kib(&text, "VmRSS:") {
        Some(kib) => Ok(kib * 1024),
        None => wrong(format!("{path} has no VmRSS")),
    }
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Established connections whose local end is this address: what a member that listens there serves.
pub fn connections_to(address: SocketAddrV4) -> Result<usize> {
    let text = std::fs::read_to_string("/proc/net/tcp").map_err(io("cannot read /proc/net/tcp"))?;
    Ok(established(&text, address))
}

fn established(table: &str, address: SocketAddrV4) -> usize {
    // The kernel prints the address as a number of the machine's own byte order.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let of_address = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(local.as_str()) && fields.nth(1) == Some(ESTABLISHED)
    };
    table.lines().filter(of_address).count()
}

/// The machine in words.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']).trim();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field_kib(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) >> 20;
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {model}, {memory} GiB, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 120 35 9 9 20 0 12 0 1 1 1";
        assert_eq!(ticks(stat), Some(155));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn own_cpu_time_grows_with_work() {
        let pid = std::process::id();
        let before = cpu(pid).unwrap();
        let mut sum = 0_u64;
        while cpu(pid).unwrap() < before + 3 * TICK {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        assert!(resident_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn connections_are_counted_at_the_end_that_listens() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::new(127, 9, 8, 7), 0)).unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        assert_eq!(connections_to(address).unwrap(), 0);
        let clients = [(); 2].map(|()| std::net::TcpStream::connect(address).unwrap());
        assert_eq!(connections_to(address).unwrap(), 2);
        drop(clients);
    }
}
