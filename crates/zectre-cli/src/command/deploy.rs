//! `zectre deploy`: from this directory (or an image, or an artifact) to an answering URL.

use crate::{
    args::DeployArgs,
    command::{
        begun::{Begun, Work},
        source, wait,
    },
    context::Context,
    describe,
    error::CliError,
    output::Shown,
    progress::seconds,
    project,
    table::bytes,
};
use base64::Engine;
use sha2::{Digest, Sha256};
use std::{ffi::OsStr, io::Read, path::Path, time::Instant};
use tokio_util::io::ReaderStream;
use zectre_client::{Upload, collect};
use zectre_common::{
    id::ArtifactId,
    manifest::Manifest,
    spec::{ASSIGNED_ENV, DeploymentRequest},
    state::ArtifactKind,
    wire::{app::App, artifact::CreateArtifactRequest, deployment::Deployment},
};

pub(crate) async fn run(args: &DeployArgs, context: &Context, begun: &Begun) -> Result<Shown, CliError> {
    let began = Instant::now();
    source::check_directory(&args.dir)?;
    let manifest = Manifest::load_dir(&args.dir)?;
    // Before a project is made for what can't be run.
    if let Some(named) = &args.artifact {
        check_artifact(named)?;
    }
    let builds = args.image.is_none() && args.artifact.is_none() && manifest.image().is_none();
    if builds {
        source::check_entry(&manifest, &args.dir)?;
    }
    let app = project::find_or_create(context, &args.project, &args.dir, &manifest).await?;
    let request = request(args, context, &manifest, &app, begun).await?;
    begun.asks(Work::Rollout);
    let deployment = context.client.create_deployment(app.id, &request).await?;
    begun.accepted(Work::Rollout, &deployment);
    let waits = args.wait || (!args.no_wait && context.output.terminal);
    if !waits {
        return Ok(accepted(context, &app, &deployment));
    }
    let mut progress = context.output.progress("Deploying");
    let deployment = wait::until_rolled_out(context, deployment, &mut progress).await?;
    progress.done(&format!(
        "{} {}",
        name(&app, &deployment),
        describe::outcome(&deployment)
    ));
    if !describe::is_job(&deployment) && !describe::speaks_tcp(&deployment) {
        context
            .output
            .say(format!("  preview  {}", deployment.preview_url));
    }
    context
        .output
        .say(format!("  total    {}", seconds(began.elapsed())));
    Ok(context.output.value(&deployment, |one| match describe::url(one) {
        Some(url) => context.output.data(url),
        None => ran(context, one),
    }))
}

/// A job has no address to print: its id, and where its output is.
fn ran(context: &Context, job: &Deployment) {
    context.output.say(format!(
        "Next: `zectre logs --deployment {}` shows what it printed",
        job.version
    ));
    context.output.data(job.id.to_string());
}

/// `shop version 3 (production)`
fn name(app: &App, deployment: &Deployment) -> String {
    format!(
        "{} version {} ({})",
        app.name, deployment.version, deployment.environment
    )
}

/// What was begun, without an address: nothing of it serves yet.
fn accepted(context: &Context, app: &App, deployment: &Deployment) -> Shown {
    context.output.value(deployment, |one| {
        let becomes = if describe::is_job(one) {
            "runs once there is a place for it"
        } else {
            "takes over once it is healthy"
        };
        context.output.say(format!(
            "{} was accepted and {becomes}.\nNext: `zectre status` shows how it goes; with --wait, `zectre deploy` waits for it.",
            name(app, one)
        ));
        context.output.data(one.id.to_string());
    })
}

/// What is asked for: the manifest, under it the program, over it the options.
async fn request(
    args: &DeployArgs,
    context: &Context,
    manifest: &Manifest,
    app: &App,
    begun: &Begun,
) -> Result<DeploymentRequest, CliError> {
    let mut request = manifest.deployment_request();
    let environment = if args.prod {
        Some(project::ENVIRONMENT_PRODUCTION)
    } else {
        args.env.as_deref()
    };
    request.environment = environment.map(Into::into).or(request.environment);
    request.replicas = args.replicas.or(request.replicas);
    if let Some(image) = &args.image {
        request.image = Some(image.clone());
        request.process_type = None;
    } else if let Some(artifact) = &args.artifact {
        request.artifact_id = Some(self::artifact(context, app, artifact).await?);
        request.image = None;
        request.process_type = None;
    }
    // What the platform would refuse is refused before anything is built.
    check(&request)?;
    for name in ASSIGNED_ENV {
        if request.env.as_ref().is_some_and(|env| env.contains_key(name)) {
            context.output.say(format!(
                "Note: {name} has no effect as a variable: the platform gives every task its own."
            ));
        }
    }
    if let Some(environment) = &args.env {
        project::ensure_environment(context, app, environment).await?;
    }
    if request.image.is_none() && request.artifact_id.is_none() {
        request.build_id = Some(source::build(context, app.id, &args.dir, begun).await?.id);
    }
    Ok(request)
}

fn check(request: &DeploymentRequest) -> Result<(), CliError> {
    let Err(errors) = request.resolve(&DeploymentRequest::default()) else {
        return Ok(());
    };
    let list: Vec<_> = errors
        .iter()
        .map(|error| format!("{}: {}", error.field, error.message))
        .collect();
    Err(CliError::Usage(format!(
        "{}. Correct that and run the command again.",
        list.join("\n")
    )))
}

/// That it is a file: nothing else has an end, or is there to be uploaded.
fn check_file(path: &Path, text: &str) -> Result<(), CliError> {
    let wrong = |why: &str| {
        CliError::Usage(format!(
            "{text} {why}: an artifact is a program or a .tar.gz of one. Build it and name that, or the id of an artifact."
        ))
    };
    match path.metadata() {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(wrong("is no file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(wrong("is not there")),
        Err(error) => Err(CliError::read(path)(error)),
    }
}

/// That it is an id, or a file that could be run as far as its beginning tells.
fn check_artifact(named: &OsStr) -> Result<(), CliError> {
    let text = named.to_string_lossy();
    if text.parse::<ArtifactId>().is_ok() {
        return Ok(());
    }
    let path = Path::new(named);
    check_file(path, &text)?;
    let start = start(path).map_err(CliError::read(path))?;
    if start.is_empty() {
        return Err(CliError::Usage(format!(
            "{text} is empty: an artifact is a program or a bundle of one. Build it and run the command again."
        )));
    }
    if !is_bundle(path) && start != b"\x7fELF" && !start.starts_with(b"#!") {
        return Err(CliError::Usage(format!(
            "{text} is neither a program (ELF) nor a script (`#!`). Name the compiled program, or a .tar.gz of one."
        )));
    }
    Ok(())
}

/// By its name.
fn is_bundle(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}

/// The artifact named by its id, or a file, which was checked, uploaded as a new one.
async fn artifact(context: &Context, app: &App, named: &OsStr) -> Result<ArtifactId, CliError> {
    // A file may have a name that is no text; an id is one.
    let text = named.to_string_lossy();
    let text = text.as_ref();
    if let Ok(id) = text.parse::<ArtifactId>() {
        return Ok(id);
    }
    let path = Path::new(named);
    let progress = context.output.progress(format!("Uploading {text}"));
    let hashed = path.to_owned();
    let (size_bytes, digest) = tokio::task::spawn_blocking(move || digest(&hashed))
        .await
        .map_err(std::io::Error::other)?
        .map_err(CliError::read(path))?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let announced = CreateArtifactRequest {
        name: name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || ".-_".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .collect(),
        content_type: None,
        kind: Some(if is_bundle(path) {
            ArtifactKind::Bundle
        } else {
            ArtifactKind::Binary
        }),
        organization: organization_of(context, app).await?,
    };
    let artifact = context.client.create_artifact(&announced).await?;
    let file = tokio::fs::File::open(path).await.map_err(CliError::read(path))?;
    let body = zectre_client::Body::wrap_stream(ReaderStream::with_capacity(file, 256 * 1024));
    let upload = Upload {
        body,
        size_bytes,
        sha256_base64: Some(digest),
    };
    context.client.upload_artifact(artifact.id, upload).await?;
    progress.done(&format!(
        "Uploaded {text}, {}, as artifact {}",
        bytes(size_bytes),
        artifact.id
    ));
    Ok(artifact.id)
}

/// Its first bytes, by which a kernel tells a program.
fn start(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(4);
    std::fs::File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start)
}

/// The organization that owns the project's namespace; none where only that would tell.
async fn organization_of(context: &Context, app: &App) -> Result<Option<String>, CliError> {
    let all = collect(async |paging| context.client.namespaces(paging).await).await?;
    Ok(all
        .into_iter()
        .find(|namespace| namespace.name == app.namespace)
        .map(|namespace| namespace.organization))
}

/// Size and SHA-256 (base64) of a file, read once.
fn digest(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut size_bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((
                size_bytes,
                base64::engine::general_purpose::STANDARD.encode(hash.finalize()),
            ));
        }
        size_bytes += read as u64;
        hash.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_a_file_that_has_an_end() {
        for (path, says) in [
            ("/dev/zero", "is no file"),
            ("/tmp", "is no file"),
            ("/nowhere/server", "is not there"),
        ] {
            let refused = check_file(Path::new(path), path).expect_err("it is none");
            assert!(refused.to_string().contains(says), "{refused}");
            assert_eq!(refused.exit_code(), 2);
        }
        let program = tempfile::NamedTempFile::new().expect("a file");
        check_file(program.path(), "program").expect("it is one");
    }
}
