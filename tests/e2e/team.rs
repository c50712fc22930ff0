//! A team and its places, kept from the command line: by an admin of the cluster, and by one who begins with nothing.

use serde_json::Value;
use std::path::Path;
use zectre_e2e::Cli;

/// `admin` runs the cluster; `ann@example.org` is signed in at `ann`, and belongs to nothing yet.
pub(crate) async fn is_kept(admin: &Cli, ann: &Cli, here: &Path) {
    let none = ann.run(here, &["members", "list"]).await;
    assert_eq!(none.code, 2, "{}", none.stderr);
    assert!(
        none.stderr.contains("`zectre orgs create NAME`"),
        "{}",
        none.stderr
    );

    // At once by an admin of the cluster, in the organization that is meant where nothing is named.
    let add = ["members", "add", "ann@example.org", "--role", "viewer"];
    admin.run(here, &add).await.success();
    let twice = admin.run(here, &add).await;
    assert_eq!(twice.code, 1, "{}", twice.stderr);
    assert!(
        twice.stderr.contains("`zectre members role ann@example.org"),
        "{}",
        twice.stderr
    );
    let unknown = admin.run(here, &["members", "add", "bob@example.org"]).await;
    assert_eq!(unknown.code, 4, "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("`zectre users add bob@example.org`"),
        "{}",
        unknown.stderr
    );
    let listed = ann.run(here, &["members", "list"]).await;
    let lines: Vec<&str> = listed.success().lines().collect();
    let column = lines[0].find("ROLE").expect("a heading");
    let of_ann = lines
        .iter()
        .find(|line| line.starts_with("ann@example.org "))
        .expect("she is one");
    assert!(of_ann[column..].starts_with("viewer "), "{lines:#?}");
    let refused = ann.run(here, &["members", "add", "admin@zectre.localhost"]).await;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("`zectre invitations create"),
        "{}",
        refused.stderr
    );
    admin
        .run(here, &["members", "role", "ann@example.org", "developer"])
        .await
        .success();
    let who = ann.run(here, &["whoami"]).await;
    assert!(who.success().contains("default: developer"), "{}", who.stdout);

    owns_an_organization(admin, ann, here).await;
    has_places(ann, here).await;
    ann.run(here, &["members", "rm", "ann@example.org", "--org", "default"])
        .await
        .success();
    let who = ann.run(here, &["whoami"]).await;
    assert!(!who.success().contains("default"), "{}", who.stdout);
}

/// An organization of hers, to which she invites whom she doesn't know.
async fn owns_an_organization(admin: &Cli, ann: &Cli, here: &Path) {
    ann.run(here, &["orgs", "create", "acme"]).await.success();
    ann.run(here, &["namespaces", "add", "lab", "--org", "acme"])
        .await
        .success();
    let foreign = ann
        .run(here, &["namespaces", "add", "more", "--org", "nobodys"])
        .await;
    assert_eq!(foreign.code, 4, "{}", foreign.stderr);
    assert!(
        foreign.stderr.contains("`zectre orgs list`"),
        "{}",
        foreign.stderr
    );
    let invite = ["invitations", "create", "admin@zectre.localhost", "--org", "acme"];
    let token = ann.run(here, &invite).await.success().to_owned();
    let accepted = admin
        .run_with(here, &["invitations", "accept", "--json"], &token)
        .await;
    let accepted: Value = serde_json::from_str(accepted.success()).expect("one document");
    assert_eq!(accepted["organization"], "acme", "{accepted}");
    let again = admin.run_with(here, &["invitations", "accept"], &token).await;
    assert_eq!(again.code, 4, "{}", again.stderr);
    ann.run(
        here,
        &["members", "rm", "admin@zectre.localhost", "--org", "acme"],
    )
    .await
    .success();
    let last = ann
        .run(here, &["members", "rm", "ann@example.org", "--org", "acme"])
        .await;
    assert_eq!(last.code, 1, "somebody owns it: {}", last.stderr);
}

/// Environments of a project of hers.
async fn has_places(ann: &Cli, here: &Path) {
    ann.run(here, &["projects", "create", "shop", "--namespace", "lab"])
        .await
        .success();
    let of_shop = async |words: &[&str]| {
        let arguments: Vec<&str> = ["environments"].iter().chain(words).copied().collect();
        ann.run(here, &[&arguments[..], &["--project", "lab/shop"]].concat())
            .await
    };
    of_shop(&["add", "qa"]).await.success();
    let listed = of_shop(&["list"]).await;
    let first: Vec<&str> = listed
        .success()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(first, ["ENVIRONMENT", "production", "development", "qa"]);
    let unasked = of_shop(&["rm", "qa"]).await;
    assert_eq!(unasked.code, 2, "{}", unasked.stderr);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    of_shop(&["rm", "qa", "--yes"]).await.success();
    let gone = of_shop(&["rm", "qa", "--yes"]).await;
    assert_eq!(gone.code, 4, "{}", gone.stderr);
    let stays = of_shop(&["rm", "production", "--yes"]).await;
    assert_eq!(stays.code, 1, "{}", stays.stderr);
}
