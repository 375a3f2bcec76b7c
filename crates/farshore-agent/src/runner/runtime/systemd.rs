//! A unit of systemd, over D-Bus: a transient one that runs the release's program, or one that is installed on the device.
//!
//! systemd starts it, sets its limits and user, and kills all of it; the supervisor follows its state and does the restarting, so that they are counted
//! and paced as for any other kind.

use std::collections::HashMap;
use std::time::Duration;

use farshore_domain::release::Limits;
use farshore_domain::release::kind::Ready;
use futures_util::StreamExt as _;
use tokio::time::timeout;
use zbus::{Connection, Proxy};
use zbus::{DynamicType, OwnedObjectPath, OwnedVariant, Variant};

use super::super::folder::AppFolder;
use super::super::spec::{Process, Spec};
use super::{Runtime, RuntimeError, Work};

const BUS_NAME: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How long the bus may take for an answer that needs no waiting.
const ANSWER: Duration = Duration::from_secs(10);

/// Runs an app as a unit.
pub(crate) struct SystemdRuntime {
    folder: AppFolder,
    spec: Spec,
    bus: Option<Connection>,
}

fn dbus(what: &str) -> impl FnOnce(zbus::Error) -> RuntimeError {
    let what = what.to_owned();
    move |error| RuntimeError::Said(format!("{what}: {}", crate::chain(&error)))
}

impl SystemdRuntime {
    pub(crate) fn new(folder: AppFolder, spec: Spec) -> Self {
        Self { folder, spec, bus: None }
    }

    /// An installed unit by its name, which the device must allow.
    fn installed(&self) -> Result<Option<&str>, RuntimeError> {
        let unit = self.spec.run.as_ref().and_then(|run| run.unit.as_ref());
        let Some(name) = unit.and_then(|unit| unit.installed.as_deref()) else { return Ok(None) };
        let allowed = self.spec.allowed.systemd.iter().flat_map(|systemd| &systemd.units);
        if allowed.into_iter().any(|unit| unit == name) {
            Ok(Some(name))
        } else {
            Err(RuntimeError::Said(format!("the device does not allow apps to drive {name}")))
        }
    }

    /// The name of the unit.
    pub(crate) fn unit(&self) -> Result<String, RuntimeError> {
        let prefix = self.spec.allowed.systemd.as_ref().map_or("farshore-app-", |systemd| &systemd.prefix);
        Ok(match self.installed()? {
            Some(name) => name.to_owned(),
            None => format!("{prefix}{}.service", self.spec.app),
        })
    }

    async fn connect(&mut self) -> Result<Connection, RuntimeError> {
        if let Some(bus) = &self.bus {
            return Ok(bus.clone());
        }
        let settings = self.spec.allowed.systemd.as_ref();
        let settings = settings.ok_or_else(|| RuntimeError::Said("the device allows no units".to_owned()))?;
        let address = format!("unix:path={}", settings.bus.display());
        let connecting = async { zbus::connection::Builder::address(address.as_str()).build().await };
        let bus = timeout(ANSWER, connecting).await;
        let bus = bus.map_err(|_| RuntimeError::Said("systemd's bus does not answer".to_owned()))?;
        let bus = bus.map_err(dbus("systemd's bus can't be reached"))?;
        self.bus = Some(bus.clone());
        Ok(bus)
    }

    /// Calls a method of the manager that begins a job, and waits until that job has been removed.
    async fn job<B>(&mut self, method: &str, body: &B, limit: Duration) -> Result<(), RuntimeError>
    where
        B: serde::Serialize + DynamicType + Sync,
    {
        let bus = self.connect().await?;
        let outcome = timeout(limit, job(&bus, method, body)).await;
        match outcome {
            Err(_) => {
                self.bus = None;
                Err(RuntimeError::Said(format!(
                    "systemd: {method} was not done within {} s",
                    limit.as_secs()
                )))
            }
            Ok(Err(error)) => {
                self.bus = None;
                Err(dbus(&format!("systemd: {method}"))(error))
            }
            Ok(Ok(result)) if result == "done" || result == "skipped" => Ok(()),
            Ok(Ok(result)) => Err(RuntimeError::Said(format!("systemd: {method} ended with {result}"))),
        }
    }

    /// The properties of the transient unit.
    fn properties(&self) -> Result<Vec<(&'static str, Variant<'static>)>, RuntimeError> {
        let spec = &self.spec;
        // It becomes the app with the app's user, folder and environment. So no value of the environment is said over the bus, where everybody on
        // the device may read, and the user need not be in /etc/passwd, which systemd would ask for.
        let own =
            std::fs::read_link("/proc/self/exe").map_err(RuntimeError::io("finding the agent's program"))?;
        let own = own.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
        let command =
            vec![own.clone(), "app-exec".to_owned(), self.folder.spec().to_string_lossy().into_owned()];
        let notifies = spec.run.as_ref().and_then(|run| run.ready) == Some(Ready::Notify);
        let mut properties: Vec<(&'static str, Variant<'static>)> = vec![
            ("Description", Variant::from(format!("Farshore app {} {}", spec.app, spec.version))),
            ("ExecStart", Variant::from(vec![(own, command, false)])),
            ("Type", Variant::from(if notifies { "notify" } else { "exec" })),
            ("NotifyAccess", Variant::from(if notifies { "all" } else { "none" })),
            // Ended, it stays to be looked at.
            ("RemainAfterExit", Variant::from(true)),
            ("NoNewPrivileges", Variant::from(true)),
            ("TimeoutStopUSec", Variant::from(spec.stop_timeout_ms.saturating_mul(1000))),
            ("TimeoutStartUSec", Variant::from(spec.start_timeout_ms.saturating_mul(1000))),
        ];
        properties.extend(limits(&spec.limits));
        Ok(properties)
    }

    async fn start(&mut self) -> Result<(), RuntimeError> {
        let unit = self.unit()?;
        let limit = Duration::from_millis(self.spec.start_timeout_ms) + ANSWER;
        if self.installed()?.is_some() {
            return self.job("RestartUnit", &(unit, "replace"), limit).await;
        }
        // What a supervisor that was killed has left.
        self.end().await?;
        let properties = self.properties()?;
        let others: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        self.job("StartTransientUnit", &(unit, "replace", properties, others), limit).await
    }

    /// Ends the unit and forgets it; fine when there is none.
    async fn end(&mut self) -> Result<(), RuntimeError> {
        let unit = self.unit()?;
        let state = self.state().await?;
        if !matches!(state.as_ref().map(|state| state.active.as_str()), None | Some("inactive" | "failed")) {
            let limit = Duration::from_millis(self.spec.stop_timeout_ms) + ANSWER;
            self.job("StopUnit", &(unit.clone(), "replace"), limit).await?;
        }
        if self.state().await?.is_some_and(|state| state.active == "failed") {
            let bus = self.connect().await?;
            let manager = manager(&bus).await.map_err(dbus("systemd"))?;
            let reset = manager.call_method("ResetFailedUnit", &(unit,)).await;
            if let Err(error) = reset
                && !is_no_unit(&error)
            {
                return Err(dbus("systemd: ResetFailedUnit")(error));
            }
        }
        Ok(())
    }

    /// How the unit is; `None` when systemd does not know it.
    async fn state(&mut self) -> Result<Option<State>, RuntimeError> {
        let unit = self.unit()?;
        let bus = self.connect().await?;
        let asked = timeout(ANSWER, state(&bus, &unit)).await;
        match asked {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(error)) => {
                self.bus = None;
                Err(dbus("systemd")(error))
            }
            Err(_) => {
                self.bus = None;
                Err(RuntimeError::Said("systemd's bus does not answer".to_owned()))
            }
        }
    }

    async fn wait(&mut self) -> Result<String, RuntimeError> {
        let unit = self.unit()?;
        let bus = self.connect().await?;
        let waited = wait(&bus, &unit).await;
        if waited.is_err() {
            self.bus = None;
        }
        waited.map_err(dbus("systemd"))
    }
}

/// Limits as properties of a unit.
fn limits(limits: &Limits) -> Vec<(&'static str, Variant<'static>)> {
    let mut properties = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        properties.push(("MemoryMax", Variant::from(bytes)));
    }
    if let Some(count) = limits.processes {
        properties.push(("TasksMax", Variant::from(u64::from(count))));
    }
    if let Some(millis) = limits.cpu_millis {
        properties.push(("CPUQuotaPerSecUSec", Variant::from(u64::from(millis) * 1000)));
    }
    properties
}

/// What is known of a unit.
#[derive(Debug)]
struct State {
    active: String,
    sub: String,
    /// As `siginfo_t` says it: 1 exited, 2 killed, 3 dumped.
    code: i32,
    status: i32,
    result: String,
}

impl State {
    /// How it ended, if it has.
    fn ended(&self) -> Option<String> {
        let over = matches!(self.active.as_str(), "inactive" | "failed") || self.sub == "exited";
        over.then(|| match (self.code, self.result.as_str()) {
            (_, "oom-kill") => "ran out of memory".to_owned(),
            (_, "timeout") => "did not answer in time".to_owned(),
            (1, _) => format!("exited with {}", self.status),
            (2 | 3, _) => format!("was killed by signal {}", self.status),
            (_, result) => format!("ended ({result})"),
        })
    }
}

async fn manager(bus: &Connection) -> zbus::Result<Proxy<'static>> {
    Proxy::new(bus, BUS_NAME, "/org/freedesktop/systemd1", MANAGER).await
}

fn is_no_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}

/// Without a subscriber systemd sends no signals.
async fn subscribe(manager: &Proxy<'_>) -> zbus::Result<()> {
    match manager.call_method("Subscribe", &()).await {
        Err(zbus::Error::MethodError(name, ..)) if name.as_str().ends_with("AlreadySubscribed") => Ok(()),
        other => other.map(drop),
    }
}

async fn job<B>(bus: &Connection, method: &str, body: &B) -> zbus::Result<String>
where
    B: serde::Serialize + DynamicType + Sync,
{
    let manager = manager(bus).await?;
    // Without a subscriber systemd sends no signals.
    subscribe(&manager).await?;
    let mut removed = manager.receive_signal("JobRemoved").await?;
    let job: OwnedObjectPath = match manager.call_method(method, body).await {
        Ok(reply) => reply.body().deserialize()?,
        Err(error) if method == "StopUnit" && is_no_unit(&error) => return Ok("done".to_owned()),
        Err(error) => return Err(error),
    };
    while let Some(signal) = removed.next().await {
        let (_, path, _, result): (u32, OwnedObjectPath, String, String) = signal.body().deserialize()?;
        if path == job {
            return Ok(result);
        }
    }
    Err(zbus::Error::Failure("the bus hung up".to_owned()))
}

/// The end of what the app's unit wrote to the journal.
pub(crate) async fn journal(folder: &AppFolder, spec: &Spec, bytes: u64) -> Result<String, RuntimeError> {
    let unit = SystemdRuntime::new(folder.clone(), spec.clone()).unit()?;
    let asked = tokio::process::Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=cat", "--lines=2000"])
        .arg(format!("--unit={unit}"))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let answered = timeout(ANSWER, asked)
        .await
        .map_err(|_| RuntimeError::Said("journalctl does not answer".to_owned()))?;
    let answered = answered.map_err(RuntimeError::io("journalctl"))?;
    if !answered.status.success() {
        let why = String::from_utf8_lossy(&answered.stderr).trim().to_owned();
        return Err(RuntimeError::Said(format!("journalctl: {}: {why}", answered.status)));
    }
    let surplus = answered.stdout.len().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
    let tail = answered.stdout.get(surplus..).unwrap_or_default();
    Ok(format!("==> {unit} <==\n{}\n", String::from_utf8_lossy(tail)))
}

type Properties = HashMap<String, OwnedVariant>;

async fn properties(bus: &Connection, path: &OwnedObjectPath, interface: &str) -> zbus::Result<Properties> {
    let proxy = Proxy::new(bus, BUS_NAME, path.clone(), "org.freedesktop.DBus.Properties").await?;
    proxy.call("GetAll", &(interface,)).await
}

fn text(properties: &Properties, key: &str) -> String {
    properties.get(key).and_then(|value| <&str>::try_from(value).ok()).unwrap_or_default().to_owned()
}

fn number(properties: &Properties, key: &str) -> i32 {
    properties.get(key).and_then(|value| i32::try_from(value).ok()).unwrap_or_default()
}

async fn state(bus: &Connection, unit: &str) -> zbus::Result<Option<State>> {
    let manager = manager(bus).await?;
    let path: OwnedObjectPath = match manager.call("GetUnit", &(unit,)).await {
        Ok(path) => path,
        Err(error) if is_no_unit(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    read(bus, &path).await
}

/// Reads one unit; `None` when it has just been forgotten.
async fn read(bus: &Connection, path: &OwnedObjectPath) -> zbus::Result<Option<State>> {
    let unit = properties(bus, path, "org.freedesktop.systemd1.Unit").await;
    let service = properties(bus, path, "org.freedesktop.systemd1.Service").await;
    match (unit, service) {
        (Ok(unit), Ok(service)) => Ok(Some(State {
            active: text(&unit, "ActiveState"),
            sub: text(&unit, "SubState"),
            code: number(&service, "ExecMainCode"),
            status: number(&service, "ExecMainStatus"),
            result: text(&service, "Result"),
        })),
        (Err(zbus::Error::MethodError(..)), _) | (_, Err(zbus::Error::MethodError(..))) => Ok(None),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Follows the unit until it has ended.
async fn wait(bus: &Connection, unit: &str) -> zbus::Result<String> {
    let manager = manager(bus).await?;
    subscribe(&manager).await?;
    let path: OwnedObjectPath = match manager.call("GetUnit", &(unit,)).await {
        Ok(path) => path,
        Err(error) if is_no_unit(&error) => return Ok("is gone".to_owned()),
        Err(error) => return Err(error),
    };
    let watched = Proxy::new(bus, BUS_NAME, path.clone(), "org.freedesktop.DBus.Properties").await?;
    let mut changes = watched.receive_signal("PropertiesChanged").await?;
    let mut removals = manager.receive_signal("UnitRemoved").await?;
    loop {
        match read(bus, &path).await? {
            None => return Ok("is gone".to_owned()),
            Some(state) => {
                if let Some(how) = state.ended() {
                    return Ok(how);
                }
            }
        }
        tokio::select! {
            change = changes.next() => {
                if change.is_none() {
                    return Err(zbus::Error::Failure("the bus hung up".to_owned()));
                }
            }
            _ = removals.next() => {}
        }
    }
}

impl Runtime for SystemdRuntime {
    fn begin(&mut self) -> Work<'_, Option<Process>> {
        Box::pin(async { Ok(None) })
    }

    fn ready(&mut self) -> Option<Work<'_, ()>> {
        Some(Box::pin(self.start()))
    }

    fn ended(&mut self) -> Work<'_, String> {
        Box::pin(self.wait())
    }

    fn stop(&mut self, _: bool) -> Work<'_, ()> {
        Box::pin(self.end())
    }

    fn clear(&mut self) -> Work<'_, ()> {
        Box::pin(self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_unit_ended_is_said_in_the_same_words_as_for_a_process() {
        let state = |active: &str, sub: &str, code, status, result: &str| State {
            active: active.to_owned(),
            sub: sub.to_owned(),
            code,
            status,
            result: result.to_owned(),
        };
        assert_eq!(state("active", "running", 0, 0, "success").ended(), None);
        assert_eq!(state("active", "exited", 1, 0, "success").ended().as_deref(), Some("exited with 0"));
        assert_eq!(state("failed", "failed", 1, 3, "exit-code").ended().as_deref(), Some("exited with 3"));
        let killed = state("failed", "failed", 2, 9, "signal").ended();
        assert_eq!(killed.as_deref(), Some("was killed by signal 9"));
        assert_eq!(state("failed", "failed", 2, 9, "oom-kill").ended().as_deref(), Some("ran out of memory"));
    }
}
