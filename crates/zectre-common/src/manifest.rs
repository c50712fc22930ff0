//! The project's manifest, `zectre.yaml`: what to build and how to run it, as its author writes it.
//!
//! [`Manifest::load_dir`] reads a project, [`Manifest::parse`] a text; both refuse every key they don't know
//! and say where it stands and what was probably meant. `tish.source` and `tish.features` of `package.json`
//! win over `build`, because the Tish tools read them too.

use crate::{
    quantity::DurationMs,
    spec::{
        Constraint, DeploymentRequest, NetworkingRequest, ProcessType, ResourcesRequest, RestartPolicy,
        Strategy, Volume, range_in_words, range_of, valid_slug,
    },
};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};
use utoipa::ToSchema;

mod error;
mod package;
mod schema;
mod yaml;

pub use error::ManifestError;
pub(crate) use error::nearest;
pub use schema::json_schema;

/// The file's name in the root of a project.
pub const FILE_NAME: &str = "zectre.yaml";
/// The entry file unless the manifest names another one.
pub const ENTRY_DEFAULT: &str = "./src/main.tish";
/// The largest manifest, in bytes; a real one has a few hundred.
pub const FILE_BYTES_MAX: u64 = 256 * 1024;
/// The most compiler features a project may name.
const FEATURES_MAX: usize = 32;

/// What to build and how to run it. Every key may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The project's name: lower case letters, digits and `-`, starting with a letter, at most 40 characters.
    name: Option<String>,
    /// The namespace the project lives in. Default `default`.
    namespace: Option<String>,
    /// How the program is compiled.
    #[serde(default)]
    build: Build,
    /// How it is run.
    #[serde(default)]
    deploy: Deploy,
    /// How much one task may use.
    resources: Option<ResourcesRequest>,
    /// How a task is reached.
    networking: Option<NetworkingRequest>,
}

/// How the program is compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Build {
    /// The entry file, relative to the project. Default `./src/main.tish`.
    source: Option<String>,
    /// Features of the Tish runtime.
    features: Option<Vec<String>>,
}

/// How it is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Deploy {
    /// How many tasks. Default 1; 0 sleeps until the first request.
    replicas: Option<u32>,
    /// How a new version takes over. Default `rolling`.
    strategy: Option<Strategy>,
    /// `tish` for a native executable, `docker` for an image. Follows from `image` when left out.
    process_type: Option<ProcessType>,
    /// A container image to run instead of building the source.
    image: Option<String>,
    /// Overrides the image's entry point; names the executable in a bundle.
    command: Option<Vec<String>>,
    /// Arguments of the program.
    args: Option<Vec<String>>,
    /// Variables over those of the application and the environment.
    env: Option<BTreeMap<String, String>>,
    /// A task that runs longer, in seconds, is stopped. Default none.
    max_runtime_secs: Option<u32>,
    /// Directories of the node that the task sees.
    volumes: Option<Vec<Volume>>,
    /// What happens when the program ends by itself. Default `always`.
    restart: Option<RestartPolicy>,
    /// Whether a request wakes a sleeping deployment. Default true.
    cold_start: Option<bool>,
    /// Time without a request until it sleeps, e.g. `5m`; 0 never. Default `300s`.
    idle_timeout: Option<DurationMs>,
    /// Time from SIGTERM to SIGKILL, e.g. `10s`. Default `10s`.
    stop_grace: Option<DurationMs>,
    /// A rollout that takes longer fails, e.g. `5m`. Default `300s`.
    progress_deadline: Option<DurationMs>,
    /// Whether a failed rollout leaves the previous deployment serving. Default true.
    auto_rollback: Option<bool>,
    /// Conditions on node labels: `region=eu`, `disk!=hdd`, `gpu`, `!gpu`.
    constraints: Option<Vec<Constraint>>,
    /// Whether no two tasks may share a node. Default false.
    anti_affinity: Option<bool>,
}

impl Manifest {
    /// Reads a manifest from its text; `file_name` is only shown in errors.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, ManifestError> {
        let document = yaml::Document::read(file_name, text)?;
        let manifest: Self = document.extract()?;
        match manifest.mistake() {
            Some((path, message)) => Err(document.error_at(&path, message)),
            None => Ok(manifest),
        }
    }

    /// Reads `zectre.yaml` and `package.json` of the project in `directory`; both may be missing, which gives the
    /// defaults.
    ///
    /// # Errors
    /// A file that can't be read, or the first mistake in one.
    pub fn load_dir(directory: &Path) -> Result<Self, ManifestError> {
        let mut manifest = match error::read_file(directory, FILE_NAME)? {
            Some(text) => Self::parse(FILE_NAME, &text)?,
            None => Self::default(),
        };
        if let Some(text) = error::read_file(directory, package::FILE_NAME)? {
            let tish = package::parse(&text)?;
            manifest.build.source = tish.source.or(manifest.build.source);
            manifest.build.features = tish.features.or(manifest.build.features);
        }
        Ok(manifest)
    }

    /// The project's name, where it names itself.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Its namespace, where it names one.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The entry file, relative to the project and never outside it.
    pub fn entry(&self) -> &str {
        self.build.source.as_deref().unwrap_or(ENTRY_DEFAULT)
    }

    /// Features of the Tish runtime; none named means all that the platform offers.
    pub fn features(&self) -> &[String] {
        self.build.features.as_deref().unwrap_or_default()
    }

    /// The container image to run instead of building the source.
    pub fn image(&self) -> Option<&str> {
        self.deploy.image.as_deref()
    }

    /// What a deployment of this project asks for; environment, build and artifact are the caller's to add.
    pub fn deployment_request(&self) -> DeploymentRequest {
        let deploy = self.deploy.clone();
        // Rounded up, so that 500ms doesn't become "never".
        let secs = |duration: DurationMs| u32::try_from(duration.0.div_ceil(1_000)).unwrap_or(u32::MAX);
        DeploymentRequest {
            process_type: deploy.process_type,
            image: deploy.image,
            command: deploy.command,
            args: deploy.args,
            replicas: deploy.replicas,
            resources: self.resources.clone(),
            networking: self.networking.clone(),
            env: deploy.env,
            strategy: deploy.strategy,
            progress_deadline_secs: deploy.progress_deadline.map(secs),
            auto_rollback: deploy.auto_rollback,
            restart: deploy.restart,
            cold_start_enabled: deploy.cold_start,
            idle_timeout_secs: deploy.idle_timeout.map(secs),
            max_runtime_secs: deploy.max_runtime_secs,
            stop_grace_secs: deploy.stop_grace.map(secs),
            volumes: deploy.volumes,
            constraints: deploy.constraints,
            anti_affinity: deploy.anti_affinity,
            ..DeploymentRequest::default()
        }
    }

    /// The first value that has the right type and still can't be: its path in the file, and why.
    fn mistake(&self) -> Option<(String, String)> {
        let slug = |name: &Option<String>| name.as_deref().is_some_and(|name| !valid_slug(name));
        let letters = "lower case letters, digits and `-`, starting with a letter, at most 40 characters";
        if slug(&self.name) {
            return Some(("name".into(), format!("`name` takes {letters}")));
        }
        if slug(&self.namespace) {
            return Some(("namespace".into(), format!("`namespace` takes {letters}")));
        }
        if let Some(message) = self.build.source.as_deref().and_then(source_mistake) {
            return Some(("build.source".into(), format!("`build.source` {message}")));
        }
        if let Some(message) = self.build.features.as_deref().and_then(features_mistake) {
            return Some(("build.features".into(), format!("`build.features` {message}")));
        }
        let errors = self
            .deployment_request()
            .resolve(&DeploymentRequest::default())
            .err()?;
        let first = errors.into_iter().next()?;
        let path = manifest_path(&first.field);
        // In the words in which something that is no number at all is refused.
        let is_range = range_of(&first.field).is_some_and(|range| first.message == range_in_words(&range));
        let takes = if is_range { " takes" } else { ":" };
        Some((path.clone(), format!("`{path}`{takes} {}", first.message)))
    }
}

/// Where the manifest keeps what the spec calls `field`.
fn manifest_path(field: &str) -> String {
    let top = field.split(['.', '[']).next().unwrap_or(field);
    match top {
        "resources" | "networking" => field.into(),
        "cold_start_enabled" => "deploy.cold_start".into(),
        "idle_timeout_secs" | "stop_grace_secs" | "progress_deadline_secs" => {
            format!("deploy.{}", field.trim_end_matches("_secs"))
        }
        _ => format!("deploy.{field}"),
    }
}

fn source_mistake(source: &str) -> Option<&'static str> {
    let inside = Path::new(source).components().all(|part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    if source.is_empty() || source.contains('\0') || !inside {
        Some("names a file inside the project, such as `./src/main.tish`")
    } else {
        None
    }
}

fn features_mistake(features: &[String]) -> Option<&'static str> {
    let is_name = |name: &String| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if features.len() > FEATURES_MAX {
        Some("takes at most 32 names")
    } else if !features.iter().all(is_name) {
        Some("takes names such as `http`: letters, digits, `-` and `_`")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
