//! What configs take from the twins of devices.

use std::collections::{BTreeMap, BTreeSet};

use farshore_api::fleet::ConfigSpec;
use farshore_domain::config::Reference;
use farshore_domain::config::reference::{self, Half, TwinValues};
use farshore_domain::document::DESIRED;
use farshore_domain::id::DeviceId;
use farshore_store::db::Tx;
use farshore_store::objects::Stored;
use farshore_store::{StoreResult, TenantDb};

/// Twins of so many devices are in memory at once.
const AT_ONCE: usize = 100;

/// What configs refer to in twins.
pub(super) fn places(configs: &[Stored<ConfigSpec>]) -> impl Iterator<Item = (Half, &str)> {
    configs.iter().flat_map(|config| config.spec.references.values()).filter_map(Reference::place)
}

/// What the twins have there; twins are not read where no config refers to them.
pub(super) async fn load(
    db: &TenantDb,
    tx: &mut Tx,
    configs: &[Stored<ConfigSpec>],
    devices: &[DeviceId],
) -> StoreResult<BTreeMap<DeviceId, TwinValues>> {
    let places: BTreeSet<(Half, &str)> = places(configs).collect();
    let mut twins: BTreeMap<DeviceId, TwinValues> = BTreeMap::new();
    if places.is_empty() {
        return Ok(twins);
    }
    for some in devices.chunks(AT_ONCE) {
        for (device, name, document) in db.twins(tx, some).await? {
            let half = if name == DESIRED { Half::Desired } else { Half::Reported };
            let of_half = places.iter().filter(|(of, _)| *of == half).map(|(_, place)| *place);
            twins.entry(device).or_default().extend(reference::take(half, &document, of_half));
        }
    }
    Ok(twins)
}
