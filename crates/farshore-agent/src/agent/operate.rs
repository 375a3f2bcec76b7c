//! How each kind of operation is done.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use farshore_domain::device::Health;
use farshore_domain::name::Name;
use farshore_domain::operation::{Arguments, EXEC_OUTPUT_BYTES, Kind, OUTPUT_BYTES, State, permitted};
use farshore_domain::reconcile::MonoMs;
use farshore_domain::time::MINUTE_MS;
use farshore_protocol::OperationUpdate;

use super::desired::cannot_part;
use super::operations::{Doing, Goal, Request, Watched, update, with_output};
use super::{Agent, Done};
use crate::executor::{Executor, ExecutorError};
use crate::journal::Journal;
use crate::runner::{Anchor, Order};
use crate::{clock, file};

/// Logs have so many bytes where nobody says.
const LOG_BYTES: u32 = 64 * 1024;
/// An app that goes back must run its earlier release, and one that is restarted be healthy, after this long.
pub(super) const BACK_WITHIN_MS: i64 = 10 * MINUTE_MS;
/// A device that was told to reboot must be down after this long.
pub(super) const DOWN_WITHIN_MS: i64 = 5 * MINUTE_MS;
/// Followed logs are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const MAX_PACKAGES: usize = 4_000;
const DPKG_BYTES: u64 = 32 * 1024 * 1024;

fn failed(uid: &str, message: impl Into<String>) -> OperationUpdate {
    update(uid, State::Failed, message)
}

impl<E: Executor, J: Journal> Agent<E, J> {
    /// Whether it can be begun; otherwise its answer.
    pub(super) fn ready(&self, uid: &str, request: &mut Request) -> Result<(), OperationUpdate> {
        let arguments = read(uid, request)?;
        // An app that it is not about does no harm.
        let takes_app = request.kind.needs_app() || request.kind == Kind::Exec;
        let app = Name::new(request.app.as_str()).ok().filter(|_| takes_app);
        if request.kind == Kind::Exec && app.is_none() && !request.app.is_empty() {
            return Err(failed(uid, "app is no name of an app"));
        }
        arguments.check(request.kind, app.as_ref()).map_err(|error| failed(uid, error.to_string()))?;
        permitted(request.kind, app.as_ref(), &arguments, &request.reason, self.policy.operations())
            .map_err(|refusal| failed(uid, refusal.message))?;
        if request.kind == Kind::Reboot {
            request.boot = Some(self.settings.boot_id.clone());
        }
        let Some(app) = app else { return Ok(()) };
        let Some(state) = self.state.apps.get(&app) else {
            return Err(failed(uid, "no such app is on this device"));
        };
        if request.kind == Kind::RestartApp && state.active.is_none() {
            return Err(failed(uid, format!("nothing of {app} runs here")));
        }
        if request.kind == Kind::RestartApp {
            // What was started before the policy asked for it would be stopped, and not started again.
            let manifest = state.active.as_ref().and_then(|active| self.manifests.get(&active.manifest));
            let can = |word: &str| {
                self.capabilities.as_ref().is_none_or(|words| words.iter().any(|one| one == word))
            };
            let why = manifest.and_then(|manifest| cannot_part(manifest, self.policy.isolation(), can));
            if let Some(why) = why {
                return Err(failed(
                    uid,
                    format!("{app} is not restarted, because it would not start again: {why}"),
                ));
            }
        }
        if request.kind == Kind::Rollback {
            let previous = state.previous.as_ref().filter(|previous| {
                !state.is_held(previous.manifest)
                    && state.floor.as_ref().is_none_or(|floor| previous.version >= *floor)
            });
            let previous =
                previous.ok_or_else(|| failed(uid, format!("{app} has no earlier release here")))?;
            request.target = Some(previous.manifest);
        }
        Ok(())
    }

    /// Begins what was kept as running.
    pub(super) fn begin(&mut self, uid: &str, request: &Request) {
        let app = Name::new(request.app.as_str()).ok();
        let arguments = match read(uid, request) {
            Ok(arguments) => arguments,
            Err(answer) => return self.operations.answers.push(answer),
        };
        tracing::info!(operation = %uid, kind = %request.kind, app = %request.app, "an operation begins");
        match (request.kind, app) {
            (Kind::RestartApp, Some(app)) => {
                let before = self.state.apps.get(&app).map_or(0, |app| app.highest.max(app.instance));
                self.restart.insert(app.clone());
                let until = clock::mono().plus_ms(BACK_WITHIN_MS);
                let watched = Watched { app, goal: Goal::After(before), until };
                self.operations.watched.insert(uid.to_owned(), watched);
            }
            (Kind::Rollback, Some(app)) => {
                let Some(target) = request.target else { return };
                self.rollback.insert(app.clone(), request.reason.clone());
                let until = clock::mono().plus_ms(BACK_WITHIN_MS);
                self.operations
                    .watched
                    .insert(uid.to_owned(), Watched { app, goal: Goal::Release(target), until });
            }
            (Kind::Logs, Some(app)) => self.logs(uid, app, &arguments),
            (Kind::Diagnostics, _) => {
                let said = self.diagnostics();
                self.operations.answers.push(with_output(update(uid, State::Succeeded, ""), said));
            }
            (Kind::Inventory, _) => {
                let device = self.inventory();
                let uid = uid.to_owned();
                self.tasks.spawn(async move {
                    let read = tokio::task::spawn_blocking(move || inventory(device)).await;
                    Done::Operation(match read {
                        Ok(bytes) => with_output(update(&uid, State::Succeeded, ""), bytes),
                        Err(error) => failed(&uid, error.to_string()),
                    })
                });
            }
            (Kind::Reboot, _) => self.reboot(uid),
            (Kind::Exec, app) => self.exec(uid, app, arguments, request.reason.clone()),
            (kind, _) => {
                let answer = update(uid, State::Unsupported, format!("this agent does not do {kind}"));
                self.operations.answers.push(answer);
            }
        }
    }

    /// Its result is told by the next boot, if all goes well.
    fn reboot(&mut self, uid: &str) {
        self.operations.rebooting.insert(uid.to_owned(), clock::mono().plus_ms(DOWN_WITHIN_MS));
        let executor = Arc::clone(&self.executor);
        let (anchor, state) = (self.anchor(), self.signed_state());
        let uid = uid.to_owned();
        self.tasks.spawn(async move {
            let work = async {
                // The runner asks its own copy of the policy; it has to be the newest.
                executor.obey(anchor, state).await?;
                executor.reboot().await
            };
            match work.await {
                Ok(()) => Done::Rebooting,
                Err(error) if error.code == "Unsupported" => {
                    Done::Operation(update(&uid, State::Unsupported, error.message))
                }
                Err(error) => Done::Operation(failed(&uid, error.to_string())),
            }
        });
    }

    fn exec(&mut self, uid: &str, app: Option<Name>, arguments: Arguments, reason: String) {
        let doing = Doing::new(Kind::Exec);
        let (said, cancel) = (Arc::clone(&doing.said), Arc::clone(&doing.cancel));
        self.operations.doing.insert(uid.to_owned(), doing);
        let executor = Arc::clone(&self.executor);
        let (anchor, state) = (self.anchor(), self.signed_state());
        let wake = Arc::clone(&self.operations.wake);
        let uid = uid.to_owned();
        self.tasks.spawn(async move {
            let output = {
                let said = Arc::clone(&said);
                Arc::new(move |bytes: Vec<u8>| {
                    said.lock().unwrap_or_else(PoisonError::into_inner).push(&bytes, EXEC_OUTPUT_BYTES);
                    wake.notify_one();
                })
            };
            let order = Order { operation: uid.clone(), app, arguments, reason };
            let work = async {
                // The runner asks its own copy of the policy; it has to be the newest.
                executor.obey(anchor, state).await?;
                executor.exec(order, output).await
            };
            let ended = tokio::select! {
                ended = work => Some(ended),
                () = cancel.notified() => None,
            };
            let (bytes, total) = {
                let said = said.lock().unwrap_or_else(PoisonError::into_inner);
                (said.bytes.clone(), said.total)
            };
            let (answer, total) = match ended {
                None => (update(&uid, State::Cancelled, "cancelled while it ran"), total),
                Some(Err(error)) => (failed(&uid, error.to_string()), total),
                Some(Ok(ended)) => {
                    let state = if ended.exit_code == Some(0) { State::Succeeded } else { State::Failed };
                    let answer = update(&uid, state, ended.message);
                    (OperationUpdate { exit_code: ended.exit_code, ..answer }, ended.total)
                }
            };
            Done::Operation(OperationUpdate { output: bytes, output_total: total, ..answer })
        });
    }

    fn logs(&mut self, uid: &str, app: Name, arguments: &Arguments) {
        let doing = Doing::new(Kind::Logs);
        let (said, cancel) = (Arc::clone(&doing.said), Arc::clone(&doing.cancel));
        self.operations.doing.insert(uid.to_owned(), doing);
        let executor = Arc::clone(&self.executor);
        let wake = Arc::clone(&self.operations.wake);
        let uid = uid.to_owned();
        let bytes = arguments.bytes.unwrap_or(LOG_BYTES);
        let follow = arguments.follow_seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
        self.tasks.spawn(async move {
            let push = |text: &str| {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                said.push(text.as_bytes(), OUTPUT_BYTES);
                wake.notify_one();
                said.bytes.len() >= OUTPUT_BYTES
            };
            let work = async {
                let mut before = executor.logs(app.clone(), bytes).await?;
                push(&before);
                let Some(follow) = follow else { return Ok::<(), ExecutorError>(()) };
                let until = tokio::time::Instant::now() + follow;
                while tokio::time::Instant::now() < until {
                    tokio::time::sleep(LOOK_EVERY).await;
                    let now = executor.logs(app.clone(), LOG_BYTES.max(bytes)).await?;
                    let full = push(&added(&before, &now));
                    before = now;
                    if full {
                        break;
                    }
                }
                Ok(())
            };
            let ended = tokio::select! {
                ended = work => Some(ended),
                () = cancel.notified() => None,
            };
            let said = said.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = match ended {
                // Whoever follows has seen enough.
                None if follow.is_some() => update(&uid, State::Succeeded, "no longer followed"),
                None => update(&uid, State::Cancelled, "cancelled while it ran"),
                Some(Ok(())) => update(&uid, State::Succeeded, ""),
                Some(Err(error)) => failed(&uid, error.to_string()),
            };
            Done::Operation(OperationUpdate {
                output: said.bytes.clone(),
                output_total: said.total,
                ..answer
            })
        });
    }

    pub(super) fn anchor(&self) -> Anchor {
        let registration = &self.identity.registration;
        let roots = &self.identity.credentials().roots;
        Anchor::new(registration.tenant, registration.device, registration.trust_domain.clone(), roots)
    }

    /// Looks whether apps that were to go back, or to be restarted, are up again, and whether a device that was to go down is still there.
    pub(super) fn watch_operations(&mut self, now: MonoMs) {
        for (uid, until) in &self.operations.rebooting {
            if now >= *until && !self.operations.answers.iter().any(|known| known.uid == *uid) {
                let message = "it was told to reboot, and is still up";
                self.operations.answers.push(failed(uid, message));
            }
        }
        for (uid, watched) in &self.operations.watched {
            let app = self.state.apps.get(&watched.app);
            let active = app.and_then(|app| app.active.as_ref());
            let running = self
                .observed
                .as_ref()
                .and_then(|apps| apps.get(&watched.app)?.running.as_ref())
                .filter(|running| running.up);
            let version = || active.map(|active| active.version.to_string()).unwrap_or_default();
            let (there, done, late) = match watched.goal {
                Goal::Release(target) => (
                    active.is_some_and(|active| active.manifest == target)
                        && running.is_some_and(|running| running.manifest == target),
                    format!("{} is back at {} and held there until it is resumed", watched.app, version()),
                    "does not run its earlier release yet",
                ),
                Goal::After(before) => {
                    let views = self.view.iter().flat_map(|view| &view.apps);
                    let healthy = views
                        .into_iter()
                        .any(|view| view.app == watched.app && view.health == Health::Healthy);
                    (
                        healthy && running.is_some_and(|running| running.instance > before),
                        format!("{} was restarted, and version {} is healthy again", watched.app, version()),
                        "was restarted and is not healthy yet",
                    )
                }
            };
            let answer = if there {
                update(uid, State::Succeeded, done)
            } else if now >= watched.until {
                failed(uid, format!("{} {late}", watched.app))
            } else {
                continue;
            };
            if !self.operations.answers.iter().any(|known| known.uid == *uid) {
                self.operations.answers.push(answer);
            }
        }
    }

    fn diagnostics(&mut self) -> Vec<u8> {
        let now = clock::now();
        let measured: BTreeMap<&str, f64> = self.sampler.sample(now.wall, now.mono).into_iter().collect();
        let folder = self.settings.status_file.as_deref().and_then(Path::parent);
        let disks: Vec<_> = [Some(Path::new("/")), folder].into_iter().flatten().filter_map(disk).collect();
        let said = serde_json::json!({
            "takenAt": now.wall,
            "uptimeMs": now.mono.0,
            "bootId": self.settings.boot_id,
            "agentVersion": env!("CARGO_PKG_VERSION"),
            "hardware": self.settings.hardware,
            "connectivity": {
                "controlPlane": self.identity.registration.url,
                "connected": self.session.as_ref().is_some_and(|session| session.welcomed),
                "link": self.link_reason,
                "certificateEnds": self.identity.credentials().not_after,
            },
            "agent": self.status(),
            "runner": { "answers": self.observed.is_some(), "since": self.observed_since, "capabilities": self.capabilities },
            "disks": disks,
            "measured": measured,
            "incidents": self.incidents.open,
            "lastEvents": self.black_box.last_events(100),
        });
        serde_json::to_vec_pretty(&said).unwrap_or_default()
    }

    fn inventory(&self) -> serde_json::Value {
        let apps: Vec<_> = self
            .state
            .apps
            .iter()
            .filter_map(|(name, app)| {
                let active = app.active.as_ref()?;
                let manifest = self.manifests.get(&active.manifest);
                let hardware = &self.settings.hardware;
                let artifact = manifest.and_then(|manifest| {
                    manifest.artifact_for(&hardware.os, &hardware.arch, &hardware.variant)
                });
                Some(serde_json::json!({
                    "app": name, "release": active.release, "version": active.version, "manifest": active.manifest,
                    // What a list of parts (SBOM) of this release is about.
                    "artifact": artifact.map(|artifact| artifact.digest),
                    "previous": app.previous.as_ref().map(|previous| previous.version.clone()),
                    "floor": app.floor,
                }))
            })
            .collect();
        serde_json::json!({
            "takenAt": clock::wall(),
            "hardware": self.settings.hardware,
            "agentVersion": env!("CARGO_PKG_VERSION"),
            "capabilities": self.capabilities,
            "apps": apps,
        })
    }
}

fn read(uid: &str, request: &Request) -> Result<Arguments, OperationUpdate> {
    let text = if request.arguments.is_empty() { "{}" } else { request.arguments.as_str() };
    serde_json::from_str(text).map_err(|error| failed(uid, format!("its arguments can't be read: {error}")))
}

/// How full the disk of a folder is.
fn disk(path: &Path) -> Option<serde_json::Value> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(serde_json::json!({
        "path": path, "bytes": stat.f_blocks.saturating_mul(stat.f_frsize),
        "free": stat.f_bavail.saturating_mul(stat.f_frsize), "inodesFree": stat.f_favail,
    }))
}

/// Adds what the system has.
fn inventory(mut device: serde_json::Value) -> Vec<u8> {
    let read = |path: &str, cap| file::read_capped(Path::new(path), cap).ok().flatten();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let release = read("/etc/os-release", 64 * 1024).map(text).unwrap_or_default();
    let os: BTreeMap<&str, &str> = release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, value.trim_matches('"')))
        .collect();
    let packages = read("/var/lib/dpkg/status", DPKG_BYTES).map(text).map(|text| packages(&text));
    let known = packages.is_some();
    let mut packages = packages.unwrap_or_default();
    let count = packages.len();
    packages.truncate(MAX_PACKAGES);
    if let Some(fields) = device.as_object_mut() {
        fields.insert("os".to_owned(), serde_json::json!(os));
        let source = if known { "dpkg" } else { "none" };
        fields.insert("packageSource".to_owned(), serde_json::json!(source));
        fields.insert("packageCount".to_owned(), serde_json::json!(count));
        fields.insert("packages".to_owned(), serde_json::json!(packages));
    }
    serde_json::to_vec(&device).unwrap_or_default()
}

/// The installed packages of dpkg's status file, as `name version architecture`.
fn packages(status: &str) -> Vec<String> {
    let mut found = Vec::new();
    for paragraph in status.split("\n\n") {
        let field = |name: &str| {
            let line = paragraph.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.get(name.len()..)).map_or("", str::trim)
        };
        let name = field("Package:");
        if !name.is_empty() && field("Status:").ends_with(" installed") {
            found.push(format!("{name} {} {}", field("Version:"), field("Architecture:")));
        }
    }
    found.sort();
    found
}

/// What came to a log between two looks at its end.
fn added(before: &str, now: &str) -> String {
    let mut text = String::new();
    let old: BTreeMap<&str, &str> = sections(before).into_iter().collect();
    for (name, new) in sections(now) {
        let old = old.get(name).copied().unwrap_or_default();
        let news = match new.strip_prefix(old) {
            Some(rest) => rest,
            // It was cut at the front: what comes after the end of what was seen is new.
            None => {
                let mut from = old.len().saturating_sub(256);
                while !old.is_char_boundary(from) {
                    from += 1;
                }
                let end = old.get(from..).unwrap_or_default();
                new.rfind(end).and_then(|at| new.get(at + end.len()..)).unwrap_or(new)
            }
        };
        if !news.is_empty() {
            text.push_str(&format!("==> {name} <==\n{news}"));
            if !news.ends_with('\n') {
                text.push('\n');
            }
        }
    }
    text
}

/// The logs of an app by their names.
fn sections(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for part in text.split("==> ").filter(|part| !part.is_empty()) {
        if let Some((name, body)) = part.split_once(" <==\n") {
            found.push((name, body.strip_suffix('\n').unwrap_or(body)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_and_removed_ones_are_not() {
        let status = "Package: b\nStatus: install ok installed\nArchitecture: all\nVersion: 2\nDescription: x\n Package: no\n\n\
                      Package: a\nStatus: install ok installed\nVersion: 1.2-3\nArchitecture: amd64\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        assert_eq!(packages(status), ["a 1.2-3 amd64", "b 2 all"]);
        assert_eq!(packages("garbage"), Vec::<String>::new());
    }

    #[test]
    fn only_what_came_since_is_told_also_after_a_rotation() {
        let log = |out: &str, err: &str| format!("==> stdout.log <==\n{out}\n==> stderr.log <==\n{err}\n");
        assert_eq!(added(&log("a\n", "x\n"), &log("a\nb\n", "x\n")), "==> stdout.log <==\nb\n");
        assert_eq!(added(&log("a\n", ""), &log("a\n", "y\n")), "==> stderr.log <==\ny\n");
        assert_eq!(added(&log("a\nb\n", ""), &log("b\nc\n", "")), "==> stdout.log <==\nb\nc\n");
        let (long, cut) = ("0123456789\n".repeat(100), "0123456789\n".repeat(50));
        let news = added(&log(&format!("{long}end\n"), ""), &log(&format!("{cut}end\nnew\n"), ""));
        assert_eq!(news, "==> stdout.log <==\nnew\n");
    }
}
