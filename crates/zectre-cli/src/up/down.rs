//! `zectre down`: ends the platform of one data directory, and says which.

use super::{
    data_dir::{self, AGENT_DIR, DataDir},
    lock,
    postgres::Postgres,
    stopping::Stopping,
};
use crate::{
    args::{API_URL_VARIABLE, DownArgs, Global},
    context::trimmed,
    credentials::Credentials,
    error::CliError,
    output::{Output, Shown},
    shell::word,
};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a process that has let go of its directory may take to be gone; it has nothing left to do.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);

/// What `--json` prints.
#[derive(Serialize)]
struct Down {
    data_dir: PathBuf,
    /// Something ran, and was stopped.
    stopped: bool,
    /// The process of the platform that was stopped; none when only its PostgreSQL was left.
    pid: Option<u32>,
    /// Sentences about programs that did not go by themselves.
    killed: Vec<String>,
    /// Programs that a killed `up` left running, and which run on.
    left_running: usize,
    /// Other data directories of this user whose platform runs.
    others: Vec<PathBuf>,
}

pub(crate) async fn down(args: &DownArgs, global: &Global, output: Output) -> Result<Shown, CliError> {
    let stored = Credentials::load()?;
    let path = place(args.data_dir.as_deref(), named_api(global, &stored))?;
    let Some(holder) = lock::holder(&path).await? else {
        return left_behind(&path, &stored, output).await;
    };
    let progress = output.progress(format!(
        "Stopping the platform in {} (pid {})",
        path.display(),
        holder.pid
    ));
    let timeout = Duration::from_secs(Stopping::read(&path).timeout_secs);
    holder.terminate()?;
    tokio::select! {
        biased;
        freed = lock::wait_until_free(&path, timeout) => freed?,
        () = crate::command::interrupted() => return Err(CliError::Interrupted(format!(
            "It goes on stopping; `zectre down --data-dir {}` waits for it again.", word(&path)
        ))),
    }
    // The kernel frees the lock a moment before the process is gone; who starts something next should find it gone.
    holder.wait_until_gone(GONE_TIMEOUT).await;
    progress.done(&format!("Stopped the platform in {}", path.display()));
    let killed = Stopping::read(&path).killed;
    for sentence in &killed {
        output.say(sentence);
    }
    let down = Down {
        data_dir: path,
        stopped: true,
        pid: Some(holder.pid),
        killed,
        left_running: 0,
        others: Vec::new(),
    };
    Ok(output.value(&down, |_| {}))
}

/// Nothing holds the directory; a killed `up` leaves its PostgreSQL and its programs behind.
async fn left_behind(path: &Path, stored: &Credentials, output: Output) -> Result<Shown, CliError> {
    let stopped = match DataDir::open_existing(path)? {
        Some(data) => Postgres::stop_stale(&data).await?,
        None => false,
    };
    let agent = path.join(AGENT_DIR);
    let left_running = zectre_agent::running_programs(&agent).map_err(CliError::read(&agent))?;
    let mut others = Vec::new();
    for other in stored
        .apis
        .values()
        .filter_map(|sign_in| sign_in.data_dir.as_ref())
    {
        if other != path && lock::holder(other).await.is_ok_and(|holder| holder.is_some()) {
            others.push(other.clone());
        }
    }
    let mut words = vec![if stopped {
        format!(
            "Stopped the PostgreSQL that a killed `zectre up` left behind in {}",
            path.display()
        )
    } else {
        format!("No platform runs in {}", path.display())
    }];
    if left_running > 0 {
        let (programs, them) = match left_running {
            1 => ("1 program that it had started runs".into(), "it"),
            count => (format!("{count} programs that it had started run"), "them"),
        };
        words.push(format!(
            "{programs} on: `zectre up --data-dir {path}` takes {them} up again, and `zectre down --data-dir {path}` then ends {them}.",
            path = word(path)
        ));
    }
    words.extend(others.iter().map(|other| {
        let (other, named) = (other.display(), word(other));
        format!("A platform runs in {other}: `zectre down --data-dir {named}` stops it.")
    }));
    let down = Down {
        data_dir: path.into(),
        stopped,
        pid: None,
        killed: Vec::new(),
        left_running,
        others,
    };
    Ok(output.done(&down, words.join("\n")))
}

/// An API that was named, and how.
#[derive(Debug)]
struct NamedApi {
    url: String,
    /// By the variable, which is there for all commands.
    by_variable: bool,
    /// Where it runs, when this user started it.
    data_dir: Option<PathBuf>,
}

fn named_api(global: &Global, stored: &Credentials) -> Option<NamedApi> {
    let url = global.api_url.as_deref().filter(|url| !url.is_empty())?;
    let data_dir = stored
        .apis
        .get(trimmed(url))
        .and_then(|sign_in| sign_in.data_dir.clone());
    Some(NamedApi {
        url: trimmed(url).to_owned(),
        by_variable: std::env::var(API_URL_VARIABLE).is_ok_and(|variable| variable == url),
        data_dir,
    })
}

/// The directory meant: the one named, else that of the API named, else the usual one.
fn place(data_dir: Option<&Path>, api: Option<NamedApi>) -> Result<PathBuf, CliError> {
    let named = match (data_dir, api) {
        (Some(path), _) => Some(path.to_owned()),
        (
            None,
            Some(NamedApi {
                data_dir: Some(path), ..
            }),
        ) => Some(path),
        (None, Some(api)) if !api.by_variable => {
            return Err(CliError::Usage(format!(
                "`zectre down` stops a platform on this machine, and none that this user started with `zectre up` serves \
                 {}. Name its directory: `zectre down --data-dir DIR`.",
                api.url
            )));
        }
        (None, _) => None,
    };
    Ok(data_dir::resolve(named.as_deref())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(by_variable: bool, data_dir: Option<&str>) -> NamedApi {
        NamedApi {
            url: "http://a:1".into(),
            by_variable,
            data_dir: data_dir.map(Into::into),
        }
    }

    #[test]
    fn an_api_leads_to_the_directory_of_its_platform() {
        let usual = data_dir::resolve(None).expect("there is a home");
        let place = |data_dir: Option<&str>, api| place(data_dir.map(Path::new), api);
        assert_eq!(place(None, None).expect("a place"), usual);
        assert_eq!(
            place(Some("/d"), Some(api(false, Some("/of-api")))).expect("a place"),
            Path::new("/d")
        );
        assert_eq!(
            place(None, Some(api(false, Some("/of-api")))).expect("a place"),
            Path::new("/of-api")
        );
        assert_eq!(place(None, Some(api(true, None))).expect("a place"), usual);
        let error = place(None, Some(api(false, None))).expect_err("nowhere to be found");
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(
            text.contains("http://a:1") && text.contains("--data-dir DIR"),
            "{text}"
        );
    }
}
