use super::*;
use crate::{args::Global, output::Output};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};
use zectre_client::{Client, Credential};
use zectre_common::{id::EventId, spec::DeploymentRequest, time::Time};

const MINUTE: Duration = Duration::from_secs(60);

fn app(id: ApplicationId, name: &str) -> App {
    App {
        id,
        name: name.into(),
        namespace: NAMESPACE_DEFAULT.into(),
        subdomain: format!("{name}-default"),
        description: String::new(),
        labels: BTreeMap::default(),
        default_deployment_spec: DeploymentRequest::default(),
        url: String::new(),
        created_at: Time::from_unix_ms(0),
        updated_at: Time::from_unix_ms(0),
    }
}

/// A platform that answers so many requests, each by what its first line begins with; 404 to all else.
fn platform(requests: usize, answers: Vec<(String, Value)>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = thread::spawn(move || {
        for stream in listener.incoming().take(requests) {
            answer(stream.expect("accepted"), &answers);
        }
    });
    (url, serving)
}

fn answer(stream: TcpStream, answers: &[(String, Value)]) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).expect("a request");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("a body");
    let known = answers.iter().find(|(start, _)| first.starts_with(start));
    let missing = json!({"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no", "code": "APP_NOT_FOUND"});
    let (status, kind, body) = match known {
        Some((_, body)) => ("200 OK", "application/json", body),
        None => ("404 Not Found", "application/problem+json", &missing),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    reader
        .into_inner()
        .write_all((head + &body).as_bytes())
        .expect("it is read");
}

fn events(of: &[Value]) -> (String, Value) {
    let page = json!({"data": of, "total": of.len(), "page": 1, "page_size": 1});
    ("GET /api/v1/events?".into(), page)
}

fn deletion(id: ApplicationId) -> Value {
    let at = Time::from_unix_ms(Time::now().unix_ms() - 5 * MINUTE.as_millis() as i64);
    json!({"id": EventId::new(), "time": at, "actor": "user:ann@example.org", "action": "app.deleted",
           "application_id": id, "deployment_id": null, "task_id": null, "node_id": null,
           "message": "application `shop` of `default` was deleted", "reason": null, "request_id": null})
}

fn context(url: &str) -> Context {
    let global = Global {
        api_url: None,
        json: false,
        quiet: true,
    };
    Context {
        output: Output::new(&global),
        client: Client::new(url, Credential::None).expect("a URL"),
        signed_in: false,
    }
}

/// A directory linked to a project that the platform doesn't have.
fn stale(url: &str, id: ApplicationId, manifest: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    Link::save(directory.path(), url, &app(id, "shop")).expect("writable");
    fs::write(directory.path().join("zectre.yaml"), manifest).expect("writable");
    directory
}

#[tokio::test]
async fn a_directory_whose_project_was_deleted_is_told_when_by_whom_and_what_next() {
    let id = ApplicationId::new();
    for (manifest, next) in [
        (
            "name: shop\n",
            "`zectre deploy` makes the one that zectre.yaml names",
        ),
        ("", "`zectre projects add shop`"),
    ] {
        let (url, serving) = platform(2, vec![events(&[deletion(id)])]);
        let directory = stale(&url, id, manifest);
        let error = here(&context(&url), directory.path())
            .await
            .expect_err("it is gone");
        serving.join().expect("it served");
        assert_eq!(error.exit_code(), 4);
        let told = error.to_string();
        for says in [
            "default/shop",
            &url,
            "was deleted",
            "5m ago by ann@example.org",
            "`zectre link NAME`",
            next,
        ] {
            assert!(told.contains(says), "{says}: {told}");
        }
    }
}

#[tokio::test]
async fn of_a_project_that_nobody_is_known_to_have_deleted_no_such_thing_is_said() {
    let id = ApplicationId::new();
    // One that tells nothing, and one that does not tell us.
    for answers in [vec![events(&[])], Vec::new()] {
        let (url, serving) = platform(2, answers);
        let directory = stale(&url, id, "name: shop\n");
        let told = here(&context(&url), directory.path())
            .await
            .expect_err("it is gone")
            .to_string();
        serving.join().expect("it served");
        assert!(
            told.contains("not yours to see")
                && told.contains("`zectre projects add shop`")
                && !told.contains("was deleted"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_deploy_makes_anew_what_someone_deleted_and_nothing_else() {
    let (old, new) = (ApplicationId::new(), ApplicationId::new());
    let made = serde_json::to_value(app(new, "shop")).expect("JSON");
    let made = ("POST /api/v1/apps ".to_owned(), made);
    let (url, serving) = platform(4, vec![events(&[deletion(old)]), made.clone()]);
    let directory = stale(&url, old, "name: shop\n");
    let found = deployed(&url, directory.path()).await.expect("made");
    assert_eq!(found.id, new);
    serving.join().expect("it served");
    let link = Link::find(directory.path(), &url)
        .expect("readable")
        .expect("linked");
    assert_eq!(link.project_id, new, "the directory is linked to the new one");

    let (url, serving) = platform(2, vec![events(&[]), made]);
    let directory = stale(&url, old, "name: shop\n");
    let refused = deployed(&url, directory.path())
        .await
        .expect_err("who knows whose it is");
    assert_eq!(refused.exit_code(), 4);
    serving.join().expect("it served");
}

/// The project that a deploy of `directory` is of.
async fn deployed(url: &str, directory: &Path) -> Result<App, CliError> {
    let manifest = Manifest::load_dir(directory).expect("valid");
    find_or_create(&context(url), &ProjectArgs::default(), directory, &manifest).await
}

#[tokio::test]
async fn a_manifest_that_names_no_project_of_the_platform_is_told_how_to_make_it() {
    let (url, serving) = platform(1, Vec::new());
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("zectre.yaml"), "name: shop\n").expect("writable");
    let told = here(&context(&url), directory.path())
        .await
        .expect_err("none")
        .to_string();
    serving.join().expect("it served");
    assert!(
        told.contains("no project default/shop on") && told.contains("`zectre deploy` makes it"),
        "{told}"
    );
}
