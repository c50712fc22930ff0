//! `zectre build`

use crate::{
    args::BuildArgs,
    command::{begun::Begun, source},
    context::Context,
    error::CliError,
    output::Shown,
    project,
};
use zectre_common::manifest::Manifest;

pub(crate) async fn run(args: &BuildArgs, context: &Context, begun: &Begun) -> Result<Shown, CliError> {
    let manifest = Manifest::load_dir(&args.dir)?;
    source::check_entry(&manifest, &args.dir)?;
    let app = project::find_or_create(context, &args.project, &args.dir, &manifest).await?;
    let build = source::build(context, app.id, &args.dir, begun).await?;
    Ok(context.output.value(&build, |build| {
        let artifact = build.artifact_id.map(|id| id.to_string()).unwrap_or_default();
        context.output.data(&artifact);
        context
            .output
            .say(format!("Next: `zectre deploy --artifact {artifact}`"));
    }))
}
