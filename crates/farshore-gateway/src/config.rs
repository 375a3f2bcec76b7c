//! What a gateway is told before it starts, and the variables that tell it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use farshore_journal::{Backfill, Durability};
use farshore_trust::token::{TokenHash, hash_secret};
use zeroize::Zeroizing;

use crate::pipeline::WebhookAllow;
use crate::streams::{self, Streams};
use crate::sync::metered::Metered;

/// A journal has at least so many bytes.
const MIN_BYTES: u64 = 1024 * 1024;

/// When the gateway sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncStrategy {
    /// By the measured quality of the link.
    #[default]
    Adaptive,
    /// Every [`GatewayConfig::sync_interval`].
    FixedInterval,
    /// As soon as something is there.
    OnChange,
}

impl FromStr for SyncStrategy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "adaptive" => Ok(Self::Adaptive),
            "fixed-interval" => Ok(Self::FixedInterval),
            "on-change" => Ok(Self::OnChange),
            _ => Err(()),
        }
    }
}

/// What gives way when there are too many points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanupStrategy {
    /// The oldest go, and are counted.
    #[default]
    OldestFirst,
    /// New ones are not taken: producers get an error and keep theirs.
    Reject,
}

/// A secret that is sent somewhere: wiped when dropped, never shown.
#[derive(Clone, Default)]
pub struct Password(Zeroizing<String>);

impl Password {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, to be sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(redacted)")
    }
}

/// Who may send readings. Only hashes are kept.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `Authorization: Bearer …` or `Token …`, or the password of any user.
    pub token: Option<TokenHash>,
    /// A user's name and the hash of the password.
    pub user: Option<(String, TokenHash)>,
}

impl Credentials {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.token.is_none() && self.user.is_none()
    }

    /// Whether this is the token. Takes the same time whatever differs.
    #[must_use]
    pub fn accepts_token(&self, token: &str) -> bool {
        self.token.is_some_and(|expected| expected == hash_secret(token))
    }

    /// Whether this user may come in; the token is a password as well, whoever the user is.
    #[must_use]
    pub fn accepts(&self, user: &str, password: &str) -> bool {
        let given = hash_secret(password);
        let known = self
            .user
            .as_ref()
            .is_some_and(|(name, expected)| (hash_secret(name) == hash_secret(user)) & (*expected == given));
        known | self.token.is_some_and(|expected| expected == given)
    }
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A site's own MQTT broker, from which readings are taken.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    pub host: String,
    pub port: u16,
    /// Topic filters.
    pub topics: Vec<String>,
    /// The broker keeps what is published under this name while the gateway is away.
    pub client_id: String,
    pub user: Option<String>,
    pub password: Option<Password>,
    /// PEM, the certificates of its authority: with it, TLS is spoken.
    pub ca: Option<PathBuf>,
}

impl BrokerConfig {
    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    fn read(reader: &mut Reader<'_>, device_id: &str) -> Option<Self> {
        let url = reader.text("GATEWAY_BROKER_URL");
        let topics = reader.text("GATEWAY_BROKER_TOPICS");
        let (user, password) = (reader.text("GATEWAY_BROKER_USER"), reader.secret("GATEWAY_BROKER_PASSWORD"));
        let (Some(url), Some(topics)) = (&url, &topics) else {
            if url.is_some() || topics.is_some() {
                reader.error("GATEWAY_BROKER_URL and GATEWAY_BROKER_TOPICS belong together");
            }
            return None;
        };
        let ca = reader.text("GATEWAY_BROKER_CA").map(PathBuf::from);
        let uri: Option<http::Uri> = url.parse().ok();
        let tls = uri.as_ref().and_then(http::Uri::scheme_str) == Some("mqtts");
        let plain = uri.as_ref().and_then(http::Uri::scheme_str) == Some("mqtt");
        let Some(host) = uri.as_ref().and_then(http::Uri::host).filter(|_| tls || plain) else {
            reader.error("GATEWAY_BROKER_URL is mqtt://host[:port] or mqtts://host[:port]");
            return None;
        };
        if uri.as_ref().and_then(http::Uri::authority).is_some_and(|whole| whole.as_str().contains('@')) {
            reader.error(
                "GATEWAY_BROKER_URL holds no user and no password: set GATEWAY_BROKER_USER and GATEWAY_BROKER_PASSWORD \
                 (or GATEWAY_BROKER_PASSWORD_FILE)",
            );
        }
        if tls != ca.is_some() {
            reader.error("GATEWAY_BROKER_CA, a PEM file, belongs to mqtts:// and to nothing else");
        }
        if user.is_none() && password.is_some() {
            reader.error("GATEWAY_BROKER_PASSWORD needs GATEWAY_BROKER_USER");
        }
        let topics: Vec<String> = topics.split(',').map(|topic| topic.trim().to_owned()).collect();
        let most = crate::limits::MAX_FILTERS;
        if topics.len() > most || !topics.iter().all(|topic| is_filter(topic)) {
            reader.errors.push(format!(
                "GATEWAY_BROKER_TOPICS is 1 to {most} topic filters with commas between, such as hall/+/temp,line/#"
            ));
        }
        let default = if tls { 8883 } else { 1883 };
        Some(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.as_ref().and_then(http::Uri::port_u16).unwrap_or(default),
            topics,
            client_id: reader.text("GATEWAY_BROKER_CLIENT_ID").unwrap_or_else(|| device_id.to_owned()),
            user,
            password,
            ca,
        })
    }
}

/// A topic filter: `+` and `#` stand alone in their level, `#` at the end.
fn is_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let fits = |(index, level): (usize, &&str)| match *level {
        "+" => true,
        "#" => index + 1 == levels.len(),
        level => !level.contains(['+', '#', '\0']),
    };
    !text.is_empty() && text.len() <= 1024 && levels.iter().enumerate().all(fits)
}

/// Everything a gateway is told. [`GatewayConfig::new`] gives what most need.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GatewayConfig {
    pub device_id: String,
    pub device_name: String,
    pub environment: String,
    /// The folder of the journal.
    pub folder: PathBuf,
    /// Where HTTP is served; nothing for none.
    pub http: Option<SocketAddr>,
    /// Where MQTT is served; nothing for none.
    pub mqtt: Option<SocketAddr>,
    /// Where MQTT over TLS is served; nothing for none.
    pub mqtt_tls: Option<(SocketAddr, TlsFiles)>,
    /// A broker from which readings are taken as well; nothing for none.
    pub broker: Option<BrokerConfig>,
    pub credentials: Credentials,
    /// Most series of a stream, so that a counter in a tag can't fill the memory.
    pub max_series: usize,
    /// Where the cloud is, for the agent's role `gateway`: by itself the gateway sends nowhere. A program gives it an uplink with
    /// [`EdgeGateway::with_uplink`](crate::EdgeGateway::with_uplink); `farshore_agent::DeviceUplink::new(state_dir).key(key, url)` is the one that takes these two.
    pub cloud_url: Option<String>,
    /// As [`cloud_url`](Self::cloud_url).
    pub cloud_api_key: Option<Password>,
    /// For a connection to the control plane, and for each of its answers beyond what the bytes take on a slow link.
    pub connection_timeout: Duration,
    pub max_retry_attempts: u32,
    pub sync_strategy: SyncStrategy,
    pub sync_interval: Duration,
    /// Most bytes a second to the cloud, on average; nothing: no limit.
    pub sync_bytes_per_second: Option<u64>,
    /// Interfaces that cost money: while the default route goes over one, only alerts are sent. A `*` at the end stands for any end;
    /// `wwan0@06:00-22:00` costs at that time of day only.
    pub metered_interfaces: Vec<String>,
    /// The time zone of those times of day, by its IANA name; nothing: UTC.
    pub metered_zone: Option<String>,
    /// Which end of a backlog goes first.
    pub backfill: Backfill,
    /// A batch is closed when it has so many points and is a second old; nothing: by bytes and age alone.
    pub batch_size: Option<u32>,
    /// zstd level by way of gzip's scale, 1 to 9; nothing for the journal's own.
    pub compression_level: Option<u8>,
    pub worker_threads: usize,
    /// Most points that wait for the cloud in a stream; nothing: as many as the disk's share holds.
    pub max_queue_points: Option<u64>,
    /// Most bytes on disk; nothing: half of what is free at the start, from 64 MB to 10 GB.
    pub max_bytes: Option<u64>,
    /// The age from which points that were not sent are given up; nothing: never.
    pub max_age: Option<Duration>,
    pub cleanup: CleanupStrategy,
    /// When points are durable: after a group commit, or each append by itself.
    pub durability: Durability,
    /// Streams with settings of their own.
    pub streams: Streams,
    pub log_level: String,
    pub log_file: Option<PathBuf>,
    /// Whether points are processed here; nothing: when there is a file of pipelines.
    pub local_analytics: Option<bool>,
    /// The file of pipelines.
    pub pipeline_file: Option<PathBuf>,
    /// What pipelines may know of the device: a JSON file with `labels` and `twin`.
    pub pipeline_context_file: Option<PathBuf>,
    /// What webhooks of pipelines may call, wherever the pipelines are from.
    pub pipeline_webhook_allow: WebhookAllow,
    /// The window of the aggregates that are made without a file of pipelines.
    pub aggregation_window: Duration,
}

impl GatewayConfig {
    /// A gateway that takes readings on loopback and keeps them in `folder`.
    #[must_use]
    pub fn new(device_id: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        let device_id = device_id.into();
        Self {
            device_name: device_id.clone(),
            device_id,
            environment: "production".to_owned(),
            folder: folder.into(),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 8000))),
            mqtt: Some(SocketAddr::from(([127, 0, 0, 1], 1883))),
            mqtt_tls: None,
            broker: None,
            credentials: Credentials::default(),
            max_series: 20_000,
            cloud_url: None,
            cloud_api_key: None,
            connection_timeout: Duration::from_secs(30),
            max_retry_attempts: 5,
            sync_strategy: SyncStrategy::default(),
            sync_interval: Duration::from_secs(60),
            sync_bytes_per_second: None,
            metered_interfaces: Vec::new(),
            metered_zone: None,
            backfill: Backfill::default(),
            batch_size: None,
            compression_level: None,
            worker_threads: 2,
            max_queue_points: None,
            max_bytes: None,
            max_age: None,
            cleanup: CleanupStrategy::default(),
            durability: Durability::default(),
            streams: Streams::default(),
            log_level: "info".to_owned(),
            log_file: None,
            local_analytics: None,
            pipeline_file: None,
            pipeline_context_file: None,
            pipeline_webhook_allow: WebhookAllow::default(),
            aggregation_window: Duration::from_secs(300),
        }
    }

    /// Reads the variables, by the names of docs/gateway.md. An empty one counts as not set.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_variables(read: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let mut reader = Reader { read, errors: Vec::new() };
        let mut config = Self::new("edge-gateway", "./data/edge_gateway.db");
        if let Some(id) = reader.text("DEVICE_ID") {
            config.device_name.clone_from(&id);
            config.device_id = id;
        }
        reader.set("DEVICE_NAME", &mut config.device_name);
        reader.set("ENVIRONMENT", &mut config.environment);
        reader.set("LOCAL_DB_PATH", &mut config.folder);
        reader.address("GATEWAY_HTTP_LISTEN", &mut config.http);
        reader.address("GATEWAY_MQTT_LISTEN", &mut config.mqtt);
        let mut tls = None;
        reader.address("GATEWAY_MQTT_TLS_LISTEN", &mut tls);
        let certificate = reader.text("GATEWAY_TLS_CERT").map(PathBuf::from);
        let key = reader.text("GATEWAY_TLS_KEY").map(PathBuf::from);
        config.mqtt_tls = match (tls, certificate, key) {
            (Some(address), Some(certificate), Some(key)) => Some((address, TlsFiles { certificate, key })),
            (None, ..) => None,
            (Some(_), ..) => {
                reader.error(
                    "GATEWAY_MQTT_TLS_LISTEN needs GATEWAY_TLS_CERT and GATEWAY_TLS_KEY, two PEM files",
                );
                None
            }
        };
        let token = reader.secret("GATEWAY_TOKEN");
        config.credentials.token = token.map(|token| hash_secret(token.expose()));
        let (user, password) = (reader.text("GATEWAY_USER"), reader.secret("GATEWAY_PASSWORD"));
        config.credentials.user = match (user, password) {
            (Some(user), Some(password)) => Some((user, hash_secret(password.expose()))),
            (None, None) => None,
            _ => {
                reader.error("GATEWAY_USER and GATEWAY_PASSWORD belong together");
                None
            }
        };
        config.broker = BrokerConfig::read(&mut reader, &config.device_id);
        reader.number("GATEWAY_MAX_SERIES", 1, 1_000_000, &mut config.max_series);
        config.cloud_url = reader.text("CLOUD_API_URL");
        if let Some(url) = &config.cloud_url
            && !url.starts_with("https://")
        {
            reader.error("CLOUD_API_URL begins with https://");
        }
        config.cloud_api_key = reader.secret("CLOUD_API_KEY");
        reader.seconds("CONNECTION_TIMEOUT_SECONDS", 1, 3600, &mut config.connection_timeout);
        reader.number("MAX_RETRY_ATTEMPTS", 0, 1000, &mut config.max_retry_attempts);
        if let Some(text) = reader.text("SYNC_STRATEGY") {
            match text.parse() {
                Ok(strategy) => config.sync_strategy = strategy,
                Err(()) => reader.error("SYNC_STRATEGY is adaptive, fixed-interval or on-change"),
            }
        }
        reader.seconds("SYNC_INTERVAL_SECONDS", 1, 86_400, &mut config.sync_interval);
        let mut rate = 0;
        reader.number("SYNC_MAX_BYTES_PER_SECOND", 1024, u64::MAX, &mut rate);
        config.sync_bytes_per_second = (rate > 0).then_some(rate);
        if let Some(text) = reader.text("SYNC_METERED_INTERFACES") {
            config.metered_interfaces = text.split(',').map(|name| name.trim().to_owned()).collect();
        }
        config.metered_zone = reader.text("SYNC_METERED_ZONE");
        let metered = Metered::read(&config.metered_interfaces, config.metered_zone.as_deref());
        if let Err(wrong) = metered {
            reader.error(wrong);
        }
        match reader.text("SYNC_BACKFILL").as_deref() {
            None | Some("oldest") => {}
            Some("newest") => config.backfill = Backfill::Newest,
            Some(_) => reader.error("SYNC_BACKFILL is oldest or newest"),
        }
        let mut batch = 0;
        reader.number("BATCH_SIZE", 1, 1_000_000, &mut batch);
        config.batch_size = (batch > 0).then_some(batch);
        let mut on = true;
        reader.flag("COMPRESSION_ENABLED", &mut on);
        if !on {
            reader.error(
                "COMPRESSION_ENABLED=false: batches are always compressed here, it costs less than it saves",
            );
        }
        reader.number("WORKER_THREADS", 1, 64, &mut config.worker_threads);
        let mut points = 0;
        reader.number("MAX_OFFLINE_QUEUE_SIZE", 1, u64::MAX, &mut points);
        config.max_queue_points = (points > 0).then_some(points);
        let mut bytes = 0;
        reader.number("MAX_OFFLINE_QUEUE_BYTES", MIN_BYTES, u64::MAX, &mut bytes);
        config.max_bytes = (bytes > 0).then_some(bytes);
        let mut days = 0;
        reader.number("DATA_RETENTION_DAYS", 1, 36_500, &mut days);
        config.max_age = (days > 0).then(|| Duration::from_secs(days * 86_400));
        match reader.text("GATEWAY_DURABILITY").as_deref() {
            None => {}
            Some(text) => match streams::durability(text).filter(|durability| durability.is_durable()) {
                Some(durability) => config.durability = durability,
                None => reader
                    .error("GATEWAY_DURABILITY is group, group(MS) with 1 to 1000 milliseconds, or strict"),
            },
        }
        if let Some(path) = reader.text("GATEWAY_STREAMS_FILE") {
            let read = std::fs::read_to_string(&path).map_err(|error| vec![error.to_string()]);
            match read.and_then(|text| Streams::parse(&text)) {
                Ok(streams) => config.streams = streams,
                Err(errors) => reader
                    .errors
                    .extend(errors.iter().map(|error| format!("GATEWAY_STREAMS_FILE={path}: {error}"))),
            }
        }
        if let Some(level) = reader.text("LOG_LEVEL") {
            let level = level.to_ascii_lowercase();
            match level.as_str() {
                "trace" | "debug" | "info" | "error" => config.log_level = level,
                "warn" | "warning" => config.log_level = "warn".to_owned(),
                "critical" => config.log_level = "error".to_owned(),
                _ => reader.error("LOG_LEVEL is DEBUG, INFO, WARNING or ERROR"),
            }
        }
        config.log_file = reader.text("LOG_FILE").map(PathBuf::from);
        if reader.text("ENABLE_LOCAL_ANALYTICS").is_some() {
            let mut on = false;
            reader.flag("ENABLE_LOCAL_ANALYTICS", &mut on);
            config.local_analytics = Some(on);
        }
        config.pipeline_file = reader.text("PIPELINE_FILE").map(PathBuf::from);
        config.pipeline_context_file = reader.text("PIPELINE_CONTEXT_FILE").map(PathBuf::from);
        match reader.text("PIPELINE_WEBHOOK_ALLOW").map(|text| text.parse()) {
            None => {}
            Some(Ok(allow)) => config.pipeline_webhook_allow = allow,
            Some(Err(error)) => reader.error(&format!("PIPELINE_WEBHOOK_ALLOW: {error}")),
        }
        reader.seconds("AGGREGATION_WINDOW_SECONDS", 1, 86_400, &mut config.aggregation_window);
        if let Err(errors) = config.check() {
            reader.errors.extend(errors);
        }
        if reader.errors.is_empty() { Ok(config) } else { Err(reader.errors) }
    }

    /// Whether points are processed here.
    #[must_use]
    pub fn processes(&self) -> bool {
        self.local_analytics.unwrap_or(self.pipeline_file.is_some())
    }

    /// What must hold before anything is opened.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut errors = Vec::new();
        if self.device_id.is_empty() || self.device_id.len() > 128 {
            errors.push("DEVICE_ID has 1 to 128 characters".to_owned());
        }
        for (name, is_zero) in [
            ("MAX_OFFLINE_QUEUE_SIZE", self.max_queue_points == Some(0)),
            ("DATA_RETENTION_DAYS", self.max_age == Some(Duration::ZERO)),
            ("BATCH_SIZE", self.batch_size == Some(0)),
            ("GATEWAY_MAX_SERIES", self.max_series == 0),
        ] {
            if is_zero {
                errors.push(format!("{name} is at least 1"));
            }
        }
        if self.max_bytes.is_some_and(|bytes| bytes < MIN_BYTES) {
            errors.push(format!("MAX_OFFLINE_QUEUE_BYTES is at least {MIN_BYTES}"));
        }
        if !self.durability.is_durable() {
            errors.push("GATEWAY_DURABILITY: only single streams may be memory or os".to_owned());
        }
        errors.extend(self.streams.check());
        for (name, address) in [
            ("GATEWAY_HTTP_LISTEN", self.http),
            ("GATEWAY_MQTT_LISTEN", self.mqtt),
            ("GATEWAY_MQTT_TLS_LISTEN", self.mqtt_tls.as_ref().map(|(address, _)| *address)),
        ] {
            if let Some(address) = address
                && !address.ip().is_loopback()
                && self.credentials.is_empty()
            {
                errors.push(format!(
                    "{name}={address} can be reached from other machines: set GATEWAY_TOKEN, or GATEWAY_USER and \
                     GATEWAY_PASSWORD, or listen on 127.0.0.1"
                ));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

fn text(read: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    read(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The variable `NAME`, or the content of the file that `NAME_FILE` names.
///
/// # Errors
/// When both are given, or the file can't be read or is empty.
pub fn secret(read: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Option<Password>, String> {
    let file = format!("{name}_FILE");
    match (text(read, name), text(read, &file)) {
        (Some(_), Some(_)) => Err(format!("give {name} or {file}, not both")),
        (Some(text), None) => Ok(Some(Password::new(text))),
        (None, Some(path)) => match std::fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) if !text.trim().is_empty() => Ok(Some(Password::new(text.trim().to_owned()))),
            Ok(_) => Err(format!("{file}={path}: the file is empty")),
            Err(error) => Err(format!("{file}={path}: {error}")),
        },
        (None, None) => Ok(None),
    }
}

struct Reader<'r> {
    read: &'r dyn Fn(&str) -> Option<String>,
    errors: Vec<String>,
}

impl Reader<'_> {
    fn error(&mut self, text: &str) {
        self.errors.push(text.to_owned());
    }

    fn text(&self, name: &str) -> Option<String> {
        text(self.read, name)
    }

    fn set<T: From<String>>(&self, name: &str, into: &mut T) {
        if let Some(text) = self.text(name) {
            *into = text.into();
        }
    }

    fn secret(&mut self, name: &str) -> Option<Password> {
        secret(self.read, name).unwrap_or_else(|error| {
            self.errors.push(error);
            None
        })
    }

    fn address(&mut self, name: &str, into: &mut Option<SocketAddr>) {
        match self.text(name).as_deref() {
            None => {}
            Some("off") => *into = None,
            Some(text) => match text.parse() {
                Ok(address) => *into = Some(address),
                Err(_) => self
                    .errors
                    .push(format!("{name}={text}: write an address such as 127.0.0.1:8000, or off")),
            },
        }
    }

    fn number<T: FromStr + PartialOrd + fmt::Display + Copy>(
        &mut self,
        name: &str,
        least: T,
        most: T,
        into: &mut T,
    ) {
        let Some(text) = self.text(name) else { return };
        match text.parse::<T>() {
            Ok(number) if number >= least && number <= most => *into = number,
            _ => self.errors.push(format!("{name}={text}: write a whole number from {least} to {most}")),
        }
    }

    fn seconds(&mut self, name: &str, least: u64, most: u64, into: &mut Duration) {
        let mut seconds = into.as_secs();
        self.number(name, least, most, &mut seconds);
        *into = Duration::from_secs(seconds);
    }

    fn flag(&mut self, name: &str, into: &mut bool) {
        match self.text(name).map(|text| text.to_ascii_lowercase()).as_deref() {
            None => {}
            Some("true" | "1" | "yes" | "on") => *into = true,
            Some("false" | "0" | "no" | "off") => *into = false,
            Some(text) => self.errors.push(format!("{name}={text}: write true or false")),
        }
    }
}

/// Reads the lines `NAME=value` of an environment file: comments, `export`, single and double quotes are understood; nothing is expanded.
///
/// # Errors
/// Each line that is none, with its number.
pub fn parse_env_file(text: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    let mut variables = BTreeMap::new();
    let mut errors = Vec::new();
    // Editors of Windows put one in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match env_line(line) {
            Ok((name, value)) => drop(variables.insert(name.to_owned(), value.to_owned())),
            // What stands there may be a secret: it is not repeated.
            Err(error) => errors.push(format!("line {}: {error}", index + 1)),
        }
    }
    if errors.is_empty() { Ok(variables) } else { Err(errors) }
}

fn env_line(line: &str) -> Result<(&str, &str), &'static str> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=').ok_or("write NAME=value")?;
    let name = name.trim();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("write NAME=value");
    }
    let bare = value.trim_start();
    let Some(quote) = bare.chars().next().filter(|first| ['"', '\''].contains(first)) else {
        let comment = value
            .match_indices('#')
            .find(|(at, _)| value.get(..*at).is_some_and(|before| before.ends_with(char::is_whitespace)));
        let value = comment.and_then(|(at, _)| value.get(..at)).unwrap_or(value);
        return Ok((name, value.trim()));
    };
    let (value, behind) =
        bare.get(1..).and_then(|rest| rest.split_once(quote)).ok_or("the quote does not end")?;
    let comment = behind.trim_start();
    match comment.is_empty() || (comment.starts_with('#') && comment.len() < behind.len()) {
        true => Ok((name, value)),
        false => Err("behind the closing quote only a comment may follow, with a blank before it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<GatewayConfig, Vec<String>> {
        let variables = parse_env_file(text).expect("lines");
        GatewayConfig::from_variables(&|name| variables.get(name).cloned())
    }

    #[test]
    fn the_documented_example_is_taken_as_it_is() {
        let config = of(include_str!("../../../deploy/gateway/.env.example")).expect("valid");
        assert_eq!(config.device_id, "edge-gateway-001");
        assert_eq!(config.folder, PathBuf::from("./data/edge_gateway.db"));
        assert_eq!(config.max_queue_points, Some(10_000));
        assert_eq!(config.max_age, Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(
            (config.batch_size, config.worker_threads, config.log_level.as_str()),
            (Some(100), 2, "info")
        );
        assert!(config.credentials.is_empty());
        assert!(!format!("{config:?}").contains("your-api-key"));
    }

    #[test]
    fn without_variables_it_listens_on_loopback_only() {
        let config = of("").expect("valid");
        assert!(config.http.expect("on").ip().is_loopback() && config.mqtt.expect("on").ip().is_loopback());
        assert_eq!((config.max_queue_points, config.max_age), (None, None));
    }

    #[test]
    fn beyond_loopback_needs_credentials() {
        let errors = of("GATEWAY_HTTP_LISTEN=0.0.0.0:8000\nGATEWAY_MQTT_LISTEN=[::]:1883").expect_err("open");
        assert_eq!(errors.len(), 2, "{errors:?}");
        let config =
            of("GATEWAY_HTTP_LISTEN=0.0.0.0:8000\nGATEWAY_MQTT_LISTEN=off\nGATEWAY_TOKEN=t").expect("closed");
        assert!(
            config.mqtt.is_none()
                && config.credentials.accepts_token("t")
                && !config.credentials.accepts_token("u")
        );
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let errors = of("BATCH_SIZE=0\nWORKER_THREADS=many\nLOG_LEVEL=loud\nCLOUD_API_URL=http://x\nGATEWAY_USER=u\nGATEWAY_HTTP_LISTEN=8000\nSYNC_STRATEGY=x\nGATEWAY_MQTT_TLS_LISTEN=127.0.0.1:8883\nGATEWAY_TOKEN_FILE=/none\nCOMPRESSION_ENABLED=maybe")
            .expect_err("wrong");
        assert_eq!(errors.len(), 10, "{errors:?}");
    }

    #[test]
    fn interfaces_that_cost() {
        let config = of("SYNC_METERED_INTERFACES=wwan0, ppp*").expect("valid");
        assert_eq!(config.metered_interfaces, ["wwan0", "ppp*"]);
        let config = of("SYNC_METERED_INTERFACES=wwan*@06:00-22:00, ppp0\nSYNC_METERED_ZONE=Europe/Riga")
            .expect("valid");
        assert_eq!(config.metered_interfaces, ["wwan*@06:00-22:00", "ppp0"]);
        assert_eq!(config.metered_zone.as_deref(), Some("Europe/Riga"));
        for wrong in [",", "a,,b", "a*b", "a**", "a/b", "averyveryverylongname", "wwan0@22:00"] {
            assert!(of(&format!("SYNC_METERED_INTERFACES={wrong}")).is_err(), "{wrong}");
        }
        assert!(of("SYNC_METERED_ZONE=Mars/Base").is_err());
    }

    #[test]
    fn a_broker_of_the_site() {
        let config = of(
            "DEVICE_ID=gw-7\nGATEWAY_BROKER_URL=mqtt://plc.local\nGATEWAY_BROKER_TOPICS=hall/+/temp, line/#",
        )
        .expect("valid");
        let broker = config.broker.expect("a broker");
        assert_eq!((broker.address().as_str(), broker.client_id.as_str()), ("plc.local:1883", "gw-7"));
        assert_eq!(broker.topics, ["hall/+/temp", "line/#"]);
        let config = of("GATEWAY_BROKER_URL=mqtts://[::1]\nGATEWAY_BROKER_TOPICS=#\nGATEWAY_BROKER_CA=ca.pem\nGATEWAY_BROKER_USER=u\nGATEWAY_BROKER_PASSWORD=secret")
            .expect("valid");
        assert_eq!(config.broker.as_ref().expect("a broker").address(), "[::1]:8883");
        assert!(!format!("{config:?}").contains("secret"));
        for wrong in [
            "GATEWAY_BROKER_URL=mqtt://h",
            "GATEWAY_BROKER_TOPICS=a",
            "GATEWAY_BROKER_URL=http://h\nGATEWAY_BROKER_TOPICS=a",
            "GATEWAY_BROKER_URL=mqtts://h\nGATEWAY_BROKER_TOPICS=a",
            "GATEWAY_BROKER_URL=mqtt://h\nGATEWAY_BROKER_TOPICS=a/#/b",
            "GATEWAY_BROKER_URL=mqtt://h\nGATEWAY_BROKER_TOPICS=a,,b",
            "GATEWAY_BROKER_URL=mqtt://h\nGATEWAY_BROKER_TOPICS=a+",
            "GATEWAY_BROKER_URL=mqtt://h\nGATEWAY_BROKER_TOPICS=a\nGATEWAY_BROKER_PASSWORD=p",
        ] {
            assert_eq!(of(wrong).expect_err(wrong).len(), 1, "{wrong}");
        }
        for secret in ["user:hunter2@h", "user@h:1883"] {
            let errors = of(&format!("GATEWAY_BROKER_URL=mqtt://{secret}\nGATEWAY_BROKER_TOPICS=a"));
            let errors = errors.expect_err("left out silently otherwise").concat();
            assert!(errors.contains("GATEWAY_BROKER_PASSWORD") && !errors.contains("hunter2"), "{errors}");
        }
    }

    #[test]
    fn processing_is_off_unless_it_is_asked_for() {
        let config = of("").expect("valid");
        assert!(!config.processes());
        let config = of("ENABLE_LOCAL_ANALYTICS=true\nAGGREGATION_WINDOW_SECONDS=10").expect("valid");
        assert!(config.processes() && config.aggregation_window == Duration::from_secs(10));
        let config = of("PIPELINE_FILE=p.yaml\nPIPELINE_CONTEXT_FILE=c.json").expect("valid");
        assert!(config.processes() && config.pipeline_file == Some(PathBuf::from("p.yaml")));
        assert_eq!(config.pipeline_webhook_allow.to_string(), "loopback,private");
        let strict = of("PIPELINE_WEBHOOK_ALLOW=loopback:9000, 10.0.0.0/8").expect("valid");
        assert_eq!(strict.pipeline_webhook_allow.to_string(), "loopback:9000,10.0.0.0/8");
        assert!(of("PIPELINE_WEBHOOK_ALLOW=plc.local").is_err());
        assert!(!of("PIPELINE_FILE=p.yaml\nENABLE_LOCAL_ANALYTICS=false").expect("valid").processes());
        let errors = of("ENABLE_LOCAL_ANALYTICS=perhaps\nAGGREGATION_WINDOW_SECONDS=0").expect_err("wrong");
        assert_eq!(errors.len(), 2, "{errors:?}");
    }

    #[test]
    fn the_window_of_the_group_commit() {
        for (text, expected) in [
            ("group", Some(Durability::Group(Duration::from_millis(20)))),
            ("group(5)", Some(Durability::Group(Duration::from_millis(5)))),
            ("strict", Some(Durability::Strict)),
            ("group(0)", None),
            ("group(1001)", None),
            ("group(5", None),
            ("memory", None),
        ] {
            let config = of(&format!("GATEWAY_DURABILITY={text}"));
            assert_eq!(config.ok().map(|config| config.durability), expected, "{text}");
        }
    }

    #[test]
    fn a_file_of_streams_is_read_and_its_mistakes_are_told_with_all_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("streams.yaml");
        let text = format!("GATEWAY_STREAMS_FILE={}\nWORKER_THREADS=0", file.display());
        assert!(of(&text).expect_err("no file").iter().any(|error| error.contains("No such file")));
        std::fs::write(&file, "streams: {data/mqtt: {durability: os, maxBytes: many}}").expect("written");
        let errors = of(&text).expect_err("wrong");
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[1].contains("streams.yaml: streams.data/mqtt.maxBytes: write"), "{errors:?}");
        std::fs::write(&file, "streams: {data/log: {class: log}}").expect("written");
        let config = of(text.lines().next().expect("a line")).expect("good");
        assert_eq!(config.streams.0.len(), 1);
    }

    #[test]
    fn users_and_tokens() {
        let credentials = Credentials {
            token: Some(hash_secret("token")),
            user: Some(("plc".to_owned(), hash_secret("secret"))),
        };
        assert!(credentials.accepts("plc", "secret") && credentials.accepts("anybody", "token"));
        assert!(
            !credentials.accepts("plc2", "secret")
                && !credentials.accepts("plc", "")
                && !credentials.accepts("", "plc")
        );
        assert!(!Credentials::default().accepts("", "") && !Credentials::default().accepts_token(""));
    }

    #[test]
    fn environment_files() {
        let variables =
            parse_env_file("# c\nexport A=1\nB = \"x # y\" \nC='z'\nD=v # note\nE=\n").expect("lines");
        let expected = [("A", "1"), ("B", "x # y"), ("C", "z"), ("D", "v"), ("E", "")];
        assert_eq!(variables, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(parse_env_file("A=1\nbroken").expect_err("a line"), ["line 2: write NAME=value"]);
    }

    #[test]
    fn a_quoted_value_with_a_comment_behind_it_has_no_quotes() {
        let text =
            "\u{feff}A=\"p w\"   # the password\r\nB='x' # y\nC= # nothing\nD=a#b\nE=\"\"\nF=\t'\"'\t# one";
        let expected = [("A", "p w"), ("B", "x"), ("C", ""), ("D", "a#b"), ("E", ""), ("F", "\"")];
        let variables = parse_env_file(text).expect("lines");
        assert_eq!(variables, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn a_line_that_is_broken_is_told_with_its_number_and_without_its_value() {
        let text = "A=\"open\nB='x'y\n\nC=\"x\"# y\n=1\nD E=1\nF=1";
        let errors = parse_env_file(text).expect_err("broken");
        let lines: Vec<&str> = errors.iter().filter_map(|error| error.split(':').next()).collect();
        assert_eq!(lines, ["line 1", "line 2", "line 4", "line 5", "line 6"], "{errors:?}");
        assert!(!errors.concat().contains("open"), "{errors:?}");
    }
}
