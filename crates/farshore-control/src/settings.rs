//! What the control plane is told at its start. One struct per concern; every error is reported at once.
//!
//! A setting has one name, written `--device-listen` as a flag and `FARSHORE_DEVICE_LISTEN` in the environment; flags win. [`TABLE`] lists them all, for
//! `farshore serve --help` and the reference page.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use farshore_domain::name::Name;
use farshore_domain::time::{DAY_MS, HOUR_MS};
use farshore_store::StoreOptions;
use farshore_trust::identity::TrustDomain;

use crate::alerts::Targets;

/// One row of the table of settings.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// As a flag, without the dashes.
    pub name: &'static str,
    pub default: &'static str,
    pub says: &'static str,
}

impl Setting {
    /// The environment variable: `FARSHORE_` and the name in capitals.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("FARSHORE_{}", self.name.replace('-', "_").to_uppercase())
    }
}

const fn row(name: &'static str, default: &'static str, says: &'static str) -> Setting {
    Setting { name, default, says }
}

/// All settings.
pub const TABLE: &[Setting] = &[
    row("data-dir", "farshore-data", "Folder of the database, the artifacts and the master key."),
    row(
        "agent-packages",
        "",
        "Folder of the agent's .deb packages that new devices fetch; agent-packages in the data folder when left out.",
    ),
    row("database", "", "sqlite:<path> or postgres://…; a file in the data folder when left out."),
    row("api-listen", "127.0.0.1:8443", "Address and port of the API and the page."),
    row(
        "device-listen",
        "127.0.0.1:8444",
        "Address and port that devices connect to; 0.0.0.0:443 in the open.",
    ),
    row(
        "api-url",
        "",
        "Address of the page as people type it; made of the first server name and the port when left out.",
    ),
    row("device-url", "", "Address of the device port as devices reach it; it goes into claim tokens."),
    row(
        "server-names",
        "localhost,127.0.0.1,::1",
        "DNS names and IP addresses in the server's certificates, with commas.",
    ),
    row(
        "api-certificate",
        "",
        "PEM file with a certificate chain for the API and the page, instead of our own authority's.",
    ),
    row("api-key", "", "PEM file with the key of that certificate."),
    row(
        "trust-domain",
        "farshore.local",
        "Name of this installation in its certificates. Choose it before the first start.",
    ),
    row("device-certificate-hours", "24", "Lifetime of a device's certificate."),
    row("renew-expired-days", "400", "How long after its end a certificate is still good for renewal."),
    row("first-tenant", "default", "Tenant made on the first start."),
    row("first-admin", "admin@farshore.local", "E-mail address of the admin made on the first start."),
    row("heartbeat-seconds", "30", "How often a device says that it is there."),
    row("max-artifact-mib", "4096", "Largest artifact."),
    row("max-api-connections", "4096", "Most connections to the API port."),
    row("max-device-connections", "150000", "Most connections to the device port."),
    row("max-handshakes", "64", "Most TLS handshakes at the same time, on each port."),
    row("metric-retention-days", "30", "How long measurements are kept."),
    row(
        "hour-retention-days",
        "400",
        "How long the hourly figures of measurements are kept: least, greatest, sum, number and last.",
    ),
    row("event-retention-days", "90", "How long events, incidents and alerts are kept."),
    row(
        "alert-targets",
        "public",
        "Addresses that alerts may be sent to: public, private (also private networks) or any (also this machine).",
    ),
];

/// Everything the control plane is told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub data: DataSettings,
    pub listen: ListenSettings,
    pub identity: IdentitySettings,
    pub first: FirstSettings,
    pub limits: LimitSettings,
    pub retention: RetentionSettings,
    /// How often a device says that it is there.
    pub heartbeat_seconds: u32,
    /// Which addresses webhooks and mail servers of alerts may have.
    pub alert_targets: Targets,
    /// Whether a text is pipelines that a gateway can run; if not, why. The program that starts the server brings it: it is the gateway's own.
    pub check_pipelines: PipelineCheck,
}

/// See [`Settings::check_pipelines`].
pub type PipelineCheck = fn(&str) -> Result<(), String>;

/// What can't be checked is not taken.
fn no_check(_: &str) -> Result<(), String> {
    Err("can't be checked by this server, which was built without the gateway".to_owned())
}

/// Where the data is.
#[derive(Clone, Debug)]
pub struct DataSettings {
    pub folder: PathBuf,
    /// Packages of the agent, for new devices.
    pub packages: PathBuf,
    pub database: StoreOptions,
}

/// Where the server listens, and how others reach it.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    pub api: SocketAddr,
    pub device: SocketAddr,
    /// Without a slash at the end; `None`: the first name and the port.
    pub api_url: Option<String>,
    pub device_url: Option<String>,
    /// At least one.
    pub server_names: Vec<String>,
    /// PEM files: chain and key.
    pub api_certificate: Option<(PathBuf, PathBuf)>,
}

/// Certificates.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    pub trust_domain: TrustDomain,
    pub device_certificate_ms: i64,
    pub renew_expired_ms: i64,
}

/// The first start.
#[derive(Clone, Debug)]
pub struct FirstSettings {
    pub tenant: Name,
    pub admin: String,
}

/// Caps.
#[derive(Clone, Copy, Debug)]
pub struct LimitSettings {
    pub max_artifact_bytes: u64,
    pub max_api_connections: usize,
    pub max_device_connections: usize,
    pub max_handshakes: usize,
}

/// How long data is kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionSettings {
    pub metrics_ms: i64,
    /// Hourly figures of measurements.
    pub hours_ms: i64,
    pub events_ms: i64,
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|(name, why)| format!("--{name}: {why}")).collect::<Vec<_>>().join("\n"))]
pub struct SettingsError(pub Vec<(String, String)>);

/// Flags over environment over defaults, collecting what is wrong.
struct Reader<'a> {
    flags: &'a BTreeMap<String, String>,
    env: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<(String, String)>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> String {
        let Some(setting) = TABLE.iter().find(|setting| setting.name == name) else { return String::new() };
        self.flags
            .get(name)
            .cloned()
            .or_else(|| (self.env)(&setting.variable()))
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| setting.default.to_owned())
    }

    fn parse<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name);
        match read(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.errors.push((name.to_owned(), format!("{text:?} {why}")));
                None
            }
        }
    }

    fn number(&mut self, name: &str, low: i64, high: i64) -> Option<i64> {
        self.parse(name, |text| match i64::from_str(text) {
            Ok(value) if (low..=high).contains(&value) => Ok(value),
            _ => Err(format!("is no number from {low} to {high}")),
        })
    }

    fn count(&mut self, name: &str, high: i64) -> Option<usize> {
        self.number(name, 1, high).and_then(|value| usize::try_from(value).ok())
    }

    fn address(&mut self, name: &str) -> Option<SocketAddr> {
        self.parse(name, |text| {
            text.parse().map_err(|_| "is no address and port, such as 0.0.0.0:443".to_owned())
        })
    }

    fn url(&mut self, name: &str) -> Option<Option<String>> {
        self.parse(name, |text| {
            if text.is_empty() {
                return Ok(None);
            }
            match text.parse::<http::Uri>() {
                Ok(uri)
                    if uri.scheme_str() == Some("https") && uri.host().is_some() && uri.query().is_none() =>
                {
                    Ok(Some(text.trim_end_matches('/').to_owned()))
                }
                _ => Err("is no https:// address".to_owned()),
            }
        })
    }
}

impl Settings {
    /// Reads the settings from flags (by name, without dashes) and the environment.
    pub fn read(
        flags: &BTreeMap<String, String>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut reader = Reader { flags, env, errors: Vec::new() };
        for name in flags.keys() {
            if !TABLE.iter().any(|setting| setting.name == name) {
                reader.errors.push((name.clone(), "is no setting".to_owned()));
            }
        }
        let settings = reader.all();
        match settings {
            Some(settings) if reader.errors.is_empty() => Ok(settings),
            _ => Err(SettingsError(reader.errors)),
        }
    }
}

impl Reader<'_> {
    fn all(&mut self) -> Option<Settings> {
        // Each is read before the first missing one ends it, so that all errors are told.
        let folder = PathBuf::from(self.text("data-dir"));
        let packages = match self.text("agent-packages") {
            text if text.is_empty() => folder.join("agent-packages"),
            text => PathBuf::from(text),
        };
        let database = self.parse("database", |text| {
            if text.is_empty() {
                Ok(StoreOptions::Sqlite(folder.join("farshore.db")))
            } else {
                StoreOptions::from_str(text)
            }
        });
        let api = self.address("api-listen");
        let device = self.address("device-listen");
        let api_url = self.url("api-url");
        let device_url = self.url("device-url");
        let server_names = self.parse("server-names", |text| {
            let names: Vec<String> =
                text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
            if names.is_empty() { Err("holds no name".to_owned()) } else { Ok(names) }
        });
        let (certificate, key) = (self.text("api-certificate"), self.text("api-key"));
        if certificate.is_empty() != key.is_empty() {
            self.errors.push(("api-certificate".to_owned(), "goes together with --api-key".to_owned()));
        }
        let api_certificate =
            (!certificate.is_empty()).then(|| (PathBuf::from(certificate), PathBuf::from(key)));
        let trust_domain = self.parse("trust-domain", |text| {
            TrustDomain::new(text).map_err(|_| "is no trust domain".to_owned())
        });
        let certificate_hours = self.number("device-certificate-hours", 1, 24 * 90);
        let renew_days = self.number("renew-expired-days", 0, 3_650);
        let tenant = self
            .parse("first-tenant", |text| Name::new(text).map_err(|error| format!("is no name: {error}")));
        let admin = self.parse("first-admin", |text| {
            crate::access::check_email(text).map_err(|why| format!("is no e-mail address: {why}"))
        });
        let heartbeat = self.number("heartbeat-seconds", 1, 3_600);
        let artifact_mib = self.number("max-artifact-mib", 1, 1024 * 1024);
        let max_api_connections = self.count("max-api-connections", 1_000_000);
        let max_device_connections = self.count("max-device-connections", 10_000_000);
        let max_handshakes = self.count("max-handshakes", 100_000);
        let metric_days = self.number("metric-retention-days", 1, 3_650);
        let hour_days = self.number("hour-retention-days", 1, 3_650);
        let event_days = self.number("event-retention-days", 1, 3_650);
        let alert_targets = self.parse("alert-targets", |text| {
            Targets::from_word(text).ok_or_else(|| "is not public, private or any".to_owned())
        });
        Some(Settings {
            data: DataSettings { database: database?, packages, folder },
            listen: ListenSettings {
                api: api?,
                device: device?,
                api_url: api_url?,
                device_url: device_url?,
                server_names: server_names?,
                api_certificate,
            },
            identity: IdentitySettings {
                trust_domain: trust_domain?,
                device_certificate_ms: certificate_hours? * HOUR_MS,
                renew_expired_ms: renew_days? * DAY_MS,
            },
            first: FirstSettings { tenant: tenant?, admin: admin? },
            limits: LimitSettings {
                max_artifact_bytes: u64::try_from(artifact_mib?).unwrap_or(1) * 1024 * 1024,
                max_api_connections: max_api_connections?,
                max_device_connections: max_device_connections?,
                max_handshakes: max_handshakes?,
            },
            retention: RetentionSettings {
                metrics_ms: metric_days? * DAY_MS,
                // As points are not read where there are hours, hours stay for at least as long.
                hours_ms: hour_days?.max(metric_days?) * DAY_MS,
                events_ms: event_days? * DAY_MS,
            },
            heartbeat_seconds: u32::try_from(heartbeat?).unwrap_or(30),
            alert_targets: alert_targets?,
            check_pipelines: no_check,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let env = own(env);
        Settings::read(&own(flags), &|name| env.get(name).cloned())
    }

    #[test]
    fn defaults_are_complete_and_stay_on_this_machine() {
        let settings = read(&[], &[]).unwrap();
        assert!(settings.listen.api.ip().is_loopback() && settings.listen.device.ip().is_loopback());
        assert!(
            matches!(settings.data.database, StoreOptions::Sqlite(path) if path.ends_with("farshore.db"))
        );
    }

    #[test]
    fn flags_win_over_the_environment() {
        let settings = read(
            &[("heartbeat-seconds", "7")],
            &[("FARSHORE_HEARTBEAT_SECONDS", "8"), ("FARSHORE_DEVICE_LISTEN", "0.0.0.0:443")],
        )
        .unwrap();
        assert_eq!(settings.heartbeat_seconds, 7);
        assert_eq!(settings.listen.device.to_string(), "0.0.0.0:443");
    }

    #[test]
    fn every_error_is_told_at_once() {
        let error = read(
            &[("api-listen", "nowhere"), ("heartbeat-seconds", "0"), ("color", "red"), ("api-key", "x.pem")],
            &[("FARSHORE_DEVICE_URL", "http://plain"), ("FARSHORE_FIRST_TENANT", "No Name")],
        )
        .unwrap_err();
        let mut names: Vec<&str> = error.0.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["api-certificate", "api-listen", "color", "device-url", "first-tenant", "heartbeat-seconds"]
        );
        assert!(error.to_string().contains("--device-url: \"http://plain\" is no https:// address"));
    }
}
