//! Refusals for people: what a browser shows when a login can't go on and nobody can be sent back.

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use zectre_service::problem::Failure;

/// The failure as a page where the client wants one, as a problem otherwise.
pub(super) fn answer(failure: Failure, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if !accept.is_some_and(|accept| accept.contains("text/html")) {
        return failure.into_response();
    }
    let (status, page) = (
        failure.status(),
        page(&failure.problem().code, &failure.problem().detail),
    );
    // Made anyway: it writes the cause to the log.
    let problem = failure.into_response();
    let mut response = (status, Html(page)).into_response();
    let policy =
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, policy);
    if let Some(retry) = problem.headers().get(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, retry.clone());
    }
    response
}

fn page(code: &str, detail: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Sign in</title><style>body{{font:1rem/1.5 system-ui;margin:15vh auto;max-width:34rem;padding:0 1rem}}\
         code{{color:#666}}</style><h1>This sign-in can’t go on</h1><p>{}</p><p><code>{}</code></p></html>",
        escape(detail),
        escape(code)
    )
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
        let page = page("X", "<script>alert('&\"')</script>");
        assert!(
            page.contains("&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;")
                && !page.contains("<script")
        );
    }
}
