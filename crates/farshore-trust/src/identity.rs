//! Who a certificate says somebody is: SPIFFE ids in the one subject alternative name.

use std::fmt;
use std::str::FromStr;

use farshore_domain::digest::Digest;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};

use crate::certificate::{self, CertificateError};

/// The text is no trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a trust domain has 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
pub struct TrustDomainError;

/// The name of an installation's certificates, as in `spiffe://<trust-domain>/…`
/// (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Checks `text` and makes a trust domain of it.
    ///
    /// # Errors
    /// When it is empty, too long or has other characters.
    pub fn new(text: impl Into<String>) -> Result<Self, TrustDomainError> {
        let text = text.into();
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
        if text.is_empty() || text.len() > 255 || !plain { Err(TrustDomainError) } else { Ok(Self(text)) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn device_uri(&self, tenant: TenantId, device: DeviceId) -> String {
        format!("spiffe://{self}/tenant/{tenant}/device/{device}")
    }

    pub(crate) fn desired_state_uri(&self) -> String {
        format!("spiffe://{self}/control/desired-state")
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;
    fn from_str(text: &str) -> Result<Self, TrustDomainError> {
        Self::new(text)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = TrustDomainError;
    fn try_from(text: String) -> Result<Self, TrustDomainError> {
        Self::new(text)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0
    }
}

/// Why a certificate names no device.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate couldn't be read")]
    Certificate(#[source] CertificateError),
    #[error("the certificate isn't a device's")]
    NotADevice,
    #[error("the certificate belongs to trust domain {0}")]
    OtherTrustDomain(TrustDomain),
}

/// What a device's certificate says. It proves nothing by itself: the chain is verified in the handshake
/// ([`crate::tls`]), which lets an expired certificate through, and whether it is revoked is the caller's to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceIdentity {
    pub trust_domain: TrustDomain,
    pub tenant: TenantId,
    pub device: DeviceId,
    /// 32 hex digits.
    pub serial: String,
    pub not_before: UnixMs,
    pub not_after: UnixMs,
    /// The digest of the SubjectPublicKeyInfo.
    pub public_key: Digest,
}

impl DeviceIdentity {
    /// Reads a peer's certificate, which must belong to `trust_domain`.
    ///
    /// # Errors
    /// When it can't be read, isn't a device's or belongs to another trust domain.
    pub fn from_certificate(der: &[u8], trust_domain: &TrustDomain) -> Result<Self, IdentityError> {
        let identity = Self::parse(der)?;
        if identity.trust_domain == *trust_domain {
            Ok(identity)
        } else {
            Err(IdentityError::OtherTrustDomain(identity.trust_domain))
        }
    }

    /// Reads a device's certificate, whatever its trust domain: for a device looking at its own.
    ///
    /// # Errors
    /// When it can't be read or isn't a device's.
    pub fn parse(der: &[u8]) -> Result<Self, IdentityError> {
        let parsed = certificate::parse(der).map_err(IdentityError::Certificate)?;
        let uri = certificate::only_uri(&parsed).ok_or(IdentityError::NotADevice)?;
        let (trust_domain, tenant, device) = parse_device_uri(uri).ok_or(IdentityError::NotADevice)?;
        // One spelling only: what would be written for these ids is what must be there.
        if trust_domain.device_uri(tenant, device) != uri {
            return Err(IdentityError::NotADevice);
        }
        let validity = certificate::validity_of(&parsed);
        Ok(Self {
            trust_domain,
            tenant,
            device,
            serial: hex::encode(parsed.raw_serial()),
            not_before: validity.not_before,
            not_after: validity.not_after,
            public_key: Digest::of(parsed.public_key().raw),
        })
    }

    /// Whether the certificate has run out: good for renewal and nothing else.
    #[must_use]
    pub fn expired(&self, now: UnixMs) -> bool {
        now > self.not_after
    }
}

fn parse_device_uri(uri: &str) -> Option<(TrustDomain, TenantId, DeviceId)> {
    let (domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    let (tenant, device) = path.strip_prefix("tenant/")?.split_once("/device/")?;
    Some((TrustDomain::new(domain).ok()?, tenant.parse().ok()?, device.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_domains_are_plain() {
        assert!(TrustDomain::new("fleet.example").is_ok());
        for bad in ["", "A", "a/b", "a b", "ä", "a@b", &"a".repeat(256)] {
            assert!(TrustDomain::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_device_uri_is_one() {
        let uri = TrustDomain::new("d")
            .unwrap()
            .device_uri(TenantId(uuid::Uuid::from_u128(1)), DeviceId(uuid::Uuid::from_u128(2)));
        assert!(parse_device_uri(&uri).is_some());
        for bad in [
            "",
            "spiffe://d",
            "spiffe://d/control/desired-state",
            &uri.replace("spiffe", "https"),
            &format!("{uri}/x"),
            &uri.replace("tenant", "user"),
        ] {
            assert!(parse_device_uri(bad).is_none(), "{bad}");
        }
    }
}
