//! Desired state signed by the control plane's online key.
//!
//! The online key says who runs what; it can only *refer* to manifests that release keys signed. Its certificate is
//! short-lived, ends at one of the roots a device holds, and is good for nothing else: not for TLS, not for releases.

use farshore_domain::time::UnixMs;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::X509Certificate;

use crate::certificate::{self, CertificateError};
use crate::clock::to_unix_time;
use crate::identity::TrustDomain;
use crate::key::{Algorithm, KeyError, SigningKey};

/// id-kp-documentSigning (RFC 9336): 1.3.6.1.5.5.7.3.36.
pub(crate) const DOCUMENT_SIGNING: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 36];
/// The same, as DER content.
const DOCUMENT_SIGNING_DER: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x24];
/// What precedes the body in what is signed, so that a signature of this key is of no use elsewhere.
const CONTEXT: &[u8] = b"farshore.dev/desired/v1\n";
/// The largest body that is verified.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// Why desired state couldn't be signed or isn't to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    #[error("desired state has at most {MAX_BODY_BYTES} bytes")]
    TooLarge,
    #[error("no root to trust")]
    NoRoots,
    #[error("a root certificate couldn't be read")]
    BadRoot(#[source] Option<webpki::Error>),
    #[error("the signer's certificate couldn't be read")]
    Certificate(#[source] CertificateError),
    #[error("the signer's certificate doesn't end at a trusted root, has expired or isn't for signing")]
    Chain(#[source] webpki::Error),
    #[error("the signer's certificate isn't for desired state of this trust domain")]
    WrongSigner,
    #[error("the signer's key isn't the certificate's")]
    OtherKey,
    #[error("the signature is wrong")]
    Signature(#[source] KeyError),
    #[error("the signature couldn't be made")]
    Sign(#[source] KeyError),
}

/// Desired state as it travels: exact bytes, raw signature, the signer's chain as DER without the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDesired {
    pub body: Vec<u8>,
    pub signature: Vec<u8>,
    pub chain: Vec<Vec<u8>>,
}

/// The online key with its certificate and the intermediate's.
#[derive(Debug)]
pub struct OnlineSigner {
    key: SigningKey,
    chain: Vec<CertificateDer<'static>>,
    not_after: UnixMs,
}

impl OnlineSigner {
    pub(crate) const fn issued(
        key: SigningKey,
        chain: Vec<CertificateDer<'static>>,
        not_after: UnixMs,
    ) -> Self {
        Self { key, chain, not_after }
    }

    /// Loads a signer that was issued before.
    ///
    /// # Errors
    /// When the chain can't be read or belongs to another key.
    pub fn load(key: SigningKey, chain: Vec<CertificateDer<'static>>) -> Result<Self, DesiredError> {
        certificate::check_chain(&chain).map_err(DesiredError::Certificate)?;
        let leaf = chain.first().ok_or(DesiredError::OtherKey)?;
        let parsed = certificate::parse(leaf).map_err(DesiredError::Certificate)?;
        if certificate::public_key_of(&parsed).map_err(DesiredError::Certificate)? != *key.public() {
            return Err(DesiredError::OtherKey);
        }
        let not_after = certificate::validity_of(&parsed).not_after;
        Ok(Self { key, chain, not_after })
    }

    /// For storing it: the key under the master key, the chain in the clear.
    #[must_use]
    pub const fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Online certificate, then intermediate.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// When the certificate ends; a new one is issued well before.
    #[must_use]
    pub const fn not_after(&self) -> UnixMs {
        self.not_after
    }
}

fn to_sign(body: &[u8]) -> Vec<u8> {
    [CONTEXT, body].concat()
}

/// Signs `body`.
///
/// # Errors
/// When it is too large or the key can't sign.
pub fn sign_desired(signer: &OnlineSigner, body: Vec<u8>) -> Result<SignedDesired, DesiredError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(DesiredError::TooLarge);
    }
    let signature = signer.key.sign(&to_sign(&body)).map_err(DesiredError::Sign)?;
    Ok(SignedDesired { body, signature, chain: signer.chain.iter().map(|der| der.to_vec()).collect() })
}

/// Checks that `signed` was signed for `trust_domain` by a signer whose certificate ends at one of `roots` and is valid
/// at `now`: the greater of the clock and the persisted floor. State that was accepted before and is read back from disk is
/// checked at the time it was accepted: it doesn't go bad when its signer's certificate does.
///
/// # Errors
/// Whatever else it is.
pub fn verify_desired(
    roots: &[CertificateDer<'_>],
    trust_domain: &TrustDomain,
    signed: &SignedDesired,
    now: UnixMs,
) -> Result<(), DesiredError> {
    if signed.body.len() > MAX_BODY_BYTES {
        return Err(DesiredError::TooLarge);
    }
    if roots.is_empty() {
        return Err(DesiredError::NoRoots);
    }
    let anchors: Vec<TrustAnchor<'_>> = roots
        .iter()
        .map(webpki::anchor_from_trusted_cert)
        .collect::<Result<_, _>>()
        .map_err(|e| DesiredError::BadRoot(Some(e)))?;
    let chain: Vec<CertificateDer<'_>> =
        signed.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    certificate::check_chain(&chain).map_err(DesiredError::Certificate)?;
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(DesiredError::WrongSigner);
    };
    EndEntityCert::try_from(leaf)
        .map_err(DesiredError::Chain)?
        .verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            &anchors,
            intermediates,
            to_unix_time(now),
            // webpki asks the same of the intermediate, which names no usage: the leaf's own is checked below.
            KeyUsage::required_if_present(DOCUMENT_SIGNING_DER),
            None,
            None,
        )
        .map_err(DesiredError::Chain)?;
    let parsed = certificate::parse(leaf).map_err(DesiredError::Certificate)?;
    let signs = matches!(parsed.key_usage(), Ok(Some(usage)) if usage.value.digital_signature());
    let for_documents = only_signs_documents(&parsed);
    if !signs
        || !for_documents
        || certificate::only_uri(&parsed) != Some(trust_domain.desired_state_uri().as_str())
    {
        return Err(DesiredError::WrongSigner);
    }
    let key = certificate::public_key_of(&parsed).map_err(DesiredError::Certificate)?;
    if key.algorithm() != Algorithm::P256 {
        return Err(DesiredError::WrongSigner);
    }
    key.verify(&to_sign(&signed.body), &signed.signature).map_err(DesiredError::Signature)
}

fn only_signs_documents(certificate: &X509Certificate<'_>) -> bool {
    let Ok(Some(usage)) = certificate.extended_key_usage() else {
        return false;
    };
    let tls = usage.value.client_auth || usage.value.server_auth;
    !tls && matches!(usage.value.other.as_slice(), [only] if only.as_bytes() == DOCUMENT_SIGNING_DER)
}
