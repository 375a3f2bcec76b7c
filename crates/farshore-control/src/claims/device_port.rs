//! `POST /api/devices/claim` and `POST /api/devices/renew` on the device port.

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use farshore_api::claim::{ClaimPending, ClaimRequest, Claimed, RenewRequest, Renewed, SignedKeySet};
use farshore_api::{ErrorCode, Problem};
use farshore_domain::device::Hardware;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_store::claims::{
    ClaimAttempt, ClaimOutcome, ClaimRefusal, NewCertificate, Renewal, RenewalOutcome, RenewalRefusal,
};
use farshore_store::{Driver, SecretHash};
use farshore_trust::certificate::csr_public_key_digest;
use farshore_trust::token::hash_secret;

use super::RenewingPeer;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::route::{Access, Route, route};

/// A device that is held asks again after this long.
const ASK_AGAIN_MS: u64 = 5_000;
/// Neither a secret nor a certificate request is longer.
const MAX_TOKEN_BYTES: usize = 256;
const MAX_CSR_BYTES: usize = 16 * 1024;
/// What a device says of itself is cut here.
const MAX_FACT_CHARACTERS: usize = 200;

/// The noun's part of the device port's OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(claim, renew))]
pub struct DevicePortDocs;

/// The noun's rows on the device port.
#[must_use]
pub fn device_port_routes() -> Vec<Route> {
    vec![
        route(Method::POST, "/api/devices/claim", Access::Public, claim),
        route(Method::POST, "/api/devices/renew", Access::RenewingDevice, renew),
    ]
}

/// A device that shows a claim token becomes one of ours, or waits for an approval.
#[utoipa::path(post, path = "/api/devices/claim", tag = "device-port", request_body = ClaimRequest,
    responses((status = 200, body = Claimed), (status = 202, body = ClaimPending), (status = "4XX", body = Problem)))]
async fn claim(State(app): State<App>, Body(request): Body<ClaimRequest>) -> ApiResult<Response> {
    let refused = |detail: &str| ApiError::new(ErrorCode::Forbidden, detail);
    if request.token.len() > MAX_TOKEN_BYTES {
        return Err(ApiError::field("token", "is the secret part of a claim token"));
    }
    let public_key = key_of(&request.csr)?;
    let hardware = cut(request.hardware);
    let attempt = ClaimAttempt {
        token: SecretHash(*hash_secret(&request.token).as_bytes()),
        public_key,
        hardware: &hardware,
        labels: &request.labels,
    };
    let now = now();
    let issue = issuer(&app, &request.csr, now);
    let outcome = app.store().system(Driver::DevicePort).claim(&attempt, &issue, now).await?;
    app.events_written();
    let refusal = match outcome {
        ClaimOutcome::Claimed { tenant, tenant_name, device, name, chain } => {
            app.standings().forget(tenant, device);
            app.fleet().reported(tenant, device);
            let claimed = Claimed {
                tenant: tenant.0,
                tenant_name,
                device: device.0,
                name,
                certificate: chain,
                roots: app.authority().roots_pem().to_vec(),
                trust_domain: app.authority().issuer().trust_domain().as_str().to_owned(),
                trusted_keys: trusted_keys(&app, tenant).await?,
                server_time: now,
            };
            return Ok(Json(claimed).into_response());
        }
        ClaimOutcome::Pending { .. } => {
            let pending = ClaimPending { state: "pending".to_owned(), retry_after_ms: ASK_AGAIN_MS };
            let retry = [(header::RETRY_AFTER, (ASK_AGAIN_MS / 1_000).to_string())];
            return Ok((StatusCode::ACCEPTED, retry, Json(pending)).into_response());
        }
        ClaimOutcome::Refused(refusal) => refusal,
    };
    tracing::info!(?refusal, hostname = hardware.hostname, "a claim was refused");
    Err(match refusal {
        ClaimRefusal::UnknownToken => refused("This claim token is not known here. Ask for a new one."),
        ClaimRefusal::TokenExpired => refused("This claim token has ended. Ask for a new one."),
        ClaimRefusal::TokenRevoked => refused("This claim token was revoked. Ask for a new one."),
        ClaimRefusal::TokenUsedUp => {
            refused("This claim token has been used as often as it may be. Ask for a new one.")
        }
        ClaimRefusal::KeyRevoked => refused(
            "This device's key was revoked. Reset the device, so that it makes a new one, and claim it again.",
        ),
        ClaimRefusal::Rejected(rule) => refused(&format!("Claim rule {rule} rejects this device.")),
        ClaimRefusal::TooManyLabels => {
            ApiError::field("labels", "are too many together with those of the token")
        }
    })
}

/// A device gets its next certificate.
#[utoipa::path(post, path = "/api/devices/renew", tag = "device-port", request_body = RenewRequest,
    responses((status = 200, body = Renewed), (status = "4XX", body = Problem)))]
async fn renew(
    State(app): State<App>,
    RenewingPeer { identity }: RenewingPeer,
    Body(request): Body<RenewRequest>,
) -> ApiResult<Json<Renewed>> {
    let next_key = key_of(&request.csr)?;
    let now = now();
    let renewal = Renewal {
        tenant: identity.tenant,
        device: identity.device,
        presented_serial: &identity.serial,
        presented_key: *identity.public_key.as_bytes(),
        next_key,
    };
    let issue = issuer(&app, &request.csr, now);
    match app.store().system(Driver::DevicePort).renew_certificate(&renewal, &issue).await? {
        RenewalOutcome::Renewed { chain } => {
            // The key may be another one now: the old one's certificates end here.
            app.standings().forget(identity.tenant, identity.device);
            Ok(Json(Renewed {
                certificate: chain,
                roots: app.authority().roots_pem().to_vec(),
                trust_domain: app.authority().issuer().trust_domain().as_str().to_owned(),
                server_time: now,
            }))
        }
        RenewalOutcome::Refused(refusal) => Err(match refusal {
            RenewalRefusal::NotClaimed => ApiError::new(
                ErrorCode::Forbidden,
                "This device is not claimed here, or was revoked. Claim it again with a new key.",
            ),
            RenewalRefusal::OtherKey => ApiError::new(
                ErrorCode::Forbidden,
                "The certificate of this connection is not for the device's current key.",
            ),
            RenewalRefusal::BadKey => {
                ApiError::field("csr", "is for a key that was revoked or is another device's")
            }
        }),
    }
}

fn key_of(csr: &str) -> Result<[u8; 32], ApiError> {
    if csr.len() > MAX_CSR_BYTES {
        return Err(ApiError::field("csr", "is no certificate request of ours: it is too long"));
    }
    match csr_public_key_digest(csr.as_bytes()) {
        Ok(digest) => Ok(*digest.as_bytes()),
        Err(error) => {
            tracing::debug!(error = crate::error::chain(&error), "a certificate request was refused");
            Err(ApiError::field(
                "csr",
                "is a PKCS#10 request in PEM for a P-256 or Ed25519 key, signed with that key",
            ))
        }
    }
}

type IssueError = Box<dyn std::error::Error + Send + Sync>;

fn issuer<'a>(
    app: &'a App,
    csr: &'a str,
    now: farshore_domain::time::UnixMs,
) -> impl Fn(TenantId, DeviceId) -> Result<NewCertificate, IssueError> + Send + Sync + 'a {
    move |tenant, device| {
        app.authority().issue_device(csr.as_bytes(), tenant, device, now).map_err(Into::into)
    }
}

async fn trusted_keys(app: &App, tenant: TenantId) -> ApiResult<Vec<SignedKeySet>> {
    use base64::Engine as _;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let sets = app.store().system(Driver::DevicePort).tenant(tenant).key_sets_after(0).await?;
    Ok(sets
        .iter()
        .map(|set| SignedKeySet { document: base64(&set.document), signature: base64(&set.signature) })
        .collect())
}

/// What a device says of itself, cut to a length that people can read.
fn cut(mut hardware: Hardware) -> Hardware {
    for fact in [
        &mut hardware.hostname,
        &mut hardware.os,
        &mut hardware.arch,
        &mut hardware.variant,
        &mut hardware.kernel,
        &mut hardware.os_name,
        &mut hardware.model,
    ] {
        // Control characters have no place in a fact, and PostgreSQL takes no NUL in a text.
        *fact = fact.chars().filter(|c| !c.is_control()).take(MAX_FACT_CHARACTERS).collect();
    }
    hardware
}
