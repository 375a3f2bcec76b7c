//! Settings of single streams: `GATEWAY_STREAMS_FILE`, or [`GatewayConfig::streams`](crate::GatewayConfig::streams) in a program.
//!
//! ```yaml
//! streams:
//!   data/fast: {durability: memory, overflow: thin(60s), maxBytes: 104857600, maxRecords: 1000000, maxAge: 3d}
//!   data/log: {class: log}
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use farshore_journal::{Bounds, Class, Config, Durability, Overflow, StreamConfig, StreamName};
use serde_norway::{Mapping, Value};

use crate::config::{CleanupStrategy, GatewayConfig};
use crate::pipeline::{ALERTS, PROCESSED, Span};

/// Streams that the gateway itself writes, or reads MQTT and OTLP into: they are there whatever producers name theirs.
const OWN: [&str; 5] = [DEFAULT, MQTT, OTLP, PROCESSED, "data/analytics"];
pub(crate) const DEFAULT: &str = "data/default";
pub(crate) const MQTT: &str = "data/mqtt";
const OTLP: &str = "data/otlp";
/// What the journal says of itself.
const LOSSES: &str = "journal/losses";
const MAX_FILE_BYTES: usize = 256 * 1024;
const MAX_STREAMS: usize = 64;
/// A stream has at least so many bytes.
const MIN_BYTES: u64 = 64 * 1024;
const MS: i64 = 1_000_000;

/// What a stream has of its own; what is not given is as for all streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamSettings {
    /// How urgent it is: alert, telemetry or log.
    pub class: Option<Class>,
    /// When an append is acknowledged.
    pub durability: Option<Durability>,
    /// What gives way at its bounds.
    pub overflow: Option<Overflow>,
    /// Most bytes on disk.
    pub max_bytes: Option<u64>,
    /// Most points.
    pub max_records: Option<u64>,
    /// The age from which points that were not sent are given up.
    pub max_age: Option<Duration>,
}

/// Streams with settings of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams(pub BTreeMap<StreamName, StreamSettings>);

impl Streams {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Everything that is wrong, at once, each with its path; or that it is no YAML, with the line.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        if text.len() > MAX_FILE_BYTES {
            return Err(vec![format!("it has {} bytes, at most {MAX_FILE_BYTES} are taken", text.len())]);
        }
        let file: Value = serde_norway::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut reader = Reader::default();
        let mut streams = Self::default();
        for (name, given) in reader.map("", &file, "a map with streams") {
            match name.as_str() {
                "streams" => {
                    for (name, given) in reader.map(&name, given, "a map of streams") {
                        reader.stream(&name, given, &mut streams);
                    }
                }
                _ => reader.wrong(&name, "is not known; the file has streams"),
            }
        }
        reader.errors.extend(streams.check());
        if reader.errors.is_empty() { Ok(streams) } else { Err(reader.errors) }
    }

    /// What is wrong with it, each with its path.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut reader = Reader::default();
        if self.0.len() > MAX_STREAMS {
            reader
                .wrong("streams", &format!("has {} streams, at most {MAX_STREAMS} are taken", self.0.len()));
        }
        for (name, settings) in &self.0 {
            let path = format!("streams.{name}");
            if !name.as_str().starts_with("data/") && name.as_str() != ALERTS {
                reader.wrong(&path, &format!("is no stream of readings: these are data/NAME, and {ALERTS}"));
            }
            if settings.class == Some(Class::Document) {
                reader.wrong(&format!("{path}.class"), "document: documents have a store of their own");
            }
            if let Some(why) = acknowledged(name)
                && settings.durability.is_some_and(|durability| !durability.is_durable())
            {
                let what = format!("is group, group(MS) or strict here: {why}");
                reader.wrong(&format!("{path}.durability"), &what);
            }
            if settings.max_bytes.is_some_and(|bytes| bytes < MIN_BYTES) {
                reader.wrong(&format!("{path}.maxBytes"), &format!("is at least {MIN_BYTES}"));
            }
            if settings.max_records == Some(0) {
                reader.wrong(&format!("{path}.maxRecords"), "is at least 1");
            }
            if settings.max_age == Some(Duration::ZERO) {
                reader.wrong(&format!("{path}.maxAge"), "is longer than 0s");
            }
            if settings.overflow == Some(Overflow::Thin(Duration::ZERO)) {
                reader.wrong(&format!("{path}.overflow"), "thin(LENGTH) has windows that are longer than 0s");
            }
        }
        reader.errors
    }
}

/// Why what is acknowledged in a stream must be durable.
fn acknowledged(name: &StreamName) -> Option<&'static str> {
    match name.as_str() {
        MQTT => Some(
            "a publish of QoS 1 is acknowledged so that its client forgets it, and may then be kept nowhere but here",
        ),
        ALERTS => Some("an alert is told once, and processing goes on from it after a crash"),
        _ => None,
    }
}

#[derive(Default)]
struct Reader {
    errors: Vec<String>,
}

impl Reader {
    fn wrong(&mut self, path: &str, what: &str) {
        self.errors.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
    }

    /// The entries of a map; nothing where it is none.
    fn map<'v>(&mut self, path: &str, value: &'v Value, expected: &str) -> Vec<(String, &'v Value)> {
        let Value::Mapping(map) = value else {
            self.wrong(path, &format!("write {expected}"));
            return Vec::new();
        };
        self.entries(path, map)
    }

    fn entries<'v>(&mut self, path: &str, map: &'v Mapping) -> Vec<(String, &'v Value)> {
        let mut entries = Vec::with_capacity(map.len());
        for (name, value) in map {
            match name.as_str() {
                Some(name) => entries.push((name.to_owned(), value)),
                None => self.wrong(path, "has a name that is no text"),
            }
        }
        entries
    }

    fn stream(&mut self, name: &str, given: &Value, streams: &mut Streams) {
        let path = format!("streams.{name}");
        let mut settings = StreamSettings::default();
        for (key, value) in self.map(&path, given, "a map such as {durability: strict, maxAge: 3d}") {
            let path = format!("{path}.{key}");
            match key.as_str() {
                "class" => settings.class = self.text(&path, value, "alert, telemetry or log", class),
                "durability" => {
                    let expected = "group, group(MS) with 1 to 1000 milliseconds, strict, memory or os";
                    settings.durability = self.text(&path, value, expected, durability);
                }
                "overflow" => {
                    let expected = "drop-oldest, drop-newest, reject or thin(LENGTH), such as thin(60s)";
                    settings.overflow = self.text(&path, value, expected, overflow);
                }
                "maxBytes" => settings.max_bytes = self.number(&path, value),
                "maxRecords" => settings.max_records = self.number(&path, value),
                "maxAge" => {
                    settings.max_age = self.text(&path, value, "a length of time, such as 12h or 3d", length);
                }
                _ => self.wrong(
                    &path,
                    "is not known; a stream has class, durability, overflow, maxBytes, maxRecords and maxAge",
                ),
            }
        }
        match name.parse() {
            Ok(name) => drop(streams.0.insert(name, settings)),
            Err(error) => {
                let error: farshore_journal::StreamNameError = error;
                self.wrong("streams", &error.to_string());
            }
        }
    }

    fn text<T>(
        &mut self,
        path: &str,
        value: &Value,
        expected: &str,
        read: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let found = value.as_str().and_then(read);
        if found.is_none() {
            self.wrong(path, &format!("write {expected}"));
        }
        found
    }

    fn number(&mut self, path: &str, value: &Value) -> Option<u64> {
        let found = value.as_u64();
        if found.is_none() {
            self.wrong(path, "write a whole number");
        }
        found
    }
}

fn class(text: &str) -> Option<Class> {
    Class::ALL.into_iter().find(|class| class.as_str() == text)
}

/// `group`, `group(50)`, `strict`, `memory`, `os`.
pub(crate) fn durability(text: &str) -> Option<Durability> {
    Some(match text {
        "group" => Durability::default(),
        "strict" => Durability::Strict,
        "memory" => Durability::Memory,
        "os" => Durability::Os,
        _ => {
            let ms: u64 = text.strip_prefix("group(")?.strip_suffix(')')?.parse().ok()?;
            Durability::Group((1..=1000).contains(&ms).then(|| Duration::from_millis(ms))?)
        }
    })
}

fn overflow(text: &str) -> Option<Overflow> {
    Some(match text {
        "drop-oldest" => Overflow::DropOldest,
        "drop-newest" => Overflow::DropNewest,
        "reject" => Overflow::Reject,
        _ => Overflow::Thin(length(text.strip_prefix("thin(")?.strip_suffix(')')?)?),
    })
}

fn length(text: &str) -> Option<Duration> {
    let span = Span::try_from(text.to_owned()).ok()?;
    Some(Duration::from_millis(u64::try_from(span.ns / MS).ok()?))
}

/// What the journal is told of its streams: the settings of all, those of single ones, and the gateway's own by name.
pub(crate) fn for_journal(config: &GatewayConfig) -> Config {
    let mut common = StreamConfig::of(Class::Telemetry);
    common.durability = config.durability;
    common.bounds = Bounds {
        points: config.max_queue_points.unwrap_or(u64::MAX),
        age: config.max_age.unwrap_or(Duration::MAX),
        ..Bounds::NONE
    };
    common.overflow = match config.cleanup {
        CleanupStrategy::OldestFirst => Overflow::DropOldest,
        CleanupStrategy::Reject => Overflow::Reject,
    };
    // Alerts go first, are never thrown away for readings, and have room of their own.
    let alert = StreamConfig { durability: config.durability, ..StreamConfig::of(Class::Alert) };
    let mut streams: BTreeMap<StreamName, StreamConfig> = BTreeMap::new();
    streams.extend(OWN.iter().filter_map(|name| Some((name.parse().ok()?, common.clone()))));
    streams.extend(ALERTS.parse().map(|name| (name, alert.clone())));
    for (name, own) in &config.streams.0 {
        let is_alert = name.as_str() == ALERTS || own.class == Some(Class::Alert);
        let base = if is_alert { &alert } else { &common };
        let settings = StreamConfig {
            class: own.class.unwrap_or(base.class),
            durability: own.durability.unwrap_or(base.durability),
            bounds: Bounds {
                bytes: own.max_bytes.unwrap_or(base.bounds.bytes),
                points: own.max_records.unwrap_or(base.bounds.points),
                age: own.max_age.unwrap_or(base.bounds.age),
            },
            overflow: own.overflow.unwrap_or(base.overflow),
        };
        streams.insert(name.clone(), settings);
    }
    Config { streams: streams.into_iter().collect(), default_stream: common, ..Config::default() }
}

/// The settings of a stream, those of the journal's own record of losses with them: it is durable, always.
pub(crate) fn settings_of(settings: &Config, name: &StreamName) -> StreamConfig {
    if name.as_str() == LOSSES {
        StreamConfig { durability: Durability::Strict, ..StreamConfig::of(Class::Alert) }
    } else {
        settings.stream(name).clone()
    }
}

pub(crate) fn durability_text(durability: Durability) -> String {
    match durability {
        Durability::Group(window) => format!("group({})", window.as_millis()),
        Durability::Strict => "strict".to_owned(),
        Durability::Os => "os".to_owned(),
        Durability::Memory => "memory".to_owned(),
    }
}

pub(crate) fn overflow_text(overflow: Overflow) -> String {
    match overflow {
        Overflow::DropOldest => "drop-oldest".to_owned(),
        Overflow::DropNewest => "drop-newest".to_owned(),
        Overflow::Reject => "reject".to_owned(),
        Overflow::Thin(window) if window.subsec_nanos() == 0 => format!("thin({}s)", window.as_secs()),
        Overflow::Thin(window) => format!("thin({}ms)", window.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
streams:
  data/fast: {durability: memory, overflow: thin(60s), maxBytes: 104857600, maxRecords: 1000000, maxAge: 3d}
  data/log: {class: log, overflow: drop-newest}
  data/mqtt: {durability: group(50)}
  data/urgent: {class: alert, overflow: drop-oldest, maxRecords: 5}
";

    fn name(text: &str) -> StreamName {
        text.parse().expect("a name")
    }

    #[test]
    fn what_a_stream_has_of_its_own_goes_before_what_all_have() {
        let mut config = GatewayConfig::new("g", "/tmp/never-made");
        config.durability = Durability::Strict;
        config.max_queue_points = Some(7);
        config.streams = Streams::parse(GOOD).expect("good");
        let settings = for_journal(&config);
        let fast = settings.stream(&name("data/fast"));
        assert_eq!((fast.durability, fast.class), (Durability::Memory, Class::Telemetry));
        assert_eq!(fast.overflow, Overflow::Thin(Duration::from_secs(60)));
        let age = Duration::from_secs(3 * 86_400);
        assert_eq!(fast.bounds, Bounds { bytes: 104_857_600, points: 1_000_000, age });
        let log = settings.stream(&name("data/log"));
        assert_eq!((log.class, log.durability), (Class::Log, Durability::Strict));
        assert_eq!((log.overflow, log.bounds.points), (Overflow::DropNewest, 7));
        let mqtt = settings.stream(&name("data/mqtt"));
        assert_eq!(mqtt.durability, Durability::Group(Duration::from_millis(50)));
        let urgent = settings.stream(&name("data/urgent"));
        assert_eq!((urgent.class, urgent.bounds.points), (Class::Alert, 5));
        assert_eq!(settings.stream(&name("data/other")), &settings.default_stream);
        assert_eq!(settings.stream(&name(ALERTS)).bounds, Bounds::NONE);
    }

    #[test]
    fn the_gateways_own_streams_are_named_to_the_journal() {
        let settings = for_journal(&GatewayConfig::new("g", "/tmp/never-made"));
        let named: Vec<&str> = settings.streams.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            named,
            ["alerts", "data/analytics", "data/default", "data/mqtt", "data/otlp", "data/processed"]
        );
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_path() {
        let errors = Streams::parse(
            "
stream: {}
streams:
  data/a: {durability: soon, overflow: thin, clas: log, maxBytes: 10, maxRecords: 0, maxAge: 5}
  data/b: {class: document, overflow: thin(0s), maxAge: 0s, durability: group(1001)}
  data/c: 5
  data/mqtt: {durability: memory}
  alerts: {durability: os}
  journal/losses: {class: log}
  ../d: {}
  7: {}
",
        )
        .expect_err("wrong");
        for part in [
            "stream: is not known",
            "streams.data/a.durability: write group",
            "streams.data/a.overflow: write drop-oldest",
            "streams.data/a.clas: is not known",
            "streams.data/a.maxBytes: is at least",
            "streams.data/a.maxRecords: is at least 1",
            "streams.data/a.maxAge: write a length",
            "streams.data/b.class: document",
            "streams.data/b.overflow: thin",
            "streams.data/b.maxAge: is longer",
            "streams.data/b.durability: write group",
            "streams.data/c: write a map",
            "streams.data/mqtt.durability: is group, group(MS) or strict here: a publish of QoS 1",
            "streams.alerts.durability: is group, group(MS) or strict here: an alert",
            "streams.journal/losses: is no stream of readings",
            "\"../d\" is no name of a stream",
            "streams: has a name that is no text",
        ] {
            assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:#?}");
        }
        assert_eq!(errors.len(), 17, "{errors:#?}");
        for (text, part) in [
            ("", "write a map with streams"),
            ("streams: [a]", "streams: write a map of streams"),
            ("streams:\n  data/a: {class: log}\n  data/a: {}\n", "duplicate"),
            ("streams: {", "line 2"),
        ] {
            let errors = Streams::parse(text).expect_err(text);
            assert!(errors.len() == 1 && errors[0].contains(part), "{text}: {errors:?}");
        }
        let many: String = (0..65).map(|n| format!("  data/s{n}: {{}}\n")).collect();
        assert!(Streams::parse(&format!("streams:\n{many}")).expect_err("many")[0].contains("at most 64"));
    }
}
