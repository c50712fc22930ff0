//! The page where a person approves a command line without any other program: it asks for their password each time.
//!
//! There is no session, no cookie and no token in it: a request from somewhere else brings nothing that would count, so
//! there is nothing to forge. Frames and other sites' forms are refused all the same.

use crate::{
    cli_login::{self, Decision},
    context::Context,
    error::Error,
    identity::Actor,
    let_in::LetIn,
    openapi::escape,
    policy::{Guard, Policy, enforce},
    sign_in,
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Query, State},
    middleware::from_fn_with_state,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use secrecy::SecretString;
use serde::Deserialize;
use zectre_common::wire::cli_login::CliLogin;
use zectre_service::problem::Failure;

/// The form has four short fields.
const FORM_BYTES_MAX: usize = 8 * 1_024;
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:28rem;margin:3rem auto;padding:0 1rem;color:#222}\
    label{display:block;margin:.8rem 0}input{display:block;width:100%;font:inherit;padding:.4rem;box-sizing:border-box}\
    button{font:inherit;padding:.4rem 1.2rem;margin:.6rem .6rem 0 0}.e{color:#a00}code{background:#f4f4f4;padding:0 .2em}";

/// `/cli`
pub(crate) fn router(context: &Context) -> Router {
    let guard = Guard {
        context: context.clone(),
        policy: Policy::Public,
        patient: false,
        streams: false,
    };
    let methods = get(show)
        .post(decide)
        .route_layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .route_layer(from_fn_with_state(guard, enforce));
    Router::new().route("/cli", methods).with_state(context.clone())
}

#[derive(Default, Deserialize)]
struct Asked {
    #[serde(default)]
    code: String,
}

#[derive(Deserialize)]
struct Filled {
    code: String,
    email: String,
    password: SecretString,
    decision: String,
}

async fn show(
    State(context): State<Context>,
    actor: Actor,
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let code = query.map(|Query(asked)| asked.code).unwrap_or_default();
    if code.trim().is_empty() {
        return page(StatusCode::OK, &code_form("", None));
    }
    match cli_login::waiting(&context, &code, actor.address).await {
        Ok(waiting) => page(StatusCode::OK, &decision_form(&waiting, &code, "", None)),
        Err(error) => {
            let (status, sentence) = told(error);
            page(status, &code_form(&code, Some(&sentence)))
        }
    }
}

async fn decide(State(context): State<Context>, actor: Actor, headers: HeaderMap, body: String) -> Response {
    // Browsers say where a form comes from; anything else carries the password itself.
    let from = headers.get(HeaderName::from_static("sec-fetch-site"));
    if from.is_some_and(|from| from != "same-origin" && from != "none") {
        return page(
            StatusCode::FORBIDDEN,
            "<p class=\"e\">This form came from another site; nothing was done.</p>",
        );
    }
    let Some(form) = read(&body) else {
        return page(
            StatusCode::BAD_REQUEST,
            &code_form("", Some("the form was not whole; begin anew")),
        );
    };
    let waiting = match cli_login::waiting(&context, &form.code, actor.address).await {
        Ok(waiting) => waiting,
        Err(error) => {
            let (status, sentence) = told(error);
            return page(status, &code_form(&form.code, Some(&sentence)));
        }
    };
    let (code, email) = (form.code.clone(), form.email.clone());
    match decided(&context, &actor, form).await {
        Ok(true) => page(
            StatusCode::OK,
            "<h1>Signed in</h1><p>The command line goes on by itself. You can close this page.</p>",
        ),
        Ok(false) => page(
            StatusCode::OK,
            "<h1>Denied</h1><p>The command line gets nothing.</p>",
        ),
        Err(error) => {
            let (status, sentence) = told(error);
            page(status, &decision_form(&waiting, &code, &email, Some(&sentence)))
        }
    }
}

async fn decided(context: &Context, actor: &Actor, form: Filled) -> Result<bool, Error> {
    let approved = form.decision == "approve";
    let email = form.email.trim();
    let login = sign_in::by_password(context, email, form.password, actor.address).await?;
    let decision = if approved {
        Decision::Approve { until: None }
    } else {
        Decision::Deny
    };
    let who = (LetIn::by_password(&login), email);
    cli_login::decide(context, actor, who, &form.code, decision).await?;
    Ok(approved)
}

/// A form's body is written as a query is.
fn read(body: &str) -> Option<Filled> {
    let uri = Uri::builder().path_and_query(format!("/?{body}")).build().ok()?;
    Query::try_from_uri(&uri).ok().map(|Query(filled)| filled)
}

fn told(error: Error) -> (StatusCode, String) {
    match error {
        Error::Refused { code, detail, .. } => (code.status, detail),
        error => {
            // The cause goes to the log, as for every other answer.
            let answer = Failure::from(error).into_response();
            (answer.status(), "the platform failed; try again".into())
        }
    }
}

fn code_form(code: &str, problem: Option<&str>) -> String {
    format!(
        "<h1>Sign a command line in</h1>{}<form method=\"get\" action=\"/cli\"><label>The code that it shows\
         <input name=\"code\" value=\"{}\" autocomplete=\"off\" autocapitalize=\"characters\" spellcheck=\"false\" required autofocus>\
         </label><button>Go on</button></form>",
        problem_line(problem),
        escape(code)
    )
}

fn decision_form(waiting: &CliLogin, code: &str, email: &str, problem: Option<&str>) -> String {
    format!(
        "<h1>Sign a command line in</h1><p><code>{}</code> at {} asked at {} to act as you, with everything that you may. \
         Approve only what you have begun yourself.</p>{}<form method=\"post\" action=\"/cli\">\
         <input type=\"hidden\" name=\"code\" value=\"{}\"><label>E-mail<input name=\"email\" type=\"email\" value=\"{}\" \
         autocomplete=\"username\" required></label><label>Password<input name=\"password\" type=\"password\" \
         autocomplete=\"current-password\" required></label><button name=\"decision\" value=\"approve\">Approve</button>\
         <button name=\"decision\" value=\"deny\">Deny</button></form>",
        escape(&waiting.device_name),
        escape(waiting.address.as_deref().unwrap_or("an unknown address")),
        waiting.created_at,
        problem_line(problem),
        escape(code),
        escape(email)
    )
}

fn problem_line(problem: Option<&str>) -> String {
    problem.map_or_else(String::new, |problem| {
        format!("<p class=\"e\">{}</p>", escape(problem))
    })
}

fn page(status: StatusCode, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Zectre</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>{body}</body></html>"
    );
    let mut response = (status, Html(html)).into_response();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
