//! Quotas of organizations: what a change uses is counted in the transaction that makes it, while the organization is
//! held, so that two changes at once can't both have the last place.

use crate::{
    code,
    error::{Error, refuse},
    store::{change::Change, quota},
};
use std::collections::HashMap;
use zectre_common::{
    id::{EnvironmentId, OrganizationId},
    wire::quota::Amounts,
};

/// What kind of thing a change makes more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Applications.
    Applications,
    /// Tasks, with their cpu and memory.
    Work,
    /// Stored bytes.
    ArtifactBytes,
}

/// What one version under way reserves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserved {
    pub(crate) environment: EnvironmentId,
    /// It runs beside whatever serves its environment: someone looks at it by its preview.
    pub(crate) beside: bool,
    pub(crate) replicas: u64,
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
}

/// Watches a change that may use more of a resource; `None` where that has no limit.
pub(crate) struct Watch {
    organization: OrganizationId,
    resource: Resource,
    allowed: Amounts,
    before: Amounts,
}

impl Watch {
    /// Begins to watch, before the change writes anything.
    pub(crate) async fn begin(
        change: &mut Change<'_>,
        defaults: &Amounts,
        organization: OrganizationId,
        resource: Resource,
    ) -> Result<Option<Self>, Error> {
        let connection = change.connection();
        let allowed = quota::allowed(connection, organization, defaults).await?;
        let limits = of(&allowed, resource);
        if limits.iter().all(|(_, amount)| *amount == 0) {
            return Ok(None);
        }
        quota::hold(connection, organization).await?;
        let before = quota::used(connection, organization, Some(resource)).await?;
        Ok(Some(Self {
            organization,
            resource,
            allowed,
            before,
        }))
    }

    /// Refuses a change that uses more than before, and more than is allowed.
    pub(crate) async fn check(&self, change: &mut Change<'_>) -> Result<(), Error> {
        let after = quota::used(change.connection(), self.organization, Some(self.resource)).await?;
        exceeded(self.resource, &self.allowed, &self.before, &after)
            .map_or(Ok(()), |sentence| Err(refuse(&code::QUOTA_EXCEEDED, sentence)))
    }
}

/// Refuses to build where not a byte of a program could be stored, so that nothing is compiled in vain. How many bytes it has
/// is known only once it is made: the worker looks again then.
pub(crate) async fn check_room_to_build(
    change: &mut Change<'_>,
    defaults: &Amounts,
    organization: OrganizationId,
) -> Result<(), Error> {
    let connection = change.connection();
    let most = quota::allowed(connection, organization, defaults)
        .await?
        .artifact_bytes;
    if most == 0 {
        return Ok(());
    }
    let used = quota::used(connection, organization, Some(Resource::ArtifactBytes)).await?;
    let used = used.artifact_bytes;
    if used < most {
        return Ok(());
    }
    let sentence = format!(
        "the organization uses {used} of {most} artifact_bytes, so nothing that is built could be stored; delete artifacts, or ask \
         an admin of the cluster for more"
    );
    Err(refuse(&code::QUOTA_EXCEEDED, sentence))
}

/// The amounts that belong to a resource, named as in the quota.
fn of(amounts: &Amounts, resource: Resource) -> Vec<(&'static str, u64)> {
    match resource {
        Resource::Applications => vec![("applications", amounts.applications)],
        Resource::Work => vec![
            ("tasks", amounts.tasks),
            ("cpu_millis", amounts.cpu_millis),
            ("memory_bytes", amounts.memory_bytes),
        ],
        Resource::ArtifactBytes => vec![("artifact_bytes", amounts.artifact_bytes)],
    }
}

/// What is too much, in a sentence. What shrinks is never too much, even where the quota was lowered below it.
fn exceeded(resource: Resource, allowed: &Amounts, before: &Amounts, after: &Amounts) -> Option<String> {
    let (allowed, before, after) = (of(allowed, resource), of(before, resource), of(after, resource));
    let broken = allowed
        .iter()
        .zip(before)
        .zip(after)
        .find(|(((_, most), (_, before)), (_, after))| *most > 0 && after > most && after > before);
    broken.map(|(((name, most), (_, before)), (_, after))| {
        format!(
            "the organization uses {before} of {most} {name}, and this would make it {after}; free some, or ask an admin of \
             the cluster for more"
        )
    })
}

impl Reserved {
    fn amounts(&self) -> Amounts {
        let times = |one: u64| one.saturating_mul(self.replicas);
        Amounts {
            tasks: self.replicas,
            cpu_millis: times(self.cpu_millis),
            memory_bytes: times(self.memory_bytes),
            ..Amounts::default()
        }
    }
}

/// What all versions under way reserve: an environment counts once, with the largest of its versions, because the new
/// one takes the old one's place. What was superseded and woken takes nobody's place, and counts beside it.
pub(crate) fn sum(versions: &[Reserved]) -> Amounts {
    let mut environments: HashMap<EnvironmentId, Amounts> = HashMap::new();
    let (beside, in_place): (Vec<&Reserved>, Vec<&Reserved>) = versions.iter().partition(|one| one.beside);
    for version in in_place {
        let (most, one) = (
            environments.entry(version.environment).or_default(),
            version.amounts(),
        );
        most.tasks = most.tasks.max(one.tasks);
        most.cpu_millis = most.cpu_millis.max(one.cpu_millis);
        most.memory_bytes = most.memory_bytes.max(one.memory_bytes);
    }
    let beside = beside.into_iter().map(Reserved::amounts);
    environments
        .into_values()
        .chain(beside)
        .fold(Amounts::default(), |sum, one| Amounts {
            tasks: sum.tasks.saturating_add(one.tasks),
            cpu_millis: sum.cpu_millis.saturating_add(one.cpu_millis),
            memory_bytes: sum.memory_bytes.saturating_add(one.memory_bytes),
            ..sum
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_counts_once_with_its_largest_version() {
        let (a, b) = (EnvironmentId::new(), EnvironmentId::new());
        let version = |environment, replicas, cpu_millis, memory_bytes| Reserved {
            environment,
            beside: false,
            replicas,
            cpu_millis,
            memory_bytes,
        };
        let sum = sum(&[version(a, 2, 100, 7), version(a, 1, 500, 1), version(b, 3, 10, 1)]);
        assert_eq!((sum.tasks, sum.cpu_millis, sum.memory_bytes), (5, 530, 17));
    }

    #[test]
    fn what_was_superseded_and_woken_counts_beside_what_serves() {
        let environment = EnvironmentId::new();
        let version = |beside, replicas| Reserved {
            environment,
            beside,
            replicas,
            cpu_millis: 10,
            memory_bytes: 1,
        };
        let sum = sum(&[version(false, 3), version(true, 1), version(true, 1)]);
        assert_eq!((sum.tasks, sum.cpu_millis, sum.memory_bytes), (5, 50, 5));
    }

    #[test]
    fn only_what_grows_beyond_the_limit_is_refused() {
        let tasks = |tasks| Amounts {
            tasks,
            ..Amounts::default()
        };
        let check = |most, before, after| {
            exceeded(Resource::Work, &tasks(most), &tasks(before), &tasks(after)).is_some()
        };
        assert!(check(5, 5, 6) && check(5, 8, 9));
        assert!(!check(5, 4, 5) && !check(5, 9, 8) && !check(5, 9, 9) && !check(0, 9, 10));
    }
}
