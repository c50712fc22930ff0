//! A hostile program: it tries to get out of its task, by name, and says of each attempt whether it was held. Built
//! by the tests with rustc alone.
//!
//! Every line of output is `held WALL NAME: why` or `ESCAPED WALL NAME: what it got`. `ONLY` picks names, separated
//! by blanks. What it is to attack is told by variables; see `escape.rs` beside this folder.

use std::{
    env,
    ffi::{CString, c_char, c_int, c_long},
    fs, io,
    io::{Read, Write},
    mem::size_of,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt,
        unix::{fs::symlink, net::{SocketAddr as UnixAddr, UnixStream}},
    },
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// What came of an attempt: what was got, or why nothing was.
type Attempt = Result<String, String>;

// Attacks are calls that no safe library offers; this program shares nothing with the platform.
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn fork() -> c_int;
    fn setsid() -> c_int;
    fn setrlimit(resource: c_int, limit: *const [u64; 2]) -> c_int;
    fn mknod(path: *const c_char, mode: u32, device: u64) -> c_int;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(socket: c_int, address: *const u8, length: u32) -> c_int;
    fn setsockopt(socket: c_int, level: c_int, name: c_int, value: *const c_int, length: u32) -> c_int;
    fn setpriority(which: c_int, who: u32, priority: c_int) -> c_int;
    fn sched_setscheduler(pid: c_int, policy: c_int, priority: *const c_int) -> c_int;
    fn setuid(uid: u32) -> c_int;
    fn setgid(gid: u32) -> c_int;
    fn setgroups(count: usize, groups: *const u32) -> c_int;
    fn ioctl(descriptor: c_int, request: u64, ...) -> c_int;
}

fn main() {
    match env::var("MODE").as_deref() {
        Ok("fork-bomb") => return fork_bomb(),
        Ok("memory-bomb") => return memory_bomb(),
        Ok("daemon") => return daemon(),
        Ok("flood") => return flood(),
        _ => {}
    }
    let only = env::var("ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    let mut tried = 0;
    for (wall, attempts) in [
        ("files", FILES),
        ("namespaces", NAMESPACES),
        ("seccomp", CALLS),
        ("users", RIGHTS),
        ("landlock", SOCKETS),
        ("ports", PORTS),
        ("metadata", METADATA),
        ("keys", KEYS),
    ] {
        for (name, attempt) in attempts {
            if !only.is_empty() && !only.contains(name) {
                continue;
            }
            tried += 1;
            match attempt() {
                Ok(what) => println!("ESCAPED {wall} {name}: {what}"),
                Err(why) => println!("held {wall} {name}: {why}"),
            }
        }
    }
    println!("tried {tried}");
}

type Named = (&'static str, fn() -> Attempt);

const FILES: &[Named] = &[
    ("read-open-file", || read(&var("OPEN_FILE"))),
    ("read-agent-credential", || read(&format!("{}/identity.json", var("DATA_DIR")))),
    ("list-agent-data", || list(&var("DATA_DIR"))),
    ("list-tasks", || list(&format!("{}/tasks", var("DATA_DIR")))),
    ("list-artifacts", || list(&format!("{}/artifacts", var("DATA_DIR")))),
    ("read-passwords", || read("/etc/shadow")),
    ("list-homes", || list("/root")),
    ("list-system", || list("/var/lib")),
    ("climb-out", || read(&format!("{}{}", "../".repeat(40), var("OPEN_FILE")))),
    ("leave-by-root-of-init", || read(&format!("/proc/1/root{}", var("OPEN_FILE")))),
    ("read-through-link", read_through_link),
    ("write-open-directory", || write(&format!("{}/mine", var("OPEN_DIR")))),
    ("write-system", || write("/usr/bin/zectre-escape")),
    ("write-settings", || write("/etc/zectre-escape")),
    ("write-root", || write("/zectre-escape")),
    ("write-own-program", || write("/proc/self/exe")),
    ("write-artifact", || write_over("/app/program")),
    ("steal-by-hard-link", || {
        let to = format!("{}/stolen", home());
        fs::hard_link("/usr/bin/env", &to).map(|()| "linked a system file".into()).map_err(said)
    }),
    ("make-device", make_device),
    ("open-kernel-log", || read("/dev/kmsg")),
    ("open-memory", || open_any(&["/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore"])),
    ("open-disk", || open_any(&["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0", "/dev/loop-control"])),
    ("open-other-devices", || open_any(&["/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/vsock", "/dev/ptmx"])),
    ("set-core-pattern", || write_over("/proc/sys/kernel/core_pattern")),
    ("set-kernel-settings", || write_over("/proc/sys/vm/overcommit_memory")),
    ("press-sysrq", || write_over("/proc/sysrq-trigger")),
    ("write-sysfs", || list("/sys/kernel")),
    ("raise-own-limits", raise_limits),
    ("see-other-control-groups", || list("/sys/fs/cgroup/memory/zectre").or_else(|_| list("/sys/fs/cgroup/zectre"))),
    ("reach-engine", || UnixStream::connect("/var/run/docker.sock").map(|_| "connected".into()).map_err(said)),
    ("reach-open-socket", || UnixStream::connect(var("SOCKET")).map(|_| "connected".into()).map_err(said)),
    ("fill-scratch", fill_scratch),
    ("fill-scratch-with-files", fill_with_files),
    ("inherit-open-files", inherited),
];

const NAMESPACES: &[Named] = &[
    ("see-other-processes", see_others),
    ("read-victim-environment", || read(&format!("/proc/{}/environ", var("VICTIM_PID")))),
    ("read-victim-command", || read(&format!("/proc/{}/cmdline", var("VICTIM_PID")))),
    ("enter-victim-files", || list(&format!("/proc/{}/root/", var("VICTIM_PID")))),
    ("read-init-environment", || read("/proc/1/environ")),
    ("read-init-memory", || open_any(&["/proc/1/mem", "/proc/1/maps"])),
    ("list-init-files", || list("/proc/1/fd")),
    ("signal-victim", || signal(&var("VICTIM_PID"))),
    ("signal-agent", || signal(&var("AGENT_PID"))),
    ("signal-supervisor", || signal(&var("SHIM_PID"))),
    ("signal-init", || signal("1")),
    ("open-victim-handle", || {
        let pid = number("VICTIM_PID");
        raw(434, [pid, 0, 0, 0, 0]).map(|_| "a handle of the victim".into()).map_err(said)
    }),
];

const CALLS: &[Named] = &[
    ("mount", || refused(nr(165, 40), [0; 5])),
    ("unmount", || refused(nr(166, 39), [0; 5])),
    ("pivot-root", || refused(nr(155, 41), [0; 5])),
    ("chroot", || refused(nr(161, 51), [0; 5])),
    ("open-file-system", || refused(430, [0; 5])),
    ("clone-mount", || refused(428, [-1, 0, 0, 0, 0])),
    ("move-mount", || refused(429, [-1, 0, -1, 0, 0])),
    ("change-mount", || refused(442, [-1, 0, 0, 0, 0])),
    ("new-user-namespace", || refused(nr(272, 97), [0x1000_0000, 0, 0, 0, 0])),
    ("new-mount-namespace", || refused(nr(272, 97), [0x2_0000, 0, 0, 0, 0])),
    ("new-network-namespace", || refused(nr(272, 97), [0x4000_0000, 0, 0, 0, 0])),
    // CLONE_NEWUSER with SIGCHLD.
    ("clone-into-user-namespace", || refused(nr(56, 220), [0x1000_0011, 0, 0, 0, 0])),
    ("clone3", || refused(435, [0; 5])),
    ("enter-namespace", || refused(nr(308, 268), [-1, 0, 0, 0, 0])),
    ("trace", || refused(nr(101, 117), [16, number("VICTIM_PID"), 0, 0, 0])),
    ("be-traced", || refused(nr(101, 117), [0; 5])),
    ("read-other-memory", || refused(nr(310, 270), [1, 0, 0, 0, 0])),
    ("write-other-memory", || refused(nr(311, 271), [1, 0, 0, 0, 0])),
    ("take-other-files", || refused(438, [-1, 0, 0, 0, 0])),
    ("compare-processes", || refused(nr(312, 272), [1, 1, 0, 0, 0])),
    ("open-by-handle", || refused(nr(304, 265), [-1, 0, 0, 0, 0])),
    ("load-bpf", || refused(nr(321, 280), [0; 5])),
    ("count-events", || refused(nr(298, 241), [0, 0, -1, -1, 0])),
    ("handle-page-faults", || refused(nr(323, 282), [0; 5])),
    ("use-keys", || refused(nr(250, 219), [0, -3, 0, 0, 0])),
    ("add-key", || refused(nr(248, 217), [0; 5])),
    ("io-uring", || refused(425, [8, 0, 0, 0, 0])),
    ("load-kernel", || refused(nr(246, 104), [0; 5])),
    ("load-module", || refused(nr(175, 105), [0; 5])),
    ("load-module-file", || refused(nr(313, 273), [-1, 0, 0, 0, 0])),
    ("remove-module", || refused(nr(176, 106), [0; 5])),
    ("reboot", || refused(nr(169, 142), [0; 5])),
    ("read-kernel-log", || refused(nr(103, 116), [10, 0, 0, 0, 0])),
    ("set-clock", || refused(nr(227, 112), [0; 5])),
    ("set-time", || refused(nr(164, 170), [0; 5])),
    ("set-host-name", || refused(nr(170, 161), [0; 5])),
    ("swap", || refused(nr(167, 224), [0; 5])),
    ("account", || refused(nr(163, 89), [0; 5])),
    ("set-quota", || refused(nr(179, 60), [0; 5])),
    ("watch-all-files", || refused(nr(300, 262), [0; 5])),
    ("run-as-another-kernel", || refused(nr(135, 92), [0x040_0000, 0, 0, 0, 0])),
    ("call-the-unknown", || refused(9_999, [0; 5])),
    ("call-the-second-table", || refused(0x4000_0000 + 39, [0; 5])),
    ("raw-socket", || no_socket(2, 3, 1)),
    ("packet-socket", || no_socket(17, 3, 0)),
    ("hypervisor-socket", || no_socket(40, 1, 0)),
    ("crypto-socket", || no_socket(38, 5, 0)),
    ("bluetooth-socket", || no_socket(31, 3, 0)),
    ("audit-socket", || no_socket(16, 3, 9)),
    ("list-sockets-of-all", || no_socket(16, 3, 4)),
    ("hear-kernel-events", || no_socket(16, 3, 15)),
    ("multipath-socket", || no_socket(2, 1, 262)),
    // Keeps the size, so that nobody sees it: a terabyte.
    ("take-disk-through-output", || match raw(nr(285, 47), [1, 1, 0, 1 << 40, 0]) {
        Err(error) if error.raw_os_error() == Some(95) => Err(said(error)),
        other => Ok(format!("{other:?}")),
    }),
    ("type-into-terminal", || {
        let byte = b'x';
        // TIOCSTI
        let done = unsafe { ioctl(0, 0x5412, &raw const byte) };
        only_refusals(done.into())
    }),
];

const RIGHTS: &[Named] = &[
    ("become-root", || done(unsafe { setuid(0) }, "root")),
    ("become-roots-group", || done(unsafe { setgid(0) }, "root's group")),
    ("become-another-user", || done(unsafe { setuid(1) }, "another user")),
    ("join-groups", || done(unsafe { setgroups(1, &0) }, "a group")),
    ("take-capabilities", take_capabilities),
    ("have-capabilities", have_capabilities),
    ("use-set-user-id-program", set_user_id),
    ("run-before-all-others", || done(unsafe { setpriority(0, 0, -20) }, "a higher priority")),
    ("run-in-real-time", || done(unsafe { sched_setscheduler(0, 1, &1) }, "real time")),
    ("have-more-open-files", || done(unsafe { setrlimit(7, &[1 << 20, 1 << 20]) }, "a million open files")),
    ("leave-core-files", || done(unsafe { setrlimit(4, &[1 << 20, 1 << 20]) }, "core files")),
    ("exhaust-open-files", exhaust_open_files),
];

const SOCKETS: &[Named] = &[("reach-abstract-socket", || {
    let address = UnixAddr::from_abstract_name(var("ABSTRACT")).map_err(said)?;
    UnixStream::connect_addr(&address).map(|_| "connected".into()).map_err(said)
})];

const PORTS: &[Named] = &[
    ("listen-elsewhere", || listen(number("FREE_PORT"))),
    ("share-victims-port", || listen(number("VICTIM_PORT"))),
    ("listen-on-agents-port", || listen(number("AGENT_PORT"))),
    ("listen-on-privileged-port", || listen(80)),
];

const METADATA: &[Named] = &[
    ("metadata-by-tcp", || connect((Ipv4Addr::new(169, 254, 169, 254), 80).into())),
    ("metadata-of-containers", || connect((Ipv4Addr::new(169, 254, 170, 2), 80).into())),
    ("metadata-of-azure", || connect((Ipv4Addr::new(168, 63, 129, 16), 80).into())),
    ("metadata-of-alibaba", || connect((Ipv4Addr::new(100, 100, 100, 200), 80).into())),
    ("metadata-by-ipv6", || connect((Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 80).into())),
    ("metadata-by-udp", || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(said)?;
        let sent = socket.send_to(b"x", (Ipv4Addr::new(169, 254, 169, 254), 80));
        sent.map(|_| "sent".into()).map_err(said)
    }),
];

const KEYS: &[Named] = &[
    ("order-the-agent", || ask_agent("POST /api/v1/actions", "{\"leader_epoch\":9,\"actions\":[]}")),
    ("read-others-output", || {
        ask_agent(&format!("GET /api/v1/tasks/{}/logs/stream", var("VICTIM_TASK")), "")
    }),
];

/// As whoever can connect, and with a made-up credential.
fn ask_agent(request: &str, body: &str) -> Attempt {
    for credential in ["", "authorization: Bearer zj_guess\r\n"] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, number("AGENT_PORT") as u16)).map_err(said)?;
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\ncontent-type: application/json\r\n\
             {credential}content-length: {length}\r\n\r\n{body}"
        )
        .map_err(said)?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).map_err(said)?;
        if &status != b"HTTP/1.1 401" {
            return Ok(String::from_utf8_lossy(&status).into_owned());
        }
    }
    Err("401".into())
}

fn said(error: io::Error) -> String {
    error.to_string()
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| format!("/no-{name}"))
}

fn number(name: &str) -> i64 {
    var(name).parse().unwrap_or(-1)
}

fn home() -> String {
    var("HOME")
}

const fn nr(x86_64: i64, aarch64: i64) -> i64 {
    if cfg!(target_arch = "x86_64") { x86_64 } else { aarch64 }
}

fn raw(number: i64, args: [i64; 5]) -> io::Result<i64> {
    let [a, b, c, d, e] = args;
    let done = unsafe { syscall(number, a, b, c, d, e, 0_i64) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// Nonsense arguments: whatever else the kernel says, it has looked at them.
fn refused(number: i64, args: [i64; 5]) -> Attempt {
    match raw(number, args) {
        Ok(done) => Ok(format!("the call was carried out: {done}")),
        Err(_) => only_refusals(-1),
    }
}

/// EPERM, EACCES and ENOSYS are refusals; every other answer comes from behind the wall.
fn only_refusals(done: i64) -> Attempt {
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        _ if done >= 0 => Ok("it was carried out".into()),
        Some(1 | 13 | 38) => Err(said(error)),
        _ => Ok(format!("the kernel looked at it: {error}")),
    }
}

fn done(result: c_int, what: &str) -> Attempt {
    if result == 0 { Ok(what.into()) } else { Err(said(io::Error::last_os_error())) }
}

fn read(path: &str) -> Attempt {
    let mut file = fs::File::open(path).map_err(said)?;
    let mut start = [0; 64];
    let length = file.read(&mut start).map_err(said)?;
    Ok(format!("{path}: {}", String::from_utf8_lossy(&start[..length])))
}

fn list(path: &str) -> Attempt {
    let entries = fs::read_dir(path).map_err(said)?;
    match entries.flatten().next() {
        Some(entry) => Ok(format!("{path} has {:?}", entry.file_name())),
        None => Err("it is empty".into()),
    }
}

fn write(path: &str) -> Attempt {
    fs::write(path, "escaped").map(|()| format!("wrote {path}")).map_err(said)
}

fn write_over(path: &str) -> Attempt {
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened.map(|_| format!("opened {path} for writing")).map_err(said)
}

fn open_any(paths: &[&str]) -> Attempt {
    for path in paths {
        if fs::File::open(path).is_ok() {
            return Ok(format!("opened {path}"));
        }
    }
    Err("none can be opened".into())
}

fn read_through_link() -> Attempt {
    let link = format!("{}/link", home());
    symlink(var("OPEN_FILE"), &link).map_err(said)?;
    read(&link)
}

/// In whatever version of control groups there is.
fn raise_limits() -> Attempt {
    const LIMITS: [&str; 5] = ["memory.limit_in_bytes", "memory.max", "pids.max", "cpu.cfs_quota_us", "cgroup.procs"];
    for dir in ["", "memory/", "pids/", "cpu/", "cpu,cpuacct/", "unified/"] {
        for limit in LIMITS {
            let path = format!("/sys/fs/cgroup/{dir}{limit}");
            if fs::OpenOptions::new().write(true).open(&path).is_ok() {
                return Ok(format!("opened {path} for writing"));
            }
        }
        if fs::create_dir(format!("/sys/fs/cgroup/{dir}mine")).is_ok() {
            return Ok("made a group".into());
        }
    }
    Err("nothing can be written".into())
}

fn make_device() -> Attempt {
    let path = CString::new(format!("{}/disk", home())).expect("no zero byte");
    // A block device; 254:0 is the first disk of most virtual machines.
    done(unsafe { mknod(path.as_ptr(), 0o060_666, 254 << 8) }, "a disk")
}

/// The bound is the test's; more than that is an escape.
fn fill_scratch() -> Attempt {
    let most = number("SCRATCH_BYTES") as u64;
    let mut total = 0;
    for dir in [home(), env::var("TMPDIR").unwrap_or("/tmp".into()), "/dev/shm".into(), "/var/tmp".into()] {
        let Ok(mut file) = fs::File::create(format!("{dir}/fill")) else { continue };
        let piece = vec![1; 1 << 20];
        while total <= most {
            match file.write(&piece) {
                Ok(written) if written > 0 => total += written as u64,
                _ => break,
            }
        }
    }
    for dir in [home(), "/tmp".into(), "/dev/shm".into()] {
        let _ = fs::remove_file(format!("{dir}/fill"));
    }
    if total > most { Ok(format!("{total} bytes")) } else { Err(format!("full after {total} bytes")) }
}

fn fill_with_files() -> Attempt {
    const MOST: usize = 200_000;
    let made = (0..MOST).take_while(|index| fs::write(format!("{}/f{index}", home()), "").is_ok()).count();
    (0..made).for_each(|index| drop(fs::remove_file(format!("{}/f{index}", home()))));
    if made == MOST { Ok(format!("{made} files")) } else { Err(format!("full after {made} files")) }
}

fn inherited() -> Attempt {
    let open = fs::read_dir("/proc/self/fd").map_err(said)?;
    let names: Vec<i32> = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The standard three, and the one that lists them.
    let more: Vec<_> = names.iter().filter(|name| **name > 3).collect();
    if more.is_empty() { Err("nothing beyond the standard three".into()) } else { Ok(format!("{more:?}")) }
}

fn see_others() -> Attempt {
    let pids: Vec<i32> = fs::read_dir("/proc")
        .map_err(said)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let me = std::process::id() as i32;
    let others: Vec<_> = pids.into_iter().filter(|pid| *pid != me).collect();
    if others.is_empty() { Err("there is nobody else".into()) } else { Ok(format!("processes {others:?}")) }
}

/// Signal 0 only asks whether one could.
fn signal(pid: &str) -> Attempt {
    let pid: c_int = pid.parse().map_err(|_| "no such number".to_owned())?;
    done(unsafe { kill(pid, 0) }, "a signal would arrive")
}

fn take_capabilities() -> Attempt {
    // _LINUX_CAPABILITY_VERSION_3, own process; everything effective, permitted, inheritable.
    let header = [0x2008_0522_u32, 0];
    let all = [u32::MAX; 6];
    raw(nr(126, 91), [header.as_ptr() as i64, all.as_ptr() as i64, 0, 0, 0])
        .map(|_| "all of them".into())
        .map_err(said)
}

fn have_capabilities() -> Attempt {
    let status = fs::read_to_string("/proc/self/status").map_err(said)?;
    let held = status.lines().find(|line| line.starts_with("Cap") && !line.ends_with("\t0000000000000000"));
    held.map_or_else(|| Err("all sets are empty".into()), |line| Ok(line.into()))
}

/// A copy of a shell with the bit set, and the system's own.
fn set_user_id() -> Attempt {
    use std::os::unix::fs::PermissionsExt;
    let copy = format!("{}/shell", home());
    let _ = fs::copy("/bin/sh", &copy);
    let _ = fs::set_permissions(&copy, fs::Permissions::from_mode(0o6755));
    for (program, args) in [(&*copy, ["-pc", "id -u"]), ("/bin/su", ["-c", "id -u"])] {
        let output = Command::new(program).args(args).output();
        if output.is_ok_and(|output| output.stdout == b"0\n") {
            return Ok(format!("{program} ran as root"));
        }
    }
    Err("nobody became root".into())
}

fn exhaust_open_files() -> Attempt {
    const MOST: usize = 100_000;
    let mut held = Vec::new();
    while held.len() < MOST {
        match fs::File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(error) => return Err(format!("after {}: {error}", held.len())),
        }
    }
    Ok(format!("{MOST} open files"))
}

fn no_socket(family: c_int, kind: c_int, protocol: c_int) -> Attempt {
    let made = unsafe { socket(family, kind, protocol) };
    let attempt = only_refusals(made.into());
    if made >= 0 {
        drop(unsafe { OwnedFd::from_raw_fd(made as RawFd) });
    }
    attempt
}

/// With SO_REUSEPORT, as one who would share in silence.
fn listen(port: i64) -> Attempt {
    let made = unsafe { socket(2, 1, 0) };
    if made < 0 {
        return Err(said(io::Error::last_os_error()));
    }
    let held = unsafe { OwnedFd::from_raw_fd(made as RawFd) };
    let mut address = [0; 16];
    address[0..2].copy_from_slice(&2_u16.to_ne_bytes());
    address[2..4].copy_from_slice(&(port as u16).to_be_bytes());
    let bound = unsafe {
        setsockopt(made, 1, 15, &1, size_of::<c_int>() as u32);
        bind(made, address.as_ptr(), 16)
    };
    // A port that is taken was looked at too.
    let attempt = only_refusals(bound.into());
    drop(held);
    attempt
}

/// Only an answer of this machine itself is a wall; silence could be the network's.
fn connect(to: SocketAddr) -> Attempt {
    let began = Instant::now();
    match TcpStream::connect_timeout(&to, Duration::from_secs(3)) {
        Ok(_) => Ok("connected".into()),
        Err(error) if error.kind() == io::ErrorKind::TimedOut || began.elapsed() > Duration::from_secs(2) => {
            Ok(format!("packets were sent: {error}"))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok("somebody answered".into()),
        Err(error) => Err(said(error)),
    }
}

/// Processes without end; each stays.
fn fork_bomb() {
    let mut made = 0;
    loop {
        match unsafe { fork() } {
            0 => loop {
                thread::park_timeout(Duration::from_secs(3_600));
            },
            -1 => break,
            _ => made += 1,
        }
        if made > 100_000 {
            break;
        }
    }
    println!("processes {made}");
    loop {
        thread::park_timeout(Duration::from_secs(3_600));
    }
}

/// Memory that isn't its own: files in memory, which no counter of a process shows.
fn memory_bomb() {
    let mut held = Vec::new();
    loop {
        let made = unsafe { syscall(nr(319, 279), c"bomb".as_ptr(), 0_i64) };
        if made < 0 {
            println!("no more: {}", io::Error::last_os_error());
            return;
        }
        let mut file = fs::File::from(unsafe { OwnedFd::from_raw_fd(made as RawFd) });
        file.write_all(&vec![1; 4 << 20]).expect("written");
        held.push(file);
    }
}

/// Leaves a server behind that has let go of everything: session, parent, output.
fn daemon() {
    let port = number("PORT") as u16;
    if unsafe { fork() } == 0 {
        unsafe { setsid() };
        if unsafe { fork() } == 0 {
            // First, because all of it may be ended from the moment the port answers.
            println!("left behind");
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bound");
            for stream in listener.incoming().flatten() {
                drop(stream);
            }
        }
        return;
    }
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Output as fast as it goes.
fn flood() {
    let line = [b"flood ".repeat(1_000), vec![b'\n']].concat();
    let bytes_max = number("FLOOD_BYTES") as usize;
    let mut out = io::stdout().lock();
    for _ in 0..bytes_max / line.len() {
        out.write_all(&line).expect("written");
    }
    println!("flooded");
}
