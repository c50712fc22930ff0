//! An ACME server of its own (Pebble), names that all lead here, and a balancer before the proxies that it looks at.

use crate::world::{SOON, World};
use rcgen::{CertificateParams, KeyPair};
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};
use zectre_testkit::{free_port, wait_until};

/// Leads connections to whichever of `targets` takes them, in turn.
pub(crate) struct Balancer {
    pub(crate) port: u16,
    known: Arc<Mutex<Known>>,
    _running: JoinSet<()>,
}

#[derive(Default)]
struct Known {
    targets: Vec<SocketAddr>,
    /// A connection each.
    led: Vec<SocketAddr>,
}

impl Known {
    fn done(&mut self, target: SocketAddr) {
        let index = self.led.iter().position(|led| *led == target);
        self.led.swap_remove(index.expect("it was led there"));
    }
}

impl Balancer {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let known: Arc<Mutex<Known>> = Arc::default();
        let leading = Arc::clone(&known);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let known = Arc::clone(&leading);
                open.spawn(async move {
                    // Chosen and counted at once: or it could be led to one that is being left.
                    let next = |tried: usize| {
                        let mut known = known.lock().expect("not poisoned");
                        if tried >= known.targets.len() {
                            return None;
                        }
                        known.targets.rotate_left(1);
                        let target = known.targets[0];
                        known.led.push(target);
                        Some(target)
                    };
                    let mut tried = 0;
                    while let Some(target) = next(tried) {
                        let proxy = TcpStream::connect(target).await;
                        let led = match proxy {
                            Ok(mut proxy) => Some(copy_bidirectional(&mut client, &mut proxy).await),
                            Err(_) => None,
                        };
                        known.lock().expect("not poisoned").done(target);
                        if led.is_some() {
                            return;
                        }
                        tried += 1;
                    }
                });
            }
        });
        Self {
            port,
            known,
            _running: running,
        }
    }

    /// From now on to these; waits for what was led elsewhere.
    pub(crate) async fn lead_to(&self, targets: Vec<SocketAddr>) {
        self.known.lock().expect("not poisoned").targets = targets;
        wait_until(SOON, "what is left has drained", || async {
            let known = self.known.lock().expect("not poisoned");
            let left = known.led.iter().all(|target| known.targets.contains(target));
            left.then_some(())
        })
        .await;
    }
}

pub(crate) struct Pebble {
    directory: PathBuf,
    port: u16,
    dns: u16,
    nonce_reject: u8,
    pub(crate) plain: Balancer,
    pub(crate) secure: Balancer,
    server: Child,
    _names: Child,
}

impl Pebble {
    /// `nonce_reject` of a hundred good requests are refused; with `binding` accounts must be bound to `kid-1`.
    pub(crate) async fn start(world: &World, nonce_reject: u8, binding: bool) -> Self {
        let directory = world.directory.path().to_path_buf();
        let (port, dns) = (free_port(), free_port());
        let (plain, secure) = (Balancer::new().await, Balancer::new().await);
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names)
            .expect("names")
            .self_signed(&key)
            .expect("signed");
        fs::write(directory.join("ca.pem"), certificate.pem()).expect("written");
        fs::write(directory.join("ca.key"), key.serialize_pem()).expect("written");
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": "",
            "certificate": directory.join("ca.pem"),
            "privateKey": directory.join("ca.key"),
            "httpPort": plain.port,
            "tlsPort": secure.port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": binding,
            "externalAccountMACKeys": {"kid-1": HMAC},
        }});
        fs::write(directory.join("pebble.json"), config.to_string()).expect("written");
        let names = Command::new("pebble-challtestsrv")
            .args(["-dns01", &format!("127.0.0.1:{dns}")])
            .args(["-management", &format!("127.0.0.1:{}", free_port())])
            .args([
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
                "-defaultIPv6",
                "",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Debian's package pebble is installed");
        let server = serve(&directory, dns, nonce_reject);
        let pebble = Self {
            directory,
            port,
            dns,
            nonce_reject,
            plain,
            secure,
            server,
            _names: names,
        };
        pebble.answers().await;
        pebble
    }

    async fn answers(&self) {
        wait_until(SOON, "Pebble listens", || async {
            TcpStream::connect(("127.0.0.1", self.port)).await.ok()
        })
        .await;
    }

    /// Killed, and started again without any memory.
    pub(crate) async fn lose_everything(&mut self) {
        self.server.kill().await.expect("killed");
        self.server = serve(&self.directory, self.dns, self.nonce_reject);
        self.answers().await;
    }

    pub(crate) fn configuration(&self, challenge: &str, names: &[&str]) -> String {
        let directory = self.directory.display();
        let section = self.section(challenge, names);
        format!("[secrets]\nmaster_key_file = '{directory}/master.key'\n{section}")
    }

    /// What `[proxy.tls]` says.
    pub(crate) fn section(&self, challenge: &str, names: &[&str]) -> String {
        let directory = self.directory.display();
        let quoted: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
        format!(
            "[proxy.tls]\nenabled = true\nport = 0\n[proxy.tls.acme]\ndirectory_url = 'https://127.0.0.1:{}/dir'\nchallenge = '{challenge}'\nnames = [{}]\n\
             root_ca_file = '{directory}/ca.pem'\nbackoff_initial_secs = 1\nbackoff_max_secs = 2\n\
             contact = 'ops@a.test'\neab_kid = 'kid-1'\neab_hmac = '{HMAC}'\n",
            self.port,
            quoted.join(", ")
        )
    }

    /// How many orders it was given since its first start.
    pub(crate) fn orders(&self) -> usize {
        self.said("Added order ")
    }

    /// What went wrong, in its words.
    pub(crate) fn complaints(&self) -> String {
        let log = fs::read_to_string(self.directory.join("pebble.log")).expect("readable");
        let told = |line: &&str| {
            let line = line.to_lowercase();
            line.contains("fail") || line.contains("error") || line.contains("invalid")
        };
        log.lines().filter(told).collect::<Vec<_>>().join("\n")
    }

    /// How often its log says `words`.
    pub(crate) fn said(&self, words: &str) -> usize {
        fs::read_to_string(self.directory.join("pebble.log"))
            .expect("readable")
            .matches(words)
            .count()
    }
}

const HMAC: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

fn serve(directory: &std::path::Path, dns: u16, nonce_reject: u8) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("pebble.log"))
        .expect("writable");
    Command::new("pebble")
        .arg("-config")
        .arg(directory.join("pebble.json"))
        .args(["-strict", "-dnsserver", &format!("127.0.0.1:{dns}")])
        .env("PEBBLE_WFE_NONCEREJECT", nonce_reject.to_string())
        .env("PEBBLE_VA_SLEEPTIME", "2")
        .stdout(log.try_clone().expect("a handle"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("Debian's package pebble is installed")
}
