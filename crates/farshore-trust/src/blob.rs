//! Signatures of files, as cosign makes them with a key.
//!
//! Two forms are read. **Detached**: base64 of the raw signature, nothing else but trailing white space (`cosign
//! sign-blob --key` before version 3, or `openssl dgst -sha256 -sign | base64 -w0`). **Bundle**: sigstore's JSON, version
//! 0.3 (`cosign sign-blob --key --bundle`), with a `messageSignature` over the file's bytes. Formats:
//! <https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto>.
//!
//! A bundle's digest and hint help nobody to trust: the digest is recomputed and must be equal, the hint is not looked
//! at, and entries of a transparency log are neither required nor believed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::digest::Digest;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::key::{KeyError, KeyId, PublicKey, SigningKey};

/// The largest signature file that is read.
pub const MAX_SIGNATURE_FILE_BYTES: usize = 1024 * 1024;
/// The largest raw signature; a P-256 signature has at most 72 bytes.
const MAX_SIGNATURE_BYTES: usize = 512;
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const MEDIA_TYPE_OLDER_SPELLING: &str = "application/vnd.dev.sigstore.bundle+json;version=0.3";
const SHA2_256: &str = "SHA2_256";

/// Why a signature file doesn't prove anything about a file.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("no trusted key to verify with")]
    NoKeys,
    #[error("a signature file has at most {MAX_SIGNATURE_FILE_BYTES} bytes")]
    TooLarge,
    #[error("the signature file is empty")]
    Empty,
    #[error("the detached signature isn't base64")]
    NotBase64(#[source] Option<base64::DecodeError>),
    #[error("the bundle couldn't be read")]
    BadBundle(#[source] serde_json::Error),
    #[error("the bundle's media type isn't a sigstore bundle of version 0.3")]
    UnknownMediaType,
    #[error("the bundle holds both a message signature and an envelope")]
    TwoContents,
    #[error("the bundle holds an envelope (an attestation), not a signature of the file")]
    Envelope,
    #[error("the bundle holds no signature")]
    NoSignature,
    #[error("the bundle carries a certificate, but the trusted keys decide: sign with a key")]
    CertificateMaterial,
    #[error("the bundle doesn't say that a public key verifies it")]
    NoPublicKey,
    #[error("the bundle's digest is of an unknown algorithm")]
    UnknownDigest,
    #[error("the bundle is about another file: its digest differs")]
    DigestMismatch,
    #[error("no trusted key made this signature of this file")]
    NotTrusted,
    #[error("the signature couldn't be made")]
    Sign(#[source] KeyError),
    #[error("the bundle couldn't be written")]
    Write(#[source] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bundle {
    media_type: String,
    verification_material: VerificationMaterial,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_signature: Option<MessageSignature>,
    #[serde(default, skip_serializing)]
    dsse_envelope: Option<IgnoredAny>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VerificationMaterial {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<PublicKeyIdentifier>,
    #[serde(default, skip_serializing)]
    certificate: Option<IgnoredAny>,
    #[serde(default, skip_serializing)]
    x509_certificate_chain: Option<IgnoredAny>,
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "allowed to be there, never believed")]
    tlog_entries: Option<IgnoredAny>,
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "allowed to be there, never believed")]
    timestamp_verification_data: Option<IgnoredAny>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicKeyIdentifier {
    #[serde(default)]
    hint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageSignature {
    message_digest: MessageDigest,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageDigest {
    algorithm: String,
    digest: String,
}

/// Checks that one of `keys` made `signature_file` (either form) for `message`, and says which.
///
/// # Errors
/// Whatever isn't exactly a valid signature by one of `keys`: there is no lenient path. No keys means no trust.
pub fn verify_blob(keys: &[PublicKey], message: &[u8], signature_file: &[u8]) -> Result<KeyId, BlobError> {
    if keys.is_empty() {
        return Err(BlobError::NoKeys);
    }
    if signature_file.len() > MAX_SIGNATURE_FILE_BYTES {
        return Err(BlobError::TooLarge);
    }
    let signature = match signature_file.trim_ascii_start().first() {
        None => return Err(BlobError::Empty),
        Some(b'{') => bundle_signature(message, signature_file)?,
        Some(_) => decode_signature(signature_file.trim_ascii_end())?,
    };
    keys.iter()
        .find(|key| key.verify(message, &signature).is_ok())
        .map(PublicKey::key_id)
        .ok_or(BlobError::NotTrusted)
}

fn decode_signature(text: &[u8]) -> Result<Vec<u8>, BlobError> {
    if text.len() > MAX_SIGNATURE_BYTES * 2 {
        return Err(BlobError::NotBase64(None));
    }
    let signature = STANDARD.decode(text).map_err(|e| BlobError::NotBase64(Some(e)))?;
    if signature.is_empty() {
        return Err(BlobError::NoSignature);
    }
    Ok(signature)
}

fn bundle_signature(message: &[u8], json: &[u8]) -> Result<Vec<u8>, BlobError> {
    // `from_slice` refuses anything after the value, and the derived readers refuse fields that come twice.
    let bundle: Bundle = serde_json::from_slice(json).map_err(BlobError::BadBundle)?;
    if bundle.media_type != MEDIA_TYPE && bundle.media_type != MEDIA_TYPE_OLDER_SPELLING {
        return Err(BlobError::UnknownMediaType);
    }
    let material = &bundle.verification_material;
    if material.certificate.is_some() || material.x509_certificate_chain.is_some() {
        return Err(BlobError::CertificateMaterial);
    }
    if material.public_key.is_none() {
        return Err(BlobError::NoPublicKey);
    }
    let signed = match (bundle.message_signature, bundle.dsse_envelope) {
        (Some(_), Some(_)) => return Err(BlobError::TwoContents),
        (None, Some(_)) => return Err(BlobError::Envelope),
        (None, None) => return Err(BlobError::NoSignature),
        (Some(signed), None) => signed,
    };
    if signed.message_digest.algorithm != SHA2_256 {
        return Err(BlobError::UnknownDigest);
    }
    let digest = STANDARD.decode(&signed.message_digest.digest).map_err(|e| BlobError::NotBase64(Some(e)))?;
    if digest != Digest::of(message).as_bytes() {
        return Err(BlobError::DigestMismatch);
    }
    decode_signature(signed.signature.as_bytes())
}

/// Signs `message`; the answer is what `cosign sign-blob --key` writes: base64 without a line end.
///
/// # Errors
/// When the key can't sign.
pub fn sign_detached(key: &SigningKey, message: &[u8]) -> Result<String, BlobError> {
    Ok(STANDARD.encode(key.sign(message).map_err(BlobError::Sign)?))
}

/// Signs `message`; the answer is a sigstore bundle of version 0.3 without log entries.
///
/// # Errors
/// When the key can't sign.
pub fn sign_bundle(key: &SigningKey, message: &[u8]) -> Result<String, BlobError> {
    let bundle = Bundle {
        media_type: MEDIA_TYPE.to_owned(),
        verification_material: VerificationMaterial {
            public_key: Some(PublicKeyIdentifier { hint: STANDARD.encode(key.public().digest().as_bytes()) }),
            certificate: None,
            x509_certificate_chain: None,
            tlog_entries: None,
            timestamp_verification_data: None,
        },
        message_signature: Some(MessageSignature {
            message_digest: MessageDigest {
                algorithm: SHA2_256.to_owned(),
                digest: STANDARD.encode(Digest::of(message).as_bytes()),
            },
            signature: sign_detached(key, message)?,
        }),
        dsse_envelope: None,
    };
    serde_json::to_string(&bundle).map_err(BlobError::Write)
}
