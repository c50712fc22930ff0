//! What TLS is agreed on, with a client that would agree on anything: OpenSSL, with its least security level.

use crate::{
    secure::{Pair, with_files},
    world::World,
};
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, process::Stdio};
use tokio::{io::AsyncWriteExt, process::Command};

/// A client's whole conversation, with what it offers.
async fn offer(address: SocketAddr, name: &str, offered: &[&str]) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-servername", name])
        .args(offered)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Debian's package openssl is installed");
    // It hangs up when it has nothing more to say.
    let mut input = client.stdin.take().expect("piped");
    input.shutdown().await.expect("closed");
    drop(input);
    let said = client.wait_with_output().await.expect("it ends");
    let said = [said.stdout, said.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// All suites of TLS 1.2 and older that the client knows.
async fn known_suites() -> Vec<String> {
    let listed = Command::new("openssl")
        .args(["ciphers", "-s", "-tls1_2", "ALL:eNULL:@SECLEVEL=0"])
        .output()
        .await
        .expect("Debian's package openssl is installed");
    let listed = String::from_utf8(listed.stdout).expect("names");
    listed.trim().split(':').map(str::to_owned).collect()
}

/// A certificate with an RSA key: half of the old suites are for such only.
async fn rsa(world: &World, name: &str) -> (PathBuf, PathBuf) {
    let paths = ["rsa.pem", "rsa.key"].map(|file| world.directory.path().join(file));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
        .args([
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            &format!("subjectAltName=DNS:{name}"),
        ])
        .arg("-out")
        .arg(&paths[0])
        .arg("-keyout")
        .arg(&paths[1])
        .output()
        .await
        .expect("Debian's package openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let [cert, key] = paths;
    (cert, key)
}

const AGREED: &str = "Cipher is ";

/// What was agreed on, as `version suite`; none where there was no handshake.
fn agreed(said: &str) -> Option<String> {
    // "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384", and "New, (NONE), Cipher is (NONE)" where there is none.
    let line = said.lines().find(|line| line.contains(AGREED))?;
    let (version, suite) = line.split_once(AGREED)?;
    (suite != "(NONE)").then(|| {
        format!(
            "{} {suite}",
            version.trim_start_matches("New,").trim_matches([' ', ','])
        )
    })
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_offered_with_suites_that_keep_the_past_secret_and_nothing_else() {
    let mut world = World::new().await;
    let curve = Pair::new(&["curve.test"], 2050).write(&world, "curve");
    let rsa = rsa(&world, "rsa.test").await;
    world.configure(&with_files(&[curve, rsa]));
    let proxy = world.start().await;
    let suites = known_suites().await;
    assert!(suites.len() > 40, "the client knows no old suites: {suites:?}");
    for (name, key) in [("curve.test", "ECDSA"), ("rsa.test", "RSA")] {
        let mut offered = BTreeSet::new();
        for suite in &suites {
            let cipher = format!("{suite}:@SECLEVEL=0");
            let said = offer(proxy.secure(), name, &["-tls1_2", "-cipher", &cipher]).await;
            offered.extend(agreed(&said));
        }
        let modern = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"];
        let expected = modern.map(|suite| format!("TLSv1.2 ECDHE-{key}-{suite}"));
        assert_eq!(offered, BTreeSet::from(expected), "{name}");
        let mut offered = BTreeSet::new();
        for suite in [
            "AES_128_GCM_SHA256",
            "AES_256_GCM_SHA384",
            "CHACHA20_POLY1305_SHA256",
            "AES_128_CCM_SHA256",
            "AES_128_CCM_8_SHA256",
        ] {
            let said = offer(
                proxy.secure(),
                name,
                &["-tls1_3", "-ciphersuites", &format!("TLS_{suite}")],
            )
            .await;
            offered.extend(agreed(&said));
        }
        let expected = [
            "AES_128_GCM_SHA256",
            "AES_256_GCM_SHA384",
            "CHACHA20_POLY1305_SHA256",
        ];
        let expected = expected.map(|suite| format!("TLSv1.3 TLS_{suite}"));
        assert_eq!(offered, BTreeSet::from(expected), "{name}");
        for old in ["-tls1", "-tls1_1"] {
            let said = offer(proxy.secure(), name, &[old, "-cipher", "ALL:@SECLEVEL=0"]).await;
            assert_eq!(agreed(&said), None, "{said}");
            // Which of both depends on what else is missing from an old client's first words.
            let told = ["alert protocol version", "alert handshake failure"];
            assert!(told.iter().any(|alert| said.contains(alert)), "{said}");
        }
        // Whoever can, takes the newest.
        let said = offer(proxy.secure(), name, &["-cipher", "ALL:@SECLEVEL=0"]).await;
        assert!(
            agreed(&said).is_some_and(|agreed| agreed.starts_with("TLSv1.3 ")),
            "{said}"
        );
    }
    proxy.stop().await;
}
