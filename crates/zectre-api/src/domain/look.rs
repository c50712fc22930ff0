//! Asks DNS for a claim's TXT record, and the name itself for its page.
//!
//! The page's host is whatever a claimant says: it is asked at public addresses only, at the very address that was
//! resolved, without following it anywhere, and no more is read than a token has.

use super::proof;
use crate::store::custom_domain::Claim;
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};
use zectre_common::{
    config::{DomainVerification, DomainsConfig},
    state::DomainProof,
};

/// For all questions to DNS of one look.
const DNS_TIMEOUT: Duration = Duration::from_secs(6);
/// For one answer of a DNS server; then it is asked once more.
const DNS_ATTEMPT: Duration = Duration::from_millis(2_500);
/// For the page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of a page: a token has 32 characters.
const PAGE_BYTES_MAX: usize = 256;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Looks at once.
const LOOKS_MAX: usize = 16;

/// Looks for proofs.
pub(crate) struct Looker {
    verification: DomainVerification,
    dns_server: Option<SocketAddr>,
    http_port: u16,
    private_addresses: bool,
    slots: Semaphore,
}

impl Looker {
    /// As the configuration says.
    pub(crate) fn new(config: &DomainsConfig) -> Self {
        Self {
            verification: config.verification,
            dns_server: config.dns_server.parse().ok(),
            http_port: config.http_port,
            private_addresses: config.private_addresses,
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
        let resolver = self.resolver()?;
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
        let addresses = timeout(DNS_TIMEOUT, self.addresses(resolver, &claim.domain))
            .await
            .map_err(|_| format!("DNS did not tell the address of `{}` in time", claim.domain))??;
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

    async fn addresses(&self, resolver: &TokioResolver, domain: &str) -> Result<Vec<IpAddr>, String> {
        let found = resolver
            .lookup_ip(format!("{domain}."))
            .await
            .map_err(|error| match error {
                error if error.is_no_records_found() => format!("`{domain}` has no address"),
                error => format!(
                    "DNS does not tell the address of `{domain}` ({})",
                    dns_problem(&error)
                ),
            })?;
        let all: Vec<_> = found.iter().collect();
        let usable: Vec<_> = all
            .iter()
            .copied()
            .filter(|address| self.private_addresses || proof::is_public(*address))
            .take(ADDRESSES_MAX)
            .collect();
        if usable.is_empty() {
            let first = all.first().map_or_else(|| "nothing".into(), ToString::to_string);
            return Err(format!(
                "`{domain}` points at {first}, which is no public address and so not asked (domains.private_addresses)"
            ));
        }
        Ok(usable)
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        // Made for each look: what the machine's configuration says now counts, and nothing is remembered.
        let mut builder = match self.dns_server {
            None => Resolver::builder_tokio()
                .map_err(|error| format!("the API's machine has no usable DNS configuration ({error})"))?,
            Some(server) => {
                let mut asked = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut asked.connections {
                    connection.port = server.port();
                }
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![asked]);
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.timeout = DNS_ATTEMPT;
        options.attempts = 1;
        options.cache_size = 0;
        builder
            .build()
            .map_err(|error| format!("the API can't ask DNS ({error})"))
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

fn dns_problem(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no server answered".into(),
        NetError::NoConnections => "no server can be reached".into(),
        error => error.to_string(),
    }
}
