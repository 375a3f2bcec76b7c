//! How fast something grows.

use crate::time::{HOUR_MS, MINUTE_MS};

/// Less than this says nothing about the hours to come.
const LEAST_SPAN_MS: i64 = 30 * MINUTE_MS;
const LEAST_POINTS: usize = 5;

/// The slope of the line that fits the points (time in milliseconds, value) best, in units an hour. `None` when there are too few, or
/// they are too close together.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "hours since the first point are small")]
pub fn growth_per_hour(points: &[(i64, f64)]) -> Option<f64> {
    let first = points.iter().map(|(at, _)| *at).min()?;
    let last = points.iter().map(|(at, _)| *at).max()?;
    if points.len() < LEAST_POINTS || last.saturating_sub(first) < LEAST_SPAN_MS {
        return None;
    }
    let count = points.len() as f64;
    let hours = |at: i64| (at - first) as f64 / HOUR_MS as f64;
    let mean_x = points.iter().map(|(at, _)| hours(*at)).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, value)| *value).sum::<f64>() / count;
    let (mut over, mut under) = (0.0, 0.0);
    for (at, value) in points {
        let x = hours(*at) - mean_x;
        over += x * (value - mean_y);
        under += x * x;
    }
    let slope = over / under;
    slope.is_finite().then_some(slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_through_noise_and_too_little_says_nothing() {
        let line = |n: i64| (n * 10 * MINUTE_MS, 100.0 + n as f64 + if n % 2 == 0 { 0.2 } else { -0.2 });
        let points: Vec<_> = (0..36).map(line).collect();
        let slope = growth_per_hour(&points).unwrap();
        assert!((5.8..6.2).contains(&slope), "{slope}");
        assert_eq!(growth_per_hour(&points[..3]), None);
        assert_eq!(growth_per_hour(&[]), None);
        let close: Vec<_> = (0..50).map(|n| (n, 1.0)).collect();
        assert_eq!(growth_per_hour(&close), None);
    }
}
