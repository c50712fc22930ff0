//! The trust in a catalog is whole or not at all, and what it is read from can't be spoken for by others.

use super::AuthConfig;

impl AuthConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        let catalog = [
            ("auth.catalog_jwks_url", &self.catalog_jwks_url),
            ("auth.jwt_expected_iss", &self.jwt_expected_iss),
            ("auth.jwt_expected_aud", &self.jwt_expected_aud),
        ];
        let named = |is_set: bool| {
            let these = catalog.iter().filter(|(_, value)| value.is_empty() != is_set);
            these.map(|(key, _)| *key).collect::<Vec<_>>()
        };
        let (set, unset) = (named(true), named(false));
        if !set.is_empty() && !unset.is_empty() {
            return Err(format!(
                "a catalog is trusted by three keys, set all three or none: {} is set, {} is empty",
                set.join(" and "),
                unset.join(" and ")
            ));
        }
        let url = &self.catalog_jwks_url;
        let host = ["https://", "http://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        if !url.is_empty() && host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            return Err(format!(
                "auth.catalog_jwks_url `{url}` is not a URL, such as https://catalog.example.com/.well-known/jwks.json"
            ));
        }
        if url.starts_with("http://") && !is_loopback(url) {
            return Err(format!(
                "auth.catalog_jwks_url `{url}` must begin with https://: whoever sits on the way to it could put keys of their \
                 own there and be anybody (http:// is for a catalog on this machine)"
            ));
        }
        let [issuer, audience] =
            [&self.jwt_expected_iss, &self.jwt_expected_aud].map(|text| text.trim_end_matches('/'));
        if !url.is_empty() && audience == issuer {
            return Err(format!(
                "auth.jwt_expected_aud `{}` is the catalog itself: tokens for that carry all of a person's organizations, not just \
                 this cluster's, so anyone could make themselves an owner here; set the audience that the catalog gave this cluster",
                self.jwt_expected_aud
            ));
        }
        if let Some(wrong) = self
            .catalog_organizations
            .iter()
            .find(|slug| !crate::spec::valid_slug(slug))
        {
            return Err(format!(
                "auth.catalog_organizations: `{wrong}` is not an organization's slug"
            ));
        }
        Ok(())
    }
}

/// Whether what is asked at an `http://` URL never leaves this machine.
fn is_loopback(url: &str) -> bool {
    let host = url
        .parse::<http::Uri>()
        .ok()
        .and_then(|url| url.host().map(str::to_owned));
    host.is_some_and(|host| {
        let bare = host.trim_matches(['[', ']']);
        bare == "localhost"
            || bare
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn the_catalog_is_set_wholly_or_not_at_all() {
        let error = Config::load_with(None, "[auth]\njwt_expected_iss = \"x\"").expect_err("one of three");
        let said = error.to_string();
        assert!(
            said.contains("all three or none: auth.jwt_expected_iss is set"),
            "{said}"
        );
        assert!(
            said.contains("auth.catalog_jwks_url and auth.jwt_expected_aud is empty"),
            "{said}"
        );
        let all = "[auth]\njwt_expected_iss = \"x\"\njwt_expected_aud = \"y\"\ncatalog_jwks_url = ";
        let error = Config::load_with(None, &format!("{all}\"catalog\"")).expect_err("no URL");
        assert!(error.to_string().contains("is not a URL"), "{error}");
        for (url, is_taken) in [
            ("https://catalog:1/jwks", true),
            ("http://127.0.0.1:1/jwks", true),
            ("http://[::1]:1/jwks", true),
            ("http://localhost/jwks", true),
            ("http://catalog:1/jwks", false),
            ("http://127.0.0.1@catalog/jwks", false),
        ] {
            let loaded = Config::load_with(None, &format!("{all}\"{url}\""));
            let said = loaded.as_ref().err().map(ToString::to_string);
            assert_eq!(loaded.is_ok(), is_taken, "{url} {said:?}");
            assert!(said.is_none_or(|said| said.contains("must begin with https://")));
        }
        let itself = "[auth]\njwt_expected_iss = \"https://c\"\njwt_expected_aud = \"https://c/\"\ncatalog_jwks_url = \"https://c/jwks\"";
        let error = Config::load_with(None, itself).expect_err("the catalog's own");
        assert!(error.to_string().contains("is the catalog itself"), "{error}");
    }
}
