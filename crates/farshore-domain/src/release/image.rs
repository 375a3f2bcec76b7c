//! Images that lie in a registry, named so that they are the same for ever.

use std::fmt;

use crate::digest::Digest;

/// Where an image lies, and which it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageRef {
    /// `host[:port]`.
    pub registry: String,
    pub repository: String,
    pub digest: Digest,
}

impl ImageRef {
    /// What an `image` of a manifest says: a registry's image, or `None` for a folder of the release. A tag besides the digest means nothing.
    ///
    /// # Errors
    /// In words, when it is a registry's image and not named well.
    pub fn find(text: &str) -> Result<Option<Self>, String> {
        let Some((name, digest)) = text.split_once('@') else {
            return if text.contains(':') {
                Err(format!(
                    "{text:?} is named by a tag, and what a tag stands for changes; a release is a fixed thing: write registry/name@sha256:…"
                ))
            } else {
                Ok(None)
            };
        };
        let digest = digest
            .parse::<Digest>()
            .map_err(|_| format!("{text:?}: a digest is sha256: and 64 hex digits"))?;
        let (registry, rest) = name
            .split_once('/')
            .filter(|(host, _)| is_registry(host))
            .ok_or_else(|| format!("{text:?}: begins with the registry, such as registry.example.com/"))?;
        let repository = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => repository,
            _ => rest,
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let part = |part: &str| {
            let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
            ends(part.as_bytes().first()) && ends(part.as_bytes().last()) && part.bytes().all(plain)
        };
        if repository.len() > 255 || !repository.split('/').all(part) {
            return Err(format!("{text:?}: a repository is of a-z, 0-9, '.', '_', '-' and '/'"));
        }
        Ok(Some(Self { registry: registry.to_owned(), repository: repository.to_owned(), digest }))
    }
}

/// `host[:port]`, which a name without dots and ports is not: it would be a folder of some default registry.
fn is_registry(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let named = host.contains('.') || port.is_some() || host == "localhost";
    let port_is_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    named && !host.is_empty() && text.len() <= 261 && host.bytes().all(plain) && port_is_good
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_a_registry_is_named_by_its_digest() {
        let digest = Digest::of(b"x");
        for (name, registry, repository) in [
            ("registry.example.com/web", "registry.example.com", "web"),
            ("registry.example.com:5000/shop/web:2", "registry.example.com:5000", "shop/web"),
            ("localhost/a-b/c_d.e", "localhost", "a-b/c_d.e"),
        ] {
            let found = ImageRef::find(&format!("{name}@{digest}")).unwrap().unwrap();
            assert_eq!(
                (found.registry.as_str(), found.repository.as_str(), found.digest),
                (registry, repository, digest)
            );
        }
        for folder in [".", "images/web", "a.b/c"] {
            assert_eq!(ImageRef::find(folder), Ok(None), "{folder}");
        }
        for (bad, says) in [
            ("registry.example.com/web:2".to_owned(), "named by a tag"),
            ("web:latest".to_owned(), "named by a tag"),
            ("registry.example.com/web@sha256:12".to_owned(), "digest is"),
            (format!("web@{digest}"), "begins with the registry"),
            (format!("library/web@{digest}"), "begins with the registry"),
            (format!("registry.example.com/Web@{digest}"), "a repository is"),
            (format!("registry.example.com/../x@{digest}"), "a repository is"),
            (format!("registry.example.com/@{digest}"), "a repository is"),
            (format!("reg_istry.com/x@{digest}"), "begins with the registry"),
        ] {
            let error = ImageRef::find(&bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
