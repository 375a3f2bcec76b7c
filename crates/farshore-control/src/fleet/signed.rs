//! What a device is sent: its desired state, signed by the online key, with the manifests it refers to; and the tenant's release keys.

use farshore_domain::desired::DesiredState;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_protocol::{SignedDesired, SignedKeySet, SignedManifest, TrustedKeys};
use farshore_store::{Driver, StoreError};
use farshore_trust::online::{self, sign_desired};

use crate::app::App;

/// Why a desired state could not be made ready to send.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the desired state could not be read")]
    Store(#[from] StoreError),
    #[error("the desired state could not be signed")]
    Sign(#[from] online::DesiredError),
    #[error("the stored desired state can't be read")]
    Corrupt(#[from] farshore_domain::desired::DesiredError),
}

/// The device's desired state as it is sent; none when nothing was ever assigned to it.
pub async fn desired(
    app: &App,
    tenant: TenantId,
    device: DeviceId,
) -> Result<Option<SignedDesired>, SendError> {
    let db = app.store().system(Driver::Assignments).tenant(tenant);
    let Some(row) = db.desired_state(device).await? else { return Ok(None) };
    let state = DesiredState::parse(&row.body)?;
    let mut manifests = Vec::with_capacity(state.apps.len());
    let safe = state.policy.iter().flat_map(|policy| &policy.safe_mode).map(|safe| &safe.release);
    for release in state.apps.iter().map(|app| &app.release).chain(safe) {
        let release = db.release(&release.uid.to_string()).await?;
        manifests.push(SignedManifest { manifest: release.manifest_bytes, signature: release.signature });
    }
    let signed = sign_desired(&app.online_signer(), row.body)?;
    Ok(Some(SignedDesired { body: signed.body, signature: signed.signature, chain: signed.chain, manifests }))
}

/// The trusted key sets after `version`, which the device has; none when it has them all.
pub async fn trusted_keys(
    app: &App,
    tenant: TenantId,
    version: u64,
) -> Result<Option<TrustedKeys>, SendError> {
    let db = app.store().system(Driver::Assignments).tenant(tenant);
    let sets: Vec<_> = db
        .key_sets_after(version)
        .await?
        .into_iter()
        .map(|row| SignedKeySet { document: row.document, signature: row.signature })
        .collect();
    Ok((!sets.is_empty()).then_some(TrustedKeys { sets }))
}
