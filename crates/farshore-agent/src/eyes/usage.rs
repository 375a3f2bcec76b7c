//! What each app uses, from its control groups, or from its processes where it has none.

use farshore_collect::{AppUsage, Roots, process_tree};

use super::AppTally;
use crate::runner::apps::Apps;

/// What every app uses now. Apps that do not run are left out.
pub(super) fn of_apps(apps: &Apps) -> std::collections::BTreeMap<farshore_domain::name::Name, AppTally> {
    let roots = Roots::default();
    let mut tallies = std::collections::BTreeMap::new();
    for app in apps.names() {
        let Some(process) = apps.status_of(&app).and_then(|status| status.process) else { continue };
        if !process.is_alive() {
            continue;
        }
        let group = apps.cgroups.path_of(&app);
        let by_group = group.and_then(|path| AppUsage::of_cgroup(&roots, &path).ok());
        let pid = u32::try_from(process.pid).unwrap_or_default();
        let usage = by_group
            .filter(|usage| usage.cpu_us.is_some() && usage.memory_bytes.is_some())
            .unwrap_or_else(|| AppUsage::of_processes(&roots, &process_tree(&roots, pid)));
        let tally = AppTally {
            cpu_us: usage.cpu_us,
            memory_bytes: usage.memory_bytes,
            processes: usage.processes,
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
        };
        tallies.insert(app, tally);
    }
    tallies
}
