//! `zectre env …`: variables of a project.

use crate::{
    args::{EnvCommand, VariableScope},
    context::Context,
    describe,
    error::CliError,
    output::Shown,
    project, prompt,
    table::{Table, age},
};
use secrecy::ExposeSecret;
use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};
use zectre_client::collect;
use zectre_common::{
    spec::valid_env_key,
    wire::app::{App, SetVariableRequest, Variable},
};

pub(crate) async fn run(command: EnvCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        EnvCommand::List(scope) => list(context, &scope).await,
        EnvCommand::Add {
            key,
            value,
            secret,
            scope,
        } => add(context, &key, value, secret, &scope).await,
        EnvCommand::Rm { keys, scope } => remove(context, &keys, &scope).await,
        EnvCommand::Pull { file, force, scope } => pull(context, &file, force, &scope).await,
    }
}

async fn variables(context: &Context, scope: &VariableScope) -> Result<(App, Vec<Variable>), CliError> {
    let app = project::find(context, &scope.project).await?;
    let all = collect(async |paging| context.client.variables(app.id, paging).await).await?;
    let in_scope = |one: &Variable| {
        let (of, named) = (one.environment.as_deref(), scope.environment());
        named.is_none() || of.is_none() || of == named
    };
    Ok((app, all.into_iter().filter(in_scope).collect()))
}

async fn list(context: &Context, scope: &VariableScope) -> Result<Shown, CliError> {
    let (_, all) = variables(context, scope).await?;
    Ok(context.output.value(&all, |all| {
        let mut table = Table::new(["key", "environment", "age", "value"]);
        for one in all {
            table.row([
                one.key.clone(),
                one.environment.clone().unwrap_or_else(|| "all".into()),
                age(one.updated_at),
                one.value.clone().unwrap_or_else(|| "(secret)".into()),
            ]);
        }
        if table.is_empty() {
            context
                .output
                .say("There are no variables yet. `zectre env add KEY=value` sets one.");
        } else {
            table.print(context.output);
        }
    }))
}

async fn add(
    context: &Context,
    key: &str,
    value: Option<String>,
    secret: bool,
    scope: &VariableScope,
) -> Result<Shown, CliError> {
    let (key, value) = match (key.split_once('='), value) {
        (Some((key, value)), None) => (key.to_owned(), value.to_owned()),
        (None, Some(value)) => (key.to_owned(), value),
        // Not on the command line, where other users of the machine could see it.
        (None, None) => {
            let value = asked(key, secret).await?;
            (key.to_owned(), value)
        }
        (Some(_), Some(_)) => {
            return Err(CliError::Usage(
                "write `zectre env add KEY=value` or `zectre env add KEY value`".into(),
            ));
        }
    };
    if !valid_env_key(&key) {
        return Err(CliError::Usage(format!(
            "`{key}` is no name for a variable: use letters, digits and `_`, not starting with a digit."
        )));
    }
    let app = project::find(context, &scope.project).await?;
    let request = SetVariableRequest {
        value,
        environment: scope.environment().map(Into::into),
        secret,
    };
    let set = context.client.set_variable(app.id, &key, &request).await?;
    let place = set.environment.as_deref().unwrap_or("every environment");
    let remark = format!(
        "Set {key} for {place} of {}. Tasks started from now on see it; `zectre restart` renews the running ones.",
        app.name
    );
    Ok(context.output.done(&set, remark))
}

/// The value that a person types (a secret one unseen), or what stands on standard input.
async fn asked(key: &str, secret: bool) -> Result<String, CliError> {
    let question = format!("Value of {key} (one line; several by `< FILE`)");
    if !prompt::person_is_there() {
        return prompt::rest(format!(
            "nothing was given on standard input. Write `zectre env add {key}=value`, or give the value there."
        ))
        .await;
    }
    if secret {
        let value = prompt::secret(&question).await?;
        return Ok(value.expose_secret().to_owned());
    }
    prompt::line(&question).await
}

async fn remove(context: &Context, keys: &[String], scope: &VariableScope) -> Result<Shown, CliError> {
    let app = project::find(context, &scope.project).await?;
    for key in keys {
        let place = scope.environment();
        match context.client.delete_variable(app.id, key, place).await {
            Err(error) if error.is_not_found() => return Err(unknown(&app, key, place)),
            answer => answer?,
        }
        context.output.say(format!("Removed {key}"));
    }
    let removed =
        serde_json::json!({"project": app.name, "environment": scope.environment(), "removed": keys});
    Ok(context.output.value(&removed, |_| {}))
}

/// A variable of one environment and one of all are two.
fn unknown(app: &App, key: &str, environment: Option<&str>) -> CliError {
    let place = environment.map_or_else(
        || "for every environment; --env NAME names one of a single environment".to_owned(),
        |slug| format!("for {slug} alone; one for every environment is removed without --env"),
    );
    CliError::NotFound(format!(
        "{} has no variable `{key}` {place}. `zectre env list` shows what there is.",
        app.name
    ))
}

async fn pull(context: &Context, file: &Path, force: bool, scope: &VariableScope) -> Result<Shown, CliError> {
    let (_, all) = variables(context, scope).await?;
    let line = |one: &Variable| match &one.value {
        Some(value) => format!("{}={}\n", one.key, quoted(value)),
        None => format!("# {} is a secret; set it here by hand\n", one.key),
    };
    let text: String = all.iter().map(line).collect();
    if file == Path::new("-") {
        let variables = serde_json::json!({"file": file, "variables": all.len(), "text": text});
        return Ok(context.output.value(&variables, |_| {
            for line in text.lines() {
                context.output.data(line);
            }
        }));
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(0o600);
    let opened = if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    }
    .open(file);
    let mut opened = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(CliError::Usage(format!(
                "{} is there already. Add --force to overwrite it.",
                file.display()
            )));
        }
        opened => opened.map_err(CliError::write(file))?,
    };
    opened.write_all(text.as_bytes()).map_err(CliError::write(file))?;
    let remark = format!(
        "Wrote {} to {}",
        describe::counted(all.len(), "variable"),
        file.display()
    );
    if !all.is_empty() && is_kept_by_git(file) {
        context.output.say(format!(
            "Git does not ignore {name}: add it to .gitignore, or the values end up in the repository.",
            name = file.display()
        ));
    }
    let written = serde_json::json!({"file": file.to_string_lossy(), "variables": all.len()});
    Ok(context.output.done(&written, remark))
}

/// Whether a `git add` would take it: it lies in a repository whose .gitignore files say nothing about it.
fn is_kept_by_git(file: &Path) -> bool {
    let Ok(file) = fs::canonicalize(file) else {
        return false;
    };
    let mut above = file.ancestors().skip(1);
    let Some(root) = above.find(|directory| directory.join(".git").exists()) else {
        return false;
    };
    let mut rules = ignore::gitignore::GitignoreBuilder::new(root);
    for directory in file
        .ancestors()
        .skip(1)
        .take_while(|directory| directory.starts_with(root))
    {
        let _ = rules.add(directory.join(".gitignore"));
    }
    // Rules that can't be read ignore nothing.
    rules
        .build()
        .is_ok_and(|rules| !rules.matched_path_or_any_parents(&file, false).is_ignore())
}

/// A value as `.env` files write it: quoted when a bare one would be read differently.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
    if value.chars().all(plain) {
        return value.into();
    }
    let escaped = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
        .replace('$', "\\$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use crate::{
        args::{ProjectArgs, VariableScope},
        project::tests::{app, context, script},
    };
    use serde_json::json;
    use std::fs;
    use zectre_common::id::ApplicationId;

    #[tokio::test]
    async fn all_variables_are_seen_however_many_pages_they_take() {
        let shop = app(ApplicationId::new(), "shop");
        let page = |page: u32, keys: std::ops::Range<u32>| {
            let variable = |n| {
                json!({"key": format!("KEY_{n}"), "value": "x", "environment": null, "secret": false,
                       "updated_at": "2026-01-01T00:00:00Z"})
            };
            let data: Vec<_> = keys.map(variable).collect();
            json!({"data": data, "total": 150, "page": page, "page_size": 100})
        };
        let path = format!("GET /api/v1/apps/{}", shop.id);
        let (url, serving) = script(vec![
            (
                format!("{path} "),
                200,
                serde_json::to_value(&shop).expect("JSON"),
            ),
            (format!("{path}/env?page=1&page_size=100 "), 200, page(1, 0..100)),
            (
                format!("{path}/env?page=2&page_size=100 "),
                200,
                page(2, 100..150),
            ),
        ]);
        let project = ProjectArgs {
            project: Some(shop.id.to_string()),
        };
        let scope = VariableScope {
            project,
            env: None,
            prod: false,
        };
        let (_, all) = super::variables(&context(&url), &scope).await.expect("listed");
        serving.join().expect("it served");
        assert_eq!(all.len(), 150);
    }

    #[test]
    fn git_keeps_what_no_rule_ignores() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("app/.env");
        fs::create_dir_all(directory.path().join("app")).expect("made");
        fs::write(&file, "A=1\n").expect("written");
        assert!(!super::is_kept_by_git(&file), "there is no repository");
        fs::create_dir(directory.path().join(".git")).expect("made");
        assert!(super::is_kept_by_git(&file));
        fs::write(directory.path().join(".gitignore"), ".env\n").expect("written");
        assert!(!super::is_kept_by_git(&file));
    }

    #[test]
    fn only_what_needs_quotes_gets_them() {
        assert_eq!(super::quoted("postgres://a:b@c/d"), "postgres://a:b@c/d");
        assert_eq!(super::quoted("two words\n\"$x\""), "\"two words\\n\\\"\\$x\\\"\"");
    }
}
