//! Load from `wrk` (HTTP/1.1) and `h2load` (HTTP/2), each with TLS or without, and what they say.

use super::{peers::Server, store::HOST};
use std::{fs, path::Path, process::Command};

/// Settings for OpenSSL, which both programs take: one suite, whoever chooses.
pub(crate) const OPENSSL: &str = "\
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = only
[only]
MinProtocol = TLSv1.3
Ciphersuites = TLS_AES_128_GCM_SHA256
";
/// The scripts of [`Load::Hosts`] and [`Load::Post`], and the settings, beside each other.
pub(crate) const SCRIPT_FILE: &str = "hosts.lua";
pub(crate) const POST_FILE: &str = "post.lua";
pub(crate) const OPENSSL_FILE: &str = "openssl.cnf";
/// Where `h2load` leaves a line for each request, beside them.
const REQUESTS_FILE: &str = "h2load-requests.tsv";

/// What one run of a load program told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) requests: f64,
    pub(crate) per_sec: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// A kind of load.
#[derive(Debug, Clone)]
pub(crate) enum Load {
    /// `wrk` with so many connections and a path.
    Http1(usize, &'static str),
    /// The same, with a body of 30 bytes, by POST.
    Post(usize, &'static str),
    /// The same, with a host drawn for each request from so many.
    Hosts(usize, i64),
    /// `h2load` with so many connections of 16 streams.
    Http2(usize),
    /// As [`Load::Http1`], over TLS.
    Https1(usize, &'static str),
    /// As [`Load::Http2`], over TLS: both sides agree on it there (ALPN).
    Https2(usize),
}

impl Load {
    /// Where `server` takes it.
    pub(crate) fn port(&self, server: &Server) -> u16 {
        match self {
            Self::Http1(..) | Self::Post(..) | Self::Hosts(..) => server.port,
            Self::Http2(_) => server.http2_port,
            Self::Https1(..) | Self::Https2(_) => server.tls_port,
        }
    }

    /// The command, as one would type it; the files that it needs are in `directory`.
    pub(crate) fn command(&self, port: &str, secs: usize, directory: &Path) -> Command {
        let scheme = match self {
            Self::Https1(..) | Self::Https2(_) => "https",
            _ => "http",
        };
        let url = |path: &str| format!("{scheme}://127.0.0.1:{port}{path}");
        let (secs, host) = (secs.to_string(), format!("Host: {HOST}"));
        match self {
            Self::Http1(connections, path)
            | Self::Post(connections, path)
            | Self::Https1(connections, path) => {
                let mut wrk = Command::new("wrk");
                wrk.args(["-t1", "-d", &secs, "--latency", "-H", &host]);
                if matches!(self, Self::Post(..)) {
                    wrk.arg("-s").arg(directory.join(POST_FILE));
                }
                wrk.args(["-c", &connections.to_string(), &url(path)]);
                wrk
            }
            Self::Hosts(connections, hosts) => {
                let mut wrk = Command::new("wrk");
                wrk.args(["-t1", "-d", &secs, "--latency", "-c", &connections.to_string()]);
                wrk.arg("-s")
                    .arg(directory.join(SCRIPT_FILE))
                    .args([&url("/small"), "--"]);
                wrk.arg(hosts.to_string());
                wrk
            }
            Self::Http2(connections) | Self::Https2(connections) => {
                let mut h2load = Command::new("h2load");
                h2load.args(["-m16", "-D", &secs, "-H", &format!(":authority: {HOST}")]);
                h2load.args(["-c", &connections.to_string()]);
                h2load.arg("--log-file").arg(directory.join(REQUESTS_FILE));
                h2load.arg(url("/small"));
                h2load
            }
        }
    }

    /// Runs it against `port`; every answer must be a good one.
    pub(crate) fn run(&self, port: u16, secs: usize, directory: &Path) -> Told {
        let mut command = self.command(&port.to_string(), secs, directory);
        let requests_file = directory.join(REQUESTS_FILE);
        // It adds to what is there.
        let _ = fs::remove_file(&requests_file);
        command.env("OPENSSL_CONF", directory.join(OPENSSL_FILE));
        let output = command.output().expect("the load program is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        match self {
            Self::Http2(_) | Self::Https2(_) => {
                let requests = fs::read_to_string(&requests_file).unwrap_or_default();
                h2load(&text, &requests)
            }
            _ => wrk(&text),
        }
        .unwrap_or_else(|| {
            panic!(
                "{command:?} said\n{text}\n{}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }
}

/// Sends a body of 30 bytes.
pub(crate) const POST: &str = "wrk.method = 'POST'\nwrk.body = string.rep('x', 30)\n";

/// Draws a host for each request.
pub(crate) const SCRIPT: &str = "\
init = function(args) hosts = tonumber(args[1]) end
request = function()
  return wrk.format('GET', nil, {Host = 'host-' .. math.random(hosts) .. '.bench.test'})
end
";

fn wrk(text: &str) -> Option<Told> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let after = |name: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(name)?.split_whitespace().next())
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in")?.0.parse().ok())?;
    Some(Told {
        requests,
        per_sec: after("Requests/sec:")?.parse().ok()?,
        p50_us: micros(after("50%")?)?,
        p99_us: micros(after("99%")?)?,
    })
}

/// What it says at its end, and of each request: when it began, its status, and how many µs it took.
fn h2load(text: &str, requests: &str) -> Option<Told> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let counts = line("requests: ")?;
    let count = |name: &str| {
        let part = counts.split(", ").find(|part| part.ends_with(name))?;
        part.split_whitespace().next()?.parse::<f64>().ok()
    };
    let per_sec = line("finished in ")?.split(", ").nth(1)?;
    let took = requests.lines().map(|line| line.split('\t').nth(2)?.parse().ok());
    let mut took: Vec<u32> = took.collect::<Option<_>>()?;
    took.sort_unstable();
    let of = |percent: usize| took.get(took.len() * percent / 100).copied().map(f64::from);
    (count("failed")? == 0.0 && count("succeeded")? > 0.0).then_some(Told {
        requests: count("succeeded")?,
        per_sec: per_sec.strip_suffix(" req/s")?.parse().ok()?,
        p50_us: of(50)?,
        p99_us: of(99)?,
    })
}

fn micros(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units
        .iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_understood_and_errors_are_no_result() {
        let text = "  Latency Distribution\n     50%    1.32ms\n     75%    2.00ms\n     90%    3.00ms\n     99%  940.00us\n  \
                    386570 requests in 20.04s, 74.47MB read\nRequests/sec:  19290.04\n";
        let told = wrk(text).expect("understood");
        assert!((told.requests - 386_570.0).abs() < 1e-9 && (told.per_sec - 19_290.04).abs() < 1e-9);
        assert!((told.p50_us - 1_320.0).abs() < 1e-6 && (told.p99_us - 940.0).abs() < 1e-6);
        assert!(wrk(&format!("{text}  Non-2xx or 3xx responses: 3\n")).is_none());
    }

    #[test]
    fn what_h2load_says_is_understood_and_failures_are_no_result() {
        let text = |failed: u32| {
            format!(
                "finished in 3.00s, 1234.50 req/s, 1.00MB/s\nrequests: 3704 total, 3704 started, 3704 done, \
                 3704 succeeded, {failed} failed, 0 errored, 0 timeout\n"
            )
        };
        let requests: Vec<String> = (1..=100).rev().map(|took| format!("1764\t200\t{took}")).collect();
        let requests = requests.join("\n");
        let told = h2load(&text(0), &requests).expect("understood");
        assert!((told.per_sec - 1_234.5).abs() < 1e-9);
        assert!((told.p50_us - 51.0).abs() < 1e-9 && (told.p99_us - 100.0).abs() < 1e-9);
        assert!(h2load(&text(1), &requests).is_none());
        assert!(h2load(&text(0), "").is_none());
    }
}
