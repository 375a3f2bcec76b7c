//! Figures in Prometheus' text exposition format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};

use crate::app::App;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// All figures of this process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Rows of the route table and statuses are few, so the map stays small.
    requests: Mutex<BTreeMap<(String, &'static str, u16), Latency>>,
    handshakes_failed: Mutex<BTreeMap<&'static str, u64>>,
    connections_shed: Mutex<BTreeMap<&'static str, u64>>,
    batches_refused: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Latency {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    pub(super) fn answered(&self, method: &Method, route: &'static str, status: StatusCode, took: Duration) {
        let method = match *method {
            Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS => method.as_str(),
            _ => "other",
        };
        let seconds = took.as_secs_f64();
        let mut requests = locked(&self.requests);
        let latency = requests.entry((method.to_owned(), route, status.as_u16())).or_default();
        latency.count += 1;
        latency.seconds += seconds;
        for (count, bound) in latency.buckets.iter_mut().zip(BUCKETS) {
            if seconds <= bound {
                *count += 1;
            }
        }
    }

    pub(super) fn handshake_failed(&self, port: &'static str) {
        *locked(&self.handshakes_failed).entry(port).or_default() += 1;
    }

    pub(super) fn connection_shed(&self, port: &'static str) {
        *locked(&self.connections_shed).entry(port).or_default() += 1;
    }

    /// A gateway's batch can never be read.
    pub(crate) fn batch_refused(&self) {
        self.batches_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything, as text.
    pub(super) fn text(&self, app: &App) -> String {
        let mut out = String::with_capacity(8 * 1024);
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            // Writing to a String can't fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        head(&mut out, "farshore_build_info", "gauge", "This program.");
        let (version, engine) = (env!("CARGO_PKG_VERSION"), app.store().engine());
        let _ = writeln!(out, "farshore_build_info{{version=\"{version}\",engine=\"{engine}\"}} 1");

        let name = "farshore_http_request_duration_seconds";
        head(&mut out, name, "histogram", "Time to the head of the answer.");
        for ((method, route, status), latency) in locked(&self.requests).iter() {
            let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
            for (count, bound) in latency.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let (count, seconds) = (latency.count, latency.seconds);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {count}");
        }
        for (name, help, counts) in [
            ("farshore_tls_handshakes_failed_total", "TLS handshakes that failed.", &self.handshakes_failed),
            (
                "farshore_connections_shed_total",
                "Connections refused because the port was full.",
                &self.connections_shed,
            ),
        ] {
            head(&mut out, name, "counter", help);
            for (port, count) in locked(counts).iter() {
                let _ = writeln!(out, "{name}{{port=\"{port}\"}} {count}");
            }
        }
        let name = "farshore_batches_refused_total";
        head(&mut out, name, "counter", "Batches of gateways that can never be read.");
        let _ = writeln!(out, "{name} {}", self.batches_refused.load(Ordering::Relaxed));
        let pool = app.store().pool();
        let (devices, streams) = (app.hub().connected() as u64, app.hub().feed().streams() as u64);
        for (name, help, value) in [
            ("farshore_devices_connected", "Device channels open on this replica.", devices),
            ("farshore_event_streams", "Event streams (SSE) open on this replica.", streams),
            ("farshore_db_connections", "Open database connections.", pool.size),
            ("farshore_db_connections_idle", "Open database connections that nobody uses.", pool.idle),
        ] {
            head(&mut out, name, "gauge", help);
            let _ = writeln!(out, "{name} {value}");
        }
        out
    }
}
