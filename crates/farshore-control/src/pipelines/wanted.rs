//! Which pipelines a device is to run: those of the nearest layer that holds any.

use farshore_api::fleet::ConfigSpec;
use farshore_domain::config::{self, Layer};
use farshore_domain::digest::Digest;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::selector::Selector;
use farshore_store::objects::{self, ObjectKind, Stored};
use farshore_store::{StoreResult, TenantDb};

/// A config that holds pipelines.
#[derive(Debug)]
pub(crate) struct Held {
    pub(super) config: Name,
    pub(super) resource_version: i64,
    pub(super) layer: Layer,
    selector: Option<Selector>,
    device: Option<Name>,
    pub(super) digest: Digest,
    pub(super) text: String,
}

/// All of a tenant.
pub(super) async fn load(db: &TenantDb) -> StoreResult<Vec<Held>> {
    let mut tx = db.read().await?;
    let configs = objects::all_in::<ConfigSpec>(&mut tx, db.tenant().0, ObjectKind::Config).await?;
    Ok(configs.into_iter().filter_map(held).collect())
}

fn held(Stored { metadata, spec }: Stored<ConfigSpec>) -> Option<Held> {
    let layer = spec.layer();
    let text = spec.gateway?.pipelines?;
    Some(Held {
        config: metadata.name,
        resource_version: metadata.resource_version,
        layer,
        selector: spec.selector,
        device: spec.device,
        digest: Digest::of(text.as_bytes()),
        text,
    })
}

/// Those of one device.
pub(super) fn of<'a>(held: &'a [Held], device: &Name, labels: &Labels) -> Option<&'a Held> {
    let applies = |held: &&Held| {
        held.device.as_ref().is_none_or(|name| name == device)
            && held.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    };
    config::nearest(held.iter().filter(applies).map(|held| (held.layer, held.config.as_str(), held)))
}
