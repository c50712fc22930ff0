//! `zectre catalog …`: what a catalog knows beside clusters.

mod events;
mod invitations;
mod members;
mod orgs;

use crate::{
    args::{CatalogCommand, OrgArgs},
    catalog::Catalog,
    error::CliError,
    output::{Output, Shown},
};
use zectre_client::Client;
use zectre_common::{state::Role, wire::catalog::Me};

pub(crate) async fn run(command: CatalogCommand, output: Output) -> Result<Shown, CliError> {
    match command {
        CatalogCommand::Orgs(command) => orgs::run(command, output).await,
        CatalogCommand::Members(command) => members::run(command, output).await,
        CatalogCommand::Invitations(command) => invitations::run(command, output).await,
        CatalogCommand::Events(args) => events::run(&args, output).await,
    }
}

/// A client of the catalog, with the organization that is meant.
async fn at(place: &OrgArgs, least: Role) -> Result<(Client, String), CliError> {
    let client = Catalog::named(place.catalog.catalog.as_deref())?.client().await?;
    let org = organization(&client, place.org.as_deref(), least).await?;
    Ok((client, org))
}

/// The organization that is named; else the only one in which one has the role `least`.
pub(super) async fn organization(
    client: &Client,
    named: Option<&str>,
    least: Role,
) -> Result<String, CliError> {
    match named {
        Some(org) => Ok(org.to_owned()),
        None => only_one(&client.catalog_me().await?, least),
    }
}

fn only_one(me: &Me, least: Role) -> Result<String, CliError> {
    let mut fitting = me.orgs.iter().filter(|org| org.role >= least);
    match (fitting.next(), fitting.next()) {
        (Some(org), None) => Ok(org.slug.clone()),
        (None, _) => Err(CliError::Usage(format!(
            "you are {least} of no organization at this catalog: have someone invite you, or make one with `zectre catalog orgs create`."
        ))),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "you are {least} of several organizations: name one with --org. `zectre catalog orgs list` shows them."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::{id::UserId, time::Time, wire::catalog::Membership};

    #[test]
    fn the_organization_is_taken_where_it_is_clear_which() {
        let org = |slug: &str, role| Membership {
            slug: slug.into(),
            name: slug.into(),
            role,
        };
        let me = |orgs| Me {
            id: UserId::new(),
            login: "ada".into(),
            email: "ada@example.test".into(),
            name: "Ada".into(),
            created_at: Time::from_unix_ms(0),
            orgs,
        };
        let both = me(vec![org("acme", Role::Owner), org("hobby", Role::Viewer)]);
        assert_eq!(only_one(&both, Role::Admin).ok().as_deref(), Some("acme"));
        assert!(only_one(&both, Role::Viewer).is_err());
        assert!(only_one(&me(Vec::new()), Role::Viewer).is_err());
    }
}
