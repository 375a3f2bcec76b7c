//! The runner's side: reads what the kernel tells and passes it on for as long as `run` watches.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::PoisonError;
use std::time::Duration;

use farshore_collect::kernel::{
    Connector, Ended, Event, Eyes, HandoverError, Kind, ProcCounters, Storm, Told,
};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::who::Who;
use super::{Glance, Loader, Look, Sight, Source, Sources, Tally, usage};
use crate::clock;
use crate::runner::apps::Apps;
use crate::runner::wire;

/// After reading, this long nothing is read: a storm wakes the runner twenty times a second, not a thousand.
const HOLD: Duration = Duration::from_millis(50);
/// How often what is counted is passed on.
const TALLY: Duration = Duration::from_secs(1);
/// How often supervisors are asked where nothing else tells of exits.
const POLL: Duration = Duration::from_millis(500);
/// Events that are read before something else gets its turn.
const BATCH: usize = 4096;
/// A watcher that takes nothing for this long is gone.
const TAKE: Duration = Duration::from_secs(10);

/// Watching, one at a time.
#[derive(Debug)]
pub(crate) struct Watch {
    /// eBPF may be used, says whoever set the runner up.
    ebpf: bool,
    loader: Loader,
    turn: Mutex<()>,
    /// What the watch that is open has told.
    told: std::sync::Mutex<Option<Sources>>,
}

/// Who tells of single events.
enum Teller {
    Ebpf(Box<AsyncFd<Eyes>>, bool),
    Netlink(AsyncFd<Connector>),
    Supervisors,
}

fn source(by: &str, reason: impl Into<String>) -> Source {
    Source { by: by.to_owned(), reason: reason.into() }
}

impl Teller {
    /// Waits until there may be something to read.
    async fn ready(&self) -> std::io::Result<()> {
        match self {
            Self::Ebpf(eyes, _) => eyes.readable().await.map(|mut guard| guard.clear_ready()),
            Self::Netlink(connector) => connector.readable().await.map(|mut guard| guard.clear_ready()),
            Self::Supervisors => std::future::pending().await,
        }
    }

    fn read(&mut self) -> std::io::Result<Vec<Event>> {
        let mut events = Vec::new();
        match self {
            Self::Ebpf(eyes, _) => {
                while let Some(event) = eyes.get_mut().take() {
                    events.push(event);
                    if events.len() >= BATCH {
                        break;
                    }
                }
            }
            Self::Netlink(connector) => {
                while let Some(some) = connector.get_mut().take()? {
                    events.extend(some);
                    if events.len() >= BATCH {
                        break;
                    }
                }
            }
            Self::Supervisors => {}
        }
        Ok(events)
    }
}

/// Opens the best source that is to be had, and says which signal comes from where.
async fn open(watch: &Watch, look: Look) -> (Teller, Sources) {
    let forbidden = match (watch.ebpf, look.ebpf) {
        (false, _) => Some("eBPF is forbidden by the runner's configuration"),
        (_, false) => Some("eBPF is forbidden by the device's policy"),
        (true, true) => None,
    };
    let loader = watch.loader.clone();
    let asked = Look { ebpf: forbidden.is_none(), ..look };
    let taken = tokio::task::spawn_blocking(move || loader.take(asked)).await;
    let mut connector = None;
    let why = match taken {
        Ok(Ok((maps, links, report))) => match attended(maps, links) {
            Ok(eyes) if report.get("process_exit").is_some_and(Result::is_ok) => {
                let mut sources = Sources::new();
                for (signal, attached) in &report {
                    let told = match attached {
                        Ok(()) => source("ebpf", "tracepoints"),
                        Err(why) => source("none", format!("eBPF: {why}")),
                    };
                    sources.insert(signal.clone(), told);
                }
                fill(&mut sources, look, "");
                let latency = report.get("io_latency").is_some_and(Result::is_ok);
                return (Teller::Ebpf(Box::new(eyes), latency), sources);
            }
            Ok(_) => "the kernel does not tell eBPF of exits".to_owned(),
            Err(why) => why,
        },
        Ok(Err(HandoverError::Nothing { why, connector: opened })) => {
            connector = opened.map(Connector::from_fd);
            why
        }
        Ok(Err(error)) => crate::chain(&error),
        Err(error) => error.to_string(),
    };
    let why = forbidden.map_or(why, str::to_owned);
    tracing::info!(%why, "looking without eBPF");
    let mut sources = Sources::new();
    let opened = connector.map_or_else(Connector::open, Ok);
    let teller = match opened.and_then(woken) {
        Ok(connector) => {
            sources.insert("process_exit".to_owned(), source("netlink", format!("process connector; {why}")));
            Teller::Netlink(connector)
        }
        Err(error) => {
            let reason = format!("supervisors, only apps' own processes; {why}; process connector: {error}");
            sources.insert("process_exit".to_owned(), source("proc", reason));
            Teller::Supervisors
        }
    };
    fill(&mut sources, look, &why);
    (teller, sources)
}

fn attended(maps: [OwnedFd; 4], links: Vec<OwnedFd>) -> Result<AsyncFd<Eyes>, String> {
    let eyes = Eyes::new(maps, links).map_err(|error| crate::chain(&error))?;
    woken(eyes).map_err(|error| error.to_string())
}

/// Hands a descriptor to the runtime, which says when it is readable.
#[expect(
    deprecated,
    reason = "its successor is unsafe, and asks for what holds here: both types own one descriptor and never change it"
)]
fn woken<T: AsRawFd>(from: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::new(from)
}

/// What /proc tells of the signals that have no source yet.
fn fill(sources: &mut Sources, look: Look, why: &str) {
    let because = |file: &str| if why.is_empty() { file.to_owned() } else { format!("{file}; {why}") };
    let counters = ProcCounters::new().read();
    let mut add = |signal: &str, told: Source| {
        if sources.get(signal).is_none_or(|source| source.by == "none") {
            sources.insert(signal.to_owned(), told);
        }
    };
    match counters.oom_kills {
        Some(_) => add("oom_kill", source("proc", because("/proc/vmstat, a number only"))),
        None => add("oom_kill", source("none", because("/proc/vmstat has no oom_kill"))),
    }
    match counters.retransmits {
        Some(_) => add("tcp_retransmit", source("proc", because("/proc/net/snmp, a number only"))),
        None => add("tcp_retransmit", source("none", because("/proc/net/snmp can't be read"))),
    }
    if std::fs::File::open("/proc/diskstats").is_ok() {
        add("io_latency", source("proc", because("/proc/diskstats, the mean only")));
    } else {
        add("io_latency", source("none", because("/proc/diskstats can't be read")));
    }
    for (signal, wanted) in [("exec", look.exec), ("connect", look.connect)] {
        let reason =
            if wanted { because("only eBPF tells it") } else { "not asked for by the policy".to_owned() };
        add(signal, source("none", reason));
    }
}

/// Nanoseconds of the clock that the kernel stamps events with.
fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}

fn sight(told: Told) -> Sight {
    let Told { event, app, main, times, together } = told;
    let ago = i64::try_from(monotonic_ns().saturating_sub(event.at_ns) / 1_000_000).unwrap_or_default();
    let at = if event.at_ns == 0 { clock::wall() } else { UnixMs(clock::wall().0.saturating_sub(ago)) };
    Sight {
        kind: event.kind.name().to_owned(),
        at,
        pid: event.pid,
        parent: event.parent,
        comm: event.comm,
        code: event.ended.and_then(|ended| match ended {
            Ended::Code(code) => Some(code),
            Ended::Signal(_) => None,
        }),
        signal: event.ended.and_then(|ended| match ended {
            Ended::Code(_) => None,
            Ended::Signal(signal) => Some(signal),
        }),
        peer: event.peer,
        path: event.path,
        app: app.and_then(|app| Name::new(app).ok()),
        main,
        times,
        together,
    }
}

/// Everything between the sources and the watcher.
struct Desk<'a> {
    apps: &'a Apps,
    sources: &'a Sources,
    who: Who,
    storm: Storm,
    proc: ProcCounters,
    /// What /proc counted last, and what eBPF did not send.
    before: (Option<u64>, Option<u64>),
    unsent: std::collections::BTreeMap<Kind, u64>,
    exits: u64,
    tally: Tally,
}

impl Desk<'_> {
    fn is_by(&self, signal: &str, by: &str) -> bool {
        self.sources.get(signal).is_some_and(|source| source.by == by)
    }

    fn hear(&mut self, events: Vec<Event>) -> Vec<Sight> {
        let now = clock::mono().0;
        let mut sights = Vec::new();
        for event in events {
            self.exits += u64::from(event.kind == Kind::ProcessExit);
            let owner = self.who.of(self.apps, &event, now);
            let (app, main) = owner.map_or((None, false), |(app, main)| (Some(app.to_string()), main));
            sights.extend(self.storm.hear(event, app, main, now).map(sight));
        }
        sights
    }

    /// Apps' own exits, where only their supervisors tell of them.
    fn ask_supervisors(&mut self) -> Vec<Sight> {
        let now = clock::mono().0;
        let ended = self.who.ended(self.apps, monotonic_ns());
        let mut sights = Vec::new();
        for (app, event) in ended {
            self.exits += 1;
            sights.extend(self.storm.hear(event, Some(app.to_string()), true, now).map(sight));
        }
        sights
    }

    /// What is counted; told as events where nothing else does.
    fn count(&mut self, teller: &Teller) -> Vec<Sight> {
        let now = clock::mono().0;
        let counters = self.proc.read();
        let grown = |before: &mut Option<u64>, now: Option<u64>| {
            let more = before.zip(now).map_or(0, |(before, now)| now.saturating_sub(before));
            *before = now;
            more
        };
        let more_oom = grown(&mut self.before.0, counters.oom_kills);
        let more_again = grown(&mut self.before.1, counters.retransmits);
        let mut tally = Tally { apps: usage::of_apps(self.apps), ..Tally::default() };
        if let Teller::Ebpf(eyes, latency) = teller {
            match eyes.get_ref().counts(*latency) {
                Ok(counts) => {
                    for (kind, total) in counts.unsent {
                        let before = self.unsent.insert(kind, total).unwrap_or_default();
                        self.storm.missed(kind, total.saturating_sub(before), now);
                    }
                    for (kind, total) in counts.seen {
                        if self.is_by(kind.name(), "ebpf") {
                            tally.seen.insert(kind.name().to_owned(), total);
                        }
                    }
                    tally.destinations =
                        counts.destinations.into_iter().map(|to| (to.peer, to.segments)).collect();
                    tally.latency = counts.latency.map(|l| (l.buckets, l.sum_us, l.count));
                }
                Err(error) => {
                    tracing::warn!(error = %crate::chain(&error), "what eBPF counted can't be read")
                }
            }
        } else {
            tally.seen.insert(Kind::ProcessExit.name().to_owned(), self.exits);
        }
        let mut sights = Vec::new();
        let numbers = [
            (Kind::OomKill, more_oom, counters.oom_kills),
            (Kind::TcpRetransmit, more_again, counters.retransmits),
        ];
        for (kind, more, total) in numbers {
            if !self.is_by(kind.name(), "proc") {
                continue;
            }
            if let Some(total) = total {
                tally.seen.insert(kind.name().to_owned(), total);
            }
            if more > 0 {
                let one = self.storm.hear(Event::new(kind, 0, monotonic_ns()), None, false, now);
                match one {
                    Some(told) => sights.push(sight(Told { times: more, ..told })),
                    // One of them was counted when it was heard.
                    None => self.storm.missed(kind, more - 1, now),
                }
            }
        }
        sights.extend(self.storm.flush(now).into_iter().map(sight));
        self.tally = tally;
        sights
    }
}

async fn tell(stream: &mut UnixStream, glance: &Glance) -> Result<(), wire::WireError> {
    match timeout(TAKE, wire::write(stream, glance)).await {
        Ok(written) => written,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

impl Watch {
    pub(crate) fn new(ebpf: bool, loader: Loader) -> Self {
        Self { ebpf, loader, turn: Mutex::default(), told: std::sync::Mutex::default() }
    }

    fn tell(&self, sources: Option<Sources>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    /// Who tells what: what the open watch has told, or what one would be told now.
    pub(crate) async fn sources(&self) -> Sources {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(told) = told {
            return told;
        }
        let _turn = self.turn.lock().await;
        open(self, Look::default()).await.1
    }

    /// Watches until the other side is gone.
    ///
    /// # Errors
    /// When the other side does not take what it is told, or a source fails; it is to ask again.
    pub(crate) async fn serve(
        &self,
        mut stream: UnixStream,
        apps: &Apps,
        look: Look,
    ) -> Result<(), wire::WireError> {
        let _turn = self.turn.lock().await;
        let (teller, sources) = open(self, look).await;
        self.tell(Some(sources.clone()));
        let ended = self.pass_on(&mut stream, apps, teller, &sources).await;
        self.tell(None);
        ended
    }

    async fn pass_on(
        &self,
        stream: &mut UnixStream,
        apps: &Apps,
        mut teller: Teller,
        sources: &Sources,
    ) -> Result<(), wire::WireError> {
        tell(stream, &Glance::Sources { sources: sources.clone() }).await?;
        let mut desk = Desk {
            apps,
            sources,
            who: Who::default(),
            storm: Storm::default(),
            proc: ProcCounters::new(),
            before: (None, None),
            unsent: std::collections::BTreeMap::new(),
            exits: 0,
            tally: Tally::default(),
        };
        let mut ticks = interval(TALLY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut polls = interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let asks_supervisors = matches!(teller, Teller::Supervisors);
        let mut hold = Instant::now();
        let mut told = None;
        loop {
            let mut nothing = [0; 1];
            let sights = tokio::select! {
                // The watcher says nothing more: what comes is its end.
                read = stream.read(&mut nothing) => match read {
                    Ok(0) => return Ok(()),
                    Ok(_) => return Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into()),
                    Err(error) => return Err(error.into()),
                },
                ready = async { sleep_until(hold).await; teller.ready().await } => {
                    ready?;
                    let events = teller.read()?;
                    // What is left is read without being woken for it.
                    hold = Instant::now() + HOLD;
                    desk.hear(events)
                }
                _ = polls.tick(), if asks_supervisors => desk.ask_supervisors(),
                _ = ticks.tick() => {
                    // Of a full batch there may be a rest that nothing wakes for.
                    let events = teller.read()?;
                    let mut sights = desk.hear(events);
                    sights.extend(desk.count(&teller));
                    sights
                }
            };
            if !sights.is_empty() {
                tell(stream, &Glance::Sights { sights }).await?;
            }
            if told.as_ref() != Some(&desk.tally) {
                tell(stream, &Glance::Tally { tally: desk.tally.clone() }).await?;
                told = Some(desk.tally.clone());
            }
        }
    }
}
