//! `zectre deploy`: from this directory (or an image, or an artifact) to an answering URL.

use crate::{
    args::DeployArgs,
    command::{source, wait},
    context::Context,
    error::CliError,
    progress::seconds,
    project,
    table::bytes,
};
use base64::Engine;
use sha2::{Digest, Sha256};
use std::{io::Read, path::Path, time::Instant};
use tokio_util::io::ReaderStream;
use zectre_client::Upload;
use zectre_common::{
    id::ArtifactId,
    manifest::Manifest,
    spec::DeploymentRequest,
    state::{ArtifactKind, DeploymentStatus},
    wire::{app::App, artifact::CreateArtifactRequest, deployment::Deployment},
};

pub(crate) async fn run(args: &DeployArgs, context: &Context) -> Result<(), CliError> {
    let began = Instant::now();
    let manifest = Manifest::load_dir(&args.dir)?;
    let builds = args.image.is_none() && args.artifact.is_none() && manifest.image().is_none();
    if builds {
        source::check_entry(&manifest, &args.dir)?;
    }
    let app = project::find_or_create(context, &args.project, &args.dir, &manifest).await?;
    let request = request(args, context, &manifest, &app).await?;
    let deployment = context.client.create_deployment(app.id, &request).await?;
    let waits = args.wait || (!args.no_wait && context.output.terminal);
    if !waits {
        context.output.say(format!(
            "Version {} was accepted. `zectre status` shows how it goes.",
            deployment.version
        ));
        show(context, &deployment);
        return Ok(());
    }
    let mut progress = context.output.progress("Deploying");
    let deployment = wait::until_rolled_out(context, deployment, &mut progress).await?;
    let what = match deployment.status {
        DeploymentStatus::Succeeded => "serves",
        _ => "takes a share of the requests; `zectre promote` gives it all",
    };
    let name = format!(
        "{} version {} ({}) {what}",
        app.name, deployment.version, deployment.environment
    );
    progress.done(&name);
    context
        .output
        .say(format!("  preview  {}", deployment.preview_url));
    context
        .output
        .say(format!("  total    {}", seconds(began.elapsed())));
    show(context, &deployment);
    Ok(())
}

fn show(context: &Context, deployment: &Deployment) {
    context.output.value(deployment, |one| {
        context.output.data(one.url.as_ref().unwrap_or(&one.preview_url));
    });
}

/// What is asked for: the manifest, under it the program, over it the options.
async fn request(
    args: &DeployArgs,
    context: &Context,
    manifest: &Manifest,
    app: &App,
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
        request.artifact_id = Some(self::artifact(context, artifact).await?);
        request.image = None;
        request.process_type = None;
    }
    // What the platform would refuse is refused before anything is built.
    check(&request)?;
    if request.image.is_none() && request.artifact_id.is_none() {
        request.build_id = Some(source::build(context, app.id, &args.dir).await?.id);
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

/// The artifact named by its id, or a file uploaded as a new one.
async fn artifact(context: &Context, text: &str) -> Result<ArtifactId, CliError> {
    if let Ok(id) = text.parse::<ArtifactId>() {
        return Ok(id);
    }
    let path = Path::new(text);
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
    let is_bundle = [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end));
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
        kind: Some(if is_bundle {
            ArtifactKind::Bundle
        } else {
            ArtifactKind::Binary
        }),
        organization: None,
    };
    let artifact = context.client.create_artifact(&announced).await?;
    let file = tokio::fs::File::open(path).await.map_err(CliError::read(path))?;
    let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 256 * 1024));
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
