//! Network namespaces: members that have a network of their own, which loses their packets when told to.
//!
//! Invariants:
//! - A namespace and its cable end with their value, also when the test fails; declare it before the cluster in it.
//! - Who is cut off is told nothing: packets are lost in the switch, and no link goes down.

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A switch with a namespace for each member. This process is connected, too.
pub struct Network {
    switch: String,
    namespaces: Vec<String>,
    prefix: String,
}

impl Network {
    /// One with so many namespaces; `None`, having said why, when that is not allowed here.
    pub fn new(members: usize) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let [_, _, high, low] = pid.to_be_bytes();
        let name = format!("q{:x}.{n}", pid & 0xff_ffff);
        // In 10.64.0.0/10, a network for each process and each of its switches.
        let prefix = format!("10.{}.{}", 64 + ((high.wrapping_add(n)) & 0x3f), low);
        let mut network = Self { switch: name, namespaces: Vec::new(), prefix };
        match network.build(members) {
            Ok(()) => Some(network),
            Err(why) => {
                println!("PASSED OVER: this test needs to make network namespaces, which takes root: {why}");
                None
            }
        }
    }

    fn build(&mut self, members: usize) -> io::Result<()> {
        let (switch, prefix) = (self.switch.clone(), self.prefix.clone());
        ip(&format!("link add {switch} type bridge"))?;
        ip(&format!("addr add {prefix}.254/24 dev {switch}"))?;
        ip(&format!("link set {switch} up"))?;
        for i in 0..members {
            let (namespace, port) = (format!("{switch}-{i}"), self.port(i));
            ip(&format!("netns add {namespace}"))?;
            self.namespaces.push(namespace.clone());
            ip(&format!("link add {port} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("link set {port} master {switch} up"))?;
            ip(&format!("-n {namespace} addr add {} dev eth0", self.address(i) + "/24"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
        }
        Ok(())
    }

    fn port(&self, i: usize) -> String {
        format!("{}p{i}", self.switch)
    }

    /// The address of member `i`.
    pub fn address(&self, i: usize) -> String {
        format!("{}.{}", self.prefix, i + 1)
    }

    /// The namespace of member `i`.
    pub fn namespace(&self, i: usize) -> String {
        self.namespaces[i].clone()
    }

    /// From now on all packets from and to member `i` are lost.
    pub fn cut(&self, i: usize) {
        ip(&format!("link set {} nomaster", self.port(i))).expect("pull a cable");
    }

    /// Connects member `i` again.
    pub fn mend(&self, i: usize) {
        ip(&format!("link set {} master {}", self.port(i), self.switch)).expect("put a cable back");
    }

    /// From now on what member `i` sends to member `j` is lost, and nothing else.
    pub fn sever(&self, i: usize, j: usize) {
        // It is sent to a card that nobody has.
        let (namespace, to) = (&self.namespaces[i], self.address(j));
        ip(&format!("-n {namespace} neigh replace {to} lladdr 02:00:00:00:00:01 nud permanent dev eth0"))
            .expect("send packets nowhere");
    }

    /// What member `i` sends reaches member `j` again.
    pub fn rejoin(&self, i: usize, j: usize) {
        let (namespace, to) = (&self.namespaces[i], self.address(j));
        ip(&format!("-n {namespace} neigh del {to} dev eth0")).expect("send packets where they belong");
    }

    /// Delays every packet to member `i`, or does not any more. `false`, having said why, where the kernel cannot.
    pub fn delay(&self, i: usize, time: Option<Duration>) -> bool {
        let port = self.port(i);
        let asked = match time {
            Some(time) => format!("qdisc replace dev {port} root netem delay {}ms", time.as_millis()),
            None => format!("qdisc del dev {port} root"),
        };
        match run("tc", &asked) {
            Ok(()) => true,
            Err(why) => {
                println!("PASSED OVER: packets cannot be delayed here: {why}");
                false
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cables go with their namespaces, once the last process there has ended; so they are taken first.
        for i in 0..self.namespaces.len() {
            let _ = ip(&format!("link del {}", self.port(i)));
        }
        for namespace in &self.namespaces {
            let _ = ip(&format!("netns del {namespace}"));
        }
        let _ = ip(&format!("link del {}", self.switch));
    }
}

fn ip(arguments: &str) -> io::Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> io::Result<()> {
    let output = Command::new(program).args(arguments.split_whitespace()).output()?;
    let said =
        || io::Error::other(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    if output.status.success() { Ok(()) } else { Err(said()) }
}
