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
use zectre_common::{
    id::{EnvironmentId, EventId},
    spec::DeploymentRequest,
    time::Time,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A project.
pub(crate) fn app(id: ApplicationId, name: &str) -> App {
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
    let (first, stream) = asked(stream);
    let known = answers.iter().find(|(start, _)| first.starts_with(start));
    match known {
        Some((_, body)) => respond(stream, 200, body),
        None => respond(stream, 404, &problem(404, "APP_NOT_FOUND")),
    }
}

/// A platform that is asked these things in this order, and answers so.
pub(crate) fn script(answers: Vec<(String, u16, Value)>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = thread::spawn(move || {
        for (start, status, body) in answers {
            let (stream, _) = listener.accept().expect("accepted");
            let (first, stream) = asked(stream);
            assert!(first.starts_with(&start), "{start}: {first}");
            respond(stream, status, &body);
        }
    });
    (url, serving)
}

fn problem(status: u16, code: &str) -> Value {
    json!({"type": "about:blank", "title": "Refused", "status": status, "detail": "no", "code": code})
}

/// The first line of a request that was read whole.
fn asked(stream: TcpStream) -> (String, TcpStream) {
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
    (first, reader.into_inner())
}

fn respond(mut stream: TcpStream, status: u16, body: &Value) {
    let kind = if status < 300 { "json" } else { "problem+json" };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} So\r\ncontent-type: application/{kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("it is read");
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

/// What a command has that talks to it.
pub(crate) fn context(url: &str) -> Context {
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

#[tokio::test]
async fn a_project_that_someone_else_makes_at_the_same_time_is_the_one_that_is_meant() {
    let id = ApplicationId::new();
    let by_name = "GET /api/v1/apps/default/shop ";
    let missing = || (by_name.into(), 404, problem(404, "APP_NOT_FOUND"));
    let taken = || ("POST /api/v1/apps ".into(), 409, problem(409, "APP_EXISTS"));
    let theirs = serde_json::to_value(app(id, "shop")).expect("JSON");
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("zectre.yaml"), "name: shop\n").expect("writable");

    let (url, serving) = script(vec![missing(), taken(), (by_name.into(), 200, theirs)]);
    let found = deployed(&url, directory.path()).await.expect("it is there now");
    serving.join().expect("it served");
    assert_eq!(found.id, id);
    let link = Link::find(directory.path(), &url).expect("readable");
    assert_eq!(link.expect("linked").project_id, id);

    // Another one has its subdomain, or it is nothing that one may see: then it stays refused.
    let (url, serving) = script(vec![missing(), taken(), missing()]);
    let refused = deployed(&url, directory.path()).await.expect_err("not this one");
    serving.join().expect("it served");
    let CliError::Client(refused) = refused else {
        panic!("{refused}")
    };
    assert_eq!(refused.code(), Some("APP_EXISTS"));
    assert_eq!(Link::find(directory.path(), &url).expect("readable"), None);
}

fn environments(slugs: &[(&str, bool)]) -> Vec<Environment> {
    let environment = |(slug, is_used): &(&str, bool)| Environment {
        id: EnvironmentId::new(),
        slug: (*slug).into(),
        current_deployment_id: is_used.then(DeploymentId::new),
        target_deployment_id: None,
        created_at: Time::from_unix_ms(0),
    };
    slugs.iter().map(environment).collect()
}

#[tokio::test]
async fn a_slip_of_the_pen_makes_no_environment() {
    let shop = app(ApplicationId::new(), "shop");
    let known = environments(&[("production", true), ("development", false)]);
    let known = json!({"data": known, "total": 2, "page": 1, "page_size": 100});
    let path = format!("/api/v1/apps/{}/environments", shop.id);
    // All that there may be: one on a second page would be taken for none.
    let asked = || (format!("GET {path}?page=1&page_size=100 "), 200, known.clone());

    let (url, serving) = script(vec![asked()]);
    let refused = ensure_environment(&context(&url), &shop, "prodution")
        .await
        .expect_err("another one is meant");
    serving.join().expect("nothing was made");
    assert_eq!(refused.exit_code(), 2);
    let told = refused.to_string();
    for says in [
        "`prodution`",
        "`--env production`",
        "`zectre environments add prodution",
    ] {
        assert!(told.contains(says), "{says}: {told}");
    }

    // Two deploys may make it at the same time.
    let made = environments(&[("qa", false)]).remove(0);
    let made = (201, serde_json::to_value(made).expect("JSON"));
    for (status, answer) in [made, (409, problem(409, "ENVIRONMENT_EXISTS"))] {
        let (url, serving) = script(vec![asked(), (format!("POST {path} "), status, answer)]);
        ensure_environment(&context(&url), &shop, "qa")
            .await
            .expect("it is there");
        serving.join().expect("it served");
    }
}

#[test]
fn the_environment_that_is_taken_is_told_where_another_one_could_be_meant() {
    let shop = app(ApplicationId::new(), "shop");
    let said = |slugs: &[(&str, bool)]| {
        let all = environments(slugs);
        taken_of_several(&shop, &all, in_use(&all).expect("one is in use"))
    };
    assert_eq!(said(&[("development", true), ("production", false)]), None);
    let both = said(&[("production", true), ("development", true), ("qa", false)]).expect("another one");
    assert!(
        both.contains("development of default/shop")
            && both.contains("--env")
            && both.contains("to production too"),
        "{both}"
    );
}
