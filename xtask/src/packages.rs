//! Installs what is missing from Debian's packages, and says what and why; elsewhere it names the packages.

use crate::{
    fail::Fail,
    run::{is_installed, step},
};
use std::{fs, path::Path, process::Command};

/// Something that a Debian package brings.
pub(crate) struct Need {
    /// The package.
    pub(crate) package: &'static str,
    /// What it is for, as the end of "needed …".
    pub(crate) why: &'static str,
    /// Whether it is there.
    pub(crate) is_there: fn() -> bool,
}

/// The platform's database.
pub(crate) const POSTGRESQL: Need = Need {
    package: "postgresql",
    why: "to keep the platform's state",
    is_there: || {
        let versions = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten();
        versions
            .into_iter()
            .any(|version| version.path().join("bin/initdb").is_file())
            || is_installed("initdb")
    },
};

/// The sandbox of builds.
pub(crate) const BUBBLEWRAP: Need = Need {
    package: "bubblewrap",
    why: "to build programs in a sandbox",
    is_there: || is_installed("bwrap"),
};

/// A C linker: rustc calls it.
pub(crate) const LINKER: Need = Need {
    package: "gcc",
    why: "to link programs",
    is_there: || is_installed("cc"),
};

/// What a C linker links against; gcc only recommends it.
pub(crate) const LIBC: Need = Need {
    package: "libc6-dev",
    why: "to link programs",
    is_there: || {
        let found = Command::new("cc").arg("-print-file-name=crt1.o").output();
        // The compiler answers with the bare name when there is no such file.
        found.is_ok_and(|output| output.stdout.starts_with(b"/"))
    },
};

/// What lists the files of the checkout, and what programs are built from.
pub(crate) const GIT: Need = Need {
    package: "git",
    why: "to look through the checkout, and to test builds from git",
    is_there: || is_installed("git"),
};

/// The container engine.
pub(crate) const DOCKER: Need = Need {
    package: "docker.io",
    why: "to test containers on a real engine",
    is_there: || is_installed("dockerd"),
};

/// dockerd does not start without it.
pub(crate) const IPTABLES: Need = Need {
    package: "iptables",
    why: "because dockerd does not start without it",
    is_there: || is_installed("iptables"),
};

/// A second engine that speaks the first one's language.
pub(crate) const PODMAN: Need = Need {
    package: "podman",
    why: "to test containers on the other engine",
    is_there: || is_installed("podman"),
};

/// Podman publishes ports with it.
pub(crate) const NETAVARK: Need = Need {
    package: "netavark",
    why: "because Podman publishes ports with it",
    is_there: || Path::new("/usr/lib/podman/netavark").is_file(),
};

/// Several hosts on one machine are network namespaces, and a network of Podman's own needs its loopback up.
pub(crate) const IPROUTE: Need = Need {
    package: "iproute2",
    why: "to give tests networks of their own",
    is_there: || is_installed("ip"),
};

/// A registry of images that wants a login.
pub(crate) const IMAGE_REGISTRY: Need = Need {
    package: "docker-registry",
    why: "to test pulls that need a login",
    is_there: || is_installed("docker-registry"),
};

/// An origin, and what the proxy is held against.
pub(crate) const NGINX: Need = Need {
    package: "nginx-light",
    why: "to test the proxy in front of it, and to measure it beside it",
    is_there: || {
        Path::new("/usr/sbin/nginx").is_file()
            && Path::new("/usr/lib/nginx/modules/ngx_http_echo_module.so").is_file()
    },
};

/// The same.
pub(crate) const HAPROXY: Need = Need {
    package: "haproxy",
    why: "to test the proxy in front of it, and to measure it beside it",
    is_there: || Path::new("/usr/sbin/haproxy").is_file(),
};

/// The proxy and a server must understand the same requests: servers that people run, each with a parser of its own.
pub(crate) const SERVERS: [Need; 5] = [
    NGINX,
    Need {
        package: "apache2-bin",
        why: "to test the proxy in front of it",
        is_there: || Path::new("/usr/sbin/apache2").is_file(),
    },
    HAPROXY,
    Need {
        package: "nodejs",
        why: "to test the proxy in front of its HTTP server, and for what plays GitHub",
        is_there: || is_installed("node"),
    },
    Need {
        package: "python3",
        why: "to test the proxy in front of its HTTP server",
        is_there: || is_installed("python3"),
    },
];

/// Installs what plays GitHub.
pub(crate) const NPM: Need = Need {
    package: "npm",
    why: "to install what plays GitHub in tests",
    is_there: || is_installed("npm"),
};

/// A server that certificates are ordered from.
pub(crate) const PEBBLE: Need = Need {
    package: "pebble",
    why: "to test orders for certificates",
    is_there: || is_installed("pebble") && is_installed("pebble-challtestsrv"),
};

/// A client that agrees on any TLS there ever was.
pub(crate) const OPENSSL: Need = Need {
    package: "openssl",
    why: "to test what TLS the proxy agrees on",
    is_there: || is_installed("openssl"),
};

/// Load over HTTP/1.1.
pub(crate) const WRK: Need = Need {
    package: "wrk",
    why: "to put load on proxies",
    is_there: || is_installed("wrk"),
};

/// Load over HTTP/2.
pub(crate) const H2LOAD: Need = Need {
    package: "nghttp2-client",
    why: "to put load on proxies over HTTP/2",
    is_there: || is_installed("h2load"),
};

/// Installs those of `needs` that are missing.
pub(crate) fn install(needs: &[Need]) -> Result<(), Fail> {
    let missing: Vec<_> = needs.iter().filter(|need| !(need.is_there)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|need| need.package).collect();
    for need in &missing {
        eprintln!("{} is missing; it is needed {}", need.package, need.why);
    }
    let is_root =
        fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    let machine = Machine {
        has_apt: is_installed("apt-get"),
        is_root,
        has_sudo: is_installed("sudo"),
    };
    let way = machine.way(&packages).map_err(Fail::new)?;
    step("package lists", way.apt().args(["-qq", "update"]))?;
    step(
        &format!("install {}", packages.join(" ")),
        way.apt()
            .args(["-qq", "install", "-y", "--no-install-recommends"])
            .args(&packages),
    )?;
    match missing.iter().find(|need| !(need.is_there)()) {
        Some(need) => Err(Fail::new(format!(
            "{} was installed, and what it should bring still isn't there",
            need.package
        ))),
        None => Ok(()),
    }
}

/// What this machine can do about a missing package.
struct Machine {
    has_apt: bool,
    is_root: bool,
    has_sudo: bool,
}

/// How apt-get is run.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Root,
    Sudo,
}

impl Machine {
    /// How `packages` get here, or what a person has to do instead.
    fn way(&self, packages: &[&str]) -> Result<Way, String> {
        let packages = packages.join(" ");
        match self {
            Self { has_apt: false, .. } => Err(format!(
                "this is not Debian or a relative of it: install these with your package manager (names may differ), then run \
                 this again: {packages}"
            )),
            Self { is_root: true, .. } => Ok(Way::Root),
            Self { has_sudo: true, .. } => Ok(Way::Sudo),
            _ => Err(format!(
                "installing packages needs root, and there is no sudo: run `apt-get install --no-install-recommends {packages}` as \
                 root, then this again"
            )),
        }
    }
}

impl Way {
    fn apt(&self) -> Command {
        let mut command = match self {
            Self::Root => Command::new("apt-get"),
            Self::Sudo => {
                eprintln!("(with sudo: installing packages needs root)");
                let mut sudo = Command::new("sudo");
                // Variables set for this process don't pass through sudo.
                sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
                sudo
            }
        };
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_what_only_a_person_can_do() {
        let way = |has_apt, is_root, has_sudo| {
            let machine = Machine {
                has_apt,
                is_root,
                has_sudo,
            };
            machine.way(&["postgresql", "gcc"])
        };
        assert_eq!(way(true, true, true), Ok(Way::Root));
        assert_eq!(way(true, false, true), Ok(Way::Sudo));
        for (other, is_about) in [
            (way(false, true, true), "not Debian"),
            (way(true, false, false), "no sudo"),
        ] {
            let said = other.expect_err("nothing can be installed");
            assert!(
                said.contains("postgresql gcc") && said.contains(is_about),
                "{said}"
            );
        }
    }
}
