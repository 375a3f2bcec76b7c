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

/// The event that is wanted, if the kernel told of it within a second.
fn find(eyes: &mut Eyes, mut wanted: impl FnMut(&Event) -> bool) -> Option<Event> {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        while let Some(event) = eyes.take() {
            if wanted(&event) {
                return Some(event);
            }
        }
        let left = until.checked_duration_since(Instant::now())?;
        let timeout = rustix::event::Timespec {
            tv_sec: left.as_secs().try_into().unwrap(),
            tv_nsec: left.subsec_nanos().into(),
        };
        poll(&mut [PollFd::new(eyes, PollFlags::IN)], Some(&timeout)).unwrap();
    }
}

/// Does something and finds what the kernel tells of it. The budgets are the whole machine's: where other processes have used up a
/// second's, it is done again.
fn told<T>(eyes: &mut Eyes, kind: Kind, mut act: impl FnMut(&mut Eyes) -> Option<T>) -> T {
    for _ in 0..60 {
        let before = eyes.counts(false).unwrap().unsent;
        if let Some(found) = act(eyes) {
            return found;
        }
        let after = eyes.counts(false).unwrap().unsent;
        assert_ne!(
            before.get(&kind),
            after.get(&kind),
            "{kind:?} is not told of, though there is room for it"
        );
    }
    panic!("the machine is too busy for {kind:?}");
}

fn run(script: &str) -> i32 {
    let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
    let pid = child.id().try_into().unwrap();
    child.wait().unwrap();
    pid
}

/// Zero where nobody since the machine's first process began a session. The sixth word of `/proc/self/stat`, see `proc_pid_stat(5)`.
fn own_session() -> i32 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    after_name.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn the_kernel_tells_how_processes_end_and_what_they_do() {
    if !is_root("the_kernel_tells_how_processes_end_and_what_they_do") {
        return;
    }
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut eyes = eyes(Wants { exec: true, connect: true });
    let own = i32::try_from(std::process::id()).unwrap();

    let exec = told(&mut eyes, Kind::Exec, |eyes| {
        let pid = run("exit 0");
        find(eyes, |event| event.kind == Kind::Exec && event.pid == pid)
    });
    assert!(exec.path.ends_with("/sh"), "{exec:?}");

    let end_of = |eyes: &mut Eyes, script: &str| {
        told(eyes, Kind::ProcessExit, |eyes| {
            let pid = run(script);
            find(eyes, |event| event.kind == Kind::ProcessExit && event.pid == pid)
        })
    };
    let exit = end_of(&mut eyes, "exit 3");
    assert_eq!((exit.ended, exit.parent, exit.comm.as_str()), (Some(Ended::Code(3)), own, "sh"));
    assert!(exit.cgroup > 0 && exit.at_ns > 0);
    assert_eq!(exit.session, own_session());
    assert_eq!(end_of(&mut eyes, "kill -SEGV $$").ended, Some(Ended::Signal(11)));

    // The threads of a process are not processes, and the last of them is told of once.
    told(&mut eyes, Kind::ProcessExit, |eyes| {
        let unsent = eyes.counts(false).unwrap().unsent;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| run("exit 5"));
            }
        });
        let pid = run("exit 6");
        let mut fives = 0;
        find(eyes, |event| {
            let exit = event.kind == Kind::ProcessExit;
            assert!(!exit || event.pid != own, "a thread was taken for a process");
            fives += u32::from(exit && event.ended == Some(Ended::Code(5)) && event.parent == own);
            exit && event.pid == pid
        })?;
        (unsent.get(&Kind::ProcessExit) == eyes.counts(false).unwrap().unsent.get(&Kind::ProcessExit))
            .then(|| assert_eq!(fives, 8))
    });

    let connect = told(&mut eyes, Kind::Connect, |eyes| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _stream = TcpStream::connect(address).unwrap();
        find(eyes, |event| event.kind == Kind::Connect && event.peer == Some(address))
    });
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
