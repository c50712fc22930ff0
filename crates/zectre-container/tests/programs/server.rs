//! A tiny static program for an image; built by the tests with rustc alone.

use std::{
    env,
    io::{Read, Write},
    net::TcpListener,
};

fn main() {
    match env::args().nth(1).as_deref() {
        Some("hog") => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            loop {
                held.push(vec![1; 1 << 20]);
            }
        }
        Some("exit") => {
            println!("out");
            eprintln!("err");
            std::process::exit(7)
        }
        Some("rights") => {
            let status = std::fs::read_to_string("/proc/self/status").expect("read");
            let of_rights = |line: &&str| line.starts_with("CapBnd") || line.starts_with("NoNewPrivs");
            status.lines().filter(of_rights).for_each(|line| println!("{line}"));
        }
        Some("keep") => std::fs::write(env::args().nth(2).expect("a path"), "kept").expect("written"),
        _ => serve(),
    }
}

fn serve() {
    let port: u16 = env::var("PORT").expect("a port").parse().expect("a number");
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("bound");
    println!("listening on {port}");
    for mut stream in listener.incoming().flatten() {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    }
}
