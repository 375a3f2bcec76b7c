//! The first registration, and the renewal of what it gave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farshore_domain::device::Hardware;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_trust::clock::FlooredClock;
use farshore_trust::device::{DeviceKey, RequestError};
use farshore_trust::identity::TrustDomain;
use farshore_trust::tls::{TlsError, pinned_by_fingerprint_config};
use farshore_trust::token::ClaimToken;
use http::StatusCode;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::http::{Endpoint, HttpError};
use crate::identity::{Identity, IdentityFileError, Registration};
use crate::runner::Signed;

/// Why a claim or renewal did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("the control plane can't be reached")]
    Http(#[source] HttpError),
    #[error("TLS can't be set up")]
    Tls(#[source] TlsError),
    #[error("the certificate request can't be made")]
    Request(#[source] RequestError),
    /// Asking again will not help: a bad token, a revoked or rejected device.
    #[error("the control plane refused: {0}")]
    Refused(String),
    #[error("the control plane asks to come back later: {0}")]
    Later(String),
    #[error("the control plane's answer can't be read")]
    Answer(#[source] serde_json::Error),
    #[error("the control plane's answer can't be used")]
    Identity(#[source] IdentityFileError),
}

impl ClaimError {
    /// Whether trying again is of no use.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

#[derive(Serialize)]
struct ClaimBody<'a> {
    token: &'a str,
    csr: &'a str,
    hardware: &'a Hardware,
    labels: &'a BTreeMap<String, String>,
}

/// What a claimed device is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claimed {
    pub tenant: TenantId,
    pub tenant_name: Name,
    pub device: DeviceId,
    pub name: String,
    /// PEM: leaf, then intermediate.
    pub certificate: String,
    pub roots: Vec<String>,
    pub trust_domain: TrustDomain,
    #[serde(default)]
    pub trusted_keys: Vec<Signed>,
    pub server_time: UnixMs,
}

/// How one attempt ended.
#[derive(Debug)]
pub enum ClaimAnswer {
    Claimed(Box<Claimed>),
    /// Held until a person approves; ask again with the same key and token.
    Pending {
        retry_after: Duration,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pending {
    #[serde(default)]
    retry_after_ms: u64,
}

/// Asks once.
///
/// # Errors
/// A [`ClaimError`].
pub async fn claim_once(
    token: &ClaimToken,
    key: &DeviceKey,
    hardware: &Hardware,
    labels: &BTreeMap<String, String>,
    clock: &FlooredClock,
) -> Result<ClaimAnswer, ClaimError> {
    let endpoint = Endpoint::parse(token.url()).map_err(ClaimError::Http)?;
    let (mut tls, _root) =
        pinned_by_fingerprint_config(token.ca(), clock.clone()).map_err(ClaimError::Tls)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let csr = key.csr_pem().map_err(ClaimError::Request)?;
    let body = ClaimBody { token: token.secret().expose(), csr: &csr, hardware, labels };
    let answer =
        endpoint.post_json(Arc::new(tls), "/api/devices/claim", &body).await.map_err(ClaimError::Http)?;
    match answer.status {
        StatusCode::OK => {
            let claimed = serde_json::from_slice(&answer.body).map_err(ClaimError::Answer)?;
            Ok(ClaimAnswer::Claimed(Box::new(claimed)))
        }
        StatusCode::ACCEPTED => {
            let pending: Pending = serde_json::from_slice(&answer.body).map_err(ClaimError::Answer)?;
            let retry_after = Duration::from_millis(pending.retry_after_ms.clamp(200, 300_000));
            Ok(ClaimAnswer::Pending { retry_after })
        }
        status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            Err(ClaimError::Refused(answer.problem()))
        }
        _ => {
            if let Some(wait) = answer.retry_after_ms {
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            Err(ClaimError::Later(answer.problem()))
        }
    }
}

/// Asks until the device is claimed or refused for good.
///
/// # Errors
/// A [`ClaimError`] that is final.
pub async fn claim(
    token: &ClaimToken,
    key: &DeviceKey,
    hardware: &Hardware,
    labels: &BTreeMap<String, String>,
    clock: &FlooredClock,
) -> Result<Claimed, ClaimError> {
    let mut attempt = 0;
    loop {
        let wait = match claim_once(token, key, hardware, labels, clock).await {
            Ok(ClaimAnswer::Claimed(claimed)) => return Ok(*claimed),
            Ok(ClaimAnswer::Pending { retry_after }) => {
                tracing::info!(
                    retry_ms = retry_after.as_millis(),
                    "the claim is held until somebody approves it"
                );
                attempt = 0;
                retry_after
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                let wait = backoff(attempt);
                attempt += 1;
                tracing::warn!(error = %crate::chain(&error), retry_ms = wait.as_millis(), "not claimed yet");
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Full jitter: anything between nothing and an exponentially growing cap, from half a second to a minute.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let cap = 500_u64.saturating_mul(1 << attempt.min(16)).min(60_000);
    Duration::from_millis(rand::rng().random_range(0..=cap))
}

impl Claimed {
    /// The identity this claim gave, for the device port that the token names.
    ///
    /// # Errors
    /// When what was told doesn't fit together.
    pub fn into_identity(
        self,
        url: &str,
        key: DeviceKey,
        clock: FlooredClock,
        folder: Option<&std::path::Path>,
    ) -> Result<Identity, ClaimError> {
        clock.raise_floor(self.server_time);
        let registration = Registration {
            tenant: self.tenant,
            tenant_name: self.tenant_name,
            device: self.device,
            name: self.name,
            trust_domain: self.trust_domain,
            url: url.to_owned(),
        };
        Identity::establish(registration, key, &self.certificate, &self.roots, clock, folder)
            .map_err(ClaimError::Identity)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Renewed {
    certificate: String,
    server_time: UnixMs,
}

/// Renews the certificate, with the same key; also with one that has expired.
///
/// # Errors
/// A [`ClaimError`].
pub async fn renew(identity: &Identity) -> Result<(), ClaimError> {
    #[derive(Serialize)]
    struct Body<'a> {
        csr: &'a str,
    }
    let csr = identity.key().csr_pem().map_err(ClaimError::Request)?;
    let tls = identity.credentials().tls();
    let answer = identity.endpoint.post_json(tls, "/api/devices/renew", &Body { csr: &csr }).await;
    let answer = answer.map_err(ClaimError::Http)?;
    match answer.status {
        StatusCode::OK => {
            let renewed: Renewed = serde_json::from_slice(&answer.body).map_err(ClaimError::Answer)?;
            identity.replace(&renewed.certificate).map_err(ClaimError::Identity)?;
            identity.clock.raise_floor(renewed.server_time.min(identity.credentials().not_after));
            Ok(())
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ClaimError::Refused(answer.problem())),
        _ => Err(ClaimError::Later(answer.problem())),
    }
}

/// Renews when it is time, or when `nudge` says that the certificate was not taken. Never ends by itself.
pub(crate) async fn keep_renewed(identity: Arc<Identity>, nudge: Arc<tokio::sync::Notify>) {
    loop {
        let due = identity.credentials().renew_at();
        let wait = due.since_ms(identity.clock.now()).clamp(0, 60_000);
        if wait > 0 {
            // A minute at most: the wall clock may be set meanwhile.
            let nudged =
                tokio::time::timeout(Duration::from_millis(wait.unsigned_abs()), nudge.notified()).await;
            if nudged.is_err() && identity.clock.now() < due {
                continue;
            }
        }
        let mut attempt = 2;
        while let Err(error) = renew(&identity).await {
            // Also after a refusal, rarely: a device that was revoked by mistake comes back unattended.
            let wait = backoff(attempt) + Duration::from_secs(if error.is_final() { 60 } else { 1 });
            attempt += 1;
            tracing::warn!(error = %crate::chain(&error), retry_ms = wait.as_millis(), "the certificate is not renewed yet");
            tokio::time::sleep(wait).await;
        }
        tracing::info!(not_after_ms = identity.credentials().not_after.0, "the certificate was renewed");
    }
}
