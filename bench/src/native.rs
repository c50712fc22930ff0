//! The peer of a start: the same binary, spawned bare, until its first byte.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use zectre_testkit::free_port;

/// Starts `program` with `PORT` and asks until it answers; the time from the spawn to the first byte.
pub(crate) fn spawn_to_first_byte(program: &Path) -> Duration {
    let port = free_port();
    let started = Instant::now();
    let mut child = Command::new(program)
        .env_clear()
        .env("PORT", port.to_string())
        .env("TISH_HTTP_WORKERS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let time = loop {
        if let Ok(time) = first_byte(port, started) {
            break time;
        }
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "the program never answered"
        );
        // Nothing tells when a foreign program listens; yielding is the finest wait there is.
        std::thread::yield_now();
    };
    let _ = child.kill();
    let _ = child.wait();
    time
}

fn first_byte(port: u16, started: Instant) -> io::Result<Duration> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    stream.read_exact(&mut [0])?;
    Ok(started.elapsed())
}
