//! Which device is on the other end of a connection to the device port, and whether it may stay.
//!
//! The handshake has verified the chain, and lets an expired certificate through. Here the certificate is judged by the server's clock, and
//! the device it names is looked up: it must exist in that tenant, be claimed, and not be revoked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use farshore_api::ErrorCode;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_store::claims::DeviceStanding;
use farshore_store::{Driver, StoreResult, TenantDb};
use farshore_trust::identity::DeviceIdentity;

use crate::app::App;
use crate::clock::now;
use crate::error::ApiError;

/// What another replica decided is seen this much later at the latest.
const REMEMBERED_MS: i64 = 2_000;
/// The memory is emptied when it holds this many devices; it fills again by itself.
const MAX_REMEMBERED: usize = 50_000;

/// The device certificate that the connection showed, if it showed one. Set once per connection.
#[derive(Clone, Debug, Default)]
pub struct PeerCertificate(pub Option<Arc<DeviceIdentity>>);

/// A claimed device with a valid certificate.
#[derive(Clone, Debug)]
pub struct DevicePeer {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub name: Name,
    /// Of its certificate; nothing where a gateway's key let it in.
    pub identity: Option<Arc<DeviceIdentity>>,
    /// Its tenant's data.
    pub db: TenantDb,
}

/// A device whose certificate may have expired: it may renew, and nothing else.
#[derive(Clone, Debug)]
pub struct RenewingPeer {
    pub identity: Arc<DeviceIdentity>,
}

/// Where devices stand, remembered for two seconds.
#[derive(Debug, Default)]
pub struct Standings {
    known: Mutex<HashMap<(TenantId, DeviceId), Remembered>>,
}

/// What was found, and when; `None`: there is no such device.
type Remembered = (UnixMs, Option<DeviceStanding>);

impl Standings {
    /// Something about this device was decided: look again.
    pub fn forget(&self, tenant: TenantId, device: DeviceId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&(tenant, device));
    }

    /// Where the device stands; `None`: there is none.
    pub async fn of(
        &self,
        app: &App,
        tenant: TenantId,
        device: DeviceId,
        now: UnixMs,
    ) -> StoreResult<Option<DeviceStanding>> {
        let key = (tenant, device);
        if let Some((at, standing)) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && (0..REMEMBERED_MS).contains(&now.since_ms(*at))
        {
            return Ok(standing.clone());
        }
        let standing = app.store().system(Driver::DevicePort).device_standing(tenant, device).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(key, (now, standing.clone()));
        Ok(standing)
    }
}

fn no_certificate() -> ApiError {
    ApiError::new(
        ErrorCode::Unauthenticated,
        "Connect with this device's certificate. A device without one is claimed with POST /api/devices/claim.",
    )
}

pub(super) fn turned_away() -> ApiError {
    ApiError::new(
        ErrorCode::Forbidden,
        "This device is not claimed here, or was revoked. Claim it again with a new key.",
    )
}

/// Lets in a claimed, unrevoked device with a certificate that is valid now.
pub(crate) async fn device_peer(
    app: &App,
    certificate: Option<&PeerCertificate>,
) -> Result<DevicePeer, ApiError> {
    let identity = certificate.and_then(|peer| peer.0.clone()).ok_or_else(no_certificate)?;
    let now = now();
    if identity.expired(now) {
        return Err(ApiError::new(
            ErrorCode::Unauthenticated,
            "This device's certificate has expired. Renew it with POST /api/devices/renew.",
        ));
    }
    let standing = welcome(app, &identity, now).await?;
    Ok(DevicePeer {
        tenant: identity.tenant,
        device: identity.device,
        name: standing.name,
        db: app.store().authorize_device(identity.tenant, identity.device),
        identity: Some(identity),
    })
}

/// Where the device stands, if it is welcome and this certificate is for its current key.
async fn welcome(app: &App, identity: &DeviceIdentity, now: UnixMs) -> Result<DeviceStanding, ApiError> {
    let standing = app.standings().of(app, identity.tenant, identity.device, now).await?;
    let standing = standing.filter(DeviceStanding::is_welcome).ok_or_else(turned_away)?;
    if standing.public_key != identity.public_key.as_bytes() {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "This device has another key by now. Connect with the certificate for it.",
        ));
    }
    Ok(standing)
}

impl DevicePeer {
    /// Whether the device would still be let in, on a connection that has lived for a while.
    pub(crate) async fn check(&self, app: &App) -> Result<(), ApiError> {
        // Nothing that lives for a while is opened with a key.
        let identity = self.identity.as_ref().ok_or_else(no_certificate)?;
        welcome(app, identity, now()).await.map(drop)
    }
}

/// Lets in a device whose certificate is valid, or has not been expired for too long.
pub(crate) fn renewing_peer(
    app: &App,
    certificate: Option<&PeerCertificate>,
) -> Result<RenewingPeer, ApiError> {
    let identity = certificate.and_then(|peer| peer.0.clone()).ok_or_else(no_certificate)?;
    let limit = app.settings().identity.renew_expired_ms;
    if now().since_ms(identity.not_after) > limit {
        return Err(ApiError::new(
            ErrorCode::Unauthenticated,
            format!(
                "This device's certificate expired more than {} days ago. Claim the device again.",
                limit / DAY_MS
            ),
        ));
    }
    Ok(RenewingPeer { identity })
}

/// Both extractors read what the row's guard put there: a handler whose row does not ask for a device gets none.
macro_rules! from_guard {
    ($type:ty) => {
        impl<S: Send + Sync> FromRequestParts<S> for $type {
            type Rejection = ApiError;
            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
                parts.extensions.get::<Self>().cloned().ok_or_else(|| {
                    ApiError::internal("a handler asks for a device that its row does not let in")
                })
            }
        }
    };
}

from_guard!(DevicePeer);
from_guard!(RenewingPeer);
