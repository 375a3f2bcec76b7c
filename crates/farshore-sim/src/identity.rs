//! Who a virtual device is: ids, key, certificate, and whom it trusts.

use std::sync::Arc;

use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_trust::CertificateDer;
use farshore_trust::certificate::{self, CertificateError};
use farshore_trust::device::DeviceKey;
use farshore_trust::identity::{DeviceIdentity, TrustDomain, TrustDomainError};
use farshore_trust::key::KeyError;
use farshore_trust::keyset::{self, KeySetError, SignedKeySet, TrustedKeySet};
use farshore_trust::tls::{self, TlsError};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::clock;

/// Why an identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate can't be read")]
    Certificate(#[source] CertificateError),
    #[error("the certificate is no device's")]
    NotADevice(#[source] farshore_trust::identity::IdentityError),
    #[error("the certificate is another device's")]
    OtherDevice,
    #[error("the trust domain is none")]
    TrustDomain(#[source] TrustDomainError),
    #[error("the key can't be read")]
    Key(#[source] KeyError),
    #[error("the key's PEM can't be read")]
    KeyPem(#[source] rustls_pki_types::pem::Error),
    #[error("the key and its certificate can't be used for TLS")]
    Certified(#[source] rustls::Error),
    #[error("TLS can't be set up")]
    Tls(#[source] TlsError),
    #[error("the tenant's trusted keys are refused")]
    Keys(#[source] KeySetError),
}

/// What all devices of a tenant share: roots, trust domain, and TLS without a certificate.
pub(crate) struct Realm {
    pub(crate) tenant: TenantId,
    pub(crate) tenant_name: Name,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) roots_pem: Vec<String>,
    pub(crate) trust_domain: TrustDomain,
    /// As they came, oldest first.
    pub(crate) key_chain: Vec<SignedKeySet>,
    pub(crate) keys: Option<Arc<TrustedKeySet>>,
    tls: ClientConfig,
}

impl std::fmt::Debug for Realm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Realm").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl Realm {
    pub(crate) fn new(
        tenant: TenantId,
        tenant_name: Name,
        roots_pem: Vec<String>,
        trust_domain: &str,
        key_chain: Vec<SignedKeySet>,
    ) -> Result<Self, IdentityError> {
        let mut roots = Vec::new();
        for pem in &roots_pem {
            roots.extend(certificate::chain_from_pem(pem).map_err(IdentityError::Certificate)?);
        }
        let trust_domain = TrustDomain::new(trust_domain).map_err(IdentityError::TrustDomain)?;
        let keys = if key_chain.is_empty() {
            None
        } else {
            Some(Arc::new(keyset::accept_chain(None, &key_chain, tenant).map_err(IdentityError::Keys)?))
        };
        let mut tls = tls::client_config(&roots, None, clock::for_tls()).map_err(IdentityError::Tls)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A cache of tickets costs more than the whole device.
        tls.resumption = Resumption::disabled();
        Ok(Self { tenant, tenant_name, roots, roots_pem, trust_domain, key_chain, keys, tls })
    }
}

/// A claimed device.
#[derive(Clone, Debug)]
pub struct Identity {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub name: Name,
    pub(crate) not_before: UnixMs,
    pub(crate) not_after: UnixMs,
    pub(crate) realm: Arc<Realm>,
    pub(crate) key_pem: Arc<str>,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Identity {
    /// Puts it together; the certificate must be this device's.
    pub(crate) fn new(
        realm: Arc<Realm>,
        device: DeviceId,
        name: Name,
        key_pem: &str,
        certificate_pem: &str,
    ) -> Result<Self, IdentityError> {
        let chain = certificate::chain_from_pem(certificate_pem).map_err(IdentityError::Certificate)?;
        let leaf = chain.first().ok_or(IdentityError::OtherDevice)?;
        let is =
            DeviceIdentity::from_certificate(leaf, &realm.trust_domain).map_err(IdentityError::NotADevice)?;
        let key = DeviceKey::from_pem(key_pem).map_err(IdentityError::Key)?;
        if (is.tenant, is.device) != (realm.tenant, device) || is.public_key != key.public_key_digest() {
            return Err(IdentityError::OtherDevice);
        }
        let der = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(IdentityError::KeyPem)?;
        let certified = CertifiedKey::from_der(chain, der, realm.tls.crypto_provider())
            .map_err(IdentityError::Certified)?;
        let mut tls = realm.tls.clone();
        tls.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(Self {
            tenant: realm.tenant,
            device,
            name,
            not_before: is.not_before,
            not_after: is.not_after,
            key_pem: key_pem.into(),
            tls: Arc::new(tls),
            realm,
        })
    }

    /// The TLS settings this device connects with, for whoever measures bare handshakes.
    #[must_use]
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// The roots this device trusts.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.realm.roots
    }

    /// Takes the realm of others that trust the same, so that it and its TLS settings are in memory once.
    pub(crate) fn share(&mut self, realm: Arc<Realm>) {
        let mut tls = realm.tls.clone();
        tls.client_auth_cert_resolver = self.tls.client_auth_cert_resolver.clone();
        self.tls = Arc::new(tls);
        self.realm = realm;
    }

    /// Whether two thirds of the certificate's lifetime are over.
    pub(crate) fn renewal_is_due(&self, now: UnixMs) -> bool {
        now >= self.renew_at()
    }

    /// When two thirds of the certificate's lifetime are over.
    pub(crate) fn renew_at(&self) -> UnixMs {
        self.not_before.plus_ms(self.not_after.since_ms(self.not_before) / 3 * 2)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use farshore_trust::authority::{Authority, Issuer};
    use uuid::Uuid;

    use super::*;

    /// An authority and the devices it issued certificates for.
    pub(crate) struct Issued {
        pub(crate) issuer: Issuer,
        pub(crate) now: UnixMs,
        key: DeviceKey,
    }

    pub(crate) const TENANT: TenantId = TenantId(Uuid::from_u128(77));
    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

    impl Issued {
        pub(crate) fn new() -> Self {
            let domain = TrustDomain::new("sim.test").unwrap();
            let now = clock::wall();
            let new = Authority::generate(&domain, now).unwrap();
            let issuer =
                Issuer::new(domain, new.root_cert, new.intermediate_cert, new.intermediate_key).unwrap();
            Self { issuer, now, key: DeviceKey::generate().unwrap() }
        }

        pub(crate) fn realm(&self, keys: Vec<SignedKeySet>) -> Arc<Realm> {
            let roots = vec![certificate::chain_to_pem([self.issuer.root_cert()])];
            let name = Name::new("acme").unwrap();
            Arc::new(Realm::new(TENANT, name, roots, "sim.test", keys).unwrap())
        }

        fn certificate(&self, device: DeviceId) -> String {
            let csr = self.key.csr_pem().unwrap();
            let issued = self.issuer.issue_device(csr.as_bytes(), TENANT, device, self.now, DAY);
            issued.unwrap().chain_pem()
        }

        pub(crate) fn device(&self, number: u128) -> Identity {
            self.device_in(self.realm(Vec::new()), number)
        }

        pub(crate) fn device_in(&self, realm: Arc<Realm>, number: u128) -> Identity {
            let device = DeviceId(Uuid::from_u128(number));
            let name = Name::new(format!("device-{number}")).unwrap();
            Identity::new(realm, device, name, &self.key.to_pem(), &self.certificate(device)).unwrap()
        }
    }

    #[test]
    fn a_certificate_of_another_device_or_key_is_refused() {
        let issued = Issued::new();
        let (one, two) = (DeviceId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
        let name = || Name::new("one").unwrap();
        let certificate = issued.certificate(two);
        let realm = issued.realm(Vec::new());
        let other = DeviceKey::generate().unwrap().to_pem();
        let made = |device, key: &str| Identity::new(realm.clone(), device, name(), key, &certificate);
        assert!(matches!(made(one, &issued.key.to_pem()), Err(IdentityError::OtherDevice)));
        assert!(matches!(made(two, &other), Err(IdentityError::OtherDevice)));
        let identity = made(two, &issued.key.to_pem()).unwrap();
        assert!(!identity.renewal_is_due(issued.now));
        assert!(identity.renewal_is_due(issued.now.plus_ms(17 * 3_600_000)));
    }
}
