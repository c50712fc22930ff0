//! A catalog as a daemon of its own, with what plays GitHub beside it, and a browser.

use crate::{Process, program};
use reqwest::{Url, header};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};
use tempfile::TempDir;
use zectre_service::key::ensure_key_file;
use zectre_testkit::{
    GITHUB_CLIENT_ID, GITHUB_CLIENT_SECRET, GithubServer, TestDatabase, free_port, wait_until,
};

/// A running catalog; ended with the value.
pub struct Catalog {
    process: Process,
    url: String,
    github: GithubServer,
    _directory: TempDir,
    _database: TestDatabase,
}

impl Catalog {
    /// Starts it and waits until it is ready.
    pub async fn start() -> Self {
        let (database, github) = (TestDatabase::empty().await, GithubServer::start().await);
        let directory = tempfile::tempdir().expect("a directory can be made");
        let at = |name: &str| directory.path().join(name);
        ensure_key_file(&at("master.key")).expect("the directory was just made");
        fs::write(at("github.secret"), GITHUB_CLIENT_SECRET).expect("the directory was just made");
        fs::set_permissions(at("github.secret"), fs::Permissions::from_mode(0o600)).expect("it is ours");
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(program("zectre-catalog"));
        command
            .env("ZECTRE_CATALOG_SERVER__PORT", port.to_string())
            .env("ZECTRE_CATALOG_SERVER__PUBLIC_URL", &url)
            .env("ZECTRE_CATALOG_DATABASE__URL", database.url().expose_secret())
            .env("ZECTRE_CATALOG_GITHUB__URL", github.url())
            .env("ZECTRE_CATALOG_GITHUB__API_URL", github.url())
            .env("ZECTRE_CATALOG_GITHUB__CLIENT_ID", GITHUB_CLIENT_ID)
            .env("ZECTRE_CATALOG_GITHUB__CLIENT_SECRET_FILE", at("github.secret"))
            .env("ZECTRE_CATALOG_SECRETS__MASTER_KEY_FILE", at("master.key"))
            // What it writes is searched for what must not be told.
            .env("ZECTRE_CATALOG_LOGS__FILTER", "debug")
            // The command line's variable is none of its keys.
            .env("ZECTRE_CATALOG_URL", &url);
        let mut process = Process::start("zectre-catalog", &mut command, directory.path());
        let ready = format!("{url}/ready");
        wait_until(Duration::from_secs(60), "the catalog is ready", async || {
            assert!(process.ended().is_none(), "the catalog ended:\n{}", process.log());
            let answer = reqwest::get(&ready).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        Self {
            process,
            url,
            github,
            _directory: directory,
            _database: database,
        }
    }

    /// Its address, and the issuer of its tokens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All that it has written.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The process.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Who is signed in at GitHub from now on.
    pub async fn visitor(&self, person: &Value) {
        let url = format!("{}/test/visitor", self.github.url());
        let set = reqwest::Client::new()
            .post(url)
            .body(person.to_string())
            .send()
            .await;
        assert!(set.expect("it answers").status().is_success());
    }

    /// What a browser does that is sent to `url`: follows, says yes to the catalog, and tells what it is shown at last.
    pub async fn browse(&self, url: &str) -> String {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without TLS can be built");
        let (mut url, mut cookie) = (Url::parse(url).expect("a URL"), String::new());
        let mut form = None;
        // To the catalog, to GitHub, back, the person's word, and to the command line.
        for _ in 0..5 {
            let mut request = match form.take() {
                Some(form) => client
                    .post(url.clone())
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body::<String>(form),
                None => client.get(url.clone()),
            };
            if url.as_str().starts_with(&self.url) {
                request = request.header(header::COOKIE, &cookie);
            }
            let answer = request.send().await.expect("it answers");
            if let Some(set) = answer.headers().get(header::SET_COOKIE) {
                let set = set.to_str().expect("text");
                cookie = set.split(';').next().unwrap_or_default().to_owned();
            }
            if answer.status().is_redirection() {
                let location = answer.headers()[header::LOCATION].to_str().expect("text");
                url = url.join(location).expect("a URL");
                continue;
            }
            let page = answer.text().await.expect("text");
            let Some((_, rest)) = page.split_once("name=nonce value=\"") else {
                return page;
            };
            let nonce = rest.split('"').next().unwrap_or_default();
            form = Some(format!("nonce={nonce}&decision=allow"));
            url = url.join("/oauth/consent").expect("a URL");
        }
        panic!("redirected again and again, at last to {url}");
    }
}
