//! One probe of a task: does it accept a connection, and does its health path answer well?

use crate::core::probe::early_pause;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    io,
    net::Ipv4Addr,
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, net::TcpStream};
use zectre_common::spec::{HealthCheck, Protocol};

/// A forwarder in front of a container accepts before it knows whether anybody is behind it, and hangs up if
/// nobody is. A connection that holds this long is real.
const FORWARDED_HOLD: Duration = Duration::from_millis(30);

/// What to ask.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) port: u16,
    pub(super) path: Option<String>,
    pub(super) protocol: Protocol,
    pub(super) is_forwarded: bool,
    pub(super) timeout: Duration,
}

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// Nobody listens.
    Closed(String),
    /// Somebody listens, but the answer isn't good.
    Unwell(String),
    /// Somebody listens, but the answer didn't come in time.
    Silent(String),
}

impl Failed {
    pub(super) fn message(&self) -> &str {
        match self {
            Self::Closed(message) | Self::Unwell(message) | Self::Silent(message) => message,
        }
    }
}

/// How long the port is asked for without a pause of the runtime's.
const SOON: Duration = Duration::from_millis(20);

/// Waits a short while for the port to open: `true` once it has. The runtime's timer counts in milliseconds, which
/// is longer than a tiny server takes to start; a thread of its own asks up to five times in one.
pub(super) async fn opens_soon(port: u16) -> bool {
    let asking = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        while began.elapsed() < SOON {
            if std::net::TcpStream::connect_timeout(&address, SOON).is_ok() {
                return true;
            }
            std::thread::park_timeout(early_pause(began.elapsed()));
        }
        false
    });
    asking.await.unwrap_or(false)
}

impl Target {
    pub(super) fn new(port: u16, check: &HealthCheck, protocol: Protocol, is_forwarded: bool) -> Self {
        // Bytes have no path.
        let path = check.path.clone().filter(|_| protocol != Protocol::Tcp);
        Self {
            port,
            path,
            protocol,
            is_forwarded,
            timeout: check.timeout.duration(),
        }
    }

    /// Asks once.
    pub(super) async fn probe(&self) -> Result<(), Failed> {
        match tokio::time::timeout(self.timeout, self.ask()).await {
            Ok(answer) => answer,
            Err(_) => {
                let asked = match &self.path {
                    Some(path) => format!("GET {path}"),
                    None => format!("port {}", self.port),
                };
                let secs = self.timeout.as_secs_f64();
                Err(Failed::Silent(format!("{asked}: no answer within {secs} s")))
            }
        }
    }

    async fn ask(&self) -> Result<(), Failed> {
        let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await;
        let mut stream = connected.map_err(|error| {
            let message = format!("port {}: {error}", self.port);
            // The kernel gives up on whoever lets nobody in, where the probe is more patient than that.
            if error.kind() == io::ErrorKind::TimedOut {
                Failed::Silent(message)
            } else {
                Failed::Closed(message)
            }
        })?;
        match &self.path {
            Some(path) => {
                let answered = self.get(stream, path).await;
                let status = answered.map_err(|why| Failed::Unwell(format!("GET {path}: {why}")))?;
                if status.is_success() || status.is_redirection() {
                    Ok(())
                } else {
                    Err(Failed::Unwell(format!("GET {path} answered {status}")))
                }
            }
            None if self.is_forwarded => match tokio::time::timeout(FORWARDED_HOLD, stream.read_u8()).await {
                Ok(Err(error)) => Err(Failed::Closed(format!("port {}: {}", self.port, hang_up(&error)))),
                Ok(Ok(_)) | Err(_) => Ok(()),
            },
            None => Ok(()),
        }
    }

    async fn get(&self, stream: TcpStream, path: &str) -> Result<StatusCode, String> {
        let said = |error: hyper::Error| error.to_string();
        let io = TokioIo::new(stream);
        let request = Request::get(format!("http://localhost:{}{path}", self.port))
            .header(header::HOST, format!("localhost:{}", self.port))
            .header(header::USER_AGENT, "zectre-agent");
        if self.protocol == Protocol::Grpc {
            let request = request
                .body(Empty::<Bytes>::new())
                .map_err(|error| error.to_string())?;
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(said)?;
            return tokio::select! {
                answer = sender.send_request(request) => answer.map(|answer| answer.status()).map_err(said),
                ended = connection => Err(ended.map_or_else(said, |()| "the connection was closed".into())),
            };
        }
        // In HTTP/1.1 the line holds only the path.
        let request = request
            .uri(path)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(said)?;
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            biased;
            answer = &mut answer => answer.map(|answer| answer.status()).map_err(said),
            ended = &mut connection => match ended {
                // The connection ends right after a complete answer: the answer is there then.
                Ok(()) => answer.await.map(|answer| answer.status()).map_err(said),
                Err(error) => Err(said(error)),
            },
        }
    }
}

fn hang_up(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "nobody listens in the container".into()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    fn target(port: u16, path: Option<&str>) -> Target {
        Target {
            port,
            path: path.map(str::to_owned),
            protocol: Protocol::Http,
            is_forwarded: false,
            timeout: Duration::from_secs(5),
        }
    }

    /// Answers one connection with `answer`, having read the request's head.
    async fn answer_once(listener: TcpListener, answer: &str) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request"));
        }
        stream.write_all(answer.as_bytes()).await.expect("answered");
    }

    #[tokio::test]
    async fn the_status_decides() {
        for (answer, good) in [
            ("200 OK", true),
            ("302 Found", true),
            ("404 Not Found", false),
            ("500 No", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let target = target(listener.local_addr().expect("bound").port(), Some("/health?x=1"));
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            let (probed, ()) = tokio::join!(target.probe(), answer_once(listener, &answer));
            assert_eq!(probed.is_ok(), good, "{answer}: {probed:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_and_nonsense_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let target = target(port, Some("/"));
        let (probed, ()) = tokio::join!(target.probe(), answer_once(listener, "what?\r\n\r\n"));
        assert!(matches!(probed, Err(Failed::Unwell(_))), "{probed:?}");
        assert!(matches!(target.probe().await, Err(Failed::Closed(_))));
    }

    #[tokio::test]
    async fn a_forwarder_with_nobody_behind_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let target = Target {
            is_forwarded: true,
            ..target(port, None)
        };
        let hang_up = async { drop(listener.accept().await.expect("a connection")) };
        let (probed, ()) = tokio::join!(target.probe(), hang_up);
        assert!(matches!(probed, Err(Failed::Closed(_))), "{probed:?}");
        let hold = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::time::timeout(FORWARDED_HOLD * 4, std::future::pending::<()>())
                .await
                .expect_err("held");
            drop(stream);
        };
        let (probed, ()) = tokio::join!(target.probe(), hold);
        assert_eq!(probed, Ok(()));
    }
}
