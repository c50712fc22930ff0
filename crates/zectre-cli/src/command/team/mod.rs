//! Organizations of the cluster, with who and what belongs to them.

mod invitations;
mod members;
mod namespaces;
mod orgs;

use crate::{
    args::{TeamArgs, TeamCommand},
    context::Context,
    error::CliError,
    output::Shown,
};
use zectre_common::{state::Role, wire::auth::User};

/// Where a cluster begins, and what its admins mean when they name nothing.
const ORGANIZATION_DEFAULT: &str = "default";

pub(super) async fn run(command: TeamCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        TeamCommand::Orgs(command) => orgs::run(command, context).await,
        TeamCommand::Members(command) => members::run(command, context).await,
        TeamCommand::Invitations(command) => invitations::run(command, context).await,
        TeamCommand::Namespaces(command) => namespaces::run(command, context).await,
    }
}

/// The organization that is named; else the only one in which one has the role `least`.
async fn organization(context: &Context, team: &TeamArgs, least: Role) -> Result<String, CliError> {
    match &team.org {
        Some(org) => Ok(org.clone()),
        None => only_one(&context.client.user().await?, least),
    }
}

fn only_one(user: &User, least: Role) -> Result<String, CliError> {
    let mut fitting = user.memberships.iter().filter(|one| one.role >= least);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.organization.clone()),
        // An admin of the cluster may do it anywhere.
        (None, _) if user.is_admin => Ok(ORGANIZATION_DEFAULT.into()),
        (None, _) => Err(CliError::Usage(match &user.memberships[..] {
            [only] => format!(
                "this takes the role {least}, and you are {} of {}, your only organization: ask one of its owners.",
                only.role, only.organization
            ),
            _ => format!(
                "you are {least} of no organization: have someone invite you, or make one with `zectre orgs create NAME`."
            ),
        })),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "you are {least} of several organizations: name one with --org. `zectre whoami` shows them."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::{
        id::{OrganizationId, UserId},
        time::Time,
        wire::auth::Membership,
    };

    #[test]
    fn the_organization_is_taken_where_it_is_clear_which() {
        let of = |organization: &str, role| Membership {
            organization_id: OrganizationId::new(),
            organization: organization.into(),
            role,
        };
        let user = |is_admin, memberships| User {
            id: UserId::new(),
            email: "ada@example.test".into(),
            name: "Ada".into(),
            is_admin,
            memberships,
            created_at: Time::from_unix_ms(0),
        };
        let both = vec![of("acme", Role::Owner), of("hobby", Role::Viewer)];
        let both = |is_admin| user(is_admin, both.clone());
        assert_eq!(only_one(&both(false), Role::Admin).ok().as_deref(), Some("acme"));
        assert!(only_one(&both(false), Role::Viewer).is_err());
        assert!(only_one(&both(true), Role::Viewer).is_err());
        let viewer = user(false, vec![of("hobby", Role::Viewer)]);
        let refused = only_one(&viewer, Role::Admin).expect_err("a viewer").to_string();
        assert!(refused.contains("you are viewer of hobby"), "{refused}");
        let none = |is_admin| only_one(&user(is_admin, Vec::new()), Role::Viewer).ok();
        assert_eq!((none(true).as_deref(), none(false)), (Some("default"), None));
    }
}
