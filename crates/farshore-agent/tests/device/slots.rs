//! Blue and green with real processes: a service that listens, somebody who asks it all the time by way of what the switch hook has written
//! down, and whoever pulls the plug.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use farshore_agent::Status;
use farshore_agent::runner::{ClientError, Reply, Request};
use farshore_domain::id::ReleaseId;
use farshore_domain::name::Name;
use farshore_domain::policy::Bounds;
use farshore_domain::reconcile::Observed;

use crate::line::Device;
use crate::plane::Mood;
use crate::release::{Release, tar_bytes};
use crate::wait::{seen, until};

/// Writes down where the traffic is to go, as the configuration of a proxy would be written.
const SWITCH: &str =
    "#!/bin/sh\necho \"$PORT\" >\"$HOME/route.new\" && mv \"$HOME/route.new\" \"$HOME/route\"\n";

fn service() -> &'static [u8] {
    static COMPILED: OnceLock<Vec<u8>> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("web.rs"), folder.path().join("web"));
        std::fs::write(&source, include_str!("web.rs")).unwrap();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let options = ["--edition=2024", "-Cpanic=abort", "-Cstrip=symbols", "-o"];
        let done = Command::new(rustc).args(options).args([&target, &source]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(target).unwrap()
    })
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A device whose app has two ports.
struct Till {
    device: Device,
    ports: [u16; 2],
}

impl Till {
    async fn new() -> Self {
        let till = Self { device: Device::new().await, ports: [free_port(), free_port()] };
        let first = till.release("1.0", "good", |_| {});
        till.device.plane.desire(1, &first, &[]);
        till.device.committed(&first).await;
        till
    }

    fn release(&self, version: &str, nature: &str, change: impl FnOnce(&mut serde_json::Value)) -> Release {
        let files = [
            ("bin/web", 0o755, service()),
            ("bin/switch", 0o755, SWITCH.as_bytes()),
            ("version", 0o644, version.as_bytes()),
        ];
        let plane = &self.device.plane;
        let release = plane.signer.release_of(version, tar_bytes(&files), |manifest| {
            manifest["run"]["command"] = serde_json::json!(["bin/web", nature]);
            manifest["run"]["slots"] = serde_json::json!({
                "blue": self.ports[0], "green": self.ports[1], "switch": ["bin/switch"],
            });
            manifest["health"] = serde_json::json!([{
                "name": "web", "intervalSeconds": 1, "failureThreshold": 2,
                "probe": {"type": "http", "port": "$PORT", "path": "/healthz"},
            }]);
            manifest["soakSeconds"] = 4.into();
            change(manifest);
        });
        plane.publish(&release, Mood::Honest);
        release
    }

    fn root(&self) -> PathBuf {
        self.device.bed.folder.path().join("apps/web")
    }

    fn route(&self) -> PathBuf {
        self.root().join("data/route")
    }

    /// The processes of the app, by the slot they were started in.
    fn instances(&self) -> Vec<(String, i32)> {
        let slot = |pid: i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            // The hook comes and goes.
            if !String::from_utf8_lossy(&command).contains("bin/web") {
                return None;
            }
            let environ = String::from_utf8_lossy(&environ).into_owned();
            let slot = environ.split('\0').find_map(|pair| pair.strip_prefix("FARSHORE_SLOT="))?;
            Some((slot.to_owned(), pid))
        };
        self.device.bed.app_pids().into_iter().filter_map(slot).collect()
    }

    /// One process, and it is this one's.
    fn only(&self) -> Option<(String, i32)> {
        let instances = self.instances();
        (instances.len() == 1).then(|| instances[0].clone())
    }

    async fn observed(&self) -> Observed {
        match self.device.bed.client.ask(&Request::List {}).await.unwrap() {
            Reply::Apps { mut apps } => apps.remove(&Name::new("web").unwrap()).unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }

    /// What is in force says the same everywhere: the link, the file, the hook's route, and who answers there.
    async fn agrees(&self, release: &Release) {
        let current = std::fs::read_link(self.root().join("current")).unwrap();
        assert_eq!(current, Path::new("releases").join(release.manifest.hex()));
        // The record of the other slot goes a moment after its process.
        let observed = until("one slot in use", || async {
            let observed = self.observed().await;
            (!observed.switching && observed.beside.is_none()).then_some(observed)
        })
        .await;
        let running = observed.running.unwrap();
        let slot = running.slot.unwrap();
        let port = self.ports[usize::from(slot.as_str() == "green")];
        let env = std::fs::read_to_string(self.root().join("current.env")).unwrap();
        let version = &release.version;
        assert_eq!(env, format!("FARSHORE_SLOT={slot}\nPORT={port}\nFARSHORE_VERSION={version}\n"));
        assert_eq!(std::fs::read_to_string(self.route()).unwrap(), format!("{port}\n"));
        assert_eq!(ask(port).unwrap(), format!("{version} {slot}"));
    }
}

fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").filter(|_| answer.starts_with("HTTP/1.1 200"));
    body.map(|(_, body)| body.to_owned()).ok_or_else(|| std::io::Error::other(answer))
}

/// What was answered, what was not, and how often it was asked.
type Heard = (Vec<String>, Vec<String>, u64);

/// Somebody who asks the service all the time, as whoever reads the route would.
struct Visitor {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Heard>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Visitor {
    fn begin(route: PathBuf) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let (until, to): (_, Arc<Mutex<Heard>>) = (Arc::clone(&stop), Arc::clone(&seen));
        let visit = move || {
            while !until.load(Ordering::Relaxed) {
                let port = std::fs::read_to_string(&route).unwrap().trim().parse().unwrap();
                let answered = ask(port);
                let mut seen = to.lock().unwrap();
                seen.2 += 1;
                match answered {
                    Ok(body) if seen.0.last() == Some(&body) => {}
                    Ok(body) => seen.0.push(body),
                    Err(error) => seen.1.push(format!("port {port}: {error}")),
                }
                drop(seen);
                std::thread::park_timeout(Duration::from_millis(3));
            }
        };
        Self { stop, seen, thread: Some(std::thread::spawn(visit)) }
    }

    /// What was answered, one after the other; nothing was not answered.
    fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let seen = self.seen.lock().unwrap();
        assert!(seen.2 > 100, "it asked only {} times", seen.2);
        assert!(seen.1.is_empty(), "of {} requests these were not answered: {:?}", seen.2, seen.1);
        seen.0.clone()
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_good_release_takes_the_traffic_over_without_a_request_that_is_not_answered() {
    let till = Till::new().await;
    let old = till.only().unwrap();
    let visitor = Visitor::begin(till.route());
    let next = till.release("1.1", "good", |_| {});
    till.device.plane.desire(2, &next, &[]);
    seen("both of them", || (till.instances().len() == 2).then_some(())).await;
    let soaking = seen("the soak", || {
        till.device.plane.app_status().filter(|app| app.phase == "soaking" && app.active_version == "1.1")
    })
    .await;
    assert!(soaking.reasons[0].message.contains("1.0 is kept running"), "{soaking:?}");
    assert!(till.instances().contains(&old), "the old one is kept for the soak");
    till.device.committed(&next).await;
    let left = seen("the end of the old one", || till.only().filter(|left| *left != old)).await;
    assert_eq!((old.0.as_str(), left.0.as_str()), ("blue", "green"));
    till.device.event("release.switched").await;
    assert_eq!(visitor.end(), ["1.0 blue", "1.1 green"]);
    till.agrees(&next).await;

    // And back into the first slot with the one after it.
    let visitor = Visitor::begin(till.route());
    let third = till.release("1.2", "good", |_| {});
    till.device.plane.desire(3, &third, &[]);
    till.device.committed(&third).await;
    seen("the end of the second one", || till.only().filter(|(slot, _)| slot == "blue")).await;
    assert_eq!(visitor.end(), ["1.1 green", "1.2 blue"]);
    till.agrees(&third).await;
}

#[tokio::test]
async fn one_that_never_gets_healthy_is_never_asked_and_the_old_one_is_not_touched() {
    let till = Till::new().await;
    let old = till.only().unwrap();
    let visitor = Visitor::begin(till.route());
    let bad = till.release("1.1", "bad", |manifest| manifest["startTimeoutSeconds"] = 3.into());
    till.device.plane.desire(2, &bad, &[]);
    seen("both of them", || (till.instances().len() == 2).then_some(())).await;
    let held =
        seen("the end of the trial", || till.device.plane.app_status().filter(|app| app.phase == "held"))
            .await;
    assert_eq!((held.active_version.as_str(), held.committed), ("1.0", true));
    seen("only the old one", || till.only().filter(|left| *left == old)).await;
    assert_eq!(visitor.end(), ["1.0 blue"]);
    let first = till.release("1.0", "good", |_| {});
    till.agrees(&first).await;
}

#[tokio::test]
async fn one_that_fails_in_its_soak_gives_the_traffic_back_at_once_also_without_a_network() {
    let till = Till::new().await;
    let old = till.only().unwrap();
    let visitor = Visitor::begin(till.route());
    let sick = till.release("1.1", "sick", |manifest| manifest["soakSeconds"] = 60.into());
    till.device.plane.desire(2, &sick, &[]);
    seen("it staged", || till.device.plane.app_status().filter(|app| app.active_version == "1.1")).await;
    // From here on it is alone.
    till.device.plane.book().shed = usize::MAX;
    till.device
        .plane
        .book()
        .outbox
        .as_ref()
        .unwrap()
        .send(tokio_tungstenite::tungstenite::Message::Close(None))
        .unwrap();
    seen("the loss of the channel", || {
        Status::read(&till.device.state()).ok().filter(|status| !status.connected)
    })
    .await;
    seen("the way back", || {
        let status = Status::read(&till.device.state()).ok()?;
        (status.conformance == "held").then_some(())
    })
    .await;
    seen("only the old one", || till.only().filter(|left| *left == old)).await;
    assert_eq!(visitor.end(), ["1.0 blue", "1.1 green", "1.0 blue"]);
    let first = till.release("1.0", "good", |_| {});
    till.agrees(&first).await;
}

#[tokio::test]
async fn a_rollout_may_ask_for_the_old_way() {
    let till = Till::new().await;
    let old = till.only().unwrap();
    let next = till.release("1.1", "good", |_| {});
    let mut state = till.device.plane.state(2, &next, &[]);
    state["apps"][0]["activation"] = "replace".into();
    let signed = till.device.plane.sign(&state, &[&next]);
    till.device.plane.tell(farshore_protocol::server_frame::Body::Desired(signed));
    seen("the next one", || {
        let instances = till.instances();
        assert!(instances.len() < 2, "they were to be one after the other");
        instances.into_iter().find(|one| *one != old)
    })
    .await;
    till.device.committed(&next).await;
    till.agrees(&next).await;
}

#[tokio::test]
async fn the_runner_lets_nobody_run_twice_who_has_no_slots_and_nothing_beside_nothing() {
    let till = Till::new().await;
    let bed = &till.device.bed;
    let web = Name::new("web").unwrap();
    let start = |release: &Release, instance: u64, beside: bool| Request::Start {
        app: web.clone(),
        manifest: release.manifest,
        release: ReleaseId(uuid::Uuid::from_u128(1)),
        instance,
        config: std::collections::BTreeMap::new(),
        bounds: Bounds::default(),
        beside,
    };
    let refused = |result: Result<(), ClientError>, expect: &str| match result {
        Err(ClientError::Failed { code, message, .. }) => assert_eq!(code, expect, "{message}"),
        other => panic!("expected {expect}, got {other:?}"),
    };
    let first = till.release("1.0", "good", |_| {});
    // The same release once more, in the slot that is taken.
    refused(bed.client.done(&start(&first, 90, false)).await, "Doubled");
    let plain = till.device.release("2.0", crate::line::FIT, |_| {});
    till.device.bed.stage(&plain).await.unwrap();
    refused(bed.client.done(&start(&plain, 91, true)).await, "NoSlots");
    refused(bed.client.done(&start(&plain, 91, false)).await, "Doubled");
    refused(bed.client.done(&Request::Switch { app: web.clone(), instance: 99 }).await, "NotRunning");
    assert_eq!(till.instances().len(), 1);
}

/// SplitMix64: the same seed, the same cuts.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Never two in a slot, and never more than two.
fn check(till: &Till) {
    let instances = till.instances();
    let slots: BTreeSet<_> = instances.iter().map(|(slot, _)| slot).collect();
    assert_eq!(slots.len(), instances.len(), "two in one slot: {instances:?}");
}

#[tokio::test]
async fn whatever_is_killed_at_whatever_moment_one_slot_is_current_in_the_end_and_nothing_is_left() {
    let mut till = Till::new().await;
    let mut random = Random(20);
    let points =
        std::env::var("FARSHORE_KILL_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_u64);
    let (mut generation, mut version) = (2, 1);
    let mut release = till.release("1.1", "good", |manifest| manifest["soakSeconds"] = 1.into());
    till.device.plane.desire(generation, &release, &[]);
    for point in 0..points {
        // Somewhere in staging, starting, proving, switching, soaking or stopping.
        let end = std::time::Instant::now() + Duration::from_millis(random.below(2_500));
        while std::time::Instant::now() < end {
            check(&till);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let what = random.below(4);
        eprintln!(
            "{point}: {}",
            ["run", "the runner", "supervisors", "power"][usize::try_from(what).unwrap()]
        );
        let channels = till.device.plane.book().channels;
        match what {
            0 => {
                till.device.kill_run();
                till.device.start_run();
                till.device.connected(channels + 1).await;
            }
            1 => {
                till.device.bed.kill_runner();
                till.device.bed.start_runner().await;
            }
            2 => kill_supervisors(&till, random.below(3)),
            _ => {
                till.device.kill_run();
                till.device.bed.kill_runner();
                kill_supervisors(&till, 2);
                for (_, pid) in till.instances() {
                    kill(pid);
                }
                seen("nothing of the app", || till.device.bed.app_pids().is_empty().then_some(())).await;
                till.device.bed.start_runner().await;
                till.device.start_run();
                till.device.connected(channels + 1).await;
            }
        }
        check(&till);
        generation += 1;
        if random.below(2) == 0 {
            version += 1;
            release =
                till.release(&format!("1.{version}"), "good", |manifest| manifest["soakSeconds"] = 1.into());
        }
        // What a control plane does after each hello.
        till.device.plane.desire(generation, &release, &[]);
    }
    till.device.committed(&release).await;
    until("one of it", || async {
        check(&till);
        let observed = till.observed().await;
        (till.only().is_some() && observed.beside.is_none() && !observed.switching).then_some(())
    })
    .await;
    till.agrees(&release).await;
    assert_eq!(till.device.bed.app_pids().len(), 1, "nor anything else of it");
}

fn kill(pid: i32) {
    // Gone already is as good.
    drop(Command::new("kill").args(["-9", &pid.to_string()]).status());
}

/// Of the first slot, of the second, or both; their apps are left alone.
fn kill_supervisors(till: &Till, which: u64) {
    let locks = ["state/shim.lock", "state/green/shim.lock"].map(|lock| till.root().join(lock));
    for (number, lock) in locks.iter().enumerate() {
        if which == 2 || which == number as u64 {
            crate::runner::holders(lock).into_iter().for_each(kill);
        }
    }
}
