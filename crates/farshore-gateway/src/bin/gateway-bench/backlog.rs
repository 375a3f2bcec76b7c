//! A long time offline: how a gateway starts on many gigabytes that wait, and what it holds in memory then.
//!
//! Texts fill the disk, as they do not pack: what a gateway remembers of a backlog goes by batches and bytes, not by points.

use std::time::Duration;

use crate::client::{Kind, Load, measure};
use crate::served::Served;
use crate::{Figures, Result};

/// At most so many rounds of filling: a disk that is too slow ends the bench with what is there.
const ROUNDS: usize = 240;

/// So many seconds it may take to seal what was written.
const SETTLING: usize = 300;

pub(crate) fn run(figures: &mut Figures, gigabytes: u64) -> Result<()> {
    let wanted = gigabytes * 1_000_000_000;
    let bound = wanted * 2;
    let fill = Load {
        kind: Kind::Texts,
        clients: 1,
        batch: 1000,
        series: 100,
        for_long: Duration::from_secs(5),
        every: Duration::ZERO,
    };
    let mut gateway = Served::gateway_in(crate::served::folder()?, "group", bound)?;
    for _ in 0..ROUNDS {
        // Sealing takes a seventh off.
        #[expect(clippy::cast_precision_loss, reason = "gigabytes")]
        if gateway.waiting_bytes()? >= wanted as f64 * 1.2 {
            break;
        }
        measure(&gateway, &fill)?;
    }
    let filling = gateway.rss_bytes()?;
    // It was filled faster than a week would: what was written last is still to be sealed.
    for _ in 0..SETTLING {
        let before = gateway.cpu_seconds()?;
        std::thread::park_timeout(Duration::from_secs(1));
        if gateway.cpu_seconds()? - before < 0.1 {
            break;
        }
    }
    gateway = gateway.again(bound)?;
    let start = gateway.start;
    let waiting = gateway.waiting_bytes()?;
    let live = Load {
        kind: Kind::Lines,
        clients: 1,
        batch: 100,
        series: 100,
        for_long: Duration::from_secs(20),
        every: Duration::from_millis(100),
    };
    let before = gateway.cpu_seconds()?;
    let measured = measure(&gateway, &live)?;
    let cores = (gateway.cpu_seconds()? - before) / measured.seconds;
    let rss = gateway.rss_bytes()?;
    eprintln!(
        "backlog: {:.2} GB wait; it starts in {} ms after a kill, {:.0} MB resident ({:.0} MB while it was filled), {cores:.3} cores at {:.0} points/s",
        waiting / 1e9,
        start.as_millis(),
        rss / 1e6,
        filling / 1e6,
        measured.points / measured.seconds,
    );
    figures.insert("backlog_bytes".to_owned(), waiting);
    figures.insert("start_ms_backlog10g".to_owned(), start.as_secs_f64() * 1e3);
    figures.insert("rss_bytes_backlog10g".to_owned(), rss);
    figures.insert("rss_bytes_filling".to_owned(), filling);
    figures.insert("cores_steady_backlog10g".to_owned(), cores);
    Ok(())
}
