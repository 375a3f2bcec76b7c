//! Who the device is to a registry, and what a registry asks for.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::RegistryError;
use crate::file;

const MAX_LOGINS: u64 = 256 * 1024;

#[derive(Deserialize)]
struct Logins {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    /// `name:password` in base64.
    auth: String,
}

/// The value of `Authorization` with which a registry knows this device; `None` where nothing is written down for it.
pub(super) fn login(path: &Path, registry: &str) -> Result<Option<Zeroizing<String>>, RegistryError> {
    let bad = |what: String| RegistryError::Settings { path: path.to_path_buf(), what };
    let bytes = file::read_capped(path, MAX_LOGINS).map_err(|error| bad(error.to_string()))?;
    let Some(bytes) = bytes.map(Zeroizing::new) else { return Ok(None) };
    // What is wrong in it is not repeated: it may be a password.
    let logins: Logins = serde_json::from_slice(&bytes)
        .map_err(|error| bad(format!("it is no JSON of logins (line {})", error.line())))?;
    let same = |key: &&String| {
        let host = key.trim_start_matches("https://").split('/').next().unwrap_or_default();
        host == registry || (registry == "docker.io" && host == "index.docker.io")
    };
    let Some(key) = logins.auths.keys().find(same) else { return Ok(None) };
    let auth = logins.auths.get(key).map(|login| login.auth.trim());
    let auth = auth.filter(|auth| STANDARD.decode(auth).is_ok_and(|plain| plain.contains(&b':')));
    let auth = auth.ok_or_else(|| bad(format!("the login for {key} is not name:password in base64")))?;
    Ok(Some(Zeroizing::new(format!("Basic {auth}"))))
}

/// What a registry asks for with a 401.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Reads a `WWW-Authenticate`; `None` when it asks for anything else.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut values = BTreeMap::new();
        let mut rest = rest.trim();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, tail) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            values.insert(name.trim().to_ascii_lowercase(), value.to_owned());
            rest = tail.trim_start_matches([',', ' ']);
        }
        Some(Self::Bearer {
            realm: values.remove("realm")?,
            service: values.remove("service"),
            scope: values.remove("scope"),
        })
    }
}

/// Text as a value in a query.
pub(super) fn in_query(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/,".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_asks_for_is_understood() {
        let header = r#"Bearer realm="https://auth.example.com/token",service="registry, the one", scope="repository:a/b:pull,push""#;
        let expect = Challenge::Bearer {
            realm: "https://auth.example.com/token".to_owned(),
            service: Some("registry, the one".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(Challenge::parse(header), Some(expect));
        assert_eq!(Challenge::parse("basic realm=\"x\""), Some(Challenge::Basic));
        for strange in ["", "Digest realm=\"x\"", "Bearer service=\"x\"", "Bearer realm=\"x"] {
            assert_eq!(Challenge::parse(strange), None, "{strange}");
        }
        assert_eq!(in_query("a b&c=d"), "a%20b%26c%3Dd");
    }

    #[test]
    fn a_login_is_found_as_docker_writes_it_and_never_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registries.json");
        assert!(login(&path, "r.example.com").unwrap().is_none());
        let auth = STANDARD.encode("me:secret");
        let text = serde_json::json!({"auths": {"r.example.com": {"auth": auth}, "https://index.docker.io/v1/": {"auth": auth}}});
        std::fs::write(&path, text.to_string()).unwrap();
        for (registry, there) in [("r.example.com", true), ("docker.io", true), ("example.com", false)] {
            assert_eq!(login(&path, registry).unwrap().is_some(), there, "{registry}");
        }
        for bad in ["{\"auths\": {\"r.example.com\": {\"auth\": \"secret\"}}}", "secret"] {
            std::fs::write(&path, bad).unwrap();
            let error = login(&path, "r.example.com").unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
