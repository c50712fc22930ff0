//! Custom domains of an application.

use crate::{
    id::CustomDomainId,
    state::{DomainProof, DomainState},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the TXT record of a claim says before its token.
pub const TXT_PREFIX: &str = "zectre-verification=";
/// The page of a claim is at `http://{domain}` and this, then the token, which it holds too.
pub const PAGE_PREFIX: &str = "/.well-known/zectre-verification/";

/// `POST /apps/{id}/custom-domains`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCustomDomainRequest {
    /// A host name, such as `shop.example.com`.
    pub domain: String,
    /// Slug of the environment that it leads to; default `production`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
}

/// A custom domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CustomDomain {
    /// The id of the claim.
    pub id: CustomDomainId,
    /// Lower case; names in other scripts as their A-label (`xn--…`).
    pub domain: String,
    /// Slug of the environment that it leads to.
    pub environment: String,
    /// Only a verified one leads anywhere.
    pub state: DomainState,
    /// How it was verified.
    pub proof: Option<DomainProof>,
    /// Where it answers, once it is verified.
    pub url: String,
    /// What it is served with over TLS.
    #[serde(default)]
    pub certificate: DomainCertificate,
    /// The application's own host name: let the domain be a CNAME of it (or point at the same addresses).
    pub target: String,
    /// What to set; none once it is verified.
    pub verification: Option<DomainVerification>,
    /// What the last look found instead.
    pub problem: Option<String>,
    /// When it was last looked.
    pub checked_at: Option<Time>,
    /// When it was verified.
    pub verified_at: Option<Time>,
    /// When the claim is forgotten unless it is verified by then.
    pub expires_at: Option<Time>,
    /// When it was claimed.
    pub created_at: Time,
}

/// How far the certificate of a name is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateState {
    /// There is none: the name is not verified yet, or the cluster orders none.
    #[default]
    None,
    /// It is on its way.
    Ordered,
    /// There is one.
    Valid,
    /// The last try came to nothing; another one follows.
    Failed,
}

/// The certificate that the proxies ordered for a name. (One from a file of an operator's is not known here.)
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainCertificate {
    /// How far it is.
    pub state: CertificateState,
    /// When the one there is ends; it is renewed before.
    #[serde(default)]
    pub valid_until: Option<Time>,
    /// Why the last order came to nothing; a valid certificate whose renewal fails has one, too.
    #[serde(default)]
    pub problem: Option<String>,
}

/// How to show that a domain is yours: one of these is enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainVerification {
    /// A record in its zone.
    pub dns: DnsRecord,
    /// A page at the name itself; none where the cluster takes records only. The proxies of the cluster answer it for a
    /// domain that points at them and that nobody else claims.
    pub http: Option<DomainPage>,
}

/// A DNS record to set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsRecord {
    /// `TXT`
    pub kind: String,
    /// Its full name.
    pub name: String,
    /// Its text.
    pub value: String,
}

/// A page to put up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainPage {
    /// Where it is looked for; redirects are not followed.
    pub url: String,
    /// Its whole text.
    pub text: String,
}
