//! A device's own key, which never leaves it.

use farshore_domain::digest::Digest;
use rcgen::CertificateParams;
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

pub use crate::certificate::{certificate_public_key_digest, csr_public_key_digest};
use crate::key::{Algorithm, ForRcgen, KeyError, SigningKey};

/// Why a request for a certificate couldn't be made.
#[derive(Debug, thiserror::Error)]
#[error("the certificate request couldn't be made")]
pub struct RequestError(#[source] rcgen::Error);

/// The P-256 key that a device makes on itself and keeps.
#[derive(Debug)]
pub struct DeviceKey(SigningKey);

impl DeviceKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        SigningKey::generate(Algorithm::P256).map(Self)
    }

    /// Reads a key that [`DeviceKey::to_pem`] wrote.
    ///
    /// # Errors
    /// When it is no private key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pem(pem).map(Self)
    }

    /// The private key, for a file of mode 0600.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pem()
    }

    /// A certificate request that carries the public key and proves possession of the private one; nothing else.
    ///
    /// # Errors
    /// When the key can't sign.
    pub fn csr_pem(&self) -> Result<String, RequestError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serialize_request(&ForRcgen(&self.0)).and_then(|csr| csr.pem()).map_err(RequestError)
    }

    /// The digest of the SubjectPublicKeyInfo; the same on the server, from request or certificate.
    #[must_use]
    pub fn public_key_digest(&self) -> Digest {
        self.0.public().digest()
    }

    /// The key that signs.
    #[must_use]
    pub const fn signing_key(&self) -> &SigningKey {
        &self.0
    }

    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        self.0.to_rustls()
    }
}
