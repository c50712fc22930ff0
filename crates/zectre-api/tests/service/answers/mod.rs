//! Every operation of the document is called once with realistic things, and its answer is compared with the one that was
//! reviewed: a page each tag, in `snapshots/`.
//!
//! `INSTA_UPDATE=always` writes the pages anew; read what changed as the one who gets the answer.

mod apps;
mod cluster;
mod connected;
mod deploys;
mod people;
mod redact;
mod walk;
mod written;

use crate::{harness::Harness, webhooks::Receiver};
use std::panic::{AssertUnwindSafe, catch_unwind};
use walk::Walk;
use zectre_testkit::DnsServer;

/// Successes of the document that no page shows yet; it only ever gets shorter.
const NOT_SHOWN: [&str; 0] = [];

/// What leaves no event of its own: bytes and lines are announced and kept as what they are, a delivery has its log, a code that
/// waits is nobody's yet.
const SILENT: [&str; 4] = [
    "POST /artifacts/{id}/upload",
    "POST /auth/cli/initiate",
    "POST /tasks/{id}/logs",
    "POST /webhooks/{id}/deliveries/{delivery}/redeliver",
];

#[tokio::test]
async fn every_operation_answers_as_was_reviewed_and_an_event_tells_what_it_changed() {
    let (dns, receiver) = (DnsServer::start().await, Receiver::start(None).await);
    let api = Harness::start_with(&format!(
        "auth.signup = 'open'\nwebhooks.allow_private = true\nproxy.admin_port = 1\ndomains.dns_server = '{}'",
        dns.address
    ))
    .await;
    let mut walk = Walk::new(api);
    people::accounts(&mut walk).await;
    people::organizations(&mut walk).await;
    apps::applications(&mut walk).await;
    apps::environments(&mut walk).await;
    apps::variables(&mut walk).await;
    connected::source(&mut walk).await;
    connected::domains(&mut walk, &dns).await;
    connected::webhooks(&mut walk, &receiver).await;
    deploys::artifacts(&mut walk).await;
    deploys::builds(&mut walk).await;
    deploys::deployments(&mut walk).await;
    cluster::tasks(&mut walk).await;
    cluster::nodes(&mut walk).await;
    cluster::metrics(&mut walk).await;
    cluster::events(&mut walk).await;
    cluster::status(&mut walk).await;
    let mut differ = Vec::new();
    for (tag, page) in walk.pages() {
        let mut settings = insta::Settings::clone_current();
        settings.set_omit_expression(true);
        let compared = catch_unwind(AssertUnwindSafe(|| {
            settings.bind(|| insta::assert_snapshot!(tag, page));
        }));
        differ.extend(compared.is_err().then(|| tag.to_owned()));
    }
    assert_eq!(
        differ, [""; 0],
        "these tags' answers are others than reviewed; the differences are above"
    );
    assert_eq!(walk.missing(), NOT_SHOWN, "call these, and review their answers");
    assert_eq!(walk.silent(), SILENT, "no event tells what these changed");
    walk.api.stop().await;
}
