//! What is committed is what the code says.

use std::{fs, path::PathBuf};

/// Compares a committed document with the code's; `ZECTRE_UPDATE=1` renews it.
fn same(file: &str, now: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(file);
    if std::env::var_os("ZECTRE_UPDATE").is_some() {
        fs::write(&path, now).expect("docs/ is writable");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == now,
        "docs/{file} is stale: run `ZECTRE_UPDATE=1 cargo test -p zectre-api document`"
    );
}

#[test]
fn the_committed_openapi_document_is_the_served_one() {
    same("openapi.json", &zectre_api::openapi::json());
}

#[test]
fn the_committed_reference_lists_every_endpoint() {
    let document = serde_json::from_str(&zectre_api::openapi::json()).expect("it is JSON");
    same("API.md", &zectre_api::reference::page(&document));
}

#[test]
fn the_committed_error_page_lists_every_code() {
    same("ERRORS.md", &zectre_api::code::errors_page());
}

#[test]
fn codes_are_unique() {
    let mut names: Vec<_> = zectre_api::code::ALL.iter().map(|code| code.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
