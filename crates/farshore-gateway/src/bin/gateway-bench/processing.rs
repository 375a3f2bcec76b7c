//! The engine of the pipelines by itself, on one thread: a five-step pipeline with a window of ten seconds over a thousand series.

use std::time::{Duration, Instant};

use farshore_gateway::pipeline::{Context, Definition, Engine, Now};
use farshore_journal::{PointBatch, StreamName, Value};

use crate::{Figures, Result};

const SERIES: u32 = 1_000;
const PIPELINES: &str = r#"
pipelines:
  - name: five-steps
    steps:
      - filter: measurement.startsWith("temp") && value > -50 && value < 150
      - map: {value: value * 1.8 + 32}
      - dedup: {within: 1m}
      - window: {tumbling: 10s, lateness: 2s, aggregates: [min, max, mean, count]}
      - emit: {stream: data/out}
"#;

/// Each series tells a value a second, in batches of all series.
pub(crate) fn measure(figures: &mut Figures, for_long: Duration) -> Result<()> {
    let definition = Definition::parse(PIPELINES)?;
    let mut engine = Engine::new(&definition, Context::default(), 100_000);
    let stream: StreamName = "data/default".parse()?;
    let (mut points, mut outputs, mut second) = (0_u64, 0_u64, 1_700_000_000_i64);
    let mut out = Vec::new();
    let mut busy = Duration::ZERO;
    while busy < for_long {
        let mut batch = PointBatch::new();
        for series in 0..SERIES {
            let id = batch.series("temp", "value", [("sensor", series.to_string().as_str())])?;
            let value = 20.0 + f64::from((series + u32::try_from(second % 60)?) % 10) / 10.0;
            batch.push(id, second * 1_000_000_000, Value::Float(value))?;
        }
        // What decoding costs is measured with the gateway as a whole.
        let begun = Instant::now();
        engine.feed(
            &stream,
            &batch,
            Now { wall_ns: second * 1_000_000_000, mono_ns: second * 1_000_000_000 },
            &mut out,
        );
        busy += begun.elapsed();
        points += u64::from(SERIES);
        outputs += out.len() as u64;
        out.clear();
        second += 1;
    }
    if outputs == 0 || engine.counts().points != points {
        return Err(format!("{outputs} outputs of {points} points").into());
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = points as f64 / busy.as_secs_f64();
    eprintln!("pipeline: {rate:.0} points/s through five steps on one core, {outputs} outputs");
    figures.insert("points_per_second_pipeline".to_owned(), rate);
    Ok(())
}
