//! Asks DNS for a claim's TXT record, and the name itself for its page.
//!
//! The page's host is whatever a claimant says: it is asked at public addresses only, at the very address that was
//! resolved, without following it anywhere, and no more is read than a token has.

use super::proof;
use crate::{
    outside::resolve::{DNS_TIMEOUT, Names, dns_problem},
    store::custom_domain::Claim,
};
use hickory_resolver::{TokioResolver, proto::rr::RData};
use std::{net::SocketAddr, time::Duration};
use tokio::{sync::Semaphore, time::timeout};
use zectre_common::{
    config::{DomainVerification, DomainsConfig},
    state::DomainProof,
};

/// For the page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of a page: a token has 32 characters.
const PAGE_BYTES_MAX: usize = 256;
/// Looks at once.
const LOOKS_MAX: usize = 16;

/// Looks for proofs.
pub(crate) struct Looker {
    verification: DomainVerification,
    names: Names,
    http_port: u16,
    slots: Semaphore,
}

impl Looker {
    /// As the configuration says.
    pub(crate) fn new(config: &DomainsConfig) -> Self {
        Self {
            verification: config.verification,
            names: Names::new(&config.dns_server, config.private_addresses),
            http_port: config.http_port,
            slots: Semaphore::new(LOOKS_MAX),
        }
    }

    /// Whether claims are taken at their word.
    pub(crate) fn asks_nothing(&self) -> bool {
        self.verification == DomainVerification::Off
    }

    /// The port of pages, where they count.
    pub(crate) fn page_port(&self) -> Option<u16> {
        (self.verification == DomainVerification::Required).then_some(self.http_port)
    }

    /// What shows that the claim is right, or a sentence with what was found instead.
    pub(crate) async fn look(&self, claim: &Claim) -> Result<DomainProof, String> {
        if self.asks_nothing() {
            return Ok(DomainProof::None);
        }
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let resolver = self.names.resolver()?;
        let record = match timeout(DNS_TIMEOUT, self.record(&resolver, claim)).await {
            Ok(Ok(())) => return Ok(DomainProof::Dns),
            Ok(Err(problem)) => problem,
            Err(_) => "DNS did not answer in time".into(),
        };
        let Some(port) = self.page_port() else {
            return Err(format!("{record}: set the record, and try again"));
        };
        match self.page(&resolver, claim, port).await {
            Ok(()) => Ok(DomainProof::Http),
            Err(page) => Err(format!("{record}; {page}: set one of the two, and try again")),
        }
    }

    async fn record(&self, resolver: &TokioResolver, claim: &Claim) -> Result<(), String> {
        let name = proof::record_name(&claim.domain);
        // With its last dot: search domains of the machine have no say in whose name it is.
        let found = resolver
            .txt_lookup(format!("{name}."))
            .await
            .map_err(|error| match error {
                error if error.is_no_records_found() => format!("there is no TXT record `{name}`"),
                error => format!(
                    "DNS does not tell the TXT record `{name}` ({})",
                    dns_problem(&error)
                ),
            })?;
        let texts = found.answers().iter().filter_map(|record| match &record.data {
            RData::TXT(text) => Some(&*text.txt_data),
            _ => None,
        });
        if proof::record_holds(texts, &claim.token) {
            return Ok(());
        }
        Err(format!(
            "the TXT record `{name}` does not say `{}`",
            proof::record_value(&claim.token)
        ))
    }

    async fn page(&self, resolver: &TokioResolver, claim: &Claim, port: u16) -> Result<(), String> {
        let addresses = self
            .names
            .addresses(resolver, &claim.domain, "domains.private_addresses")
            .await?;
        let url = proof::page_url(&claim.domain, port, &claim.token);
        let sockets: Vec<_> = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        let page = timeout(PAGE_TIMEOUT, fetch(&url, &claim.domain, &sockets))
            .await
            .map_err(|_| format!("`{url}` did not answer in time"))?
            .map_err(|problem| format!("`{url}` {problem}"))?;
        if proof::page_holds(&page, &claim.token) {
            return Ok(());
        }
        Err(format!("`{url}` holds something else than the token"))
    }
}

/// The first bytes of the page at `url`, asked at one of the `sockets`.
async fn fetch(url: &str, domain: &str, sockets: &[SocketAddr]) -> Result<Vec<u8>, String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .resolve_to_addrs(domain, sockets)
        .connect_timeout(PAGE_TIMEOUT)
        .timeout(PAGE_TIMEOUT)
        .build()
        .map_err(|error| format!("can't be asked ({error})"))?;
    let mut response = client.get(url).send().await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        format!("does not answer ({cause})")
    })?;
    if response.status() != http::StatusCode::OK {
        return Err(format!("answers {}", response.status()));
    }
    let mut page = Vec::new();
    while page.len() < PAGE_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(bytes)) => page.extend_from_slice(&bytes[..bytes.len().min(PAGE_BYTES_MAX - page.len())]),
            Ok(None) => break,
            Err(_) => return Err("broke off".into()),
        }
    }
    Ok(page)
}
