//! What is committed is what the code says.

use serde_json::Value;
use std::{collections::BTreeSet, fs, path::PathBuf};

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
fn the_page_shows_every_endpoint() {
    let document = serde_json::to_value(zectre_api::openapi::document()).expect("plain data");
    let page = zectre_api::openapi::page(&document);
    assert!(
        page.contains("/api/v1/deployments/{id}/wake") && page.contains("deployment:developer|zectre-proxy")
    );
}

/// Collects what a part of the document refers to.
fn references(part: &Value, found: &mut BTreeSet<String>) {
    match part {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn the_document_has_all_that_it_refers_to() {
    let document = serde_json::to_value(zectre_api::openapi::document()).expect("plain data");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 50, "{found:?}");
    found.retain(|place| document.pointer(place.trim_start_matches('#')).is_none());
    assert_eq!(found, BTreeSet::new());
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

/// Answers that take a machine that is too slow, too busy or broken; tests beside the code, or those of the services that they are of,
/// look at some of them.
const NOT_CALLED: [&str; 6] = [
    "INTERNAL",
    "OVERLOADED",
    "SERVICE_UNAVAILABLE",
    "TIMEOUT",
    "UPLOAD_ABORTED",
    "UPLOAD_STALLED",
];

/// The text of all sources below a directory.
fn sources(directory: &std::path::Path, text: &mut String) {
    for entry in fs::read_dir(directory).expect("it is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("service/document.rs")
        {
            text.push_str(&fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn every_code_is_named_in_a_test() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut tests = String::new();
    for directory in ["tests", "../zectre-registry/tests"] {
        sources(&here.join(directory), &mut tests);
    }
    let unnamed = zectre_api::code::ALL.iter().map(|code| code.name);
    let mut unnamed: Vec<_> = unnamed
        .filter(|name| !tests.contains(&format!("\"{name}\"")))
        .collect();
    unnamed.sort_unstable();
    assert_eq!(unnamed, NOT_CALLED, "call what answers with these");
}

#[test]
fn a_snapshot_shows_the_refusal_of_every_code() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut shown = String::new();
    // The registry's own words are handed on as they are.
    for snapshots in [
        "tests/service/snapshots",
        "../zectre-registry/tests/service/snapshots",
    ] {
        for entry in fs::read_dir(here.join(snapshots)).expect("it is there") {
            let path = entry.expect("it can be read").path();
            shown.push_str(&fs::read_to_string(&path).expect("text"));
        }
    }
    let codes = zectre_api::code::ALL.iter().map(|code| code.name);
    let mut missing: Vec<_> = codes
        .filter(|name| !shown.contains(&format!("\"code\": \"{name}\"")) && !NOT_CALLED.contains(name))
        .collect();
    missing.sort_unstable();
    assert!(
        missing.is_empty(),
        "{missing:?}: show what answers with these: in refusals.rs, or by `Answer::shows` in a test of their own scene"
    );
}

#[test]
fn codes_are_unique() {
    let mut names: Vec<_> = zectre_api::code::ALL.iter().map(|code| code.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
