//! What an app starts and leaves behind, below its supervisor.
//!
//! The supervisor adopts whatever loses its parent below it (a child subreaper, see `prctl(2)`), so a process that left its group and session is
//! found also where there are no control groups.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::time::{Instant, sleep};

/// How long killed processes may take to be gone; one that hangs in the kernel takes for ever.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// All children of this process.
fn children() -> Vec<Pid> {
    listed().unwrap_or_else(searched).into_iter().filter_map(Pid::from_raw).collect()
}

/// As the kernel lists them; none where it was built without that list.
fn listed() -> Option<Vec<i32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // A thread that ended meanwhile has handed its children to another one.
            Err(_) if !thread.path().exists() => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// By asking each process for its parent.
fn searched() -> Vec<i32> {
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| parent(&stat) == Some(own))
        })
        .collect()
}

/// The parent's number in `/proc/<pid>/stat`: the second field after the name, which stands in brackets and may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Takes the exit codes of adopted children that have ended. `own` is waited for by somebody else.
pub(super) fn reap(own: Option<i32>) {
    for child in children() {
        if Some(child.as_raw_nonzero().get()) != own {
            collect(child);
        }
    }
}

fn collect(child: Pid) {
    match waitpid(Some(child), WaitOptions::NOHANG) {
        Ok(_) | Err(rustix::io::Errno::CHILD) => {}
        Err(error) => tracing::debug!(%error, "an adopted process can't be waited for"),
    }
}

/// Kills every child, and what those leave behind in turn, until there is none. Whether there is none. Only for when the app itself has been
/// waited for.
pub(super) async fn kill() -> bool {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let left = children();
        if left.is_empty() {
            return true;
        }
        for child in left {
            // A child's number is not given away before it is reaped, so this hits nobody else.
            if let Err(error) = kill_process(child, Signal::KILL)
                && error != rustix::io::Errno::SRCH
            {
                tracing::warn!(%error, "a process of the app can't be killed");
            }
            collect(child);
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_hides_no_parent() {
        assert_eq!(parent("12 (a) b) c) S 34 12 12 0"), Some(34));
        assert_eq!(parent("12 (a"), None);
    }

    #[test]
    fn both_ways_find_a_child() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = (listed().is_none_or(|list| list.contains(&pid)), searched().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, (true, true));
    }
}
