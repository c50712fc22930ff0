//! Whether a container engine answers on this machine, and what to do when it doesn't.

use super::{Finding, machine::on_path};
use std::{io::ErrorKind, os::unix::net::UnixStream, path::Path, time::Duration};
use zectre_common::config::Config;
use zectre_container::Engine;

/// An engine that is well answers within milliseconds.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Where systemd's presence shows (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// What came of talking to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Answers,
    /// Its socket can't be opened.
    Closed(ErrorKind),
    /// Something has the socket, and it isn't an engine that is well.
    Silent,
}

/// What there is to start or install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Installed {
    Docker,
    Podman,
    Nothing,
}

/// Looks for the engine that the configuration names. Without one all but images works, so it is a note at worst.
pub(super) async fn look() -> Finding {
    let config = match Config::load(None) {
        Ok(config) => config,
        Err(error) => return Finding::fail(error.to_string(), "Correct the configuration."),
    };
    let socket = config.agent.container_socket;
    let installed = if on_path("dockerd") || on_path("docker") {
        Installed::Docker
    } else if on_path("podman") {
        Installed::Podman
    } else {
        Installed::Nothing
    };
    told(
        &socket,
        ask(&socket).await,
        installed,
        Path::new(SYSTEMD).is_dir(),
    )
}

async fn ask(socket: &str) -> Answer {
    match UnixStream::connect(socket) {
        Ok(opened) => drop(opened),
        Err(error) => return Answer::Closed(error.kind()),
    }
    let Ok(engine) = Engine::connect(socket, "zectre-doctor") else {
        return Answer::Silent;
    };
    match tokio::time::timeout(PING_TIMEOUT, engine.ping()).await {
        Ok(Ok(())) => Answer::Answers,
        Ok(Err(_)) | Err(_) => Answer::Silent,
    }
}

fn told(socket: &str, answer: Answer, installed: Installed, systemd: bool) -> Finding {
    let start = match (installed, systemd) {
        (Installed::Podman, true) => "systemctl enable --now podman.socket",
        (Installed::Podman, false) => "podman system service --time 0 unix:///var/run/docker.sock &",
        (_, true) => "systemctl start docker",
        (_, false) => "service docker start",
    };
    match (answer, installed) {
        (Answer::Answers, _) => Finding::ok(format!("a container engine answers at {socket}")),
        (Answer::Closed(ErrorKind::PermissionDenied), _) => Finding::note(
            format!("{socket} belongs to a container engine, and this user may not use it"),
            "If images are to be deployed from here: `usermod -aG docker USER` as root, then sign in to the system again.",
        ),
        (Answer::Closed(_), Installed::Nothing) => Finding::note(
            format!("no container engine is installed ({socket} is not there)"),
            "If images are to be deployed: `apt-get install docker.io`, then `zectre down` and `zectre up`.",
        ),
        (Answer::Closed(_), _) => Finding::note(
            format!("a container engine is installed, and does not run ({socket} is closed)"),
            format!("If images are to be deployed: `{start}`, then `zectre down` and `zectre up`."),
        ),
        (Answer::Silent, _) => Finding::note(
            format!(
                "what listens at {socket} does not answer as a container engine within {} s",
                PING_TIMEOUT.as_secs()
            ),
            "Look at its log and start it again; [agent].container_socket names another one.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Verdict;
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
    };

    #[test]
    fn each_trouble_has_its_own_remedy() {
        let remedy = |answer, installed, systemd| {
            let finding = told("/run/x.sock", answer, installed, systemd);
            assert_eq!(finding.verdict, Verdict::Note);
            finding.remedy.unwrap_or_default()
        };
        let gone = Answer::Closed(ErrorKind::NotFound);
        let stopped = Answer::Closed(ErrorKind::ConnectionRefused);
        assert!(remedy(gone, Installed::Nothing, true).contains("apt-get install docker.io"));
        for stopped in [gone, stopped] {
            assert!(remedy(stopped, Installed::Docker, true).contains("`systemctl start docker`"));
            assert!(remedy(stopped, Installed::Docker, false).contains("`service docker start`"));
            assert!(remedy(stopped, Installed::Podman, true).contains("podman.socket"));
        }
        let denied = Answer::Closed(ErrorKind::PermissionDenied);
        assert!(remedy(denied, Installed::Docker, true).contains("usermod -aG docker"));
        assert!(remedy(Answer::Silent, Installed::Docker, true).contains("start it again"));
    }

    /// What `ask` makes of a server that answers every request with `answer`, or closes when it is empty.
    async fn asked(answer: &'static str) -> Answer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&path).expect("a short path");
        let serving = std::thread::spawn(move || {
            // One connection to see that it is open, one for the ping.
            for stream in listener.incoming().take(2) {
                let mut stream = stream.expect("accepted");
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let answer = ask(&path.to_string_lossy()).await;
        serving.join().expect("it served");
        answer
    }

    #[tokio::test]
    async fn only_an_engine_that_answers_counts() {
        let good = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";
        assert_eq!(asked(good).await, Answer::Answers);
        assert_eq!(asked("").await, Answer::Silent);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let nowhere = directory.path().join("engine.sock");
        let gone = ask(&nowhere.to_string_lossy()).await;
        assert_eq!(gone, Answer::Closed(ErrorKind::NotFound));
        drop(UnixListener::bind(&nowhere).expect("a short path"));
        let left = ask(&nowhere.to_string_lossy()).await;
        assert_eq!(left, Answer::Closed(ErrorKind::ConnectionRefused));
    }
}
