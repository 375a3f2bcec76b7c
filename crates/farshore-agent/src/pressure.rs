//! Stalls of the machine, told by the kernel the moment they happen: triggers of PSI (Linux `Documentation/accounting/psi.rst`).
//!
//! Nothing is polled: the kernel wakes this process when tasks have waited for a resource for so much of two seconds, which is the shortest window that it
//! gives to a process without privileges. Where it gives no triggers, measurements say the same, as often as they are taken.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::eyes::Source;

/// Where the kernel keeps them.
pub(crate) const FOLDER: &str = "/proc/pressure";

/// Of each resource: so many microseconds of two seconds in which some task waited for it. Waiting for a processor is daily life, for memory it is not.
const TRIGGERS: [(&str, u32); 3] = [("cpu", 1_000_000), ("io", 700_000), ("memory", 200_000)];
const WINDOW_US: u32 = 2_000_000;

/// Tasks waited for this resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stall {
    pub(crate) resource: &'static str,
    /// The share of the last ten seconds in which some waited, 0 to 1.
    pub(crate) share: Option<f64>,
}

/// The triggers that the kernel has given.
#[derive(Debug)]
pub(crate) struct Triggers(Vec<(&'static str, AsyncFd<File>)>);

#[expect(deprecated, reason = "its successor is unsafe; this file is owned here and never changed")]
fn attended(file: File) -> std::io::Result<AsyncFd<File>> {
    AsyncFd::with_interest(file, Interest::PRIORITY)
}

fn trigger(folder: &Path, resource: &str, stalled_us: u32) -> std::io::Result<AsyncFd<File>> {
    let mut file = OpenOptions::new().read(true).write(true).open(folder.join(resource))?;
    // The kernel wants the whole of it in one write, with the byte that ends a string in C.
    file.write_all(format!("some {stalled_us} {WINDOW_US}\0").as_bytes())?;
    attended(file)
}

/// Asks the kernel, and says who tells of stalls now.
pub(crate) fn open(folder: &Path) -> (Triggers, Source) {
    let (mut triggers, mut why) = (Vec::new(), Vec::new());
    for (resource, stalled_us) in TRIGGERS {
        match trigger(folder, resource, stalled_us) {
            Ok(file) => triggers.push((resource, file)),
            Err(error) => why.push(format!("{resource}: {error}")),
        }
    }
    let told: Vec<&str> = triggers.iter().map(|(resource, _)| *resource).collect();
    let source = |by: &str, reason: String| Source { by: by.to_owned(), reason };
    let source = match (told.is_empty(), why.is_empty()) {
        (false, true) => source("psi", format!("triggers: {}", told.join(", "))),
        (false, false) => source("psi", format!("triggers: {}; {}", told.join(", "), why.join("; "))),
        (true, _) => source("proc", format!("only with each measurement; no triggers: {}", why.join("; "))),
    };
    (Triggers(triggers), source)
}

/// `avg10` of the line `some`.
fn share(folder: &Path, resource: &str) -> Option<f64> {
    let mut text = String::new();
    File::open(folder.join(resource)).ok()?.take(4096).read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = line.split(' ').find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

async fn follow(folder: PathBuf, resource: &'static str, file: AsyncFd<File>, tell: mpsc::Sender<Stall>) {
    loop {
        match file.ready(Interest::PRIORITY).await {
            Ok(mut guard) if guard.ready().is_priority() => guard.clear_ready(),
            // The trigger is gone; measurements go on telling.
            Ok(_) | Err(_) => {
                tracing::warn!(resource, "the kernel tells of no more stalls");
                return;
            }
        }
        if tell.send(Stall { resource, share: share(&folder, resource) }).await.is_err() {
            return;
        }
    }
}

/// Passes on what the kernel tells, until nobody listens.
pub(crate) async fn watch(folder: PathBuf, triggers: Triggers, tell: mpsc::Sender<Stall>) {
    let mut all = JoinSet::new();
    for (resource, file) in triggers.0 {
        all.spawn(follow(folder.clone(), resource, file, tell.clone()));
    }
    while all.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_kernel_tells_of_too_much_work_without_being_asked() {
        let folder = Path::new(FOLDER);
        let (triggers, source) = open(folder);
        if source.by != "psi" {
            eprintln!("this kernel gives no triggers: {}", source.reason);
            return;
        }
        assert!(source.reason.starts_with("triggers: cpu"), "{source:?}");
        let (tell, mut told) = mpsc::channel(4);
        let watching = tokio::spawn(watch(folder.to_owned(), triggers, tell));
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().unwrap().get();
        let workers: Vec<_> = (0..cores * 3)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
            })
            .collect();
        let stalled = async {
            loop {
                let stall = told.recv().await.unwrap();
                if stall.resource == "cpu" {
                    return stall;
                }
            }
        };
        let stall = tokio::time::timeout(Duration::from_secs(30), stalled).await;
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(stall.unwrap().share.is_some_and(|share| share > 0.0));
        watching.abort();
    }

    #[tokio::test]
    async fn without_triggers_measurements_tell_and_it_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let (triggers, source) = open(folder.path());
        assert_eq!((source.by.as_str(), triggers.0.len()), ("proc", 0));
        assert!(source.reason.contains("no triggers: cpu: No such file"), "{source:?}");
        std::fs::write(folder.path().join("cpu"), "some avg10=12.50 avg60=0 avg300=0 total=1\n").unwrap();
        assert_eq!(share(folder.path(), "cpu"), Some(0.125));
        for nonsense in ["", "some", "some avg10=x", "full avg10=1.0", "some avg10=900"] {
            std::fs::write(folder.path().join("cpu"), nonsense).unwrap();
            assert_eq!(share(folder.path(), "cpu"), None, "{nonsense:?}");
        }
    }
}
