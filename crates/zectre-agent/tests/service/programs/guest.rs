//! A program with every habit that an agent must cope with; `MODE` picks one. Built by the tests with rustc alone.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, exit},
    thread,
    time::Duration,
};

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
}

fn main() {
    let mode = env::var("MODE").unwrap_or_default();
    match mode.as_str() {
        "serve" => serve(),
        // Listens `LATE_MS` after it began.
        "late" => {
            let late_ms = env::var("LATE_MS").ok().and_then(|ms| ms.parse().ok());
            thread::park_timeout(Duration::from_millis(late_ms.unwrap_or(300)));
            serve()
        }
        // Waits for somebody else on its port, and then wants it all the same.
        "beaten" => {
            let port = env::var("PORT").expect("a port").parse().expect("a number");
            while TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1)).is_err() {
                thread::park_timeout(Duration::from_millis(10));
            }
            serve()
        }
        "local" => answer_on("127.0.0.1", |stream| drop(answer(stream, "200 OK"))),
        // A line for every request.
        "talk" => answer_on("0.0.0.0", |stream| {
            let asked = answer(stream, "200 OK");
            println!("asked for {}", asked.split(' ').nth(1).unwrap_or_default());
        }),
        // Well until it is asked for `/hog`.
        "greedy" => answer_on("0.0.0.0", |stream| {
            if answer(stream, "200 OK").contains("/hog") {
                hog()
            }
        }),
        // Ends with success, but when it is asked to and not when it is told to.
        "dutiful" => {
            unsafe { signal(15, 1) };
            answer_on("0.0.0.0", |stream| {
                if answer(stream, "200 OK").contains("/end") {
                    exit(0)
                }
            })
        }
        "keep" => fs::write(env::var("FILE").expect("a path"), "kept").expect("written"),
        "sick" => answer_all("500 Internal Server Error"),
        "sickens" => sicken(),
        // Well until it is asked for `/stall`: then connections are accepted, and nothing is answered.
        "stalls" => {
            let mut held = Vec::new();
            let mut stalled = false;
            for stream in listen().incoming().flatten() {
                if stalled {
                    held.push(stream);
                } else {
                    stalled = answer(stream, "200 OK").contains("/stall");
                }
            }
        }
        "deaf" => loop {
            thread::park_timeout(Duration::from_secs(3600));
        },
        "exit" => {
            println!("about to end");
            eprintln!("with code {}", env::var("CODE").unwrap_or_default());
            exit(env::var("CODE").ok().and_then(|code| code.parse().ok()).unwrap_or(0))
        }
        // Ends with success when the kernel says at once that there is no way to the cloud's metadata.
        "credentials" => {
            let asked = ["169.254.169.254:80", "100.100.100.200:80"].map(|address| {
                let address = address.parse().expect("an address");
                TcpStream::connect_timeout(&address, Duration::from_secs(10)).err().map(|error| error.kind())
            });
            println!("{asked:?}");
            exit(i32::from(asked != [Some(ErrorKind::HostUnreachable); 2]))
        }
        "fork" => {
            // Like a preforking server: the child serves on when the parent is killed.
            let me = env::current_exe().expect("a path");
            let mut child = Command::new(me).env("MODE", "serve").spawn().expect("a child");
            let _ = child.wait();
        }
        "spin" => loop {
            std::hint::spin_loop();
        },
        "hog" => hog(),
        "lines" => {
            let count: u64 = env::var("COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(10);
            let mut out = std::io::stdout().lock();
            for index in 1..=count {
                writeln!(out, "line {index}").expect("written");
            }
            print!("no end of line");
            eprintln!("to stderr");
        }
        "env" => {
            for (key, value) in env::vars() {
                println!("{key}={value}");
            }
            println!("cwd={}", env::current_dir().expect("a directory").display());
            println!("status={}", fs::read_to_string("/proc/self/status").expect("a status").replace('\n', ";"));
        }
        other => {
            eprintln!("no mode {other}");
            exit(99)
        }
    }
}

fn hog() -> ! {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 1 << 20]);
    }
}

fn listen() -> TcpListener {
    listen_on("0.0.0.0")
}

fn listen_on(address: &str) -> TcpListener {
    let port: u16 = env::var("PORT").expect("a port").parse().expect("a number");
    TcpListener::bind((address, port)).expect("bound")
}

fn answer_on(address: &str, answer: impl Fn(std::net::TcpStream)) {
    listen_on(address).incoming().flatten().for_each(answer)
}

fn serve() {
    println!("serving");
    answer_all("200 OK")
}

fn answer_all(status: &str) {
    for stream in listen().incoming().flatten() {
        answer(stream, status);
    }
}

/// Well until it is asked for `/sicken`.
/// Fails two checks after `/falter`, and all of them after `/sicken`.
fn sicken() {
    let mut ill = 0_u64;
    for stream in listen().incoming().flatten() {
        let status = if ill > 0 { "503 Service Unavailable" } else { "200 OK" };
        let asked = answer(stream, status);
        let asked = asked.split(' ').nth(1).unwrap_or_default();
        println!("{asked}: {status}");
        ill = match asked {
            "/falter" => 2,
            "/sicken" => u64::MAX,
            "/health" => ill.saturating_sub(1),
            _ => ill,
        };
    }
}

fn answer(mut stream: std::net::TcpStream, status: &str) -> String {
    let mut head = [0; 1024];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    let length = stream.read(&mut head).unwrap_or(0);
    let body = env::var("TASK_ID").unwrap_or_default();
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    String::from_utf8_lossy(&head[..length]).into_owned()
}
