//! The programs in this machine's kernel, and the process connector: real processes end, and are told of. Both need root; without it
//! there is nothing to test, and the tests say so.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
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
fn find(eyes: &mut Eyes, wanted: impl FnMut(&Event) -> bool) -> Option<Event> {
    find_within(Duration::from_secs(1), eyes, wanted)
}

fn find_within(limit: Duration, eyes: &mut Eyes, mut wanted: impl FnMut(&Event) -> bool) -> Option<Event> {
    let until = Instant::now() + limit;
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

/// A group with little memory; `None` where the machine gives no such groups.
struct SmallMemory(PathBuf);

impl SmallMemory {
    fn new(name: &str) -> Option<Self> {
        let name = format!("farshore-test-{name}-{}", std::process::id());
        let whole = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let v2 = whole.into_iter().filter(|root| {
            std::fs::read_to_string(root.join("cgroup.subtree_control"))
                .is_ok_and(|on| on.split_whitespace().any(|one| one == "memory"))
        });
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let places = v2
            .map(|root| (root.join(&name), "memory.max"))
            .chain([(v1.join(&name), "memory.limit_in_bytes")]);
        for (group, limit) in places {
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            let made = Self(group);
            if std::fs::write(made.0.join(limit), "33554432").is_ok() {
                // Otherwise it may swap instead.
                if made.0.join("memory.swap.max").exists() {
                    std::fs::write(made.0.join("memory.swap.max"), "0").unwrap();
                }
                return Some(made);
            }
        }
        None
    }

    /// Runs what wants all the memory there is, and says which process it was and how it ended.
    fn exhaust(&self) -> (i32, Option<i32>) {
        let script = "echo $$ >\"$0/cgroup.procs\" && exec tail /dev/zero";
        let mut child = Command::new("sh").args(["-c", script]).arg(&self.0).spawn().unwrap();
        let pid = child.id().try_into().unwrap();
        (pid, child.wait().unwrap().signal())
    }
}

impl Drop for SmallMemory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.0));
    }
}

/// One number of a file of `/proc`.
fn number_of(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn the_kernel_tells_whom_it_killed_for_want_of_memory() {
    if !is_root("the_kernel_tells_whom_it_killed_for_want_of_memory") {
        return;
    }
    let Some(group) = SmallMemory::new("oom") else {
        eprintln!(
            "THIS MACHINE HAS NO MEMORY CONTROLLER: nobody can be killed here; only what is read instead is tested"
        );
        number_of("/proc/vmstat", "oom_kill ");
        return;
    };
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut eyes = eyes(Wants::default());
    let before = (number_of("/proc/vmstat", "oom_kill "), eyes.counts(false).unwrap().seen[&Kind::OomKill]);
    let killed = told(&mut eyes, Kind::OomKill, |eyes| {
        let (pid, signal) = group.exhaust();
        assert_eq!(signal, Some(9), "it was not killed");
        find(eyes, |event| event.kind == Kind::OomKill && event.pid == pid)
    });
    assert_eq!(killed.comm, "tail", "{killed:?}");
    assert!(eyes.counts(false).unwrap().seen[&Kind::OomKill] > before.1);
    // And its end is told as well, after its cause.
    told(&mut eyes, Kind::ProcessExit, |eyes| {
        let (pid, _) = group.exhaust();
        let mut cause = false;
        find(eyes, |event| {
            cause |= event.kind == Kind::OomKill && event.pid == pid;
            event.kind == Kind::ProcessExit && event.pid == pid
        })
        .map(|exit| assert_eq!((exit.ended, cause), (Some(Ended::Signal(9)), true)))
    });
    assert!(number_of("/proc/vmstat", "oom_kill ") > before.0, "where there are no programs, this is read");
}

/// A listener that takes one connection, and then drops whoever knocks: who connects sends its first segment again after a second.
fn full_house() -> (std::os::fd::OwnedFd, TcpStream, std::net::SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    listen(&listener, 0).unwrap();
    let address = std::net::SocketAddr::try_from(rustix::net::getsockname(&listener).unwrap()).unwrap();
    let first = TcpStream::connect(address).unwrap();
    (listener, first, address)
}

/// `RetransSegs` of `/proc/net/snmp`: a line of names, and one of numbers.
fn segments_sent_again() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|name| name == "RetransSegs").unwrap();
    numbers.split_whitespace().nth(at).unwrap().parse().unwrap()
}

#[test]
fn the_kernel_tells_where_segments_are_sent_again() {
    if !is_root("the_kernel_tells_where_segments_are_sent_again") {
        return;
    }
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut eyes = eyes(Wants::default());
    let before = segments_sent_again();
    let (_listener, _first, address) = full_house();
    let again = told(&mut eyes, Kind::TcpRetransmit, |eyes| {
        let knock =
            std::thread::spawn(move || TcpStream::connect_timeout(&address, Duration::from_secs(4)).is_err());
        let found = find_within(Duration::from_secs(8), eyes, |event| {
            event.kind == Kind::TcpRetransmit && event.peer == Some(address)
        });
        assert!(knock.join().unwrap(), "it was let in");
        found
    });
    assert!(again.at_ns > 0);
    let counts = eyes.counts(false).unwrap();
    let to = counts.destinations.iter().find(|destination| destination.peer == address).unwrap();
    assert!(to.segments >= 1 && counts.seen[&Kind::TcpRetransmit] >= to.segments, "{counts:?}");
    assert!(segments_sent_again() > before, "where there are no programs, this is read");
}

#[test]
fn the_kernel_counts_how_long_a_disk_takes() {
    const WRITES: u64 = 400;
    if !is_root("the_kernel_counts_how_long_a_disk_takes") {
        return;
    }
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let eyes = eyes(Wants::default());
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("losetup").args(["--find", "--show"]).arg(&image).output();
    let Some(made) = made.ok().filter(|made| made.status.success()) else {
        eprintln!("THIS MACHINE HAS NO LOOP DEVICES: only what is read instead is tested");
        assert!(std::fs::read_to_string("/proc/diskstats").is_ok());
        return;
    };
    let disk = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let name = disk.trim_start_matches("/dev/").to_owned();
    let writes_of = |table: &str| -> u64 {
        let line = table.lines().find(|line| line.split_whitespace().nth(2) == Some(&name)).unwrap();
        line.split_whitespace().nth(7).unwrap().parse().unwrap()
    };
    let table = || std::fs::read_to_string("/proc/diskstats").unwrap();
    let before = (eyes.counts(true).unwrap().latency.unwrap(), writes_of(&table()));
    let written = Command::new("dd")
        .args([
            "if=/dev/zero",
            &format!("of={disk}"),
            "bs=4k",
            &format!("count={WRITES}"),
            "oflag=direct",
            "status=none",
        ])
        .status();
    let (after, read) = (eyes.counts(true).unwrap().latency.unwrap(), writes_of(&table()));
    assert!(Command::new("losetup").args(["--detach", &disk]).status().unwrap().success());
    assert!(written.unwrap().success());
    assert!(after.count >= before.0.count + WRITES, "{} of {WRITES}", after.count - before.0.count);
    assert!(after.mean_ms(&before.0).unwrap() > 0.0);
    assert!(after.quantile_ms(&before.0, 0.99).unwrap() >= after.quantile_ms(&before.0, 0.5).unwrap());
    assert!(read >= before.1 + WRITES, "where there are no programs, this is read");
}
