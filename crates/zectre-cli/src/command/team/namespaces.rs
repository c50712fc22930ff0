//! `zectre namespaces …`

use super::organization;
use crate::{
    args::NamespacesCommand,
    context::Context,
    error::CliError,
    output::Shown,
    table::{Table, age},
};
use zectre_client::collect;
use zectre_common::{state::Role, wire::auth::CreateNamespaceRequest};

pub(super) async fn run(command: NamespacesCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        NamespacesCommand::List => list(context).await,
        NamespacesCommand::Add { namespace, team } => {
            let organization = organization(context, &team, Role::Admin).await?;
            let request = CreateNamespaceRequest {
                name: namespace,
                organization: Some(organization),
            };
            let made = context.client.create_namespace(&request).await?;
            let remark = format!(
                "Made the namespace {name} of {}. Next: `zectre projects create PROJECT --namespace {name}`",
                made.organization,
                name = made.name
            );
            Ok(context.output.done(&made, remark))
        }
    }
}

async fn list(context: &Context) -> Result<Shown, CliError> {
    let namespaces = collect(async |paging| context.client.namespaces(paging).await).await?;
    Ok(context.output.value(&namespaces, |namespaces| {
        let mut table = Table::new(["namespace", "organization", "age"]);
        for one in namespaces {
            table.row([one.name.clone(), one.organization.clone(), age(one.created_at)]);
        }
        if table.is_empty() {
            context
                .output
                .say("There are no namespaces of yours yet. `zectre namespaces add NAME` makes one.");
        } else {
            table.print(context.output);
        }
    }))
}
