//! Documents and twins: edits of people, the exchange with devices, conflicts and the rules that decide them.

mod conflicts;
mod device_port;
mod edit;
mod routes;
mod rules;

use std::collections::BTreeMap;

use farshore_domain::document::{Rule, Rules, TWIN};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_store::document_collections::CollectionRow;
use tokio::sync::broadcast;

pub use conflicts::ConflictDocs;
pub use device_port::{DocumentPortDocs, device_port_routes};
pub use routes::DocumentDocs;
pub use rules::CollectionDocs;

use crate::error::ApiResult;
use crate::route::Route;
use crate::series::{Room, Turn};

/// So many exchanges at once in all: each has a few megabytes of documents in memory.
const EXCHANGES: usize = 16;
/// Of these, so many of one tenant, so that none keeps the others out.
const EXCHANGES_OF_TENANT: usize = 12;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    [routes::routes(), conflicts::routes(), rules::routes()].into_iter().flatten().collect()
}

/// Tells requests that wait for it that documents of a device changed on this replica; and whose turn it is to exchange some.
#[derive(Debug)]
pub struct Documents {
    changed: broadcast::Sender<(TenantId, DeviceId)>,
    exchanges: Room,
}

impl Default for Documents {
    fn default() -> Self {
        let exchanges = Room::new("exchanges of documents", EXCHANGES, EXCHANGES_OF_TENANT);
        Self { changed: broadcast::Sender::new(1_024), exchanges }
    }
}

impl Documents {
    pub(crate) fn changed(&self, tenant: TenantId, device: DeviceId) {
        // Nobody waits, which is the usual.
        let _ = self.changed.send((tenant, device));
    }

    /// Waits for the turn of an exchange.
    async fn turn(&self, tenant: TenantId) -> ApiResult<Turn> {
        self.exchanges.turn(tenant).await
    }

    fn watch(&self) -> broadcast::Receiver<(TenantId, DeviceId)> {
        self.changed.subscribe()
    }
}

/// The rules of a tenant's collections, compiled when they are first needed.
struct RuleBook {
    rows: BTreeMap<String, CollectionRow>,
    wish: Option<Rule>,
    compiled: BTreeMap<String, Rules>,
}

impl RuleBook {
    fn new(rows: Vec<CollectionRow>, wish: Option<Rule>) -> Self {
        let rows = rows.into_iter().map(|row| (row.name.clone(), row)).collect();
        Self { rows, wish, compiled: BTreeMap::new() }
    }

    fn of(&mut self, collection: &str) -> &Rules {
        let (rows, wish) = (&self.rows, &self.wish);
        self.compiled.entry(collection.to_owned()).or_insert_with(|| {
            let rules = match rows.get(collection) {
                Some(row) => row.set.rules.clone(),
                // What the device's program asks for holds where nobody has said anything.
                None => wish.iter().cloned().collect(),
            };
            Rules::new(rules)
        })
    }

    fn is_read_only(&self, collection: &str) -> bool {
        collection != TWIN && self.rows.get(collection).is_some_and(|row| row.set.read_only)
    }

    fn read_only(&self) -> Vec<String> {
        self.rows.values().filter(|row| row.set.read_only).map(|row| row.name.clone()).collect()
    }
}
