//! Builds from a repository, served by git's own HTTP backend.

use crate::harness::Yard;
use zectre_common::{id::BuildId, state::BuildStatus};
use zectre_service::{key::Keys, seal};
use zectre_testkit::{FORGE_TOKEN, Forge};

const HELLO: &str = "console.log(\"hello from git\")\n";

async fn queue(yard: &Yard, repository: &str, reference: &str, root_dir: &str) -> BuildId {
    let id = BuildId::new();
    sqlx::query(
        "INSERT INTO builds (id, application_id, git_repository, git_ref, git_root_dir) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(id)
    .bind(yard.application)
    .bind(repository)
    .bind(reference)
    .bind(root_dir)
    .execute(&yard.pool)
    .await
    .expect("a build");
    id
}

async fn connect(yard: &Yard, repository: &str) {
    let key = Keys::load(&yard.config("").secrets)
        .expect("it is there")
        .master()
        .expect("it is set");
    let sealed = seal::seal(&key, &seal::place::source_token(yard.application), FORGE_TOKEN);
    sqlx::query(
        "INSERT INTO sources (application_id, repository, repository_key, branches, credential, webhook_secret)
         VALUES ($1, $2, 'x', '{}', $3, '')",
    )
    .bind(yard.application)
    .bind(repository)
    .bind(sealed)
    .execute(&yard.pool)
    .await
    .expect("a source");
}

async fn commit_of(yard: &Yard, id: BuildId) -> Option<String> {
    sqlx::query_scalar("SELECT git_commit FROM builds WHERE id = $1")
        .bind(id)
        .fetch_one(&yard.pool)
        .await
        .expect("the database is there")
}

fn sources(forge: &Forge) -> String {
    format!("git_sources = [{:?}]", forge.url)
}

#[tokio::test]
async fn a_commit_of_a_private_repository_is_built() {
    let forge = Forge::start().await;
    let first = forge.commit(&[
        ("services/hello/src/main.tish", HELLO),
        (
            ".gitmodules",
            "[submodule \"x\"]\n\tpath = x\n\turl = http://127.0.0.1:1/x\n",
        ),
    ]);
    forge.commit(&[("services/hello/src/main.tish", "this is no program (\n")]);
    let yard = Yard::new().await;
    connect(&yard, &forge.repository()).await;
    let worker = yard.start(&sources(&forge)).await;
    let id = queue(&yard, &forge.repository(), &first, "services/hello").await;
    let build = yard.ended(id).await;
    let log = yard.log_text(id).await;
    assert_eq!(build.status, BuildStatus::Succeeded, "{log}");
    assert!(
        log.contains(&format!("commit {first}")) && !log.contains(FORGE_TOKEN),
        "{log}"
    );
    assert_eq!(build.git.and_then(|git| git.commit), Some(first));
    // The branch's newest is broken, so it was the named one that was built.
    let newest = queue(&yard, &forge.repository(), "main", "services/hello").await;
    assert_eq!(yard.ended(newest).await.status, BuildStatus::Failed);
    assert!(commit_of(&yard, newest).await.is_some());
    worker.stop().await;
}

#[tokio::test]
async fn what_can_not_be_fetched_is_said() {
    let forge = Forge::start().await;
    forge.commit(&[("src/main.tish", HELLO)]);
    std::os::unix::fs::symlink("/etc/passwd", forge.work().join("link")).expect("ours");
    forge.commit(&[]);
    let yard = Yard::new().await;
    let worker = yard.start(&sources(&forge)).await;
    let repository = forge.repository();
    // Nobody has given a token yet.
    let private = queue(&yard, &repository, "main", "").await;
    let ended = yard.ended(private).await;
    assert_eq!(ended.status, BuildStatus::Failed);
    let message = ended.message.expect("a sentence");
    assert!(message.contains("needs a token"), "{message}");
    connect(&yard, &repository).await;
    for (repository, reference, root_dir, words) in [
        (repository.as_str(), "nothing", "", "could not fetch"),
        (repository.as_str(), "main", "nowhere", "no directory `nowhere`"),
        (repository.as_str(), "main", "", "a symbolic link"),
        (
            repository.as_str(),
            "--upload-pack=touch /tmp/x",
            "",
            "no branch, tag",
        ),
        (
            "http://127.0.0.1:1/acme/shop.git",
            "main",
            "",
            "build.git_sources",
        ),
    ] {
        let id = queue(&yard, repository, reference, root_dir).await;
        let ended = yard.ended(id).await;
        let message = ended.message.unwrap_or_default();
        assert!(
            ended.status == BuildStatus::Failed && message.contains(words),
            "{reference} {root_dir}: {message}"
        );
    }
    worker.stop().await;
}
