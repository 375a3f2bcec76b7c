//! Reading certificates and requests, with caps.

use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::key::{KeyError, MAX_PEM_BYTES, PublicKey, encode_pem};

/// The largest certificate or request that is read, in DER bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// The longest chain that is read.
pub const MAX_CHAIN: usize = 5;

/// Why a certificate, chain or request couldn't be read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(
        "a certificate has at most {MAX_CERTIFICATE_BYTES} bytes, and its PEM text at most {MAX_PEM_BYTES}"
    )]
    TooLarge,
    #[error("a chain holds 1 to {MAX_CHAIN} certificates, this one {0}")]
    ChainLength(usize),
    #[error("the PEM text couldn't be read")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("the bytes are no X.509 certificate")]
    Malformed,
    #[error("the bytes are no certificate request (PKCS#10)")]
    MalformedRequest,
    #[error("the request isn't signed by the key it carries")]
    RequestSignature(#[source] KeyError),
    #[error("the key isn't supported")]
    Key(#[source] KeyError),
}

/// The SHA-256 of a certificate's DER bytes: what is pinned.
#[must_use]
pub fn fingerprint(der: &[u8]) -> Digest {
    Digest::of(der)
}

/// The certificates of a PEM text, in order.
///
/// # Errors
/// When it is too long, broken, empty, or holds more than [`MAX_CHAIN`] certificates.
pub fn chain_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(CertificateError::TooLarge);
    }
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(CertificateError::Pem)?;
    check_chain(&chain)?;
    Ok(chain)
}

/// The PEM text of `chain`, in order.
pub fn chain_to_pem<'a>(chain: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    chain.into_iter().map(|der| encode_pem("CERTIFICATE", der)).collect()
}

pub(crate) fn check_chain(chain: &[CertificateDer<'_>]) -> Result<(), CertificateError> {
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        return Err(CertificateError::ChainLength(chain.len()));
    }
    if chain.iter().any(|der| der.len() > MAX_CERTIFICATE_BYTES) {
        return Err(CertificateError::TooLarge);
    }
    Ok(())
}

/// Parses one certificate that fills `der` entirely.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(CertificateError::TooLarge);
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

/// When a certificate starts and ends to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: UnixMs,
    pub not_after: UnixMs,
}

/// The validity of the certificate `der`.
///
/// # Errors
/// When it can't be read.
pub fn validity(der: &[u8]) -> Result<Validity, CertificateError> {
    Ok(validity_of(&parse(der)?))
}

pub(crate) fn validity_of(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity {
        not_before: UnixMs(validity.not_before.timestamp().saturating_mul(1_000)),
        not_after: UnixMs(validity.not_after.timestamp().saturating_mul(1_000)),
    }
}

/// The one subject alternative name of a certificate, when it is a URI and alone.
pub(crate) fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Some(uri),
        _ => None,
    }
}

pub(crate) fn public_key_of(certificate: &X509Certificate<'_>) -> Result<PublicKey, CertificateError> {
    PublicKey::from_spki_der(certificate.public_key().raw).map_err(CertificateError::Key)
}

/// The digest of a certificate's SubjectPublicKeyInfo: the same as that of the key and of the request it came from.
///
/// # Errors
/// When the certificate can't be read.
pub fn certificate_public_key_digest(der: &[u8]) -> Result<Digest, CertificateError> {
    Ok(Digest::of(parse(der)?.public_key().raw))
}

/// The public key of a certificate request (PEM text or DER), after checking that the request is signed by it. Nothing
/// else of a request is used.
///
/// # Errors
/// When the request is too large or broken, its key unsupported, or its signature wrong.
pub fn csr_public_key(csr: &[u8]) -> Result<PublicKey, CertificateError> {
    if csr.len() > MAX_PEM_BYTES {
        return Err(CertificateError::TooLarge);
    }
    let der = if csr.trim_ascii_start().starts_with(b"-----BEGIN") {
        CertificateSigningRequestDer::from_pem_slice(csr).map_err(CertificateError::Pem)?
    } else {
        CertificateSigningRequestDer::from(csr)
    };
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(CertificateError::TooLarge);
    }
    let request = match X509CertificationRequest::from_der(&der) {
        Ok(([], request)) => request,
        _ => return Err(CertificateError::MalformedRequest),
    };
    let info = &request.certification_request_info;
    let key = PublicKey::from_spki_der(info.subject_pki.raw).map_err(CertificateError::Key)?;
    // The algorithm is the key's: what the request claims about its signature decides nothing.
    key.verify(info.raw, request.signature_value.data.as_ref())
        .map_err(CertificateError::RequestSignature)?;
    Ok(key)
}

/// The digest of the public key of a certificate request, after checking its signature.
///
/// # Errors
/// As [`csr_public_key`].
pub fn csr_public_key_digest(csr: &[u8]) -> Result<Digest, CertificateError> {
    Ok(csr_public_key(csr)?.digest())
}
