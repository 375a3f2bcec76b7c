//! The points of a stream out of what is stored: from hours where whole hours will do, from blocks for the rest. As of one moment.

use farshore_domain::id::DeviceId;
use farshore_domain::time::{HOUR_MS, UnixMs};
use farshore_store::TenantDb;
use farshore_store::db::Tx;
use farshore_store::sync::BLOCK_PREFIX;

use crate::error::{ApiError, ApiResult};

/// Most blocks and bytes of blocks that are read for one answer.
const MAX_BLOCKS: usize = 60_000;
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// So many blocks of a gateway at a time, and so many of a host, which are small.
const PAGE: u32 = 64;
const PAGE_OF_HOST: u32 = 2_000;

/// From, and up to before; in Unix milliseconds.
pub(crate) type Span = (i64, i64);

/// What takes the points.
pub(crate) trait Gather: Send + 'static {
    /// A block; only its points in the span count.
    fn points(&mut self, span: Span, block: &[u8]);
    /// An hour, all of it.
    fn hour(&mut self, hour: UnixMs, block: &[u8]);
    /// Whether more would be of no use.
    fn is_full(&self) -> bool {
        false
    }
}

/// What may still be read for one answer.
#[derive(Debug)]
pub(crate) struct Budget {
    blocks: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { blocks: MAX_BLOCKS, bytes: MAX_BYTES }
    }
}

impl Budget {
    fn spend(&mut self, blocks: &[(i64, Vec<u8>)]) {
        self.blocks = self.blocks.saturating_sub(blocks.len());
        self.bytes = self.bytes.saturating_sub(blocks.iter().map(|(_, block)| block.len()).sum());
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.blocks == 0 || self.bytes == 0
    }
}

/// The beginning of the hour that a time lies in.
pub(crate) const fn hour_of(ms: i64) -> i64 {
    ms.div_euclid(HOUR_MS).saturating_mul(HOUR_MS)
}

/// The spans that blocks are read for, and the one in between that hours are read for.
fn spans((from, to): Span, hourly: bool) -> (Vec<Span>, Option<Span>) {
    let (first, last) = (hour_of(from.saturating_add(HOUR_MS - 1)), hour_of(to));
    if !hourly || first >= last {
        return (vec![(from, to)], None);
    }
    let edges = [(from, first), (last, to)].into_iter().filter(|(from, to)| from < to).collect();
    (edges, Some((first, last)))
}

/// Reads a stream, as `metric_blocks` names it. `false`: there would have been more.
pub(crate) async fn read<G: Gather>(
    db: &TenantDb,
    tx: &mut Tx,
    stream: (DeviceId, &str),
    span: Span,
    hourly: bool,
    budget: &mut Budget,
    mut gather: G,
) -> ApiResult<(G, bool)> {
    let (edges, inner) = spans(span, hourly);
    let page = if stream.1.starts_with(BLOCK_PREFIX) { PAGE } else { PAGE_OF_HOST };
    if let Some((from, to)) = inner {
        let mut after = None;
        loop {
            let hours = db.hours_in(tx, stream, (UnixMs(from), UnixMs(to)), after, page).await?;
            let full = hours.len() == page as usize;
            after = hours.last().map(|(hour, _)| *hour);
            let hours: Vec<(i64, Vec<u8>)> = hours.into_iter().map(|(hour, block)| (hour.0, block)).collect();
            budget.spend(&hours);
            gather =
                off_thread(gather, hours, |gather, hour, block| gather.hour(UnixMs(hour), block)).await?;
            if budget.is_spent() || gather.is_full() {
                return Ok((gather, false));
            }
            if !full {
                break;
            }
        }
    }
    let in_no_hour = inner.into_iter().map(|span| (span, true));
    for ((from, to), in_no_hour) in edges.into_iter().map(|span| (span, false)).chain(in_no_hour) {
        let mut after = 0;
        loop {
            let span = (UnixMs(from), UnixMs(to));
            let blocks = db.blocks_in(tx, stream, span, in_no_hour, after, page).await?;
            let full = blocks.len() == page as usize;
            after = blocks.last().map_or(after, |(sequence, _)| *sequence);
            budget.spend(&blocks);
            gather =
                off_thread(gather, blocks, move |gather, _, block| gather.points((from, to), block)).await?;
            if budget.is_spent() || gather.is_full() {
                return Ok((gather, false));
            }
            if !full {
                break;
            }
        }
    }
    Ok((gather, true))
}

/// Many blocks: not on a thread that answers others.
async fn off_thread<G: Gather>(
    mut gather: G,
    blocks: Vec<(i64, Vec<u8>)>,
    add: impl Fn(&mut G, i64, &[u8]) + Send + 'static,
) -> ApiResult<G> {
    if blocks.is_empty() {
        return Ok(gather);
    }
    tokio::task::spawn_blocking(move || {
        for (number, block) in &blocks {
            add(&mut gather, *number, block);
        }
        gather
    })
    .await
    .map_err(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_hours_lie_between_two_edges() {
        const H: i64 = HOUR_MS;
        assert_eq!(spans((0, 3 * H), true), (vec![], Some((0, 3 * H))));
        assert_eq!(spans((1, 3 * H + 1), true), (vec![(1, H), (3 * H, 3 * H + 1)], Some((H, 3 * H))));
        assert_eq!(spans((-1, H), true), (vec![(-1, 0)], Some((0, H))));
        for short in [(1, H), (5, 9), (H - 1, H + 1), (7, 7)] {
            assert_eq!(spans(short, true), (vec![short], None), "{short:?}");
        }
        assert_eq!(spans((0, 3 * H), false), (vec![(0, 3 * H)], None));
        assert_eq!(hour_of(-1), -H);
        let (_, inner) = spans((i64::MIN, i64::MAX), true);
        assert!(inner.is_some());
    }
}
