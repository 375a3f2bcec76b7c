//! Signature keys: ECDSA P-256 with SHA-256, as cosign makes them, and Ed25519.
//!
//! The algorithm belongs to the key, never to a signature or a file that is being verified. Only the canonical
//! encodings of RFC 5480 and RFC 8410 are read: a fixed prefix and the key's bytes.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::digest::Digest;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::random;

/// The largest PEM text that is read.
pub const MAX_PEM_BYTES: usize = 64 * 1024;

/// `SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING` (RFC 5480), before the 65 bytes of the point.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// `SEQUENCE { SEQUENCE { id-Ed25519 }, BIT STRING` (RFC 8410), before the 32 bytes of the key.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// PKCS#8 version 1 of a P-256 key (RFC 5915 inside RFC 5958), before the 32 bytes of the private key.
const P256_PKCS8: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
    0x04, 0x20,
];
/// `[1] { BIT STRING` between the private key and the 65 bytes of the public point.
const P256_PKCS8_POINT: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];
/// PKCS#8 version 1 of an Ed25519 key (RFC 8410), before the 32 bytes of the seed.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// SEC1 `EC PRIVATE KEY` of a P-256 key as OpenSSL writes it, before the 32 bytes of the private key.
const P256_SEC1: [u8; 7] = [0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
/// `[0] { prime256v1 } [1] { BIT STRING` between the private key and the 65 bytes of the public point.
const P256_SEC1_POINT: [u8; 17] =
    [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42, 0x00];

/// What a key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 over SHA-256 of the message, signature in ASN.1 DER: cosign's default.
    #[serde(rename = "ecdsa-p256")]
    P256,
    /// Ed25519 (RFC 8032), signature of 64 bytes.
    #[serde(rename = "ed25519")]
    Ed25519,
}

/// Why a key couldn't be read, made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("a key's PEM text has at most {MAX_PEM_BYTES} bytes")]
    TooLarge,
    #[error("the text holds no PEM block of a key")]
    NoPem(#[source] Option<rustls_pki_types::pem::Error>),
    #[error("only P-256 and Ed25519 keys in their canonical encoding are supported")]
    Unsupported,
    #[error("the private key isn't a valid P-256 or Ed25519 key: {0}")]
    Rejected(ring::error::KeyRejected),
    #[error("the signature couldn't be made")]
    Sign,
    #[error("the signature isn't valid for this key and message")]
    BadSignature,
    #[error("no key could be made")]
    Random(#[source] random::RandomError),
}

/// Names a public key: the SHA-256 of its SubjectPublicKeyInfo, as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(Digest);

impl KeyId {
    /// The digest of the SubjectPublicKeyInfo.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl TryFrom<String> for KeyId {
    type Error = farshore_domain::digest::DigestError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        format!("sha256:{text}").parse().map(Self)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// A key that verifies.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    algorithm: Algorithm,
    /// The uncompressed point, or the 32 bytes of an Ed25519 key.
    raw: Vec<u8>,
}

impl PublicKey {
    /// Reads a `PUBLIC KEY` PEM block.
    ///
    /// # Errors
    /// When the text is too long, holds no such block, or the key is of another kind.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(KeyError::TooLarge);
        }
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|e| KeyError::NoPem(Some(e)))?;
        Self::from_spki_der(der.as_ref())
    }

    /// Reads a DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When it is anything else than the canonical encoding of a P-256 or Ed25519 key.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        if let Some(raw) = der.strip_prefix(&P256_SPKI)
            && raw.len() == 65
            && raw.first() == Some(&4)
        {
            return Ok(Self { algorithm: Algorithm::P256, raw: raw.to_vec() });
        }
        match der.strip_prefix(&ED25519_SPKI) {
            Some(raw) if raw.len() == 32 => Ok(Self { algorithm: Algorithm::Ed25519, raw: raw.to_vec() }),
            _ => Err(KeyError::Unsupported),
        }
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> Vec<u8> {
        let prefix: &[u8] = match self.algorithm {
            Algorithm::P256 => &P256_SPKI,
            Algorithm::Ed25519 => &ED25519_SPKI,
        };
        [prefix, &self.raw].concat()
    }

    /// A `PUBLIC KEY` PEM block.
    #[must_use]
    pub fn to_pem(&self) -> String {
        encode_pem("PUBLIC KEY", &self.spki_der())
    }

    /// The digest of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.spki_der())
    }

    /// The key's name.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId(self.digest())
    }

    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Checks `signature` (ASN.1 DER for P-256, 64 bytes for Ed25519) over `message`.
    ///
    /// # Errors
    /// [`KeyError::BadSignature`] whenever it isn't valid, whatever the reason.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let checked = match self.algorithm {
            Algorithm::P256 => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, &self.raw)
                .verify(message, signature),
            Algorithm::Ed25519 => {
                UnparsedPublicKey::new(&signature::ED25519, &self.raw).verify(message, signature)
            }
        };
        checked.map_err(|_| KeyError::BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?}, {})", self.algorithm, self.key_id())
    }
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A key that signs. The stored encoding is wiped when dropped (*ring* keeps a copy of its own that it doesn't wipe);
/// `Debug` shows the public half only.
pub struct SigningKey {
    pair: Pair,
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl SigningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::P256 => {
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(
                    &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
                    &SystemRandom::new(),
                )
                .map_err(|_| KeyError::Random(random::RandomError))?;
                Self::from_pkcs8_der(pkcs8.as_ref())
            }
            Algorithm::Ed25519 => {
                // Version 1 without the public key, because OpenSSL 3.0 doesn't read the version 2 that ring writes.
                let seed = Zeroizing::new(random::bytes::<32>().map_err(KeyError::Random)?);
                Self::from_pkcs8_der(&Zeroizing::new([ED25519_PKCS8.as_slice(), seed.as_slice()].concat()))
            }
        }
    }

    /// Reads a `PRIVATE KEY` (PKCS#8) or, for P-256, an `EC PRIVATE KEY` (SEC1) PEM block, as OpenSSL writes them.
    ///
    /// # Errors
    /// When the text is too long, holds no such block, or the key is of another kind or broken.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(KeyError::TooLarge);
        }
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| KeyError::NoPem(Some(e)))? {
            PrivateKeyDer::Pkcs8(der) => Self::from_pkcs8_der(der.secret_pkcs8_der()),
            PrivateKeyDer::Sec1(der) => Self::from_sec1_der(der.secret_sec1_der()),
            _ => Err(KeyError::Unsupported),
        }
    }

    /// Reads a PKCS#8 DER key.
    ///
    /// # Errors
    /// When it is of another kind than P-256 or Ed25519, or broken.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        let pkcs8 = Zeroizing::new(der.to_vec());
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public =
                PublicKey { algorithm: Algorithm::Ed25519, raw: pair.public_key().as_ref().to_vec() };
            return Ok(Self { pair: Pair::Ed25519(pair), pkcs8, public });
        }
        let pair =
            EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new())
                .map_err(KeyError::Rejected)?;
        let public = PublicKey { algorithm: Algorithm::P256, raw: pair.public_key().as_ref().to_vec() };
        Ok(Self { pair: Pair::P256(pair), pkcs8, public })
    }

    fn from_sec1_der(der: &[u8]) -> Result<Self, KeyError> {
        let rest = der.strip_prefix(&P256_SEC1).ok_or(KeyError::Unsupported)?;
        let (private, rest) = rest.split_at_checked(32).ok_or(KeyError::Unsupported)?;
        let point = rest.strip_prefix(&P256_SEC1_POINT).ok_or(KeyError::Unsupported)?;
        Self::from_pkcs8_der(&Zeroizing::new([&P256_PKCS8, private, &P256_PKCS8_POINT, point].concat()))
    }

    /// A `PRIVATE KEY` (PKCS#8) PEM block.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_pem("PRIVATE KEY", &self.pkcs8))
    }

    /// The PKCS#8 DER bytes, wiped when dropped.
    #[must_use]
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// The key as rustls takes it.
    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    /// Signs `message`: ASN.1 DER ECDSA over its SHA-256, or 64 bytes of Ed25519.
    ///
    /// # Errors
    /// When the operating system gives no randomness (P-256 only).
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::P256(pair) => {
                Ok(pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Lets rcgen put a key into a certificate or sign one with it.
pub(crate) struct ForRcgen<'a>(pub(crate) &'a SigningKey);

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.algorithm {
            Algorithm::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl rcgen::PublicKeyData for ForRcgen<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        rcgen::PublicKeyData::algorithm(&self.0.public)
    }
}

impl rcgen::SigningKey for ForRcgen<'_> {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(msg).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A PEM block (RFC 7468) of `der`.
pub(crate) fn encode_pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut pem = String::with_capacity(body.len() + body.len() / 64 + 64);
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_pem_and_its_signature_verifies() {
        for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
            let key = SigningKey::generate(algorithm).unwrap();
            let again = SigningKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(key.public(), again.public());
            let signature = again.sign(b"message").unwrap();
            let public = PublicKey::from_pem(&key.public().to_pem()).unwrap();
            assert_eq!(public.key_id(), key.public().key_id());
            public.verify(b"message", &signature).unwrap();
            assert!(public.verify(b"messag", &signature).is_err());
            assert!(
                SigningKey::generate(algorithm).unwrap().public().verify(b"message", &signature).is_err()
            );
        }
    }

    #[test]
    fn debug_shows_no_private_key() {
        let key = SigningKey::generate(Algorithm::Ed25519).unwrap();
        let shown = format!("{key:?}");
        assert!(!shown.contains(&hex::encode(&key.pkcs8[16..])) && !shown.contains("pkcs8"), "{shown}");
    }

    #[test]
    fn what_is_no_canonical_p256_or_ed25519_key_is_refused() {
        let spki = SigningKey::generate(Algorithm::P256).unwrap().public().spki_der();
        assert!(PublicKey::from_spki_der(&spki[..spki.len() - 1]).is_err());
        assert!(PublicKey::from_spki_der(&[spki.as_slice(), &[0]].concat()).is_err());
        assert!(PublicKey::from_spki_der(&[]).is_err());
        let rsa_like = encode_pem("RSA PRIVATE KEY", &[0x30, 0x03, 0x02, 0x01, 0x00]);
        assert!(matches!(SigningKey::from_pem(&rsa_like), Err(KeyError::Unsupported)));
        assert!(matches!(PublicKey::from_pem(&" ".repeat(MAX_PEM_BYTES + 1)), Err(KeyError::TooLarge)));
        assert!(PublicKey::from_pem("").is_err());
    }

    #[test]
    fn a_key_id_is_64_hex_digits() {
        let id = SigningKey::generate(Algorithm::P256).unwrap().public().key_id();
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text.len(), 66);
        assert_eq!(serde_json::from_str::<KeyId>(&text).unwrap(), id);
        assert!(serde_json::from_str::<KeyId>("\"sha256:00\"").is_err());
    }
}
