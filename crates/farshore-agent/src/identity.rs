//! Who this device is: its key, certificate, roots, and where its control plane lives.
//!
//! On disk under `identity/`: `key.pem` (0600) is made first and never replaced, so that a claim that was cut off is the same claim when it is
//! repeated; `identity.json` is written last and says that the claim is complete.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_trust::CertificateDer;
use farshore_trust::certificate::{CertificateError, chain_from_pem, chain_to_pem};
use farshore_trust::clock::FlooredClock;
use farshore_trust::device::{DeviceKey, certificate_public_key_digest};
use farshore_trust::identity::{DeviceIdentity, IdentityError, TrustDomain};
use farshore_trust::key::KeyError;
use farshore_trust::tls::{ClientIdentity, TlsError, client_config};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::file;
use crate::http::{Endpoint, HttpError};

/// Why the identity can't be read, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    #[error("{what} failed")]
    Io {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("identity.json is damaged")]
    Damaged(#[source] serde_json::Error),
    #[error("the device's key can't be used")]
    Key(#[source] KeyError),
    #[error("the certificate can't be used")]
    Certificate(#[source] CertificateError),
    #[error("the certificate is no device's")]
    NotADevice(#[source] IdentityError),
    #[error("the certificate belongs to another key, tenant or device")]
    Foreign,
    #[error("TLS can't be set up")]
    Tls(#[source] TlsError),
    #[error("the control plane's address can't be used")]
    Address(#[source] HttpError),
}

/// What the claim told, besides keys and certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    pub tenant: TenantId,
    pub tenant_name: Name,
    pub device: DeviceId,
    pub name: String,
    pub trust_domain: TrustDomain,
    /// `https://host[:port]` of the device port.
    pub url: String,
}

/// A certificate with the roots to trust, as they are at one moment.
#[derive(Clone)]
pub struct Credentials {
    pub chain: Vec<CertificateDer<'static>>,
    pub roots: Vec<CertificateDer<'static>>,
    pub not_before: UnixMs,
    pub not_after: UnixMs,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Credentials {
    /// TLS with this certificate.
    #[must_use]
    pub fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// When to renew: at two thirds of the lifetime.
    #[must_use]
    pub fn renew_at(&self) -> UnixMs {
        self.not_before.plus_ms(self.not_after.since_ms(self.not_before) / 3 * 2)
    }
}

/// A claimed device's identity. Its certificate is replaced while connections go on.
#[derive(Debug)]
pub struct Identity {
    pub registration: Registration,
    pub endpoint: Endpoint,
    pub clock: FlooredClock,
    key: DeviceKey,
    current: RwLock<Arc<Credentials>>,
    changed: watch::Sender<u64>,
    folder: Option<PathBuf>,
}

impl Identity {
    /// Puts an identity together, and keeps it in `folder` if there is one.
    ///
    /// # Errors
    /// When the parts don't belong together, or can't be written.
    pub fn establish(
        registration: Registration,
        key: DeviceKey,
        certificate_pem: &str,
        roots_pem: &[String],
        clock: FlooredClock,
        folder: Option<&Path>,
    ) -> Result<Self, IdentityFileError> {
        let roots = roots_from_pem(roots_pem)?;
        let endpoint = Endpoint::parse(&registration.url).map_err(IdentityFileError::Address)?;
        let credentials = credentials(&registration, &key, certificate_pem, roots, &clock)?;
        if let Some(folder) = folder {
            let bytes = serde_json::to_vec_pretty(&registration).map_err(IdentityFileError::Damaged)?;
            keep_credentials(folder, &credentials)?;
            keep(&folder.join("identity.json"), &bytes, 0o644)?;
        }
        Ok(Self {
            registration,
            endpoint,
            clock,
            key,
            current: RwLock::new(Arc::new(credentials)),
            changed: watch::channel(0).0,
            folder: folder.map(Path::to_path_buf),
        })
    }

    /// Reads the identity from its folder; `None` when the device is not claimed yet.
    ///
    /// # Errors
    /// When there is one and it can't be used.
    pub fn load(folder: &Path, clock: FlooredClock) -> Result<Option<Self>, IdentityFileError> {
        let Some(bytes) = read(&folder.join("identity.json"))? else { return Ok(None) };
        let registration: Registration =
            serde_json::from_slice(&bytes).map_err(IdentityFileError::Damaged)?;
        let text = |name: &str| {
            let bytes = read(&folder.join(name))?.unwrap_or_default();
            Ok::<_, IdentityFileError>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let key = DeviceKey::from_pem(&zeroize_string(text("key.pem")?)).map_err(IdentityFileError::Key)?;
        let roots = vec![text("roots.pem")?];
        let certificate = text("certificate.pem")?;
        let identity = Self::establish(registration, key, &certificate, &roots, clock, None)?;
        Ok(Some(Self { folder: Some(folder.to_path_buf()), ..identity }))
    }

    /// What to connect with now.
    #[must_use]
    pub fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts the renewals; for waiting on the next one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    #[must_use]
    pub const fn key(&self) -> &DeviceKey {
        &self.key
    }

    /// Whether the certificate has run out.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.clock.now() > self.credentials().not_after
    }

    /// Takes a new certificate for the same key. The roots stay those of the claim, whatever the server offers: who
    /// holds only the intermediate must not be able to put a root of his own into the device.
    ///
    /// # Errors
    /// When it isn't this device's; the old one stays.
    pub fn replace(&self, certificate_pem: &str) -> Result<(), IdentityFileError> {
        let roots = self.credentials().roots.clone();
        let credentials = credentials(&self.registration, &self.key, certificate_pem, roots, &self.clock)?;
        if let Some(folder) = &self.folder {
            keep_credentials(folder, &credentials)?;
        }
        self.clock.raise_floor(credentials.not_before);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }
}

/// The key of a device that may not be claimed yet; made when there is none.
///
/// # Errors
/// When it can't be read or made.
pub fn device_key(folder: &Path) -> Result<DeviceKey, IdentityFileError> {
    let path = folder.join("key.pem");
    if let Some(bytes) = read(&path)? {
        let text = zeroize_string(String::from_utf8_lossy(&bytes).into_owned());
        return DeviceKey::from_pem(&text).map_err(IdentityFileError::Key);
    }
    file::make_folder(folder, 0o700)
        .map_err(|source| IdentityFileError::Io { what: "making the folder", source })?;
    let key = DeviceKey::generate().map_err(IdentityFileError::Key)?;
    keep(&path, key.to_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn zeroize_string(text: String) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(text)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityFileError> {
    file::read_capped(path, 1024 * 1024)
        .map_err(|source| IdentityFileError::Io { what: "reading the identity", source })
}

fn keep(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityFileError> {
    file::write_atomically(path, bytes, mode)
        .map_err(|source| IdentityFileError::Io { what: "writing the identity", source })
}

fn keep_credentials(folder: &Path, credentials: &Credentials) -> Result<(), IdentityFileError> {
    keep(&folder.join("roots.pem"), chain_to_pem(&credentials.roots).as_bytes(), 0o644)?;
    keep(&folder.join("certificate.pem"), chain_to_pem(&credentials.chain).as_bytes(), 0o644)
}

fn roots_from_pem(pems: &[String]) -> Result<Vec<CertificateDer<'static>>, IdentityFileError> {
    let mut roots = Vec::new();
    for pem in pems {
        roots.extend(chain_from_pem(pem).map_err(IdentityFileError::Certificate)?);
    }
    Ok(roots)
}

fn credentials(
    registration: &Registration,
    key: &DeviceKey,
    certificate_pem: &str,
    roots: Vec<CertificateDer<'static>>,
    clock: &FlooredClock,
) -> Result<Credentials, IdentityFileError> {
    let chain = chain_from_pem(certificate_pem).map_err(IdentityFileError::Certificate)?;
    let leaf = chain.first().ok_or(IdentityFileError::Foreign)?;
    let says = DeviceIdentity::parse(leaf).map_err(IdentityFileError::NotADevice)?;
    let digest = certificate_public_key_digest(leaf).map_err(IdentityFileError::Certificate)?;
    let own = says.tenant == registration.tenant
        && says.device == registration.device
        && says.trust_domain == registration.trust_domain
        && digest == key.public_key_digest();
    if !own {
        return Err(IdentityFileError::Foreign);
    }
    let identity = ClientIdentity { chain: &chain, key };
    let mut tls = client_config(&roots, Some(identity), clock.clone()).map_err(IdentityFileError::Tls)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (not_before, not_after) = (says.not_before, says.not_after);
    Ok(Credentials { chain, roots, not_before, not_after, tls: Arc::new(tls) })
}
