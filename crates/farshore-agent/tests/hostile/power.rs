//! Power cuts: what was not yet durable is gone, half there, or there in another order.
//!
//! The journal is cut at every sector of what one change writes: between the files as they were when the change before had been
//! acknowledged, and the files as this one leaves them. A device is cut in whole: all its processes die, and its
//! files become what a cut between write, rename and fsync leaves. Simulated in files: the disk's own cache is not.

use std::path::{Path, PathBuf};

use farshore_agent::{Change, Journal, SqliteJournal};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::device::{Device, long};
use crate::liar::Answer;

const SECTOR: usize = 512;
const FILES: [&str; 2] = ["journal.db", "journal.db-wal"];

/// The files of a journal at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
struct Disk([Vec<u8>; 2]);

impl Disk {
    fn read(folder: &Path) -> Self {
        Self(FILES.map(|name| std::fs::read(folder.join(name)).unwrap_or_default()))
    }

    fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, bytes) in FILES.iter().zip(&self.0) {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

/// What a sector holds after the cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sector {
    Old,
    New,
    Zero,
    Garbage,
}

/// The new bytes with the sectors that differ from the old ones as `choose` says.
fn torn(old: &[u8], new: &[u8], mut choose: impl FnMut(usize) -> Sector) -> Vec<u8> {
    let mut bytes = new.to_vec();
    let mut number = 0;
    for at in (0..new.len()).step_by(SECTOR) {
        let end = (at + SECTOR).min(new.len());
        if old.get(at..end) == Some(&new[at..end]) {
            continue;
        }
        // What lies in a sector before the bytes that are written is left alone by the disk: SQLite counts on that
        // (https://www.sqlite.org/psow.html).
        let same = (at..end).find(|byte| old.get(*byte) != new.get(*byte)).unwrap_or(end);
        match choose(number) {
            Sector::New => {}
            Sector::Zero => bytes[same..end].fill(0),
            Sector::Garbage => bytes[same..end].iter_mut().for_each(|byte| *byte ^= 0x5a),
            Sector::Old => {
                // Where the file was shorter, it has grown without its content.
                let kept = old.get(same..end.min(old.len())).unwrap_or_default();
                bytes[same..same + kept.len()].copy_from_slice(kept);
                bytes[same + kept.len()..end].fill(0);
            }
        }
        number += 1;
    }
    bytes
}

fn changed(old: &[u8], new: &[u8]) -> usize {
    let mut count = 0;
    torn(old, new, |number| {
        count = number + 1;
        Sector::New
    });
    count
}

/// Everything a device reads from its journal.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let journal = SqliteJournal::open(&folder.join(FILES[0]), 1 << 30).unwrap();
    let mut all: Vec<_> = ["state", "desired", "signed", "keys", "floor"]
        .iter()
        .map(|key| ((*key).to_owned(), journal.get(key).unwrap().unwrap_or_default()))
        .collect();
    for stream in ["events", "host"] {
        for batch in journal.pending(stream, 0, 10_000).unwrap() {
            all.push((format!("{stream} {}", batch.sequence), batch.bytes));
        }
    }
    all
}

#[test]
fn a_journal_that_was_cut_anywhere_has_everything_acknowledged_and_no_half_of_anything() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    std::fs::create_dir(&live).unwrap();
    let mut random = StdRng::seed_from_u64(11);
    let mut journal = SqliteJournal::open(&live.join(FILES[0]), 1 << 30).unwrap();
    let (mut disk, mut cuts, mut checkpoints) = (Disk::read(&live), 0, 0);
    let copy = |name: &str| folder.path().join(name);
    disk.write(&copy("before"));
    let mut before = content(&copy("before"));
    for step in 0..if long() { 400 } else { 60 } {
        // The state of a large desired state now and then, so that the log is also checkpointed and begun anew.
        let size = if step % 3 == 0 { 150_000 } else { 700 };
        let bytes = |random: &mut StdRng, size| (0..size).map(|_| random.random()).collect::<Vec<u8>>();
        let key = ["state", "desired", "signed", "keys", "floor"][step % 5].to_owned();
        let values =
            vec![(key, Some(bytes(&mut random, size))), ("state".to_owned(), Some(bytes(&mut random, 50)))];
        let batches =
            vec![("events".to_owned(), bytes(&mut random, 90)), ("host".to_owned(), bytes(&mut random, 300))];
        journal.apply(Change { values, batches }).unwrap();
        let next = Disk::read(&live);
        next.write(&copy("after"));
        let after = content(&copy("after"));
        if next.0[0] != disk.0[0] {
            checkpoints += 1;
        }
        let log = changed(&disk.0[1], &next.0[1]);
        let base = changed(&disk.0[0], &next.0[0]);
        let tries = if long() { 60 } else { 12 };
        for round in 0..tries {
            let cut = random.random_range(0..=log);
            let kind = [Sector::Old, Sector::Zero, Sector::Garbage][round % 3];
            let seed = random.random::<u64>();
            let cut_disk = if round % 2 == 0 || base == 0 {
                // In the middle of the log, with what comes after it not written, and the database as it was.
                let tail =
                    torn(&disk.0[1], &next.0[1], |number| if number < cut { Sector::New } else { kind });
                let shorter = tail.len() > disk.0[1].len() && round % 4 == 0;
                let length =
                    disk.0[1].len().max(tail.len().saturating_sub(SECTOR * random.random_range(0..9)));
                let tail = if shorter { tail[..length].to_vec() } else { tail };
                Disk([disk.0[0].clone(), tail])
            } else {
                // In the middle of a checkpoint: the log is durable, the database holds any of the sectors.
                let mut order = StdRng::seed_from_u64(seed);
                let some =
                    torn(&disk.0[0], &next.0[0], |_| if order.random() { Sector::New } else { Sector::Old });
                // A log that was begun anew has nothing left for such a database: then it was durable before.
                if next.0[1].get(..32) == disk.0[1].get(..32) {
                    Disk([some, next.0[1].clone()])
                } else {
                    next.clone()
                }
            };
            let at = copy("cut");
            cut_disk.write(&at);
            let found = content(&at);
            assert!(
                found == before || found == after,
                "step {step}, round {round}: neither before nor after"
            );
            // It goes on from there, too.
            let mut journal = SqliteJournal::open(&at.join(FILES[0]), 1 << 30).unwrap();
            let value = Some(b"again".to_vec());
            journal.apply(Change { values: vec![("state".to_owned(), value)], batches: Vec::new() }).unwrap();
            drop(journal);
            std::fs::remove_dir_all(&at).unwrap();
            cuts += 1;
        }
        (disk, before) = (next, after);
        if step % 7 == 6 {
            journal.acknowledge("host", step as u64 / 2).unwrap();
            disk = Disk::read(&live);
            disk.write(&copy("before"));
            before = content(&copy("before"));
        }
    }
    assert!(cuts >= 700 && checkpoints > 0, "{cuts} cuts, {checkpoints} checkpoints");
}

/// One thing a cut leaves behind.
type Damage = (&'static str, fn(&Path));

/// All of them, not one: which one a folder lists first differs from disk to disk.
fn all(folder: PathBuf, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path());
    let wanted = |path: &PathBuf| extension.is_empty() || path.extension().is_some_and(|e| e == extension);
    let found: Vec<_> = entries.filter(wanted).collect();
    assert!(!found.is_empty(), "nothing in {folder:?}");
    found
}

fn remove(path: PathBuf) {
    std::fs::remove_file(path).unwrap();
}

fn write(path: PathBuf, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

const DAMAGES: &[Damage] = &[
    ("temporary files of the identity, half written", |root| {
        for name in ["identity.json", "certificate.pem", "roots.pem", "key.pem"] {
            write(root.join(format!("state/identity/.{name}.new")), b"{\"tena");
        }
    }),
    ("the identity's last rename was lost", |root| remove(root.join("state/identity/identity.json"))),
    ("the end of the journal's log", |root| {
        let log = root.join("state/journal/journal.db-wal");
        let bytes = std::fs::read(&log).unwrap_or_default();
        write(log, &bytes[..bytes.len() / 2 / SECTOR * SECTOR]);
    }),
    ("the journal's log in whole, as no cut should", |root| {
        write(root.join("state/journal/journal.db-wal"), b"")
    }),
    ("an index of the log that fits nothing", |root| {
        write(root.join("state/journal/journal.db-shm"), &[0x5a; 32_768]);
    }),
    ("no status", |root| remove(root.join("state/status.json"))),
    ("current was not switched", |root| remove(root.join("apps/web/current"))),
    ("links that were not renamed", |root| {
        std::os::unix::fs::symlink("releases/none", root.join("apps/web/.current.new")).unwrap();
        std::os::unix::fs::symlink("releases/none", root.join("apps/web/.previous.new")).unwrap();
    }),
    ("releases whose manifests were not written", |root| {
        all(root.join("apps/web/manifests"), "json").into_iter().for_each(remove);
    }),
    ("manifests without their releases", |root| {
        for release in all(root.join("apps/web/releases"), "") {
            std::fs::remove_dir_all(release).unwrap();
        }
    }),
    ("manifests cut in half", |root| {
        for path in all(root.join("apps/web/manifests"), "json") {
            let bytes = std::fs::read(&path).unwrap();
            write(path, &bytes[..bytes.len() / 2]);
        }
    }),
    ("half a release in staging", |root| {
        let staging = root.join("apps/.runner/staging").join("ab".repeat(32));
        std::fs::create_dir_all(staging.join("bin")).unwrap();
        write(staging.join("bin/app"), b"#!/bin/sh\nexit 1\n");
    }),
    ("a set of keys that was not renamed", |root| write(root.join("apps/.runner/.trust.json.new"), b"{")),
    ("the supervisor's files", |root| {
        remove(root.join("apps/web/state/status.json"));
        remove(root.join("apps/web/state/spec.json"));
    }),
    ("the supervisor's files, half written", |root| {
        write(root.join("apps/web/state/.status.json.new"), b"{\"running\"");
        write(root.join("apps/web/state/.spec.json.new"), b"{\"app\"");
    }),
    ("a floor that was not renamed", |root| write(root.join("apps/web/state/.floor.new"), b"9")),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_whose_power_was_cut_comes_back_to_what_is_wanted() {
    let (mut device, mut release) = Device::with_release("1.0", Some("1.0")).await;
    let liar = std::sync::Arc::clone(&device.liar);
    for (number, (what, damage)) in DAMAGES.iter().enumerate() {
        eprintln!("{what}");
        // Cut in the middle of going to another release, every other time.
        if number % 2 == 1 {
            release = liar.signer.release(&format!("1.{number}"));
            device.may_run(&release);
            liar.publish(&release, Answer::ok(&release.artifact));
            device.desire(&release);
            crate::wait::seen("something of it", || {
                (liar.asked(&crate::liar::path(&release)) > 0).then_some(())
            })
            .await;
        }
        let channels = liar.book().channels;
        device.power_off().await;
        damage(&device.path().canonicalize().unwrap());
        device.power_on();
        device.connected(channels + 1).await;
        // As a control plane does for a device whose journal is gone.
        let first = liar.signer.set(liar.signer.tenant, 1, &liar.signer.key);
        liar.tell(crate::desired::sets(&[&first]));
        device.desire(&release);
        device.runs(&release).await;
        device.check(what);
    }
    // Downloads whose content is not what was written, under both of their names.
    for (version, name) in [("2.0", ""), ("2.1", ".part")] {
        release = liar.signer.release(version);
        device.may_run(&release);
        liar.publish(&release, Answer::ok(&release.artifact));
        let channels = liar.book().channels;
        device.power_off().await;
        let folder = device.path().join("state/downloads").join(release.manifest.hex());
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{}{name}", release.artifact_digest.hex()));
        std::fs::write(path, vec![0x5a; release.artifact.len()]).unwrap();
        device.power_on();
        device.connected(channels + 1).await;
        device.desire(&release);
        device.runs(&release).await;
        device.check(name);
    }
    // Its floor is what it was: nothing below is taken.
    let below = liar.signer.release("0.9");
    liar.publish(&below, Answer::ok(&below.artifact));
    let begun = farshore_agent::clock::wall();
    device.desire(&below);
    device.says("below the floor", &["BelowFloor"], begun).await;
    device.check("below the floor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_trust_or_floor_executes_nothing() {
    let (mut device, release) = Device::with_release("1.0", Some("1.0")).await;
    let started = device.recorded().iter().filter(|(_, arguments)| arguments == "run").count();
    device.power_off().await;
    // Not what a cut leaves, for both are written in whole and renamed; whatever did it, it fails closed.
    let floor = device.path().join("apps/web/state/floor");
    let good = std::fs::read(&floor).unwrap();
    std::fs::write(&floor, b"\0\0\0").unwrap();
    let channels = device.liar.book().channels;
    device.power_on();
    device.connected(channels + 1).await;
    device.desire(&release);
    crate::wait::seen("a failed start", || {
        let app = device.liar.app_status()?;
        (app.active_version == "1.0" && app.phase != "running" && !app.reasons.is_empty()).then_some(())
    })
    .await;
    device.answers("a damaged floor").await;
    let now = device.recorded().iter().filter(|(_, arguments)| arguments == "run").count();
    assert_eq!(now, started, "it was started without a readable floor");
    std::fs::write(&floor, good).unwrap();
    device.runs(&release).await;
    device.check("the floor is there again");
}
