//! A program that does what programs do, and nothing that it shouldn't: all of it must work in a task. Built by the
//! tests with rustc alone, with shared libraries.

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

fn main() {
    if env::args().any(|arg| arg == "again") {
        println!("started again");
        return;
    }
    for (name, does) in [
        ("threads", threads as fn() -> bool),
        ("scratch", scratch),
        ("moves files", move_files),
        ("settings", settings),
        ("certificates", certificates),
        ("names", names),
        ("clock", clock),
        ("children", children),
        ("itself", itself),
        ("who it is", identity),
        ("devices", devices),
        ("local sockets", local_sockets),
        ("ephemeral ports", ephemeral_ports),
        ("its port", own_port),
        ("its own processes", processes),
        ("memory in files", memory_files),
        ("room ahead", room_ahead),
        ("its limits", limits),
    ] {
        println!("{}: {name}", if does() { "works" } else { "BROKEN" });
    }
    println!("all tried");
}

fn threads() -> bool {
    let sum: u64 = (0..16).map(|index| thread::spawn(move || index)).map(|one| one.join().unwrap_or(0)).sum();
    thread::available_parallelism().is_ok() && sum == 120
}

fn scratch() -> bool {
    let home = env::var("HOME").expect("a home");
    [home.as_str(), "/tmp", "/dev/shm", "/var/tmp"].iter().all(|dir| {
        let path = format!("{dir}/file");
        let written = fs::write(&path, "mine").and_then(|()| fs::read(&path));
        let (executable, removed) = (run_script(dir), fs::remove_file(&path));
        written.is_ok_and(|read| read == b"mine") && executable && removed.is_ok()
    })
}

/// Programs unpack helpers and start them.
fn run_script(dir: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let path = format!("{dir}/script");
    fs::write(&path, "#!/bin/sh\necho ran\n").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its own");
    let ran = Command::new(&path).output().is_ok_and(|output| output.stdout == b"ran\n");
    fs::remove_file(&path).is_ok() && ran
}

fn move_files() -> bool {
    let home = env::var("HOME").expect("a home");
    let (from, to) = (format!("{home}/a"), format!("{home}/b"));
    fs::create_dir_all(&from).is_ok()
        && fs::create_dir_all(&to).is_ok()
        && fs::write(format!("{from}/file"), "x").is_ok()
        && fs::rename(format!("{from}/file"), format!("{to}/file")).is_ok()
        && fs::hard_link(format!("{to}/file"), format!("{from}/link")).is_ok()
        && std::os::unix::fs::symlink("/usr", format!("{to}/usr")).is_ok()
        && fs::read_dir(&to).is_ok_and(|entries| entries.count() == 2)
        && fs::remove_dir_all(&to).is_ok()
        && fs::read_dir("/usr").is_ok()
}

fn settings() -> bool {
    let has = |path: &str, what: &str| fs::read_to_string(path).is_ok_and(|text| text.contains(what));
    fs::read_to_string("/etc/resolv.conf").is_ok()
        && has("/etc/hosts", "127.0.0.1")
        && has("/etc/passwd", "app:")
        && has("/proc/self/status", "NoNewPrivs:\t1")
        && has("/proc/meminfo", "MemTotal")
        && has("/proc/cpuinfo", "processor")
}

/// As far as the machine has any.
fn certificates() -> bool {
    let bundle = Path::new("/etc/ssl/certs/ca-certificates.crt");
    env::var("HOST_HAS_CERTIFICATES").is_err()
        || fs::read_to_string(bundle).is_ok_and(|text| text.contains("BEGIN CERTIFICATE"))
}

fn names() -> bool {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    ("localhost", 80).to_socket_addrs().is_ok_and(|mut found| found.next().is_some())
        && (host.trim(), 80).to_socket_addrs().is_ok_and(|mut found| found.next().is_some())
}

fn clock() -> bool {
    let zone = Command::new("/bin/date").arg("+%Z").output();
    SystemTime::now().duration_since(UNIX_EPOCH).is_ok()
        && zone.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

fn children() -> bool {
    let mut child = Command::new("/bin/sleep").arg("60").spawn().expect("a child");
    let ended = child.kill().and_then(|()| child.wait());
    let piped = Command::new("/bin/sh").args(["-c", "echo one | cat; (sleep 0.01 &)"]).output();
    ended.is_ok_and(|status| !status.success()) && piped.is_ok_and(|output| output.stdout == b"one\n")
}

fn itself() -> bool {
    let program = env::current_exe().expect("a path");
    Command::new(program).arg("again").output().is_ok_and(|output| output.stdout == b"started again\n")
}

fn identity() -> bool {
    let name = Command::new("/usr/bin/id").arg("-un").output();
    name.is_ok_and(|output| output.status.success()) && fs::metadata(env::var("HOME").expect("a home")).is_ok()
}

fn devices() -> bool {
    let mut bytes = [0; 16];
    let random = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    let nothing = fs::OpenOptions::new().write(true).open("/dev/null").and_then(|mut file| file.write_all(b"x"));
    random.is_ok() && bytes != [0; 16] && nothing.is_ok() && fs::read("/dev/fd/0").is_ok()
}

fn local_sockets() -> bool {
    let listener = UnixListener::bind("/tmp/socket").expect("a socket");
    let answer = thread::spawn(move || listener.accept().and_then(|(mut stream, _)| stream.write_all(b"hello")));
    let mut text = String::new();
    let read = UnixStream::connect("/tmp/socket").and_then(|mut stream| stream.read_to_string(&mut text));
    read.is_ok() && text == "hello" && answer.join().is_ok()
}

fn ephemeral_ports() -> bool {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.send_to(b"x", address));
    TcpStream::connect(address).is_ok() && datagrams.is_ok()
}

fn own_port() -> bool {
    let port: u16 = env::var("PORT").expect("a port").parse().expect("a number");
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

fn processes() -> bool {
    let (sender, receiver) = mpsc::channel();
    let mut child = Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().expect("a child");
    let path = format!("/proc/{}/status", child.id());
    let parent = format!("PPid:\t{}\n", std::process::id());
    let is_mine = fs::read_to_string(path).is_ok_and(|text| text.contains(&parent));
    sender.send(is_mine).expect("received below");
    drop(child.stdin.take());
    child.wait().is_ok() && receiver.recv() == Ok(true)
}

fn memory_files() -> bool {
    fs::write("/dev/shm/segment", vec![7; 1 << 20]).is_ok() && fs::remove_file("/dev/shm/segment").is_ok()
}

unsafe extern "C" {
    fn posix_fallocate(file: i32, offset: i64, bytes: i64) -> i32;
}

/// As databases do it.
fn room_ahead() -> bool {
    use std::os::fd::AsRawFd;
    let file = fs::File::create("/tmp/ahead").expect("a file");
    let done = unsafe { posix_fallocate(file.as_raw_fd(), 0, 1 << 20) };
    done == 0 && file.metadata().is_ok_and(|metadata| metadata.len() == 1 << 20) && fs::remove_file("/tmp/ahead").is_ok()
}

/// As language runtimes look them up, where there are any.
fn limits() -> bool {
    let Ok(wanted) = env::var("MEMORY_BYTES") else { return true };
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .any(|path| fs::read_to_string(path).is_ok_and(|limit| limit.trim() == wanted))
}
