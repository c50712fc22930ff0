//! `zectre clusters …`: the clusters that a catalog knows.

use super::catalog::organization;
use crate::{
    args::{ClustersCommand, LoginArgs, NewClusterArgs},
    catalog::Catalog,
    credentials::Credentials,
    error::CliError,
    output::{Output, Shown},
    prompt,
    table::Table,
};
use zectre_client::{Client, collect};
use zectre_common::{
    state::Role,
    wire::catalog::{Cluster, CreateClusterRequest},
};

pub(crate) async fn run(command: ClustersCommand, output: Output) -> Result<Shown, CliError> {
    match command {
        ClustersCommand::List(args) => list(&Catalog::named(args.catalog.as_deref())?, output).await,
        ClustersCommand::Use { cluster, catalog } => {
            let catalog = Catalog::named(catalog.catalog.as_deref())?;
            let clusters = known(&catalog.client().await?).await?;
            let cluster = pick(&clusters, Some(&cluster), None)?;
            catalog.use_cluster(cluster).await?;
            let remark = format!(
                "Commands talk to {} now ({})",
                full_name(cluster),
                cluster.api_base_url
            );
            Ok(output.done(cluster, remark))
        }
        ClustersCommand::Add(args) => add(&args, output).await,
        ClustersCommand::Rm {
            cluster,
            yes,
            catalog,
        } => {
            remove(
                &Catalog::named(catalog.catalog.as_deref())?,
                &cluster,
                yes,
                output,
            )
            .await
        }
    }
}

async fn known(client: &Client) -> Result<Vec<Cluster>, CliError> {
    Ok(collect(async |paging| client.catalog_clusters(paging).await).await?)
}

async fn list(catalog: &Catalog, output: Output) -> Result<Shown, CliError> {
    let clusters = known(&catalog.client().await?).await?;
    let used = Credentials::load()?.default;
    Ok(output.value(&clusters, |clusters| {
        let mut table = Table::new(["cluster", "api", "audience", "used"]);
        for cluster in clusters {
            let is_used = used.as_deref() == Some(cluster.api_base_url.as_str());
            table.row([
                full_name(cluster),
                cluster.api_base_url.clone(),
                cluster.audience.clone(),
                (if is_used { "yes" } else { "-" }).into(),
            ]);
        }
        if table.is_empty() {
            output.say("None of your organizations has a cluster. `zectre clusters add NAME URL` adds one.");
        } else {
            table.print(output);
        }
    }))
}

async fn add(args: &NewClusterArgs, output: Output) -> Result<Shown, CliError> {
    let catalog = Catalog::named(args.catalog.catalog.as_deref())?;
    let client = catalog.client().await?;
    let organization = organization(&client, args.org.as_deref(), Role::Admin).await?;
    let request = CreateClusterRequest {
        organization,
        name: args.name.clone(),
        api_base_url: args.url.clone(),
        audience: args.audience.clone(),
    };
    let cluster = client.add_catalog_cluster(&request).await?;
    Ok(output.value(&cluster, |cluster| {
        output.say(format!(
            "Added {}. Its configuration trusts the catalog with:",
            full_name(cluster)
        ));
        output.data(format!(
            "[auth]\ncatalog_jwks_url = \"{}/.well-known/jwks.json\"\njwt_expected_iss = \"{}\"\njwt_expected_aud = \"{}\"",
            catalog.url, catalog.url, cluster.audience
        ));
    }))
}

async fn remove(catalog: &Catalog, named: &str, yes: bool, output: Output) -> Result<Shown, CliError> {
    let client = catalog.client().await?;
    let clusters = known(&client).await?;
    let cluster = pick(&clusters, Some(named), None)?;
    let name = full_name(cluster);
    let question = format!(
        "Remove {name}? Nobody gets tokens for it any more, and its audience is never given out again."
    );
    if !yes && !prompt::confirm(&question).await? {
        return Err(CliError::Usage(format!(
            "{name} was not removed. Add --yes to remove it without a question."
        )));
    }
    client.remove_catalog_cluster(cluster.id).await?;
    Ok(output.done(cluster, format!("Removed {name}; the cluster itself runs on")))
}

fn full_name(cluster: &Cluster) -> String {
    format!("{}/{}", cluster.organization, cluster.name)
}

/// The one cluster that fits what is named; of all of them, when nothing is.
fn pick<'c>(
    clusters: &'c [Cluster],
    named: Option<&str>,
    audience: Option<&str>,
) -> Result<&'c Cluster, CliError> {
    let fits = |cluster: &&Cluster| {
        named.is_none_or(|name| {
            cluster.name == name || full_name(cluster) == name || cluster.id.to_string() == name
        }) && audience.is_none_or(|audience| cluster.audience == audience)
    };
    let found: Vec<_> = clusters.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(CliError::NotFound(
            "none of your organizations has such a cluster. `zectre clusters list` shows those there are."
                .into(),
        )),
        _ => Err(CliError::Usage(
            "several clusters fit. Name one as organization/name; `zectre clusters list` shows them.".into(),
        )),
    }
}

/// After a login: the cluster that was asked for; or the only one there is, if a person says so, for whoever adds people to
/// an organization decides which one that is.
pub(super) async fn after_login(
    catalog: &Catalog,
    args: &LoginArgs,
    output: Output,
) -> Result<Option<Cluster>, CliError> {
    let clusters = known(&catalog.client().await?).await?;
    let wanted = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (named, audience) = (wanted(&args.cluster), wanted(&args.audience));
    if named.is_none() && audience.is_none() && clusters.len() != 1 {
        output.say(match clusters.len() {
            0 => "None of your organizations has a cluster yet. `zectre clusters add NAME URL` adds one.",
            _ => "`zectre clusters list` shows the clusters, `zectre clusters use NAME` takes one.",
        });
        return Ok(None);
    }
    let cluster = pick(&clusters, named.as_deref(), audience.as_deref())?;
    let (name, url) = (full_name(cluster), &cluster.api_base_url);
    let is_named = named.is_some() || audience.is_some();
    if !is_named && !prompt::confirm(&format!("Shall commands talk to {name} ({url}) from now on?")).await? {
        output.say(format!(
            "There is one cluster, {name} ({url}); `zectre clusters use {name}` takes it."
        ));
        return Ok(None);
    }
    catalog.use_cluster(cluster).await?;
    output.say(format!("Commands talk to {name} ({url})"));
    Ok(Some(cluster.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::{id::ClusterId, time::Time};

    fn cluster(organization: &str, name: &str) -> Cluster {
        Cluster {
            id: ClusterId::new(),
            organization: organization.into(),
            name: name.into(),
            api_base_url: "http://a".into(),
            audience: format!("{organization}-{name}"),
            created_at: Time::from_unix_ms(0),
        }
    }

    #[test]
    fn a_cluster_is_picked_when_it_is_clear_which() {
        let all = [
            cluster("acme", "eu"),
            cluster("acme", "us"),
            cluster("hobby", "eu"),
        ];
        let id = all[0].id.to_string();
        let picked = |named, audience| pick(&all, named, audience).ok().map(full_name);
        assert_eq!(picked(Some("us"), None).as_deref(), Some("acme/us"));
        assert_eq!(picked(Some("hobby/eu"), None).as_deref(), Some("hobby/eu"));
        assert_eq!(picked(Some(&id), None).as_deref(), Some("acme/eu"));
        assert_eq!(picked(Some("eu"), Some("hobby-eu")).as_deref(), Some("hobby/eu"));
        assert_eq!(picked(None, Some("acme-us")).as_deref(), Some("acme/us"));
        for none in [(Some("eu"), None), (None, None), (Some("xy"), None)] {
            assert_eq!(picked(none.0, none.1), None);
        }
    }
}
