//! `zectre keys …`: the ring of master keys, straight from its file and the database.
//!
//! Like `bootstrap`, it asks nobody: whoever holds the configuration file holds the cluster.

use crate::{
    args::{KeysCommand, KeysPlace},
    error::CliError,
    output::{Output, Shown},
    table::Table,
    up,
};
use secrecy::SecretString;
use sqlx::PgPool;
use std::path::PathBuf;
use zectre_common::{config::Config, db};
use zectre_service::{
    rotation::{self, KeyUse, Rotation},
    seal::place::{self, Column},
};

/// One that works, and one that holds the turn.
const CONNECTIONS_MAX: u32 = 2;

/// Whose keys.
struct Keys {
    is_catalog: bool,
    file: PathBuf,
    database_url: SecretString,
}

pub(crate) async fn run(command: KeysCommand, output: Output) -> Result<Shown, CliError> {
    match command {
        KeysCommand::List(place) => list(&find(&place)?, output).await,
        KeysCommand::Add(place) => add(&find(&place)?, output),
        KeysCommand::Rotate { keep_old, place } => rotate(&find(&place)?, keep_old, output).await,
    }
}

fn find(place: &KeysPlace) -> Result<Keys, CliError> {
    let (file, database_url) = if place.catalog {
        let config = zectre_catalog::config::Config::load(place.config.as_deref())?;
        (config.secrets.master_key_file, config.database.url)
    } else if place.data_dir.is_some() {
        up::keys_and_database(place.data_dir.as_deref())?
    } else {
        let config = Config::load(place.config.as_deref())?;
        (config.secrets.master_key_file, config.database.url)
    };
    if file.as_os_str().is_empty() {
        return Err(CliError::Usage(
            "the configuration names no secrets.master_key_file. Give the file of the daemons with --config, or the \
             directory of `zectre up` with --data-dir."
                .into(),
        ));
    }
    Ok(Keys {
        is_catalog: place.catalog,
        file,
        database_url,
    })
}

impl Keys {
    fn columns(&self) -> &'static [Column] {
        if self.is_catalog {
            zectre_catalog::sealed::COLUMNS
        } else {
            place::COLUMNS
        }
    }

    /// What is said of whose keys they are, again.
    const fn flag(&self) -> &'static str {
        if self.is_catalog { " --catalog" } else { "" }
    }

    async fn pool(&self) -> Result<PgPool, CliError> {
        let pool = db::connect(&self.database_url, "zectre-keys", CONNECTIONS_MAX).await;
        pool.map_err(|error| CliError::Failed(format!("{error}\nIs the database running?")))
    }
}

async fn list(keys: &Keys, output: Output) -> Result<Shown, CliError> {
    let uses = rotation::uses(&keys.pool().await?, keys.columns(), &keys.file)
        .await
        .map_err(|error| failed(&error))?;
    Ok(output.value(&uses, |uses| {
        let mut table = Table::new(["key", "role", "values", "where"]);
        for one in uses {
            table.row([
                one.id.clone().unwrap_or_else(|| "(unnamed)".into()),
                one.role.to_owned(),
                one.values.iter().map(|(_, count)| count).sum::<i64>().to_string(),
                places(one),
            ]);
        }
        table.print(output);
    }))
}

fn places(one: &KeyUse) -> String {
    let place = |(name, count): &(String, i64)| format!("{name} {count}");
    one.values.iter().map(place).collect::<Vec<_>>().join(", ")
}

fn add(keys: &Keys, output: Output) -> Result<Shown, CliError> {
    let id = rotation::add(&keys.file).map_err(|error| failed(&error))?;
    let added = serde_json::json!({"key": id, "file": keys.file});
    let remark = format!(
        "Added the key {id} to {file}. Copy the file to every machine that has one, then run `zectre keys rotate{flag} --keep-old`.",
        file = keys.file.display(),
        flag = keys.flag()
    );
    Ok(output.done(&added, remark))
}

async fn rotate(keys: &Keys, keep_old: bool, output: Output) -> Result<Shown, CliError> {
    let pool = keys.pool().await?;
    let mut progress = output.progress("Sealing anew");
    let tell = |count| progress.update(format!("Sealing anew: {count} values"));
    let rotated = if keys.is_catalog {
        rotation::rotate(&pool, keys.columns(), &keys.file, keep_old, tell)
            .await
            .map_err(|error| failed(&error))?
    } else {
        zectre_api::rotation::rotate(&pool, &keys.file, keep_old, tell)
            .await
            .map_err(|error| failed(&error))?
    };
    progress.clear();
    pool.close().await;
    for (column, count) in &rotated.lost {
        output.say(format!(
            "{count} values of {column} open with no key of the file: they were lost before this, and stay as they are."
        ));
    }
    let remark = told(keys, &rotated, keep_old);
    Ok(output.done(&rotated, remark))
}

fn told(keys: &Keys, rotated: &Rotation, keep_old: bool) -> String {
    let file = keys.file.display();
    let flag = keys.flag();
    let Rotation { newest, resealed, .. } = rotated;
    let began = if rotated.resumed {
        "Finished an earlier rotation; no new key was made. "
    } else {
        ""
    };
    if keep_old {
        return format!(
            "{began}The key {newest} seals; {resealed} values were sealed anew. Copy {file} to every machine that has one, then run \
             `zectre keys rotate{flag}` to forget the old keys, and copy it once more."
        );
    }
    let kept = rotated.retired_file.as_ref().map(|kept| {
        format!(
            " They are kept in {}: what one of them seals late still opens. Should `zectre keys list` show a retired key, \
             rotate again; delete that file once it shows none and the API is ready.",
            kept.display()
        )
    });
    format!(
        "{began}The key {newest} seals; {resealed} values were sealed anew, and {} old keys are forgotten.{} Back up {file}: \
         without it the values are lost.",
        rotated.retired.len(),
        kept.unwrap_or_default()
    )
}

fn failed(error: &impl std::fmt::Display) -> CliError {
    CliError::Failed(format!(
        "{error}\nNothing is lost: what was begun goes on when the command is run again."
    ))
}
