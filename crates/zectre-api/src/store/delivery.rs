//! Deliveries of events to webhooks: made by a cursor over the feed, taken by lease, ended once.

use super::rows::{Lists, page, some};
use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgExecutor, PgPool};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;
use zectre_common::{
    id::{ApplicationId, DeliveryId, EventId, OrganizationId, WebhookId},
    state::DeliveryState,
    time::Time,
    wire::webhook::Delivery,
};

/// Transactions that the cursor may lie behind while nobody listens.
const CURSOR_LAG_MAX: i64 = 10_000;

/// As stored.
pub(crate) struct Row {
    id: DeliveryId,
    webhook_id: WebhookId,
    event_id: EventId,
    action: String,
    state: DeliveryState,
    attempts: i32,
    next_attempt_at: Time,
    attempted_at: Option<Time>,
    answer_status: Option<i16>,
    answer_body: Option<String>,
    problem: Option<String>,
    duration_ms: Option<i32>,
    created_at: Time,
    finished_at: Option<Time>,
}

impl From<Row> for Delivery {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            webhook_id: row.webhook_id,
            event_id: row.event_id,
            action: row.action,
            attempts: row.attempts.unsigned_abs(),
            next_attempt_at: (row.state == DeliveryState::Pending).then_some(row.next_attempt_at),
            state: row.state,
            attempted_at: row.attempted_at,
            answer_status: row.answer_status.map(i16::unsigned_abs),
            answer_body: row.answer_body,
            problem: row.problem,
            duration_ms: row.duration_ms.map(i32::unsigned_abs),
            created_at: row.created_at,
            finished_at: row.finished_at,
        }
    }
}

macro_rules! deliveries {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Row,
            r#"d.id AS "id: DeliveryId", d.webhook_id AS "webhook_id: WebhookId", d.event_id AS "event_id: EventId", d.action,
               d.state AS "state: DeliveryState", d.attempts, d.next_attempt_at, d.attempted_at, d.answer_status,
               d.answer_body, d.problem, d.duration_ms, d.created_at, d.finished_at"#,
            r#"webhook_deliveries d WHERE "#,
            $($rest)*
        )
    };
}

/// Those of a webhook.
pub(crate) async fn list(
    lists: &Lists,
    webhook: WebhookId,
    state: Option<DeliveryState>,
    window: &Window,
) -> Result<(Vec<Delivery>, i64), Error> {
    let (rows, total): (Vec<Row>, i64) = deliveries!(
        page,
        "d.webhook_id = $1 AND ($2::text IS NULL OR d.state = $2)",
        [webhook as _, state.map(DeliveryState::as_str)],
        order "CASE WHEN NOT $3 THEN d.created_at END, CASE WHEN NOT $3 THEN d.id END, d.created_at DESC, d.id DESC
           LIMIT $4 OFFSET $5",
        [window.descending],
        window,
        lists
    );
    Ok((rows.into_iter().map(Delivery::from).collect(), total))
}

/// One of a webhook's.
pub(crate) async fn get(
    executor: impl PgExecutor<'_>,
    webhook: WebhookId,
    id: DeliveryId,
) -> Result<Option<Delivery>, Error> {
    let query = deliveries!(some, "d.webhook_id = $1 AND d.id = $2", webhook as _, id as _);
    Ok(query.fetch_optional(executor).await?.map(Delivery::from))
}

/// Sends it again, or, when it still waits for its next attempt, now.
pub(crate) async fn redeliver(
    connection: &mut PgConnection,
    webhook: WebhookId,
    id: DeliveryId,
) -> Result<(), Error> {
    let query = sqlx::query!(
        "UPDATE webhook_deliveries
         SET state = 'pending', attempts = CASE WHEN state = 'pending' THEN attempts ELSE 0 END, next_attempt_at = now(),
             finished_at = NULL
         WHERE webhook_id = $1 AND id = $2",
        webhook as _,
        id as _
    );
    query.execute(connection).await?;
    Ok(())
}

/// An event that may concern webhooks.
pub(crate) struct Happened {
    txid: i64,
    id: EventId,
    pub(crate) action: String,
    pub(crate) application: Option<ApplicationId>,
    pub(crate) organization: Option<OrganizationId>,
}

/// A webhook that may be concerned.
pub(crate) struct Listening {
    id: WebhookId,
    txid: i64,
    pub(crate) organization: OrganizationId,
    pub(crate) application: Option<ApplicationId>,
    pub(crate) events: Vec<String>,
}

/// Makes the deliveries of the next events of the feed, up to `events_max`, whose webhooks `concerns` names; how many
/// events they were. Zero, too, while another API does so.
pub(crate) async fn fan_out(
    pool: &PgPool,
    events_max: i64,
    concerns: fn(&Listening, &Happened) -> bool,
) -> Result<usize, Error> {
    if !has_news(pool).await? {
        return Ok(0);
    }
    let mut transaction = pool.begin().await?;
    let cursor = sqlx::query!(
        r#"SELECT c.txid, c.event_id, EXISTS (SELECT 1 FROM webhooks WHERE disabled_at IS NULL) AS "any!",
                  pg_snapshot_xmin(now)::text::bigint AS "xmin!", pg_snapshot_xmax(now)::text::bigint AS "xmax!"
           FROM webhook_cursor c, pg_current_snapshot() AS now FOR UPDATE OF c SKIP LOCKED"#
    );
    let Some(cursor) = cursor.fetch_optional(&mut *transaction).await? else {
        return Ok(0);
    };
    // Nobody listens: a webhook that is made meanwhile begins after this. Nor can a cursor lie ahead of all
    // transactions, unless the database was restored into another server, which counts anew.
    if !cursor.any || cursor.txid >= cursor.xmax {
        if cursor.txid < cursor.xmin - 1 || cursor.txid >= cursor.xmax {
            move_cursor(&mut transaction, cursor.xmin - 1, EventId::from_uuid(Uuid::max())).await?;
            transaction.commit().await?;
        }
        return Ok(0);
    }
    let events = sqlx::query_as!(
        Happened,
        r#"SELECT v.txid, v.id AS "id: EventId", v.action,
                  COALESCE(v.application_id, d.application_id) AS "application?: ApplicationId",
                  COALESCE(v.organization_id, n.organization_id, f.organization_id) AS "organization?: OrganizationId"
           FROM events v
           LEFT JOIN deployments d ON d.id = v.deployment_id AND v.application_id IS NULL
           LEFT JOIN applications a ON a.id = COALESCE(v.application_id, d.application_id)
           LEFT JOIN namespaces n ON n.id = a.namespace_id
           LEFT JOIN former_applications f ON f.id = v.application_id
           WHERE (v.txid, v.id) > ($1, $2) AND v.txid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
           ORDER BY v.txid, v.id LIMIT $3"#,
        cursor.txid,
        cursor.event_id as _,
        events_max
    );
    let events = events.fetch_all(&mut *transaction).await?;
    let Some(last) = events.last() else {
        if cursor.txid < cursor.xmin - CURSOR_LAG_MAX {
            move_cursor(&mut transaction, cursor.xmin - 1, EventId::from_uuid(Uuid::max())).await?;
            transaction.commit().await?;
        }
        return Ok(0);
    };
    // After the events: whatever was made before one of them is seen.
    let webhooks = sqlx::query_as!(
        Listening,
        r#"SELECT id AS "id: WebhookId", txid, organization_id AS "organization: OrganizationId",
                  application_id AS "application: ApplicationId", events FROM webhooks WHERE disabled_at IS NULL"#
    );
    let webhooks = webhooks.fetch_all(&mut *transaction).await?;
    let mut made = Made::default();
    for event in &events {
        for webhook in &webhooks {
            // None is told of its own making.
            if webhook.txid < event.txid && concerns(webhook, event) {
                made.push(webhook, event);
            }
        }
    }
    insert(&mut transaction, &made).await?;
    move_cursor(&mut transaction, last.txid, last.id).await?;
    transaction.commit().await?;
    Ok(events.len())
}

/// Whether there is something to be made of the feed, asked without a lock: mostly there is not. Without webhooks the cursor
/// only follows from afar, so that the first one doesn't begin with all that ever happened.
async fn has_news(pool: &PgPool) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT c.txid >= pg_snapshot_xmax(now)::text::bigint
                  OR c.txid < pg_snapshot_xmin(now)::text::bigint - $1::bigint
                  OR (EXISTS (SELECT 1 FROM webhooks WHERE disabled_at IS NULL)
                      AND EXISTS (SELECT 1 FROM events v WHERE (v.txid, v.id) > (c.txid, c.event_id)
                                     AND v.txid < pg_snapshot_xmin(now)::text::bigint)) AS "news!"
           FROM webhook_cursor c, pg_current_snapshot() AS now"#,
        CURSOR_LAG_MAX
    );
    Ok(query.fetch_one(pool).await?)
}

/// The columns of new rows.
#[derive(Default)]
struct Made {
    ids: Vec<Uuid>,
    webhooks: Vec<Uuid>,
    events: Vec<Uuid>,
    actions: Vec<String>,
}

impl Made {
    fn push(&mut self, webhook: &Listening, event: &Happened) {
        self.ids.push(DeliveryId::new().get());
        self.webhooks.push(webhook.id.get());
        self.events.push(event.id.get());
        self.actions.push(event.action.clone());
    }
}

async fn insert(connection: &mut PgConnection, made: &Made) -> Result<(), Error> {
    if made.ids.is_empty() {
        return Ok(());
    }
    let query = sqlx::query!(
        "INSERT INTO webhook_deliveries (id, webhook_id, event_id, action)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::text[])
         ON CONFLICT (webhook_id, event_id) DO NOTHING",
        &made.ids,
        &made.webhooks,
        &made.events,
        &made.actions
    );
    query.execute(connection).await?;
    Ok(())
}

async fn move_cursor(connection: &mut PgConnection, txid: i64, event: EventId) -> Result<(), Error> {
    let query = sqlx::query!(
        "UPDATE webhook_cursor SET txid = $1, event_id = $2",
        txid,
        event as _
    );
    query.execute(connection).await?;
    Ok(())
}

/// A delivery to be sent.
pub(crate) struct Taken {
    pub(crate) id: DeliveryId,
    pub(crate) webhook_id: WebhookId,
    pub(crate) organization: OrganizationId,
    pub(crate) event_id: EventId,
    /// This one included.
    pub(crate) attempts: i32,
    pub(crate) url: String,
    /// Sealed.
    pub(crate) secret: Vec<u8>,
}

/// How many deliveries may be taken.
pub(crate) struct Room<'a> {
    pub(crate) most: usize,
    /// Of one webhook; none of the `busy` ones.
    pub(crate) most_each: usize,
    pub(crate) busy: &'a [WebhookId],
    /// Of one organization, those counted that it has `under_way`.
    pub(crate) most_of_one: usize,
    pub(crate) under_way: &'a HashMap<OrganizationId, usize>,
}

/// Takes deliveries that are due. Organizations have turns: the one with the fewest under way comes first, and of each the one
/// that has been due for longest. Whoever took one may die: it is due again after `lease`.
pub(crate) async fn take_due(pool: &PgPool, room: &Room<'_>, lease: Duration) -> Result<Vec<Taken>, Error> {
    let busy: Vec<Uuid> = room.busy.iter().map(|id| id.get()).collect();
    let organizations: Vec<Uuid> = room.under_way.keys().map(|id| id.get()).collect();
    let under_way: Vec<i64> = room.under_way.values().map(|n| *n as i64).collect();
    // Chosen without a lock, which a row's turn can't be found under; what another API has taken since is passed over.
    let query = sqlx::query_as!(
        Taken,
        r#"WITH candidates AS (
               SELECT next.id, next.next_attempt_at, w.organization_id,
                      row_number() OVER (PARTITION BY w.organization_id ORDER BY next.next_attempt_at, next.id) AS place
               FROM webhooks w CROSS JOIN LATERAL (
                   SELECT d.id, d.next_attempt_at FROM webhook_deliveries d
                   WHERE d.webhook_id = w.id AND d.state = 'pending' AND d.next_attempt_at <= now()
                   ORDER BY d.next_attempt_at LIMIT $2) AS next
               WHERE w.disabled_at IS NULL AND w.id <> ALL($3)),
           turns AS (
               SELECT c.id, c.next_attempt_at, c.place + COALESCE(o.under_way, 0) AS turn
               FROM candidates c LEFT JOIN UNNEST($5::uuid[], $6::bigint[]) AS o (id, under_way) ON o.id = c.organization_id),
           due AS (
               SELECT d.id FROM webhook_deliveries d
               WHERE d.id IN (SELECT id FROM turns WHERE turn <= $7 ORDER BY turn, next_attempt_at LIMIT $1)
                 AND d.state = 'pending' AND d.next_attempt_at <= now()
               FOR UPDATE SKIP LOCKED),
           taken AS (
               UPDATE webhook_deliveries d
               SET attempts = d.attempts + 1, attempted_at = now(), next_attempt_at = now() + make_interval(secs => $4)
               FROM due WHERE d.id = due.id RETURNING d.id, d.webhook_id, d.event_id, d.attempts)
           SELECT taken.id AS "id!: DeliveryId", w.id AS "webhook_id!: WebhookId",
                  w.organization_id AS "organization!: OrganizationId", taken.event_id AS "event_id!: EventId",
                  taken.attempts AS "attempts!", w.url AS "url!", w.secret AS "secret!"
           FROM taken JOIN webhooks w ON w.id = taken.webhook_id"#,
        room.most as i64,
        room.most_each as i64,
        &busy,
        lease.as_secs_f64(),
        &organizations,
        &under_way,
        room.most_of_one as i64
    );
    Ok(query.fetch_all(pool).await?)
}

/// What an attempt came to.
pub(crate) struct Outcome {
    pub(crate) state: DeliveryState,
    /// While it is pending: how long until the next attempt.
    pub(crate) pause: Duration,
    pub(crate) answer_status: Option<u16>,
    pub(crate) answer_body: Option<String>,
    pub(crate) problem: Option<String>,
    pub(crate) duration: Duration,
}

/// Writes an attempt's outcome down, unless another attempt has begun since.
pub(crate) async fn attempted(pool: &PgPool, taken: &Taken, outcome: &Outcome) -> Result<(), Error> {
    let query = sqlx::query!(
        "UPDATE webhook_deliveries
         SET state = $3, next_attempt_at = now() + make_interval(secs => $4), answer_status = $5, answer_body = $6,
             problem = $7, duration_ms = $8, finished_at = CASE WHEN $3 <> 'pending' THEN now() END
         WHERE id = $1 AND attempts = $2 AND state = 'pending'",
        taken.id as _,
        taken.attempts,
        outcome.state.as_str(),
        outcome.pause.as_secs_f64(),
        outcome.answer_status.map(u16::cast_signed),
        outcome.answer_body,
        outcome.problem,
        i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX)
    );
    query.execute(pool).await?;
    Ok(())
}

/// Forgets up to `rows` deliveries that ended so long ago; how many.
pub(crate) async fn forget(pool: &PgPool, keep_days: i32, rows: i64) -> Result<u64, Error> {
    let query = sqlx::query!(
        "DELETE FROM webhook_deliveries WHERE id IN (
             SELECT id FROM webhook_deliveries WHERE finished_at < now() - make_interval(days => $1)
             ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        keep_days,
        rows
    );
    Ok(query.execute(pool).await?.rows_affected())
}
