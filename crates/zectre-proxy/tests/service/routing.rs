//! Where hosts lead, and what reaches the task.

use crate::{
    client::{client, comes_to, full, metric, routes, send},
    origin::{Origin, text},
    world::{SOON, World},
};
use http::{Method, StatusCode};
use zectre_common::id::RouteId;
use zectre_testkit::wait_until;

#[tokio::test]
async fn a_host_leads_where_the_four_rules_say_and_changes_at_once() {
    let world = World::new().await;
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    let app = world.app_at("shop", &[&one]).await;
    let proxy = world.start().await;
    for host in [
        "shop-default",
        "shop-preview",
        "SHOP-default.Zectre.Localhost.:47000",
    ] {
        assert_eq!(proxy.get(host).await.body, "one", "{host}");
    }
    assert_eq!(proxy.get("www.shop.example").await.status, StatusCode::NOT_FOUND);

    let application = sqlx::query_scalar!(
        "SELECT application_id FROM environments WHERE id = $1",
        app.environment as _
    );
    let application = application.fetch_one(&world.pool).await.expect("there");
    let newer = world.deployment(application, app.environment, "shop-newer").await;
    world.task(newer, two.address).await;
    world.make_current(app.environment, newer).await;
    for (domain, deployment) in [
        ("www.shop.example", None),
        ("old.shop.example", Some(app.deployment)),
    ] {
        sqlx::query!(
            "INSERT INTO routes (id, domain, application_id, environment_id, deployment_id) VALUES ($1, $2, $3, $4, $5)",
            RouteId::new() as _,
            domain,
            application as _,
            app.environment as _,
            deployment as _
        )
        .execute(&world.pool)
        .await
        .expect("inserted");
    }
    world.publish().await;
    for (host, words) in [
        ("shop-default", "two"),
        ("shop-newer", "two"),
        ("www.shop.example", "two"),
        ("shop-preview", "one"),
        ("old.shop.example", "one"),
    ] {
        assert_eq!(proxy.get(host).await.body, words, "{host}");
    }
    // Deleted: it answers nowhere, though its tasks still run.
    sqlx::query!(
        "UPDATE applications SET deleted_at = now() WHERE id = $1",
        application as _
    )
    .execute(&world.pool)
    .await
    .expect("updated");
    world.publish().await;
    for host in [
        "shop-default",
        "shop-preview",
        "www.shop.example",
        "old.shop.example",
    ] {
        assert_eq!(proxy.get(host).await.status, StatusCode::NOT_FOUND, "{host}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_change_that_nobody_tells_of_is_found_by_the_timed_look() {
    let world = World::new().await;
    let origin = Origin::saying("hello").await;
    let app = world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    assert_eq!(proxy.get("shop-default").await.body, "hello");
    // As `raise_routing_epoch()` does it, without its notification.
    let changed = sqlx::query_scalar(
        "WITH deleted AS (UPDATE applications a SET deleted_at = now() FROM environments e
                          WHERE e.application_id = a.id AND e.id = $1)
         UPDATE routing_epoch SET epoch = epoch + 1 RETURNING epoch",
    );
    let epoch: i64 = changed
        .bind(app.environment)
        .fetch_one(&world.pool)
        .await
        .expect("changed");
    // The acknowledgement comes with the proxy's lease; the routes are there before it.
    wait_until(SOON, "it is found", async || {
        (routes(proxy.admin, &world.key).await["epoch"] == epoch).then_some(())
    })
    .await;
    assert_eq!(proxy.get("shop-default").await.status, StatusCode::NOT_FOUND);
    proxy.stop().await;
}

#[tokio::test]
async fn what_changed_is_read_alone_and_everything_after_a_lost_connection() {
    let world = World::new().await;
    let origin = Origin::saying("hello").await;
    for name in ["loud", "silent"] {
        world.app_at(name, &[&origin]).await;
    }
    let proxy = world.start().await;
    let change = "ALTER TABLE applications DISABLE TRIGGER USER;
        UPDATE applications SET subdomain = 'new-silent-default' WHERE name = 'silent';
        ALTER TABLE applications ENABLE TRIGGER USER;
        UPDATE applications SET subdomain = 'new-loud-default' WHERE name = 'loud'";
    sqlx::raw_sql(change).execute(&world.pool).await.expect("changed");
    world.publish().await;
    let serves = async |name: &str| proxy.get(name).await.status == StatusCode::OK;
    assert!(serves("new-loud-default").await && !serves("loud-default").await);
    // Nothing tells of this one, so nobody looks at it.
    assert!(serves("silent-default").await && !serves("new-silent-default").await);
    let lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'zectre-proxy'";
    sqlx::raw_sql(lost).execute(&world.pool).await.expect("they end");
    wait_until(SOON, "everything is read", async || {
        serves("new-silent-default").await.then_some(())
    })
    .await;
    assert!(!serves("silent-default").await && serves("new-loud-default").await);
    proxy.stop().await;
}

/// That of a client.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[tokio::test]
async fn the_task_sees_the_client_as_the_proxy_saw_it() {
    let world = World::new().await;
    let origin = Origin::new(|request| async move {
        let mut lines: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("plain text")))
            .collect();
        lines.sort();
        let mut response = text(format!(
            "{} {}\n{}",
            request.method(),
            request.uri(),
            lines.join("\n")
        ));
        response
            .headers_mut()
            .insert("connection", "x-private".parse().expect("a value"));
        response
            .headers_mut()
            .insert("x-private", "1".parse().expect("a value"));
        response
            .headers_mut()
            .insert("x-public", "1".parse().expect("a value"));
        response
    })
    .await;
    world.app_at("echo", &[&origin]).await;
    let proxy = world.start().await;
    let host = full("echo-default");
    let request = client()
        .get(proxy.url("/a%20b?c=d&e"))
        .header("host", &host)
        .header("x-forwarded-for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("x-forwarded-host", "evil.example")
        .header("x-request-id", "taken-1")
        .header("traceparent", TRACE)
        .header("connection", "x-hop")
        .header("x-hop", "1");
    let got = send(request).await;
    let expected = format!(
        "GET /a%20b?c=d&e\naccept: */*\nhost: {host}\ntraceparent: {TRACE}\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: {host}\n\
         x-forwarded-proto: http\nx-request-id: taken-1"
    );
    assert_eq!(got.body, expected);
    assert_eq!(
        (
            got.header("x-request-id"),
            got.header("x-public"),
            got.header("x-private")
        ),
        ("taken-1", "1", "")
    );
    let got = send(
        client()
            .get(proxy.url("/"))
            .header("host", &host)
            .header("x-request-id", "not sane!"),
    )
    .await;
    assert_eq!(got.header("x-request-id").len(), 32);
    proxy.stop().await;
}

#[tokio::test]
async fn what_may_be_passed_on_no_more_stays_here() {
    let world = World::new().await;
    let origin = Origin::new(|request| async move {
        let left = request.headers().get("max-forwards").cloned();
        text(left.map_or_else(Vec::new, |left| left.as_bytes().to_vec()))
    })
    .await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let ask = async |method: Method, left: &str| {
        let request = client().request(method, proxy.url("/"));
        send(
            request
                .header("host", full("shop-default"))
                // No option of a connection lets it go round for ever.
                .header("connection", "Max-Forwards")
                .header("max-forwards", left),
        )
        .await
    };
    for method in [Method::OPTIONS, Method::TRACE] {
        let got = ask(method.clone(), "2").await;
        assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "1"), "{method}");
        let got = ask(method, "0").await;
        assert_eq!(got.problem().code, "METHOD_NOT_ALLOWED");
        // A 405 without it would be none (RFC 9110, section 15.5.6).
        assert_eq!(got.headers["allow"], "GET, HEAD, POST, PUT, PATCH, DELETE");
    }
    assert_eq!(ask(Method::GET, "0").await.body, "0");
    assert_eq!(origin.requests(), 3);
    proxy.stop().await;
}

#[tokio::test]
async fn the_admin_port_tells_what_is_routed_and_counted() {
    let world = World::new().await;
    let origin = Origin::saying("hello").await;
    let app = world.app_at("hello", &[&origin]).await;
    let proxy = world.start().await;
    proxy.get("hello-default").await;
    proxy.get("nobody").await;
    let admin = |path: &str| send(client().get(format!("http://{}{path}", proxy.admin)));
    assert_eq!(admin("/ready").await.status, StatusCode::OK);
    let health = admin("/health").await;
    assert_eq!(
        (health.status, health.body.as_str()),
        (StatusCode::OK, r#"{"status":"ok","service":"zectre-proxy"}"#)
    );
    assert_eq!(
        admin("/routes").await.status,
        StatusCode::UNAUTHORIZED,
        "not even here"
    );
    comes_to(proxy.admin, "proxy_requests_total{class=\"2xx\"}", 1.0).await;
    let routes = wait_until(SOON, "nothing is under way", async || {
        let routes = routes(proxy.admin, &world.key).await;
        let backend = &routes["deployments"][app.deployment.to_string()]["backends"][0];
        (backend["in_flight"] == 0).then_some(routes)
    })
    .await;
    assert_eq!(routes["epoch"], world.epoch().await);
    assert_eq!(
        routes["hosts"]["hello-default.zectre.localhost"],
        app.deployment.to_string()
    );
    let backend = &routes["deployments"][app.deployment.to_string()]["backends"][0];
    assert_eq!(
        (&backend["port"], &backend["in_flight"]),
        (&origin.address.port().into(), &0.into())
    );
    assert_eq!(admin("/metrics").await.status, StatusCode::UNAUTHORIZED);
    // A client may see what happened a moment before it is counted.
    for series in [
        "proxy_requests_total{class=\"2xx\"}",
        "proxy_requests_total{class=\"4xx\"}",
    ] {
        comes_to(proxy.admin, series, 1.0).await;
        assert!(metric(proxy.admin, series).await < 1.5, "{series}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_claimed_domain_shows_its_page_and_nothing_else_until_it_is_someones() {
    let world = World::new().await;
    let one = Origin::saying("one").await;
    let app = world.app_at("shop", &[&one]).await;
    let other = world.app_at("other", &[&one]).await;
    for (environment, domain, token, verified) in [
        (app.environment, "claimed.example", "token1", false),
        (app.environment, "disputed.example", "token2", false),
        (other.environment, "disputed.example", "token3", false),
        (app.environment, "held.example", "token4", true),
        (other.environment, "held.example", "token5", false),
        (app.environment, "lapsed.example", "token6", false),
        (other.environment, "lapsed.example", "token7", false),
    ] {
        world.claim(environment, domain, token, verified).await;
    }
    // Its time is over, and nobody has deleted it yet.
    let lapse = "UPDATE custom_domains SET expires_at = now() - interval '1 second' WHERE token = 'token6'";
    sqlx::query(lapse).execute(&world.pool).await.expect("updated");
    let proxy = world.start().await;
    let page = async |host: &str, token: &str| {
        let path = format!("/.well-known/zectre-verification/{token}");
        send(client().get(proxy.url(&path)).header("host", host)).await
    };
    for (host, token) in [("claimed.example", "token1"), ("lapsed.example", "token7")] {
        let shown = page(host, token).await;
        assert_eq!((shown.status, shown.body.as_str()), (StatusCode::OK, token));
    }
    // Not another's token, not at another host, nothing else at this one; and where two claim a name, or it is held,
    // pointing here shows nothing.
    for (host, token) in [
        ("claimed.example", "token2"),
        ("claimed.example", ""),
        ("claimed.example", "token1/"),
        ("unknown.example", "token1"),
        ("disputed.example", "token2"),
        ("disputed.example", "token3"),
        ("held.example", "token5"),
        ("lapsed.example", "token6"),
    ] {
        assert_eq!(
            page(host, token).await.status,
            StatusCode::NOT_FOUND,
            "{host} {token}"
        );
    }
    assert_eq!(proxy.get("claimed.example").await.status, StatusCode::NOT_FOUND);
    assert_eq!(page("shop-default.zectre.localhost", "token1").await.body, "one");
    proxy.stop().await;
}
