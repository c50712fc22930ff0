//! What is decided together is saved together, and nobody is told of what is not saved yet; what must not be is not saved at
//! all.

use crate::support::{
    PATIENCE, World,
    agent::{Agent, Programs},
    rows::App,
};
use sqlx::PgPool;
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, TaskId},
    state::TaskState,
    time::Time,
};
use zectre_scheduler::{
    core::{Command, Task},
    store::{Batch, CommitError, Store, Writer},
    sync,
};
use zectre_testkit::wait_until;

/// How many deployments come in while one commit is under way.
const TOGETHER: usize = 8;

/// Has PostgreSQL write down which statement of which transaction made which task.
async fn watch(pool: &PgPool) {
    for statement in [
        "CREATE TABLE made (task_id uuid, transaction xid8, statement uuid)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         $$DECLARE statement uuid := gen_random_uuid();
           BEGIN INSERT INTO made SELECT id, pg_current_xact_id(), statement FROM inserted; RETURN NULL; END$$",
        "CREATE TRIGGER note AFTER INSERT ON tasks REFERENCING NEW TABLE AS inserted
         FOR EACH STATEMENT EXECUTE FUNCTION note()",
    ] {
        sqlx::query(statement).execute(pool).await.expect("valid");
    }
}

async fn count(pool: &PgPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement)
        .fetch_one(pool)
        .await
        .expect("counted")
}

/// A deployment in an environment of its own.
async fn deploy(app: &App, number: usize) -> DeploymentId {
    let environment = EnvironmentId::new();
    let row = sqlx::query("INSERT INTO environments (id, application_id, slug) VALUES ($1, $2, $3)");
    let row = row
        .bind(environment)
        .bind(app.application)
        .bind(format!("e{number}"));
    row.execute(&app.pool).await.expect("inserted");
    let there = App {
        pool: app.pool.clone(),
        environment,
        ..*app
    };
    there.deploy(number as i32 + 1, "{}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_meanwhile_is_one_commit_and_orders_go_out_after_theirs() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let scheduler = world.scheduler().await;
    scheduler.leads().await;
    let token = app.join_token().await;
    let agent = Agent::join(&world, "one", &token, Programs::Serve, &[&scheduler]).await;
    watch(&app.pool).await;
    let (store, engine) = (Store::new(app.pool.clone()), scheduler.engine());

    // Tasks can be read and not written.
    let mut hold = app.pool.begin().await.expect("it can be held");
    let lock = sqlx::query("LOCK TABLE tasks IN EXCLUSIVE MODE");
    lock.execute(&mut *hold).await.expect("nobody else holds it");
    let mut ids = vec![deploy(&app, 0).await];
    let found = sync::load(&store, &engine, ids.clone()).await;
    assert_eq!(found.expect("handed in"), 1);
    wait_until(PATIENCE, "the first commit is under way", async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tasks'::regclass
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        (count(&app.pool, waiting).await > 0).then_some(())
    })
    .await;
    for number in 1..=TOGETHER {
        ids.push(deploy(&app, number).await);
    }
    let found = sync::load(&store, &engine, ids[1..].to_vec()).await;
    assert_eq!(found.expect("handed in"), TOGETHER);
    assert_eq!(count(&app.pool, "SELECT count(*) FROM tasks").await, 0);
    assert_eq!(agent.starts(), Vec::<u32>::new(), "none of it is saved");
    hold.rollback().await.expect("it was held");

    wait_until(PATIENCE, "every task runs", async || {
        (agent.running() == ids.len()).then_some(())
    })
    .await;
    let made = count(&app.pool, "SELECT count(DISTINCT task_id) FROM made").await;
    let commits = count(&app.pool, "SELECT count(DISTINCT transaction) FROM made").await;
    assert_eq!(made, ids.len() as i64);
    // The first, unless another commit was under way already, and all others together.
    assert!((1..=2).contains(&commits), "{made} tasks in {commits} commits");
    let statements = count(&app.pool, "SELECT count(DISTINCT statement) FROM made").await;
    assert_eq!(statements, commits, "one statement of many rows a commit");
    scheduler.stop().await;
}

/// Whatever a scheduler decides: the database reserves a port of a node for one task that has not ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_never_saved_twice_for_a_node() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let deployment = app.deploy(1, r#"{"replicas":2}"#).await;
    let (node, other) = (NodeId::new(), NodeId::new());
    for (id, name) in [(node, "one"), (other, "two")] {
        let row = sqlx::query(
            "INSERT INTO nodes (id, name, address, actions_port, cpu_millis, memory_bytes, task_slots, port_min, port_max,
                                lease_expires_at)
             VALUES ($1, $2, '127.0.0.1', 1, 1000, 1000000, 10, 20000, 20009, now() + interval '1 hour')",
        );
        row.bind(id)
            .bind(name)
            .execute(&app.pool)
            .await
            .expect("inserted");
    }
    let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM scheduler_leader")
        .fetch_one(&app.pool)
        .await
        .expect("read");
    let options = app.pool.connect_options();
    let mut writer = Writer::connect(&options, epoch as u64)
        .await
        .expect("the server runs");
    let placed = |slot, node_id| {
        let mut task = Task::new(TaskId::new(), deployment, slot, Time::now());
        (task.state, task.node_id, task.port) = (TaskState::Starting, Some(node_id), Some(20_003));
        task
    };
    let mut save = async |tasks: &[&Task]| {
        let mut batch = Batch::default();
        for task in tasks {
            let row = Command::SaveTask(Box::new((*task).clone()));
            assert!(batch.absorb(row, Time::now()).is_none());
        }
        writer.commit(&batch).await
    };
    let (mut first, second) = (placed(0, node), placed(1, node));
    save(&[&first]).await.expect("it is free");
    let Err(CommitError::Database(error)) = save(&[&second]).await else {
        panic!("it was saved twice")
    };
    let constraint = error.as_database_error().and_then(|error| error.constraint());
    assert_eq!(constraint, Some("tasks_port_key"), "{error}");
    // It is another one's elsewhere, and free again with the end of its task, in the very same commit.
    save(&[&placed(1, other)]).await.expect("another node's");
    first.state = TaskState::Stopped;
    save(&[&first, &second]).await.expect("it was given back");
}
