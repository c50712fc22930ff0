//! `zectre catalog orgs …`

use crate::{
    args::CatalogOrgsCommand,
    catalog::Catalog,
    error::CliError,
    output::{Output, Shown},
    prompt,
    table::{Table, age},
};
use zectre_client::{Client, collect};
use zectre_common::wire::catalog::{CreateOrganizationRequest, Organization};

pub(super) async fn run(command: CatalogOrgsCommand, output: Output) -> Result<Shown, CliError> {
    match command {
        CatalogOrgsCommand::List(catalog) => list(&client(catalog.catalog.as_deref()).await?, output).await,
        CatalogOrgsCommand::Create { org, name, catalog } => {
            let client = client(catalog.catalog.as_deref()).await?;
            let request = CreateOrganizationRequest { slug: org, name };
            let made = client.create_catalog_org(&request).await?;
            let remark = format!(
                "Made {}, of which you are the owner. Next: `zectre clusters add NAME URL --org {}`, `zectre catalog invitations \
                 create EMAIL --org {}`",
                made.slug, made.slug, made.slug
            );
            Ok(output.done(&made, remark))
        }
        CatalogOrgsCommand::Delete { org, yes, catalog } => {
            delete(&client(catalog.catalog.as_deref()).await?, &org, yes, output).await
        }
    }
}

async fn client(catalog: Option<&str>) -> Result<Client, CliError> {
    Catalog::named(catalog)?.client().await
}

async fn known(client: &Client) -> Result<Vec<Organization>, CliError> {
    Ok(collect(async |paging| client.catalog_orgs(paging).await).await?)
}

async fn list(client: &Client, output: Output) -> Result<Shown, CliError> {
    let orgs = known(client).await?;
    Ok(output.value(&orgs, |orgs| {
        let mut table = Table::new(["organization", "name", "role", "age"]);
        for org in orgs {
            let role = org.role.to_string();
            table.row([org.slug.clone(), org.name.clone(), role, age(org.created_at)]);
        }
        if table.is_empty() {
            output.say(
                "You are in no organization. `zectre catalog orgs create NAME` makes one; `zectre catalog invitations accept` \
                 takes you into another's.",
            );
        } else {
            table.print(output);
        }
    }))
}

async fn delete(client: &Client, slug: &str, yes: bool, output: Output) -> Result<Shown, CliError> {
    let org = known(client).await?.into_iter().find(|org| org.slug == slug);
    let org = org.ok_or_else(|| {
        CliError::NotFound(format!(
            "you are in no organization `{slug}`. `zectre catalog orgs list` shows yours."
        ))
    })?;
    let question = format!("Delete {slug} with its memberships, and the entries of its clusters?");
    if !yes && !prompt::confirm(&question).await? {
        return Err(CliError::Usage(format!(
            "{slug} was not deleted. Add --yes to delete it without a question."
        )));
    }
    client.delete_catalog_org(slug).await?;
    Ok(output.done(&org, format!("Deleted {slug}")))
}
