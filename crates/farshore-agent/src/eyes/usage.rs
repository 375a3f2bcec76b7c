//! What each app uses, from its control groups, or from its processes where it has none.

use farshore_collect::{AppUsage, Roots, process_tree};

use super::AppTally;
use crate::runner::apps::Apps;

/// What every app uses now. Apps that do not run are left out.
pub(super) fn of_apps(apps: &Apps) -> std::collections::BTreeMap<farshore_domain::name::Name, AppTally> {
    let roots = Roots::default();
    let mut tallies = std::collections::BTreeMap::new();
    for (app, group, status) in apps.statuses() {
        let Some(process) = status.process.filter(|process| process.is_alive()) else { continue };
        let group = apps.cgroups.path_of(&group);
        let by_group = group.and_then(|path| AppUsage::of_cgroup(&roots, &path).ok());
        let pid = u32::try_from(process.pid).unwrap_or_default();
        let usage = by_group
            .filter(|usage| usage.cpu_us.is_some() && usage.memory_bytes.is_some())
            .unwrap_or_else(|| AppUsage::of_processes(&roots, &process_tree(&roots, pid)));
        let tally: &mut AppTally = tallies.entry(app).or_default();
        // Two instances of an app with slots use what they use together.
        add(&mut tally.cpu_us, usage.cpu_us);
        add(&mut tally.memory_bytes, usage.memory_bytes);
        tally.processes = match (tally.processes, usage.processes) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        add(&mut tally.read_bytes, usage.read_bytes);
        add(&mut tally.written_bytes, usage.written_bytes);
    }
    tallies
}

fn add(sum: &mut Option<u64>, more: Option<u64>) {
    *sum = match (*sum, more) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
}
