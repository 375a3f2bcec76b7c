//! The programs in this machine's kernel, and the process connector: real processes end, and are told of. Both need root; without it
//! there is nothing to test, and the tests say so.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use farshore_collect::kernel::{Connector, Ended, Event, Eyes, Kind, Wants, hand_over, load, receive};
use rustix::event::{PollFd, PollFlags, poll};

/// The loader finds its links among all of its process's, so two may not load in one process at once.
static LOADING: Mutex<()> = Mutex::new(());

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("{test} needs root and tests nothing");
    }
    root
}

/// Waits until the descriptor is readable.
fn wait(fd: &impl AsFd, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    assert!(!left.is_zero(), "nothing more came in time");
    let timeout = rustix::event::Timespec {
        tv_sec: left.as_secs().try_into().unwrap(),
        tv_nsec: left.subsec_nanos().into(),
    };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap();
}

fn eyes(wants: Wants) -> Eyes {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    hand_over(&theirs, load(wants)).unwrap();
    let (maps, links, report) = receive(&ours).expect("this machine's kernel takes the programs");
    for (signal, attached) in &report {
        assert_eq!(attached, &Ok(()), "{signal}");
    }
    assert_eq!(report.len(), if wants.exec { 6 } else { 4 });
    Eyes::new(maps, links).unwrap()
}

fn find(eyes: &mut Eyes, wanted: impl Fn(&Event) -> bool) -> Event {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        while let Some(event) = eyes.take() {
            if wanted(&event) {
                return event;
            }
        }
        wait(eyes, until);
    }
}

fn run(script: &str) -> i32 {
    let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
    let pid = child.id().try_into().unwrap();
    child.wait().unwrap();
    pid
}

#[test]
fn the_kernel_tells_how_processes_end_and_what_they_do() {
    if !is_root("the_kernel_tells_how_processes_end_and_what_they_do") {
        return;
    }
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut eyes = eyes(Wants { exec: true, connect: true });
    let own = i32::try_from(std::process::id()).unwrap();

    let pid = run("exit 3");
    let exec = find(&mut eyes, |event| event.kind == Kind::Exec && event.pid == pid);
    assert!(exec.path.ends_with("/sh"), "{exec:?}");
    let exit = find(&mut eyes, |event| event.kind == Kind::ProcessExit && event.pid == pid);
    assert_eq!((exit.ended, exit.parent, exit.comm.as_str()), (Some(Ended::Code(3)), own, "sh"));
    assert!(exit.cgroup > 0 && exit.at_ns > 0 && exit.session > 0);

    let pid = run("kill -SEGV $$");
    let exit = find(&mut eyes, |event| event.kind == Kind::ProcessExit && event.pid == pid);
    assert_eq!(exit.ended, Some(Ended::Signal(11)));

    // The threads of a process are not processes, and the last of them is told of once.
    let many = Command::new("sh").args(["-c", "exit 0"]).status().unwrap();
    assert!(many.success());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| run("exit 5"));
        }
    });
    let pid = run("exit 6");
    let fives = std::cell::Cell::new(0);
    find(&mut eyes, |event| {
        let exit = event.kind == Kind::ProcessExit;
        assert!(!exit || event.pid != own, "a thread was taken for a process");
        if exit && event.ended == Some(Ended::Code(5)) && event.parent == own {
            fives.set(fives.get() + 1);
        }
        exit && event.pid == pid
    });
    assert_eq!(fives.get(), 8);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _stream = TcpStream::connect(address).unwrap();
    let connect = find(&mut eyes, |event| event.kind == Kind::Connect && event.peer == Some(address));
    assert_eq!(connect.pid, own);

    let counts = eyes.counts(true).unwrap();
    assert!(counts.seen[&Kind::ProcessExit] >= 11, "{counts:?}");
    assert!(counts.seen[&Kind::Exec] >= 11 && counts.seen[&Kind::Connect] >= 1);
    assert_eq!(counts.latency.unwrap().buckets.len(), 30);
}

#[test]
fn the_kernel_ends_looking_when_nobody_holds_the_descriptors() {
    if !is_root("the_kernel_ends_looking_when_nobody_holds_the_descriptors") {
        return;
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = load(Wants::default()).unwrap();
    assert_eq!(loaded.links.len(), 5);
    let id = |fd: &std::os::fd::OwnedFd| {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("link_id:")).unwrap().trim().to_owned();
        line.parse::<u32>().unwrap()
    };
    let link = id(&loaded.links[0]);
    let is_there = || aya::programs::loaded_links().flatten().any(|found| found.id() == link);
    assert!(is_there());
    hand_over(&theirs, Ok(loaded)).unwrap();
    let taken = receive(&ours).unwrap();
    assert!(is_there(), "whoever loaded it is gone, and it stays");
    drop(taken);
    // The kernel takes a moment to let go of it.
    let until = Instant::now() + Duration::from_secs(20);
    while is_there() && Instant::now() < until {
        std::thread::yield_now();
    }
    assert!(!is_there());
}

#[test]
fn the_process_connector_tells_how_processes_end() {
    if !is_root("the_process_connector_tells_how_processes_end") {
        return;
    }
    let mut connector = Connector::open().expect("this machine's kernel has a process connector");
    let pid = run("exit 4");
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        while let Some(events) = connector.take().unwrap() {
            if let Some(event) = events.iter().find(|event| event.pid == pid) {
                assert_eq!(event.kind, Kind::ProcessExit);
                assert_eq!(event.ended, Some(Ended::Code(4)));
                assert_eq!(event.parent, i32::try_from(std::process::id()).unwrap());
                return;
            }
        }
        wait(&connector, until);
    }
}
