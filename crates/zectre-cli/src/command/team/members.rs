//! `zectre members …`

use super::organization;
use crate::{
    args::{MembersCommand, TeamArgs},
    context::Context,
    error::CliError,
    output::Shown,
    table::{Table, age},
};
use zectre_client::{Paging, collect};
use zectre_common::{
    state::Role,
    wire::{auth::User, member::Member},
};

pub(super) async fn run(command: MembersCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        MembersCommand::List(team) => list(&team, context).await,
        MembersCommand::Add { email, role, team } => add(&email, role, &team, context).await,
        MembersCommand::Role { member, role, team } => {
            let org = organization(context, &team, Role::Admin).await?;
            let member = find(context, &org, &member).await?;
            let member = context.client.set_member(&org, member.user_id, role).await?;
            let remark = format!("{} is {role} of {org} from now on", member.email);
            Ok(context.output.done(&member, remark))
        }
        MembersCommand::Rm { member, team } => remove(&member, &team, context).await,
    }
}

async fn known(context: &Context, org: &str) -> Result<Vec<Member>, CliError> {
    Ok(collect(async |paging| context.client.members(org, paging).await).await?)
}

async fn list(team: &TeamArgs, context: &Context) -> Result<Shown, CliError> {
    let org = organization(context, team, Role::Viewer).await?;
    let members = known(context, &org).await?;
    Ok(context.output.value(&members, |members| {
        let mut table = Table::new(["member", "name", "role", "since"]);
        for member in members {
            table.row([
                member.email.clone(),
                member.name.clone(),
                member.role.to_string(),
                age(member.created_at),
            ]);
        }
        if table.is_empty() {
            context.output.say(format!(
                "{org} has no members yet. `zectre invitations create EMAIL --org {org}` invites one."
            ));
        } else {
            table.print(context.output);
        }
    }))
}

async fn add(email: &str, role: Role, team: &TeamArgs, context: &Context) -> Result<Shown, CliError> {
    let me = context.client.user().await?;
    if !me.is_admin {
        let there = team.org.as_ref().map(|org| format!(" --org {org}"));
        let there = there.unwrap_or_default();
        return Err(CliError::Refused(format!(
            "only an admin of the cluster makes someone a member at once. `zectre invitations create {email} --role {role}{there}` \
             invites them."
        )));
    }
    let org = chosen(&me, team)?;
    let found = context.client.users(Some(email), Paging::first(1)).await?;
    let account = found.data.first().ok_or_else(|| {
        CliError::NotFound(format!(
            "there is no account {email}. `zectre users add {email}` makes it; then run the command again."
        ))
    })?;
    // What they may do already is not changed unseen.
    let email = &account.email;
    if let Some(member) = known(context, &org)
        .await?
        .iter()
        .find(|one| one.user_id == account.id)
    {
        return Err(CliError::Failed(format!(
            "{email} is {} of {org} already. `zectre members role {email} {role} --org {org}` gives another role.",
            member.role
        )));
    }
    let member = context.client.set_member(&org, account.id, role).await?;
    Ok(context
        .output
        .done(&member, format!("{email} is {role} of {org}")))
}

fn chosen(me: &User, team: &TeamArgs) -> Result<String, CliError> {
    match &team.org {
        Some(org) => Ok(org.clone()),
        None => super::only_one(me, Role::Admin),
    }
}

/// Oneself by the way that is open to every member.
async fn remove(named: &str, team: &TeamArgs, context: &Context) -> Result<Shown, CliError> {
    let org = organization(context, team, Role::Viewer).await?;
    let member = find(context, &org, named).await?;
    let me = context.client.user().await?;
    let remark = if me.id == member.user_id {
        context.client.leave_org(&org).await?;
        format!("You are no member of {org} any more")
    } else {
        context.client.remove_member(&org, member.user_id).await?;
        format!("{} is no member of {org} any more", member.email)
    };
    Ok(context.output.done(&member, remark))
}

/// One by address or id.
async fn find(context: &Context, org: &str, named: &str) -> Result<Member, CliError> {
    let fits =
        |member: &Member| member.email.eq_ignore_ascii_case(named) || member.user_id.to_string() == named;
    let found = known(context, org).await?.into_iter().find(fits);
    found.ok_or_else(|| {
        CliError::NotFound(format!(
            "{org} has no member `{named}`. `zectre members list --org {org}` shows them."
        ))
    })
}
