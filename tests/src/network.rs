//! Machines with a network of their own: namespaces, and switches between
//! them, on the one machine the stories run on.
//!
//! A daemon is started inside a host by [`Network::enter`]'s words. The
//! switches live in a namespace of their own, so that stories that run at the
//! same time share nothing, and everything goes when the network is dropped.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::machine;

/// Where `ip netns` keeps namespaces.
const SPACES: &str = "/run/netns";

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// What a story in namespaces needs, or why it cannot be had here.
pub fn missing() -> Option<&'static str> {
    if !machine::is_root() {
        return Some("only root can make network namespaces");
    }
    for (tool, reason) in
        [("ip", "iproute2 is not installed"), ("nsenter", "nsenter is not installed")]
    {
        if machine::program(tool).is_none() {
            return Some(reason);
        }
    }
    // Other stories of this process ask at the same time.
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let probe = format!("rn{}-{serial}-probe", std::process::id());
    let made = ip(&["netns", "add", &probe]).is_ok();
    if made {
        // A probe that stays is an empty namespace, no more.
        let _ = ip(&["netns", "del", &probe]);
        None
    } else {
        Some("the kernel gives no network namespaces here")
    }
}

/// Namespaces and the switches between them.
#[derive(Debug)]
pub struct Network {
    name: String,
    hosts: Vec<String>,
}

impl Network {
    /// Without any host or switch.
    pub fn new() -> Result<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("rn{}-{serial}", std::process::id());
        let network = Self { name, hosts: Vec::new() };
        network.add_namespace(&network.hub())?;
        Ok(network)
    }

    /// `count` hosts on one switch, `10.77.0.1` and so on.
    pub fn of_equals(count: usize) -> Result<Self> {
        let mut network = Self::new()?;
        for number in 0..count {
            let host = network.add_host()?;
            network.plug(host, "lan", &format!("10.77.0.{}/24", number + 1))?;
        }
        Ok(network)
    }

    /// A machine without any interface but its loopback.
    pub fn add_host(&mut self) -> Result<usize> {
        let host = format!("{}-{}", self.name, self.hosts.len());
        self.hosts.push(host.clone());
        self.add_namespace(&host)?;
        Ok(self.hosts.len() - 1)
    }

    /// Gives a host an interface, named like the switch it is plugged into,
    /// with this address and prefix length.
    pub fn plug(&self, host: usize, switch: &str, address: &str) -> Result<()> {
        let (name, port, hub) = (&self.hosts[host], port(host, switch), self.hub());
        self.ensure_switch(switch)?;
        ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", switch, "netns", name])?;
        ip(&["-n", &hub, "link", "set", &port, "master", switch, "up"])?;
        ip(&["-n", name, "address", "add", address, "dev", switch])?;
        ip(&["-n", name, "link", "set", switch, "up"])?;
        Ok(())
    }

    /// Sends what a host has for `destination` to the router `gateway`.
    pub fn route(&self, host: usize, destination: &str, gateway: &str) -> Result<()> {
        ip(&["-n", &self.hosts[host], "route", "replace", destination, "via", gateway])
    }

    /// Lets a host hand on packets between its interfaces, or no longer.
    pub fn forward(&self, host: usize, open: bool) -> Result<()> {
        let value = if open { "1" } else { "0" };
        Ok(self.inside(host, move || fs::write("/proc/sys/net/ipv4/ip_forward", value))??)
    }

    /// Runs `work` on a thread whose sockets are the host's.
    pub fn inside<T: Send + 'static>(
        &self,
        host: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let space = fs::File::open(Path::new(SPACES).join(&self.hosts[host]))?;
        let entered = thread::spawn(move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        entered.join().map_err(|_| anyhow!("the work on host {host} panicked"))?
    }

    /// Moves the plug of an interface to another switch. The host sees none
    /// of it but the silence.
    pub fn replug(&self, host: usize, switch: &str, other: &str) -> Result<()> {
        self.ensure_switch(other)?;
        ip(&["-n", &self.hub(), "link", "set", &port(host, switch), "master", other])
    }

    /// Cuts an interface off at the switch, or joins it again.
    pub fn set_port(&self, host: usize, switch: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        ip(&["-n", &self.hub(), "link", "set", &port(host, switch), state])
    }

    /// Takes an interface down on the host itself, where sending then fails,
    /// or up again.
    pub fn set_interface(&self, host: usize, switch: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        ip(&["-n", &self.hosts[host], "link", "set", switch, state])
    }

    /// The words before a command that is to run on a host.
    pub fn enter(&self, host: usize) -> Vec<OsString> {
        let nsenter = machine::program("nsenter").unwrap_or_else(|| "nsenter".into());
        let mut net = OsString::from("--net=");
        net.push(Path::new(SPACES).join(&self.hosts[host]));
        vec![nsenter.into(), net, "--".into()]
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn add_namespace(&self, name: &str) -> Result<()> {
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])
    }

    fn ensure_switch(&self, switch: &str) -> Result<()> {
        let hub = self.hub();
        if ip(&["-n", &hub, "link", "show", switch]).is_ok() {
            return Ok(());
        }
        ip(&["-n", &hub, "link", "add", switch, "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", switch, "up"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.hub()]) {
            if fs::exists(Path::new(SPACES).join(name)).unwrap_or(false) {
                // The story is over; its result must not change here.
                let _ = ip(&["netns", "del", name]);
            }
        }
    }
}

/// The switch's end of a host's interface.
fn port(host: usize, switch: &str) -> String {
    format!("{switch}{host}")
}

fn ip(words: &[&str]) -> Result<()> {
    let program = machine::program("ip").unwrap_or_else(|| "ip".into());
    machine::run(Command::new(program).args(words)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    /// Does a datagram from one host reach another?
    fn reaches(network: &Network, from: usize, to: usize) -> bool {
        let bind = |host: usize| {
            let address = format!("10.77.0.{}:0", host + 1);
            network.inside(host, move || UdpSocket::bind(address)).unwrap().unwrap()
        };
        let (sender, receiver) = (bind(from), bind(to));
        receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let goal = receiver.local_addr().unwrap();
        // The first one may be lost while a switch learns where its hosts are.
        (0..5).any(|_| {
            // Where there is no way at all, sending fails.
            let _ = sender.send_to(b"ping", goal);
            receiver.recv(&mut [0; 8]).is_ok()
        })
    }

    #[test]
    fn hosts_meet_on_a_switch_and_not_across_a_cut() {
        if let Some(reason) = missing() {
            return machine::skip(reason);
        }
        let network = Network::of_equals(2).unwrap();
        assert!(reaches(&network, 0, 1));
        network.replug(1, "lan", "island").unwrap();
        assert!(!reaches(&network, 0, 1));
        network.replug(1, "lan", "lan").unwrap();
        assert!(reaches(&network, 0, 1));
        network.set_port(0, "lan", false).unwrap();
        assert!(!reaches(&network, 0, 1));
        network.set_port(0, "lan", true).unwrap();
        network.set_interface(1, "lan", false).unwrap();
        network.set_interface(1, "lan", true).unwrap();
        assert!(reaches(&network, 0, 1));
    }
}
