//! Bytes per point on the sets that the benches use, so that a change of the codec that costs room is seen here first.

#![expect(clippy::unwrap_used, reason = "a test may")]

use farshore_series::{Columns, DEFAULT_LEVEL, PointBatch, Value, encode_columns};

/// splitmix64, and from it a normal distribution by Box and Muller.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// 100 series sampled together every 10 s (± 10 ms), a random walk (σ 0.02) with noise (σ 0.02); rounded to 0.01 or not.
fn set(rows: usize, rounded: bool) -> PointBatch {
    let mut random = Random(1);
    let mut batch = PointBatch::new();
    let names: Vec<String> = (0..100).map(|n| format!("sensor-{n:03}")).collect();
    let ids: Vec<_> = names
        .iter()
        .map(|name| batch.series("temperature", "value", [("sensor", name.as_str())]).unwrap())
        .collect();
    let mut walks: Vec<f64> = (0..100).map(|n| 20.0 + f64::from(n) * 0.37).collect();
    for row in 0..rows {
        let jitter = (random.uniform() * 20.0).round() as i64 - 10;
        let at_ms = 1_764_000_000_000 + row as i64 * 10_000 + jitter;
        for (walk, id) in walks.iter_mut().zip(&ids) {
            *walk += random.normal() * 0.02;
            let value = *walk + random.normal() * 0.02;
            let value = if rounded { (value * 100.0).round() / 100.0 } else { value };
            batch.push(*id, at_ms * 1_000_000, Value::Float(value)).unwrap();
        }
    }
    batch
}

fn bytes_per_point(rows: usize, rounded: bool, level: i32) -> f64 {
    let batch = set(rows, rounded);
    encode_columns(&Columns::of(&batch), level).unwrap().len() as f64 / batch.len() as f64
}

#[test]
fn two_decimals_take_less_than_a_byte_and_doubles_less_than_seven() {
    let table: Vec<String> = [(10, true), (100, true), (1000, true), (100, false), (1000, false)]
        .into_iter()
        .map(|(rows, rounded)| {
            let sizes = [1, 3, 6, 12].map(|level| format!("{:.3}", bytes_per_point(rows, rounded, level)));
            format!("{rows} rows, rounded {rounded}: levels 1, 3, 6, 12: {}", sizes.join(" "))
        })
        .collect();
    eprintln!("{}", table.join("\n"));
    assert!(bytes_per_point(1000, true, DEFAULT_LEVEL) < 0.55, "{table:#?}");
    assert!(bytes_per_point(1000, false, DEFAULT_LEVEL) < 6.2, "{table:#?}");
    assert!(bytes_per_point(100, true, DEFAULT_LEVEL) < 1.0, "{table:#?}");
}
