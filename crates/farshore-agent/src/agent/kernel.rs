//! What the kernel tells, as events of the device: kept where it matters, shown where somebody looks, remembered by the black box.

use farshore_collect::kernel::Kind;
use farshore_domain::reconcile::MonoMs;
use farshore_protocol::{self as wire, DeviceEvent, EventBatch, agent_frame};

use super::{Agent, AgentError, EVENTS, events};
use crate::clock;
use crate::executor::Executor;
use crate::eyes::{Glance, Sight, Source, Sources};
use crate::journal::Journal;

/// A process of the machine that ends by one of these has failed: ILL, TRAP, ABRT, BUS, FPE, KILL, SEGV, SYS.
const FAULTS: [u8; 8] = [4, 5, 6, 7, 8, 9, 11, 31];
/// So many segments sent again within a minute are worth keeping.
const MANY_SEGMENTS: u64 = 20;
/// Kept events of apps' own processes, of other processes' ends, and of everything else: at once, and in a second.
const MAIN: (f64, f64) = (60.0, 1.0);
const OTHERS: (f64, f64) = (30.0, 0.1);

/// How many events may still be kept.
#[derive(Debug)]
pub(super) struct Allowance {
    left: f64,
    at: MonoMs,
    /// Not kept since the last one that was.
    withheld: u64,
}

impl Allowance {
    fn new(of: (f64, f64), at: MonoMs) -> Self {
        Self { left: of.0, at, withheld: 0 }
    }

    /// `Some` where one more may be kept, with the number of those that were not since the last.
    fn spend(&mut self, of: (f64, f64), times: u64, now: MonoMs) -> Option<u64> {
        let seconds = now.since_ms(self.at).max(0) as f64 / 1000.0;
        self.at = now;
        self.left = (self.left + seconds * of.1).min(of.0);
        if self.left < 1.0 {
            self.withheld = self.withheld.saturating_add(times);
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.withheld))
    }
}

/// What may be kept of each sort. Ends of strangers' processes, of which a machine can have many, take nothing from what is rare.
#[derive(Debug)]
pub(super) struct Allowances {
    main: Allowance,
    ends: Allowance,
    kills: Allowance,
    others: Allowance,
}

impl Allowances {
    pub(super) fn new(now: MonoMs) -> Self {
        let others = || Allowance::new(OTHERS, now);
        Self { main: Allowance::new(MAIN, now), ends: others(), kills: others(), others: others() }
    }

    fn spend(&mut self, sight: &Sight, now: MonoMs) -> Option<u64> {
        let (allowance, of) = match Kind::from_name(&sight.kind) {
            _ if sight.main => (&mut self.main, MAIN),
            Some(Kind::ProcessExit) => (&mut self.ends, OTHERS),
            Some(Kind::OomKill) => (&mut self.kills, OTHERS),
            _ => (&mut self.others, OTHERS),
        };
        allowance.spend(of, sight.times, now)
    }
}

/// Whether it is worth keeping. What is not is still shown to whoever looks, and still in an incident's evidence.
fn matters(sight: &Sight) -> bool {
    match Kind::from_name(&sight.kind) {
        Some(Kind::ProcessExit) => {
            let failed = sight.code.is_some_and(|code| code != 0);
            let fault = sight.signal.is_some_and(|signal| FAULTS.contains(&signal));
            sight.main || fault || (sight.app.is_some() && (failed || sight.signal.is_some()))
        }
        Some(Kind::OomKill) => true,
        Some(Kind::TcpRetransmit) => !sight.together || sight.times >= MANY_SEGMENTS,
        Some(Kind::Exec | Kind::Connect) | None => false,
    }
}

fn signal_name(signal: u8) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// A sentence for people.
fn sentence(sight: &Sight) -> String {
    let comm = if sight.comm.is_empty() { "a process" } else { &sight.comm };
    let of_app = match (&sight.app, sight.main) {
        (Some(app), false) => format!(" of {app}"),
        _ => String::new(),
    };
    let who = match (&sight.app, sight.main, sight.pid) {
        (Some(app), true, 0) => format!("the process of {app}"),
        (Some(app), true, pid) => format!("the process of {app} ({comm}, pid {pid})"),
        (.., 0) => format!("{comm}{of_app}"),
        (.., pid) => format!("{comm}{of_app} (pid {pid})"),
    };
    let ended = match (sight.code, sight.signal) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by {}", signal_name(signal)),
        (None, None) => "ended".to_owned(),
    };
    let to = sight.peer.map_or_else(String::new, |peer| format!(" to {peer}"));
    let times = sight.times;
    match (Kind::from_name(&sight.kind), sight.together) {
        (Some(Kind::ProcessExit), false) => format!("{who} {ended}"),
        (Some(Kind::ProcessExit), true) => {
            format!("{times} more processes ended: {comm}{of_app} {ended}")
        }
        (Some(Kind::OomKill), _) if times > 1 => {
            format!("the kernel ran out of memory and killed {times} processes")
        }
        (Some(Kind::OomKill), _) => format!("the kernel ran out of memory and killed {who}"),
        (Some(Kind::TcpRetransmit), _) if times > 1 => format!("{times} TCP segments{to} were sent again"),
        (Some(Kind::TcpRetransmit), _) => format!("a TCP segment{to} was sent again"),
        (Some(Kind::Exec), false) => format!("{who} executed {}", sight.path),
        (Some(Kind::Exec), true) => format!("{times} more programs were executed by {comm}{of_app}"),
        (Some(Kind::Connect), false) => format!("{who} connects{to}"),
        (Some(Kind::Connect), true) => format!("{times} more connections{to} by {comm}{of_app}"),
        (None, _) => format!("{} of {who}", sight.kind),
    }
}

fn event(sight: &Sight, by: &str, withheld: u64) -> DeviceEvent {
    let mut details = serde_json::Map::new();
    details.insert("source".to_owned(), by.into());
    let mut add = |key: &str, value: serde_json::Value| details.insert(key.to_owned(), value);
    if sight.pid != 0 {
        add("pid", sight.pid.into());
    }
    if sight.parent != 0 {
        add("parent", sight.parent.into());
    }
    if !sight.comm.is_empty() {
        add("comm", sight.comm.clone().into());
    }
    if let Some(code) = sight.code {
        add("code", code.into());
    }
    if let Some(signal) = sight.signal {
        add("signal", signal_name(signal).into());
    }
    if let Some(peer) = sight.peer {
        add("peer", peer.to_string().into());
    }
    if !sight.path.is_empty() {
        add("path", sight.path.clone().into());
    }
    if sight.main {
        add("main", true.into());
    }
    if sight.times != 1 {
        add("times", sight.times.into());
    }
    if withheld > 0 {
        add("withheld", withheld.into());
    }
    let app = sight.app.as_ref().map(ToString::to_string).unwrap_or_default();
    let note = events::note(&sight.kind, &sentence(sight), &serde_json::Value::Object(details));
    DeviceEvent { app, at_ms: sight.at.0, ..note }
}

impl<E: Executor, J: Journal> Agent<E, J> {
    /// Takes what the runner's watch brought.
    pub(super) fn glance(&mut self, glance: Glance) -> Result<(), AgentError> {
        match glance {
            Glance::Sources { sources } => {
                if sources.values().all(|source| source.by == "none") {
                    self.eyes.take(None);
                    // The runner has gone. It may be back between two lists, as another process that can do more or less.
                    self.capabilities = None;
                    self.next_list = clock::mono();
                }
                self.sources = sources;
                Ok(())
            }
            Glance::Tally { tally } => {
                self.eyes.take(Some(tally));
                Ok(())
            }
            Glance::Sights { sights } => self.sights(&sights),
        }
    }

    fn sights(&mut self, sights: &[Sight]) -> Result<(), AgentError> {
        let now = clock::mono();
        let (mut kept, mut shown, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for sight in sights {
            let Some(kind) = Kind::from_name(&sight.kind) else { continue };
            let by = self.sources.get(&sight.kind).map_or("none", |source| source.by.as_str());
            let withheld = if matters(sight) { self.allowances.spend(sight, now) } else { None };
            let one = event(sight, by, withheld.unwrap_or_default());
            self.policy.sighted(kind.name(), sight.app.as_ref(), sight.times, now);
            all.push(one.clone());
            if withheld.is_some() { kept.push(one) } else { shown.push(one) }
        }
        self.black_box.hear(&all);
        if !kept.is_empty() {
            let batch = events::batch(kept);
            self.keep(Vec::new(), vec![(EVENTS.to_owned(), batch)])?;
        }
        let takes = self.session.as_ref().is_some_and(|session| session.welcomed && session.live_events);
        if !shown.is_empty() && takes && self.live.is_some() {
            // Not kept: what can't be shown now is of no use later.
            self.send(agent_frame::Body::Events(EventBatch { sequence: 0, events: shown }));
        }
        Ok(())
    }

    /// Who tells which signal, for the control plane.
    pub(super) fn senses(&self) -> Vec<wire::Sense> {
        let sense = |(signal, source): (&String, &Source)| wire::Sense {
            signal: signal.clone(),
            by: source.by.clone(),
            reason: source.reason.clone(),
        };
        self.all_sources().iter().map(sense).collect()
    }

    /// Those of the runner's watch, and who tells of stalls.
    pub(super) fn all_sources(&self) -> Sources {
        let mut sources = self.sources.clone();
        sources.extend(self.stall_source.clone().map(|source| ("pressure".to_owned(), source)));
        sources
    }
}

#[cfg(test)]
mod tests {
    use farshore_domain::name::Name;
    use farshore_domain::time::UnixMs;

    use super::*;

    fn exit(app: Option<&str>, main: bool, code: Option<u8>, signal: Option<u8>) -> Sight {
        Sight {
            kind: "process_exit".to_owned(),
            at: UnixMs(5),
            pid: 7,
            parent: 1,
            comm: "sh".to_owned(),
            code,
            signal,
            peer: None,
            path: String::new(),
            app: app.map(|app| Name::new(app).unwrap()),
            main,
            times: 1,
            together: false,
        }
    }

    #[test]
    fn what_matters_is_kept_and_daily_life_is_not() {
        for (sight, kept) in [
            (exit(Some("web"), true, Some(0), None), true),
            (exit(Some("web"), true, None, Some(15)), true),
            (exit(Some("web"), false, Some(0), None), false),
            (exit(Some("web"), false, Some(1), None), true),
            (exit(None, false, Some(1), None), false),
            (exit(None, false, None, Some(15)), false),
            (exit(None, false, None, Some(11)), true),
        ] {
            assert_eq!(matters(&sight), kept, "{sight:?}");
        }
    }

    #[test]
    fn the_sentence_says_what_happened_to_what() {
        let told = |sight: &Sight| sentence(sight);
        assert_eq!(
            told(&exit(Some("web"), true, Some(3), None)),
            "the process of web (sh, pid 7) exited with 3"
        );
        assert_eq!(told(&exit(Some("web"), false, None, Some(9))), "sh of web (pid 7) was killed by SIGKILL");
        assert_eq!(told(&exit(None, false, Some(0), None)), "sh (pid 7) exited with 0");
        let together = Sight { times: 4812, together: true, pid: 0, ..exit(None, false, Some(0), None) };
        assert_eq!(told(&together), "4812 more processes ended: sh exited with 0");
        let again =
            Sight { kind: "tcp_retransmit".to_owned(), peer: "10.0.0.1:443".parse().ok(), ..together };
        assert_eq!(told(&again), "4812 TCP segments to 10.0.0.1:443 were sent again");
        // Of a counter only the number is known.
        let counted = Sight { times: 2, together: false, peer: None, ..again };
        assert_eq!(told(&counted), "2 TCP segments were sent again");
        assert!(matters(&counted), "few of them are worth keeping, as one is");
    }

    #[test]
    fn an_event_carries_its_details_and_its_source() {
        let one = event(&exit(Some("web"), true, None, Some(9)), "ebpf", 12);
        let details: serde_json::Value = serde_json::from_str(&one.detail_json).unwrap();
        assert_eq!(
            details,
            serde_json::json!({
                "source": "ebpf", "pid": 7, "parent": 1, "comm": "sh", "signal": "SIGKILL", "main": true, "withheld": 12
            })
        );
        assert_eq!((one.kind.as_str(), one.app.as_str(), one.at_ms), ("process_exit", "web", 5));
    }

    #[test]
    fn a_crashing_app_does_not_fill_the_journal() {
        let mut allowances = Allowances::new(MonoMs(0));
        let child = exit(Some("web"), false, Some(1), None);
        let kept = (0..36_000).filter(|at| allowances.spend(&child, MonoMs(at * 100)).is_some()).count();
        assert!((380..400).contains(&kept), "{kept} in an hour of ten a second");
        let main = exit(Some("web"), true, Some(1), None);
        assert_eq!(
            allowances.spend(&main, MonoMs(3_600_000)),
            Some(0),
            "its own process is heard beside that"
        );
        let killed = Sight { kind: "oom_kill".to_owned(), ..child };
        assert_eq!(allowances.spend(&killed, MonoMs(3_600_000)), Some(0), "and so is what is rare");
    }
}
