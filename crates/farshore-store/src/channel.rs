//! What device channels bring, written as one set in one transaction (group commit).

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;

use crate::access::SystemDb;
use crate::device_apps::{self, HelloReport, StatusReport};
use crate::error::StoreResult;
use crate::events::{self, NewEvent};
use crate::incidents::{self, IncidentReport};
use crate::metrics::{self, NewBlock, StreamKey};
use crate::operations::{self, OperationReport};
use crate::presence::{self, Opened, SessionClose, SessionOpen};

/// The stream whose marks count batches of events.
pub const EVENT_STREAM: &str = "events";

/// A batch of events from a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceEvents {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub sequence: i64,
    pub events: Vec<NewEvent>,
}

/// What was brought.
#[derive(Clone, Debug, Default)]
pub struct ChannelBatch {
    pub opens: Vec<SessionOpen>,
    pub closes: Vec<SessionClose>,
    pub hellos: Vec<HelloReport>,
    pub statuses: Vec<StatusReport>,
    pub blocks: Vec<NewBlock>,
    pub events: Vec<DeviceEvents>,
    pub operations: Vec<OperationReport>,
    pub incidents: Vec<IncidentReport>,
    /// Events of the control plane about devices.
    pub news: Vec<(TenantId, NewEvent)>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct ChannelOutcome {
    pub opened: Vec<Opened>,
    /// Whether there may be events to be numbered.
    pub events: bool,
}

impl ChannelBatch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opens.is_empty()
            && self.closes.is_empty()
            && self.hellos.is_empty()
            && self.statuses.is_empty()
            && self.blocks.is_empty()
            && self.events.is_empty()
            && self.operations.is_empty()
            && self.incidents.is_empty()
            && self.news.is_empty()
    }
}

impl SystemDb {
    /// Writes it all, or nothing.
    pub async fn write_channel(
        &self,
        replica: &str,
        batch: &ChannelBatch,
        now: UnixMs,
    ) -> StoreResult<ChannelOutcome> {
        let mut outcome = ChannelOutcome::default();
        if batch.is_empty() {
            return Ok(outcome);
        }
        let mut tx = self.begin().await?;
        if !batch.closes.is_empty() {
            presence::close_sessions(&mut tx, &batch.closes).await?;
        }
        if !batch.opens.is_empty() {
            // A channel that is over already must not leave a session behind.
            let over: BTreeSet<_> = batch.closes.iter().map(|c| (c.tenant, c.device, c.epoch)).collect();
            let opens: Vec<SessionOpen> = batch
                .opens
                .iter()
                .filter(|o| !over.contains(&(o.tenant, o.device, o.epoch)))
                .copied()
                .collect();
            outcome.opened = presence::open_sessions(&mut tx, replica, &opens).await?;
        }
        if !batch.hellos.is_empty() {
            device_apps::write_hellos(&mut tx, &batch.hellos.iter().collect::<Vec<_>>()).await?;
        }
        let mut news = Vec::new();
        if !batch.statuses.is_empty() {
            news.extend(
                device_apps::write_statuses(&mut tx, &batch.statuses.iter().collect::<Vec<_>>()).await?,
            );
        }
        if !batch.blocks.is_empty() {
            metrics::write_blocks(&mut tx, &batch.blocks.iter().collect::<Vec<_>>()).await?;
        }
        if !batch.operations.is_empty() {
            let reports: Vec<_> = batch.operations.iter().collect();
            news.extend(operations::write_reports(&mut tx, &reports, now).await?);
        }
        if !batch.incidents.is_empty() {
            let reports: Vec<_> = batch.incidents.iter().collect();
            news.extend(incidents::write_reports(&mut tx, &reports, now).await?);
        }
        let mut rows: Vec<(TenantId, &NewEvent)> = Vec::new();
        if !batch.events.is_empty() {
            let key = |from: &DeviceEvents| (from.tenant.0, from.device.0, EVENT_STREAM.to_owned());
            let streams: BTreeSet<StreamKey> = batch.events.iter().map(key).collect();
            let marks = metrics::read_marks(&mut tx, &streams).await?;
            let mut raised: BTreeMap<StreamKey, i64> = BTreeMap::new();
            for from in &batch.events {
                let key = key(from);
                if from.sequence > marks.get(&key).copied().unwrap_or(0) {
                    let mark = raised.entry(key).or_insert(from.sequence);
                    *mark = from.sequence.max(*mark);
                    rows.extend(from.events.iter().map(|event| (from.tenant, event)));
                }
            }
            metrics::write_marks(&mut tx, &raised).await?;
        }
        rows.extend(batch.news.iter().chain(&news).map(|(tenant, event)| (*tenant, event)));
        outcome.events = !rows.is_empty();
        events::append_all(&mut tx, &rows).await?;
        tx.commit().await?;
        Ok(outcome)
    }
}
