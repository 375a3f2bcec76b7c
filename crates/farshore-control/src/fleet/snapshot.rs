//! Everything that decides what runs where in one tenant, as it stood at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use farshore_api::fleet::{AppSpec, ConfigSpec, PinSpec, PlacementSpec};
use farshore_domain::assign::{self, Assignments, Pin, Placement};
use farshore_domain::config::reference::TwinValues;
use farshore_domain::config::{self, LayerValues, Value};
use farshore_domain::desired::{Because, DesiredApp, DesiredRelease, Permit};
use farshore_domain::device::{AppPhase, Lifecycle, Reachability};
use farshore_domain::id::{DeviceId, ReleaseId};
use farshore_domain::name::Name;
use farshore_domain::operation::{DRAIN_CAPABILITY, OPERATIONS_CAPABILITY};
use farshore_domain::policy::{
    DesiredPolicy, DeviceHours, POLICY_CAPABILITY, POLICY_CAPABILITY_2, POLICY_CAPABILITY_3, PolicySpec,
    Rules, SafeRelease,
};
use farshore_domain::release::slot::{Activation, SLOTS_CAPABILITY};
use farshore_domain::rollout::{AppReport, DeviceView, FleetView, KnownRelease, Phase, Rollout};
use farshore_domain::schedule::{Look, Purpose, Shut, WindowKind, Zone};
use farshore_domain::time::{SECOND_MS, UnixMs};
use farshore_domain::version::Version;
use farshore_store::db::Tx;
use farshore_store::fleet::{FleetApp, FleetDevice, PermitRow, ReleaseMark};
use farshore_store::objects::{self, ObjectKind, Stored};
use farshore_store::operations::OperationRow;
use farshore_store::{StoreError, StoreResult, TenantDb};

use super::signals::FleetSignals;
use super::twins;

/// A rollout with the version under which it was read.
#[derive(Debug)]
pub struct ReadRollout {
    pub rollout: Rollout,
    pub resource_version: i64,
}

/// The tenant's fleet.
#[derive(Debug)]
pub struct Snapshot {
    pub devices: BTreeMap<DeviceId, FleetDevice>,
    apps: BTreeMap<DeviceId, BTreeMap<Name, FleetApp>>,
    reports: BTreeMap<DeviceId, BTreeMap<Name, AppReport>>,
    placements: Vec<Placement>,
    pins: BTreeMap<Name, Vec<Pin>>,
    configs: Vec<Stored<ConfigSpec>>,
    /// What configs refer to in twins, of the devices for which it [was read](Self::read_twins).
    twins: BTreeMap<DeviceId, TwinValues>,
    policies: Vec<Stored<PolicySpec>>,
    /// The apps that an app needs.
    needs: BTreeMap<Name, Vec<Name>>,
    /// What the same policies together say, so that a large fleet merges each mixture once.
    merged: BTreeMap<Vec<usize>, Mixture>,
    pointers: BTreeMap<Name, BTreeMap<Name, ReleaseId>>,
    releases: BTreeMap<ReleaseId, ReleaseMark>,
    pub rollouts: Vec<ReadRollout>,
    permits: Vec<PermitRow>,
    /// Operations that are not over. The driver takes them.
    pub operations: Vec<OperationRow>,
    /// Devices that an operation disturbs, and until when at most.
    operating: BTreeMap<DeviceId, UnixMs>,
    /// Where the rollouts stand that others depend on.
    dependencies: BTreeMap<Name, Phase>,
    signals: FleetSignals,
}

/// What policies say together.
#[derive(Clone, Debug)]
struct Mixture {
    rules: Rules,
    /// The same for an agent that understands only the first version's words.
    rules_v1: Rules,
    hours: Option<Arc<DeviceHours>>,
}

/// When a place that another rollout takes is looked at again.
const LOOK_AGAIN_MS: i64 = 30 * SECOND_MS;

/// The label that says in which zone a device is, with `_` for `/`: `Europe_Riga`.
const ZONE_LABEL: &str = "timezone";

/// How reachable a device is right now, and when it was last heard.
pub type Presence<'a> = &'a dyn Fn(DeviceId, Option<UnixMs>) -> (Reachability, Option<UnixMs>);

impl Snapshot {
    /// Reads it within one transaction.
    pub async fn load(db: &TenantDb, tx: &mut Tx, now: UnixMs) -> StoreResult<Self> {
        let devices: BTreeMap<_, _> = db.fleet_devices(tx).await?.into_iter().map(|d| (d.id, d)).collect();
        let mut apps: BTreeMap<DeviceId, BTreeMap<Name, FleetApp>> = BTreeMap::new();
        for app in db.fleet_apps(tx).await? {
            apps.entry(app.device).or_default().insert(app.app.clone(), app);
        }
        let reports = apps.iter().map(|(id, apps)| (*id, reports(apps))).collect();
        let tenant = db.tenant().0;
        let placements = objects::all_in::<PlacementSpec>(tx, tenant, ObjectKind::Placement).await?;
        let releases: BTreeMap<_, _> =
            db.release_marks(tx).await?.into_iter().map(|mark| (mark.id, mark)).collect();
        let mut pins: BTreeMap<Name, Vec<Pin>> = BTreeMap::new();
        for Stored { metadata, spec } in objects::all_in::<PinSpec>(tx, tenant, ObjectKind::Pin).await? {
            // A pin to a release that is not there (yet) pins nothing.
            let Some(release) = find_release(&releases, &spec.app, &spec.version) else { continue };
            pins.entry(spec.device).or_default().push(Pin { name: metadata.name, app: spec.app, release });
        }
        let mut pointers: BTreeMap<Name, BTreeMap<Name, ReleaseId>> = BTreeMap::new();
        for pointer in db.pointers(tx).await? {
            pointers.entry(pointer.channel).or_default().insert(pointer.app, pointer.release);
        }
        let mut rollouts = Vec::new();
        for row in db.deciding_rollouts(tx).await? {
            let rollout = serde_json::from_value(row.state)
                .map_err(|error| StoreError::Corrupt(format!("rollout {}: {error}", row.metadata.name)))?;
            rollouts.push(ReadRollout { rollout, resource_version: row.metadata.resource_version });
        }
        let names: BTreeSet<Name> = rollouts
            .iter()
            .flat_map(|read: &ReadRollout| read.rollout.spec().depends_on.iter().cloned())
            .collect();
        let dependencies = db.rollout_phases(tx, &names.into_iter().collect::<Vec<_>>()).await?;
        let policies = objects::all_in(tx, tenant, ObjectKind::Policy).await?;
        let needs = objects::all_in::<AppSpec>(tx, tenant, ObjectKind::App)
            .await?
            .into_iter()
            .map(|app| (app.metadata.name, app.spec.depends_on))
            .filter(|(_, needs)| !needs.is_empty())
            .collect();
        let merged = mixtures(&policies, devices.values())?;
        let signals = FleetSignals::load(db, tx, rollouts.iter().map(|read| &read.rollout)).await?;
        let operations = db.unfinished_operations(tx).await?;
        let operating = operations
            .iter()
            .filter(|row| row.kind.is_disruptive() && row.admitted_at.is_some())
            .map(|row| (row.device, row.deadline_at.unwrap_or(row.expires_at)))
            .collect();
        let configs: Vec<Stored<ConfigSpec>> = objects::all_in(tx, tenant, ObjectKind::Config).await?;
        Ok(Self {
            operations,
            operating,
            dependencies,
            signals,
            devices,
            apps,
            reports,
            placements: placements
                .into_iter()
                .map(|p| Placement { name: p.metadata.name, app: p.spec.app, selector: p.spec.selector })
                .collect(),
            pins,
            configs,
            twins: BTreeMap::new(),
            merged,
            policies,
            needs,
            pointers,
            releases,
            rollouts,
            permits: db.live_permits(tx, now).await?,
        })
    }

    /// The release that a channel points to.
    #[must_use]
    pub fn pointer(&self, channel: &Name, app: &Name) -> Option<KnownRelease> {
        self.known(*self.pointers.get(channel)?.get(app)?)
    }

    /// A release by its id, as the engine knows it.
    #[must_use]
    pub fn known(&self, release: ReleaseId) -> Option<KnownRelease> {
        self.releases.get(&release).map(|mark| KnownRelease { uid: mark.id, version: mark.version.clone() })
    }

    /// A release by app and version.
    #[must_use]
    pub fn release_of(&self, app: &Name, version: &Version) -> Option<KnownRelease> {
        find_release(&self.releases, app, version.as_str()).and_then(|id| self.known(id))
    }

    /// The app that a release belongs to.
    #[must_use]
    pub fn app_of(&self, release: ReleaseId) -> Option<&Name> {
        self.releases.get(&release).map(|mark| &mark.app)
    }

    /// What a device last reported of an app.
    #[must_use]
    pub fn report(&self, device: DeviceId, app: &Name) -> Option<&AppReport> {
        self.reports.get(&device)?.get(app)
    }

    /// The devices of a channel that have an app by placement, as a rollout sees them.
    #[must_use]
    pub fn view(&self, rollout: &Rollout, presence: Presence<'_>, now: UnixMs) -> FleetView {
        let (app, channel) = (&rollout.spec().app, &rollout.spec().channel);
        let busy = self.busy_until(rollout, now);
        let asks = rollout.needs_signals();
        let placed = |device: &&FleetDevice| {
            device.channel == *channel
                && self.placements.iter().any(|p| p.app == *app && p.selector.matches(&device.labels))
        };
        let mut view = FleetView::new(self.devices.values().filter(placed).map(|device| {
            let (reachability, last_seen) = presence(device.id, device.last_seen);
            DeviceView {
                id: device.id,
                name: device.name.clone(),
                labels: device.labels.clone(),
                reachability,
                last_seen,
                lifecycle: device.lifecycle,
                time_zone: zone_of(device),
                hours: self.hours(device).cloned(),
                pinned: self
                    .pins
                    .get(&device.name)
                    .is_some_and(|pins| pins.iter().any(|pin| pin.app == *app)),
                incapable: rollout.needs_slots() && can_keep_two(&device.capabilities) == Some(false),
                busy_until: busy.get(&device.id).copied(),
                app: self.reports.get(&device.id).and_then(|r| r.get(app)).cloned().unwrap_or_default(),
                signals: asks.then(|| self.signals.of(rollout, device.id, now)).flatten(),
            }
        }));
        view.group_load = self.group_load(rollout, &view, &busy);
        view.dependencies = self.dependencies.clone();
        view
    }

    /// How many devices outside the view are down on purpose, by each label and value that the rollout has a budget for.
    fn group_load(
        &self,
        rollout: &Rollout,
        view: &FleetView,
        busy: &BTreeMap<DeviceId, UnixMs>,
    ) -> BTreeMap<(String, String), u32> {
        let mut load = BTreeMap::new();
        let groups = &rollout.spec().group_by;
        if groups.is_empty() {
            return load;
        }
        let is_down = |device: &&FleetDevice| {
            busy.contains_key(&device.id)
                || matches!(device.lifecycle, Lifecycle::Draining | Lifecycle::Drained)
        };
        for device in self.devices.values().filter(is_down).filter(|device| view.get(device.id).is_none()) {
            for group in groups {
                if let Some(value) = device.labels.get(&group.label) {
                    *load.entry((group.label.clone(), value.to_owned())).or_insert(0) += 1;
                }
            }
        }
        load
    }

    /// Devices that are down on purpose because of something else: a permit of the assignment driver, or of another rollout, for this app or another
    /// one, that the device has neither used nor given up on.
    fn busy_until(&self, rollout: &Rollout, now: UnixMs) -> BTreeMap<DeviceId, UnixMs> {
        let app = &rollout.spec().app;
        // A device has one permit for an app at a time. It does not report an earlier release it has moved on from, so its latest
        // permit is the one that counts; where that is the rollout's own, the rollout counts it.
        let mut latest = BTreeMap::new();
        for permit in &self.permits {
            let at: &mut UnixMs = latest.entry((permit.device, &permit.app)).or_insert(permit.issued_at);
            *at = (*at).max(permit.issued_at);
        }
        let mut busy = BTreeMap::new();
        for permit in self.permits.iter().filter(|p| p.rollout != Some(rollout.id())) {
            let overtaken =
                latest.get(&(permit.device, &permit.app)).is_some_and(|at| *at > permit.issued_at);
            // To install another app beside this one takes nothing down.
            let disrupts = permit.app == *app || self.runs_something_else(permit);
            if permit.expires_at > now && disrupts && !overtaken && !self.is_settled(permit) {
                let until: &mut UnixMs = busy.entry(permit.device).or_insert(permit.expires_at);
                *until = (*until).max(permit.expires_at);
            }
        }
        for (device, until) in self.operating.iter().filter(|(_, until)| **until > now) {
            let known: &mut UnixMs = busy.entry(*device).or_insert(*until);
            *known = (*known).max(*until);
        }
        // What another rollout replaces is down until it has reported, also when the permit for it is used or over.
        let others = self.rollouts.iter().map(|read| &read.rollout).filter(|other| {
            other.id() != rollout.id() && !other.phase().is_final() && other.from().is_some()
        });
        for other in others {
            for (device, _) in other.members().filter(|(_, member)| member.progress().is_in_flight()) {
                let again = now.plus_ms(LOOK_AGAIN_MS);
                let until: &mut UnixMs = busy.entry(device).or_insert(again);
                *until = (*until).max(again);
            }
        }
        busy
    }

    /// Devices that rollouts and the assignment driver keep down: what runs there is being replaced, or may be at any moment.
    #[must_use]
    pub fn down_on_purpose(&self, now: UnixMs) -> BTreeSet<DeviceId> {
        let permits = self.permits.iter().filter(|permit| {
            permit.expires_at > now && self.runs_something_else(permit) && !self.is_settled(permit)
        });
        let mut down: BTreeSet<DeviceId> = permits.map(|permit| permit.device).collect();
        for rollout in self.rollouts.iter().map(|read| &read.rollout) {
            if !rollout.phase().is_final() && rollout.from().is_some() {
                let flying = rollout.members().filter(|(_, member)| member.progress().is_in_flight());
                down.extend(flying.map(|(device, _)| device));
            }
        }
        down
    }

    /// How many apps lie stopped on a device of which nothing runs any more, as it said last; none while something runs.
    #[must_use]
    pub fn stopped_apps(&self, device: DeviceId) -> Option<usize> {
        let Some(reports) = self.reports.get(&device) else { return Some(0) };
        let there: Vec<_> = reports.values().filter(|report| report.active.is_some()).collect();
        there.iter().all(|report| report.phase == AppPhase::Stopped).then_some(there.len())
    }

    /// As it stands after a step that was just taken.
    pub fn set_lifecycle(&mut self, device: DeviceId, lifecycle: Lifecycle) {
        if let Some(device) = self.devices.get_mut(&device) {
            device.lifecycle = lifecycle;
        }
    }

    /// Whether the device is told to stop its apps.
    #[must_use]
    pub fn is_stopped(device: &FleetDevice) -> bool {
        matches!(device.lifecycle, Lifecycle::Draining | Lifecycle::Drained)
            && device.capabilities.iter().any(|capability| capability == DRAIN_CAPABILITY)
    }

    /// Whether the device reported that it has what the permit was for, or that it went back from it, or refuses it.
    fn is_settled(&self, permit: &PermitRow) -> bool {
        let release = Some(permit.release);
        let report = self.reports.get(&permit.device).and_then(|reports| reports.get(&permit.app));
        report.is_some_and(|r| {
            r.active == release || r.failed_release == release || r.refused_release == release
        })
    }

    /// Which releases a device should have.
    #[must_use]
    pub fn assign(&self, device: &FleetDevice, now: UnixMs) -> Assignments {
        let none = BTreeMap::new();
        let no_reports = BTreeMap::new();
        let rollouts: Vec<&Rollout> = self.rollouts.iter().map(|r| &r.rollout).collect();
        let permits = self
            .permits
            .iter()
            .filter(|permit| permit.device == device.id && permit.rollout.is_none())
            .map(|p| {
                (p.app.clone(), (p.release, Permit { uid: p.uid, expires_at: p.expires_at, rollout: None }))
            })
            .collect();
        let inputs = assign::Inputs {
            device: device.id,
            labels: &device.labels,
            lifecycle: device.lifecycle,
            channel: &device.channel,
            reports: self.reports.get(&device.id).unwrap_or(&no_reports),
            placements: &self.placements,
            pointers: self.pointers.get(&device.channel).unwrap_or(&none),
            pins: self.pins.get(&device.name).map_or(&[], Vec::as_slice),
            rollouts: &rollouts,
            permits: &permits,
        };
        assign::assign(&inputs, now)
    }

    /// How many devices are changing something outside a rollout.
    #[must_use]
    pub fn changing(&self) -> usize {
        self.permits.iter().filter(|p| p.rollout.is_none() && self.runs_something_else(p)).count()
    }

    fn runs_something_else(&self, permit: &PermitRow) -> bool {
        let report = self.reports.get(&permit.device).and_then(|reports| reports.get(&permit.app));
        report.and_then(|report| report.active).is_some_and(|active| active != permit.release)
    }

    /// As if there were this placement, instead of the one of that name.
    pub fn suppose_placement(&mut self, name: Name, spec: PlacementSpec) {
        self.placements.retain(|placement| placement.name != name);
        self.placements.push(Placement { name, app: spec.app, selector: spec.selector });
    }

    /// As if there were this pin, instead of the one of that name.
    pub fn suppose_pin(&mut self, name: Name, spec: PinSpec) {
        for pins in self.pins.values_mut() {
            pins.retain(|pin| pin.name != name);
        }
        if let Some(release) = find_release(&self.releases, &spec.app, &spec.version) {
            self.pins.entry(spec.device).or_default().push(Pin { name, app: spec.app, release });
        }
    }

    /// As if a rollout of this release had succeeded.
    pub fn suppose_current(&mut self, channel: &Name, app: &Name, release: ReleaseId) {
        let spec =
            |read: &ReadRollout| (read.rollout.spec().app.clone(), read.rollout.spec().channel.clone());
        self.rollouts.retain(|read| spec(read) != (app.clone(), channel.clone()));
        self.set_pointer(channel.clone(), app.clone(), release);
    }

    /// A permit that was issued after the snapshot was read.
    pub fn add_permit(&mut self, permit: PermitRow) {
        self.permits.push(permit);
    }

    /// A rollout that was decided after the snapshot was read.
    pub fn replace_rollout(&mut self, index: usize, next: Rollout) {
        if let Some(read) = self.rollouts.get_mut(index) {
            read.rollout = next;
            read.resource_version += 1;
        }
    }

    /// A pointer that was moved after the snapshot was read.
    pub fn set_pointer(&mut self, channel: Name, app: Name, release: ReleaseId) {
        self.pointers.entry(channel).or_default().insert(app, release);
    }

    /// The apps of a device's desired state.
    #[must_use]
    pub fn desired_apps(&self, device: &FleetDevice, assignments: &Assignments) -> Vec<DesiredApp> {
        let reported = self.apps.get(&device.id);
        assignments
            .apps
            .iter()
            .filter_map(|assignment| {
                let mark = self.releases.get(&assignment.release)?;
                Some(DesiredApp {
                    app: assignment.app.clone(),
                    release: DesiredRelease {
                        uid: mark.id,
                        version: mark.version.clone(),
                        manifest: mark.manifest,
                    },
                    because: assignment.because.clone(),
                    config: self.config(device, &assignment.app),
                    permit: assignment.permit,
                    resumed: reported
                        .and_then(|apps| apps.get(&assignment.app))
                        .map_or(0, |app| app.resumed_wanted),
                    depends_on: self.needs.get(&assignment.app).cloned().unwrap_or_default(),
                    activation: self.activation(&assignment.because),
                })
            })
            .collect()
    }

    /// What the rollout says that an assignment is because of.
    fn activation(&self, because: &Because) -> Option<Activation> {
        let Because::Rollout { rollout, .. } = because else { return None };
        let found = self.rollouts.iter().map(|read| &read.rollout).find(|found| found.id() == *rollout)?;
        found.spec().activation
    }

    fn mixture(&self, device: &FleetDevice) -> Option<&Mixture> {
        self.merged.get(&matching(&self.policies, device))
    }

    /// When a device may fetch and install, as its policies say; none where they do not.
    #[must_use]
    pub fn hours(&self, device: &FleetDevice) -> Option<&Arc<DeviceHours>> {
        self.mixture(device)?.hours.as_ref()
    }

    /// Until when a device may install, at most until `horizon`; or when its policies open next.
    #[must_use]
    pub fn may_install(&self, device: &FleetDevice, now: UnixMs, horizon: UnixMs) -> Look {
        let Some(hours) = self.hours(device) else { return Look::Open { until: horizon } };
        let Some(calendar) = hours.calendar() else {
            return Look::Shut { next: None, by: Shut::Window(WindowKind::Maintenance) };
        };
        let zone = Zone::of_device(zone_of(device).as_deref());
        calendar.look(Purpose::Install, &zone, now, horizon)
    }

    /// What a device is told of its policy; none where no policy applies, or its agent does not understand them.
    #[must_use]
    pub fn desired_policy(&self, device: &FleetDevice, apps: &[DesiredApp]) -> Option<DesiredPolicy> {
        let can = |capability: &str| device.capabilities.iter().any(|one| one == capability);
        if !can(POLICY_CAPABILITY) {
            return None;
        }
        let mixture = self.mixture(device)?;
        let new = can(POLICY_CAPABILITY_2);
        let mut rules = if new { &mixture.rules } else { &mixture.rules_v1 }.clone();
        if !can(POLICY_CAPABILITY_3) {
            rules = rules.without_v3();
        }
        rules.operations = rules.operations.inside_for(can);
        if !can(OPERATIONS_CAPABILITY) {
            rules.operations = rules.operations.without_runbooks();
        }
        let time_zone = zone_of(device).filter(|_| new && mixture.hours.is_some());
        let safe_mode = rules
            .rollback
            .safe_mode
            .iter()
            .flatten()
            .filter(|safe| apps.iter().any(|app| app.app == safe.app))
            .filter_map(|safe| {
                let release = find_release(&self.releases, &safe.app, safe.version.as_str())?;
                let mark = self.releases.get(&release)?;
                let release =
                    DesiredRelease { uid: mark.id, version: mark.version.clone(), manifest: mark.manifest };
                Some(SafeRelease { app: safe.app.clone(), release })
            })
            .collect();
        Some(DesiredPolicy { rules, safe_mode, time_zone })
    }

    /// Reads what configs refer to in the twins of these devices, before their apps are [worked out](Self::desired_apps): not of the whole fleet for each device
    /// that says something.
    pub async fn read_twins(&mut self, db: &TenantDb, devices: &[DeviceId]) -> StoreResult<()> {
        if self.follows_twins() {
            let mut tx = db.read().await?;
            self.twins = twins::load(db, &mut tx, &self.configs, devices).await?;
        }
        Ok(())
    }

    /// Whether a config refers to twins, so that a change of one may be a change of config.
    #[must_use]
    pub fn follows_twins(&self) -> bool {
        twins::places(&self.configs).next().is_some()
    }

    fn config(&self, device: &FleetDevice, app: &Name) -> BTreeMap<String, Value> {
        let twin = self.twins.get(&device.id);
        config::merge(
            self.configs
                .iter()
                .filter(|config| {
                    let spec = &config.spec;
                    spec.app.as_ref().is_none_or(|a| a == app)
                        && spec.device.as_ref().is_none_or(|d| *d == device.name)
                        && spec.selector.as_ref().is_none_or(|s| s.matches(&device.labels))
                })
                .map(|config| LayerValues {
                    layer: config.spec.layer(),
                    name: config.metadata.name.as_str(),
                    values: &config.spec.values,
                    references: &config.spec.references,
                }),
            |reference| reference.resolve(&device.labels, twin),
        )
    }
}

/// Whether a device says that it can keep two instances of an app; none as long as its runner has said nothing, such as while it boots.
fn can_keep_two(capabilities: &[String]) -> Option<bool> {
    let says = |word: &str| capabilities.iter().any(|one| one == word);
    says("process").then(|| says(SLOTS_CAPABILITY))
}

/// The IANA zone that a device's label names.
pub(super) fn zone_of(device: &FleetDevice) -> Option<String> {
    device.labels.get(ZONE_LABEL).and_then(Zone::name_of_label).map(str::to_owned)
}

/// Which policies apply to a device.
fn matching(policies: &[Stored<PolicySpec>], device: &FleetDevice) -> Vec<usize> {
    let applies = |(_, policy): &(usize, &Stored<PolicySpec>)| policy.spec.selector.matches(&device.labels);
    policies.iter().enumerate().filter(applies).map(|(index, _)| index).collect()
}

fn mixtures<'a>(
    policies: &[Stored<PolicySpec>],
    devices: impl Iterator<Item = &'a FleetDevice>,
) -> StoreResult<BTreeMap<Vec<usize>, Mixture>> {
    let mut mixtures = BTreeMap::new();
    for device in devices {
        let matching = matching(policies, device);
        if matching.is_empty() || mixtures.contains_key(&matching) {
            continue;
        }
        let effective = super::policies::merged(policies, &device.labels)?;
        let hours = DeviceHours::of(&effective).map(Arc::new);
        let rules_v1 = effective.rules.without_v2();
        mixtures.insert(matching, Mixture { rules: effective.rules, rules_v1, hours });
    }
    Ok(mixtures)
}

fn find_release(releases: &BTreeMap<ReleaseId, ReleaseMark>, app: &Name, version: &str) -> Option<ReleaseId> {
    let version: Version = version.parse().ok()?;
    releases.values().find(|mark| mark.app == *app && mark.version == version).map(|mark| mark.id)
}

fn reports(apps: &BTreeMap<Name, FleetApp>) -> BTreeMap<Name, AppReport> {
    apps.iter()
        .map(|(name, app)| {
            let report = AppReport {
                active: app.active,
                phase: if app.reported_at.is_some() { app.phase } else { AppPhase::Absent },
                committed: app.committed,
                failed_release: app.failed,
                refused_release: app.refused,
                reason: app.reasons.first().map(|reason| reason.message.clone()),
                resumed: app.resumed_seen,
                reported_at: app.reported_at,
            };
            (name.clone(), report)
        })
        .collect()
}
