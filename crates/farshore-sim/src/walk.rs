//! Made-up measurements: a seeded random walk with a daily rhythm, under the agent's own metric names.

use farshore_collect::Metric;
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_series::{Block, BlockBuilder, EncodeError, ShapeError, encode};

use crate::dice::Dice;
use crate::options::DICE_WALK;

/// A sample's or a block's making failed; only when the walk itself is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    #[error("a sample does not fit into its block")]
    Shape(#[source] ShapeError),
    #[error("a block could not be encoded")]
    Encode(#[source] EncodeError),
}

/// Where one device's measurements stand.
#[derive(Debug)]
pub(crate) struct Walk {
    dice: Dice,
    /// What is particular to this device.
    busy: f64,
    memory: f64,
    disk: f64,
    phase: f64,
    /// What walks: around 0, pulled back to it.
    load: f64,
    net: f64,
    heat: f64,
    booted: UnixMs,
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

impl Walk {
    pub(crate) fn new(seed: u64, device: u64, now: UnixMs) -> Self {
        let mut dice = Dice::new(seed, &[DICE_WALK, device]);
        let up = i64::try_from(dice.between(0, 40 * DAY_MS as u64)).unwrap_or(0);
        Self {
            busy: 0.05 + 0.4 * dice.unit(),
            memory: 0.25 + 0.5 * dice.unit(),
            disk: 0.2 + 0.6 * dice.unit(),
            phase: dice.unit(),
            load: 0.0,
            net: 0.0,
            heat: 0.0,
            booted: now.plus_ms(-up),
            dice,
        }
    }

    /// The sample of one moment.
    fn sample(&mut self, at: UnixMs) -> Vec<(&'static str, f64)> {
        let mut drift = |value: &mut f64, pull: f64, step: f64| {
            *value += -pull * *value + step * self.dice.normal();
            *value
        };
        let load = drift(&mut self.load, 0.08, 0.03);
        let net = drift(&mut self.net, 0.1, 0.15);
        let heat = drift(&mut self.heat, 0.05, 0.4);
        let day = at.0.rem_euclid(DAY_MS) as f64 / DAY_MS as f64;
        let rhythm = 0.5 - 0.5 * (std::f64::consts::TAU * (day + 0.1 * self.phase)).cos();
        let cpu = (self.busy * (0.5 + rhythm) + load).clamp(0.005, 1.0);
        let memory = (self.memory + 0.3 * load).clamp(0.05, 0.97);
        let days_up = at.since_ms(self.booted) as f64 / DAY_MS as f64;
        let pressure = (cpu - 0.6).max(0.0);
        let raw = [
            (Metric::Cpu, cpu),
            (Metric::Load1, 4.0 * cpu + 0.3 * load.abs()),
            (Metric::Load5, 4.0 * (cpu - 0.5 * load)),
            (Metric::MemUsed, memory * 4.0 * GIB),
            (Metric::MemTotal, 4.0 * GIB),
            (Metric::MemAvailable, (1.0 - memory) * 4.0 * GIB),
            (Metric::DiskUsed, (self.disk + 0.0005 * days_up).min(0.98) * 32.0 * GIB),
            (Metric::DiskTotal, 32.0 * GIB),
            (Metric::NetRx, 30_000.0 * (1.0 + rhythm) * net.exp()),
            (Metric::NetTx, 12_000.0 * (1.0 + rhythm) * net.exp()),
            (Metric::PsiCpu, 0.4 * pressure),
            (Metric::PsiMem, 0.05 * (memory - 0.9).max(0.0)),
            (Metric::PsiIo, 0.01 * rhythm + 0.02 * pressure),
            (Metric::IoLatency, 0.4 + 2.0 * pressure + 0.1 * load.abs()),
            (Metric::NetRetx, 0.2 * net.abs()),
            (Metric::Uptime, at.since_ms(self.booted) as f64 / 1_000.0),
            (Metric::Temperature, 41.0 + 22.0 * cpu + heat),
        ];
        raw.into_iter()
            .map(|(metric, value)| {
                let power = 10f64.powi(i32::try_from(metric.decimals()).unwrap_or(0));
                (metric.name(), (value * power).round() / power + 0.0)
            })
            .collect()
    }

    /// An encoded block with one row for each `step_ms` after `after`, up to `until`; `None` when there is none. At most a
    /// thousand rows: what is older is left out.
    pub(crate) fn block(
        &mut self,
        after: UnixMs,
        until: UnixMs,
        step_ms: i64,
    ) -> Result<Option<Vec<u8>>, WalkError> {
        let step_ms = step_ms.max(1);
        let rows = (until.since_ms(after) / step_ms).min(1_000);
        if rows <= 0 {
            return Ok(None);
        }
        let mut builder = BlockBuilder::new();
        for row in (0..rows).rev() {
            let at = until.plus_ms(-row * step_ms);
            let values = self.sample(at);
            builder.push(at.0, values).map_err(WalkError::Shape)?;
        }
        let block: Block = builder.finish();
        encode(&block).map(Some).map_err(WalkError::Encode)
    }
}

#[cfg(test)]
mod tests {
    use farshore_series::decode;

    use super::*;

    #[test]
    fn a_walk_is_the_same_for_a_seed_and_stays_within_what_a_machine_can_say() {
        let start = UnixMs(1_790_000_000_000);
        let blocks = |seed| {
            let mut walk = Walk::new(seed, 3, start);
            (0..50)
                .map(|n| {
                    let from = start.plus_ms(n * 60_000);
                    walk.block(from, from.plus_ms(60_000), 10_000).unwrap().unwrap()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(blocks(1), blocks(1));
        assert_ne!(blocks(1), blocks(2));
        for bytes in blocks(1) {
            let block = decode(&bytes).unwrap();
            assert_eq!(block.rows(), 6);
            assert!(block.points_of("cpu").all(|(_, cpu)| (0.0..=1.0).contains(&cpu)));
            let fits = block.points_of("mem_used").zip(block.points_of("mem_total"));
            assert!(fits.into_iter().all(|((_, used), (_, total))| used <= total));
        }
    }

    #[test]
    fn no_time_gives_no_block_and_much_time_a_bounded_one() {
        let mut walk = Walk::new(1, 1, UnixMs(0));
        assert!(walk.block(UnixMs(10), UnixMs(10), 10_000).unwrap().is_none());
        let bytes = walk.block(UnixMs(0), UnixMs(DAY_MS), 1_000).unwrap().unwrap();
        assert_eq!(decode(&bytes).unwrap().rows(), 1_000);
    }
}
