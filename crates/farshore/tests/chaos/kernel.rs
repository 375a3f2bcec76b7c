//! What the kernel tells: that processes end, that segments are lost, that memory runs out; to whoever watches, and in the evidence of an incident. By
//! eBPF, and where that is forbidden, by what there is instead. Real processes, a real control plane, a real kernel.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use serde_json::Value;

use crate::fleet::Fleet;
use crate::incident;

/// The time that may pass between the end of a process and its line on somebody's screen.
const WITHIN: Duration = Duration::from_secs(1);

const QUICK: &str = "apiVersion: farshore.dev/v1
kind: Policy
metadata: {name: quick}
spec: {rules: {reporting: {sampleSeconds: 1, batchSeconds: 1}}}
";

/// One device that runs version 1.0, with a kernel that tells of ends by `expected`; nothing without root.
async fn on_a_device(ebpf: bool, expected: &str) -> Option<(Fleet, Value)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("WITHOUT ROOT NEITHER EBPF NOR THE PROCESS CONNECTOR IS TO BE HAD: NOTHING IS TESTED");
        return None;
    }
    let mut fleet = Fleet::seeing(1, ebpf).await;
    fleet.release("1.0", true).await;
    fleet.roll_out("1.0").await;
    fleet.settled("1.0", "succeeded").await;
    // What apps use is told with every fifth batch.
    let quick = fleet.root().join("quick.yaml");
    std::fs::write(&quick, QUICK).unwrap();
    fleet.line(&format!("apply -f {}", quick.display()));
    let device = |fleet: &Fleet| -> Option<Value> {
        let list: Value = serde_json::from_str(&fleet.farshore(&["get", "devices", "-o", "json"])?).ok()?;
        list["items"].as_array()?.first().cloned()
    };
    let shown = fleet
        .until("who tells of exits", || {
            device(&fleet).filter(|device| device["status"]["senses"]["process_exit"]["by"] == expected)
        })
        .await;
    Some((fleet, shown))
}

async fn an_exit_is_seen(ebpf: bool, expected: &str) {
    let Some((fleet, shown)) = on_a_device(ebpf, expected).await else { return };
    let senses = &shown["status"]["senses"];
    for signal in ["oom_kill", "tcp_retransmit", "io_latency"] {
        let by = senses[signal]["by"].as_str().unwrap();
        assert!(by == if ebpf { "ebpf" } else { "proc" }, "{signal}: {senses}");
    }
    if !ebpf {
        let reason = senses["process_exit"]["reason"].as_str().unwrap();
        assert!(reason.contains("forbidden by the runner's configuration"), "{reason}");
    }
    assert_eq!(senses["exec"]["by"], "none");
    let name = shown["metadata"]["name"].as_str().unwrap().to_owned();

    let mut watch = fleet.start_line(&format!("events device/{name} --watch --type process_exit"));
    let output = BufReader::new(watch.stdout.take().unwrap());
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if tell.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });
    // The stream is open once a first exit has come through, however long that takes.
    let mut fastest = Duration::MAX;
    let mut ends = Vec::new();
    for round in 0..4 {
        let pid = fleet
            .until("the app's process", || {
                fleet.watcher.apps().into_values().flatten().next().map(|one| one.0)
            })
            .await;
        let killed = Instant::now();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        ends.push(pid);
        let wanted = format!("pid {pid})");
        let seen = loop {
            let (at, line) =
                lines.recv_timeout(Duration::from_secs(60)).expect("the exit on the event stream");
            if line.contains(&wanted) {
                assert!(line.contains("was killed by SIGKILL"), "{line}");
                break at;
            }
        };
        let took = seen.saturating_duration_since(killed);
        eprintln!("round {round}: seen after {took:?}");
        if round > 0 {
            fastest = fastest.min(took);
        }
        fleet
            .until("the app's next process", || {
                fleet.watcher.apps().into_values().flatten().find(|one| one.0 != pid).map(drop)
            })
            .await;
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
    // The machine may be busy with other tests: one of three has to be in time.
    assert!(fastest < WITHIN, "the fastest took {fastest:?}");

    let listed = fleet.line(&format!("events device/{name} --type process_exit -o json"));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let events = listed["items"].as_array().unwrap();
    // The kernel tells of the whole machine: what other processes on it do is told as well.
    for pid in ends {
        let of_pid: Vec<_> = events.iter().filter(|event| event["payload"]["pid"] == pid).collect();
        let [event] = of_pid[..] else { panic!("{pid} is told once: {listed}") };
        assert_eq!(event["payload"]["source"], expected, "{event}");
        assert_eq!(
            (&event["payload"]["app"], &event["payload"]["signal"]),
            (&"web".into(), &"SIGKILL".into())
        );
        assert_eq!(event["payload"]["main"], true);
    }
    let usage = fleet
        .until("what the app uses", || {
            let shown = fleet.farshore(&["get", &format!("device/{name}"), "-o", "json"])?;
            let usage = serde_json::from_str::<Value>(&shown).ok()?["status"]["apps"][0]["usage"].clone();
            usage["values"]["cpu"].is_number().then_some(usage)
        })
        .await;
    assert!(usage["values"]["mem_used"].as_f64().unwrap() > 100_000.0, "{usage}");
    assert!(usage["values"]["processes"].as_f64().unwrap() >= 1.0, "{usage}");
    fleet.check();
}

/// Somebody who lets nobody in: what is sent there is lost, and sent again after a second.
struct Deaf {
    address: SocketAddr,
    _listener: OwnedFd,
    /// Has the one place that there is.
    _first: TcpStream,
}

impl Deaf {
    fn new() -> Self {
        let listener = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(rustix::net::getsockname(&listener).unwrap()).unwrap();
        let first = TcpStream::connect(address).unwrap();
        Self { address, _listener: listener, _first: first }
    }

    /// So many at once that they are told also where others use up what is told one by one.
    fn knock(&self) {
        std::thread::scope(|scope| {
            for _ in 0..24 {
                scope.spawn(|| {
                    let knock = TcpStream::connect_timeout(&self.address, Duration::from_millis(2_500));
                    assert!(knock.is_err(), "it was let in");
                });
            }
        });
    }
}

/// A control group of 32 MiB.
struct Tight(PathBuf);

impl Tight {
    fn new() -> Option<Self> {
        let first = Path::new("/sys/fs/cgroup/memory");
        let (base, limit, swap) = if first.is_dir() {
            (first, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max", "memory.swap.max")
        };
        let folder = base.join(format!("farshore-test-oom-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        if !group.0.join(limit).exists() {
            return None;
        }
        std::fs::write(group.0.join(limit), "33554432").unwrap();
        if group.0.join(swap).exists() {
            let most = if swap == "memory.swap.max" { "0" } else { "33554432" };
            std::fs::write(group.0.join(swap), most).unwrap();
        }
        Some(group)
    }

    /// A process in it that wants more than there is; its number.
    fn overfill(&self) -> u32 {
        let script = "echo $$ >\"$0/cgroup.procs\" && exec tail /dev/zero";
        let mut child = Command::new("sh").args(["-c", script]).arg(&self.0).spawn().unwrap();
        let (pid, ended) = (child.id(), child.wait().unwrap());
        assert_eq!(ended.signal(), Some(9), "the kernel did not kill it");
        pid
    }
}

impl Drop for Tight {
    fn drop(&mut self) {
        // Its last process has just ended.
        drop(std::fs::remove_dir(&self.0));
    }
}

/// A segment that is lost, and a process that the kernel kills for want of memory: both provoked, both told, with who has seen them.
async fn loss_and_want_are_told(ebpf: bool, expected: &str) {
    let Some((fleet, shown)) = on_a_device(ebpf, expected).await else { return };
    let device = shown["metadata"]["name"].as_str().unwrap();
    let source = if ebpf { "ebpf" } else { "proc" };
    let began = farshore_agent::clock::wall().0;
    let told = |kind: &str, wanted: &dyn Fn(&Value) -> bool| -> Option<Value> {
        let listed =
            fleet.farshore(&["events", &format!("device/{device}"), "--type", kind, "-o", "json"])?;
        let listed: Value = serde_json::from_str(&listed).ok()?;
        let mut events = listed["items"].as_array()?.iter();
        // What is counted is stamped with the moment of the count.
        events.find(|event| event["at"].as_i64() >= Some(began) && wanted(&event["payload"])).cloned()
    };
    let deaf = Deaf::new();
    let again = fleet
        .until("segments sent again", || {
            deaf.knock();
            told("tcp_retransmit", &|payload| !ebpf || payload["peer"] == deaf.address.to_string())
        })
        .await;
    assert_eq!(again["payload"]["source"], source, "{again}");
    assert_eq!(again["payload"]["peer"].is_string(), ebpf, "a number has no peer: {again}");

    let Some(tight) = Tight::new() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "where everything is tested a group of little memory can be made"
        );
        eprintln!("NO GROUP OF LITTLE MEMORY CAN BE MADE HERE: NOBODY IS KILLED FOR WANT OF IT");
        return;
    };
    let pid = tight.overfill();
    let killed =
        fleet.until("who was killed", || told("oom_kill", &|payload| !ebpf || payload["pid"] == pid)).await;
    assert_eq!(killed["payload"]["source"], source, "{killed}");
    if ebpf {
        assert_eq!(killed["payload"]["comm"], "tail", "{killed}");
    } else {
        assert!(killed["payload"]["pid"].is_null(), "a number has no process: {killed}");
    }
    fleet.check();
}

/// A bad release loses segments and ends, again and again: it is restarted, then gone back from, and its evidence has what the kernel told.
async fn an_incident_holds_what_the_kernel_told(ebpf: bool, exits: &str) {
    let Some((mut fleet, _)) = on_a_device(ebpf, exits).await else { return };
    let deaf = Deaf::new();
    fleet.bad = vec!["lose".to_owned(), deaf.address.to_string()];
    fleet.release("1.1", false).await;
    fleet.roll_out("1.1").await;
    fleet.settled("1.0", "failed").await;
    let incident = incident::gone_back(&fleet).await;
    let name = incident["metadata"]["name"].as_str().unwrap();

    let segments = if ebpf { "ebpf" } else { "proc" };
    let mut tries = 0;
    let (ends, lost, metrics) = fleet
        .until("evidence of both", || {
            tries += 1;
            let file = format!("evidence-{tries}.tar.gz");
            fleet.farshore(&["incident", "evidence", name, "--file", &file])?;
            let files = incident::unpack(&fleet.root().join(file));
            let events: Value = serde_json::from_str(&files["kernel-events.json"]).unwrap();
            let of = |kind: &str| -> Vec<Value> {
                let events = events.as_array().unwrap().iter().filter(|event| event["type"] == kind);
                // As it was kept, or as the black box remembers it.
                events
                    .map(|e| if e["payload"].is_object() { &e["payload"] } else { &e["detail"] })
                    .cloned()
                    .collect()
            };
            let ends: Vec<_> = of("process_exit")
                .into_iter()
                .filter(|end| end["main"] == true && end["code"] == 3)
                .collect();
            let lost: Vec<_> = of("tcp_retransmit")
                .into_iter()
                .filter(|lost| !ebpf || lost["peer"] == deaf.address.to_string())
                .collect();
            (ends.len() >= 2 && !lost.is_empty()).then(|| (ends, lost, files["metrics.csv"].clone()))
        })
        .await;
    assert!(ends.iter().all(|end| end["source"] == exits), "{ends:?}");
    assert!(lost.iter().all(|lost| lost["source"] == segments), "{lost:?}");
    let mut rows = metrics.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let at = rows.next().unwrap().iter().position(|name| *name == "net_retx").expect("its column");
    let rose = rows.any(|row| row[at].parse::<f64>().is_ok_and(|rate| rate > 0.0));
    assert!(rose, "the rate of segments sent again: {metrics}");
    fleet.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apps_exit_is_on_the_event_stream_within_a_second_by_ebpf() {
    an_exit_is_seen(true, "ebpf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ebpf_forbidden_the_process_connector_tells_the_same() {
    an_exit_is_seen(false, "netlink").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_segments_and_the_want_of_memory_are_told_by_ebpf() {
    loss_and_want_are_told(true, "ebpf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ebpf_forbidden_lost_segments_and_the_want_of_memory_are_counted_and_told() {
    loss_and_want_are_told(false, "netlink").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_evidence_of_an_incident_holds_what_ebpf_told_of_it() {
    an_incident_holds_what_the_kernel_told(true, "ebpf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ebpf_forbidden_the_evidence_of_an_incident_holds_the_same_from_elsewhere() {
    an_incident_holds_what_the_kernel_told(false, "netlink").await;
}
