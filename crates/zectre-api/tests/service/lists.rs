//! Every list of the document takes what the document says it takes, and nothing else; its pages are the whole, in order.

use crate::{harness::Harness, things::Things};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

/// A list, and the parameters that are its own.
struct List {
    template: String,
    parameters: Vec<(String, Value)>,
}

fn lists(document: &Value) -> Vec<List> {
    let paths = document["paths"].as_object().expect("paths");
    let list = |(path, item): (&String, &Value)| {
        let parameters = item["get"]["parameters"].as_array()?.iter();
        let parameters: Vec<_> = parameters
            .filter(|one| one["in"] == "query")
            .map(|one| {
                let name = one["name"].as_str().expect("a name").to_owned();
                (name, one["schema"].clone())
            })
            .collect();
        let is_paged = parameters.iter().any(|(name, _)| name == "page");
        is_paged.then(|| List {
            template: path.strip_prefix("/api/v1").expect("the prefix").to_owned(),
            parameters,
        })
    };
    paths.iter().filter_map(list).collect()
}

impl List {
    fn schema(&self, name: &str) -> &Value {
        let found = self.parameters.iter().find(|(one, _)| one == name);
        &found
            .unwrap_or_else(|| panic!("{} has no `{name}`", self.template))
            .1
    }

    /// What it can be sorted by.
    fn keys(&self) -> Vec<&str> {
        let keys = self.schema("sort_by")["enum"].as_array().expect("keys");
        keys.iter().map(|key| key.as_str().expect("a key")).collect()
    }
}

/// Texts that fit the schema of a filter, and one that doesn't where there is any.
fn fitting(document: &Value, name: &str, schema: &Value) -> (Vec<String>, Option<&'static str>) {
    let resolved = match schema["$ref"].as_str() {
        Some(place) => document
            .pointer(place.trim_start_matches('#'))
            .expect("it is there"),
        None => schema,
    };
    let known = resolved["enum"].as_array().into_iter().flatten();
    let known: Vec<_> = known
        .map(|one| one.as_str().expect("a text").to_owned())
        .collect();
    let is_id = resolved["format"] == "uuid";
    match resolved["type"].as_str() {
        _ if !known.is_empty() => (known, Some("nonsense")),
        Some("boolean") => (vec!["true".into(), "false".into()], Some("nonsense")),
        Some("string") if is_id => (vec![Uuid::now_v7().to_string()], Some("nonsense")),
        Some("string") if ["namespace", "environment"].contains(&name) => (vec!["default".into()], None),
        Some("string") => (vec!["a@example.org".into()], None),
        other => panic!("no text for a filter of type {other:?}: {resolved}"),
    }
}

/// What names the rows of a page; the rest of a row may change meanwhile.
async fn ids(api: &Harness, path: &str) -> Vec<Value> {
    let list = api.get(path).await.expect(200).json();
    let rows = list["data"].as_array().expect("a list").iter();
    let id = |row: &Value| {
        let names = ["id", "user_id", "key"];
        let id = names.into_iter().find_map(|name| row.get(name));
        id.unwrap_or_else(|| panic!("{path}: {row} has no id")).clone()
    };
    rows.map(id).collect()
}

/// The rows of all pages of one row each are those of the whole, one by one.
async fn pages_are_the_whole(api: &Harness, path: &str, query: &str) {
    let whole = ids(api, &format!("{path}?page_size=100&{query}")).await;
    for (at, row) in whole.iter().take(3).enumerate() {
        let page = format!("{path}?page_size=1&page={}&{query}", at + 1);
        assert_eq!(ids(api, &page).await, std::slice::from_ref(row), "{page}");
    }
    let after = format!("{path}?page_size=1&page={}&{query}", whole.len() + 1);
    assert_eq!(ids(api, &after).await, [Value::Null; 0], "{after}");
}

#[tokio::test]
async fn every_list_takes_what_the_document_says_and_nothing_else() {
    let api = Harness::start().await;
    // Two of everything, and of each what belongs to it.
    Things::make(&api, Uuid::now_v7()).await;
    let things = Things::make(&api, Uuid::now_v7()).await;
    for key in ["ONE", "TWO"] {
        let path = things.path("/apps/{id}/env/{key}").replace("KEY", key);
        let set = api.call(&api.admin, Method::PUT, &path, Some(json!({ "value": "x" })));
        set.await.expect(200);
    }
    let document = api.get("/openapi.json").await.expect(200).json();
    let lists = lists(&document);
    assert!(lists.len() >= 20, "{}", lists.len());
    for list in &lists {
        let path = things.path(&list.template);
        for key in list.keys() {
            for order in ["asc", "desc"] {
                pages_are_the_whole(&api, &path, &format!("sort_by={key}&sort_order={order}")).await;
            }
        }
        for (name, schema) in &list.parameters {
            if ["page", "page_size", "sort_by", "sort_order"].contains(&name.as_str()) {
                continue;
            }
            let (fitting, not) = fitting(&document, name, schema);
            for text in fitting {
                api.get(&format!("{path}?{name}={text}")).await.expect(200);
            }
            if let Some(text) = not {
                let refused = api.get(&format!("{path}?{name}={text}")).await.expect(400);
                assert_eq!(refused.code(), "INVALID_QUERY", "{path}?{name}");
            }
        }
        for (query, code) in [
            ("nonsense=1", "INVALID_QUERY"),
            ("sort_by=nonsense", "INVALID_QUERY"),
            ("sort_order=up", "INVALID_QUERY"),
            ("page=0", "INVALID_INPUT"),
            ("page=-1", "INVALID_QUERY"),
            ("page_size=0", "INVALID_INPUT"),
            ("page_size=101", "INVALID_INPUT"),
        ] {
            let refused = api.get(&format!("{path}?{query}")).await.expect(400);
            assert_eq!(refused.code(), code, "{path}?{query}");
        }
    }
    api.stop().await;
}
