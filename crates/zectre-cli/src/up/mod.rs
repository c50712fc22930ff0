//! `zectre up`: the whole platform of one machine in this process, over a private PostgreSQL.
//!
//! Start order: data directory, PostgreSQL, migrations, then registry, API, scheduler, builder, agent, proxy, each
//! on what came before. Stop order is the reverse where it matters: nothing new comes in (proxy), nothing new is
//! made (builder), tasks end (agent), and PostgreSQL goes last, always cleanly.

mod bootstrap;
mod data_dir;
mod detach;
mod down;
mod error;
mod holder;
mod keys;
mod lock;
mod ports;
mod postgres;
mod process;
mod services;
mod settings;
mod stopping;
mod summary;

use crate::{
    args::UpArgs,
    error::CliError,
    output::{Output, Shown},
};
pub(crate) use bootstrap::{keys_and_database, prepare as bootstrap};
use data_dir::DataDir;
pub(crate) use down::down;
pub(crate) use error::UpError;
use postgres::{Binaries, Postgres};
use services::{Ended, Services};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use stopping::Stopping;
use summary::Summary;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zectre_agent::Killed;

/// A PostgreSQL that dies more often than this …
const POSTGRES_DEATHS_MAX: usize = 3;
/// … within this time is given up: something is wrong that starting it again does not cure.
const POSTGRES_DEATHS_WITHIN: Duration = Duration::from_secs(120);

/// Whether PostgreSQL can be started here.
pub(crate) fn postgres_installed() -> bool {
    Binaries::find().is_ok()
}

/// `zectre up`
pub(crate) async fn run(args: &UpArgs, output: Output) -> Result<Shown, CliError> {
    if args.detach {
        return Ok(detach::start(args, output).await?.show(output));
    }
    let result = foreground(args, output).await;
    if let (Some(file), Err(error)) = (&args.ready_file, &result) {
        detach::tell(file, &Err(error.to_string()));
    }
    result
}

async fn foreground(args: &UpArgs, output: Output) -> Result<Shown, CliError> {
    let began = Instant::now();
    // Whoever reads may leave (`zectre up | head`): what was started is still to be stopped in order.
    let output = output.going_on();
    if args.ready_file.is_some() {
        // In the background: no terminal's signals. It fails only for a group leader, which has none anyway.
        let _ = rustix::process::setsid();
    }
    zectre_service::open_files::raise();
    let mut signals = Signals::new()?;
    // One that was killed a moment ago still has it.
    lock::holder(&data_dir::resolve(args.data_dir.as_deref())?).await?;
    let data = DataDir::open(args.data_dir.as_deref())?;
    let mut postgres = None;
    let mut services = Services::new();
    let mut stopping = Stopping::default();
    let started = tokio::select! {
        started = start(args, output, &data, &mut postgres, &mut services, &mut stopping) => Some(started),
        () = signals.any() => None,
    };
    let result = match started {
        Some(Ok(mut summary)) => {
            summary.took_ms = began.elapsed().as_millis() as u64;
            let shown = announce(args, output, &summary);
            let ended = serve(output, &mut signals, &data, &mut postgres, &mut services).await;
            ended.map(|()| shown)
        }
        Some(Err(error)) => Err(error),
        None => Err(CliError::Interrupted(
            "Stopped before everything had started.".into(),
        )),
    };
    stopping.killed(&stop(output, &mut signals, services, postgres).await);
    for sentence in &stopping.killed {
        output.say(sentence);
    }
    if let Err(error) = stopping.keep(&data) {
        output.say(format!("{error}"));
    }
    if result.is_err() {
        data.unmake();
    }
    result
}

/// Brings everything up; what has been started is in `postgres` and `services`, whatever happens.
async fn start(
    args: &UpArgs,
    output: Output,
    data: &DataDir,
    postgres: &mut Option<Postgres>,
    services: &mut Services,
    stopping: &mut Stopping,
) -> Result<Summary, CliError> {
    let mut progress = output.progress("Starting PostgreSQL");
    let preview = settings::preview(args.config.as_deref())?;
    *stopping = Stopping::expected(&preview);
    stopping.keep(data)?;
    let binaries = Binaries::find()?;
    settings::init_log(&preview, data)?;
    Postgres::stop_stale(data).await?;
    let reserved = ports::reserve(&preview, |word| {
        if let Some(file) = &args.ready_file {
            detach::say(file, &word);
        }
        progress.update(word);
    })
    .await?;
    progress.update("Starting PostgreSQL");
    keys::ensure(data)?;
    Postgres::start_over_remains(postgres, &binaries, data).await?;
    let postgres = postgres.as_ref().expect("it was just started");
    let mut config = settings::load(args.config.as_deref(), data, postgres.url())?;
    let known = bootstrap::stored_key(&config.api.public_url)?;
    let local = bootstrap::prepare(postgres.url(), known.as_ref()).await?;
    config.agent.join_token = local.join_token.clone();
    progress.update("Starting the services");
    services.start_all(&config).await?;
    drop(reserved);
    bootstrap::sign_in(&config, &local, data)?;
    progress.update("Waiting until the node is ready");
    services.until_ready(&config, &local).await?;
    progress.clear();
    Ok(Summary::new(&config, data))
}

fn announce(args: &UpArgs, output: Output, summary: &Summary) -> Shown {
    let shown = summary.show(output);
    match &args.ready_file {
        Some(file) => detach::tell(file, &Ok(summary.clone())),
        None => output.say("Press Ctrl-C to stop."),
    }
    shown
}

/// Runs until a signal asks to stop, or a part ends by itself. PostgreSQL is started again when it dies: programs go on
/// being served meanwhile, and every service waits for it. One that dies again and again is given up.
async fn serve(
    output: Output,
    signals: &mut Signals,
    data: &DataDir,
    postgres: &mut Option<Postgres>,
    services: &mut Services,
) -> Result<(), CliError> {
    let mut deaths = VecDeque::new();
    loop {
        let running = postgres.as_mut().expect("everything has started");
        let died = tokio::select! {
            () = signals.any() => {
                output.say("Stopping…");
                return Ok(());
            }
            status = running.ended() => UpError::PostgresDied { status, log: running.log_path() },
            Ended { name, why } = services.any_ended() => return Err(UpError::ServiceEnded { name, why }.into()),
        };
        let now = Instant::now();
        deaths.retain(|death: &Instant| now.duration_since(*death) < POSTGRES_DEATHS_WITHIN);
        deaths.push_back(now);
        if deaths.len() > POSTGRES_DEATHS_MAX {
            tracing::error!(%died, "giving up");
            return Err(died.into());
        }
        tracing::error!("PostgreSQL ended; starting it again");
        output.say("PostgreSQL ended; starting it again…");
        let binaries = Binaries::find()?;
        tokio::select! {
            restarted = Postgres::restart(postgres, &binaries, data) => restarted?,
            () = signals.any() => {
                output.say("Stopping…");
                return Ok(());
            }
        }
    }
}

/// Stops everything in order; a second signal cuts the services off, but never PostgreSQL. Tells which programs had to
/// be killed.
async fn stop(
    output: Output,
    signals: &mut Signals,
    mut services: Services,
    postgres: Option<Postgres>,
) -> Vec<Killed> {
    tokio::select! {
        () = services.stop_all() => {}
        () = signals.any() => {
            output.say("Stopping at once…");
            services.abort_all();
        }
    }
    let killed = services.killed();
    drop(services);
    if let Some(mut postgres) = postgres
        && let Err(error) = postgres.stop().await
    {
        output.say(format!("{error}"));
    }
    killed
}

/// The signals that ask to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next one.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
