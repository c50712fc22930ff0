//! What the admin port tells of each route and each task.

use crate::{
    client::{client, comes_to, full, metric, metrics, routes, send},
    origin::{Origin, nobody, text},
    world::{Running, SOON, World},
};
use http::StatusCode;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use zectre_common::id::NodeId;
use zectre_testkit::wait_until;

/// 404 at `/missing`, 500 at `/broken`, nothing at all at `/hang`.
async fn various() -> Origin {
    Origin::new(|request| async move {
        let mut answer = text("hello");
        match request.uri().path() {
            "/missing" => *answer.status_mut() = StatusCode::NOT_FOUND,
            "/broken" => *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
            "/hang" => std::future::pending().await,
            _ => {}
        }
        answer
    })
    .await
}

async fn get(proxy: &Running, host: &str, path: &str) -> StatusCode {
    send(client().get(proxy.url(path)).header("host", full(host)))
        .await
        .status
}

/// Waits until a series has a value: what is counted at a request's end may come after its answer.
async fn becomes(proxy: &Running, series: &str, value: f64) {
    wait_until(SOON, &format!("{series} becomes {value}"), || async {
        let now = metric(proxy.admin, series).await;
        ((now - value).abs() < 1e-9).then_some(())
    })
    .await;
}

fn of_route(name: &str, app: &str, more: &str) -> String {
    let environment = if app == "other" { "other" } else { "production" };
    format!("{name}{{app=\"{app}\",environment=\"{environment}\"{more}}}")
}

/// The same of the node, of which each route is a part, whether it has numbers of its own or not.
async fn its_node_counts(proxy: &Running, node: NodeId) {
    for (class, count) in [("2xx", 2.0), ("4xx", 1.0), ("5xx", 1.0)] {
        let series = format!("proxy_node_requests_total{{node=\"{node}\",class=\"{class}\"}}");
        becomes(proxy, &series, count).await;
    }
    let series = format!("proxy_node_seconds_count{{node=\"{node}\"}}");
    becomes(proxy, &series, 4.0).await;
}

#[tokio::test]
async fn a_route_has_its_rate_errors_durations_and_what_is_under_way_and_the_rest_shares() {
    let mut world = World::new().await;
    world.configure("[proxy.metrics]\nroutes_max = 1\nbackends_max = 1");
    // One each: a node has no port twice.
    let origins = [various().await, various().await, various().await];
    for (name, origin) in ["shop", "blog", "wiki"].into_iter().zip(&origins) {
        world.app_at(name, &[origin]).await;
    }
    // Two of the three run on one node.
    let node = NodeId::new();
    sqlx::query(
        "WITH node AS (INSERT INTO nodes (id, name, address, actions_port, cpu_millis, memory_bytes, task_slots, port_min, port_max,
                                          lease_expires_at) VALUES ($1, 'n', '127.0.0.1', 1, 1, 1, 1, 1, 2, now()))
         UPDATE tasks SET node_id = $1 FROM deployments d JOIN applications a ON a.id = d.application_id
         WHERE d.id = deployment_id AND a.name <> 'wiki'",
    )
    .bind(node)
    .execute(&world.pool)
    .await
    .expect("a node, and who is on it; the constraint is looked at when all is done");
    let proxy = world.start().await;
    let requests =
        |app: &str, class: &str| of_route("proxy_route_requests_total", app, &format!(",class=\"{class}\""));
    for path in ["/", "/missing", "/broken"] {
        get(&proxy, "shop-default", path).await;
    }
    let nothing = metrics(proxy.admin).await;
    assert!(
        !nothing.contains("app=\"other\",environment=\"other\",class"),
        "{nothing}"
    );
    for host in ["blog-default", "wiki-default", "wiki-preview"] {
        get(&proxy, host, "/").await;
    }
    for class in ["2xx", "4xx", "5xx"] {
        becomes(&proxy, &requests("shop-default", class), 1.0).await;
    }
    becomes(&proxy, &requests("other", "2xx"), 3.0).await;
    becomes(
        &proxy,
        &of_route("proxy_route_seconds_count", "shop-default", ""),
        3.0,
    )
    .await;
    let all = "proxy_route_seconds_bucket{le=\"+Inf\",app=\"shop-default\",environment=\"production\"}";
    becomes(&proxy, all, 3.0).await;
    assert!(
        metric(
            proxy.admin,
            &of_route("proxy_route_seconds_sum", "shop-default", "")
        )
        .await
            > 0.0
    );
    // Three tasks, of which one has numbers of its own.
    let text = metrics(proxy.admin).await;
    let backends = text.matches("zectre_proxy_backend_requests_total{").count();
    assert_eq!(backends, 2, "{text}");
    its_node_counts(&proxy, node).await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    proxy.stop().await;
    let told =
        "SELECT sum(requests)::bigint, sum(errors)::bigint FROM request_metrics WHERE environment_id = $1";
    let of_node: (i64, i64) = sqlx::query_as(told)
        .bind(node)
        .fetch_one(&world.pool)
        .await
        .expect("rows");
    assert_eq!(
        of_node,
        (4, 1),
        "of shop and blog, though blog has no series of its own"
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_no_longer_under_way_and_not_forgotten() {
    let world = World::new().await;
    let origin = various().await;
    let app = world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let in_flight = of_route("proxy_route_in_flight", "shop-default", "");
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!("GET /hang HTTP/1.1\r\nHost: {}\r\n\r\n", full("shop-default"));
    stream.write_all(head.as_bytes()).await.expect("it reads");
    origin.served(1).await;
    becomes(&proxy, &in_flight, 1.0).await;
    let shown = routes(proxy.admin, &world.key).await;
    let deployment = &shown["deployments"][app.deployment.to_string()];
    assert_eq!(deployment["in_flight"], 1);
    assert_eq!(deployment["backends"][0]["in_flight"], 1);
    drop(stream);
    becomes(&proxy, &in_flight, 0.0).await;
    let gone = of_route("proxy_route_requests_total", "shop-default", ",class=\"gone\"");
    becomes(&proxy, &gone, 1.0).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_task_that_is_away_is_told_of_with_its_name() {
    let world = World::new().await;
    let origin = various().await;
    let app = world.app_at("shop", &[&origin]).await;
    let nobody = nobody();
    let task = world.task(app.deployment, nobody).await;
    let proxy = world.start().await;
    let of_task = |name: &str| {
        format!(
            "{name}{{app=\"shop-default\",environment=\"production\",version=\"1\",task=\"{task}\",address=\"{nobody}\"}}"
        )
    };
    // It is passed over for a second or two at a time; so look right after it was tried.
    let state = wait_until(SOON, "the task is passed over", || async {
        assert_eq!(get(&proxy, "shop-default", "/").await, StatusCode::OK);
        if metric(proxy.admin, &of_task("proxy_backend_ejected")).await < 1.0 {
            return None;
        }
        let shown = routes(proxy.admin, &world.key).await;
        let backends = shown["deployments"][app.deployment.to_string()]["backends"].clone();
        let backends = backends.as_array().expect("a list").clone();
        let away = backends
            .into_iter()
            .find(|backend| backend["task_id"] == task.to_string())?;
        (away["ejected"] == true).then_some(away)
    })
    .await;
    assert!(
        state["unreachable_for_ms"].as_u64().expect("a number") <= 2_000,
        "{state}"
    );
    assert!(
        state["connect_failures"].as_u64().expect("a number") >= 1,
        "{state}"
    );
    assert_eq!(state["suspect_for_ms"], 0, "{state}");
    assert!(
        state["slow_start_percent"].as_u64().expect("a number") >= 10,
        "{state}"
    );
    comes_to(proxy.admin, &of_task("proxy_backend_connect_failures_total"), 1.0).await;
    comes_to(proxy.admin, &of_task("proxy_backend_requests_total"), 1.0).await;
    becomes(&proxy, &of_task("proxy_backend_in_flight"), 0.0).await;
    // The other one fails what it is asked.
    for _ in 0..3 {
        get(&proxy, "shop-default", "/broken").await;
    }
    wait_until(SOON, "all three are counted", || async {
        let shown = routes(proxy.admin, &world.key).await;
        let shown = shown["deployments"][app.deployment.to_string()]["backends"].clone();
        let backends = shown.as_array().expect("a list");
        let failures = backends.iter().map(|backend| &backend["failures"]);
        let counted: u64 = failures.filter_map(serde_json::Value::as_u64).sum();
        assert!(counted <= 3, "{shown}");
        (counted == 3).then_some(())
    })
    .await;
    proxy.stop().await;
}
