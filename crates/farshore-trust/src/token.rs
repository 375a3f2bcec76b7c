//! Secrets that people and devices carry, and their hashes at rest.
//!
//! Every secret here has 256 random bits, so a plain SHA-256 is the right hash for it: nobody can guess through it, and a
//! slow, salted hash (argon2) protects only what people choose. Compare by hash, in constant time.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farshore_domain::digest::Digest;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::random::{self, RandomError};

/// The longest claim token that is read.
pub const MAX_CLAIM_TOKEN_BYTES: usize = 2_048;
const MAX_URL_BYTES: usize = 1_024;
const CLAIM_PREFIX: &str = "fsct_";
const GATEWAY_PREFIX: &str = "fsgk_";
const CLAIM_VERSION: u32 = 1;

/// What a secret is for; its text starts with the prefix, so that scanners and people recognise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// `fsat_…`
    ApiToken,
    /// `fsst_…`
    Session,
    /// `fsll_…`
    LoginLink,
}

impl SecretKind {
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::ApiToken => "fsat_",
            Self::Session => "fsst_",
            Self::LoginLink => "fsll_",
        }
    }
}

/// A secret's text: wiped when dropped, never shown by `Debug`.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Makes a secret of 256 random bits, and the hash to store.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate(kind: SecretKind) -> Result<(Self, TokenHash), RandomError> {
        Self::with_prefix(kind.prefix())
    }

    fn with_prefix(prefix: &str) -> Result<(Self, TokenHash), RandomError> {
        let random = Zeroizing::new(random::bytes::<32>()?);
        let text = Zeroizing::new(format!("{prefix}{}", *Zeroizing::new(URL_SAFE_NO_PAD.encode(*random))));
        let hash = hash_secret(&text);
        Ok((Self(text), hash))
    }

    /// The text, to be shown once or sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// The SHA-256 of a secret's text: what is stored and looked up. `==` takes the same time whatever differs.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(Digest);

impl TokenHash {
    /// The hash as stored in a database.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.hex()
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// A hash read from storage.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Digest::from_bytes(bytes))
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(redacted)")
    }
}

impl From<TokenHash> for Digest {
    fn from(hash: TokenHash) -> Self {
        hash.0
    }
}

/// The hash of a secret that somebody presents.
#[must_use]
pub fn hash_secret(secret: &str) -> TokenHash {
    TokenHash(Digest::of(secret.as_bytes()))
}

/// Why a text is no claim token, or none could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClaimTokenError {
    #[error("a claim token starts with fsct_")]
    NoPrefix,
    #[error("a claim token has at most {MAX_CLAIM_TOKEN_BYTES} characters")]
    TooLong,
    #[error("the claim token is damaged: copy it again, whole")]
    Damaged,
    #[error("the claim token is of version {0}, which this program doesn't know: update it")]
    UnknownVersion(u32),
    #[error("the claim token's address must be https://host[:port], at most {MAX_URL_BYTES} characters")]
    BadUrl,
    #[error("no claim token could be made")]
    Random(#[source] RandomError),
}

/// What a device needs to find its control plane and be let in: address, fingerprint of the root certificate, secret.
#[derive(Clone)]
pub struct ClaimToken {
    url: String,
    ca: Digest,
    secret: Secret,
}

#[derive(Serialize, Deserialize)]
struct ClaimTokenBody {
    v: u32,
    url: String,
    ca: Digest,
    secret: String,
}

impl ClaimToken {
    /// A new token for the device port at `url` (`https://…`), whose certificates end at the root with fingerprint `ca`;
    /// and the hash of its secret, which is what is stored.
    ///
    /// # Errors
    /// When the address isn't acceptable or there is no randomness.
    pub fn new(url: &str, ca: Digest) -> Result<(Self, TokenHash), ClaimTokenError> {
        let url = url.trim_end_matches('/');
        check_url(url)?;
        let (secret, hash) = Secret::with_prefix("").map_err(ClaimTokenError::Random)?;
        Ok((Self { url: url.to_owned(), ca, secret }, hash))
    }

    /// The device port's address, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The fingerprint of the root certificate.
    #[must_use]
    pub const fn ca(&self) -> Digest {
        self.ca
    }

    /// The secret to send when claiming.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What is stored for this token.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        hash_secret(self.secret.expose())
    }

    /// The token's text, to be shown once.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let body = serde_json::json!({ "v": CLAIM_VERSION, "url": self.url, "ca": self.ca, "secret": self.secret.expose() });
        let body = Zeroizing::new(body.to_string());
        Zeroizing::new(format!("{CLAIM_PREFIX}{}", *Zeroizing::new(URL_SAFE_NO_PAD.encode(body.as_bytes()))))
    }
}

impl FromStr for ClaimToken {
    type Err = ClaimTokenError;

    fn from_str(text: &str) -> Result<Self, ClaimTokenError> {
        let text = text.trim();
        if text.len() > MAX_CLAIM_TOKEN_BYTES {
            return Err(ClaimTokenError::TooLong);
        }
        let encoded = text.strip_prefix(CLAIM_PREFIX).ok_or(ClaimTokenError::NoPrefix)?;
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| ClaimTokenError::Damaged)?);
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let Version { v } = serde_json::from_slice(&json).map_err(|_| ClaimTokenError::Damaged)?;
        if v != CLAIM_VERSION {
            return Err(ClaimTokenError::UnknownVersion(v));
        }
        let body: ClaimTokenBody = serde_json::from_slice(&json).map_err(|_| ClaimTokenError::Damaged)?;
        let secret = Secret(Zeroizing::new(body.secret));
        check_url(&body.url)?;
        if URL_SAFE_NO_PAD.decode(secret.expose()).map_or(0, |bytes| Zeroizing::new(bytes).len()) != 32 {
            return Err(ClaimTokenError::Damaged);
        }
        Ok(Self { url: body.url, ca: body.ca, secret })
    }
}

/// What a gateway without a certificate sends with: a key for one device, with the address and the fingerprint of the root certificate inside, as in a
/// claim token.
#[derive(Clone, Debug)]
pub struct GatewayKey(ClaimToken);

/// Why a text is no gateway key.
#[derive(Debug, thiserror::Error)]
pub enum GatewayKeyError {
    #[error("a gateway key starts with fsgk_; `farshore sync create-key` makes one")]
    NoPrefix,
    #[error("the gateway key is damaged, or of a later version: copy it again, whole")]
    Damaged(#[source] ClaimTokenError),
}

impl GatewayKey {
    /// A new key for the device port at `url`, as [`ClaimToken::new`].
    ///
    /// # Errors
    /// When the address isn't acceptable or there is no randomness.
    pub fn new(url: &str, ca: Digest) -> Result<(Self, TokenHash), ClaimTokenError> {
        let (token, hash) = ClaimToken::new(url, ca)?;
        Ok((Self(token), hash))
    }

    /// The device port's address, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        self.0.url()
    }

    /// The fingerprint of the root certificate.
    #[must_use]
    pub const fn ca(&self) -> Digest {
        self.0.ca()
    }

    /// The secret to send.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        self.0.secret()
    }

    /// The key's text, to be shown once.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let text = self.0.to_text();
        Zeroizing::new(format!("{GATEWAY_PREFIX}{}", text.strip_prefix(CLAIM_PREFIX).unwrap_or_default()))
    }
}

impl FromStr for GatewayKey {
    type Err = GatewayKeyError;

    fn from_str(text: &str) -> Result<Self, GatewayKeyError> {
        let body = text.trim().strip_prefix(GATEWAY_PREFIX).ok_or(GatewayKeyError::NoPrefix)?;
        let text = Zeroizing::new(format!("{CLAIM_PREFIX}{body}"));
        Ok(Self(text.parse().map_err(GatewayKeyError::Damaged)?))
    }
}

/// `https://`, a host and perhaps a port: no user, path, query or blanks, so that joining a path to it is safe.
fn check_url(url: &str) -> Result<(), ClaimTokenError> {
    let authority = url.strip_prefix("https://").ok_or(ClaimTokenError::BadUrl)?;
    let plain =
        authority.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    if authority.is_empty() || url.len() > MAX_URL_BYTES || !plain {
        Err(ClaimTokenError::BadUrl)
    } else {
        Ok(())
    }
}

impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimToken")
            .field("url", &self.url)
            .field("ca", &self.ca)
            .field("secret", &self.secret)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_token_survives_its_text_and_hides_its_secret() {
        let (token, hash) = ClaimToken::new("https://fleet.example:8443/", Digest::of(b"root")).unwrap();
        let again: ClaimToken = format!(" {}\n", *token.to_text()).parse().unwrap();
        assert_eq!((again.url(), again.ca()), ("https://fleet.example:8443", Digest::of(b"root")));
        assert_eq!(again.hash(), hash);
        assert!(!format!("{token:?}").contains(token.secret().expose()));
        let (other, other_hash) = ClaimToken::new("https://fleet.example:8443", Digest::of(b"root")).unwrap();
        assert_ne!(other.hash(), hash);
        assert_ne!(other_hash, hash);
    }

    #[test]
    fn a_damaged_foreign_or_newer_token_is_refused_with_a_reason() {
        let (token, _) = ClaimToken::new("https://[::1]:1", Digest::of(b"root")).unwrap();
        let text = token.to_text();
        assert!(matches!("fsat_abc".parse::<ClaimToken>(), Err(ClaimTokenError::NoPrefix)));
        assert!(matches!(text[..text.len() - 4].parse::<ClaimToken>(), Err(ClaimTokenError::Damaged)));
        assert!(matches!(
            format!("fsct_{}", "A".repeat(3_000)).parse::<ClaimToken>(),
            Err(ClaimTokenError::TooLong)
        ));
        let token = |json: serde_json::Value| {
            format!("fsct_{}", URL_SAFE_NO_PAD.encode(json.to_string())).parse::<ClaimToken>()
        };
        assert!(matches!(
            token(serde_json::json!({"v": 2, "new": true})),
            Err(ClaimTokenError::UnknownVersion(2))
        ));
        let ca = Digest::of(b"");
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        assert!(token(serde_json::json!({"v": 1, "url": "https://a", "ca": ca, "secret": secret})).is_ok());
        assert!(matches!(
            token(serde_json::json!({"v": 1, "url": "https://a", "ca": ca, "secret": "AA"})),
            Err(ClaimTokenError::Damaged)
        ));
        for url in [
            "http://a",
            "https://",
            "https://a/b",
            "https://u@a",
            "https://a b",
            "https://a?x",
            "file:///etc",
        ] {
            assert!(
                matches!(
                    token(serde_json::json!({"v": 1, "url": url, "ca": ca, "secret": secret})),
                    Err(ClaimTokenError::BadUrl)
                ),
                "{url}"
            );
            assert!(ClaimToken::new(url, ca).is_err(), "{url}");
        }
    }

    #[test]
    fn a_gateway_key_survives_its_text_and_is_no_claim_token() {
        let (key, hash) = GatewayKey::new("https://fleet.example:8443", Digest::of(b"root")).unwrap();
        let text = key.to_text();
        let again: GatewayKey = format!("{}\n", *text).parse().unwrap();
        assert_eq!((again.url(), again.ca()), ("https://fleet.example:8443", Digest::of(b"root")));
        assert_eq!(hash_secret(again.secret().expose()), hash);
        assert!(!format!("{key:?}").contains(key.secret().expose()));
        assert!(text.parse::<ClaimToken>().is_err());
        assert!(matches!("your-api-key-here".parse::<GatewayKey>(), Err(GatewayKeyError::NoPrefix)));
        assert!(matches!(text[..text.len() - 9].parse::<GatewayKey>(), Err(GatewayKeyError::Damaged(_))));
    }

    #[test]
    fn secrets_carry_their_prefix_and_256_bits() {
        for kind in [SecretKind::ApiToken, SecretKind::Session, SecretKind::LoginLink] {
            let (secret, hash) = Secret::generate(kind).unwrap();
            assert_eq!(secret.expose().len(), 5 + 43);
            assert!(secret.expose().starts_with(kind.prefix()));
            assert_eq!(hash_secret(secret.expose()), hash);
            assert_ne!(hash_secret("x"), hash);
            assert!(!format!("{secret:?}{hash:?}").contains(secret.expose()));
        }
    }
}
