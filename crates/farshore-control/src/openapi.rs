//! The OpenAPI document: the annotated handlers of each noun, in one.

use std::collections::BTreeSet;

use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, PathItem, RefOr};

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
        crate::install::InstallDocs::openapi(),
        crate::releases::ReleaseDocs::openapi(),
        crate::fleet::FleetDocs::openapi(),
        crate::fleet::PreviewDocs::openapi(),
        crate::rollouts::RolloutDocs::openapi(),
        crate::rollouts::SimulateDocs::openapi(),
        crate::rollouts::VerbDocs::openapi(),
        crate::devices::DeviceDocs::openapi(),
        crate::metrics::MetricDocs::openapi(),
        crate::events::EventDocs::openapi(),
        crate::incidents::IncidentDocs::openapi(),
        crate::alerts::AlertDocs::openapi(),
        crate::operations::OperationDocs::openapi(),
        crate::active_ops::ActiveOpsDocs::openapi(),
        crate::channel::ChannelDocs::openapi(),
        crate::sync::SyncDocs::openapi(),
        crate::sync::SyncPortDocs::openapi(),
        crate::documents::DocumentDocs::openapi(),
        crate::pipelines::PipelineDocs::openapi(),
        crate::documents::ConflictDocs::openapi(),
        crate::documents::CollectionDocs::openapi(),
        crate::documents::DocumentPortDocs::openapi(),
        crate::series::SeriesDocs::openapi(),
        crate::sinks::SinkDocs::openapi(),
    ] {
        document.merge(part);
    }
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            operation.operation_id = Some(operation_id(method, path));
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("get", &mut item.get),
        ("put", &mut item.put),
        ("post", &mut item.post),
        ("patch", &mut item.patch),
        ("delete", &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

/// `post_devices_id_revoke` for `POST /api/devices/{id}:revoke`: unique, because method and path are.
fn operation_id(method: &str, path: &str) -> String {
    let words =
        path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty() && *word != "api");
    words.fold(method.to_owned(), |id, word| id + "_" + word)
}

/// The operations that take no query parameter at all, by `METHOD path`, as the table of routes spells them.
#[must_use]
pub fn without_query() -> BTreeSet<String> {
    let mut document = openapi();
    let mut found = BTreeSet::new();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let takes_query = operation
                .parameters
                .iter()
                .flatten()
                .any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query));
            if !takes_query {
                found.insert(format!("{} {}", method.to_uppercase(), path.replace(':', "/~")));
            }
        }
    }
    found
}
