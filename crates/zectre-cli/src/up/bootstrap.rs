//! The database brought to this version, the local admin, and the sign-in of this user's command line.

use super::{
    data_dir::{self, DataDir},
    error::UpError,
    keys,
    postgres::Postgres,
};
use crate::{
    credentials::{Credentials, SignIn},
    error::CliError,
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use zectre_common::{config::Config, db};

/// The local agent joins within seconds, if it has to join at all.
const JOIN_TOKEN_TTL: Duration = Duration::from_secs(600);
/// Migrations and a few statements.
const CONNECTIONS_MAX: u32 = 2;

/// What the database gave us.
pub(crate) struct Local {
    pub(crate) email: String,
    pub(crate) api_key: SecretString,
    pub(crate) join_token: SecretString,
}

/// The API key that this user's command line has for the API at `url`.
pub(super) fn stored_key(url: &str) -> Result<Option<SecretString>, CliError> {
    let stored = Credentials::load()?;
    Ok(stored
        .apis
        .get(url)
        .and_then(|sign_in| sign_in.api_key.clone())
        .map(Into::into))
}

/// Migrates, and makes sure of the local admin. `known` stays its key when it still is one: others may use it too.
pub(crate) async fn prepare(
    database_url: &SecretString,
    known: Option<&SecretString>,
) -> Result<Local, UpError> {
    let pool = db::connect(database_url, "zectre-up", CONNECTIONS_MAX).await?;
    db::migrate(&pool).await?;
    let failed = |error: zectre_api::Error| UpError::Bootstrap(error.to_string());
    let kept = match known {
        Some(key) => zectre_api::bootstrap::admin_of_key(&pool, key)
            .await
            .map_err(failed)?,
        None => None,
    };
    let admin = match kept {
        Some(admin) => admin,
        None => zectre_api::bootstrap::ensure_admin(&pool).await.map_err(failed)?,
    };
    let join_token = zectre_api::bootstrap::join_token(&pool, JOIN_TOKEN_TTL)
        .await
        .map_err(failed)?;
    pool.close().await;
    Ok(Local {
        email: admin.email,
        api_key: admin.api_key,
        join_token,
    })
}

/// The file of master keys and the database of a data directory, whose platform may be running.
pub(crate) fn keys_and_database(named: Option<&Path>) -> Result<(PathBuf, SecretString), UpError> {
    let path = data_dir::resolve(named)?;
    Ok((keys::master_in(&path), Postgres::url_in(&path)?))
}

/// Signs this user's command line in to the platform.
pub(super) fn sign_in(config: &Config, local: &Local, data: &DataDir) -> Result<(), CliError> {
    let sign_in = SignIn {
        api_key: Some(local.api_key.expose_secret().to_owned()),
        email: Some(local.email.clone()),
        data_dir: Some(data.path().into()),
        ..SignIn::default()
    };
    Credentials::remember(&config.api.public_url, sign_in)
}
