//! Virtual devices in a few places: tills and kiosks.

use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_sim::{Fault, FaultKind, FleetOptions, Group, VirtualFleet};

use crate::client::Client;
use crate::dev::demo::{self, DRIVER_KEY, DRIVER_VALUE};
use crate::dev::folder::Folder;
use crate::dev::steps::Steps;
use crate::failure::{Failure, Result};

/// One kind of device in one place.
#[derive(Clone, Copy, Debug)]
struct Place {
    site: &'static str,
    location: &'static str,
    kind: &'static str,
    channel: &'static str,
    /// `v2` is the panel that release 1.1 can't drive.
    panel: &'static str,
    /// Of a hundred devices.
    share: u32,
}

const fn place(
    site: &'static str,
    location: &'static str,
    kind: &'static str,
    channel: &'static str,
    panel: &'static str,
    share: u32,
) -> Place {
    Place { site, location, kind, channel, panel, share }
}

/// The canary shop has no kiosks: that is why the bad release gets past it.
const PLACES: &[Place] = &[
    place("riga", "Riga", "till", "prod", "v1", 16),
    place("riga", "Riga", "kiosk", "prod", "v2", 14),
    place("berlin", "Berlin", "till", "prod", "v1", 16),
    place("berlin", "Berlin", "kiosk", "prod", "v2", 14),
    place("oslo", "Oslo", "kiosk", "prod", "v2", 14),
    place("oslo", "Oslo", "till", "dev", "v1", 10),
    place("porto", "Porto", "till", "canary", "v1", 16),
];

/// How many of `total` each place gets; together exactly `total`.
fn counts(total: u32) -> Vec<u32> {
    let mut reached = 0;
    let mut given = 0;
    PLACES
        .iter()
        .map(|place| {
            reached += place.share;
            let upto = u32::try_from(u64::from(total) * u64::from(reached) / 100).unwrap_or(total);
            let count = upto - given;
            given = upto;
            count
        })
        .collect()
}

/// Starts the fleet; those devices that were not claimed before get a token.
pub(crate) async fn start(
    client: &Client,
    folder: &Folder,
    device_url: &str,
    total: u32,
    steps: &Steps,
) -> Result<VirtualFleet> {
    let what = "can't start the virtual devices";
    let mut options = FleetOptions::new(folder.join("virtual"));
    options.device_url = Some(device_url.to_owned());
    options.max_backoff_ms = 5_000;
    let mut fault = Fault::of(demo::app()?, demo::bad_version()?, FaultKind::NeverHealthy);
    fault.config = Some((DRIVER_KEY.to_owned(), DRIVER_VALUE.to_owned()));
    options.behaviours.faults.push(fault);
    let mut missing = 0;
    for (place, count) in PLACES.iter().zip(counts(total)) {
        if count == 0 {
            continue;
        }
        let name = format!("{}-{}", place.kind, place.site);
        let labels = Labels::try_from([
            ("site", place.site),
            ("kind", place.kind),
            ("panel", place.panel),
            ("demo", "virtual"),
        ])
        .map_err(|error| Failure::because(what, &error))?;
        let known =
            demo::count(client, &format!("demo=virtual,site={},kind={}", place.site, place.kind)).await?;
        let token = if known >= u64::from(count) {
            None
        } else {
            missing += u64::from(count) - known;
            Some(demo::claim_token(client, &labels, place.channel, place.location, count).await?)
        };
        let name = Name::new(name).map_err(|error| Failure::because(what, &error))?;
        let mut group = Group::new(name, count, token.map(|token| token.to_string()));
        group.labels = labels;
        group.model = if place.kind == "till" { "Till T4" } else { "Kiosk K7" }.to_owned();
        options.groups.push(group);
    }
    let step = steps.begin("virtual devices claim themselves", Some(missing));
    let fleet = VirtualFleet::start(options).map_err(|error| Failure::because(what, &error))?;
    let stats = fleet.stats();
    // Less than were asked for where a kill came between a claim and its being kept: those stay offline.
    let all = fleet.devices() as u64;
    let begin = std::time::Instant::now();
    // They come by themselves; a few that are late are no reason to keep a person waiting.
    while stats.online() < all && begin.elapsed() < std::time::Duration::from_secs(30) {
        step.at(stats.claims());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    step.done(&format!("{} of {total} virtual devices online", stats.online()));
    Ok(fleet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_a_place() {
        assert_eq!(PLACES.iter().map(|place| place.share).sum::<u32>(), 100);
        for total in [0, 1, 7, 50, 1_000] {
            assert_eq!(counts(total).iter().sum::<u32>(), total);
        }
    }
}
