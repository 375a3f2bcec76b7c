//! Hours: the driver that puts blocks into the hours they belong to, once an hour is over, and many small blocks of an hour into one.
//!
//! What came late, a week or a month, goes into its hour the same way: the hour is read, and written with what was added to it, in the
//! transaction that takes the block off the list. See `farshore_store::series_hours`.

use std::collections::BTreeMap;
use std::time::Duration;

use farshore_domain::time::{HOUR_MS, MINUTE_MS, SECOND_MS, UnixMs};
use farshore_series::{
    Block, Columns, DEFAULT_LEVEL, DecodeError, Summaries, decode, decode_columns, decode_summaries, encode,
    encode_columns, encode_summaries, summarize,
};
use farshore_store::leases::Lease;
use farshore_store::series_hours::{DueBlock, DueStream, MergedBlock, Rolled};
use farshore_store::sync::{BLOCK_PREFIX, parse_block_stream};
use farshore_store::{Driver, StoreError, StoreResult, SystemDb};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::stored::hour_of;
use crate::app::App;
use crate::clock::now;

const LEASE: &str = "hours";
/// Longer than a round takes.
const LEASE_MS: i64 = 2 * MINUTE_MS;
/// How often it is looked whether an hour is over, or something came late.
const EVERY: Duration = Duration::from_secs(60);
/// Between two rounds others get to write.
const PAUSE: Duration = Duration::from_millis(50);
/// What is a moment late still comes with the others of its hour.
const GRACE_MS: i64 = 5 * MINUTE_MS;
/// So many of the oldest blocks are looked at for one round.
const OLDEST: u32 = 1_000;
/// So many blocks, and bytes of them, of one stream are put into hours in one transaction.
const BLOCKS: u32 = 500;
const BYTES: i64 = 8 * 1024 * 1024;
/// Blocks are put together up to so many bytes.
const MERGED_BYTES: usize = 2 * 1024 * 1024;
/// Unpacked blocks that are kept in memory to be put together.
const KEPT_BYTES: usize = 16 * 1024 * 1024;
/// So many unpacked bytes, or summaries, end a turn: a few bytes over the wire may be very many points.
const TURN_BYTES: usize = 64 * 1024 * 1024;
const TURN_SUMMARIES: usize = 100_000;
/// What one block may come to; with more it is read itself, as its hours would take more room than it does.
const BLOCK_SUMMARIES: usize = 100_000;
/// What the hours that a turn adds to may have on disk.
const STORED_BYTES: i64 = 32 * 1024 * 1024;

/// The driver's name among replicas, and its turn: by hand and by itself it works one after the other.
#[derive(Debug)]
pub struct Hours {
    holder: String,
    turn: tokio::sync::Mutex<()>,
}

impl Default for Hours {
    fn default() -> Self {
        Self { holder: Uuid::new_v4().to_string(), turn: tokio::sync::Mutex::default() }
    }
}

/// Starts the driver.
pub fn spawn(app: &App, shutdown: &CancellationToken) -> JoinHandle<()> {
    let (app, shutdown) = (app.clone(), shutdown.clone());
    tokio::spawn(async move {
        let db = app.store().system(Driver::Hours);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = run(&app, &db) => {}
        }
        // So that the next one need not wait for it to run out.
        if let Ok(Some(lease)) = db.acquire_lease(LEASE, &app.hours().holder, SECOND_MS, now()).await
            && let Err(error) = db.release_lease(&lease).await
        {
            tracing::warn!(error = crate::error::chain(&error), "the lease of the hours was not given back");
        }
    })
}

async fn run(app: &App, db: &SystemDb) {
    loop {
        let more = match round(app, db, now()).await {
            Ok(more) => more,
            Err(error) => {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "blocks were not put into hours; it is tried again"
                );
                false
            }
        };
        tokio::time::sleep(if more { PAUSE } else { EVERY }).await;
    }
}

/// Puts some of the blocks whose hours are over into them, if no other replica does it. Says whether there are more.
async fn round(app: &App, db: &SystemDb, now: UnixMs) -> StoreResult<bool> {
    let _turn = app.hours().turn.lock().await;
    let Some(lease) = db.acquire_lease(LEASE, &app.hours().holder, LEASE_MS, crate::clock::now()).await?
    else {
        return Ok(false);
    };
    let before = UnixMs(hour_of(now.0.saturating_sub(GRACE_MS)));
    let keep_from = hour_of(now.plus_ms(-app.settings().retention.hours_ms).0);
    let streams = db.streams_to_roll(before, OLDEST).await?;
    let mut more = false;
    for stream in &streams {
        match roll(db, &lease, stream, before, keep_from).await {
            Ok(left) => more |= left,
            Err(StoreError::LeaseLost) => return Err(StoreError::LeaseLost),
            // One stream must not keep the others out.
            Err(error) => tracing::error!(
                tenant = %stream.tenant, device = %stream.device, stream = stream.stream,
                error = crate::error::chain(&error), "the blocks of a stream were not put into hours"
            ),
        }
    }
    Ok(more)
}

/// One transaction's worth of one stream. Says whether something was done, so that there may be more.
async fn roll(
    db: &SystemDb,
    lease: &Lease,
    stream: &DueStream,
    before: UnixMs,
    keep_from: i64,
) -> StoreResult<bool> {
    let db = db.tenant(stream.tenant);
    let (device, name) = (stream.device, stream.stream.as_str());
    let blocks = db.blocks_to_roll(device, name, before, BLOCKS, BYTES).await?;
    if blocks.is_empty() {
        return Ok(false);
    }
    let of_gateway = name.starts_with(BLOCK_PREFIX);
    // What a sink still waits for stays as it came.
    let passed = match parse_block_stream(name) {
        Some((epoch, stream)) => db.sinks_passed(device, epoch, stream).await?.unwrap_or(i64::MAX),
        None => i64::MAX,
    };
    let fold = |blocks: Vec<DueBlock>| off_thread(move || fold(&blocks, of_gateway, keep_from, passed));
    let mut folded = fold(blocks.clone()).await?;
    let mut rolled = match with_stored(&db, stream, &folded).await? {
        Some(rolled) => rolled,
        // Together they are too much for an hour, or an hour can't be read: the first alone, and if not even that goes, it stays a block.
        None => {
            let Some(first) = blocks.first().cloned() else { return Ok(false) };
            let sequence = first.sequence;
            folded = fold(vec![first]).await?;
            match with_stored(&db, stream, &folded).await? {
                Some(rolled) => rolled,
                None => {
                    tracing::warn!(device = %device, stream = name, sequence, "a block can't be put into its hours; it is read itself");
                    folded = Folded::default();
                    Rolled { refused: vec![sequence], ..Rolled::default() }
                }
            }
        }
    };
    rolled.merged = folded.merged;
    db.write_rolled(lease, device, name, &rolled).await?;
    Ok(true)
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> StoreResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// What some blocks come to.
#[derive(Debug, Default)]
struct Folded {
    hours: BTreeMap<i64, Summaries>,
    rolled: Vec<i64>,
    refused: Vec<i64>,
    merged: Vec<MergedBlock>,
}

/// A block that was read.
enum Read {
    Host(Block),
    Gateway(Columns),
}

impl Read {
    fn block(of_gateway: bool, bytes: &[u8]) -> Result<Self, DecodeError> {
        if of_gateway { decode_columns(bytes).map(Self::Gateway) } else { decode(bytes).map(Self::Host) }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Host(block) => block.at_ms.len() * (block.series.len() + 1) * size_of::<Option<f64>>(),
            Self::Gateway(columns) => columns.memory(),
        }
    }

    fn concat(all: Vec<Self>) -> Option<Vec<u8>> {
        let (mut blocks, mut columns) = (Vec::new(), Vec::new());
        for one in all {
            match one {
                Self::Host(block) => blocks.push(block),
                Self::Gateway(one) => columns.push(one),
            }
        }
        // What does not fit into one block stays as it is.
        if columns.is_empty() {
            encode(&Block::concat(&blocks)).ok()
        } else {
            encode_columns(&Columns::concat(columns), DEFAULT_LEVEL).ok()
        }
    }
}

fn fold(blocks: &[DueBlock], of_gateway: bool, keep_from: i64, passed: i64) -> Folded {
    let mut folded = Folded::default();
    // Blocks that lie in one hour, by hour.
    let mut within: BTreeMap<i64, Vec<(&DueBlock, Read)>> = BTreeMap::new();
    let hour = |at_ns: i64| {
        let hour = hour_of(at_ns.div_euclid(1_000_000));
        (hour >= keep_from).then_some(hour)
    };
    let (mut unpacked, mut kept, mut summaries) = (0, 0, 0);
    for block in blocks {
        if unpacked >= TURN_BYTES || summaries >= TURN_SUMMARIES {
            // The others have their turn next.
            break;
        }
        let read = match Read::block(of_gateway, &block.block) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(sequence = block.sequence, %error, "a stored block can't be read");
                folded.refused.push(block.sequence);
                continue;
            }
        };
        let bytes = read.memory();
        unpacked += bytes;
        let mut hours = BTreeMap::new();
        match &read {
            Read::Host(block) => summarize(&block.to_columns(), hour, &mut hours),
            Read::Gateway(columns) => summarize(columns, hour, &mut hours),
        };
        let of_block: usize = hours.values().map(Summaries::len).sum();
        if of_block > BLOCK_SUMMARIES {
            tracing::warn!(
                sequence = block.sequence,
                of_block,
                "a block comes to too much; it is read itself"
            );
            folded.refused.push(block.sequence);
            continue;
        }
        summaries += of_block;
        for (hour, added) in hours {
            let of_hour = folded.hours.entry(hour).or_default();
            for (key, summary) in added {
                of_hour.entry(key).or_default().merge(&summary);
            }
        }
        folded.rolled.push(block.sequence);
        let (first, last) = (hour_of(block.from.0), hour_of(block.to.0));
        if first == last && block.arrived <= passed && kept + bytes <= KEPT_BYTES {
            kept += bytes;
            within.entry(first).or_default().push((block, read));
        }
    }
    for blocks in within.into_values() {
        let mut run: Vec<(&DueBlock, Read)> = Vec::new();
        let mut bytes = 0;
        for (block, read) in blocks {
            if bytes + block.block.len() > MERGED_BYTES {
                folded.merged.extend(merge(std::mem::take(&mut run)));
                bytes = 0;
            }
            bytes += block.block.len();
            run.push((block, read));
        }
        folded.merged.extend(merge(run));
    }
    folded
}

fn merge(run: Vec<(&DueBlock, Read)>) -> Option<MergedBlock> {
    if run.len() < 2 {
        return None;
    }
    let (blocks, read): (Vec<&DueBlock>, Vec<Read>) = run.into_iter().unzip();
    Some(MergedBlock {
        of: blocks.iter().map(|block| block.sequence).collect(),
        from: blocks.iter().map(|block| block.from).min()?,
        to: blocks.iter().map(|block| block.to).max()?,
        samples: blocks.iter().map(|block| block.samples).fold(0, i64::saturating_add),
        arrived: blocks.iter().map(|block| block.arrived).max()?,
        block: Read::concat(read)?,
    })
}

/// The hours as they are with these blocks. `None`: they can't be.
async fn with_stored(
    db: &farshore_store::TenantDb,
    stream: &DueStream,
    folded: &Folded,
) -> StoreResult<Option<Rolled>> {
    let hours: Vec<UnixMs> = folded.hours.keys().map(|hour| UnixMs(*hour)).collect();
    let Some(stored) = db.hours_at(stream.device, &stream.stream, &hours, STORED_BYTES).await? else {
        return Ok(None);
    };
    let added = folded.hours.clone();
    let hours = off_thread(move || merge_hours(&stored, added)).await?;
    Ok(hours.map(|hours| Rolled {
        hours,
        rolled: folded.rolled.clone(),
        refused: folded.refused.clone(),
        merged: Vec::new(),
    }))
}

fn merge_hours(
    stored: &[(UnixMs, Vec<u8>)],
    added: BTreeMap<i64, Summaries>,
) -> Option<Vec<(UnixMs, Vec<u8>)>> {
    let stored: BTreeMap<i64, &[u8]> = stored.iter().map(|(hour, block)| (hour.0, &block[..])).collect();
    added
        .into_iter()
        .map(|(hour, added)| {
            let all = match stored.get(&hour) {
                None => added,
                Some(block) => {
                    let mut all = decode_summaries(block).ok()?;
                    for (key, summary) in added {
                        all.entry(key).or_default().merge(&summary);
                    }
                    all
                }
            };
            Some((UnixMs(hour), encode_summaries(&all).ok()?))
        })
        .collect()
}

/// Puts into hours whatever is due at `now`, if no other replica does it.
pub async fn roll_all(app: &App, now: UnixMs) -> StoreResult<()> {
    let db = app.store().system(Driver::Hours);
    while round(app, &db, now).await? {}
    Ok(())
}

const _: () = assert!(HOUR_MS > GRACE_MS);

#[cfg(test)]
mod tests {
    use farshore_series::{PointBatch, Value};

    use super::*;

    /// Little on the wire, much in memory.
    fn packed(sequence: i64) -> DueBlock {
        let mut batch = PointBatch::new();
        let series = batch.series("log", "line", []).unwrap();
        for at in 0..40 {
            batch.push(series, at, Value::Text("x".repeat(200_000))).unwrap();
        }
        let block = encode_columns(&Columns::of(&batch), DEFAULT_LEVEL).unwrap();
        assert!(block.len() < 64 * 1024 && Columns::of(&batch).memory() >= 8_000_000);
        let (from, to) = (UnixMs(0), UnixMs(0));
        DueBlock { sequence, from, to, samples: 40, arrived: sequence, block }
    }

    #[test]
    fn a_turn_ends_before_it_has_taken_all_memory_and_the_next_goes_on() {
        let blocks: Vec<DueBlock> = (1..=20).map(packed).collect();
        let folded = fold(&blocks, true, 0, i64::MAX);
        assert_eq!(folded.rolled, (1..=9).collect::<Vec<i64>>());
        assert_eq!(folded.merged.len(), 1, "what is small enough to be kept together");
        assert_eq!(folded.merged[0].of, [1, 2]);
        let summary = folded.hours[&0].values().next().unwrap();
        assert_eq!((summary.points, summary.numbers), (9 * 40, 0));
    }

    #[test]
    fn a_block_that_comes_to_too_much_is_left_as_it_is() {
        let mut batch = PointBatch::new();
        for n in 0..60 {
            let series = batch.series("m", "v", [("n", n.to_string().as_str())]).unwrap();
            for hour in 0..1_700 {
                batch.push(series, hour * HOUR_MS * 1_000_000, Value::Integer(1)).unwrap();
            }
        }
        let block = encode_columns(&Columns::of(&batch), DEFAULT_LEVEL).unwrap();
        let (from, to) = (UnixMs(0), UnixMs(1_700 * HOUR_MS));
        let due = DueBlock { sequence: 1, from, to, samples: 102_000, arrived: 1, block };
        let folded = fold(&[due], true, 0, i64::MAX);
        assert_eq!((folded.rolled, folded.refused, folded.hours.len()), (vec![], vec![1], 0));
    }
}
