//! Whose process it was.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

use farshore_collect::kernel::{Ended, Event, Kind};
use farshore_domain::name::Name;

use crate::clock;
use crate::runner::apps::Apps;

/// What is known is read again at most this often.
const AGAIN_MS: i64 = 100;
/// Control groups that belong to no app are remembered up to this many.
const MOST_STRANGERS: usize = 4096;

/// The apps' control groups, supervisors and processes, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Who {
    groups: HashMap<u64, Name>,
    /// Processes of apps, which lead their sessions.
    mains: HashMap<i32, Name>,
    supervisors: HashMap<i32, Name>,
    /// Groups, sessions and parents that were looked for and belong to no app.
    strangers: HashSet<(u64, i32, i32)>,
    read_at: Option<i64>,
    /// How often each app's process has ended, as its supervisor tells, by the name of its control group.
    ended: HashMap<String, (u64, u32, bool)>,
}

impl Who {
    fn read(&mut self, apps: &Apps, now_ms: i64) {
        self.read_at = Some(now_ms);
        self.groups.clear();
        self.supervisors.clear();
        self.mains.clear();
        let boot = clock::boot_id();
        for (app, group, status) in apps.statuses() {
            if let Some(inode) = apps.cgroups.folder_v2(&group).and_then(|folder| folder.metadata().ok()) {
                self.groups.insert(inode.ino(), app.clone());
            }
            if status.boot != boot {
                continue;
            }
            if let Some(supervisor) = status.supervisor.filter(|process| process.is_alive()) {
                self.supervisors.insert(supervisor.pid, app.clone());
                if let Some(process) = status.process {
                    self.mains.insert(process.pid, app);
                }
            }
        }
    }

    fn look(&self, event: &Event) -> Option<(Name, bool)> {
        let supervisor = self.supervisors.get(&event.parent).filter(|_| event.parent > 0);
        if let Some(app) = supervisor {
            return Some((app.clone(), true));
        }
        if let Some(app) = self.mains.get(&event.pid) {
            return Some((app.clone(), true));
        }
        let app = self.groups.get(&event.cgroup).or_else(|| self.mains.get(&event.session));
        app.map(|app| (app.clone(), false))
    }

    /// The app that an event belongs to, and whether it is about the app's own process.
    pub(super) fn of(&mut self, apps: &Apps, event: &Event, now_ms: i64) -> Option<(Name, bool)> {
        if event.pid == 0 {
            return None;
        }
        if let Some(found) = self.look(event) {
            return Some(found);
        }
        let stranger = (event.cgroup, event.session, event.parent);
        let fresh = self.read_at.is_some_and(|at| now_ms.saturating_sub(at) < AGAIN_MS);
        if fresh || self.strangers.contains(&stranger) {
            return None;
        }
        self.read(apps, now_ms);
        let found = self.look(event);
        if found.is_none() {
            if self.strangers.len() >= MOST_STRANGERS {
                self.strangers.clear();
            }
            self.strangers.insert(stranger);
        }
        found
    }

    /// The ends of apps' own processes since the last call, as their supervisors tell: for machines that tell nothing else.
    pub(super) fn ended(&mut self, apps: &Apps, at_ns: u64) -> Vec<(Name, Event)> {
        let mut events = Vec::new();
        let mut seen = HashMap::new();
        for (app, group, status) in apps.statuses() {
            let running = status.running;
            let now = (running.instance, running.restarts, running.up);
            let before = self.ended.get(&group).copied().unwrap_or(now);
            // It was up and is not, or it is up again.
            let again = before.0 == now.0 && (now.1 > before.1 || (before.2 && !now.2));
            let told_before = !before.2 && now.2 && now.1 == before.1 + 1;
            if let Some(ended) =
                running.last_exit.as_deref().and_then(ended_of).filter(|_| again && !told_before)
            {
                let mut event = Event::new(Kind::ProcessExit, 0, at_ns);
                event.ended = Some(ended);
                event.comm = app.as_str().chars().take(15).collect();
                events.push((app, event));
            }
            seen.insert(group, now);
        }
        self.ended = seen;
        events
    }
}

/// What the supervisor wrote of an end (`describe` in `runner/shim.rs`).
fn ended_of(text: &str) -> Option<Ended> {
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    if let Some(code) = text.strip_prefix("exited with ") {
        return number(code).map(Ended::Code);
    }
    text.strip_prefix("was killed by signal ").and_then(number).map(Ended::Signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisors_words_are_understood() {
        assert_eq!(ended_of("exited with 3"), Some(Ended::Code(3)));
        assert_eq!(ended_of("exited with 127 (it may not be executable)"), Some(Ended::Code(127)));
        assert_eq!(ended_of("was killed by signal 9"), Some(Ended::Signal(9)));
        assert_eq!(ended_of("it could not be started: no such file"), None);
    }
}
