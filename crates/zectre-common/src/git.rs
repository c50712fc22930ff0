//! Repositories: which URLs may be fetched, and how one repository is told from another. Pure.

/// The longest URL of a repository.
const URL_BYTES_MAX: usize = 512;
/// The longest branch, tag or commit.
const REF_BYTES_MAX: usize = 200;

/// Whether the URL names a repository below one of the `allowed` prefixes (`build.git_sources`).
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_repository(url: &str, allowed: &[String]) -> Result<(), String> {
    if url.len() > URL_BYTES_MAX {
        return Err(format!("at most {URL_BYTES_MAX} bytes"));
    }
    let Some((host, path)) = parts(url) else {
        return Err("not the URL of a repository: write it as https://github.com/owner/name".into());
    };
    if host.contains('@') {
        return Err("leave the credential out of the URL: it has a field of its own".into());
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/+".contains(&b);
    let climbs = path.split('/').any(|part| part == "." || part == "..");
    if !path.bytes().all(plain) || climbs {
        return Err("a repository's path has letters, digits and `-._~/+` only".into());
    }
    if allowed.iter().any(|prefix| url.starts_with(prefix.as_str())) {
        return Ok(());
    }
    Err(match allowed {
        [] => "this cluster builds from no repositories (build.git_sources)".into(),
        allowed => format!(
            "this cluster builds from repositories below {} only (build.git_sources)",
            allowed.join(", ")
        ),
    })
}

/// Host and path in one form, by which the same repository is known however its URL is written.
pub fn repository_key(url: &str) -> Option<String> {
    let (host, path) = parts(url)?;
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!path.is_empty()).then(|| format!("{host}/{path}").to_ascii_lowercase())
}

/// Host with port, and path.
fn parts(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, path) = rest.split_once('/')?;
    let known = matches!(scheme, "https" | "http" | "git");
    (known && !host.is_empty() && !path.is_empty()).then_some((host, path))
}

/// Whether the text may name a branch, a tag or a commit (a part of git's own rules, so that none is taken for an
/// option or an expression).
pub fn is_ref(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/+#".contains(&b);
    let part = |part: &str| {
        let suffix = part.rsplit_once('.').map(|(_, suffix)| suffix);
        !part.is_empty() && !part.starts_with(['-', '.']) && !part.ends_with('.') && suffix != Some("lock")
    };
    (1..=REF_BYTES_MAX).contains(&text.len())
        && text.bytes().all(plain)
        && !text.contains("..")
        && text.split('/').all(part)
}

/// Whether the text is a full commit id.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the text may name a directory of a repository; empty is its root.
pub fn is_directory(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._ +@".contains(&b);
    let part = |part: &str| !part.is_empty() && !part.starts_with(['-', '.']) && part.bytes().all(plain);
    text.is_empty() || (text.len() <= REF_BYTES_MAX && text.split('/').all(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_repositories_count() {
        let allowed = [
            "https://github.com/".to_owned(),
            "https://git.example.com/team/".to_owned(),
        ];
        let check = |url: &str| check_repository(url, &allowed);
        for good in [
            "https://github.com/acme/shop",
            "https://github.com/acme/shop.git",
            "https://git.example.com/team/shop",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "github.com/acme/shop",
            "https://github.com",
            "https://github.com.evil.example/acme/shop",
            "https://me:secret@github.com/acme/shop",
            "https://github.com/../acme",
            "https://github.com/acme/shop?x",
            "https://github.com/acme/shop\n",
            "http://github.com/acme/shop",
            "https://gitlab.com/acme/shop",
            "ext::sh -c x",
            "file:///etc/",
            "https://git.example.com/team/../other/shop",
            "--upload-pack=x",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check_repository("https://github.com/a/b", &[]).is_err());
    }

    #[test]
    fn one_repository_has_one_key() {
        for url in [
            "https://GitHub.com/Acme/Shop.git",
            "https://github.com/acme/shop",
            "https://github.com/acme/shop/",
        ] {
            assert_eq!(repository_key(url).as_deref(), Some("github.com/acme/shop"));
        }
        assert_eq!(repository_key("https://github.com/"), None);
        assert_eq!(repository_key("git://h:9418/a.git").as_deref(), Some("h:9418/a"));
    }

    #[test]
    fn refs_and_directories_are_no_options_and_no_expressions() {
        for good in [
            "main",
            "feature/a-b_c",
            "v1.2.3",
            "HEAD",
            "refs/heads/main",
            "fix/#12",
        ] {
            assert!(is_ref(good), "{good}");
        }
        for bad in [
            "", "-x", "a..b", "a b", "a^", "a~1", "a:b", "@{u}", "a//b", "/a", "a/", ".a", "a.lock", "a.",
            "a\0",
        ] {
            assert!(!is_ref(bad), "{bad}");
        }
        assert!(is_commit(&"a1".repeat(20)) && !is_commit("main") && !is_commit(&"A1".repeat(20)));
        assert!(is_directory("") && is_directory("services/api") && is_directory("my app"));
        for bad in ["/a", "a/", "..", "a/../b", "-a", ".git", "a:b", "a//b"] {
            assert!(!is_directory(bad), "{bad}");
        }
    }
}
