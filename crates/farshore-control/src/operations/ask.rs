//! Whether a device gets an operation, and the operation that it gets.

use std::collections::BTreeSet;

use farshore_api::operation::Ask;
use farshore_domain::desired::DesiredState;
use farshore_domain::device::Lifecycle;
use farshore_domain::id::{DeviceId, OperationId};
use farshore_domain::name::Name;
use farshore_domain::operation::{
    DEFAULT_EXPIRY_SECONDS, DRAIN_CAPABILITY, EXEC_CAPABILITY, EXEC_INSIDE_CAPABILITY_2, Kind,
    MAX_EXPIRY_SECONDS, MAX_REASON, OPERATIONS_CAPABILITY, REBOOT_CAPABILITY, Refusal, permitted,
};
use farshore_domain::policy::{OperationRules, PolicySpec};
use farshore_domain::time::UnixMs;
use farshore_store::fleet::FleetDevice;
use farshore_store::objects::{self, ObjectKind, Stored};
use farshore_store::operations::NewOperation;
use farshore_store::{StoreResult, TenantDb, db::Tx};
use uuid::Uuid;

use crate::error::{ApiError, ApiResult};
use crate::extract::check_text;

/// Everything that decides which devices get what.
pub(super) struct Fleet {
    pub(super) devices: Vec<FleetDevice>,
    apps: BTreeSet<(DeviceId, Name)>,
    gateways: BTreeSet<DeviceId>,
    policies: Vec<Stored<PolicySpec>>,
}

impl Fleet {
    pub(super) async fn load(db: &TenantDb, tx: &mut Tx) -> StoreResult<Self> {
        Ok(Self {
            devices: db.fleet_devices(tx).await?,
            apps: db.fleet_apps(tx).await?.into_iter().map(|app| (app.device, app.app)).collect(),
            gateways: db.gateway_ids(tx).await?,
            policies: objects::all_in::<PolicySpec>(tx, db.tenant().0, ObjectKind::Policy).await?,
        })
    }

    /// What the device's policy says of operations.
    pub(super) fn rules(&self, device: &FleetDevice) -> StoreResult<OperationRules> {
        let rules = crate::fleet::merged(&self.policies, &device.labels)?.rules.operations;
        // As the device is told of it.
        Ok(rules.inside_for(|word| device.capabilities.iter().any(|has| has == word)))
    }

    /// Whether this device gets it.
    pub(super) fn judge(
        &self,
        device: &FleetDevice,
        kind: Kind,
        ask: &Ask,
    ) -> StoreResult<Result<(), Refusal>> {
        let refuse = |code: &str, message: String| Ok(Err(Refusal { code: code.to_owned(), message }));
        match device.lifecycle {
            Lifecycle::Claimed | Lifecycle::Cordoned => {}
            Lifecycle::Draining | Lifecycle::Drained if kind != Kind::Drain => {}
            other => return refuse("Lifecycle", format!("the device is {other}")),
        }
        let needs: &[&str] = match kind {
            Kind::Exec if ask.app.is_some() => {
                &[OPERATIONS_CAPABILITY, EXEC_CAPABILITY, EXEC_INSIDE_CAPABILITY_2]
            }
            Kind::Exec => &[OPERATIONS_CAPABILITY, EXEC_CAPABILITY],
            Kind::Drain => &[DRAIN_CAPABILITY],
            Kind::Reboot => &[OPERATIONS_CAPABILITY, REBOOT_CAPABILITY],
            Kind::Rollback | Kind::Inventory => &[OPERATIONS_CAPABILITY],
            Kind::Logs if ask.arguments.follow_seconds.is_some() => &[OPERATIONS_CAPABILITY],
            _ => &[],
        };
        if let Some(missing) = needs.iter().find(|word| !device.capabilities.iter().any(|has| has == **word))
        {
            return refuse(
                "Unsupported",
                format!("the device does not do {kind}: it does not say {missing}"),
            );
        }
        if kind == Kind::ForceSync && !self.gateways.contains(&device.id) {
            return refuse("NoGateway", "no gateway of this device has sent anything yet".to_owned());
        }
        if let Some(app) = &ask.app
            && !self.apps.contains(&(device.id, app.clone()))
        {
            return refuse("NoApp", format!("{app} is not on the device"));
        }
        Ok(permitted(kind, ask.app.as_ref(), &ask.arguments, &ask.reason, &self.rules(device)?))
    }
}

/// Whether the device's desired state says of operations what its policies say now.
pub(super) async fn has_been_told(
    db: &TenantDb,
    device: DeviceId,
    rules: &OperationRules,
) -> StoreResult<bool> {
    let stored = db.desired_state(device).await?;
    // What can't be read was written by another version; the driver writes it anew.
    let told = stored.and_then(|row| DesiredState::parse(&row.body).ok()).and_then(|state| state.policy);
    Ok(told.map(|policy| policy.rules.operations).unwrap_or_default() == *rules)
}

/// Checks what does not depend on the device.
pub(super) fn check(kind: Kind, ask: &Ask) -> ApiResult<()> {
    check_text("reason", &ask.reason, MAX_REASON)?;
    let wrong = |error: farshore_domain::operation::BadOperation| ApiError::field(error.field, error.what);
    ask.arguments.check(kind, ask.app.as_ref()).map_err(wrong)?;
    ask.budget.check().map_err(wrong)?;
    if ask.expires_in_seconds.is_some_and(|seconds| !(10..=MAX_EXPIRY_SECONDS).contains(&seconds)) {
        return Err(ApiError::field("expiresInSeconds", format!("is 10 to {MAX_EXPIRY_SECONDS}")));
    }
    Ok(())
}

/// The operation of one device. Alone, what disturbs nobody need not wait for its turn.
pub(super) fn operation(
    kind: Kind,
    ask: &Ask,
    rules: &OperationRules,
    request: Option<(Uuid, u32)>,
    now: UnixMs,
) -> NewOperation {
    // Who wants a restart wants it now.
    let otherwise = if kind == Kind::RestartApp { 15 * 60 } else { DEFAULT_EXPIRY_SECONDS };
    let expires = i64::from(ask.expires_in_seconds.unwrap_or(otherwise));
    NewOperation {
        uid: OperationId(Uuid::now_v7()),
        kind,
        app: ask.app.as_ref().map(ToString::to_string).unwrap_or_default(),
        arguments: ask.arguments.clone(),
        reason: ask.reason.clone(),
        expires_at: now.plus_ms(expires * 1_000),
        time_limit_seconds: ask.arguments.time_limit_seconds(kind, rules),
        request: request.map(|(request, _)| request),
        request_size: request.map_or(1, |(_, size)| size),
        budget: ask.budget.clone(),
        // A restart takes a moment, and mends more than it disturbs; of many at once it is another matter.
        admitted: kind == Kind::ForceSync
            || (request.is_none() && (!kind.is_disruptive() || kind == Kind::RestartApp)),
    }
}
