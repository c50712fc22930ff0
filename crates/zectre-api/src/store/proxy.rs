//! Proxies, as they write of themselves.

use crate::error::Error;
use sqlx::{PgPool, types::Json};
use std::collections::BTreeMap;
use zectre_common::wire::cluster::ProxyStatus;

/// Those whose lease holds, by name.
pub(crate) async fn live(pool: &PgPool) -> Result<Vec<ProxyStatus>, Error> {
    let rows = sqlx::query!(
        r#"SELECT name, applied_epoch, ports_failed AS "ports_failed: Json<BTreeMap<u16, String>>"
           FROM proxies WHERE lease_expires_at > now() ORDER BY name, id"#
    );
    let rows = rows.fetch_all(pool).await?;
    let proxies = rows.into_iter().map(|row| ProxyStatus {
        name: row.name,
        epoch: row.applied_epoch as u64,
        ports_failed: row.ports_failed.0,
    });
    Ok(proxies.collect())
}
