//! Looks from outside, all the time, at what devices execute.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use farshore_domain::digest::Digest;

/// A process that can't be mistaken for another one with the same number: its number, when it started, and in which slot, if in any.
pub(crate) type Process = (i32, String, Option<String>);

#[derive(Debug, Default)]
struct Seen {
    looks: u64,
    /// How often two were there, each in a slot of its own.
    pairs: u64,
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

/// The slot that a process was started in.
fn slot_of(pid: i32) -> Option<String> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut pairs = environ.split(|byte| *byte == 0);
    let slot = pairs.find_map(|pair| pair.strip_prefix(b"FARSHORE_SLOT="))?;
    Some(String::from_utf8_lossy(slot).into_owned())
}

/// Two of an app may be there at once only as one in each of its slots; what has none runs alone.
fn is_pair(apps: &[Process]) -> bool {
    match apps {
        [(_, _, Some(one)), (_, _, Some(other))] => one != other,
        _ => false,
    }
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
        let app = program.starts_with(folder) && [&b"run"[..], b"crash", b"lose"].contains(&what);
        app.then(|| Some((pid, started(pid)?, slot_of(pid))))?
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
                    let still = |(pid, at, _): &&Process| started(*pid).as_ref() == Some(at);
                    if apps.len() < 2 {
                        continue;
                    }
                    let apps: Vec<_> = apps.iter().filter(still).cloned().collect();
                    if is_pair(&apps) {
                        to.lock().unwrap().pairs += 1;
                    } else if apps.len() > 1 {
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
            |(pid, ..): Process| std::fs::read(format!("/proc/{pid}/exe")).ok().map(|b| Digest::of(&b));
        self.folders.iter().map(|folder| apps_of(folder).into_iter().filter_map(digest).collect()).collect()
    }

    /// How often two were seen at once, each in a slot of its own.
    pub(crate) fn pairs(&self) -> u64 {
        self.seen.lock().unwrap().pairs
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
