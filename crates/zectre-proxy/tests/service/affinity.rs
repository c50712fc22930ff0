//! Visitors who come back to the same task.

use crate::{
    client::{Got, client, full, send},
    origin::Origin,
    world::{App, Running, World},
};
use http::StatusCode;
use std::collections::HashSet;

async fn get(proxy: &Running, cookie: Option<&str>) -> Got {
    let mut request = client()
        .get(proxy.url("/"))
        .header("host", full("sticky-default"));
    if let Some(cookie) = cookie {
        request = request.header("cookie", format!("theirs=1; {cookie}"));
    }
    send(request).await
}

/// The cookie without its attributes.
fn cookie(got: &Got) -> String {
    let (cookie, attributes) = got.header("set-cookie").split_once(';').expect("attributes");
    assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax");
    let mark = cookie.strip_prefix("zectre_affinity=").expect("its name");
    assert!(
        mark.len() == 32 && mark.bytes().all(|b| b.is_ascii_hexdigit()),
        "{mark}"
    );
    cookie.to_owned()
}

impl World {
    async fn sticky(&self, app: App) {
        sqlx::query!(
            r#"UPDATE deployments SET spec = '{"networking": {"affinity": "cookie"}}' WHERE id = $1"#,
            app.deployment as _
        )
        .execute(&self.pool)
        .await
        .expect("updated");
    }
}

#[tokio::test]
async fn a_cookie_leads_back_to_the_same_task_at_every_proxy_and_elsewhere_when_it_is_gone() {
    let world = World::new().await;
    let (one, two, three) = (
        Origin::saying("one").await,
        Origin::saying("two").await,
        Origin::saying("three").await,
    );
    let app = world.app("sticky").await;
    world.sticky(app).await;
    let mut tasks = Vec::new();
    for (name, origin) in [("one", &one), ("two", &two), ("three", &three)] {
        tasks.push((name, world.task(app.deployment, origin.address).await));
    }
    let proxy = world.start().await;
    let first = get(&proxy, None).await;
    let kept = cookie(&first);
    for _ in 0..30 {
        let again = get(&proxy, Some(&kept)).await;
        assert_eq!(
            (again.body.as_str(), again.header("set-cookie")),
            (first.body.as_str(), "")
        );
    }
    let mut others = HashSet::new();
    while others.len() < 3 {
        others.insert(get(&proxy, None).await.body);
    }
    // A cookie of nobody's is as good as none.
    let forged = get(&proxy, Some("zectre_affinity=00000000000000000000000000000000")).await;
    assert_eq!(forged.status, StatusCode::OK);
    cookie(&forged);
    let second = Running::start(&world.config()).await;
    assert_eq!(get(&second, Some(&kept)).await.body, first.body);
    second.stop().await;

    // Its task leaves: another one takes over, and the cookie with it.
    let (_, task) = tasks
        .iter()
        .find(|(name, _)| *name == first.body)
        .expect("one of them");
    world.unroute(*task).await;
    world.publish().await;
    let next = get(&proxy, Some(&kept)).await;
    assert_ne!(next.body, first.body);
    let kept = cookie(&next);
    assert_eq!(get(&proxy, Some(&kept)).await.body, next.body);
    // The next one is killed before the table knows.
    let mut left = vec![("one", one), ("two", two), ("three", three)];
    left.retain(|(name, _)| *name != next.body);
    let last = get(&proxy, Some(&kept)).await;
    assert_eq!(last.status, StatusCode::OK);
    assert!(last.body != next.body && last.body != first.body, "{}", last.body);
    cookie(&last);
    proxy.stop().await;
}

#[tokio::test]
async fn who_does_not_ask_for_it_has_no_cookie() {
    let world = World::new().await;
    let origin = Origin::saying("free").await;
    world.app_at("sticky", &[&origin]).await;
    let proxy = world.start().await;
    assert_eq!(get(&proxy, None).await.header("set-cookie"), "");
    proxy.stop().await;
}
