//! Short-lived signed tokens (HS256) that name the caller and the audience.
//!
//! Services sign with the service key; an agent and the scheduler, about one node, with that node's key.
//! Login tokens of people are the API's own.

use crate::key::{NodeKey, ServiceKey, node_key};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};
use zectre_common::id::NodeId;

/// How long a token holds. Long enough for clocks that differ by a minute, short enough to be worthless soon.
pub const TOKEN_TTL_SECS: u64 = 300;
/// How far clocks may differ.
const LEEWAY_SECS: u64 = 60;

/// The names of the services, as callers and audiences.
pub mod name {
    #![expect(missing_docs, reason = "the names say it")]
    pub const API: &str = "zectre-api";
    pub const SCHEDULER: &str = "zectre-scheduler";
    pub const AGENT: &str = "zectre-agent";
    pub const PROXY: &str = "zectre-proxy";
    pub const REGISTRY: &str = "zectre-registry";
    pub const BUILD: &str = "zectre-build";
    pub const CLI: &str = "zectre-cli";
}

/// The token is refused; which rule it broke goes to the log, not to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, wrongly signed, expired, or for someone else.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// A good token of a caller that may not do this.
    #[error("{0} may not call this")]
    Caller(String),
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeId>,
}

fn unix_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn mint(key: &[u8], caller: &str, audience: &str, node: Option<NodeId>) -> String {
    let now = unix_secs();
    let claims = Claims {
        iss: caller.into(),
        aud: audience.into(),
        iat: now,
        exp: now + TOKEN_TTL_SECS,
        node,
    };
    jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(key),
    )
    .expect("plain claims are valid JSON, and HS256 takes any key")
}

fn verify(key: &[u8], token: &str, audience: &str) -> Result<Claims, TokenError> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "aud", "iss"]);
    validation.leeway = LEEWAY_SECS;
    jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(key), &validation)
        .map(|data| data.claims)
        .map_err(|error| TokenError::Invalid(error.to_string()))
}

/// A token with which the service `caller` calls the service `audience`.
pub fn mint_service(key: &ServiceKey, caller: &str, audience: &str) -> String {
    mint(key.expose(), caller, audience, None)
}

/// Who calls the service `audience`, if it is one of `callers`.
pub fn verify_service(
    key: &ServiceKey,
    token: &str,
    audience: &str,
    callers: &[&str],
) -> Result<String, TokenError> {
    let claims = verify(key.expose(), token, audience)?;
    if callers.contains(&claims.iss.as_str()) {
        Ok(claims.iss)
    } else {
        Err(TokenError::Caller(claims.iss))
    }
}

/// A token about one node: by its agent (`caller` = `zectre-agent`) or to it (`audience` = `zectre-agent`).
pub fn mint_node(key: &NodeKey, node: NodeId, caller: &str, audience: &str) -> String {
    mint(key.expose(), caller, audience, Some(node))
}

/// Which node's agent calls the service `audience`. The key follows from the node that the token names,
/// and a token that names another node than the one it was signed for does not verify.
pub fn verify_node(key: &ServiceKey, token: &str, audience: &str) -> Result<NodeId, TokenError> {
    let unverified = jsonwebtoken::dangerous::insecure_decode::<Claims>(token)
        .map_err(|error| TokenError::Invalid(error.to_string()))?;
    let node = unverified
        .claims
        .node
        .ok_or_else(|| TokenError::Invalid("it names no node".into()))?;
    let claims = verify(node_key(key, node).expose(), token, audience)?;
    if claims.iss != name::AGENT {
        return Err(TokenError::Caller(claims.iss));
    }
    Ok(node)
}

/// On the node: whether the scheduler says this to exactly this node.
pub fn verify_for_node(key: &NodeKey, node: NodeId, token: &str) -> Result<(), TokenError> {
    let claims = verify(key.expose(), token, name::AGENT)?;
    if claims.iss != name::SCHEDULER || claims.node != Some(node) {
        return Err(TokenError::Caller(claims.iss));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KEY_BYTES;

    fn key() -> ServiceKey {
        ServiceKey::from_bytes([1; KEY_BYTES])
    }

    #[test]
    fn a_token_is_good_for_its_caller_and_audience_only() {
        let token = mint_service(&key(), name::PROXY, name::API);
        assert_eq!(
            verify_service(&key(), &token, name::API, &[name::PROXY]).as_deref(),
            Ok(name::PROXY)
        );
        assert!(matches!(
            verify_service(&key(), &token, name::REGISTRY, &[name::PROXY]),
            Err(TokenError::Invalid(_))
        ));
        assert!(matches!(
            verify_service(&key(), &token, name::API, &[name::BUILD]),
            Err(TokenError::Caller(_))
        ));
        let other = ServiceKey::from_bytes([2; KEY_BYTES]);
        assert!(verify_service(&other, &token, name::API, &[name::PROXY]).is_err());
    }

    #[test]
    fn a_node_can_speak_for_itself_only() {
        let (mine, other) = (NodeId::new(), NodeId::new());
        let my_key = node_key(&key(), mine);
        let token = mint_node(&my_key, mine, name::AGENT, name::SCHEDULER);
        assert_eq!(verify_node(&key(), &token, name::SCHEDULER), Ok(mine));
        let forged = mint_node(&my_key, other, name::AGENT, name::SCHEDULER);
        assert!(verify_node(&key(), &forged, name::SCHEDULER).is_err());
        assert!(verify_service(&key(), &token, name::SCHEDULER, &[name::AGENT]).is_err());
    }

    #[test]
    fn an_agent_obeys_the_scheduler_only() {
        let node = NodeId::new();
        let node_key = node_key(&key(), node);
        let order = mint_node(&node_key, node, name::SCHEDULER, name::AGENT);
        assert_eq!(verify_for_node(&node_key, node, &order), Ok(()));
        let own = mint_node(&node_key, node, name::AGENT, name::AGENT);
        assert!(verify_for_node(&node_key, node, &own).is_err());
        assert!(verify_for_node(&node_key, NodeId::new(), &order).is_err());
    }
}
