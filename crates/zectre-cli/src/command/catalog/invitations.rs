//! `zectre catalog invitations …`

use super::at;
use crate::{
    args::{CatalogInvitationsCommand, OrgArgs},
    catalog::Catalog,
    error::CliError,
    output::{Output, Shown},
    prompt,
    table::{Table, age},
};
use secrecy::ExposeSecret;
use zectre_client::{Client, collect};
use zectre_common::{
    state::Role,
    wire::catalog::{AcceptInvitationRequest, CreateInvitationRequest, Invitation},
};

pub(super) async fn run(command: CatalogInvitationsCommand, output: Output) -> Result<Shown, CliError> {
    match command {
        CatalogInvitationsCommand::List(place) => {
            let (client, org) = at(&place, Role::Admin).await?;
            let invitations = known(&client, &org).await?;
            Ok(output.value(&invitations, |invitations| print(invitations, output)))
        }
        CatalogInvitationsCommand::Create { email, role, place } => create(email, role, &place, output).await,
        CatalogInvitationsCommand::Accept(catalog) => {
            let client = Catalog::named(catalog.catalog.as_deref())?.client().await?;
            let token = prompt::secret("Token of the invitation").await?;
            let request = AcceptInvitationRequest {
                token: token.expose_secret().trim().to_owned(),
            };
            let org = client.accept_catalog_invitation(&request).await?;
            let remark = format!(
                "You are {} of {}. Next: `zectre clusters list`",
                org.role, org.slug
            );
            Ok(output.done(&org, remark))
        }
        CatalogInvitationsCommand::Revoke { invitation, place } => {
            let (client, org) = at(&place, Role::Admin).await?;
            let invitation = find(&client, &org, &invitation).await?;
            client.revoke_catalog_invitation(&org, invitation.id).await?;
            let remark = format!("Withdrew the invitation of {} to {org}", invitation.email);
            Ok(output.done(&invitation, remark))
        }
    }
}

async fn known(client: &Client, org: &str) -> Result<Vec<Invitation>, CliError> {
    Ok(collect(async |paging| client.catalog_invitations(org, paging).await).await?)
}

async fn create(email: String, role: Role, place: &OrgArgs, output: Output) -> Result<Shown, CliError> {
    let (client, org) = at(place, Role::Admin).await?;
    let request = CreateInvitationRequest {
        email,
        role: Some(role),
    };
    let made = client.create_catalog_invitation(&org, &request).await?;
    Ok(output.value(&made, |made| {
        output.data(&made.token);
        output.say(format!(
            "It holds for seven days and once. Next: {} runs `zectre login --catalog {}` and `zectre catalog invitations accept`",
            made.invitation.email,
            client.base_url()
        ));
    }))
}

fn print(invitations: &[Invitation], output: Output) {
    let mut table = Table::new(["email", "role", "age", "id"]);
    for invitation in invitations {
        table.row([
            invitation.email.clone(),
            invitation.role.to_string(),
            age(invitation.created_at),
            invitation.id.to_string(),
        ]);
    }
    if table.is_empty() {
        output.say("Nobody is invited. `zectre catalog invitations create EMAIL` invites someone.");
    } else {
        table.print(output);
    }
}

/// One by address or id.
async fn find(client: &Client, org: &str, named: &str) -> Result<Invitation, CliError> {
    let fits = |invitation: &Invitation| {
        invitation.email.eq_ignore_ascii_case(named) || invitation.id.to_string() == named
    };
    let mut found = known(client, org).await?.into_iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(invitation), None) => Ok(invitation),
        (None, _) => Err(CliError::NotFound(format!(
            "{org} has no invitation of `{named}`. `zectre catalog invitations list --org {org}` shows those there are."
        ))),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "`{named}` is invited to {org} more than once: name the invitation by id. `zectre catalog invitations list --org \
             {org}` shows them."
        ))),
    }
}
