//! The last hour's CPU use of the devices on a page, a point for each two minutes.

use std::collections::HashMap;

use farshore_domain::id::DeviceId;
use farshore_domain::time::{HOUR_MS, MINUTE_MS, UnixMs};
use farshore_store::TenantDb;
use farshore_store::metrics::BlockRow;

use crate::error::{ApiError, ApiResult};

/// Points of a line.
pub const POINTS: usize = 30;
const WIDTH_MS: i64 = 2 * MINUTE_MS;
/// At most this many blocks are read for one page; the lines of a page with more begin later.
const MAX_BLOCKS: u32 = 20_000;

/// The lines, oldest point first. A device without measurements has none.
pub async fn cpu(
    db: &TenantDb,
    devices: &[DeviceId],
    now: UnixMs,
) -> ApiResult<HashMap<DeviceId, Vec<Option<f64>>>> {
    let from = now.plus_ms(-HOUR_MS);
    let blocks = db.metric_blocks(devices, "host", from, now, MAX_BLOCKS).await?;
    if blocks.is_empty() {
        return Ok(HashMap::new());
    }
    // Some thousand small blocks: not on a thread that answers others.
    tokio::task::spawn_blocking(move || lines(&blocks, from)).await.map_err(ApiError::internal)
}

fn lines(blocks: &[BlockRow], from: UnixMs) -> HashMap<DeviceId, Vec<Option<f64>>> {
    let mut sums: HashMap<DeviceId, Vec<(f64, u32)>> = HashMap::new();
    for row in blocks {
        // Stored blocks were read once before; one of a later version shows as a gap.
        let Ok(block) = farshore_series::decode(&row.block) else { continue };
        let line = sums.entry(row.device).or_insert_with(|| vec![(0.0, 0); POINTS]);
        for (at, value) in block.points_of("cpu") {
            let point = usize::try_from(at.saturating_sub(from.0).div_euclid(WIDTH_MS)).ok();
            if let Some((sum, count)) = point.and_then(|point| line.get_mut(point)) {
                *sum += value;
                *count += 1;
            }
        }
    }
    sums.into_iter()
        .map(|(device, line)| {
            let line = line
                .into_iter()
                .map(|(sum, count)| {
                    (count > 0).then(|| (sum / f64::from(count) * 10_000.0).round() / 10_000.0)
                })
                .collect();
            (device, line)
        })
        .collect()
}
