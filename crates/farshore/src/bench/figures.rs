//! What was measured: names from the table of benches, each with its unit at its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// One flat object of figures.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, Value>);

impl Figures {
    pub(crate) fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// A figure in milliseconds, to a hundredth.
    pub(crate) fn put_ms(&mut self, name: &str, ms: f64) {
        self.put(name, (ms * 100.0).round() / 100.0);
    }

    pub(crate) fn put_seconds(&mut self, name: &str, time: Duration) {
        self.put(name, (time.as_secs_f64() * 1_000.0).round() / 1_000.0);
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.0).context("can't encode the figures")?;
        std::fs::write(path, text + "\n").with_context(|| format!("can't write {}", path.display()))
    }

    pub(crate) fn table(&self) -> String {
        let width = self.0.keys().map(String::len).max().unwrap_or(0);
        self.0.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
    }
}

/// Times, from which shares are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn add_ms(&mut self, ms: f64) {
        self.0.push(ms);
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.add_ms(time.as_secs_f64() * 1_000.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The value that `percent` of them do not exceed (nearest rank); 0 without values.
    pub(crate) fn percentile(&mut self, percent: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        self.0.sort_unstable_by(f64::total_cmp);
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let rank = (percent / 100.0 * self.0.len() as f64).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the count"
        )]
        let index = (rank.max(1.0) as usize).min(self.0.len()) - 1;
        self.0.get(index).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut times = Times::default();
        assert!(times.percentile(50.0).abs() < f64::EPSILON);
        for ms in (1..=100).rev() {
            times.add_ms(f64::from(ms));
        }
        let got = [50.0, 95.0, 99.0, 100.0, 0.0].map(|percent| times.percentile(percent));
        assert_eq!(got, [50.0, 95.0, 99.0, 100.0, 1.0]);
    }
}
