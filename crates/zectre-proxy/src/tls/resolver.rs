//! Which certificate a name gets: one for exactly this name, else one for all names beside it (`*.`), else the
//! platform's own, so that a visitor of an unknown name gets an answer and not a broken handshake.
//!
//! Where several are for one name, files go before what is stored, and that before a self-signed one; among equals
//! the one that lasts longest.

use super::Certificate;
use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Where a certificate comes from; the first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Files that the configuration names.
    Files,
    /// PostgreSQL.
    Stored,
    /// Made at the start.
    SelfSigned,
}

/// All of them.
pub const ORIGINS: [Origin; 3] = [Origin::Files, Origin::Stored, Origin::SelfSigned];

/// Certificates by name.
#[derive(Debug, Default)]
struct Book {
    exact: HashMap<Box<str>, Arc<Certificate>>,
    /// By what stands behind `*.`.
    wildcard: HashMap<Box<str>, Arc<Certificate>>,
    fallback: Option<Arc<Certificate>>,
}

impl Book {
    /// `shelves` in the order they go in.
    fn new(shelves: &[Vec<Arc<Certificate>>], platform_domain: &str) -> Self {
        let mut book = Self::default();
        for shelf in shelves {
            let mut longest: Vec<_> = shelf.iter().collect();
            longest.sort_by_key(|certificate| Reverse(certificate.not_after));
            for certificate in longest {
                for name in &certificate.names {
                    let (map, name) = match name.strip_prefix("*.") {
                        Some(parent) => (&mut book.wildcard, parent),
                        None => (&mut book.exact, name.as_str()),
                    };
                    map.entry(name.into()).or_insert_with(|| Arc::clone(certificate));
                }
            }
        }
        book.fallback = book
            .wildcard
            .get(platform_domain)
            .or_else(|| book.exact.get(platform_domain))
            .cloned();
        book
    }

    fn find(&self, name: &str) -> Option<&Arc<Certificate>> {
        self.exact.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        })
    }
}

/// The certificates that are served now.
#[derive(Debug)]
pub struct Resolver {
    book: ArcSwap<Book>,
    shelves: Mutex<[Vec<Arc<Certificate>>; ORIGINS.len()]>,
    platform_domain: String,
}

impl Resolver {
    /// None yet.
    pub fn new(platform_domain: &str) -> Self {
        Self {
            book: ArcSwap::default(),
            shelves: Mutex::default(),
            platform_domain: platform_domain.to_owned(),
        }
    }

    /// From now on `certificates` are all that there are of `origin`.
    pub fn replace(&self, origin: Origin, certificates: Vec<Arc<Certificate>>) {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        shelves[origin as usize] = certificates;
        self.book
            .store(Arc::new(Book::new(&*shelves, &self.platform_domain)));
    }

    /// How many there are of `origin`, and the fewest days that one of them has left.
    pub fn survey(&self, origin: Origin) -> (usize, Option<f64>) {
        let shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = &shelves[origin as usize];
        let first = shelf.iter().min_by_key(|certificate| certificate.not_after);
        (shelf.len(), first.map(|certificate| certificate.days_left()))
    }

    /// The certificate for `name` (lower case), if any is for it.
    pub fn find(&self, name: &str) -> Option<Arc<Certificate>> {
        self.book.load().find(name).cloned()
    }

    /// What a client that asks for `name` is shown.
    pub fn shown(&self, name: Option<&str>) -> Option<Arc<Certificate>> {
        let book = self.book.load();
        name.and_then(|name| book.find(name))
            .or(book.fallback.as_ref())
            .cloned()
    }

    /// Whether a request for `host` may come on a connection that was made for `server_name`: the client was shown
    /// a certificate that is the one for `host`, too. A client that named nobody may ask for anybody.
    pub fn may_ask(&self, server_name: Option<&str>, host: &str) -> bool {
        let Some(server_name) = server_name else {
            return true;
        };
        if server_name == host {
            return true;
        }
        match (self.shown(Some(server_name)), self.shown(Some(host))) {
            (Some(shown), Some(wanted)) => Arc::ptr_eq(&shown, &wanted),
            _ => false,
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has made it lower case.
        Some(Arc::clone(&self.shown(hello.server_name())?.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn made(names: &[String], year: i32) -> Arc<Certificate> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).expect("signed");
        let read = Certificate::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
        Arc::new(read.expect("usable"))
    }

    fn one(name: &str, year: i32) -> Arc<Certificate> {
        made(&[name.to_owned()], year)
    }

    fn is(found: Option<&Arc<Certificate>>, wanted: &Arc<Certificate>) -> bool {
        found.is_some_and(|found| Arc::ptr_eq(found, wanted))
    }

    #[test]
    fn exact_then_wildcard_then_the_platforms_own() {
        let resolver = Resolver::new("zectre.test");
        assert!(resolver.shown(Some("a.test")).is_none());
        let (exact, wild, own) = (
            one("a.test", 2050),
            one("*.test", 2050),
            one("*.zectre.test", 2050),
        );
        resolver.replace(Origin::SelfSigned, vec![Arc::clone(&own)]);
        resolver.replace(Origin::Files, vec![Arc::clone(&wild)]);
        resolver.replace(Origin::Stored, vec![Arc::clone(&exact)]);
        for (name, wanted) in [
            ("a.test", &exact),
            ("b.test", &wild),
            ("b.a.test", &own),
            ("x.zectre.test", &own),
            ("zectre.test", &wild),
            ("elsewhere", &own),
        ] {
            assert!(is(resolver.shown(Some(name)).as_ref(), wanted), "{name}");
        }
        assert!(is(resolver.shown(None).as_ref(), &own));
        assert!(resolver.find("elsewhere").is_none());
    }

    #[test]
    fn files_go_before_what_is_stored_and_the_longest_life_before_others() {
        let resolver = Resolver::new("zectre.test");
        let (short, long, file) = (one("a.test", 2040), one("a.test", 2050), one("a.test", 2030));
        resolver.replace(Origin::Stored, vec![Arc::clone(&short), Arc::clone(&long)]);
        assert!(is(resolver.find("a.test").as_ref(), &long));
        resolver.replace(Origin::Files, vec![Arc::clone(&file)]);
        assert!(is(resolver.find("a.test").as_ref(), &file));
        resolver.replace(Origin::Files, Vec::new());
        resolver.replace(Origin::Stored, vec![short]);
        assert!(resolver.survey(Origin::Stored).1.expect("one") > 0.0);
        assert_eq!(resolver.survey(Origin::Files), (0, None));
    }

    #[test]
    fn a_connection_is_for_the_names_of_its_certificate() {
        let resolver = Resolver::new("zectre.test");
        resolver.replace(Origin::SelfSigned, vec![one("*.zectre.test", 2050)]);
        resolver.replace(
            Origin::Stored,
            vec![
                made(&["a.test".into(), "www.a.test".into()], 2050),
                one("b.test", 2050),
            ],
        );
        for (server_name, host, may) in [
            (Some("a.test"), "a.test", true),
            (Some("a.test"), "www.a.test", true),
            (Some("a.test"), "b.test", false),
            (Some("a.test"), "x.zectre.test", false),
            (Some("y.zectre.test"), "x.zectre.test", true),
            (Some("elsewhere"), "elsewhere", true),
            (Some("elsewhere"), "a.test", false),
            (None, "a.test", true),
        ] {
            assert_eq!(resolver.may_ask(server_name, host), may, "{server_name:?} {host}");
        }
    }

    /// A lookup is two hashes, however many names there are; a walk over them all would take minutes here.
    #[test]
    fn a_hundred_thousand_names_are_looked_up_at_once() {
        let names: Vec<_> = (0..100_000).map(|n| format!("app-{n}.test")).collect();
        let template = one("template.test", 2050);
        let shelf = names
            .iter()
            .map(|name| {
                Arc::new(Certificate {
                    key: Arc::clone(&template.key),
                    names: vec![name.clone()],
                    not_before: template.not_before,
                    not_after: template.not_after,
                })
            })
            .collect();
        let resolver = Resolver::new("zectre.test");
        resolver.replace(Origin::Stored, shelf);
        let began = std::time::Instant::now();
        for name in &names {
            assert_eq!(resolver.find(name).expect("there").names, [name.as_str()]);
        }
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }
}
