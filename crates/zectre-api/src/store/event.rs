//! The activity feed. Streams read it in order of commit, see [`super::task_log`].

use super::rows::Lists;
use crate::{error::Error, page::Window};
use sqlx::PgPool;
use std::{fmt, str::FromStr};
use uuid::Uuid;
use zectre_common::{
    id::{ApplicationId, DeploymentId, EventId, NodeId, OrganizationId, TaskId},
    wire::event::Event,
};

/// What a list or stream may be narrowed to.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    /// Events of these organizations and their applications; `None`: of everything, nodes and the like too.
    pub(crate) reach: Option<Vec<OrganizationId>>,
    pub(crate) application_id: Option<ApplicationId>,
    pub(crate) deployment_id: Option<DeploymentId>,
    pub(crate) action: Option<String>,
    /// Of which organizations it is told where a change came from; `None`: of everything.
    pub(crate) audited: Option<Vec<OrganizationId>>,
}

/// Where an event lies in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    txid: i64,
    id: EventId,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.txid, self.id.get().simple())
    }
}

impl FromStr for Position {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (txid, id) = text.split_once(':').ok_or(())?;
        let id = EventId::from_uuid(Uuid::try_parse(id).map_err(drop)?);
        Ok(Self {
            txid: txid.parse().map_err(drop)?,
            id,
        })
    }
}

// What one may see is found once and looked up for each event, instead of asked for each. Applications that are gone are among it.
macro_rules! visible {
    ($columns:literal, $rest:literal, $filter:expr $(, $argument:expr)*) => {
        sqlx::query!(
            "SELECT " + $columns + r#"
             FROM events v
             WHERE ($1::uuid[] IS NULL OR v.organization_id = ANY($1)
                    OR v.application_id IN (SELECT id FROM application_owners WHERE organization_id = ANY($1))
                    OR (v.application_id IS NULL AND v.deployment_id IN (
                            SELECT d.id FROM deployments d JOIN applications a ON a.id = d.application_id
                            JOIN namespaces n ON n.id = a.namespace_id WHERE n.organization_id = ANY($1))))
               AND ($2::uuid IS NULL OR v.application_id = $2) AND ($3::uuid IS NULL OR v.deployment_id = $3)
               AND ($4::text IS NULL OR v.action = $4)"# + $rest,
            $filter.reach.as_deref() as _,
            $filter.application_id as _,
            $filter.deployment_id as _,
            $filter.action.as_deref()
            $(, $argument)*
        )
    };
}

macro_rules! event {
    ($row:expr) => {
        Event {
            id: $row.id,
            time: $row.time,
            actor: $row.actor,
            action: $row.action,
            application_id: $row.application_id,
            deployment_id: $row.deployment_id,
            task_id: $row.task_id,
            node_id: $row.node_id,
            message: $row.message,
            reason: $row.reason,
            request_id: $row.request_id,
            source_address: $row.source_address,
        }
    };
}

/// A page of the feed.
pub(crate) async fn list(
    lists: &Lists,
    filter: &Filter,
    window: &Window,
) -> Result<(Vec<Event>, i64), Error> {
    let mut connection = lists.0.acquire().await?;
    let rows = visible!(
        r#"v.id AS "id: EventId", v.time, v.actor, v.action, v.application_id AS "application_id: ApplicationId",
           v.deployment_id AS "deployment_id: DeploymentId", v.task_id AS "task_id: TaskId",
           v.node_id AS "node_id: NodeId", v.message, v.reason, v.request_id,
           CASE WHEN $8::uuid[] IS NULL OR v.organization_id = ANY($8)
                     OR v.application_id IN (SELECT id FROM application_owners WHERE organization_id = ANY($8))
                THEN v.source_address END AS source_address"#,
        " ORDER BY CASE WHEN NOT $5 THEN v.time END, CASE WHEN NOT $5 THEN v.id END, v.time DESC, v.id DESC
          LIMIT $6 OFFSET $7",
        filter,
        window.descending,
        window.limit(),
        window.offset(),
        filter.audited.as_deref() as _
    )
    .fetch_all(&mut *connection)
    .await?;
    let total = visible!(r#"count(*) AS "n!""#, "", filter)
        .fetch_one(&mut *connection)
        .await?
        .n;
    Ok((rows.into_iter().map(|row| event!(row)).collect(), total))
}

/// By id, without where it came from: programs outside are told of it.
pub(crate) async fn get(pool: &PgPool, id: EventId) -> Result<Option<Event>, Error> {
    let query = sqlx::query_as!(
        Event,
        r#"SELECT id AS "id: EventId", time, actor, action, application_id AS "application_id: ApplicationId",
                  deployment_id AS "deployment_id: DeploymentId", task_id AS "task_id: TaskId",
                  node_id AS "node_id: NodeId", message, reason, request_id, NULL::text AS source_address FROM events WHERE id = $1"#,
        id as _
    );
    Ok(query.fetch_optional(pool).await?)
}

/// Events after `after`, in order of commit, without those that `known` sees.
pub(crate) async fn after(
    pool: &PgPool,
    filter: &Filter,
    after: Position,
    known: Option<&Known>,
    limit: i64,
) -> Result<Vec<(Position, Event)>, Error> {
    let rows = visible!(
        r#"v.txid, v.id AS "id: EventId", v.time, v.actor, v.action, v.application_id AS "application_id: ApplicationId",
           v.deployment_id AS "deployment_id: DeploymentId", v.task_id AS "task_id: TaskId",
           v.node_id AS "node_id: NodeId", v.message, v.reason, v.request_id,
           CASE WHEN $9::uuid[] IS NULL OR v.organization_id = ANY($9)
                     OR v.application_id IN (SELECT id FROM application_owners WHERE organization_id = ANY($9))
                THEN v.source_address END AS source_address"#,
        " AND (v.txid, v.id) > ($5, $6) AND v.txid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
          AND ($8::text IS NULL OR NOT pg_visible_in_snapshot(v.txid::text::xid8, $8::text::pg_snapshot))
          ORDER BY v.txid, v.id LIMIT $7",
        filter,
        after.txid,
        after.id as _,
        limit,
        known.map(|known| known.0.as_str()),
        filter.audited.as_deref() as _
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            (
                Position {
                    txid: row.txid,
                    id: row.id,
                },
                event!(row),
            )
        })
        .collect())
}

/// A moment: everything committed by then. Beside a position, because transactions may end in another order than
/// they began in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known(String);

impl Known {
    /// Whether an event at this position may be among what is known.
    pub(crate) fn reaches(&self, position: Position) -> bool {
        let end = self.0.split(':').nth(1).and_then(|end| end.parse::<i64>().ok());
        end.is_none_or(|end| position.txid < end)
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Known {
    type Err = ();
    /// The text comes back from clients: only what PostgreSQL takes for a snapshot is one.
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| text.parse::<i64>().ok().filter(|n| *n > 0).ok_or(());
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().ok_or(());
        let (begin, end, under_way) = (number(next()?)?, number(next()?)?, next()?);
        let mut last = begin;
        for one in under_way.split(',').filter(|_| !under_way.is_empty()) {
            let one = number(one)?;
            if one < last || one >= end {
                return Err(());
            }
            last = one;
        }
        if begin > end {
            return Err(());
        }
        Ok(Self(text.to_owned()))
    }
}

/// The position of now: a stream from here, without what is known, shows what happens next.
pub(crate) async fn now(pool: &PgPool) -> Result<(Position, Known), Error> {
    let row = sqlx::query!(
        r#"SELECT pg_snapshot_xmin(now)::text::bigint AS "txid!", now::text AS "known!" FROM pg_current_snapshot() AS now"#
    );
    let row = row.fetch_one(pool).await?;
    let position = Position {
        txid: row.txid - 1,
        id: EventId::from_uuid(Uuid::max()),
    };
    Ok((position, Known(row.known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_snapshots_are_known() {
        for good in ["5:5:", "5:9:5,7,8", "1:2:1"] {
            assert_eq!(
                good.parse::<Known>().map(|known| known.to_string()).as_deref(),
                Ok(good)
            );
        }
        for bad in [
            "", "5", "5:5", "9:5:", "5:9:9", "5:9:4", "5:9:7,6", "5:9:,", "0:1:", "-1:5:", "5:9:x", "5:9:7:8",
        ] {
            assert_eq!(bad.parse::<Known>(), Err(()), "{bad}");
        }
    }
}
