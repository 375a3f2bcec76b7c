//! The past that a forecast draws from: how long apps took to change, and when devices were away.

use std::collections::BTreeMap;

use farshore_domain::device::AppPhase;
use farshore_domain::forecast::{DeviceHistory, History};
use farshore_domain::id::DeviceId;
use farshore_domain::name::Name;
use farshore_domain::time::{DAY_MS, HOUR_MS, SECOND_MS, UnixMs};
use farshore_store::past::{Absence, AppChanged};
use farshore_store::{StoreResult, TenantDb};
use uuid::Uuid;

use crate::fleet::snapshot::Snapshot;

/// So far back.
const WINDOW_MS: i64 = 30 * DAY_MS;
/// At most this many events of a kind.
const EVENTS: u32 = 50_000;
/// At most this many past times of one device.
const TIMES: usize = 20;
/// Presence by the hour needs this many days of it.
const DAYS_FOR_HOURS: i64 = 7;

/// Reads what events tell of the devices of a tenant and of one app on them.
pub(super) async fn read(
    db: &TenantDb,
    snapshot: &Snapshot,
    app: &Name,
    now: UnixMs,
) -> StoreResult<History> {
    let since = now.plus_ms(-WINDOW_MS);
    let mut history = History::default();
    let mut changes: BTreeMap<DeviceId, Vec<AppChanged>> = BTreeMap::new();
    for change in db.past_app_changes(app.as_str(), since, EVENTS).await? {
        changes.entry(change.device).or_default().push(change);
    }
    for (device, changes) in changes {
        let past = history.devices.entry(device).or_default();
        (past.stage_seconds, past.install_seconds) = times(&changes);
    }
    let mut absences: BTreeMap<DeviceId, Vec<Absence>> = BTreeMap::new();
    for absence in db.past_absences(since, EVENTS).await? {
        absences.entry(absence.device).or_default().push(absence);
    }
    for device in snapshot.devices.values() {
        let list = absences.remove(&device.id).unwrap_or_default();
        presence(history.devices.entry(device.id).or_default(), &list, (since, now));
    }
    Ok(history)
}

/// How long downloads and activations took, in seconds, from the phases that a device reported.
fn times(changes: &[AppChanged]) -> (Vec<u32>, Vec<u32>) {
    let (mut stages, mut installs) = (Vec::new(), Vec::new());
    let mut download: Option<UnixMs> = None;
    let mut trial: Option<(UnixMs, Uuid)> = None;
    let mut before: Option<Uuid> = None;
    for change in changes {
        match change.phase {
            AppPhase::Downloading => download = download.or(Some(change.at)),
            AppPhase::Staged => stages.extend(download.take().map(|from| seconds(from, change.at))),
            AppPhase::Starting | AppPhase::Soaking => {
                if let Some(release) = change.active_release
                    && before != Some(release)
                    && trial.is_none_or(|(_, on_trial)| on_trial != release)
                {
                    trial = Some((change.at, release));
                }
            }
            AppPhase::Running => {
                if let Some((from, release)) = trial.take()
                    && change.active_release == Some(release)
                {
                    installs.push(seconds(from, change.at));
                }
                before = change.active_release;
            }
            _ => (download, trial) = (None, None),
        }
    }
    let newest = |mut list: Vec<u32>| list.split_off(list.len().saturating_sub(TIMES));
    (newest(stages), newest(installs))
}

fn seconds(from: UnixMs, to: UnixMs) -> u32 {
    u32::try_from((to.since_ms(from) / SECOND_MS).max(1)).unwrap_or(u32::MAX)
}

/// The share of the time since the device was first away; without an absence nothing is known.
fn presence(past: &mut DeviceHistory, absences: &[Absence], (since, now): (UnixMs, UnixMs)) {
    let Some(first) = absences.first() else { return };
    // Before the first absence nobody knows how long it had been there: a window that begins with an absence would count it as
    // away too often, so that one day is added.
    let begin = since.max(first.from.plus_ms(-DAY_MS));
    let whole = now.since_ms(begin).max(1);
    let away: i64 = absences.iter().map(|a| a.to.since_ms(a.from.max(begin))).sum();
    past.online_percent = share(whole - away, whole);
    let count = i64::try_from(absences.len()).unwrap_or(1).max(1);
    past.absence_seconds = u32::try_from(away / count / SECOND_MS).ok().filter(|seconds| *seconds > 0);
    if whole < DAYS_FOR_HOURS * DAY_MS {
        return;
    }
    let mut away = [0_i64; 24];
    let days = (whole + DAY_MS - 1) / DAY_MS;
    for absence in absences {
        let mut at = absence.from.max(begin);
        while at < absence.to {
            let hour = at.0.div_euclid(HOUR_MS);
            let next = UnixMs((hour + 1) * HOUR_MS).min(absence.to);
            let of_day = usize::try_from(hour.rem_euclid(24)).unwrap_or(0);
            if let Some(away) = away.get_mut(of_day) {
                *away += next.since_ms(at);
            }
            at = next;
        }
    }
    let an_hour_each_day = days * HOUR_MS;
    past.online_by_hour =
        Some(away.map(|away| share(an_hour_each_day - away, an_hour_each_day).unwrap_or(100)));
}

/// In percent, 0 to 100.
fn share(part: i64, whole: i64) -> Option<u8> {
    u8::try_from(part.max(0).saturating_mul(100).checked_div(whole)?).ok().map(|share| share.min(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(at: i64, phase: AppPhase, release: u128) -> AppChanged {
        AppChanged {
            device: DeviceId(Uuid::nil()),
            at: UnixMs(at * SECOND_MS),
            phase,
            active_release: Some(Uuid::from_u128(release)),
        }
    }

    #[test]
    fn downloads_and_trials_are_timed_and_what_failed_is_not() {
        let changes = [
            change(0, AppPhase::Running, 1),
            change(10, AppPhase::Downloading, 1),
            change(25, AppPhase::Staged, 1),
            change(100, AppPhase::Starting, 2),
            change(110, AppPhase::Soaking, 2),
            change(160, AppPhase::Running, 2),
            // A restart of what runs already is no install.
            change(200, AppPhase::Starting, 2),
            change(205, AppPhase::Running, 2),
            change(300, AppPhase::Starting, 3),
            change(310, AppPhase::RollingBack, 3),
            change(320, AppPhase::Running, 2),
        ];
        assert_eq!(times(&changes), (vec![15], vec![60]));
    }

    #[test]
    fn absences_become_a_share_of_the_time_and_of_each_hour() {
        let now = UnixMs(20 * DAY_MS);
        let since = UnixMs(0);
        let nights: Vec<Absence> = (5..20)
            .map(|day| Absence {
                device: DeviceId(Uuid::nil()),
                from: UnixMs(day * DAY_MS),
                to: UnixMs(day * DAY_MS + 6 * HOUR_MS),
            })
            .collect();
        let mut past = DeviceHistory::default();
        presence(&mut past, &nights, (since, now));
        assert_eq!((past.online_percent, past.absence_seconds), (Some(76), Some(6 * 3_600)));
        let hours = past.online_by_hour.unwrap();
        assert!(hours[..6].iter().all(|share| *share < 10), "{hours:?}");
        assert!(hours[6..].iter().all(|share| *share == 100), "{hours:?}");
        let mut new = DeviceHistory::default();
        presence(&mut new, &[], (since, now));
        assert_eq!(new, DeviceHistory::default());
    }
}
