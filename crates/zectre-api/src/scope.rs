//! What an API key with scopes may do. A pure decision, made before anything is looked up: so its answer says nothing
//! about what there is.

use crate::{
    code,
    error::{Error, refuse},
    identity::Credential,
    policy::Policy,
};
use zectre_common::state::{Role, Scope};

/// The most that a key with scopes may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cap {
    /// The highest role that it acts with, in whatever organization.
    role: Option<Role>,
    /// Whether it manages the cluster for its owner.
    pub(crate) cluster: bool,
}

impl Cap {
    /// Of a key's scopes as stored. One without any does everything; a scope of a later version does nothing here.
    pub(crate) fn of(stored: &[String]) -> Option<Self> {
        if stored.is_empty() {
            return None;
        }
        let scopes: Vec<Scope> = stored.iter().filter_map(|scope| scope.parse().ok()).collect();
        let role = |scope: &Scope| match scope {
            Scope::Read => Some(Role::Viewer),
            Scope::Deploy => Some(Role::Developer),
            Scope::Manage => Some(Role::Admin),
            Scope::Cluster => None,
        };
        Some(Self {
            role: scopes.iter().filter_map(role).max(),
            cluster: scopes.contains(&Scope::Cluster),
        })
    }

    /// Whether it may call an endpoint of this policy at all.
    pub(crate) fn allows(self, policy: Policy) -> bool {
        match policy {
            Policy::Public | Policy::User => true,
            Policy::Account | Policy::TaskAgent => false,
            Policy::ClusterAdmin => self.cluster,
            Policy::Member(least) | Policy::Owned(least, _) | Policy::OwnedOrService(least, _, _) => {
                self.role >= Some(least)
            }
        }
    }

    /// The role it acts with, of one that its owner has.
    pub(crate) fn lower(self, role: Role) -> Option<Role> {
        self.role.map(|most| most.min(role))
    }
}

/// Refuses to make an admin of the cluster, or set the password of one, with what may not do everything for as long as its owner
/// may: by a login as an admin it could.
pub(crate) fn may_make_admins(credential: &Credential) -> Result<(), Error> {
    if credential.cap().is_none() && credential.keys_until().is_none() {
        return Ok(());
    }
    Err(refuse(
        &code::INSUFFICIENT_SCOPE,
        "an API key with scopes, or that ends, makes no admin of the cluster and resets no admin's password; log in with e-mail and \
         password, or use a key with neither",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Thing;

    #[test]
    fn a_scope_allows_its_role_and_no_more() {
        let cap = |scopes: &[&str]| {
            let scopes: Vec<String> = scopes.iter().map(|&scope| scope.to_owned()).collect();
            Cap::of(&scopes)
        };
        assert_eq!(cap(&[]), None);
        for (scopes, most, cluster) in [
            (&["read"][..], Some(Role::Viewer), false),
            (&["read", "deploy"], Some(Role::Developer), false),
            (&["manage", "read"], Some(Role::Admin), false),
            (&["cluster"], None, true),
            (&["cluster", "read"], Some(Role::Viewer), true),
            (&["something later"], None, false),
        ] {
            let cap = cap(scopes).expect("has scopes");
            for &least in Role::ALL {
                let expected = most.is_some_and(|most| most >= least);
                for policy in [Policy::Member(least), Policy::Owned(least, Thing::App)] {
                    assert_eq!(cap.allows(policy), expected, "{scopes:?} {policy:?}");
                }
            }
            assert_eq!(cap.allows(Policy::ClusterAdmin), cluster, "{scopes:?}");
            assert!(
                cap.allows(Policy::User) && !cap.allows(Policy::Account),
                "{scopes:?}"
            );
            assert_eq!(cap.lower(Role::Owner), most);
        }
    }
}
