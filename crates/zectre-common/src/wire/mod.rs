//! What services say to each other and to people, as JSON.
//!
//! Requests refuse unknown fields (a typo must not pass in silence); answers may grow.

pub mod account;
pub mod agent;
pub mod app;
pub mod artifact;
pub mod auth;
pub mod build;
pub mod catalog;
pub mod cli_login;
pub mod cluster;
pub mod deployment;
pub mod domain;
pub mod event;
pub mod log;
pub mod member;
pub mod metrics;
pub mod node;
pub mod page;
pub mod problem;
pub mod quota;
pub mod scheduler;
pub mod source;
pub mod task;
pub mod webhook;

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    /// Fields that hold what lets somebody in.
    const SECRETS: [&str; 12] = [
        "password",
        "new_password",
        "token",
        "access_token",
        "refresh_token",
        "secret",
        "webhook_secret",
        "client_secret",
        "api_key",
        "device_code",
        "invitation",
        "credential",
    ];

    /// The names of structs in a source that derive Debug and have a field that holds a secret.
    fn tell_secrets(source: &str) -> Vec<&str> {
        let is_secret = |line: &str| {
            let field = line
                .trim()
                .strip_prefix("pub ")
                .and_then(|rest| rest.split_once(": "));
            field.is_some_and(|(name, kind)| SECRETS.contains(&name) && kind.contains("String"))
        };
        let structs = source.split("#[derive(").skip(1).filter_map(|part| {
            let (derived, rest) = part.split_once(")]")?;
            let (_, rest) = rest.split_once("pub struct ")?;
            let (name, body) = rest.split_once(" {")?;
            let (fields, _) = body.split_once("\n}")?;
            (derived.contains("Debug") && fields.lines().any(is_secret)).then_some(name)
        });
        structs.collect()
    }

    #[test]
    fn what_holds_a_secret_has_no_debug() {
        let leaky = "#[derive(Debug, Clone)]\npub struct Leaky {\n    pub token: Option<String>,\n}\n";
        assert_eq!(tell_secrets(leaky), ["Leaky"]);
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/wire");
        for file in fs::read_dir(here).expect("it is there") {
            let path = file.expect("it is there").path();
            // This one has the example above.
            if path.ends_with("mod.rs") {
                continue;
            }
            let source = fs::read_to_string(&path).expect("it is text");
            let found = tell_secrets(&source);
            assert!(found.is_empty(), "{}: {found:?}", path.display());
        }
    }
}
