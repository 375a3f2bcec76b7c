//! The OpenAPI document: the annotated handlers of each noun, in one.

use utoipa::OpenApi as _;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};

/// The document of the API port and the device port.
#[must_use]
pub fn openapi() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Farshore")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Runs fleets of Linux edge devices. Paths tagged device-port are served on the device port, over mutual TLS."))
        .build();
    let mut document = OpenApiBuilder::new().info(info).build();
    for part in [
        crate::server::HealthDocs::openapi(),
        crate::access::AccessDocs::openapi(),
        crate::claims::ClaimDocs::openapi(),
        crate::claims::DevicePortDocs::openapi(),
        crate::artifacts::ArtifactDocs::openapi(),
        crate::releases::ReleaseDocs::openapi(),
        crate::fleet::FleetDocs::openapi(),
        crate::rollouts::RolloutDocs::openapi(),
        crate::devices::DeviceDocs::openapi(),
        crate::metrics::MetricDocs::openapi(),
        crate::events::EventDocs::openapi(),
        crate::channel::ChannelDocs::openapi(),
    ] {
        document.merge(part);
    }
    document
}
