//! Hosts on one machine: a bridge, and a network namespace with an address of its own for each host.
//!
//! It needs root with `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`, and `ip` of iproute2; a test that lacks them fails and says
//! so. Programs get into a host with `nsenter --net`: `ip netns exec` would hide the control groups from them.
//! Everything is named after a number that a lock claims, so whatever a killed run left under it can be told and removed.

use crate::is_alive;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

/// Networks at once on one machine; each has a third byte of its own.
const NETWORKS_MAX: u8 = 64;
/// The test itself, on the bridge.
const OWN_ADDRESS: u8 = 1;
/// The hosts' addresses begin here.
const FIRST_ADDRESS: u8 = 10;

/// A network with its hosts; gone with the value.
pub struct Network {
    number: u8,
    hosts: BTreeMap<&'static str, u8>,
    _claim: Flock<File>,
}

impl Network {
    /// A network in which these hosts reach each other and the test.
    pub fn create(hosts: &[&'static str]) -> Self {
        let (number, claim) = claim();
        let network = Self {
            number,
            hosts: hosts.iter().copied().zip(FIRST_ADDRESS..).collect(),
            _claim: claim,
        };
        let bridge = network.bridge();
        let own = format!("10.213.{number}.{OWN_ADDRESS}/24");
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&["addr", "add", &own, "dev", &bridge]);
        ip(&["link", "set", &bridge, "up"]);
        for host in hosts {
            network.connect(host);
        }
        network
    }

    fn connect(&self, host: &str) {
        let (port, address) = (self.port(host), self.address(host));
        ip(&["netns", "add", &port]);
        ip(&[
            "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &port,
        ]);
        ip(&["link", "set", &port, "master", &self.bridge(), "up"]);
        for arguments in [
            vec!["addr", "add", &format!("{address}/24"), "dev", "eth0"],
            vec!["link", "set", "lo", "up"],
            vec!["link", "set", "eth0", "up"],
        ] {
            ip(&[&["-n", port.as_str()], arguments.as_slice()].concat());
        }
    }

    /// What its names are made of; no other network has it.
    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// The address of a host.
    pub fn address(&self, host: &str) -> Ipv4Addr {
        let last = self.hosts.get(host);
        let last = last.unwrap_or_else(|| panic!("there is no host {host}"));
        Ipv4Addr::new(10, 213, self.number, *last)
    }

    /// A program as it is started on a host.
    pub fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Command {
        self.command_as(host, None, program)
    }

    /// The same as another user and group.
    pub fn command_as(&self, host: &str, user: Option<(u32, u32)>, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace(host).display()));
        if let Some((uid, gid)) = user {
            command.args([format!("--setgid={gid}"), format!("--setuid={uid}")]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Pulls the plug of a host: nothing reaches it, nothing leaves it, and nobody is told.
    pub fn cut(&self, host: &str) {
        ip(&["link", "set", &self.port(host), "down"]);
    }

    /// Puts it back.
    pub fn mend(&self, host: &str) {
        ip(&["link", "set", &self.port(host), "up"]);
    }

    /// What `host` sends to `other` vanishes from now on: they can't talk, everyone else can talk to both.
    pub fn part(&self, host: &str, other: &str) {
        let other = self.address(other).to_string();
        ip(&["-n", &self.port(host), "route", "add", "blackhole", &other]);
    }

    /// They can talk again.
    pub fn join(&self, host: &str, other: &str) {
        let other = self.address(other).to_string();
        ip(&["-n", &self.port(host), "route", "del", "blackhole", &other]);
    }

    /// Listens on a host's own loopback: reached by its programs even while the host is cut off.
    pub fn listen(&self, host: &str, port: u16) -> TcpListener {
        let namespace = File::open(self.namespace(host)).expect("the namespace was made");
        // A namespace belongs to a thread, and a socket to the namespace it was made in.
        let bound = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter the namespaces it made");
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("nobody else is on this host")
        });
        bound.join().expect("the thread only binds")
    }

    /// Live processes on a host.
    pub fn processes(&self, host: &str) -> Vec<i32> {
        processes_in(&self.namespace(host))
    }

    fn bridge(&self) -> String {
        format!("zt{}", self.number)
    }

    /// The name of the host's end of the cable on the bridge, and of its namespace.
    fn port(&self, host: &str) -> String {
        format!("zt{}-{host}", self.number)
    }

    fn namespace(&self, host: &str) -> PathBuf {
        Path::new("/run/netns").join(self.port(host))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(self.number);
    }
}

/// A number nobody else uses, freed of what an earlier, killed run left under it.
fn claim() -> (u8, Flock<File>) {
    for number in 0..NETWORKS_MAX {
        let path = std::env::temp_dir().join(format!("zectre-test-net-{number}"));
        let Ok(file) = File::create(path) else { continue };
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        remove(number);
        let addresses = Command::new("ip").args(["-o", "-4", "addr"]).output();
        let addresses = addresses.expect("`ip` is missing: apt-get install iproute2");
        if !String::from_utf8_lossy(&addresses.stdout).contains(&format!(" 10.213.{number}.")) {
            return (number, lock);
        }
    }
    panic!("all {NETWORKS_MAX} networks for tests are taken: are older test runs still alive?");
}

/// Ends the processes of all hosts of a network, then removes it. What isn't there is no error.
fn remove(number: u8) {
    let prefix = format!("zt{number}-");
    let namespaces: Vec<_> = fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .collect();
    for namespace in namespaces {
        for pid in processes_in(&namespace.path()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // A namespace lives on for a moment; its cable must be gone at once, because the name is used again.
        for what in ["link", "netns"] {
            let _ = Command::new("ip")
                .args([what, "del"])
                .arg(namespace.file_name())
                .output();
        }
    }
    let _ = Command::new("ip")
        .args(["link", "del", &format!("zt{number}")])
        .output();
}

fn processes_in(namespace: &Path) -> Vec<i32> {
    let Ok(metadata) = fs::metadata(namespace) else {
        return Vec::new();
    };
    let name = format!("net:[{}]", metadata.ino());
    let inside = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link.as_os_str() == name.as_str())
    };
    crate::process::all()
        .filter(inside)
        .filter(|pid| is_alive(*pid))
        .collect()
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("`ip` is missing: apt-get install iproute2");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "this test makes networks of its own and needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN; \
         `ip {}` said: {}",
        arguments.join(" "),
        said.trim()
    );
}
