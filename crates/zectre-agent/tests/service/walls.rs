//! Every wall that this machine can have stands. Other tests excuse what the node's report says is missing, so what may be
//! missing is found out here by other means.

use crate::{agent::Agent, world::World};
use landlock::{Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use zectre_common::wire::node::Enforcement;

/// Whether a tool of the machine's succeeds.
fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Namespaces, as the system's own tool makes them.
fn has_namespaces() -> bool {
    let kinds = [
        "--pid",
        "--mount",
        "--ipc",
        "--uts",
        "--cgroup",
        "--fork",
        "--mount-proc",
        "true",
    ];
    succeeds("unshare", &kinds)
}

fn has_seccomp() -> bool {
    fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok_and(|known| known.contains("errno"))
}

/// Files, ports and scopes: none of the three may be left out silently.
fn has_landlock() -> bool {
    let hard = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let handled = hard
        .handle_access(AccessFs::from_all(landlock::ABI::V1))
        .and_then(|rules| rules.handle_access(AccessNet::BindTcp))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket));
    handled.and_then(Ruleset::create).is_ok()
}

/// A control group with a limit can be made and removed.
fn has_controller(name: &str, limit: &str, value: &str) -> bool {
    let group = |base: PathBuf| base.join(format!("zectre-probe-{}", std::process::id()));
    let v1 = Path::new("/sys/fs/cgroup").join(name);
    if v1.is_dir() {
        let dir = group(v1);
        let set = fs::create_dir(&dir).and_then(|()| fs::write(dir.join(limit), value));
        let _ = fs::remove_dir(&dir);
        return set.is_ok();
    }
    let known = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let delegated = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{name}"));
    known.split_whitespace().any(|word| word == name) && delegated.is_ok()
}

/// Routing rules for a user, as the system's own tool makes them.
fn has_user_rules() -> bool {
    let rule = "to 169.254.0.0/16 uidrange 3999999999-3999999999 prohibit priority 31999";
    let words = |verb| -> Vec<&str> { ["rule", verb].into_iter().chain(rule.split(' ')).collect() };
    succeeds("ip", &words("add")) && succeeds("ip", &words("del"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wall_is_missing_that_this_machine_can_have() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let report: Enforcement = node.enforcement;
    let is_root = rustix::process::geteuid().is_root();
    let walls = [
        ("users", is_root, report.users),
        ("namespaces", is_root && has_namespaces(), report.namespaces),
        ("files", is_root && has_namespaces(), report.files),
        ("seccomp", has_seccomp(), report.seccomp),
        ("landlock", has_landlock(), report.landlock >= 6),
        ("ports", has_landlock(), report.ports),
        ("metadata", is_root && has_user_rules(), report.metadata),
        (
            "memory",
            has_controller("memory", "memory.limit_in_bytes", "67108864"),
            report.memory,
        ),
        (
            "cpu",
            has_controller("cpu", "cpu.cfs_quota_us", "100000"),
            report.cpu,
        ),
        ("pids", has_controller("pids", "pids.max", "16"), report.pids),
    ];
    let missing: Vec<_> = walls.iter().filter(|(_, can, does)| *can && !does).collect();
    assert!(missing.is_empty(), "{missing:?}: {:?}", report.gaps);
    if walls.iter().all(|(_, can, _)| *can) {
        // What no kernel can do yet.
        let only_udp = matches!(&*report.gaps, [gap] if gap.contains("UDP"));
        assert!(only_udp, "{:?}", report.gaps);
    }
    println!("{walls:?}");
}
