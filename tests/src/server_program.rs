//! A small HTTP server to deploy: static, instant, and as ill-mannered as a test asks for.
//!
//! Built by rustc alone, from the standard library. `MODE` chooses its manners: `never` opens no port, `exit` ends at
//! once with 3 after a line on standard error, `stubborn` ignores SIGTERM. `GET /` answers `GREETING` and who it is,
//! `/crash` ends the process with 9, `/end` with 0, `/slow` answers after `SLOW_MS`, `POST /echo` sends the body back as it comes,
//! `POST /count` has its body written down in the book at `LEDGER` before it answers. With a [`Gate`](crate::Gate) at
//! `GATE` it opens its port only when it is let through, and the gate's keeper knows for how long it lives.

use crate::native_program;
use std::path::PathBuf;

/// The program.
pub fn server_program() -> PathBuf {
    native_program("server", SOURCE)
}

const SOURCE: &str = r#"
use std::{env, io::{BufRead, BufReader, Read, Write}, net::{TcpListener, TcpStream}, process::exit, thread, time::Duration};

unsafe extern "C" { fn signal(number: i32, handler: usize) -> usize; }

fn var(name: &str) -> String { env::var(name).unwrap_or_default() }

fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}", body.len());
}

fn write_down(ledger: &mut Option<TcpStream>, id: &str) -> std::io::Result<()> {
    if ledger.is_none() { *ledger = Some(TcpStream::connect(var("LEDGER"))?) }
    let page = ledger.as_mut().unwrap();
    page.write_all(format!("{} {id}\n", var("TASK_ID")).as_bytes())?;
    page.read_exact(&mut [0])
}

fn pass(gate: &str) -> TcpStream {
    let mut gate = TcpStream::connect(gate).expect("the gate is there");
    gate.write_all(format!("{}\n", var("GREETING")).as_bytes()).expect("the gate listens");
    gate.read_exact(&mut [0]).expect("the gate opens");
    gate
}

fn serve(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut ledger = None;
    let mut out = stream.try_clone().unwrap();
    let mut input = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).unwrap_or(0) == 0 { return }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let (mut length, mut chunked, mut headers) = (0usize, false, String::new());
        loop {
            let mut header = String::new();
            if input.read_line(&mut header).unwrap_or(0) == 0 { return }
            if header == "\r\n" { break }
            let lower = header.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") { length = value.trim().parse().unwrap_or(0) }
            if lower.starts_with("transfer-encoding:") && lower.contains("chunked") { chunked = true }
            headers.push_str(&header);
        }
        match path.as_str() {
            "/echo" => {
                let _ = write!(out, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                let mut send = |bytes: &[u8]| { let _ = write!(out, "{:x}\r\n", bytes.len()); let _ = out.write_all(bytes); let _ = out.write_all(b"\r\n"); };
                if chunked {
                    loop {
                        let mut size = String::new();
                        if input.read_line(&mut size).unwrap_or(0) == 0 { return }
                        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
                        let mut chunk = vec![0; size + 2];
                        if input.read_exact(&mut chunk).is_err() { return }
                        if size == 0 { break }
                        send(&chunk[..size]);
                    }
                } else {
                    let mut left = length;
                    let mut buffer = vec![0; 65536];
                    while left > 0 {
                        let want = left.min(buffer.len());
                        let n = input.read(&mut buffer[..want]).unwrap_or(0);
                        if n == 0 { return }
                        send(&buffer[..n]);
                        left -= n;
                    }
                }
                let _ = out.write_all(b"0\r\n\r\n");
                continue;
            }
            "/count" => {
                let mut body = vec![0; length];
                if input.read_exact(&mut body).is_err() { return }
                length = 0;
                match write_down(&mut ledger, &String::from_utf8_lossy(&body)) {
                    Ok(()) => answer(&mut out, "200 OK", "counted"),
                    Err(error) => answer(&mut out, "500 Internal Server Error", &format!("the book at {}: {error}", var("LEDGER"))),
                }
            }
            "/end" => exit(0),
            "/crash" => { eprintln!("crashing as asked"); exit(9) }
            "/headers" => answer(&mut out, "200 OK", &headers),
            "/env" => { let all: String = env::vars().map(|(k, v)| format!("{k}={v}\n")).collect(); answer(&mut out, "200 OK", &all) }
            "/slow" => { thread::park_timeout(Duration::from_millis(var("SLOW_MS").parse().unwrap_or(500))); answer(&mut out, "200 OK", "slow") }
            "/health" => answer(&mut out, if var("MODE") == "unhealthy" { "500 Internal Server Error" } else { "200 OK" }, "health"),
            "/log" => { println!("a line to the log"); answer(&mut out, "200 OK", "logged") }
            _ => answer(&mut out, "200 OK", &format!("{} task={} deployment={} path={path}", var("GREETING"), var("TASK_ID"), var("DEPLOYMENT_ID"))),
        }
        if length > 0 { let mut body = vec![0; length]; if input.read_exact(&mut body).is_err() { return } }
    }
}

fn main() {
    println!("started with PORT={}", var("PORT"));
    match var("MODE").as_str() {
        "exit" => { eprintln!("the database is not configured"); exit(3) }
        "never" => loop { thread::park() },
        "stubborn" => unsafe { signal(15, 1); },
        "complete" => { println!("all work done"); return }
        _ => {}
    }
    let _gate = (!var("GATE").is_empty()).then(|| pass(&var("GATE")));
    let listener = TcpListener::bind(("0.0.0.0", var("PORT").parse().expect("PORT is set"))).expect("the port is free");
    for stream in listener.incoming().flatten() { thread::spawn(move || serve(stream)); }
}
"#;
