//! Keeping an app apart from the device: namespaces, a view of the file system of its own, a filter of system calls.
//!
//! All of it happens in the process that becomes the app ([`super::exec`]), which has one thread and is still root. What can't be done ends that process: an app
//! is never run with less than it was to have. The supervisor only does what has to come before: a namespace of processes begins with the next child
//! ([`spawn_first`]), which then stays as its first process ([`first`]) and collects what loses its parent there.

mod loopback;
mod mounts;
mod seccomp;

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use farshore_domain::release::isolation::{
    IPC_CAPABILITY, Isolation, MOUNT_CAPABILITY, NETWORK_CAPABILITY, PID_CAPABILITY, SECCOMP_CAPABILITY,
    UTS_CAPABILITY,
};
use rustix::process::WaitOptions;
use rustix::thread::{CapabilitySet, LinkNameSpaceType, UnshareFlags};

pub(super) use seccomp::install as install_seccomp;

use super::spec::Process;

/// What could not be done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct IsolateError {
    what: String,
    #[source]
    source: io::Error,
}

impl IsolateError {
    fn new<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self { what, source: source.into() }
    }

    fn said(what: impl Into<String>, why: &str) -> Self {
        Self { what: what.into(), source: io::Error::other(why) }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because descriptor tables can be unshared, which is asked for nowhere here"
)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(flags)?)
}

/// What this device can give, as words for `hello`: each is tried in a thread that ends.
pub(super) fn capabilities() -> Vec<String> {
    let tried = |word: &str, flags: UnshareFlags| {
        let attempt = move || match flags {
            UnshareFlags::NEWNS => {
                unshare(flags)?;
                mounts::attempt()
            }
            flags if flags.is_empty() => seccomp::attempt(),
            flags => unshare(flags),
        };
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn(attempt);
        match thread.map(std::thread::JoinHandle::join) {
            Ok(Ok(Ok(()))) => true,
            Ok(Ok(Err(error))) => {
                tracing::debug!(word, %error, "not to be had here");
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    };
    let mut words = Vec::new();
    for (word, flags) in [
        (PID_CAPABILITY, UnshareFlags::NEWPID),
        (MOUNT_CAPABILITY, UnshareFlags::NEWNS),
        (IPC_CAPABILITY, UnshareFlags::NEWIPC),
        (UTS_CAPABILITY, UnshareFlags::NEWUTS),
        (NETWORK_CAPABILITY, UnshareFlags::NEWNET),
        // No namespace.
        (SECCOMP_CAPABILITY, UnshareFlags::empty()),
    ] {
        if tried(word, flags) {
            words.push(word.to_owned());
        }
    }
    words
}

/// What an administrator can do for a device that has not this word; nothing where the kernel filters no calls.
pub(crate) fn remedy(word: &str) -> &'static str {
    if word == SECCOMP_CAPABILITY {
        return "";
    }
    "; the runner can give it with the drop-in /usr/share/farshore/farshore-runner-isolation.conf, which its unit does not have by itself"
}

/// What a runner that says these words can't keep apps apart by, and what to do for it.
#[must_use]
pub fn missing(words: &[String]) -> Option<String> {
    let all = [
        PID_CAPABILITY,
        MOUNT_CAPABILITY,
        IPC_CAPABILITY,
        UTS_CAPABILITY,
        NETWORK_CAPABILITY,
        SECCOMP_CAPABILITY,
    ];
    let missing: Vec<_> = all.into_iter().filter(|word| !words.iter().any(|has| has == word)).collect();
    let remedy = remedy(missing.first()?);
    Some(format!("no {}{remedy}", missing.join(", ")))
}

/// Starts a child of this process that is the first one of a namespace of processes.
///
/// Only the thread that starts it is changed, and ends.
pub(super) fn spawn_first(command: &mut tokio::process::Command) -> io::Result<tokio::process::Child> {
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        let start = || {
            let _inside = runtime.enter();
            unshare(UnshareFlags::NEWPID).map_err(|error| {
                io::Error::new(error.kind(), format!("no namespace of its own processes: {error}"))
            })?;
            command.spawn()
        };
        let thread = std::thread::Builder::new().name("first".to_owned()).spawn_scoped(scope, start)?;
        thread.join().map_err(|_| io::Error::other("the thread that starts it has failed"))?
    })
}

/// Leaves the device's namespaces for new ones, as far as `isolation` says. `app` is the app's folder.
pub(super) fn enter(isolation: &Isolation, app: &Path) -> Result<(), IsolateError> {
    if isolation.has_pid() && std::process::id() != 1 {
        return Err(IsolateError::said(
            "a namespace of processes of its own",
            "it is not the first process of one",
        ));
    }
    let mut flags = UnshareFlags::empty();
    for (wanted, flag) in [
        (isolation.has_mounts(), UnshareFlags::NEWNS),
        (isolation.has_ipc(), UnshareFlags::NEWIPC),
        (isolation.has_uts(), UnshareFlags::NEWUTS),
        (isolation.has_no_network(), UnshareFlags::NEWNET),
    ] {
        flags.set(flag, wanted);
    }
    if !flags.is_empty() {
        unshare(flags).map_err(IsolateError::new("namespaces of its own"))?;
    }
    if isolation.has_no_network() {
        loopback::up().map_err(IsolateError::new("a loopback of its own"))?;
    }
    if isolation.has_mounts() {
        mounts::make(isolation, app)?;
    }
    Ok(())
}

/// Goes where an instance of the app is that runs already. A namespace of processes counts for the children of this process only.
pub(super) fn join(isolation: &Isolation, app: &Path, instance: Process) -> Result<(), IsolateError> {
    let kinds = [
        // The last one to be looked up through `/proc` is the one that changes what `/proc` shows.
        (isolation.has_no_network(), "net", LinkNameSpaceType::Network),
        (isolation.has_ipc(), "ipc", LinkNameSpaceType::InterProcessCommunication),
        (isolation.has_uts(), "uts", LinkNameSpaceType::HostNameAndNISDomainName),
        (isolation.has_pid(), "pid", LinkNameSpaceType::ProcessID),
        (isolation.has_mounts(), "mnt", LinkNameSpaceType::Mount),
    ];
    let mut opened = Vec::new();
    for (_, name, kind) in kinds.into_iter().filter(|(wanted, ..)| *wanted) {
        let (own, path) = (format!("/proc/self/ns/{name}"), format!("/proc/{}/ns/{name}", instance.pid));
        let file = std::fs::File::open(&path).map_err(IsolateError::new("finding the app's namespaces"))?;
        let same = std::fs::read_link(own).and_then(|own| Ok(own == std::fs::read_link(path)?));
        if same.map_err(IsolateError::new("finding the app's namespaces"))? {
            return Err(IsolateError::said("finding the app's namespaces", "it has only just begun"));
        }
        opened.push((file, kind));
    }
    // They are its own as long as it lives.
    if !instance.is_alive() {
        return Err(IsolateError::said("finding the app's namespaces", "it has ended"));
    }
    for (file, kind) in opened {
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
            .map_err(IsolateError::new("joining the app's namespaces"))?;
    }
    if isolation.has_mounts() && !mounts::is_whole(app) {
        return Err(IsolateError::said("finding the app's view of the files", "it has only just begun"));
    }
    Ok(())
}

/// Root that must not get out of what keeps it apart gives up what it would do that with.
pub(super) fn bind_root() -> Result<(), IsolateError> {
    for capability in [
        CapabilitySet::SYS_ADMIN,
        CapabilitySet::SYS_PTRACE,
        CapabilitySet::SYS_MODULE,
        CapabilitySet::SYS_RAWIO,
    ] {
        let has = rustix::thread::capability_is_in_bounding_set(capability);
        if has.map_err(IsolateError::new("looking at root's capabilities"))? {
            rustix::thread::remove_capability_from_bounding_set(capability)
                .map_err(IsolateError::new("taking root's capabilities away"))?;
        }
    }
    Ok(())
}

/// Starts the app and stays beside it, as the first process of its namespace or as the parent that a check needs to get into one. Ends as the app ends, with
/// 128 and the signal's number where one has ended it; the kernel then ends what is left in the namespace.
pub(super) fn first(mut app: Command) -> io::Result<Infallible> {
    let own = app.spawn()?.id();
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if u32::try_from(pid.as_raw_nonzero().get()) == Ok(own) => {
                let code =
                    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                if let Some(code) = code {
                    std::process::exit(code);
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_helps() {
        let all =
            ["pid", "mount", "ipc", "uts", "network", "seccomp"].map(|word| format!("isolation/{word}"));
        assert_eq!(missing(&all), None);
        assert_eq!(missing(&all[..5]), Some("no isolation/seccomp".to_owned()));
        let said = missing(&all[5..]).unwrap();
        assert!(said.starts_with("no isolation/pid, isolation/mount, ") && said.contains(".conf"), "{said}");
    }
}
