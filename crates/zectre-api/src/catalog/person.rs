//! From a believed token to an account here: made at its first login, kept up by later ones.
//!
//! What a catalog gives is marked with its issuer: roles in organizations that it made (or that `auth.catalog_organizations`
//! names), and nothing else. It never makes an admin, never touches what someone here gave, and never takes over an account that
//! has the same e-mail address.

use super::{Catalog, verify::Claims};
use crate::{
    code,
    context::Context,
    error::{Error, refuse},
    identity::{Actor, Credential, Person, enabled},
    store::{
        account, catalog,
        change::{About, Change},
        member,
    },
};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zectre_common::{id::UserId, time::Time};

/// The person of a token that holds at `as_of`.
pub(crate) async fn sign_in(
    context: &Context,
    trusted: &Catalog,
    token: &str,
    as_of: Time,
) -> Result<Person, Error> {
    let claims = trusted.claims(&context.pool, token, as_of).await?;
    let issuer = &trusted.expected.issuer;
    let known = catalog::standing(&context.pool, issuer, &claims.subject).await?;
    if let Some(known) = &known {
        admit(known, &claims)?;
    }
    let id = match known {
        Some(known) if !is_news(&known, &claims) => known.user_id,
        _ => take_up(context, trusted, &claims).await?,
    };
    let token_id = token_id(issuer, &claims.token_id);
    let account = account::by_login(&context.pool, id, token_id).await?;
    let account = account.ok_or_else(ended)?;
    enabled(account.disabled)?;
    Ok(account.into_person(Credential::Login {
        token_id,
        expires_at: claims.expires_at,
    }))
}

/// Refuses a disabled account, and a token from before all logins of the person were ended: nothing of it is taken up.
///
/// Tokens tell whole seconds, so one of the second in which that happened is refused too.
fn admit(known: &catalog::Standing, claims: &Claims) -> Result<(), Error> {
    enabled(known.disabled)?;
    match known.logins_ended_at {
        Some(ended_at) if claims.issued_at <= ended_at => Err(ended()),
        _ => Ok(()),
    }
}

fn ended() -> Error {
    refuse(
        &code::UNAUTHENTICATED,
        "the login has ended; sign in at the catalog again",
    )
}

/// Whether the token says more than what was taken up; an older one never does.
fn is_news(known: &catalog::Standing, claims: &Claims) -> bool {
    let taken = (known.issued_at, known.claims.as_deref());
    let hash = hash(claims);
    match taken {
        (Some(issued_at), Some(taken)) => {
            claims.issued_at > issued_at || (claims.issued_at == issued_at && taken != hash)
        }
        _ => true,
    }
}

/// The SHA-256 of what is taken up of a token.
fn hash(claims: &Claims) -> [u8; 32] {
    let said = serde_json::json!([claims.email, claims.email_verified, claims.name, claims.orgs]);
    Sha256::digest(said.to_string().as_bytes()).into()
}

/// The id by which a token is revoked: the catalog's ids may have any form.
fn token_id(issuer: &str, id: &str) -> Uuid {
    let hash: [u8; 32] = Sha256::digest(format!("{issuer}\n{id}").as_bytes()).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Makes the account, or takes up what changed of it.
async fn take_up(context: &Context, trusted: &Catalog, claims: &Claims) -> Result<UserId, Error> {
    let issuer = &trusted.expected.issuer;
    let actor = Actor {
        name: "catalog".into(),
        ..Actor::platform()
    };
    let mut change = Change::begin(&context.pool, &actor).await?;
    let made = claims.email_verified
        && catalog::insert_user(change.connection(), UserId::new(), claims, issuer).await?;
    // Held from here on: of two logins at once the second one sees what the first one did.
    let known = catalog::hold(change.connection(), issuer, &claims.subject).await?;
    let known = known.ok_or_else(|| refuse_account(claims))?;
    admit(&known, claims)?;
    if made {
        let message = format!("{} came from the catalog {issuer}", claims.email);
        change.event("user.created", About::default(), &message).await?;
    } else if !is_news(&known, claims) {
        return Ok(known.user_id);
    }
    let user = known.user_id;
    catalog::update_user(change.connection(), user, claims, &hash(claims)).await?;
    let mut given = Vec::with_capacity(claims.orgs.len());
    // In one order: two people who come at once hold the same organizations.
    let mut orgs: Vec<_> = claims.orgs.iter().collect();
    orgs.sort_by(|a, b| a.slug.cmp(&b.slug));
    for org in orgs {
        let place = catalog::organization(change.connection(), &org.slug, &org.name, issuer).await?;
        let is_its = place.issuer.as_deref() == Some(issuer) || trusted.shared.contains(&org.slug);
        let about = About::organization(place.id);
        if !is_its {
            tracing::info!(
                organization = org.slug,
                user = claims.email,
                "the catalog gives no role in an organization of this cluster"
            );
            continue;
        }
        if place.is_new {
            let message = format!("the catalog {issuer} made the organization {}", org.slug);
            change.event("organization.created", about, &message).await?;
        }
        given.push(place.id);
        if catalog::is_settled(change.connection(), place.id, user, org.role, issuer).await? {
            continue;
        }
        // Who changes members does one after the other.
        member::hold(change.connection(), place.id).await?;
        if catalog::grant(change.connection(), place.id, user, org.role, issuer).await? {
            let message = format!("{} is {} by the catalog", claims.email, org.role);
            change.event("member.changed", about, &message).await?;
        }
    }
    for organization in catalog::withdraw(change.connection(), user, issuer, &given).await? {
        let message = format!("the catalog does not count {} as a member any more", claims.email);
        let about = About::organization(organization);
        change.event("member.removed", about, &message).await?;
    }
    change.commit().await?;
    Ok(user)
}

fn refuse_account(claims: &Claims) -> Error {
    let email = &claims.email;
    refuse(
        &code::CATALOG_ACCOUNT_REFUSED,
        if claims.email_verified {
            format!(
                "an account of this cluster has the address {email} already, and is not taken for yours because of that. Log in \
                 to it with its own password, or let an admin of the cluster give it another address or you another one at the \
                 catalog"
            )
        } else {
            format!(
                "the catalog has not verified that {email} is yours; verify the address there, and log in again"
            )
        },
    )
}
