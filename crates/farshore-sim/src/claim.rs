//! Claim and renewal, as an agent does them.

use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::device::Hardware;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_trust::certificate;
use farshore_trust::device::{DeviceKey, RequestError};
use farshore_trust::key::KeyError;
use farshore_trust::keyset::SignedKeySet;
use farshore_trust::tls::{self, TlsError};
use farshore_trust::token::{ClaimToken, ClaimTokenError};
use http::StatusCode;
use serde::{Deserialize, Serialize};

pub use crate::channel::ChannelError;
use crate::channel::Route;
use crate::clock;
use crate::identity::{Identity, IdentityError, Realm};

/// Why a device was not claimed or its certificate not renewed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("the claim token is none")]
    Token(#[source] ClaimTokenError),
    #[error("the device's key can't be made")]
    Key(#[source] KeyError),
    #[error("the certificate request can't be made")]
    Request(#[source] RequestError),
    #[error("TLS can't be set up")]
    Tls(#[source] TlsError),
    #[error("the device port did not do it")]
    Port(#[source] ChannelError),
    #[error("the answer is no answer to this")]
    Answer(#[source] serde_json::Error),
    #[error("the trusted keys of the answer are no base64")]
    Base64(#[source] base64::DecodeError),
    #[error("the roots of the answer are not the one that the claim token names")]
    OtherRoot,
    #[error("the claim waits for an approval; ask again in {retry_after_ms} ms")]
    Pending { retry_after_ms: u64 },
    #[error("what was given can't be used")]
    Identity(#[source] IdentityError),
}

#[derive(Serialize)]
struct ClaimBody<'a> {
    token: &'a str,
    csr: &'a str,
    hardware: &'a Hardware,
    labels: &'a Labels,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimedBody {
    tenant: TenantId,
    tenant_name: Name,
    device: DeviceId,
    name: Name,
    certificate: String,
    roots: Vec<String>,
    trust_domain: String,
    #[serde(default)]
    trusted_keys: Vec<KeySetBody>,
}

#[derive(Deserialize)]
struct KeySetBody {
    document: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PendingBody {
    retry_after_ms: u64,
}

#[derive(Serialize)]
struct RenewBody<'a> {
    csr: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewedBody {
    certificate: String,
}

/// Makes a key and claims a device with it, once. Use it where a claim is what is measured; a fleet claims its own.
///
/// # Errors
/// When the token is none, the device port can't be reached or refuses, or what it gives can't be trusted.
pub async fn claim(
    token: &str,
    hardware: &Hardware,
    labels: &Labels,
    device_url: Option<&str>,
) -> Result<Identity, ClaimError> {
    let token = ClaimToken::from_str(token).map_err(ClaimError::Token)?;
    let route = Route::parse(device_url.unwrap_or(token.url())).map_err(ClaimError::Port)?;
    let key = DeviceKey::generate().map_err(ClaimError::Key)?;
    claim_at(&route, &token, &key, hardware, labels).await
}

pub(crate) async fn claim_at(
    route: &Route,
    token: &ClaimToken,
    key: &DeviceKey,
    hardware: &Hardware,
    labels: &Labels,
) -> Result<Identity, ClaimError> {
    let (mut config, root) =
        tls::pinned_by_fingerprint_config(token.ca(), clock::for_tls()).map_err(ClaimError::Tls)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let csr = key.csr_pem().map_err(ClaimError::Request)?;
    let body = ClaimBody { token: token.secret().expose(), csr: &csr, hardware, labels };
    let body = serde_json::to_vec(&body).map_err(ClaimError::Answer)?;
    let (status, answer) =
        route.post(Arc::new(config), "/api/devices/claim", body).await.map_err(ClaimError::Port)?;
    if status == StatusCode::ACCEPTED {
        let pending: PendingBody = serde_json::from_slice(&answer).map_err(ClaimError::Answer)?;
        return Err(ClaimError::Pending { retry_after_ms: pending.retry_after_ms.min(60_000) });
    }
    let claimed: ClaimedBody = serde_json::from_slice(&answer).map_err(ClaimError::Answer)?;
    let keys = claimed
        .trusted_keys
        .iter()
        .map(|set| {
            Ok(SignedKeySet {
                document: STANDARD.decode(&set.document).map_err(ClaimError::Base64)?,
                signature: STANDARD.decode(&set.signature).map_err(ClaimError::Base64)?,
            })
        })
        .collect::<Result<Vec<_>, ClaimError>>()?;
    let realm = Realm::new(claimed.tenant, claimed.tenant_name, claimed.roots, &claimed.trust_domain, keys)
        .map_err(ClaimError::Identity)?;
    // The root of the handshake is proven by the token; others that the answer names ride on it.
    if !root.get().is_some_and(|proven| realm.roots.iter().any(|root| root == proven)) {
        return Err(ClaimError::OtherRoot);
    }
    Identity::new(Arc::new(realm), claimed.device, claimed.name, &key.to_pem(), &claimed.certificate)
        .map_err(ClaimError::Identity)
}

/// Gets the next certificate for the same key.
pub(crate) async fn renew(route: &Route, identity: &Identity) -> Result<(Identity, String), ClaimError> {
    let key = DeviceKey::from_pem(&identity.key_pem).map_err(ClaimError::Key)?;
    let csr = key.csr_pem().map_err(ClaimError::Request)?;
    let body = serde_json::to_vec(&RenewBody { csr: &csr }).map_err(ClaimError::Answer)?;
    let (_, answer) =
        route.post(identity.tls.clone(), "/api/devices/renew", body).await.map_err(ClaimError::Port)?;
    let renewed: RenewedBody = serde_json::from_slice(&answer).map_err(ClaimError::Answer)?;
    let next = Identity::new(
        identity.realm.clone(),
        identity.device,
        identity.name.clone(),
        &identity.key_pem,
        &renewed.certificate,
    )
    .map_err(ClaimError::Identity)?;
    Ok((next, renewed.certificate))
}

/// The certificate chain that an identity presents, as PEM, for keeping it.
pub(crate) fn chain_pem(identity: &Identity) -> Option<String> {
    let resolver = identity.tls.client_auth_cert_resolver.clone();
    let certified = resolver.resolve(&[], &[rustls::SignatureScheme::ECDSA_NISTP256_SHA256])?;
    Some(certificate::chain_to_pem(&certified.cert))
}
