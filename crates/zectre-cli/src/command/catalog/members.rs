//! `zectre catalog members …`

use super::at;
use crate::{
    args::CatalogMembersCommand,
    error::CliError,
    output::{Output, Shown},
    table::{Table, age},
};
use zectre_client::{Client, collect};
use zectre_common::{state::Role, wire::catalog::Member};

pub(super) async fn run(command: CatalogMembersCommand, output: Output) -> Result<Shown, CliError> {
    match command {
        CatalogMembersCommand::List(place) => {
            let (client, org) = at(&place, Role::Viewer).await?;
            let members = known(&client, &org).await?;
            Ok(output.value(&members, |members| print(members, output)))
        }
        CatalogMembersCommand::Role { member, role, place } => {
            let (client, org) = at(&place, Role::Admin).await?;
            let mut member = find(&client, &org, &member).await?;
            client.set_catalog_role(&org, member.user_id, role).await?;
            (member.role, member.from_github) = (role, false);
            let remark = format!(
                "{} is {role} of {org}; a cluster hears of it with their next token, within minutes",
                member.email
            );
            Ok(output.done(&member, remark))
        }
        CatalogMembersCommand::Rm { member, place } => {
            let (client, org) = at(&place, Role::Viewer).await?;
            let member = find(&client, &org, &member).await?;
            client.remove_catalog_member(&org, member.user_id).await?;
            let mut remark = format!("{} is no member of {org} any more", member.email);
            if member.from_github {
                remark.push_str(
                    ", but their organization at GitHub is mapped: they are back with their next sign-in",
                );
            }
            Ok(output.done(&member, remark))
        }
    }
}

async fn known(client: &Client, org: &str) -> Result<Vec<Member>, CliError> {
    Ok(collect(async |paging| client.catalog_members(org, paging).await).await?)
}

fn print(members: &[Member], output: Output) {
    let mut table = Table::new(["member", "github", "name", "role", "from", "since"]);
    for member in members {
        table.row([
            member.email.clone(),
            member.login.clone(),
            member.name.clone(),
            member.role.to_string(),
            if member.from_github { "github" } else { "here" }.into(),
            age(member.created_at),
        ]);
    }
    table.print(output);
}

/// One by address, name or id.
async fn find(client: &Client, org: &str, named: &str) -> Result<Member, CliError> {
    let fits = |member: &Member| {
        member.email.eq_ignore_ascii_case(named)
            || member.login.eq_ignore_ascii_case(named)
            || member.user_id.to_string() == named
    };
    let mut found = known(client, org).await?.into_iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(member), None) => Ok(member),
        (None, _) => Err(CliError::NotFound(format!(
            "{org} has no member `{named}`. `zectre catalog members list --org {org}` shows them."
        ))),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "several members of {org} are called `{named}`: name the one by id, which `zectre catalog members list --json` shows."
        ))),
    }
}
