//! `zectre orgs …`

use crate::{
    args::OrgsCommand,
    context::Context,
    error::CliError,
    output::Shown,
    table::{Table, age},
};
use zectre_client::collect;
use zectre_common::wire::auth::CreateOrganizationRequest;

pub(super) async fn run(command: OrgsCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        OrgsCommand::List => list(context).await,
        OrgsCommand::Create { org, name } => {
            let request = CreateOrganizationRequest { slug: org, name };
            let made = context.client.create_org(&request).await?;
            let remark = format!(
                "Made {slug}, of which you are the owner. Next: `zectre namespaces add NAME --org {slug}`, \
                 `zectre invitations create EMAIL --org {slug}`",
                slug = made.slug
            );
            Ok(context.output.done(&made, remark))
        }
    }
}

async fn list(context: &Context) -> Result<Shown, CliError> {
    let orgs = collect(async |paging| context.client.orgs(paging).await).await?;
    Ok(context.output.value(&orgs, |orgs| {
        let mut table = Table::new(["organization", "name", "age"]);
        for org in orgs {
            table.row([org.slug.clone(), org.name.clone(), age(org.created_at)]);
        }
        if table.is_empty() {
            context.output.say(
                "You are in no organization. `zectre orgs create NAME` makes one; `zectre invitations accept` takes you into \
                 another's.",
            );
        } else {
            table.print(context.output);
        }
    }))
}
