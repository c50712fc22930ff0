//! The programs: the origin, ours, and the two it is held against, each with a worker a core.

use super::store::HOST;
use crate::usage::family_cpu;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    net::TcpStream,
    path::Path,
    process::{Child, Command},
    time::Duration,
};
use zectre_testkit::{free_port, wait_until};

/// A running server; ended with the value.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// HTTP/1.1.
    pub(crate) port: u16,
    /// HTTP/2 without TLS.
    pub(crate) http2_port: u16,
    /// Both, over TLS.
    pub(crate) tls_port: u16,
    child: Child,
}

impl Server {
    async fn start(name: &'static str, mut command: Command, ports: [u16; 3], directory: &Path) -> Self {
        let log = File::create(directory.join(format!("{name}.log"))).expect("the directory is ours");
        command
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} starts: {error}"));
        for port in ports {
            wait_until(Duration::from_secs(20), "it listens", async || {
                TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
            })
            .await;
        }
        let [port, http2_port, tls_port] = ports;
        Self {
            name,
            port,
            http2_port,
            tls_port,
            child,
        }
    }

    /// Seconds of CPU time of all its processes.
    pub(crate) fn cpu(&self) -> f64 {
        family_cpu(self.child.id())
    }

    /// Resident memory of all its processes (PSS: shared pages count once), in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let own = self.child.id().to_string();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let pss_kib = |pid: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok())
                .unwrap_or(f64::NAN)
        };
        std::iter::once(own.as_str())
            .chain(children.split_whitespace())
            .map(pss_kib)
            .sum::<f64>()
            / 1_024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the directory is ours");
}

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const BOTH: &str = "both.pem";

/// Makes the certificate that all of them show: ECDSA, as ACME servers give it out by default.
pub(crate) fn certificate(directory: &Path) {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a name");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    write(&directory.join(CERTIFICATE), &certificate);
    write(&directory.join(KEY), &key);
    write(&directory.join(BOTH), &format!("{certificate}{key}"));
}

fn nginx_command(directory: &Path, name: &str, http: &str) -> Command {
    let config = directory.join(format!("{name}.conf"));
    let at = directory.display();
    write(
        &config,
        &format!(
            "daemon off; worker_processes {}; pid {at}/{name}.pid; error_log {at}/{name}.err;\n\
             events {{ worker_connections 8192; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;\n{http}\n}}\n",
            workers()
        ),
    );
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-c").arg(config);
    command
}

/// What all of them forward to.
pub(crate) async fn origin(directory: &Path) -> Server {
    for (name, size) in [("64k", 64 << 10), ("10m", 10 << 20)] {
        fs::write(directory.join(name), vec![b'x'; size]).expect("the directory is ours");
    }
    let port = free_port();
    let http = format!(
        "sendfile on; tcp_nopush on; open_file_cache max=16;\n\
         server {{ listen 127.0.0.1:{port} backlog=4096 reuseport; root {};\n\
         location = /small {{ return 200 \"Hello, this is a small answer!\"; }} }}",
        directory.display()
    );
    let command = nginx_command(directory, "origin", &http);
    Server::start("origin", command, [port; 3], directory).await
}

/// nginx with kept connections to the origin.
pub(crate) async fn nginx(directory: &Path, origin: u16) -> Server {
    let (port, http2, tls) = (free_port(), free_port(), free_port());
    let at = directory.display();
    let http = format!(
        "ssl_certificate {at}/{CERTIFICATE}; ssl_certificate_key {at}/{KEY}; ssl_protocols TLSv1.3;\n\
         ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;\n\
         proxy_max_temp_file_size 0; client_max_body_size 0;\n\
         upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port} reuseport; listen 127.0.0.1:{http2} http2 reuseport;\n\
         listen 127.0.0.1:{tls} ssl http2 reuseport; server_name {HOST};\n\
         location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Request-Id $request_id; }} }}"
    );
    let command = nginx_command(directory, "nginx", &http);
    Server::start("nginx", command, [port, http2, tls], directory).await
}

/// haproxy, likewise.
pub(crate) async fn haproxy(directory: &Path, origin: u16) -> Server {
    let (port, http2, tls) = (free_port(), free_port(), free_port());
    let at = directory.display();
    let config = directory.join("haproxy.cfg");
    write(
        &config,
        &format!(
            "global\n  nbthread {}\n  maxconn 8192\ndefaults\n  mode http\n  timeout client 3600s\n  timeout server 60s\n  \
             timeout connect 5s\n  option forwardfor\n  http-reuse always\nfrontend f\n  bind 127.0.0.1:{port}\n  \
             bind 127.0.0.1:{http2} proto h2\n  bind 127.0.0.1:{tls} ssl crt {at}/{BOTH} alpn h2,http/1.1 \
             ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256\n  http-request set-header X-Request-Id %[uuid()]\n  \
             use_backend o if {{ hdr(host) -i {HOST} }}\nbackend o\n  server s 127.0.0.1:{origin}\n",
            workers()
        ),
    );
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(config);
    Server::start("haproxy", command, [port, http2, tls], directory).await
}

/// The real program over a real PostgreSQL.
pub(crate) async fn ours(directory: &Path, database: &str) -> Server {
    start_ours("zectre-proxy", directory, database, "").await
}

/// The same, where what may not be sent twice goes on a connection of its own.
pub(crate) async fn ours_without_reuse(directory: &Path, database: &str) -> Server {
    let more = "name = \"without-reuse\"\nreuse_for_unrepeatable = false\n";
    start_ours("zectre-proxy (no reuse)", directory, database, more).await
}

async fn start_ours(name: &'static str, directory: &Path, database: &str, more: &str) -> Server {
    let (port, tls, admin) = (free_port(), free_port(), free_port());
    let at = directory.display();
    let key = directory.join("service.key");
    zectre_service::key::ensure_key_file(&key).expect("the directory is ours");
    let config = directory.join(format!("{name}.toml"));
    write(
        &config,
        &format!(
            "[database]\nurl = \"{database}\"\n[proxy]\nport = {port}\nadmin_port = {admin}\n{more}\
             [proxy.tls]\nenabled = true\nport = {tls}\n\
             certificates = [{{ cert = \"{at}/{CERTIFICATE}\", key = \"{at}/{KEY}\" }}]\n\
             [secrets]\nservice_key_file = \"{}\"\n",
            key.display()
        ),
    );
    let mut command = Command::new(zectre_e2e::program("zectre-proxy"));
    command.arg("--config").arg(config);
    Server::start(name, command, [port, port, tls], directory).await
}
