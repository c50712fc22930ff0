//! Output: every line once, and live.

use crate::{
    agent::{Agent, ask},
    world::{World, deadline, until},
};
use std::fs;
use zectre_common::{
    id::TaskId,
    spec::RestartPolicy,
    state::TaskState,
    wire::log::{LogLine, Stream},
};
use zectre_testkit::{METRICS_TOKEN, metrics_token_file};

#[tokio::test(flavor = "multi_thread")]
async fn every_line_arrives_once_also_when_the_api_is_away() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    world.node().await;
    world.api_is_away(true);
    let mut order = world.guest("lines");
    order.restart = RestartPolicy::Never;
    order.env.insert("COUNT".into(), "2500".into());
    let task = world.start(order).await;
    world.reported(task, TaskState::Stopped).await;
    agent.kill();
    let _agent = Agent::start(&world);
    until("the next agent", async || world.registrations() == 2).await;
    world.api_is_away(false);
    until("all lines", async || world.lines(task).len() == 2_502).await;
    let lines = world.lines(task);
    assert!(
        lines.iter().map(|line| line.seq).eq(1..=2_502),
        "numbers without gap"
    );
    let mut stdout = lines
        .iter()
        .filter(|line| line.stream == Stream::Stdout)
        .map(|line| line.message.clone());
    assert!(
        stdout
            .by_ref()
            .take(2_500)
            .eq((1..=2_500).map(|index| format!("line {index}")))
    );
    assert_eq!(stdout.next().as_deref(), Some("no end of line"));
    assert_eq!(
        lines.iter().filter(|line| line.stream == Stream::Stderr).count(),
        1
    );
    assert_eq!(
        world.fresh_digest().await[0].state,
        TaskState::Stopped,
        "told until it is forgotten"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_arrives_whole_and_past_the_rate_it_is_counted() {
    const LINES: u64 = 100_000;
    let world = World::new().await;
    let unbounded = Agent::start_with(&world, &[("ZECTRE__AGENT__LOG_LINES_PER_SEC_MAX", "0")]);
    world.node().await;
    let mut order = world.guest("lines");
    order.restart = RestartPolicy::Never;
    order.env.insert("COUNT".into(), LINES.to_string());
    let mut again = order.clone();
    let task = world.start(order).await;
    let wanted = LINES as usize + 2;
    until("all lines", async || world.lines(task).len() == wanted).await;
    let lines = world.lines(task);
    assert!(
        lines.iter().map(|line| line.seq).eq(1..=LINES + 2),
        "numbers without gap"
    );
    let stdout = lines.iter().filter(|line| line.stream == Stream::Stdout);
    let counted = stdout
        .take(LINES as usize)
        .zip(1..)
        .all(|(line, index)| line.message == format!("line {index}"));
    assert!(counted, "each once, in order");
    unbounded.kill();

    let _agent = Agent::start_with(&world, &[("ZECTRE__AGENT__LOG_LINES_PER_SEC_MAX", "100")]);
    until("the next agent", async || world.registrations() == 2).await;
    again.port = world.port();
    let task = world.start(again).await;
    world.reported(task, TaskState::Stopped).await;
    let kept = |lines: &[LogLine]| lines.iter().filter(|line| line.stream != Stream::System).count() as u64;
    let dropped = |lines: &[LogLine]| {
        let said = lines.iter().filter(|line| line.stream == Stream::System);
        said.filter_map(|line| line.message.split_once(" lines dropped")?.0.parse::<u64>().ok())
            .sum::<u64>()
    };
    // It is said every now and then while lines are dropped, the last time after the program's end.
    until("every line is kept or counted", async || {
        let lines = world.lines(task);
        kept(&lines) + dropped(&lines) == LINES + 2
    })
    .await;
    let lines = world.lines(task);
    assert!(kept(&lines) < LINES / 2 && dropped(&lines) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_lines_as_they_come() {
    let world = World::new().await;
    let token_file = metrics_token_file(world.data_dir.path()).display().to_string();
    let _agent = Agent::start_with(&world, &[("ZECTRE__SECRETS__METRICS_TOKEN_FILE", &token_file)]);
    let task = world.start(world.guest("serve")).await;
    world.reported(task, TaskState::Running).await;
    let mut stream = world.get(&format!("/api/v1/tasks/{task}/logs/stream")).await;
    assert_eq!(stream.status(), 200);
    let mut text = String::new();
    while !text.contains("serving") {
        let chunk = tokio::time::timeout(deadline(), stream.chunk())
            .await
            .expect("in time")
            .expect("open");
        text.push_str(&String::from_utf8_lossy(&chunk.expect("more")));
    }
    assert!(text.contains("id: 1"), "{text}");
    assert_eq!(
        world
            .get(&format!("/api/v1/tasks/{}/logs/stream", TaskId::new()))
            .await
            .status(),
        404
    );
    assert_eq!(
        world.get("/metrics").await.status(),
        401,
        "a node's token isn't theirs"
    );
    let metrics = world
        .get_as(METRICS_TOKEN, "/metrics")
        .await
        .text()
        .await
        .expect("text");
    assert!(
        metrics.contains("zectre_agent_tasks{state=\"running\"} 1"),
        "{metrics}"
    );
    assert_eq!(world.get("/ready").await.status(), 200);
    world.stop(task, 1_000).await;
    world.reported(task, TaskState::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_for_a_while_ends_no_output() {
    let world = World::new().await;
    let said = world.data_dir.path().join("agent.log");
    let _agent = Agent::start_writing(&world, &said, &[]);
    let order = world.guest("talk");
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    ask(port, "/before").await;
    world.logged(task, "asked for /before").await;
    // Nothing can be kept: in the place of a file that is written beside another there is a directory.
    let obstacle = world.task_dir(task).join("lines.json.new");
    until("it is there, between two writes", async || {
        fs::create_dir(&obstacle).is_ok()
    })
    .await;
    ask(port, "/meanwhile").await;
    // Stored by the API although the agent can't keep that it is, which it finds out a moment later.
    world.logged(task, "asked for /meanwhile").await;
    until("the failure is met", async || {
        fs::read_to_string(&said).is_ok_and(|said| said.contains("can't be kept for now"))
    })
    .await;
    ask(port, "/later").await;
    fs::remove_dir(&obstacle).expect("removed");
    world.logged(task, "the output could not be kept for").await;
    world.logged(task, "asked for /later").await;
    ask(port, "/after").await;
    let lines = world.logged(task, "asked for /after").await;
    for path in ["/before", "/meanwhile", "/later", "/after"] {
        let said = format!("asked for {path}");
        assert_eq!(
            lines.iter().filter(|line| line.message == said).count(),
            1,
            "{path}"
        );
    }
    world.stop(task, 1_000).await;
    world.reported(task, TaskState::Stopped).await;
}
