//! What is decided together is saved together, and nobody is told of what is not saved yet.

use crate::support::{
    PATIENCE, World,
    agent::{Agent, Programs},
    rows::App,
};
use sqlx::PgPool;
use zectre_common::id::{DeploymentId, EnvironmentId};
use zectre_scheduler::{store::Store, sync};
use zectre_testkit::wait_until;

/// How many deployments come in while one commit is under way.
const TOGETHER: usize = 8;

/// Has PostgreSQL write down which transaction made which task.
async fn watch(pool: &PgPool) {
    for statement in [
        "CREATE TABLE made (task_id uuid, transaction xid8)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN INSERT INTO made VALUES (NEW.id, pg_current_xact_id()); RETURN NEW; END$$",
        "CREATE TRIGGER note AFTER INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION note()",
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
    scheduler.stop().await;
}
