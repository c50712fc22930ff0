//! Pages for people: a login that can't go on, and one that asks for their word.

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use zectre_service::problem::Failure;

/// The failure as a page where the client wants one, as a problem otherwise.
pub(super) fn answer(failure: Failure, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if !accept.is_some_and(|accept| accept.contains("text/html")) {
        return failure.into_response();
    }
    let (code, detail) = (&failure.problem().code, &failure.problem().detail);
    let body = format!(
        "<h1>This sign-in can’t go on</h1><p>{}</p><p><code>{}</code></p>",
        escape(detail),
        escape(code)
    );
    let status = failure.status();
    // Made anyway: it writes the cause to the log.
    let problem = failure.into_response();
    let mut response = page(status, &body);
    if let Some(retry) = problem.headers().get(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, retry.clone());
    }
    response
}

/// Asks `email` whether `client`, at `address`, may act for them.
pub(super) fn ask(email: &str, client: &str, address: &str, nonce: &str) -> Response {
    let [email, client, address, nonce] = [email, client, address, nonce].map(escape);
    let body = format!(
        "<h1>Sign in as {email}?</h1><p><b>{client}</b>, which listens at <code>{address}</code> on this machine, will act \
         as you. Go on only if you have just begun to sign in there.</p><form method=post action=/oauth/consent>\
         <input type=hidden name=nonce value=\"{nonce}\"><button name=decision value=allow>Sign in</button> \
         <button name=decision value=deny>Cancel</button></form>"
    );
    page(StatusCode::OK, &body)
}

fn page(status: StatusCode, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Sign in</title><style>body{{font:1rem/1.5 system-ui;margin:15vh auto;max-width:34rem;padding:0 1rem}}\
         code{{color:#666}}</style>{body}</html>"
    );
    let mut response = (status, Html(page)).into_response();
    let headers = response.headers_mut();
    // No script, and in no frame of another page.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn escape(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&#39;"),
                c => out.push(c),
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_sent_becomes_markup() {
        assert_eq!(
            escape("<script>alert('&\"')</script>"),
            "&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"
        );
    }
}
