//! A compose file's common subset, translated into containers. What is not understood is refused by name, never left out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kind::{Container, Mount, Network, Protocol, Published, published_twice};
use super::{Limits, ManifestError, invalid, is_data_folder};

/// Kind `compose`: the `services` of a compose file, and where the images lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compose {
    /// For each `image` of a service, the folder of its OCI layout inside the release, or where a registry has it: `registry/name@sha256:…`.
    #[serde(default)]
    pub images: BTreeMap<String, String>,
    /// As in a compose file.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Object>))]
    pub services: BTreeMap<String, Value>,
    /// Of services that do not say `network_mode`.
    #[serde(default, skip_serializing_if = "Network::is_host")]
    pub network: Network,
}

/// One service, ready to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub container: Container,
    /// Empty: what the image says.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub limits: Limits,
    pub restart: ServiceRestart,
    pub depends_on: Vec<(String, Condition)>,
    pub health: Option<ServiceHealth>,
}

/// What happens when a service's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceRestart {
    /// It is done; the app goes on without it.
    No,
    /// Done after exit 0, else the app is started again.
    OnFailure,
    Always,
}

/// What a service waits for before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    Completed,
}

/// A service's own check, run inside its container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    pub command: Vec<String>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub retries: u32,
    pub start_period_ms: u64,
}

fn bad(what: impl Into<String>) -> ManifestError {
    invalid("run.compose", what)
}

impl Compose {
    /// The services, each after those it depends on.
    ///
    /// # Errors
    /// With the service and key that is not understood.
    pub fn services(&self) -> Result<Vec<Service>, ManifestError> {
        if self.services.is_empty() || self.services.len() > 32 {
            return Err(bad("has 1 to 32 services"));
        }
        let mut services = BTreeMap::new();
        let mut published = Vec::new();
        for (name, value) in &self.services {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty() || name.len() > 32 || !name.bytes().all(plain) {
                return Err(bad(format!("the service name {name:?} is not of a-z, 0-9 and '-', 32 at most")));
            }
            let service = self.service(name, value)?;
            service.container.check()?;
            published.extend(service.container.ports.iter().map(|port| (port.protocol, port.port)));
            services.insert(name.clone(), service);
        }
        if let Some((protocol, port)) = published_twice(&mut published) {
            return Err(bad(format!("two services publish {}/{port}", protocol.as_str())));
        }
        in_order(services)
    }

    fn service(&self, name: &str, value: &Value) -> Result<Service, ManifestError> {
        let fields = value.as_object().ok_or_else(|| bad(format!("{name}: is no mapping")))?;
        let at = |key: &str| format!("{name}.{key}");
        let image = match fields.get("image").and_then(Value::as_str) {
            Some(image) => image,
            None => return Err(bad(format!("{name}: has no image; build is not supported"))),
        };
        // An image that is named by its digest lies in its registry.
        let named = || image.contains('@').then(|| image.to_owned());
        let folder = self.images.get(image).cloned().or_else(named).ok_or_else(|| {
            bad(format!("{}: images does not say where {image:?} lies, and it has no digest", at("image")))
        })?;
        let mut service = Service {
            name: name.to_owned(),
            container: Container {
                image: folder,
                mounts: Vec::new(),
                devices: Vec::new(),
                network: self.network,
                ports: Vec::new(),
                read_only: false,
                working_folder: None,
            },
            command: Vec::new(),
            env: BTreeMap::new(),
            limits: Limits::default(),
            restart: ServiceRestart::No,
            depends_on: Vec::new(),
            health: None,
        };
        let mut published = Vec::new();
        for (key, value) in fields {
            let at = at(key);
            match key.as_str() {
                "image" => {}
                "command" => service.command = command(&at, value)?,
                "environment" => service.env = environment(&at, value)?,
                "ports" => published = ports(&at, value)?,
                "volumes" => service.container.mounts = volumes(&at, value)?,
                "depends_on" => service.depends_on = depends_on(&at, value)?,
                "healthcheck" => service.health = healthcheck(&at, value)?,
                "restart" => service.restart = restart(&at, value)?,
                "read_only" => service.container.read_only = boolean(&at, value)?,
                "working_dir" => service.container.working_folder = Some(text(&at, value)?),
                "network_mode" => {
                    service.container.network = match text(&at, value)?.as_str() {
                        "host" => Network::Host,
                        "bridge" => Network::Bridge,
                        "none" => Network::None,
                        _ => return Err(bad(format!("{at}: is host, bridge or none"))),
                    }
                }
                "mem_limit" => service.limits.memory_bytes = Some(bytes(&at, value)?),
                "cpus" => service.limits.cpu_millis = Some(cpus(&at, value)?),
                "pids_limit" => service.limits.processes = Some(number(&at, value)?),
                "deploy" => deploy(&at, value, &mut service)?,
                _ => return Err(bad(format!("{at}: is not supported"))),
            }
        }
        match service.container.network {
            Network::Bridge => service.container.ports = published,
            // What it listens on is the device's port: that can be said, but not moved.
            Network::Host | Network::None => {
                if let Some(port) = published.iter().find(|port| port.inside() != port.port) {
                    return Err(bad(format!(
                        "{}: {}:{} moves a port, which needs network_mode: bridge; else a service shares the device's network, and both sides are the same",
                        at("ports"),
                        port.port,
                        port.inside()
                    )));
                }
            }
        }
        for (key, value) in &service.env {
            crate::config::check_pair(key, value)
                .map_err(|error| bad(format!("{name}.environment: {error}")))?;
        }
        Ok(service)
    }
}

/// Those that others depend on first; a circle is refused.
fn in_order(mut waiting: BTreeMap<String, Service>) -> Result<Vec<Service>, ManifestError> {
    for service in waiting.values() {
        for (other, condition) in &service.depends_on {
            let Some(found) = waiting.get(other) else {
                return Err(bad(format!("{}.depends_on: there is no service {other:?}", service.name)));
            };
            if *condition == Condition::Healthy && found.health.is_none() {
                return Err(bad(format!("{}.depends_on: {other} has no healthcheck", service.name)));
            }
            if *condition == Condition::Completed && found.restart == ServiceRestart::Always {
                return Err(bad(format!(
                    "{}.depends_on: {other} never completes, it is restarted",
                    service.name
                )));
            }
        }
    }
    let mut ready: BTreeSet<String> = BTreeSet::new();
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let next = waiting
            .values()
            .find(|service| service.depends_on.iter().all(|(other, _)| ready.contains(other)))
            .map(|service| service.name.clone());
        let Some(service) = next.and_then(|name| waiting.remove(&name)) else {
            let names: Vec<_> = waiting.into_keys().collect();
            return Err(bad(format!("depends_on goes in a circle: {}", names.join(", "))));
        };
        ready.insert(service.name.clone());
        ordered.push(service);
    }
    Ok(ordered)
}

fn text(at: &str, value: &Value) -> Result<String, ManifestError> {
    value.as_str().map(str::to_owned).ok_or_else(|| bad(format!("{at}: is a string")))
}

/// A string, number or boolean, as compose takes them for values.
fn scalar(at: &str, value: &Value) -> Result<String, ManifestError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        _ => Err(bad(format!("{at}: is a string, number or boolean"))),
    }
}

fn boolean(at: &str, value: &Value) -> Result<bool, ManifestError> {
    value.as_bool().ok_or_else(|| bad(format!("{at}: is true or false")))
}

fn number(at: &str, value: &Value) -> Result<u32, ManifestError> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or_else(|| bad(format!("{at}: is a positive number")))
}

fn list<'a>(at: &str, value: &'a Value) -> Result<&'a Vec<Value>, ManifestError> {
    value.as_array().ok_or_else(|| bad(format!("{at}: is a list")))
}

/// A list of words, or one string that a shell of the image splits.
fn command(at: &str, value: &Value) -> Result<Vec<String>, ManifestError> {
    match value {
        Value::String(line) => Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]),
        Value::Array(words) => words.iter().map(|word| scalar(at, word)).collect(),
        _ => Err(bad(format!("{at}: is a list of words or a string"))),
    }
}

fn environment(at: &str, value: &Value) -> Result<BTreeMap<String, String>, ManifestError> {
    match value {
        Value::Object(pairs) => pairs
            .iter()
            .map(|(key, value)| Ok((key.clone(), scalar(&format!("{at}.{key}"), value)?)))
            .collect(),
        Value::Array(pairs) => {
            let pair = |pair: &Value| {
                let text = text(at, pair)?;
                let (key, value) = text.split_once('=').ok_or_else(|| {
                    bad(format!(
                        "{at}: {text:?} has no value; nothing is taken from the device's environment"
                    ))
                })?;
                Ok((key.to_owned(), value.to_owned()))
            };
            pairs.iter().map(pair).collect()
        }
        _ => Err(bad(format!("{at}: is a mapping or a list of KEY=value"))),
    }
}

/// `8080`, `8080:80`, `127.0.0.1:8080:80`, each with `/tcp` or `/udp`.
fn ports(at: &str, value: &Value) -> Result<Vec<Published>, ManifestError> {
    let mut ports = Vec::new();
    for port in list(at, value)? {
        let text = scalar(at, port)?;
        let wrong = || {
            bad(format!("{at}: {text:?} is no port; write \"8080\", \"8080:80\" or \"127.0.0.1:8080:80\""))
        };
        let (plain, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or_default(), Protocol::Tcp),
            Some((plain, "udp")) => (plain, Protocol::Udp),
            Some(_) => return Err(wrong()),
        };
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        let parts: Vec<&str> = plain.split(':').collect();
        let (address, outside, inside) = match parts.as_slice() {
            [both] => (None, *both, *both),
            [outside, inside] => (None, *outside, *inside),
            [address, outside, inside] => (Some(address.parse().map_err(|_| wrong())?), *outside, *inside),
            _ => return Err(wrong()),
        };
        let (port, inside) = number(outside).zip(number(inside)).ok_or_else(wrong)?;
        ports.push(Published { port, target: (inside != port).then_some(inside), protocol, address });
    }
    Ok(ports)
}

fn volumes(at: &str, value: &Value) -> Result<Vec<Mount>, ManifestError> {
    let mut mounts = Vec::new();
    for volume in list(at, value)? {
        let text = text(at, volume)?;
        let mut parts = text.split(':');
        let (Some(source), Some(target), mode, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad(format!("{at}: {text:?} is not source:target or source:target:ro")));
        };
        let read_only = match mode {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(other) => return Err(bad(format!("{at}: the option {other:?} is not supported"))),
        };
        // A named volume and a relative path are both folders of the app's data.
        let source = source.strip_prefix("./").unwrap_or(source);
        if !source.starts_with('/') && !is_data_folder(source) {
            let is_one = "its source is the name of one folder in the app's data, or an absolute path";
            return Err(bad(format!("{at}: {text:?}: {is_one}")));
        }
        mounts.push(Mount { source: source.to_owned(), target: target.to_owned(), read_only });
    }
    Ok(mounts)
}

fn depends_on(at: &str, value: &Value) -> Result<Vec<(String, Condition)>, ManifestError> {
    match value {
        Value::Array(names) => names.iter().map(|name| Ok((text(at, name)?, Condition::Started))).collect(),
        Value::Object(entries) => {
            let entry = |(name, value): (&String, &Value)| {
                let fields = value.as_object().ok_or_else(|| bad(format!("{at}.{name}: is no mapping")))?;
                if let Some(key) = fields.keys().find(|key| key.as_str() != "condition") {
                    return Err(bad(format!("{at}.{name}.{key}: is not supported")));
                }
                let condition = match fields.get("condition").and_then(Value::as_str) {
                    None | Some("service_started") => Condition::Started,
                    Some("service_healthy") => Condition::Healthy,
                    Some("service_completed_successfully") => Condition::Completed,
                    Some(other) => return Err(bad(format!("{at}.{name}: there is no condition {other:?}"))),
                };
                Ok((name.clone(), condition))
            };
            entries.iter().map(entry).collect()
        }
        _ => Err(bad(format!("{at}: is a list or a mapping of services"))),
    }
}

fn restart(at: &str, value: &Value) -> Result<ServiceRestart, ManifestError> {
    match text(at, value)?.as_str() {
        "no" => Ok(ServiceRestart::No),
        "on-failure" => Ok(ServiceRestart::OnFailure),
        "always" | "unless-stopped" => Ok(ServiceRestart::Always),
        other => Err(bad(format!("{at}: {other:?} is not no, on-failure, always or unless-stopped"))),
    }
}

fn healthcheck(at: &str, value: &Value) -> Result<Option<ServiceHealth>, ManifestError> {
    let fields = value.as_object().ok_or_else(|| bad(format!("{at}: is no mapping")))?;
    let mut health = ServiceHealth {
        command: Vec::new(),
        interval_ms: 30_000,
        timeout_ms: 30_000,
        retries: 3,
        start_period_ms: 0,
    };
    for (key, value) in fields {
        let at = format!("{at}.{key}");
        match key.as_str() {
            "test" => {
                let words = match value {
                    Value::String(line) => {
                        vec!["CMD-SHELL".to_owned(), line.clone()]
                    }
                    other => command(&at, other)?,
                };
                health.command = match words.split_first() {
                    Some((first, rest)) if first == "CMD" && !rest.is_empty() => rest.to_vec(),
                    Some((first, [line])) if first == "CMD-SHELL" => {
                        vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
                    }
                    Some((first, [])) if first == "NONE" => return Ok(None),
                    _ => {
                        return Err(bad(format!(
                            "{at}: is [\"CMD\", …], [\"CMD-SHELL\", \"…\"] or a string"
                        )));
                    }
                };
            }
            "interval" => health.interval_ms = duration(&at, value)?,
            "timeout" => health.timeout_ms = duration(&at, value)?,
            "start_period" => health.start_period_ms = duration(&at, value)?,
            "retries" => health.retries = number(&at, value)?,
            _ => return Err(bad(format!("{at}: is not supported"))),
        }
    }
    if health.command.is_empty() || health.interval_ms == 0 || health.timeout_ms == 0 {
        return Err(bad(format!("{at}: needs a test, and an interval and timeout that are not 0")));
    }
    Ok(Some(health))
}

/// `deploy.resources.limits`, and devices as CDI names.
fn deploy(at: &str, value: &Value, service: &mut Service) -> Result<(), ManifestError> {
    let inside = |at: &str, value: &Value, only: &str| -> Result<Value, ManifestError> {
        let fields = value.as_object().ok_or_else(|| bad(format!("{at}: is no mapping")))?;
        match fields.keys().find(|key| key.as_str() != only) {
            Some(key) => Err(bad(format!("{at}.{key}: is not supported"))),
            None => Ok(fields.get(only).cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()))),
        }
    };
    let resources = inside(at, value, "resources")?;
    let at = format!("{at}.resources");
    let fields = resources.as_object().ok_or_else(|| bad(format!("{at}: is no mapping")))?;
    for (key, value) in fields {
        let at = format!("{at}.{key}");
        match key.as_str() {
            "limits" => {
                let limits = value.as_object().ok_or_else(|| bad(format!("{at}: is no mapping")))?;
                for (key, value) in limits {
                    let at = format!("{at}.{key}");
                    match key.as_str() {
                        "memory" => service.limits.memory_bytes = Some(bytes(&at, value)?),
                        "cpus" => service.limits.cpu_millis = Some(cpus(&at, value)?),
                        "pids" => service.limits.processes = Some(number(&at, value)?),
                        _ => return Err(bad(format!("{at}: is not supported"))),
                    }
                }
            }
            "reservations" => {
                let at_devices = format!("{at}.devices");
                let devices = inside(&at, value, "devices")?;
                for device in devices.as_array().into_iter().flatten() {
                    let fields =
                        device.as_object().ok_or_else(|| bad(format!("{at_devices}: is no mapping")))?;
                    if fields.get("driver").and_then(Value::as_str) != Some("cdi") {
                        return Err(bad(format!("{at_devices}: only the driver cdi is supported")));
                    }
                    if let Some(key) = fields
                        .keys()
                        .find(|key| !["driver", "device_ids", "capabilities"].contains(&key.as_str()))
                    {
                        return Err(bad(format!("{at_devices}.{key}: is not supported")));
                    }
                    let ids = fields.get("device_ids").unwrap_or(&Value::Null);
                    for id in list(&format!("{at_devices}.device_ids"), ids)? {
                        service.container.devices.push(text(&at_devices, id)?);
                    }
                }
            }
            _ => return Err(bad(format!("{at}: is not supported"))),
        }
    }
    Ok(())
}

/// `64m`, `1gb`, `512k`, or a number of bytes.
fn bytes(at: &str, value: &Value) -> Result<u64, ManifestError> {
    let text = scalar(at, value)?.to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor: Option<u64> = match unit {
        "" | "b" => Some(1),
        "k" | "kb" => Some(1 << 10),
        "m" | "mb" => Some(1 << 20),
        "g" | "gb" => Some(1 << 30),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(factor).and_then(|(count, factor)| count.checked_mul(factor));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| bad(format!("{at}: {text:?} is no size, such as 64m")))
}

/// `0.5` or `"0.50"`: thousandths, without floating point.
fn cpus(at: &str, value: &Value) -> Result<u32, ManifestError> {
    let text = scalar(at, value)?;
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let digits = part.bytes().all(|b| b.is_ascii_digit()) && part.len() <= 9;
    let thousandths: Option<u32> = format!("{part:0<3}").get(..3).and_then(|part| part.parse().ok());
    let whole: Option<u32> = if whole.is_empty() { Some(0) } else { whole.parse().ok() };
    let millis = whole
        .zip(thousandths.filter(|_| digits))
        .and_then(|(whole, part)| whole.checked_mul(1000)?.checked_add(part));
    millis
        .filter(|millis| *millis > 0)
        .ok_or_else(|| bad(format!("{at}: {text:?} is no number of processors")))
}

/// `1m30s`, `10s`, `500ms`.
fn duration(at: &str, value: &Value) -> Result<u64, ManifestError> {
    let text = text(at, value)?;
    let mut rest = text.as_str();
    let mut total: Option<u64> = (!rest.is_empty()).then_some(0);
    while !rest.is_empty() && total.is_some() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (count, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let part =
            count.parse::<u64>().ok().zip(factor).and_then(|(count, factor)| count.checked_mul(factor));
        total = total.zip(part).and_then(|(total, part)| total.checked_add(part));
        rest = tail;
    }
    total.ok_or_else(|| bad(format!("{at}: {text:?} is no duration, such as 1m30s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compose(services: serde_json::Value) -> Compose {
        serde_json::from_value(serde_json::json!({
            "images": {"web:1": "images/web", "db:1": "images/db"}, "services": services
        }))
        .unwrap()
    }

    #[test]
    fn the_common_subset_becomes_containers_in_order() {
        let services = compose(serde_json::json!({
            "web": {
                "image": "web:1", "command": ["serve", "--port", 8080], "environment": ["A=b", "C=d=e"],
                "ports": ["8080:8080", 9000], "volumes": ["./state:/state", "/etc/tz:/etc/tz:ro"],
                "depends_on": {"db": {"condition": "service_healthy"}}, "restart": "unless-stopped",
                "deploy": {"resources": {"limits": {"memory": "64m", "cpus": "0.5", "pids": 20},
                    "reservations": {"devices": [{"driver": "cdi", "device_ids": ["nvidia.com/gpu=all"]}]}}}
            },
            "db": {
                "image": "db:1", "environment": {"N": 1, "B": true}, "command": "run --fast",
                "healthcheck": {"test": ["CMD", "ok"], "interval": "1m30s", "timeout": "500ms", "retries": 5}
            }
        }))
        .services()
        .unwrap();
        let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["db", "web"]);
        let (db, web) = (&services[0], &services[1]);
        assert_eq!(db.command, ["/bin/sh", "-c", "run --fast"]);
        assert_eq!(db.env["N"], "1");
        assert_eq!(db.health.as_ref().unwrap().interval_ms, 90_000);
        assert_eq!(web.env["C"], "d=e");
        assert_eq!(web.command, ["serve", "--port", "8080"]);
        let limits = Limits { memory_bytes: Some(64 << 20), cpu_millis: Some(500), processes: Some(20) };
        assert_eq!(web.limits, limits);
        assert_eq!(web.container.devices, ["nvidia.com/gpu=all"]);
        assert_eq!(web.container.mounts[0].source, "state");
        assert!(web.container.mounts[1].read_only);
        assert_eq!(web.depends_on, [("db".to_owned(), Condition::Healthy)]);
        assert!(web.container.ports.is_empty(), "the device's ports are its own");
    }

    #[test]
    fn ports_of_a_network_of_its_own_are_published_and_moved() {
        let ports = |ports: serde_json::Value| {
            let mut compose = compose(serde_json::json!({"web": {"image": "web:1", "ports": ports}}));
            compose.network = Network::Bridge;
            compose.services().map(|services| services[0].container.ports.clone())
        };
        let found = ports(serde_json::json!(["8080:80", 9000, "127.0.0.1:53:5353/udp"])).unwrap();
        let says: Vec<_> = found
            .iter()
            .map(|port| {
                (port.address.map(|ip| ip.to_string()), port.port, port.inside(), port.protocol.as_str())
            })
            .collect();
        let local = Some("127.0.0.1".to_owned());
        assert_eq!(says, [(None, 8080, 80, "tcp"), (None, 9000, 9000, "tcp"), (local, 53, 5353, "udp")]);
        for bad in ["0:80", "8080:80/sctp", "x", "1:2:3:4", "::1:80:80", "70000"] {
            assert!(ports(serde_json::json!([bad])).is_err(), "{bad}");
        }
        let twice = ports(serde_json::json!(["80:1", "80:2"])).unwrap_err().to_string();
        assert!(twice.contains("tcp/80 is published twice"), "{twice}");
        let two = serde_json::json!({
            "web": {"image": "web:1", "ports": ["80:80"], "network_mode": "bridge"},
            "db": {"image": "db:1", "ports": ["80:81"], "network_mode": "bridge"},
        });
        assert!(compose(two).services().unwrap_err().to_string().contains("two services publish tcp/80"));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let cases = [
            (serde_json::json!({"web": {"image": "web:1", "privileged": true}}), "web.privileged"),
            (serde_json::json!({"web": {"build": "."}}), "web: has no image"),
            (serde_json::json!({"web": {"image": "other:1"}}), "web.image"),
            (serde_json::json!({"web": {"image": "web:1", "ports": ["80:8080"]}}), "moves a port"),
            (serde_json::json!({"web": {"image": "web:1", "volumes": ["../x:/x"]}}), "web.volumes"),
            (serde_json::json!({"web": {"image": "web:1", "volumes": ["./a/b:/x"]}}), "web.volumes"),
            (serde_json::json!({"web": {"image": "web:1", "volumes": ["./.:/x"]}}), "web.volumes"),
            (serde_json::json!({"web": {"image": "web:1", "environment": ["HOME"]}}), "web.environment"),
            (serde_json::json!({"web": {"image": "web:1", "depends_on": ["db"]}}), "no service \"db\""),
            (
                serde_json::json!({"web": {"image": "web:1", "healthcheck": {"test": "x", "x": 1}}}),
                "healthcheck.x",
            ),
            (serde_json::json!({"web": {"image": "web:1", "deploy": {"replicas": 2}}}), "deploy.replicas"),
            (serde_json::json!({"web": {"image": "web:1", "mem_limit": "1x"}}), "web.mem_limit"),
            (serde_json::json!({"web": {"image": "web:1", "cpus": "a"}}), "web.cpus"),
            (
                serde_json::json!({"web": {"image": "web:1", "depends_on": ["db"]}, "db": {"image": "db:1", "depends_on": ["web"]}}),
                "circle",
            ),
        ];
        for (services, expect) in cases {
            let error = compose(services).services().unwrap_err().to_string();
            assert!(error.contains(expect), "{error} does not say {expect}");
        }
    }
}
