//! A gate that programs under test wait at before they open their port, so that a test says when one becomes ready
//! and knows which of them live: each keeps its connection to the gate for as long as it lives.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

/// How long a program may take to come to the gate on a busy machine.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(60);

/// The gate; only a caller of [`arrival`](Self::arrival) lets anybody through.
pub struct Gate(TcpListener);

/// A program at the gate, or through it.
pub struct Held {
    /// What it greets with, which tells one version from the other.
    pub greeting: String,
    stream: TcpStream,
}

impl Gate {
    /// Opens one on this machine.
    pub async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    /// For the environment of a deployment.
    pub fn address(&self) -> String {
        self.0.local_addr().expect("it is bound").to_string()
    }

    /// The next program that was started.
    pub async fn arrival(&self) -> Held {
        let arrival = async {
            let (mut stream, _) = self.0.accept().await.expect("the gate listens");
            let mut greeting = Vec::new();
            // One by one: what is read beyond the line would be lost to whoever asks whether it lives.
            loop {
                match stream.read_u8().await.expect("the program says who it is") {
                    b'\n' => break,
                    byte => greeting.push(byte),
                }
            }
            let greeting = String::from_utf8(greeting).expect("plain text");
            let stream = stream.into_std().expect("a socket can leave its runtime");
            Held { greeting, stream }
        };
        timeout(ARRIVAL_DEADLINE, arrival)
            .await
            .expect("a program was started")
    }
}

impl Held {
    /// Lets it through.
    pub fn pass(&mut self) {
        self.stream.write_all(b"1").expect("it waits");
    }

    /// Whether it lives, this very moment: a process that ends takes its connections with it before anybody can know
    /// that it ended.
    pub fn lives(&self) -> bool {
        match self.stream.peek(&mut [0]) {
            Ok(read) => read > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}
