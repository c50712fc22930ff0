//! Rotation of the platform's master keys: [`zectre_service::rotation`] over the columns of its database, with an event.

use crate::{
    error::Error,
    identity::Actor,
    store::change::{About, Change},
};
use sqlx::PgPool;
use std::path::Path;
use zectre_service::{
    rotation::{self, Rotation},
    seal::place::COLUMNS,
};

/// Rotates, or goes on with a rotation that was broken off ([`rotation::rotate`]).
pub async fn rotate(
    pool: &PgPool,
    key_file: &Path,
    keep_old: bool,
    tell: impl FnMut(u64),
) -> Result<Rotation, Error> {
    let rotated = rotation::rotate(pool, COLUMNS, key_file, keep_old, tell).await?;
    told(pool, &rotated).await?;
    Ok(rotated)
}

/// An event: who reads the audit log sees when keys changed.
async fn told(pool: &PgPool, rotation: &Rotation) -> Result<(), Error> {
    let actor = Actor::platform();
    let mut change = Change::begin(pool, &actor).await?;
    let message = format!(
        "the master key {} seals; {} values were sealed anew, {} old keys forgotten",
        rotation.newest,
        rotation.resealed,
        rotation.retired.len()
    );
    change.event("keys.rotated", About::default(), &message).await?;
    change.commit().await?;
    Ok(())
}
