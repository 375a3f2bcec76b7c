//! Fleets to forecast for.

use farshore_domain::device::{AppPhase, Reachability};
use farshore_domain::forecast::{DeviceHistory, History};
use farshore_domain::id::{DeviceId, ReleaseId, RolloutId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::rollout::{
    AppReport, DeviceView, FleetView, KnownRelease, ReleaseRef, Rollout, RolloutSpec, WaveSpec,
};
use farshore_domain::time::UnixMs;
use uuid::Uuid;

pub(crate) const NOW: UnixMs = UnixMs(1_700_000_000_000);

pub(crate) fn release(number: u32) -> KnownRelease {
    KnownRelease {
        uid: ReleaseId(Uuid::from_u128(0xE000_0000 + u128::from(number))),
        version: format!("1.{number}").parse().unwrap(),
    }
}

pub(crate) fn device_id(number: u32) -> DeviceId {
    DeviceId(Uuid::from_u128(0xD000_0000 + u128::from(number)))
}

/// Ten locations, three models; every `away`th device is offline, none with 0.
pub(crate) fn fleet(size: u32, away: u32) -> FleetView {
    FleetView::new((0..size).map(|number| {
        let mut device = DeviceView::new(device_id(number), Name::new(format!("kiosk-{number}")).unwrap());
        let location = format!("store-{}", number % 10);
        let model = format!("m{}", number % 3);
        device.labels =
            Labels::try_from([("location", location.as_str()), ("model", model.as_str())]).unwrap();
        device.last_seen = Some(NOW);
        if away > 0 && number % away == 0 {
            device.reachability = Reachability::Offline;
        }
        device.app = AppReport {
            active: Some(release(0).uid),
            committed: true,
            phase: AppPhase::Running,
            ..AppReport::default()
        };
        device
    }))
}

pub(crate) fn spec(percents: &[u8], soak_seconds: u32) -> RolloutSpec {
    let release = ReleaseRef::Uid(release(1).uid);
    RolloutSpec {
        waves: percents.iter().map(|percent| WaveSpec::percent(*percent).soak(soak_seconds)).collect(),
        ..RolloutSpec::new(Name::new("web").unwrap(), Name::new("prod").unwrap(), release)
    }
}

pub(crate) fn rollout(spec: RolloutSpec) -> Rollout {
    let id = RolloutId(Uuid::from_u128(0xF000_0001));
    Rollout::new(id, Name::new("web-1.1").unwrap(), spec, Some(release(0)), release(1), "ada", NOW).unwrap()
}

pub(crate) fn started(spec: RolloutSpec, view: &FleetView) -> Rollout {
    let mut rollout = rollout(spec);
    rollout.start(Some(release(0)), view, "ada", None, NOW).unwrap();
    rollout
}

/// Every device took these install times before, and was online for this share of the time.
pub(crate) fn past(view: &FleetView, install_seconds: &[u32], online_percent: u8, absence: u32) -> History {
    let device = DeviceHistory {
        install_seconds: install_seconds.to_vec(),
        online_percent: Some(online_percent),
        absence_seconds: Some(absence),
        ..DeviceHistory::default()
    };
    History { devices: view.iter().map(|known| (known.id, device.clone())).collect() }
}
