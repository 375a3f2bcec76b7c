//! What a virtual fleet is made of, and how it behaves.

use std::path::PathBuf;

use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::selector::Selector;
use farshore_domain::version::Version;

use crate::dice::Dice;

/// How a fleet is set up.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Keys, certificates and what the machines remember are kept here, so that a fleet that is started again is the
    /// same one.
    pub folder: PathBuf,
    pub groups: Vec<Group>,
    pub seed: u64,
    pub behaviours: Behaviours,
    /// Where the device port is now (`https://host:port`), when not where the claim token says.
    pub device_url: Option<String>,
    /// At most this many connections or claims are begun at the same time.
    pub max_connecting: usize,
    /// The longest pause before another attempt to connect; the first is at most a second. Full jitter.
    pub max_backoff_ms: u32,
    /// Devices connect from `127.x.y.z` when the device port is on this machine: as many devices as this share one address.
    pub devices_per_address: u32,
    /// Tells fleets in several processes apart: moves the source addresses.
    pub address_block: u8,
}

impl FleetOptions {
    /// A fleet kept in `folder`, without devices.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            groups: Vec::new(),
            seed: 1,
            behaviours: Behaviours::default(),
            device_url: None,
            max_connecting: 64,
            max_backoff_ms: 30_000,
            devices_per_address: 200,
            address_block: 1,
        }
    }
}

/// Devices that are alike.
#[derive(Clone, Debug)]
pub struct Group {
    /// Prefix of the devices' host names, which become their names: `berlin` gives `berlin-001`, …
    pub name: Name,
    pub count: u32,
    /// The claim token's text; only devices that were claimed before start without one.
    pub claim_token: Option<String>,
    /// Labels the devices claim themselves with, and by which [`Fault`]s choose; give those of the claim token too.
    pub labels: Labels,
    /// The hardware model they claim to be.
    pub model: String,
    /// As Rust spells it; releases need a platform for it.
    pub arch: String,
}

impl Group {
    /// A group of this machine's own architecture.
    #[must_use]
    pub fn new(name: Name, count: u32, claim_token: Option<String>) -> Self {
        Self {
            name,
            count,
            claim_token,
            labels: Labels::default(),
            model: "Virtual Edge V1".to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
        }
    }
}

/// How the virtual machines behave. Ranges are drawn from evenly, both ends included.
#[derive(Clone, Debug)]
pub struct Behaviours {
    /// How long staging a release takes, in milliseconds.
    pub stage_ms: (u32, u32),
    /// How long a start or stop takes, in milliseconds.
    pub start_ms: (u32, u32),
    /// How long after its start an app's checks are good for the first time, in milliseconds.
    pub healthy_ms: (u32, u32),
    /// This percentage of the devices takes ten times as long for all of that.
    pub slow_percent: u8,
    pub faults: Vec<Fault>,
    pub outages: Option<Outages>,
    /// Events that each device makes up, a second. None by default.
    pub events_per_second: f64,
}

impl Default for Behaviours {
    fn default() -> Self {
        Self {
            stage_ms: (400, 2_500),
            start_ms: (100, 600),
            healthy_ms: (200, 1_200),
            slow_percent: 0,
            faults: Vec::new(),
            outages: None,
            events_per_second: 0.0,
        }
    }
}

/// Something that goes wrong with a release on some devices. All conditions must hold.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `None`: any app.
    pub app: Option<Name>,
    /// `None`: any version.
    pub version: Option<Version>,
    /// Of the labels in [`Group::labels`].
    pub selector: Selector,
    /// The app's config has this value.
    pub config: Option<(String, String)>,
    /// Of the devices that match so far, this percentage; always the same ones for a seed.
    pub percent: u8,
    pub kind: FaultKind,
}

impl Fault {
    /// A fault of one version of an app, on all devices.
    #[must_use]
    pub fn of(app: Name, version: Version, kind: FaultKind) -> Self {
        Self {
            app: Some(app),
            version: Some(version),
            selector: Selector::default(),
            config: None,
            percent: 100,
            kind,
        }
    }

    /// Only on devices with these labels.
    #[must_use]
    pub fn on(mut self, selector: Selector) -> Self {
        self.selector = selector;
        self
    }

    /// Only on this percentage of them.
    #[must_use]
    pub fn percent(mut self, percent: u8) -> Self {
        self.percent = percent;
        self
    }
}

/// How a release fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It ends soon after each start.
    Crashes,
    /// Its checks never get good.
    NeverHealthy,
    /// Its checks are good at first and fail this long after its start.
    FailsAfterMs(u32),
}

/// Devices that lose their connection and come back.
#[derive(Clone, Copy, Debug)]
pub struct Outages {
    /// Of all devices, this percentage is affected.
    pub percent: u8,
    /// Seconds of connection between two outages.
    pub every_seconds: (u32, u32),
    /// Seconds of an outage.
    pub for_seconds: (u32, u32),
}

/// Purposes of dice, so that one more draw for one thing does not change another.
pub(crate) const DICE_DEVICE: u64 = 1;
pub(crate) const DICE_SLOW: u64 = 2;
pub(crate) const DICE_FAULT: u64 = 3;
pub(crate) const DICE_OUTAGE: u64 = 4;
pub(crate) const DICE_WALK: u64 = 5;

impl Behaviours {
    /// Whether the device with this key takes ten times as long.
    #[must_use]
    pub fn is_slow(&self, seed: u64, device: u64) -> bool {
        Dice::new(seed, &[DICE_SLOW, device]).between(0, 99) < self.slow_percent.into()
    }

    /// Whether the device with this key has outages.
    #[must_use]
    pub fn has_outages(&self, seed: u64, device: u64) -> bool {
        self.outages.is_some_and(|outages| {
            Dice::new(seed, &[DICE_OUTAGE, device]).between(0, 99) < outages.percent.into()
        })
    }

    /// What goes wrong with this version of this app on this device; the first rule that matches.
    #[must_use]
    pub fn fault(
        &self,
        seed: u64,
        device: u64,
        labels: &Labels,
        app: &Name,
        version: &Version,
        config: &dyn Fn(&str, &str) -> bool,
    ) -> Option<FaultKind> {
        let matches = |(index, fault): &(usize, &Fault)| {
            fault.app.as_ref().is_none_or(|wanted| wanted == app)
                && fault.version.as_ref().is_none_or(|wanted| wanted == version)
                && fault.selector.matches(labels)
                && fault.config.as_ref().is_none_or(|(key, value)| config(key, value))
                && Dice::new(seed, &[DICE_FAULT, device, *index as u64]).between(0, 99) < fault.percent.into()
        };
        self.faults.iter().enumerate().find(matches).map(|(_, fault)| fault.kind)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn app() -> Name {
        Name::new("web").unwrap()
    }

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn failing(behaviours: &Behaviours, seed: u64, labels: &Labels, of: &str) -> Vec<u64> {
        (0..1_000)
            .filter(|device| {
                behaviours.fault(seed, *device, labels, &app(), &version(of), &|_, _| false).is_some()
            })
            .collect()
    }

    #[test]
    fn a_fault_hits_the_same_share_of_devices_for_a_seed_and_no_others() {
        let labels = Labels::new(BTreeMap::from([("hw".to_owned(), "old".to_owned())])).unwrap();
        let fault =
            Fault::of(app(), version("1.1"), FaultKind::Crashes).on("hw=old".parse().unwrap()).percent(30);
        let behaviours = Behaviours { faults: vec![fault], ..Behaviours::default() };
        let hit = failing(&behaviours, 7, &labels, "1.1");
        assert!((250..350).contains(&hit.len()), "{}", hit.len());
        assert_eq!(hit, failing(&behaviours, 7, &labels, "1.1"));
        assert_ne!(hit, failing(&behaviours, 8, &labels, "1.1"));
        assert!(failing(&behaviours, 7, &labels, "1.0").is_empty());
        assert!(failing(&behaviours, 7, &Labels::default(), "1.1").is_empty());
    }

    #[test]
    fn a_fault_may_depend_on_config_and_the_first_rule_wins() {
        let config = Some(("MODE".to_owned(), "turbo".to_owned()));
        let first = Fault { config, ..Fault::of(app(), version("1.1"), FaultKind::NeverHealthy) };
        let second = Fault::of(app(), version("1.1"), FaultKind::Crashes);
        let behaviours = Behaviours { faults: vec![first, second], ..Behaviours::default() };
        let kind = |turbo: bool| {
            let config = |key: &str, value: &str| turbo && key == "MODE" && value == "turbo";
            behaviours.fault(1, 1, &Labels::default(), &app(), &version("1.1"), &config)
        };
        assert_eq!(kind(true), Some(FaultKind::NeverHealthy));
        assert_eq!(kind(false), Some(FaultKind::Crashes));
    }
}
