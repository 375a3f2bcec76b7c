//! Looks from outside, all the time, at what devices execute.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use farshore_domain::digest::Digest;

/// A process that can't be mistaken for another one with the same number: its number and when it started.
pub(crate) type Process = (i32, String);

#[derive(Debug, Default)]
struct Seen {
    looks: u64,
    doubled: Vec<String>,
}

/// A thread that looks every few milliseconds.
#[derive(Debug)]
pub(crate) struct Watcher {
    folders: Vec<PathBuf>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn started(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // One that has ended and was not waited for executes nothing.
    (fields.next()? != "Z").then_some(())?;
    fields.nth(18).map(str::to_owned)
}

/// The apps of a device that execute a release's program; checks come and go and are left out.
fn apps_of(folder: &Path) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of = |pid: i32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        // A process in the middle of its exec has a program and no arguments yet.
        let what = command.split(|byte| *byte == 0).nth(1).unwrap_or_default();
        let app = program.starts_with(folder) && (what == b"run" || what == b"crash");
        app.then(|| Some((pid, started(pid)?)))?
    };
    pids.filter_map(of).collect()
}

impl Watcher {
    pub(crate) fn start(folders: Vec<PathBuf>) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (to, until, all) = (Arc::clone(&seen), Arc::clone(&stop), folders.clone());
        let look = move || {
            while !until.load(Ordering::Relaxed) {
                for folder in &all {
                    let apps = apps_of(folder);
                    // All of them still there after all were seen: they were there at the same time.
                    let still = |(pid, at): &&Process| started(*pid).as_ref() == Some(at);
                    if apps.len() > 1 && apps.iter().filter(still).count() > 1 {
                        to.lock().unwrap().doubled.push(format!("{}: {apps:?}", folder.display()));
                    }
                }
                to.lock().unwrap().looks += 1;
                std::thread::park_timeout(Duration::from_millis(5));
            }
        };
        Self { folders, seen, stop, thread: Some(std::thread::spawn(look)) }
    }

    /// What runs now, by device.
    pub(crate) fn apps(&self) -> BTreeMap<PathBuf, Vec<Process>> {
        self.folders.iter().map(|folder| (folder.clone(), apps_of(folder))).collect()
    }

    /// The programs that run now, hashed here.
    pub(crate) fn programs(&self) -> Vec<BTreeSet<Digest>> {
        let digest =
            |(pid, _): Process| std::fs::read(format!("/proc/{pid}/exe")).ok().map(|b| Digest::of(&b));
        self.folders.iter().map(|folder| apps_of(folder).into_iter().filter_map(digest).collect()).collect()
    }

    /// Fails when something was doubled; says how often it looked.
    pub(crate) fn check(&self) -> u64 {
        let seen = self.seen.lock().unwrap();
        let (doubled, looks) = (seen.doubled.join("\n"), seen.looks);
        drop(seen);
        assert!(doubled.is_empty(), "{doubled}");
        looks
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
