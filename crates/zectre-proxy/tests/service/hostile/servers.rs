//! Servers that people run, each with a parser of its own, each set up to answer with what it understood:
//! a line `METHOD TARGET HOST REQUEST-ID`, then the body.

use crate::{
    origin::{Origin, text},
    world::SOON,
};
use http_body_util::BodyExt;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use zectre_testkit::{free_port, wait_until};

const NGINX: &str = r#"
load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;
daemon off;
master_process off;
pid nginx.pid;
error_log stderr emerg;
events { worker_connections 512; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  client_body_buffer_size 1m;
  client_body_in_single_buffer on;
  keepalive_requests 100000;
  merge_slashes off;
  server {
    listen 127.0.0.1:PORT;
    location / {
      echo_read_request_body;
      echo -n "$request_method $request_uri $http_host $http_x_request_id\n$request_body";
    }
  }
}
"#;

const APACHE: &str = r"
ServerRoot DIRECTORY
DefaultRuntimeDir DIRECTORY
Listen 127.0.0.1:PORT
PidFile httpd.pid
ServerName origin
User nobody
Group nogroup
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule cgi_module /usr/lib/apache2/modules/mod_cgi.so
ErrorLog /dev/null
MaxKeepAliveRequests 0
KeepAliveTimeout 60
AllowEncodedSlashes NoDecode
ScriptAliasMatch ^ DIRECTORY/echo
";

const APACHE_SCRIPT: &str = "#!/bin/sh
printf 'Content-Type: text/plain\\n\\n'
printf '%s %s %s %s\\n' \"$REQUEST_METHOD\" \"$REQUEST_URI\" \"$HTTP_HOST\" \"$HTTP_X_REQUEST_ID\"
exec cat
";

const HAPROXY: &str = r#"
global
  maxconn 128
defaults
  mode http
  option http-ignore-probes
  timeout client 60s
  timeout connect 5s
  timeout server 60s
frontend origin
  bind 127.0.0.1:PORT
  http-request wait-for-body time 10s
  http-request return status 200 content-type text/plain lf-string "%[method] %[url] %[req.hdr(host)] %[req.hdr(x-request-id)]\n%[req.body,hex]"
"#;

const NODE: &str = r#"
require("http").createServer((request, response) => {
  const { method, url, headers } = request;
  const parts = [Buffer.from(`${method} ${url} ${headers.host} ${headers["x-request-id"]}\n`)];
  request.on("data", part => parts.push(part));
  request.on("end", () => response.end(Buffer.concat(parts)));
}).listen(PORT, "127.0.0.1");
"#;

/// The server of Python's library: it knows nothing of chunks, and a handler that does not read a body leaves it to be
/// read as the next request. This one reads what it is told the length of, in POST, PUT and PATCH only.
const PYTHON: &str = r#"
import http.server
class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        reads = self.command in ("POST", "PUT", "PATCH")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if reads else b""
        target = self.requestline.split(" ")[1]
        head = f"{self.command} {target} {self.headers['Host']} {self.headers['X-Request-Id']}\n"
        answer = head.encode("latin-1") + body
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)
    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Origin).serve_forever()
"#;

/// With one worker, which reads the body of whatever usually has one.
const TISH: &str = r#"
fn handle(req) {
  let host = req.headers["host"]
  let id = req.headers["x-request-id"]
  return { status: 200, body: `${req.method} ${req.url} ${host} ${id}\n${req.body}` }
}
serve(PORT, handle)
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Apache,
    Haproxy,
    Node,
    Python,
    Tish,
    Hyper,
}

/// A server; it ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _running: Running,
}

enum Running {
    Process { _child: Child, _directory: TempDir },
    Here { _origin: Origin },
}

impl Server {
    pub(crate) async fn start(kind: Kind) -> Self {
        if kind == Kind::Hyper {
            return Self::here().await;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        // A server that gives up root reads its files all the same.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
        let port = free_port();
        let mut child = command(kind, path, port)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{error}: apt-get install {}", kind.package()));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_until(SOON, "the server listens", async || {
            let ended = child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "{kind:?} ended: {ended:?}");
            TcpStream::connect(address).await.ok()
        })
        .await;
        Self {
            address,
            _running: Running::Process {
                _child: child,
                _directory: directory,
            },
        }
    }

    async fn here() -> Self {
        let origin = Origin::new(|request| async move {
            let (head, body) = request.into_parts();
            let header = |name| head.headers.get(name).map_or(&b""[..], |value| value.as_bytes());
            let mut echo = format!("{} {} ", head.method, head.uri).into_bytes();
            echo.extend_from_slice(header("host"));
            echo.push(b' ');
            echo.extend_from_slice(header("x-request-id"));
            echo.push(b'\n');
            // A body that breaks off leaves nobody to be answered.
            if let Ok(body) = body.collect().await {
                echo.extend_from_slice(&body.to_bytes());
            }
            text(echo)
        })
        .await;
        Self {
            address: origin.address,
            _running: Running::Here { _origin: origin },
        }
    }
}

impl Kind {
    /// Debian's package.
    fn package(self) -> &'static str {
        match self {
            Self::Nginx => "nginx-light",
            Self::Apache => "apache2-bin",
            Self::Haproxy => "haproxy",
            Self::Node => "nodejs",
            Self::Python => "python3",
            Self::Tish | Self::Hyper => unreachable!("it is a part of the test"),
        }
    }

    /// Whether it reads every body to its end before it answers.
    pub(crate) fn is_thorough(self) -> bool {
        !matches!(self, Self::Python | Self::Tish)
    }

    /// Whether it reads the body of this request: what HTTP/1.1 demands, and not all do.
    pub(crate) fn reads_body(self, method: &str, chunked: bool) -> bool {
        match self {
            Self::Python => !chunked && ["POST", "PUT", "PATCH"].contains(&method),
            Self::Tish => !["GET", "HEAD", "OPTIONS"].contains(&method),
            _ => true,
        }
    }
}

fn command(kind: Kind, directory: &Path, port: u16) -> Command {
    let write = |name: &str, text: &str| {
        let text = text
            .replace("PORT", &port.to_string())
            .replace("DIRECTORY", &directory.display().to_string());
        let path = directory.join(name);
        fs::write(&path, text).expect("the directory is ours");
        path
    };
    let mut command;
    match kind {
        Kind::Nginx => {
            command = Command::new("/usr/sbin/nginx");
            command
                .arg("-p")
                .arg(directory)
                .arg("-c")
                .arg(write("nginx.conf", NGINX));
        }
        Kind::Apache => {
            let script = write("echo", APACHE_SCRIPT);
            fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("ours");
            command = Command::new("/usr/sbin/apache2");
            // In one process, which can be ended with one signal.
            command.args(["-X", "-f"]).arg(write("httpd.conf", APACHE));
        }
        Kind::Haproxy => {
            command = Command::new("/usr/sbin/haproxy");
            command
                .args(["-db", "-q", "-f"])
                .arg(write("haproxy.cfg", HAPROXY));
        }
        Kind::Node => {
            command = Command::new("node");
            command.arg(write("origin.js", NODE));
        }
        Kind::Python => {
            command = Command::new("python3");
            command.arg(write("origin.py", PYTHON));
        }
        Kind::Tish => {
            command = Command::new(compiled(
                write("main.tish", TISH).parent().expect("the directory"),
            ));
            command
                .env("TISH_HTTP_PREFORK", "0")
                .env("TISH_HTTP_WORKERS", "1");
        }
        Kind::Hyper => unreachable!("it is a part of the test"),
    }
    command
}

/// Compiles a Tish program with the compiler that was built beside this test (`target/PROFILE/deps/…`).
fn compiled(project: &Path) -> PathBuf {
    let exe = std::env::current_exe().expect("it is known");
    let profile = exe
        .ancestors()
        .nth(2)
        .expect("two levels below the profile's directory");
    let (compiler, cache) = (profile.join("zectre-tishc"), profile.join("../tishc-cache"));
    let output = project.join("origin");
    let done = std::process::Command::new(compiler)
        .args(["compile", "--entry", "main.tish", "--project"])
        .arg(project)
        .arg("--cache")
        .arg(cache)
        .arg("--output")
        .arg(&output)
        .output()
        .expect("the compiler is missing: run `cargo build -p zectre-tishc`");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{said} (a cache that is not warm: `cargo xtask test` warms it)"
    );
    output
}
