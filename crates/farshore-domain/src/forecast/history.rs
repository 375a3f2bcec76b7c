//! What devices did before, and what follows for the next time.

use std::collections::BTreeMap;

use super::random::{Random, whole_ms};
use crate::device::Reachability;
use crate::id::DeviceId;
use crate::rollout::FleetView;
use crate::time::{HOUR_MS, SECOND_MS, UnixMs};

/// At most this many past install times of the whole fleet are drawn from.
const POOL: usize = 10_000;
/// Without any past install time: the middle of what is drawn, and how far it spreads (deviation of the logarithm).
const INSTALL_SECONDS: f64 = 45.0;
const INSTALL_SPREAD: f64 = 0.4;
/// Without any past absence.
const ABSENCE_SECONDS: u32 = 8 * 3_600;

/// What is known of the past. A device that is missing behaves like the rest of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub devices: BTreeMap<DeviceId, DeviceHistory>,
}

/// One device's past. What is empty comes from the other devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceHistory {
    /// How long past activations took, from the permit to the commit, its soak on the device included.
    pub install_seconds: Vec<u32>,
    /// How long it took to download and unpack a release.
    pub stage_seconds: Vec<u32>,
    /// In how many percent of the time it was online.
    pub online_percent: Option<u8>,
    /// The same for each hour of the day, in UTC.
    pub online_by_hour: Option<[u8; 24]>,
    /// How long it stays away when it goes, on average.
    pub absence_seconds: Option<u32>,
}

/// How much of a forecast rests on the devices' own past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Basis {
    /// Devices with install times of their own; the others take those of the fleet.
    pub devices_with_install_times: u32,
    /// Past install times in all. With none, 45 s are assumed.
    pub install_times: u32,
    /// Devices whose time online is known; the others take the fleet's mean.
    pub devices_with_presence: u32,
}

/// What is drawn for one device.
#[derive(Clone, Debug)]
struct Habit {
    installs: Vec<u32>,
    stages: Vec<u32>,
    presence: Presence,
}

#[derive(Clone, Debug)]
enum Presence {
    Always,
    /// Share of the time online, and the mean absence.
    Steady {
        share: f64,
        absence_ms: f64,
    },
    ByHour {
        shares: Box<[f64; 24]>,
        absence_ms: f64,
    },
}

/// The habits of a fleet's devices, in the order of the view.
#[derive(Clone, Debug)]
pub struct Habits {
    devices: Vec<Habit>,
    installs: Vec<u32>,
    stages: Vec<u32>,
    pub(super) basis: Basis,
}

fn median(values: &mut [u32]) -> Option<u32> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn percent(share: u8) -> f64 {
    f64::from(share.min(100)) / 100.0
}

impl Habits {
    /// What `history` says of the devices of `view`.
    #[must_use]
    pub fn new(history: &History, view: &FleetView) -> Self {
        let mut basis = Basis::default();
        let (mut installs, mut stages, mut absences) = (Vec::new(), Vec::new(), Vec::new());
        let (mut online, mut known) = (0.0, 0.0);
        for past in view.iter().filter_map(|device| history.devices.get(&device.id)) {
            basis.devices_with_install_times += u32::from(!past.install_seconds.is_empty());
            basis.install_times =
                basis.install_times.saturating_add(u32::try_from(past.install_seconds.len()).unwrap_or(0));
            let room = POOL.saturating_sub(installs.len());
            installs.extend(past.install_seconds.iter().take(room));
            let room = POOL.saturating_sub(stages.len());
            stages.extend(past.stage_seconds.iter().take(room));
            absences.extend(past.absence_seconds);
            if let Some(share) = past.online_percent {
                basis.devices_with_presence += 1;
                online += percent(share);
                known += 1.0;
            }
        }
        let absence_ms = |own: Option<u32>| {
            f64::from(own.unwrap_or_default().max(1)) * f64::from(u32::try_from(SECOND_MS).unwrap_or(1_000))
        };
        let usual_absence = median(&mut absences).unwrap_or(ABSENCE_SECONDS);
        let usual_share = (known > 0.0).then(|| online / known);
        let devices = view
            .iter()
            .map(|device| {
                let past = history.devices.get(&device.id);
                let absence_ms =
                    absence_ms(past.and_then(|past| past.absence_seconds).or(Some(usual_absence)));
                let share = past.and_then(|past| past.online_percent).map(percent).or(usual_share);
                let away = device.reachability != Reachability::Online;
                let presence = match (past.and_then(|past| past.online_by_hour), share) {
                    (Some(shares), _) => {
                        Presence::ByHour { shares: Box::new(shares.map(percent)), absence_ms }
                    }
                    (None, Some(share)) if share < 0.999 => Presence::Steady { share, absence_ms },
                    // Nothing is known of it: when it is back, it stays.
                    _ if away => Presence::Steady { share: 0.999, absence_ms },
                    _ => Presence::Always,
                };
                Habit {
                    installs: past.map(|past| past.install_seconds.clone()).unwrap_or_default(),
                    stages: past.map(|past| past.stage_seconds.clone()).unwrap_or_default(),
                    presence,
                }
            })
            .collect();
        Self { devices, installs, stages, basis }
    }

    /// The middle of the fleet's install times.
    pub(super) fn usual_install_ms(&self) -> i64 {
        let mut all = self.installs.clone();
        median(&mut all)
            .map_or_else(|| whole_ms(INSTALL_SECONDS * 1_000.0), |s| i64::from(s.max(1)) * SECOND_MS)
    }

    fn drawn(own: Option<&Vec<u32>>, fleet: &[u32], random: &mut Random) -> Option<f64> {
        let from = own.filter(|own| !own.is_empty()).map_or(fleet, Vec::as_slice);
        let seconds = from.get(random.below(from.len()))?;
        // Past times are whole seconds and few; the next one is a little different.
        Some(f64::from((*seconds).max(1)) * (0.9 + 0.2 * random.unit()))
    }

    pub(super) fn install_ms(&self, device: usize, random: &mut Random) -> i64 {
        let own = self.devices.get(device).map(|habit| &habit.installs);
        let seconds = Self::drawn(own, &self.installs, random)
            .unwrap_or_else(|| INSTALL_SECONDS * (INSTALL_SPREAD * random.normal()).exp());
        whole_ms(seconds * 1_000.0)
    }

    /// None when nothing is known: then staging takes no time of its own.
    pub(super) fn stage_ms(&self, device: usize, random: &mut Random) -> Option<i64> {
        let own = self.devices.get(device).map(|habit| &habit.stages);
        Self::drawn(own, &self.stages, random).map(|seconds| whole_ms(seconds * 1_000.0))
    }

    /// When a device that is online or not now will next come or go; none for never.
    pub(super) fn next_flip(
        &self,
        device: usize,
        online: bool,
        now: UnixMs,
        random: &mut Random,
    ) -> Option<UnixMs> {
        match &self.devices.get(device)?.presence {
            Presence::Always if online => None,
            Presence::Always => Some(now.plus_ms(1)),
            Presence::Steady { share, .. } if online && *share >= 0.999 => None,
            Presence::Steady { share, .. } if !online && *share < 0.001 => None,
            Presence::Steady { share, absence_ms } => {
                let mean = if online { absence_ms * share.max(0.001) / (1.0 - share) } else { *absence_ms };
                Some(now.plus_ms(random.wait_ms(mean)))
            }
            Presence::ByHour { shares, absence_ms } => by_hour(shares, *absence_ms, online, now, random),
        }
    }
}

/// Once in each mean absence (at least each hour) the device decides anew, with the share of that hour, whether it is there.
fn by_hour(
    shares: &[f64; 24],
    absence_ms: f64,
    online: bool,
    now: UnixMs,
    random: &mut Random,
) -> Option<UnixMs> {
    const HOURS: i64 = 24 * 30;
    #[expect(clippy::cast_precision_loss, reason = "an hour is far below 2^52 ms")]
    let anew = (HOUR_MS as f64 / absence_ms).min(1.0);
    let first = now.0.div_euclid(HOUR_MS) + 1;
    for hour in first..first + HOURS {
        let share = usize::try_from(hour.rem_euclid(24)).ok().and_then(|of_day| shares.get(of_day));
        if random.unit() < anew && (random.unit() < *share?) != online {
            let within = random.unit() * 0.99;
            #[expect(clippy::cast_precision_loss, reason = "an hour is far below 2^52 ms")]
            let offset = whole_ms(within * HOUR_MS as f64);
            return Some(UnixMs(hour.saturating_mul(HOUR_MS)).plus_ms(offset));
        }
    }
    None
}
