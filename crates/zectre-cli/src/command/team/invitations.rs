//! `zectre invitations …`

use super::organization;
use crate::{
    args::{InvitationsCommand, TeamArgs},
    context::Context,
    error::CliError,
    output::Shown,
    prompt,
    table::{Table, age},
};
use secrecy::ExposeSecret;
use zectre_client::collect;
use zectre_common::{
    state::Role,
    wire::member::{AcceptInvitationRequest, CreateInvitationRequest, Invitation},
};

pub(super) async fn run(command: InvitationsCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        InvitationsCommand::List(team) => list(&team, context).await,
        InvitationsCommand::Create { email, role, team } => create(email, role, &team, context).await,
        InvitationsCommand::Accept => {
            let token = prompt::secret("Token of the invitation").await?;
            let request = AcceptInvitationRequest {
                token: token.expose_secret().trim().to_owned(),
            };
            let membership = context.client.accept_invitation(&request).await?;
            let remark = format!(
                "You are {} of {}. Next: `zectre projects list`",
                membership.role, membership.organization
            );
            Ok(context.output.done(&membership, remark))
        }
        InvitationsCommand::Revoke { invitation, team } => {
            let org = organization(context, &team, Role::Admin).await?;
            let invitation = find(context, &org, &invitation).await?;
            context.client.revoke_invitation(&org, invitation.id).await?;
            let remark = format!("Withdrew the invitation of {} to {org}", invitation.email);
            Ok(context.output.done(&invitation, remark))
        }
    }
}

async fn known(context: &Context, org: &str) -> Result<Vec<Invitation>, CliError> {
    Ok(collect(async |paging| context.client.invitations(org, paging).await).await?)
}

async fn list(team: &TeamArgs, context: &Context) -> Result<Shown, CliError> {
    let org = organization(context, team, Role::Admin).await?;
    let invitations = known(context, &org).await?;
    Ok(context.output.value(&invitations, |invitations| {
        let mut table = Table::new(["email", "role", "until", "age", "id"]);
        for invitation in invitations {
            table.row([
                invitation.email.clone(),
                invitation.role.to_string(),
                invitation.expires_at.to_string(),
                age(invitation.created_at),
                invitation.id.to_string(),
            ]);
        }
        if table.is_empty() {
            context.output.say(format!(
                "Nobody is invited to {org}. `zectre invitations create EMAIL --org {org}` invites someone."
            ));
        } else {
            table.print(context.output);
        }
    }))
}

async fn create(email: String, role: Role, team: &TeamArgs, context: &Context) -> Result<Shown, CliError> {
    let org = organization(context, team, Role::Admin).await?;
    let request = CreateInvitationRequest {
        email,
        role: Some(role),
    };
    let made = context.client.create_invitation(&org, &request).await?;
    Ok(context.output.value(&made, |made| {
        context.output.data(&made.token);
        context.output.say(format!(
            "It holds for seven days and once. Next: {} runs `zectre login --api-url {}` and `zectre invitations accept`",
            made.invitation.email,
            context.api_url()
        ));
    }))
}

/// One by address or id.
async fn find(context: &Context, org: &str, named: &str) -> Result<Invitation, CliError> {
    let fits = |one: &Invitation| one.email.eq_ignore_ascii_case(named) || one.id.to_string() == named;
    let mut found = known(context, org).await?.into_iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(invitation), None) => Ok(invitation),
        (None, _) => Err(CliError::NotFound(format!(
            "{org} has no invitation of `{named}`. `zectre invitations list --org {org}` shows those there are."
        ))),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "`{named}` is invited to {org} more than once: name the invitation by id. `zectre invitations list --org {org}` shows \
             them."
        ))),
    }
}
