//! TLS over a socket. Who is trusted is a matter of the environment, so the client is this very test in a process of its own.

use serde_json::json;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use zectre_client::{Client, ClientError, Credential};
use zectre_common::{id::UserId, time::Time};
use zectre_testkit::TestCertificate;

/// Where the client of the other process calls.
const URL_VARIABLE: &str = "ZECTRE_TEST_HTTPS_URL";
/// Whether it trusts what it meets there.
const TRUSTS_VARIABLE: &str = "ZECTRE_TEST_TRUSTS";

#[tokio::test]
async fn https_is_spoken_with_those_who_are_trusted() {
    if let Ok(url) = std::env::var(URL_VARIABLE) {
        return as_client(&url, std::env::var_os(TRUSTS_VARIABLE).is_some()).await;
    }
    let certificate = TestCertificate::of("127.0.0.1");
    let (port, heard) = serve(certificate.acceptor()).await;

    run_client(port, Some(certificate.authority())).await;
    // Who it is, and where it should go instead. The call under a wrong name was not sent.
    assert_eq!(heard.swap(0, Ordering::SeqCst), 2);
    run_client(port, None).await;
    assert_eq!(heard.load(Ordering::SeqCst), 0);
}

/// The other process: its client believes in `authority`, else in those of the machine.
async fn run_client(port: u16, authority: Option<&Path>) {
    let mut client = tokio::process::Command::new(std::env::current_exe().expect("this test is a file"));
    client
        .args([
            "--exact",
            "secure::https_is_spoken_with_those_who_are_trusted",
            "--nocapture",
        ])
        .env(URL_VARIABLE, format!("https://127.0.0.1:{port}"))
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR");
    if let Some(authority) = authority {
        client.env("SSL_CERT_FILE", authority).env(TRUSTS_VARIABLE, "1");
    }
    let done = client.output().await.expect("it can be started");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        done.status.success() && said.contains("test result: ok. 1 passed"),
        "{said}"
    );
}

async fn as_client(url: &str, trusts: bool) {
    let client = Client::new(url, Credential::None).expect("a URL");
    let user = client.user().await;
    if !trusts {
        let error = user.expect_err("nobody vouches for it");
        let told = error.to_string();
        assert!(
            matches!(error, ClientError::Untrusted { .. }) && told.contains("SSL_CERT_FILE"),
            "{told}"
        );
        return;
    }
    assert_eq!(user.expect("it is trusted").email, "ada@example.com");

    let error = client.cluster_status().await.expect_err("it is elsewhere");
    assert!(
        error.to_string().contains("it points to http://127.0.0.1:1/"),
        "{error}"
    );

    let other_name = url.replace("127.0.0.1", "localhost");
    let client = Client::new(&other_name, Credential::None).expect("a URL");
    let error = client.user().await.expect_err("another name");
    let told = error.to_string();
    assert!(
        matches!(error, ClientError::Untrusted { .. }) && told.contains("a name that the certificate has"),
        "{told}"
    );
}

/// Its port, and how many requests it heard.
async fn serve(tls: TlsAcceptor) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let heard = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&heard);
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's server ends with the test's runtime"
    )]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(&tls, stream, &counted).await;
        }
    });
    (port, heard)
}

/// One request a connection.
async fn answer(tls: &TlsAcceptor, stream: TcpStream, heard: &AtomicU32) {
    let Ok(mut stream) = tls.accept(stream).await else {
        return;
    };
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    heard.fetch_add(1, Ordering::SeqCst);
    let answer = if request.starts_with(b"GET /api/v1/user ") {
        let user = json!({
            "id": UserId::new(), "email": "ada@example.com", "name": "Ada", "is_admin": false, "created_at": Time::now(),
        })
        .to_string();
        format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{user}",
            user.len()
        )
    } else {
        "HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned()
    };
    // A client that is gone already has failed by itself.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
