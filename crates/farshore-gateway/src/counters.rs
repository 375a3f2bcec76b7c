//! What the gateway counts of its own work; the journal counts what it keeps and loses.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histogram of processing times, in seconds.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// A counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Times from the arrival of a body until it is durable.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    buckets: [Counter; BOUNDS.len()],
    count: Counter,
    sum_us: Counter,
}

impl Durations {
    pub(crate) fn record(&self, took: Duration) {
        self.count.add(1);
        self.sum_us.add(usize::try_from(took.as_micros()).unwrap_or(usize::MAX));
        let seconds = took.as_secs_f64();
        if let Some(index) = BOUNDS.iter().position(|bound| seconds <= *bound)
            && let Some(bucket) = self.buckets.get(index)
        {
            bucket.add(1);
        }
    }

    fn write(&self, name: &str, text: &mut String) {
        let mut total = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            total += bucket.get();
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let count = self.count.get();
        #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
        let sum = self.sum_us.get() as f64 / 1e6;
        let _ =
            writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Points that are durable.
    pub(crate) points: Counter,
    /// Of these, such whose time was too far ahead.
    pub(crate) future_times: Counter,
    /// Readings that could not be read or were refused.
    pub(crate) rejected: Counter,
    pub(crate) duplicates_http: Counter,
    pub(crate) duplicates_mqtt: Counter,
    pub(crate) sync_success: Counter,
    pub(crate) sync_failures: Counter,
    pub(crate) processing: Durations,
}

/// What the metrics page needs to know from elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) queue_points: u64,
    pub(crate) queue_bytes: u64,
    pub(crate) oldest_age_s: Option<f64>,
    pub(crate) drain_s: Option<f64>,
    pub(crate) online: bool,
    pub(crate) refused_batches: u64,
    pub(crate) clock_offset_s: f64,
    pub(crate) rebased: u64,
    /// Points whose time the journal found too far ahead.
    pub(crate) future_times: u64,
    /// Stream, reason, points.
    pub(crate) lost: Vec<(String, &'static str, u64)>,
    /// Stream, bytes of damage in which points can't be counted.
    pub(crate) lost_bytes: Vec<(String, u64)>,
    pub(crate) mqtt_connections: u64,
    /// Whether the site's own broker is connected; nothing where none is set.
    pub(crate) broker: Option<bool>,
    /// Messages that were delivered, and those that a client did not read.
    pub(crate) mqtt_deliveries: (u64, u64),
    pub(crate) processing: Option<crate::pipeline::ProcessingStatus>,
}

impl Counters {
    /// The Prometheus text format.
    pub(crate) fn render(&self, observed: &Observed) -> String {
        let mut text = String::with_capacity(4096);
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
            let _ = writeln!(text, "# HELP edge_gateway_{name} {help}\n# TYPE edge_gateway_{name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "edge_gateway_{name}{labels} {value}");
            }
        };
        let one = |value: String| vec![(String::new(), value)];
        let number = |value: Option<f64>| value.map_or_else(|| "NaN".to_owned(), |value| value.to_string());
        metric(
            "data_points_total",
            "counter",
            "Points that were made durable.",
            &one(self.points.get().to_string()),
        );
        metric(
            "sync_success_total",
            "counter",
            "Exchanges with the cloud that went well.",
            &one(self.sync_success.get().to_string()),
        );
        metric(
            "sync_failures_total",
            "counter",
            "Exchanges with the cloud that failed.",
            &one(self.sync_failures.get().to_string()),
        );
        metric(
            "queue_size",
            "gauge",
            "Points that wait for the cloud.",
            &one(observed.queue_points.to_string()),
        );
        metric(
            "queue_bytes",
            "gauge",
            "Bytes on disk of what waits.",
            &one(observed.queue_bytes.to_string()),
        );
        metric(
            "oldest_unsent_age_seconds",
            "gauge",
            "Age of the oldest point that waits; 0 when none does.",
            &one(observed.oldest_age_s.unwrap_or(0.0).to_string()),
        );
        metric(
            "drain_estimate_seconds",
            "gauge",
            "Until nothing waits at the pace of the last minutes; NaN when nothing was sent yet.",
            &one(number(observed.drain_s)),
        );
        metric(
            "online",
            "gauge",
            "1 while exchanges with the cloud go well.",
            &one(u8::from(observed.online).to_string()),
        );
        metric(
            "batches_refused_total",
            "counter",
            "Batches that the cloud can never read; they lie in the quarantine.",
            &one(observed.refused_batches.to_string()),
        );
        metric(
            "clock_offset_seconds",
            "gauge",
            "How far the wall clock was moved since the start.",
            &one(observed.clock_offset_s.to_string()),
        );
        metric(
            "points_rebased_total",
            "counter",
            "Points whose times were set right after the clock had been wrong.",
            &one(observed.rebased.to_string()),
        );
        metric(
            "future_times_total",
            "counter",
            "Points whose time was more than a day ahead, and became the clock's.",
            &one((self.future_times.get() + observed.future_times).to_string()),
        );
        let lost: Vec<_> = observed
            .lost
            .iter()
            .map(|(stream, reason, points)| {
                (format!("{{stream=\"{stream}\",reason=\"{reason}\"}}"), points.to_string())
            })
            .collect();
        metric(
            "points_lost_total",
            "counter",
            "Points that were taken and then discarded or damaged.",
            &lost,
        );
        let lost_bytes: Vec<_> = observed
            .lost_bytes
            .iter()
            .map(|(stream, bytes)| (format!("{{stream=\"{stream}\"}}"), bytes.to_string()))
            .collect();
        metric(
            "bytes_lost_total",
            "counter",
            "Bytes of damage that held points which can't be counted.",
            &lost_bytes,
        );
        metric(
            "points_rejected_total",
            "counter",
            "Readings that could not be read or were refused; their producers were told.",
            &one(self.rejected.get().to_string()),
        );
        let duplicates = [("http", &self.duplicates_http), ("mqtt", &self.duplicates_mqtt)]
            .map(|(protocol, counter)| (format!("{{protocol=\"{protocol}\"}}"), counter.get().to_string()));
        metric(
            "duplicates_dropped_total",
            "counter",
            "Requests and messages that were there already.",
            &duplicates,
        );
        metric(
            "mqtt_connections",
            "gauge",
            "MQTT clients that are connected.",
            &one(observed.mqtt_connections.to_string()),
        );
        let broker: Vec<_> =
            observed.broker.iter().map(|up| (String::new(), u8::from(*up).to_string())).collect();
        metric(
            "broker_connected",
            "gauge",
            "1 while the site's own broker is connected; nothing where none is set.",
            &broker,
        );
        let (delivered, dropped) = observed.mqtt_deliveries;
        let deliveries = [("delivered", delivered), ("dropped", dropped)]
            .map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), count.to_string()));
        metric(
            "mqtt_deliveries_total",
            "counter",
            "Messages for MQTT clients that subscribed; dropped: the client did not read in time.",
            &deliveries,
        );
        if let Some(processing) = &observed.processing {
            write_processing(processing, &mut metric);
        }
        metric(
            "processing_duration_seconds",
            "histogram",
            "From the arrival of a request or message until its points are durable.",
            &[],
        );
        self.processing.write("edge_gateway_processing_duration_seconds", &mut text);
        text
    }
}

/// Name, kind, explanation, and values by their labels.
type Metric<'m> = dyn FnMut(&str, &str, &str, &[(String, String)]) + 'm;

/// What the pipelines say of themselves.
fn write_processing(processing: &crate::pipeline::ProcessingStatus, metric: &mut Metric<'_>) {
    let one = |value: u64| vec![(String::new(), value.to_string())];
    for (name, kind, help, value) in [
        (
            "pipeline_backlog_points",
            "gauge",
            "Points that are durable and wait to be processed.",
            processing.backlog,
        ),
        ("pipeline_points_total", "counter", "Points that were processed.", processing.engine.points),
        ("pipeline_late_total", "counter", "Points that came too late to count.", processing.late),
        (
            "pipeline_dropped_total",
            "counter",
            "Points without a place or a meaning in a step.",
            processing.dropped,
        ),
        (
            "pipeline_evicted_total",
            "counter",
            "What was remembered of silent series and gave way.",
            processing.engine.evicted,
        ),
        ("pipeline_written_total", "counter", "Points that pipelines made.", processing.points_written),
        (
            "pipeline_lost_total",
            "counter",
            "Points that pipelines made and the journal did not take.",
            processing.points_lost,
        ),
        (
            "pipeline_messages_total",
            "counter",
            "Messages that rules published.",
            processing.messages_published,
        ),
        ("pipeline_reloads_total", "counter", "Changed pipelines that were taken.", processing.reloads),
    ] {
        metric(name, kind, help, &one(value));
    }
    let alerts = [("raised", processing.alerts_raised), ("cleared", processing.alerts_cleared)]
        .map(|(state, count)| (format!("{{state=\"{state}\"}}"), count.to_string()));
    metric("pipeline_alerts_total", "counter", "Local alerts.", &alerts);
    let calls = [
        ("taken", processing.webhook_calls - processing.webhook_failures.min(processing.webhook_calls)),
        ("failed", processing.webhook_failures),
    ]
    .map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), count.to_string()));
    metric("pipeline_webhooks_total", "counter", "Calls of webhooks.", &calls);
    let mut steps = Vec::new();
    for pipeline in &processing.pipelines {
        for (index, step) in pipeline.steps.iter().enumerate() {
            let name = pipeline.name.replace('\\', "\\\\").replace('"', "\\\"");
            let counts = step.counts;
            for (outcome, count) in [
                ("taken", counts.taken),
                ("passed", counts.passed),
                ("late", counts.late),
                ("unknown", counts.unknown),
                ("no_room", counts.no_room),
            ] {
                let kind = step.kind;
                let labels =
                    format!("{{pipeline=\"{name}\",step=\"{index}\",kind=\"{kind}\",outcome=\"{outcome}\"}}");
                steps.push((labels, count.to_string()));
            }
        }
    }
    metric("pipeline_step_points_total", "counter", "Points of each step.", &steps);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_metrics_are_there() {
        let counters = Counters::default();
        counters.points.add(3);
        counters.processing.record(Duration::from_millis(3));
        counters.processing.record(Duration::from_secs(60));
        counters.future_times.add(2);
        let observed = Observed {
            future_times: 1,
            lost: vec![("data/a".to_owned(), "expired", 2)],
            lost_bytes: vec![("data/a".to_owned(), 300)],
            ..Observed::default()
        };
        let text = counters.render(&observed);
        for line in [
            "edge_gateway_data_points_total 3",
            "edge_gateway_future_times_total 3",
            "edge_gateway_sync_success_total 0",
            "edge_gateway_sync_failures_total 0",
            "edge_gateway_queue_size 0",
            "edge_gateway_processing_duration_seconds_bucket{le=\"0.0025\"} 0",
            "edge_gateway_processing_duration_seconds_bucket{le=\"0.005\"} 1",
            "edge_gateway_processing_duration_seconds_bucket{le=\"+Inf\"} 2",
            "edge_gateway_processing_duration_seconds_count 2",
            "edge_gateway_drain_estimate_seconds NaN",
            "edge_gateway_points_lost_total{stream=\"data/a\",reason=\"expired\"} 2",
            "edge_gateway_bytes_lost_total{stream=\"data/a\"} 300",
            "edge_gateway_duplicates_dropped_total{protocol=\"mqtt\"} 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
    }
}
