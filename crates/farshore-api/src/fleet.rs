//! Apps, placements, channels, pins and config: what runs where.

use std::collections::BTreeMap;

use farshore_domain::config::{Layer, Reference};
use farshore_domain::name::Name;
use farshore_domain::rollout::RolloutSpec;
use farshore_domain::selector::Selector;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::device::DeviceSpec;
use crate::pipeline::GatewaySettings;
use crate::{NewObject, NoStatus, Object};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AppSpec {
    pub description: String,
    /// Apps that are started before this one and stopped after it, where a device has them. At most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Name>,
}

pub type App = Object<AppSpec, NoStatus>;

/// Which devices run an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementSpec {
    pub app: Name,
    /// Empty: every device.
    #[serde(default)]
    pub selector: Selector,
}

pub type Placement = Object<PlacementSpec, NoStatus>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ChannelSpec {
    pub description: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelStatus {
    /// The current release of each app in this channel.
    pub releases: Vec<ChannelRelease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelRelease {
    pub app: Name,
    pub release: Uuid,
    pub version: String,
}

pub type Channel = Object<ChannelSpec, ChannelStatus>;

/// This device keeps this release of this app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinSpec {
    /// Name of the device.
    pub device: Name,
    pub app: Name,
    pub version: String,
    #[serde(default)]
    pub reason: String,
}

pub type Pin = Object<PinSpec, NoStatus>;

/// One layer of config. Which fields are set decides the layer: none → tenant; `app` alone → app; `selector` → selector; `device` → device. It holds
/// values for apps, or what gateways are told, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Name>,
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Values that differ from device to device: taken from a label, or from what is desired of the device or reported by it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, Reference>,
    /// For gateways; not beside `app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySettings>,
}

impl ConfigSpec {
    /// The layer these values belong to.
    #[must_use]
    pub fn layer(&self) -> Layer {
        if self.device.is_some() {
            Layer::Device
        } else if self.selector.is_some() {
            Layer::Selector
        } else if self.app.is_some() {
            Layer::App
        } else {
            Layer::Tenant
        }
    }
}

pub type Config = Object<ConfigSpec, NoStatus>;

/// Body of `POST /api/assignments:preview`: objects as they would be created or replaced. Nothing is stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AssignmentChanges {
    pub placements: Vec<NewObject<PlacementSpec>>,
    pub pins: Vec<NewObject<PinSpec>>,
    pub devices: Vec<NewObject<DeviceSpec>>,
    /// Each as if it had succeeded.
    pub rollouts: Vec<NewObject<RolloutSpec>>,
}

/// Which devices would get other releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssignmentPreview {
    /// How many devices there are.
    pub devices: u64,
    /// How many of them would get, lose or change an app.
    pub changed: u64,
    /// What would change, by device and app; the first 1,000 at most.
    pub items: Vec<AssignmentChange>,
}

/// One app of one device that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssignmentChange {
    pub device: Uuid,
    pub name: Name,
    pub location: String,
    pub app: Name,
    /// The version that it should have now; none: not the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The version that it should have then; none: not the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}
