//! The trace of a request: the client's, or a new one, in the same words for the task and for the log.

use crate::{
    client::{client, full, send},
    origin::{Origin, text},
    world::{Running, SOON, World},
};
use zectre_testkit::wait_until;

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// Tells what came of the two headers.
async fn mirror() -> Origin {
    Origin::new(|request| async move {
        let told = |name: &str| {
            let values = request.headers().get_all(name).iter();
            let values: Vec<_> = values.map(|value| value.to_str().expect("text")).collect();
            values.join(",")
        };
        text(format!("{} {}", told("traceparent"), told("tracestate")))
    })
    .await
}

async fn ask(proxy: &Running, headers: &[(&str, &str)]) -> String {
    let request = client().get(proxy.url("/")).header("host", full("shop-default"));
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    send(request).await.body
}

#[tokio::test]
async fn a_trace_goes_on_and_where_there_is_none_one_begins() {
    let mut world = World::new().await;
    let log = world.directory.path().join("access.log");
    world.configure(&format!(
        "[proxy.access_log]\nenabled = true\ntarget = \"{}\"",
        log.display()
    ));
    let origin = mirror().await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let taken = ask(
        &proxy,
        &[
            ("traceparent", GIVEN),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ],
    )
    .await;
    assert_eq!(taken, format!("{GIVEN} a=1,b=2"));
    let wrong = GIVEN.replace("00f067aa0ba902b7", "0000000000000000");
    let made = ask(
        &proxy,
        &[
            ("traceparent", &wrong),
            ("tracestate", "a=1"),
            ("x-request-id", "made"),
        ],
    )
    .await;
    let made = made.trim_end();
    assert!(
        made.len() == 55 && made.ends_with("-01") && !made.contains("4bf92f35"),
        "{made}"
    );
    assert_ne!(ask(&proxy, &[]).await, ask(&proxy, &[]).await);
    let line = wait_until(SOON, "it is written", || async {
        let text = std::fs::read_to_string(&log).expect("text");
        text.lines()
            .find(|line| line.contains("\"made\""))
            .map(str::to_owned)
    })
    .await;
    assert!(
        line.contains(&format!("\"trace_id\":\"{}\"", &made[3..35])),
        "{line}"
    );
    proxy.stop().await;
    world.configure("[proxy]\ntrace_sample_rate = 0.0");
    let proxy = world.start().await;
    assert!(ask(&proxy, &[]).await.trim_end().ends_with("-00"));
    proxy.stop().await;
}
