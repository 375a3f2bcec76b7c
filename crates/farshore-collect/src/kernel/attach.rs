//! Puts the programs into the kernel.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Map, MapData};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, include_bytes_aligned};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Resource, Rlimit};

/// The compiled programs: `cargo xtask gen bpf` writes them, `cargo xtask check` holds that they are what the source says.
static OBJECT: &[u8] = include_bytes_aligned!("../../bpf/eyes.bpf.o");
/// More links than this a descriptor message can't carry.
pub(super) const MAX_LINKS: usize = 16;

/// A signal's programs: any one of them will do, and the first that the kernel takes is used.
struct Signal {
    name: &'static str,
    parts: &'static [Part],
}

/// Forms of a program for a tracepoint whose arguments have changed, newest first.
struct Part {
    tracepoint: &'static str,
    forms: &'static [&'static str],
}

const SIGNALS: &[Signal] = &[
    Signal {
        name: "process_exit",
        parts: &[Part { tracepoint: "sched_process_exit", forms: &["process_exit"] }],
    },
    Signal {
        name: "oom_kill",
        parts: &[Part { tracepoint: "mark_victim", forms: &["oom_kill", "oom_kill_by_number"] }],
    },
    Signal {
        name: "tcp_retransmit",
        parts: &[Part { tracepoint: "tcp_retransmit_skb", forms: &["tcp_retransmit"] }],
    },
    Signal {
        name: "io_latency",
        parts: &[
            Part { tracepoint: "block_rq_issue", forms: &["block_issue", "block_issue_with_queue"] },
            Part { tracepoint: "block_rq_complete", forms: &["block_complete"] },
        ],
    },
    Signal { name: "exec", parts: &[Part { tracepoint: "sched_process_exec", forms: &["exec"] }] },
    Signal { name: "connect", parts: &[Part { tracepoint: "inet_sock_set_state", forms: &["connect"] }] },
];

/// Which of the signals that cost something in daily life are wanted; the others always are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    /// Programs that are executed.
    pub exec: bool,
    /// TCP connections that are begun.
    pub connect: bool,
}

/// Why nothing could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel does not say what its types look like.
    #[error("the kernel has no BTF (/sys/kernel/btf/vmlinux)")]
    NoBtf(#[source] aya_obj::btf::BtfError),
    /// Maps or programs are refused, for lack of privileges as a rule.
    #[error("eBPF is refused")]
    Refused(#[source] aya::EbpfError),
    /// No program could be attached; the first reason.
    #[error("no eBPF program could be attached: {0}")]
    Nothing(String),
    /// Whoever asked does not want it.
    #[error("eBPF was not asked for")]
    Unwanted,
    /// The descriptors of what was attached could not be had.
    #[error("the attached programs can't be handed on")]
    Descriptors(#[source] std::io::Error),
}

/// What is in the kernel now, held by its descriptors.
#[derive(Debug)]
pub struct Loaded {
    /// The maps `events`, `totals`, `destinations` and `latency`, in this order.
    pub maps: [OwnedFd; 4],
    /// What keeps the programs attached.
    pub links: Vec<OwnedFd>,
    /// Each wanted signal: attached, or why not.
    pub signals: BTreeMap<String, Result<(), String>>,
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // The verifier's log is pages long.
        let line = more.lines().next().unwrap_or_default();
        if !text.contains(line) {
            text = format!("{text}: {line}");
        }
        source = error.source();
    }
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// Whether a form of a program is for this kernel at all.
fn fits(form: &str, release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match form {
        // Neither form reads what it is given, so the kernel takes both: the version decides.
        "block_issue" => version >= (5, 11),
        "block_issue_with_queue" => version < (5, 11),
        _ => true,
    }
}

/// Loads and attaches. Needs CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN) and kernel 5.8.
///
/// # Errors
/// When not a single signal is to be had.
pub fn load(wants: Wants) -> Result<Loaded, LoadError> {
    // Kernels before 5.11 count maps as locked memory. Refused without CAP_SYS_RESOURCE; then the default has to do.
    let all = Rlimit { current: None, maximum: None };
    if let Err(error) = rustix::process::setrlimit(Resource::Memlock, all) {
        tracing::debug!(%error, "the limit of locked memory stays");
    }
    let btf = Btf::from_sys_fs().map_err(LoadError::NoBtf)?;
    let mut ebpf = Ebpf::load(OBJECT).map_err(LoadError::Refused)?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut signals = BTreeMap::new();
    for signal in SIGNALS {
        let unwanted = match signal.name {
            "exec" => !wants.exec,
            "connect" => !wants.connect,
            _ => false,
        };
        if !unwanted {
            let attached = signal.parts.iter().try_for_each(|part| attach(&mut ebpf, &btf, part, &release));
            signals.insert(signal.name.to_owned(), attached);
        }
    }
    if signals.values().all(Result::is_err) {
        let first = signals.into_values().find_map(Result::err).unwrap_or_default();
        return Err(LoadError::Nothing(first));
    }
    let map = |ebpf: &Ebpf, name: &str| {
        let data: Option<&MapData> = ebpf.map(name).and_then(|map| match map {
            Map::RingBuf(data) | Map::Array(data) | Map::LruHashMap(data) => Some(data),
            _ => None,
        });
        let missing = || std::io::Error::other(format!("the object has no map {name}"));
        data.ok_or_else(missing)?.fd().as_fd().try_clone_to_owned()
    };
    let maps = (|| {
        Ok([
            map(&ebpf, "events")?,
            map(&ebpf, "totals")?,
            map(&ebpf, "destinations")?,
            map(&ebpf, "latency")?,
        ])
    })()
    .map_err(LoadError::Descriptors)?;
    let links = links().map_err(LoadError::Descriptors)?;
    Ok(Loaded { maps, links, signals })
}

fn attach(ebpf: &mut Ebpf, btf: &Btf, part: &Part, release: &str) -> Result<(), String> {
    let mut why = format!("no form of it is for kernel {release}");
    for form in part.forms.iter().filter(|form| fits(form, release)) {
        let program = ebpf.program_mut(form).ok_or("the object has no such program")?;
        let program: &mut BtfTracePoint = program.try_into().map_err(|error| chain(&error))?;
        let done = program.load(part.tracepoint, btf).and_then(|()| program.attach().map(drop));
        match done {
            Ok(()) => return Ok(()),
            Err(error) => why = chain(&error),
        }
    }
    Err(why)
}

/// The descriptors of this process's links. aya keeps them to itself, so they are found among all of this process's
/// and doubled by `pidfd_getfd`, which owes nobody a promise about numbers.
fn links() -> std::io::Result<Vec<OwnedFd>> {
    let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let mut links = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|_| target.as_os_str() == "anon_inode:bpf_link") {
            links.push(rustix::process::pidfd_getfd(&this, number, PidfdGetfdFlags::empty())?);
        }
    }
    if links.is_empty() || links.len() > MAX_LINKS {
        return Err(std::io::Error::other(format!("{} links of eBPF programs were found", links.len())));
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_chosen_by_the_kernel() {
        for (release, newer) in
            [("6.18.5", true), ("5.11.0-rc1", true), ("5.10.104-tegra", false), ("", false)]
        {
            assert_eq!(fits("block_issue", release), newer, "{release}");
            assert_eq!(fits("block_issue_with_queue", release), !newer, "{release}");
            assert!(fits("process_exit", release));
        }
    }
}
