//! The agent's tests on a machine with nothing but control groups v2: Debian's own kernel in QEMU, over this machine's
//! files (which it can't change).
//!
//! Most machines of developers and of CI have v1 or both. The virtual machine emulates its processor, so it works
//! anywhere and is slow: what is asserted about times is given more of it, and the tests that count starts or crashes by
//! the hundred, and those of container engines, stay outside.

use crate::{
    fail::Fail,
    packages::{Need, install},
    run::{cargo, is_installed, output, root, step, target_dir},
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const NEEDS: [Need; 4] = [
    Need {
        package: "qemu-system-x86",
        why: "to run another kernel",
        is_there: || is_installed("qemu-system-x86_64"),
    },
    Need {
        package: "busybox-static",
        why: "to start that kernel's first program",
        is_there: || is_installed("busybox"),
    },
    Need {
        package: "cpio",
        why: "to pack that program",
        is_there: || is_installed("cpio"),
    },
    Need {
        package: "kmod",
        why: "to find the modules that the kernel needs",
        is_there: || is_installed("modprobe"),
    },
];
/// What the kernel needs to see this machine's files, and to write beside them.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// The tests that are run, by the beginning of their names.
const TESTS: &str = "^adoption|^escape|^faults|^native|^orders|^output|^walls";
/// Those that are not, and why.
const LEFT_OUT: [(&str, &str); 5] = [
    (
        "cycles",
        "two thousand starts take hours on an emulated processor",
    ),
    (
        "crash",
        "a hundred kills under load take hours on an emulated processor",
    ),
    ("container", "there is no Docker engine in the virtual machine"),
    ("podman", "there is no Podman in the virtual machine"),
    ("disk", "nothing in it depends on control groups"),
];
/// Seconds that a test waits for anything: it takes ten times as long there.
const DEADLINE_SECS: u32 = 480;
/// Seconds of all of it.
const LIMIT_SECS: u32 = 7_200;

/// What the kernel starts.
const INIT: &str = r"#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
while read -r module; do $B insmod /modules/$module; done < /modules/order
$B mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /host
$B mount -t tmpfs -o size=3g tmpfs /beside; $B mkdir /beside/upper /beside/work
$B mount -t overlay -o lowerdir=/host,upperdir=/beside/upper,workdir=/beside/work both /new
for each in dev proc sys; do $B mount --move /$each /new/$each; done
exec $B switch_root /new /bin/bash @SCRIPT@
";

/// What runs then, over this machine's files.
const SCRIPT: &str = r#"export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
for each in /tmp /run /dev/shm; do mkdir -p $each; mount -t tmpfs tmpfs $each; done
mkdir -p /dev/pts; mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t securityfs security /sys/kernel/security
ip link set lo up; ulimit -n 20000
echo "kernel $(uname -r), control groups: $(cat /proc/self/cgroup), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
cd @ROOT@/crates/zectre-agent
export CARGO_MANIFEST_DIR=$PWD ZECTRE_TEST_DEADLINE_SECS=@DEADLINE@ RUSTC=@RUSTC@
for test in $(@TESTS@ --list 2>/dev/null | sed -n 's/: test$//p' | grep -E '@WHICH@'); do
  if timeout 900 @TESTS@ --exact "$test" > /tmp/said 2>&1; then echo "PASS $test"; else
    echo "FAIL $test"; grep -A12 panicked /tmp/said; fi
done
echo THE-END; sync; echo o > /proc/sysrq-trigger; sleep 10
"#;

/// Builds the tests, makes the machine and runs them in it.
pub(crate) fn run() -> Result<(), Fail> {
    install(&NEEDS)?;
    let tests = built_tests()?;
    let room = target_dir().join("cgroup2");
    fs::create_dir_all(&room).map_err(|error| failed(&room, &error))?;
    let kernel = kernel(&room)?;
    let script = room.join("script.sh");
    let text = SCRIPT
        .replace("@ROOT@", &root().display().to_string())
        .replace("@TESTS@", &tests.display().to_string())
        .replace("@RUSTC@", &rustc()?)
        .replace("@WHICH@", TESTS)
        .replace("@DEADLINE@", &DEADLINE_SECS.to_string());
    fs::write(&script, text).map_err(|error| failed(&script, &error))?;
    let ram_disk = ram_disk(&room, &kernel, &script)?;
    eprintln!("\n==> the agent's tests in the virtual machine (some twenty minutes)");
    for (tests, why) in LEFT_OUT {
        eprintln!("    LEFT OUT {tests}::*: {why}");
    }
    let mut machine = Command::new("timeout");
    machine
        .args([&LIMIT_SECS.to_string(), "qemu-system-x86_64"])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "6144",
        ])
        .args(["-nographic", "-no-reboot", "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(ram_disk)
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 lsm=landlock,lockdown,yama cgroup_no_v1=all",
        ])
        .args([
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ])
        .args(["-device", "virtio-rng-pci"])
        .stdin(Stdio::null());
    judge(&output(&mut machine)?)
}

/// Says how each test ended.
fn judge(said: &str) -> Result<(), Fail> {
    let lines = || said.lines().map(str::trim_end);
    for line in lines().filter(|line| !line.starts_with('[')) {
        eprintln!("    {line}");
    }
    let count = |word: &str| lines().filter(|line| line.starts_with(word)).count();
    if !lines().any(|line| line.ends_with("THE-END")) {
        return Err(Fail::new("the virtual machine ended before its tests did"));
    }
    match (count("PASS "), count("FAIL ")) {
        (0, 0) => Err(Fail::new("no test ran in the virtual machine")),
        (passed, 0) => {
            eprintln!("    {passed} passed with nothing but control groups v2");
            Ok(())
        }
        (passed, failed) => Err(Fail::new(format!(
            "{failed} of {} tests failed in the virtual machine",
            passed + failed
        ))),
    }
}

/// The agent's service tests, and the programs that they start.
fn built_tests() -> Result<PathBuf, Fail> {
    let mut build = cargo();
    build.args(["test", "--locked", "--package", "zectre-agent", "--no-run"]);
    step("build the agent's tests", &mut build)?;
    build.args(["--test", "service", "--message-format", "json"]);
    let said = output(&mut build)?;
    // The one executable that is a test; a parser of JSON for one word would be more than this.
    let executable = said.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(r#""executable":""#)?;
        let (path, _) = rest.split_once('"')?;
        path.rsplit('/')
            .next()?
            .starts_with("service-")
            .then(|| PathBuf::from(path))
    });
    executable.ok_or_else(|| Fail::new("cargo does not say where the agent's tests are"))
}

/// The compiler itself, for programs that tests build: what the search path leads to may only choose one.
fn rustc() -> Result<String, Fail> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(format!("{}/bin/rustc", sysroot.trim()))
}

/// Debian's kernel.
struct Kernel {
    image: PathBuf,
    tree: PathBuf,
    version: String,
}

/// Fetches the kernel and unpacks it into a directory of ours: nothing of it is installed.
fn kernel(room: &Path) -> Result<Kernel, Fail> {
    let tree = room.join("kernel");
    if !tree.join("boot").is_dir() {
        let depends = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
        let package = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .ok_or_else(|| Fail::new("this Debian has no package linux-image-amd64"))?;
        let mut fetch = Command::new("apt-get");
        step(
            "fetch the kernel",
            fetch.args(["-qq", "download", package]).current_dir(room),
        )?;
        let archive = first_in(room, |name| name.starts_with("linux-image-"))?;
        step(
            "unpack the kernel",
            Command::new("dpkg").arg("-x").arg(archive).arg(&tree),
        )?;
    }
    let image = first_in(&tree.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let name = image
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let version = name.trim_start_matches("vmlinuz-").to_owned();
    step(
        "list its modules",
        Command::new("depmod").arg("-b").arg(&tree).arg(&version),
    )?;
    Ok(Kernel { image, tree, version })
}

/// The first files that the kernel sees: a shell, its modules, and what to do with them.
fn ram_disk(room: &Path, kernel: &Kernel, script: &Path) -> Result<PathBuf, Fail> {
    let disk = room.join("disk");
    let io = |error: std::io::Error| failed(&disk, &error);
    if disk.exists() {
        fs::remove_dir_all(&disk).map_err(io)?;
    }
    for directory in ["bin", "modules", "proc", "sys", "dev", "host", "beside", "new"] {
        fs::create_dir_all(disk.join(directory)).map_err(io)?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|path| path.is_file());
    let busybox = busybox.ok_or_else(|| Fail::new("busybox is not where Debian puts it"))?;
    fs::copy(busybox, disk.join("bin/busybox")).map_err(io)?;
    symlink("busybox", disk.join("bin/sh")).map_err(io)?;
    let mut order = Vec::new();
    for module in MODULES {
        let mut show = Command::new("modprobe");
        show.args(["--show-depends", "--set-version", &kernel.version, "--dirname"]);
        let listed = output(show.arg(&kernel.tree).arg(module))?;
        for path in listed.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = Path::new(path.trim());
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            fs::copy(path, disk.join("modules").join(&name)).map_err(io)?;
            if !order.contains(&name) {
                order.push(name);
            }
        }
    }
    fs::write(disk.join("modules/order"), order.join("\n") + "\n").map_err(io)?;
    let init = INIT.replace("@SCRIPT@", &script.display().to_string());
    fs::write(disk.join("init"), init).map_err(io)?;
    fs::set_permissions(disk.join("init"), fs::Permissions::from_mode(0o755)).map_err(io)?;
    let packed = room.join("disk.cpio");
    let mut pack = Command::new("sh");
    // Both names are ours; the list of files goes through a pipe.
    pack.args(["-c", "find . | cpio --quiet -o -H newc > ../disk.cpio"])
        .current_dir(&disk);
    step("pack its first files", &mut pack)?;
    Ok(packed)
}

fn first_in(directory: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf, Fail> {
    let entries = fs::read_dir(directory).map_err(|error| failed(directory, &error))?;
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| is_it(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    let last = paths.pop();
    last.ok_or_else(|| Fail::new(format!("what was fetched is not in {}", directory.display())))
}

fn failed(path: &Path, error: &std::io::Error) -> Fail {
    Fail::new(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tests are made of; nothing in it is a test.
    const SUPPORT: [&str; 3] = ["agent", "peers", "world"];

    #[test]
    fn every_file_of_tests_is_run_or_said_to_be_left_out() {
        let main = root().join("crates/zectre-agent/tests/service/main.rs");
        let main = fs::read_to_string(main).expect("the agent has service tests");
        let modules: Vec<&str> = main
            .lines()
            .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
            .collect();
        assert!(modules.len() > 10, "{modules:?}");
        let run = |module: &str| TESTS.split('|').any(|test| test == format!("^{module}"));
        let left_out = |module: &str| LEFT_OUT.iter().any(|(tests, _)| *tests == module);
        for module in modules.into_iter().filter(|module| !SUPPORT.contains(module)) {
            assert!(run(module) != left_out(module), "{module}");
        }
    }
}
