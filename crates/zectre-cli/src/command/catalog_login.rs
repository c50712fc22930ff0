//! `zectre login` at a catalog: in a browser, with the answer sent to a port of this machine's loopback address (RFC 8252).

use super::{clusters, open};
use crate::{
    args::LoginArgs,
    catalog::{CLIENT_ID, Catalog},
    context::trimmed,
    error::CliError,
    here::is_here,
    output::{Output, Shown},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use url::{Url, form_urlencoded};
use zectre_client::{CatalogTokens, Client, CodeGrant, Credential};
use zectre_service::key::random_bytes;

/// How long someone may take in the browser; the catalog waits no longer.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a connection may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest request that is looked at.
const REQUEST_BYTES_MAX: usize = 8 << 10;

pub(super) async fn log_in(url: &str, args: &LoginArgs, output: Output) -> Result<Shown, CliError> {
    let catalog = Catalog {
        url: trimmed(url).to_owned(),
    };
    let tokens = CatalogTokens::new(&catalog.url)?;
    if !keeps_secrets(&catalog.url) {
        return Err(CliError::Usage(format!(
            "{} would carry your sign-in over the network in the clear: name the catalog by https (plain http is for loopback addresses).",
            catalog.url
        )));
    }
    let issuer = tokens.issuer().await?;
    if issuer != catalog.url {
        return Err(CliError::Usage(format!(
            "the catalog at {} calls itself {issuer}: sign in with `zectre login --catalog {issuer}`.",
            catalog.url
        )));
    }
    let (listener, redirect_uri) = listen().await?;
    let (verifier, state) = (random(), random());
    let url = authorize_url(&catalog.url, &redirect_uri, &verifier, &state)?;
    output.say(format!("Open this in a browser on this machine:\n{url}"));
    if !open::browse(url.as_str()) {
        output.say("(no browser could be opened from here: xdg-open is missing)");
    }
    let waiting = output.progress("Waiting for the browser");
    let code = timeout(LOGIN_TIMEOUT, code(&listener, &state, &catalog.url)).await;
    drop(waiting);
    let code =
        code.map_err(|_| CliError::Refused("Nobody signed in in time. Run `zectre login` again.".into()))??;
    let grant = CodeGrant {
        client_id: CLIENT_ID,
        redirect_uri: &redirect_uri,
        code: &code,
        code_verifier: &verifier,
    };
    let got = tokens.exchange(&grant).await?;
    let token = Credential::Token(SecretString::from(got.access_token.clone()));
    let me = Client::new(&catalog.url, token)?.catalog_me().await?;
    catalog.remember(&got, &me.email)?;
    let remark = format!("Signed in at {} as {}", catalog.url, me.email);
    let cluster = clusters::after_login(&catalog, args, output).await?;
    let done = serde_json::json!({"catalog_url": catalog.url, "email": me.email, "cluster": cluster});
    Ok(output.done(&done, remark))
}

/// Whether nobody on the way reads along: by TLS, or because there is no way.
fn keeps_secrets(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.scheme() == "https") || is_here(url)
}

fn random() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<32>())
}

async fn listen() -> Result<(TcpListener, String), CliError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, format!("http://127.0.0.1:{port}/callback")))
}

fn authorize_url(catalog: &str, redirect_uri: &str, verifier: &str, state: &str) -> Result<Url, CliError> {
    let unusable = |error| CliError::Usage(format!("`{catalog}` is not a URL ({error})."));
    let mut url = Url::parse(&format!("{catalog}/oauth/authorize")).map_err(unusable)?;
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", CLIENT_ID)
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256")
        .append_pair("state", state);
    Ok(url)
}

/// The code of the login that began with `state`. Whatever else comes to the port is turned away: anything on this machine
/// can connect to it.
async fn code(listener: &TcpListener, state: &str, issuer: &str) -> Result<String, CliError> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let Ok(Some(query)) = timeout(REQUEST_TIMEOUT, request(&mut stream)).await else {
            continue;
        };
        let parameters: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let is = |name: &str, value: &str| parameters.get(name).is_some_and(|given| given == value);
        if !is("state", state) || !is("iss", issuer) {
            answer(
                &mut stream,
                "404 Not Found",
                "This is not the login that is waited for.",
            )
            .await;
            continue;
        }
        if let Some(code) = parameters.get("code") {
            answer(
                &mut stream,
                "200 OK",
                "You are signed in. You can close this window.",
            )
            .await;
            return Ok(code.clone());
        }
        answer(
            &mut stream,
            "200 OK",
            "You are not signed in. You can close this window.",
        )
        .await;
        let why = parameters.get("error_description").or(parameters.get("error"));
        let why: String = why
            .map_or("", String::as_str)
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        return Err(CliError::Refused(format!(
            "The sign-in was refused: {why}. Run `zectre login` again."
        )));
    }
}

/// The query of a `GET /callback`; `None` for anything else.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= REQUEST_BYTES_MAX || stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let line = std::str::from_utf8(&head).ok()?.lines().next()?.to_owned();
    let target = line.strip_prefix("GET ")?.split(' ').next()?;
    match target.strip_prefix("/callback?") {
        Some(query) => Some(query.to_owned()),
        None => {
            answer(stream, "404 Not Found", "There is nothing here.").await;
            None
        }
    }
}

/// An answer that can't be sent hurts nobody but its reader.
async fn answer(stream: &mut TcpStream, status: &str, text: &str) {
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nreferrer-policy: no-referrer\r\n\
         connection: close\r\n\r\n{text}",
        text.len()
    );
    let sent = async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = timeout(REQUEST_TIMEOUT, sent).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_is_signed_in_to_by_tls_or_on_this_machine() {
        for good in [
            "https://id.example.com",
            "http://localhost:1",
            "http://127.0.0.2:1",
            "http://[::1]:1",
        ] {
            assert!(keeps_secrets(good), "{good}");
        }
        for bad in [
            "http://id.example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
        ] {
            assert!(!keeps_secrets(bad), "{bad}");
        }
    }
}
