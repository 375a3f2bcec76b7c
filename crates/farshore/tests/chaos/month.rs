//! Thirty days without a control plane, in a minute: the device's processes are the real ones, their clocks run faster (`FARSHORE_CLOCK_HURRY`, which only
//! a development build knows). Whatever has a rhythm keeps it: measurements, batches, lists, checks, retention; what takes time takes as long as ever.
//!
//! The control plane comes back a month later by its own clock, too, which libfaketime moves: certificates have run out on both sides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farshore_agent::{EVENTS, Journal as _, SqliteJournal};
use farshore_protocol::EventBatch;
use prost::Message as _;
use serde_json::Value;

use crate::fleet::{Fleet, Victim};

const DAYS: i64 = 30;
const DAY_MS: i64 = 24 * 3_600 * 1_000;
/// The month takes so long.
const TAKES_MS: i64 = 60_000;
const LOOKS: i64 = 10;
/// What a process may grow by between the first days and the last.
const GROWTH: u64 = 3 * 1024 * 1024;

const POLICY: &str = "apiVersion: farshore.dev/v1
kind: Policy
metadata: {name: month}
spec: {rules: {reporting: {sampleSeconds: 300, batchSeconds: 3600}, retention: {unsentBytes: 131072}}}
";

fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    folders.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

fn since_boot_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// What a folder takes on the disk.
fn taken(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => taken(&entry.path()),
            Ok(found) => found.blocks() * 512,
            // Gone meanwhile.
            Err(_) => 0,
        })
        .sum()
}

fn status(fleet: &Fleet) -> Option<Value> {
    let path = fleet.root().join("device-0/state/status.json");
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// What waits in the device's journal: events by uid with their kind, batches by stream, and what was dropped of each stream.
fn owed(fleet: &Fleet) -> (BTreeMap<String, String>, BTreeMap<String, usize>, BTreeMap<String, u64>) {
    let journal =
        SqliteJournal::open(&fleet.root().join("device-0/state/journal/journal.db"), u64::MAX).unwrap();
    let mut events = BTreeMap::new();
    for batch in journal.pending(EVENTS, 0, usize::MAX >> 1).unwrap() {
        for event in EventBatch::decode(batch.bytes.as_slice()).unwrap().events {
            events.insert(event.uid, event.kind);
        }
    }
    let streams = journal.streams().unwrap();
    let waiting = streams.into_keys().map(|stream| {
        let count = journal.pending(&stream, 0, usize::MAX >> 1).unwrap().len();
        (stream, count)
    });
    (events, waiting.collect(), journal.dropped().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_thirty_days_without_a_control_plane_apps_are_well_and_what_is_owed_arrives_once() {
    let root = rustix::process::geteuid().is_root();
    let Some(library) = faketime().filter(|_| root) else {
        eprintln!("this needs root and libfaketime (apt-get install faketime); nothing is tested");
        return;
    };
    let mut fleet = Fleet::start(1).await;
    fleet.check_seconds = 3_600;
    fleet.release("1.0", true).await;
    fleet.roll_out("1.0").await;
    fleet.settled("1.0", "succeeded").await;
    let before = status(&fleet).and_then(|status| status["generation"].as_u64()).unwrap();
    std::fs::write(fleet.root().join("month.yaml"), POLICY).unwrap();
    fleet.line("apply -f month.yaml");
    fleet
        .until("the policy on the device", || {
            (status(&fleet)?["generation"].as_u64()? > before).then_some(())
        })
        .await;

    // The control plane goes away, the device boots, and a month goes by.
    fleet.kill_control();
    let (from, factor) = (since_boot_ms() + 3_000, DAYS * DAY_MS / TAKES_MS);
    fleet.device_env.push(("FARSHORE_CLOCK_HURRY".to_owned(), format!("{from}:{factor}:{}", DAYS * DAY_MS)));
    fleet.power_cycle(0);
    let begin = Instant::now();
    let folder = fleet.root().join("device-0");
    let running = |fleet: &Fleet| fleet.watcher.apps().into_values().flatten().next().map(|app| app.0);
    let mut looks = Vec::new();
    for look in 1..=LOOKS {
        let at = Duration::from_millis((3_000 + look * TAKES_MS / LOOKS).unsigned_abs());
        // Time itself is what passes here.
        tokio::time::sleep_until((begin + at).into()).await;
        if look == 2 {
            fleet.crash(Victim::Run(0)).await;
            fleet.crash(Victim::Runner(0)).await;
        }
        let pid = fleet.until("the app, alone", || running(&fleet)).await;
        looks.push((resident(fleet.pid(0, false)), resident(fleet.pid(0, true)), taken(&folder)));
        let killed = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
        fleet.until("the app healed, alone", || running(&fleet).filter(|next| *next != pid)).await;
    }
    eprintln!("resident bytes of run and runner, bytes on disk: {looks:?}");
    let [early, late] = [&looks[3], &looks[looks.len() - 1]];
    assert!(late.0 < early.0 + GROWTH && late.1 < early.1 + GROWTH, "memory grew: {looks:?}");
    assert!(late.2 < early.2 + 4 * 1024 * 1024 && late.2 < 32 * 1024 * 1024, "the disk fills up: {looks:?}");
    let told = fleet.until("a month on the device's clock, and the app well", || {
        let told = status(&fleet)?;
        let written = told["writtenAt"].as_i64()?;
        let now = std::fs::metadata(folder.join("boot_id")).ok()?.modified().ok()?;
        let booted = now.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
        let over = written > i64::try_from(booted).ok()? + (DAYS - 1) * DAY_MS;
        (over && told["apps"][0]["health"] == "healthy").then_some(told)
    });
    let told = told.await;
    assert_eq!(told["connected"], false, "{told}");

    // What is owed, read from the disk of a device that has just crashed.
    fleet.kill_run(0);
    let (events, waiting, dropped) = owed(&fleet);
    eprintln!("{} events wait; batches: {waiting:?}, dropped: {dropped:?}", events.len());
    assert!(
        dropped["host"] > 0 && waiting["host"] > 0,
        "a month is more than may wait: {dropped:?} {waiting:?}"
    );
    assert_eq!(dropped.get(EVENTS), None);
    let of = |kind: &str| events.values().filter(|one| *one == kind).count();
    assert!(of("app.exited") + of("process_exit") >= 10, "{events:?}");
    fleet.start_run(0);

    // A month later the control plane is there again.
    for (name, value) in [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", format!("+{DAYS}d")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ] {
        fleet.plane_env.push((name.to_owned(), value));
    }
    let returned = Instant::now();
    fleet.start_control();
    let log = std::fs::read_to_string(fleet.root().join("serve.log")).unwrap();
    let said =
        |word: &str| log.lines().find_map(|line| Some(line.split_once(word)?.1.trim().to_owned())).unwrap();
    let (url, fingerprint) = (said("API and page:"), said("CA fingerprint:"));
    let login = [
        "login",
        &url,
        "--email",
        "admin@farshore.local",
        "--ca-fingerprint",
        &fingerprint,
        "--password-stdin",
    ];
    fleet.until("the login", || fleet.farshore(&login)).await;
    let name = fleet
        .until("the device online, its app well", || {
            let list: Value =
                serde_json::from_str(&fleet.farshore(&["get", "devices", "-o", "json"])?).ok()?;
            let device = &list["items"][0];
            let well =
                device["status"]["reachability"] == "online" && device["status"]["health"] == "healthy";
            well.then(|| device["metadata"]["name"].as_str().map(str::to_owned))?
        })
        .await;
    eprintln!("online again {:?} after the control plane's return", returned.elapsed());
    // Everything was told, each thing once.
    fleet
        .until("all events of the month", || {
            let line = ["events", &format!("device/{name}"), "--limit", "100000", "-o", "json"];
            let list: Value = serde_json::from_str(&fleet.farshore(&line)?).ok()?;
            let mut told: BTreeMap<String, usize> = BTreeMap::new();
            for event in list["items"].as_array()? {
                *told.entry(event["uid"].as_str()?.to_owned()).or_default() += 1;
            }
            assert!(told.values().all(|count| *count == 1), "told twice");
            events.keys().all(|uid| told.contains_key(uid)).then_some(())
        })
        .await;
    fleet
        .until("an empty journal", || {
            let (_, waiting, now_dropped) = owed(&fleet);
            // What the first minutes after the restart measure may still push out the oldest measurements; nothing else goes.
            assert!(now_dropped.keys().eq(["host"]), "{now_dropped:?}");
            assert!(now_dropped["host"] <= dropped["host"] + 4, "{now_dropped:?}");
            waiting.values().all(|count| *count <= 1).then_some(())
        })
        .await;
    // Whoever looks sees what it was, in the device's own words.
    fleet
        .until("that it is online, and why it was not", || {
            let described = fleet.farshore(&["describe", &format!("device/{name}")])?;
            let whole =
                described.contains("Connectivity:  online") && described.contains(" control-plane for ");
            whole.then(|| assert!(described.contains("Isolation of web: none\n"), "{described}"))
        })
        .await;
    fleet.check();
}
