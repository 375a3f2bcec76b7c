//! The installation's certificates: a root that can be kept offline, an intermediate that issues.
//!
//! Nothing of a request is copied but its key, after its signature was checked. Every leaf starts five minutes early, for
//! clocks that are slow, and never outlives the intermediate.

use std::net::IpAddr;
use std::time::Duration;

use farshore_domain::digest::Digest;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::{DAY_MS, MINUTE_MS, UnixMs};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

pub use crate::certificate::fingerprint;
use crate::certificate::{self, CertificateError, chain_to_pem};
use crate::clock::to_unix_time;
use crate::identity::TrustDomain;
use crate::key::{Algorithm, ForRcgen, KeyError, PublicKey, SigningKey};
use crate::online::{DOCUMENT_SIGNING, OnlineSigner};
use crate::random::{self, RandomError};

const ROOT_MS: i64 = 20 * 365 * DAY_MS;
const INTERMEDIATE_MS: i64 = 5 * 365 * DAY_MS;
const BACKDATE_MS: i64 = 5 * MINUTE_MS;
/// 9999-12-31T23:59:59Z, the last moment a certificate can name.
const LAST_SECOND: i64 = 253_402_300_799;
/// The most names a server certificate carries.
const MAX_NAMES: usize = 64;

/// Why a certificate couldn't be issued, or an authority not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the key couldn't be made or read")]
    Key(#[source] KeyError),
    #[error("no serial number could be drawn")]
    Random(#[source] RandomError),
    #[error("the certificate couldn't be made")]
    Issue(#[source] rcgen::Error),
    #[error("the certificate request was refused")]
    Request(#[source] CertificateError),
    #[error("the authority's certificate couldn't be read")]
    Certificate(#[source] CertificateError),
    #[error("the intermediate certificate belongs to another key")]
    OtherKey,
    #[error("the intermediate certificate wasn't issued by this root")]
    OtherRoot,
    #[error("the intermediate certificate has expired: issue a new one from the root")]
    Expired,
    #[error("a server certificate needs 1 to {MAX_NAMES} names, each a DNS name or an IP address")]
    BadNames,
}

/// Makes roots and intermediates.
#[derive(Debug)]
pub struct Authority;

/// A new installation's authority. The root's key is needed again only for the next intermediate.
#[derive(Debug)]
pub struct NewAuthority {
    pub root_cert: CertificateDer<'static>,
    pub root_key: SigningKey,
    pub intermediate_cert: CertificateDer<'static>,
    pub intermediate_key: SigningKey,
}

impl Authority {
    /// A root (20 years) and an intermediate (5 years) for `trust_domain`, both P-256.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate(trust_domain: &TrustDomain, now: UnixMs) -> Result<NewAuthority, AuthorityError> {
        let root_key = SigningKey::generate(Algorithm::P256).map_err(AuthorityError::Key)?;
        let mut params = ca_params(&format!("Farshore root {trust_domain}"), 1)?;
        set_validity(&mut params, now.plus_ms(-BACKDATE_MS), now.plus_ms(ROOT_MS));
        let root_cert: CertificateDer<'static> =
            params.self_signed(&ForRcgen(&root_key)).map_err(AuthorityError::Issue)?.into();
        let (intermediate_cert, intermediate_key) =
            Self::issue_intermediate(trust_domain, &root_cert, &root_key, now)?;
        Ok(NewAuthority { root_cert, root_key, intermediate_cert, intermediate_key })
    }

    /// Another intermediate (5 years, never past the root) under a root.
    ///
    /// # Errors
    /// When the root can't be read, belongs to another key, or there is no randomness.
    pub fn issue_intermediate(
        trust_domain: &TrustDomain,
        root_cert: &CertificateDer<'_>,
        root_key: &SigningKey,
        now: UnixMs,
    ) -> Result<(CertificateDer<'static>, SigningKey), AuthorityError> {
        let root = certificate::parse(root_cert).map_err(AuthorityError::Certificate)?;
        if certificate::public_key_of(&root).map_err(AuthorityError::Certificate)? != *root_key.public() {
            return Err(AuthorityError::OtherKey);
        }
        let key = SigningKey::generate(Algorithm::P256).map_err(AuthorityError::Key)?;
        let mut params = ca_params(&format!("Farshore intermediate {trust_domain}"), 0)?;
        params.use_authority_key_identifier_extension = true;
        let last = certificate::validity_of(&root).not_after;
        set_validity(&mut params, now.plus_ms(-BACKDATE_MS), now.plus_ms(INTERMEDIATE_MS).min(last));
        let issuer =
            rcgen::Issuer::from_ca_cert_der(root_cert, ForRcgen(root_key)).map_err(AuthorityError::Issue)?;
        let cert = params.signed_by(key.public(), &issuer).map_err(AuthorityError::Issue)?;
        Ok((cert.into(), key))
    }
}

/// A certificate that was issued, with its chain.
#[derive(Clone, Debug)]
pub struct IssuedCertificate {
    /// Leaf, intermediate and, for a server, the root: a claim token pins the root, so the server shows it.
    pub chain: Vec<CertificateDer<'static>>,
    /// 32 hex digits.
    pub serial: String,
    pub not_before: UnixMs,
    pub not_after: UnixMs,
    /// The digest of the SubjectPublicKeyInfo.
    pub public_key: Digest,
}

impl IssuedCertificate {
    /// The chain as PEM text, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        chain_to_pem(&self.chain)
    }
}

/// A server's certificate and its new key.
#[derive(Debug)]
pub struct IssuedServer {
    pub certificate: IssuedCertificate,
    pub key: SigningKey,
}

/// The intermediate at work.
#[derive(Debug)]
pub struct Issuer {
    trust_domain: TrustDomain,
    root_cert: CertificateDer<'static>,
    intermediate_cert: CertificateDer<'static>,
    intermediate_key: SigningKey,
    not_after: UnixMs,
}

impl Issuer {
    /// Loads an intermediate, after checking that key, certificate and root belong together.
    ///
    /// # Errors
    /// When they don't, or can't be read.
    pub fn new(
        trust_domain: TrustDomain,
        root_cert: CertificateDer<'static>,
        intermediate_cert: CertificateDer<'static>,
        intermediate_key: SigningKey,
    ) -> Result<Self, AuthorityError> {
        let parsed = certificate::parse(&intermediate_cert).map_err(AuthorityError::Certificate)?;
        if certificate::public_key_of(&parsed).map_err(AuthorityError::Certificate)?
            != *intermediate_key.public()
        {
            return Err(AuthorityError::OtherKey);
        }
        let root = certificate::parse(&root_cert).map_err(AuthorityError::Certificate)?;
        let root_key = certificate::public_key_of(&root).map_err(AuthorityError::Certificate)?;
        root_key
            .verify(parsed.tbs_certificate.as_ref(), parsed.signature_value.data.as_ref())
            .map_err(|_| AuthorityError::OtherRoot)?;
        let not_after = certificate::validity_of(&parsed).not_after;
        Ok(Self { trust_domain, root_cert, intermediate_cert, intermediate_key, not_after })
    }

    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    #[must_use]
    pub const fn root_cert(&self) -> &CertificateDer<'static> {
        &self.root_cert
    }

    #[must_use]
    pub const fn intermediate_cert(&self) -> &CertificateDer<'static> {
        &self.intermediate_cert
    }

    /// What claim tokens pin.
    #[must_use]
    pub fn root_fingerprint(&self) -> Digest {
        fingerprint(&self.root_cert)
    }

    /// A device's certificate for the key of `csr` (PEM or DER), good from five minutes before `now` for `lifetime` after it.
    ///
    /// # Errors
    /// When the request is refused or the intermediate has expired.
    pub fn issue_device(
        &self,
        csr: &[u8],
        tenant: TenantId,
        device: DeviceId,
        now: UnixMs,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let key = certificate::csr_public_key(csr).map_err(AuthorityError::Request)?;
        let mut params = leaf_params(&device.to_string());
        params.subject_alt_names = vec![SanType::URI(
            self.trust_domain.device_uri(tenant, device).try_into().map_err(AuthorityError::Issue)?,
        )];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, &key, now, lifetime, false)
    }

    /// A server's certificate with a new key; each of `names` is a DNS name or an IP address. The chain ends with the root.
    ///
    /// # Errors
    /// When a name is neither, or the intermediate has expired.
    pub fn issue_server(
        &self,
        names: &[String],
        now: UnixMs,
        lifetime: Duration,
    ) -> Result<IssuedServer, AuthorityError> {
        if names.len() > MAX_NAMES {
            return Err(AuthorityError::BadNames);
        }
        let mut params = leaf_params(names.first().ok_or(AuthorityError::BadNames)?);
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_)
                    if rustls_pki_types::DnsName::try_from(name.strip_prefix("*.").unwrap_or(name))
                        .is_ok() =>
                {
                    SanType::DnsName(name.as_str().try_into().map_err(AuthorityError::Issue)?)
                }
                Err(_) => return Err(AuthorityError::BadNames),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = SigningKey::generate(Algorithm::P256).map_err(AuthorityError::Key)?;
        let certificate = self.issue(params, key.public(), now, lifetime, true)?;
        Ok(IssuedServer { certificate, key })
    }

    /// A signer of desired state, with a new key.
    ///
    /// # Errors
    /// When the intermediate has expired.
    pub fn issue_online(&self, now: UnixMs, lifetime: Duration) -> Result<OnlineSigner, AuthorityError> {
        let key = SigningKey::generate(Algorithm::P256).map_err(AuthorityError::Key)?;
        let mut params = leaf_params("Farshore desired state");
        params.subject_alt_names = vec![SanType::URI(
            self.trust_domain.desired_state_uri().try_into().map_err(AuthorityError::Issue)?,
        )];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.to_vec())];
        let issued = self.issue(params, key.public(), now, lifetime, false)?;
        Ok(OnlineSigner::issued(key, issued.chain, issued.not_after))
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        key: &PublicKey,
        now: UnixMs,
        lifetime: Duration,
        with_root: bool,
    ) -> Result<IssuedCertificate, AuthorityError> {
        if now >= self.not_after {
            return Err(AuthorityError::Expired);
        }
        let lifetime_ms = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        let serial = serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let (not_before, not_after) = set_validity(
            &mut params,
            now.plus_ms(-BACKDATE_MS),
            now.plus_ms(lifetime_ms).min(self.not_after),
        );
        let issuer =
            rcgen::Issuer::from_ca_cert_der(&self.intermediate_cert, ForRcgen(&self.intermediate_key))
                .map_err(AuthorityError::Issue)?;
        let leaf = params.signed_by(key, &issuer).map_err(AuthorityError::Issue)?;
        let mut chain = vec![leaf.into(), self.intermediate_cert.clone()];
        if with_root {
            chain.push(self.root_cert.clone());
        }
        Ok(IssuedCertificate {
            chain,
            serial: hex::encode(serial),
            not_before,
            not_after,
            public_key: key.digest(),
        })
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // RFC 5280 gives a common name 64 characters; identity is in the subject alternative name.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name
}

fn ca_params(common_name: &str, path_length: u8) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    Ok(params)
}

fn leaf_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// 126 random bits; the first byte starts with the bits 01, so that the number is positive and always as long.
fn serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = random::bytes::<16>().map_err(AuthorityError::Random)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// Certificates know whole seconds; says what was set.
fn set_validity(params: &mut CertificateParams, not_before: UnixMs, not_after: UnixMs) -> (UnixMs, UnixMs) {
    let whole = |time: UnixMs| UnixMs(time.0.div_euclid(1_000).clamp(0, LAST_SECOND) * 1_000);
    let (not_before, not_after) = (whole(not_before), whole(not_after));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(to_unix_time(not_before).as_secs());
    params.not_after = epoch + Duration::from_secs(to_unix_time(not_after).as_secs());
    (not_before, not_after)
}
