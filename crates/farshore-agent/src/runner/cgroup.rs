//! Control groups, version 2 and 1, and both at once (a hybrid hierarchy): a group for each app, and one more for its second slot.
//!
//! Whatever is not there or not writable is left out, and said in the capabilities.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use farshore_domain::release::Limits;

/// One CPU period in microseconds, for both versions.
const CPU_PERIOD_US: u64 = 100_000;

/// The hierarchies that may be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cgroups {
    group: String,
    v2: Option<PathBuf>,
    v2_controllers: Vec<String>,
    v1_memory: Option<PathBuf>,
    v1_cpu: Option<PathBuf>,
    v1_pids: Option<PathBuf>,
}

/// Makes a group of its own under a hierarchy's root; `None` where that can't be done.
fn own_group(root: &Path, group: &str, marker: &str) -> Option<PathBuf> {
    let base = root.join(group);
    match fs::create_dir(&base) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return None,
        _ => {}
    }
    base.join(marker).exists().then_some(base)
}

impl Cgroups {
    /// Looks at what is mounted at `root` (`/sys/fs/cgroup`) and makes `group` in each hierarchy.
    pub(crate) fn detect(root: &Path, group: &str) -> Self {
        let unified = [root.to_path_buf(), root.join("unified")]
            .into_iter()
            .find(|candidate| candidate.join("cgroup.controllers").exists());
        let mut found = Self { group: group.to_owned(), ..Self::default() };
        if let Some(unified) = unified {
            // Refused where systemd keeps them; then they are on already or not to be had.
            enable(&unified);
            if let Some(base) = own_group(&unified, group, "cgroup.procs") {
                enable(&base);
                let enabled = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
                found.v2_controllers = enabled.split_whitespace().map(str::to_owned).collect();
                found.v2 = Some(base);
            }
        }
        found.v1_memory = own_group(&root.join("memory"), group, "memory.limit_in_bytes");
        found.v1_cpu = own_group(&root.join("cpu"), group, "cpu.cfs_quota_us");
        found.v1_pids = own_group(&root.join("pids"), group, "cgroup.procs");
        found
    }

    fn has_v2(&self, controller: &str) -> bool {
        self.v2_controllers.iter().any(|enabled| enabled == controller)
    }

    /// Words for `hello`.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut say = |condition: bool, word: &str| {
            if condition {
                words.push(word.to_owned());
            }
        };
        say(self.v2.is_some(), "cgroup-v2");
        say(self.v1_memory.is_some() || self.v1_cpu.is_some() || self.v1_pids.is_some(), "cgroup-v1");
        say(self.has_v2("memory") || self.v1_memory.is_some(), "limit-memory");
        say(self.has_v2("cpu") || self.v1_cpu.is_some(), "limit-cpu");
        say(self.has_v2("pids") || self.v1_pids.is_some(), "limit-processes");
        words
    }

    /// The folders of an app's groups, there or not.
    pub(crate) fn folders(&self, group: &str) -> Vec<PathBuf> {
        [&self.v2, &self.v1_memory, &self.v1_cpu, &self.v1_pids]
            .into_iter()
            .flatten()
            .map(|base| base.join(group))
            .collect()
    }

    /// An app's folder in the version 2 hierarchy; the kernel knows the group by its inode.
    pub(crate) fn folder_v2(&self, group: &str) -> Option<PathBuf> {
        self.v2.as_ref().map(|base| base.join(group))
    }

    /// An app's group as `/proc/<pid>/cgroup` names it, in whichever hierarchies it is; `None` where there are none.
    pub(crate) fn path_of(&self, group: &str) -> Option<String> {
        let any = [&self.v2, &self.v1_memory, &self.v1_cpu, &self.v1_pids].into_iter().any(Option::is_some);
        any.then(|| format!("/{}/{group}", self.group))
    }

    /// Makes an app's groups and sets its limits.
    pub(crate) fn prepare(&self, group: &str, limits: &Limits) -> io::Result<Vec<PathBuf>> {
        let folders = self.folders(group);
        for folder in &folders {
            match fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let memory = limits.memory_bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        let pids = limits.processes.map_or_else(|| "max".to_owned(), |count| count.to_string());
        let quota = limits.cpu_millis.map(|millis| (u64::from(millis) * CPU_PERIOD_US / 1_000).max(1_000));
        if let Some(base) = &self.v2 {
            let folder = base.join(group);
            if self.has_v2("memory") {
                fs::write(folder.join("memory.max"), &memory)?;
            }
            if self.has_v2("pids") {
                fs::write(folder.join("pids.max"), &pids)?;
            }
            if self.has_v2("cpu") {
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                fs::write(folder.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
            }
        }
        if let Some(base) = &self.v1_memory {
            let value = if limits.memory_bytes.is_some() { memory } else { "-1".to_owned() };
            fs::write(base.join(group).join("memory.limit_in_bytes"), value)?;
        }
        if let Some(base) = &self.v1_cpu {
            let folder = base.join(group);
            fs::write(folder.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
            let quota = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
            fs::write(folder.join("cpu.cfs_quota_us"), quota)?;
        }
        if let Some(base) = &self.v1_pids {
            fs::write(base.join(group).join("pids.max"), pids)?;
        }
        Ok(folders)
    }

    /// Removes an app's empty groups.
    pub(crate) fn remove(&self, group: &str) {
        for folder in self.folders(group) {
            if let Err(error) = fs::remove_dir(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(folder = %folder.display(), %error, "control group is still in use");
            }
        }
    }
}

fn enable(folder: &Path) {
    for controller in ["+memory", "+cpu", "+pids"] {
        if let Err(error) = fs::write(folder.join("cgroup.subtree_control"), controller) {
            tracing::debug!(folder = %folder.display(), controller, %error, "controller can't be enabled here");
        }
    }
}

/// Puts this process into the groups.
pub(crate) fn join(folders: &[PathBuf]) -> io::Result<()> {
    for folder in folders {
        fs::write(folder.join("cgroup.procs"), "0")?;
    }
    Ok(())
}

/// Whether something is in the groups.
pub(crate) fn is_used(folders: &[PathBuf]) -> bool {
    let processes = |folder: &PathBuf| fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    folders.iter().any(|folder| !processes(folder).trim().is_empty())
}

/// Sends SIGKILL to everything in the groups; true when something was there. Called again until nothing is.
pub(crate) fn kill_all(folders: &[PathBuf]) -> bool {
    let mut any = false;
    for folder in folders {
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        if processes.trim().is_empty() {
            continue;
        }
        any = true;
        if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
            continue;
        }
        for pid in processes.lines().filter_map(|line| line.trim().parse().ok()) {
            let Some(pid) = rustix::process::Pid::from_raw(pid) else { continue };
            if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                && error != rustix::io::Errno::SRCH
            {
                tracing::warn!(pid = pid.as_raw_nonzero().get(), %error, "can't kill a process of the app");
            }
        }
    }
    any
}
