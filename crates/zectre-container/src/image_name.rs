//! Names of images: where they come from, and which of them mean the same.

use std::collections::BTreeSet;

/// The registry of images that name none.
const REGISTRY_DEFAULT: &str = "docker.io";
/// Other names of it.
const REGISTRY_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// Where its own images are.
const LIBRARY: &str = "library/";
/// The tag of images that name none.
const TAG_DEFAULT: &str = "latest";

/// The most names that one image has in [`spellings`].
pub const SPELLINGS_MAX: usize = 8;

/// The registry that an image comes from: what stands before its first slash, where that is a host.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => REGISTRY_DEFAULT,
    }
}

/// The name and the tag of an image. Without a tag the engine would pull every tag there is; a digest stays
/// with the name.
pub(crate) fn split_tag(image: &str) -> (&str, &str) {
    if image.contains('@') {
        return (image, "");
    }
    match image.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, TAG_DEFAULT),
    }
}

/// The one name that all spellings of an image have in common: with registry, library and tag.
pub fn canonical(image: &str) -> String {
    let (name, tag) = split_tag(image);
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if registry_of(name) == host => (host, path),
        _ => (REGISTRY_DEFAULT, name),
    };
    let registry = if REGISTRY_ALIASES.contains(&registry) {
        REGISTRY_DEFAULT
    } else {
        registry
    };
    let library = if registry == REGISTRY_DEFAULT && !path.contains('/') {
        LIBRARY
    } else {
        ""
    };
    let tag = if tag.is_empty() {
        String::new()
    } else {
        format!(":{tag}")
    };
    format!("{registry}/{library}{path}{tag}")
}

/// The spellings of an image that people use, given its [`canonical`] name; that one is among them.
pub fn spellings(canonical: &str) -> BTreeSet<String> {
    let mut spellings = BTreeSet::from([canonical.to_owned()]);
    if let Some(path) = canonical.strip_prefix("docker.io/") {
        let short = path.strip_prefix(LIBRARY);
        spellings.insert(path.to_owned());
        if let Some(short) = short {
            spellings.insert(short.to_owned());
            spellings.insert(format!("{REGISTRY_DEFAULT}/{short}"));
        }
    }
    let untagged: Vec<String> = spellings
        .iter()
        .filter_map(|name| name.strip_suffix(":latest").map(str::to_owned))
        .collect();
    spellings.extend(untagged);
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_port_and_a_digest() {
        assert_eq!(split_tag("nginx"), ("nginx", "latest"));
        assert_eq!(split_tag("nginx:1.27"), ("nginx", "1.27"));
        assert_eq!(split_tag("localhost:5000/app"), ("localhost:5000/app", "latest"));
        assert_eq!(split_tag("localhost:5000/app:v2"), ("localhost:5000/app", "v2"));
        assert_eq!(split_tag("app@sha256:aa"), ("app@sha256:aa", ""));
    }

    #[test]
    fn a_registry_is_told_from_a_user() {
        assert_eq!(registry_of("nginx:1.27"), "docker.io");
        assert_eq!(registry_of("someone/app"), "docker.io");
        assert_eq!(registry_of("localhost/app"), "localhost");
        assert_eq!(registry_of("127.0.0.1:5000/a/b:1"), "127.0.0.1:5000");
        assert_eq!(registry_of("registry.example.com/app"), "registry.example.com");
    }

    #[test]
    fn every_spelling_of_an_image_is_the_same_image() {
        for (image, name) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx:1", "docker.io/library/nginx:1"),
            ("someone/app:v2", "docker.io/someone/app:v2"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("r.example.com/a/b:1", "r.example.com/a/b:1"),
            ("app@sha256:aa", "docker.io/library/app@sha256:aa"),
        ] {
            assert_eq!(canonical(image), name);
            let spellings = spellings(name);
            assert!(
                spellings.iter().all(|spelling| canonical(spelling) == name),
                "{spellings:?}"
            );
            assert!(spellings.contains(name), "{spellings:?}");
        }
        let nginx = spellings("docker.io/library/nginx:latest");
        assert_eq!(nginx.len(), SPELLINGS_MAX);
        assert!(nginx.contains("nginx") && nginx.contains("nginx:latest") && nginx.contains("library/nginx"));
        assert_eq!(spellings("r.example.com/a:1").len(), 1);
    }
}
