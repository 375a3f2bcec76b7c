//! Who is in which wave, before anything has started.
//!
//! The order of a population is fixed by hashes of the rollout and of each device. First comes one device of each stratum (each combination of
//! the values of `stratifyBy`), so that the first waves meet every model and location; then each stratum by its share of the population, so that a
//! wave judges what the fleet is like and not the smallest locations. A device that comes or goes changes the order of no two others of one stratum.
//! From the start on, nobody moves at all.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::spec::{Limit, RolloutSpec};
use super::state::{Rollout, order_key};
use super::view::FleetView;
use crate::id::{DeviceId, RolloutId};
use crate::label::Labels;

/// Why a rollout can't start with these devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("wave {wave} is empty: {why}; change its selector or take the wave out")]
    EmptyWave {
        /// From 1.
        wave: usize,
        why: String,
    },
    #[error("{limit} leaves none of the {size} devices {of} to change, so the rollout could never progress")]
    NoPlaces { limit: String, of: String, size: u32 },
}

/// The waves of a population.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    order: Vec<DeviceId>,
    upto: Vec<u32>,
}

impl Plan {
    /// The population in its order: wave by wave.
    #[must_use]
    pub fn order(&self) -> &[DeviceId] {
        &self.order
    }

    /// How many devices each wave and those before it reach.
    #[must_use]
    pub fn reach(&self) -> &[u32] {
        &self.upto
    }

    /// The devices of each wave.
    pub fn waves(&self) -> impl Iterator<Item = &[DeviceId]> {
        let starts = std::iter::once(0).chain(self.upto.iter().copied());
        starts
            .zip(&self.upto)
            .map(|(start, end)| self.order.get(start as usize..*end as usize).unwrap_or(&[]))
    }

    /// Places a population into the waves of a specification.
    pub fn new<'a>(
        rollout: RolloutId,
        spec: &RolloutSpec,
        population: impl IntoIterator<Item = (DeviceId, &'a Labels)>,
    ) -> Result<Self, PlanError> {
        let ordered = stratified(rollout, &spec.stratify_by, population);
        let size = u32::try_from(ordered.len()).unwrap_or(u32::MAX);
        let mut placed = vec![false; ordered.len()];
        let mut plan = Self::default();
        let mut next = 0;
        for (number, wave) in (1..).zip(&spec.waves) {
            if let Some(selector) = &wave.selector {
                let before = plan.order.len();
                let mut matching = 0_u32;
                for ((device, labels), placed) in ordered.iter().zip(&mut placed) {
                    if selector.matches(labels) {
                        matching += 1;
                        if !std::mem::replace(placed, true) {
                            plan.order.push(*device);
                        }
                    }
                }
                if plan.order.len() == before {
                    let why = match matching {
                        0 => format!("none of {size} devices matches \"{selector}\""),
                        _ => format!("all {matching} devices that match \"{selector}\" are in earlier waves"),
                    };
                    return Err(PlanError::EmptyWave { wave: number, why });
                }
            } else {
                let reach = wave.reaches(size) as usize;
                while plan.order.len() < reach
                    && let (Some((device, _)), Some(placed)) = (ordered.get(next), placed.get_mut(next))
                {
                    if !std::mem::replace(placed, true) {
                        plan.order.push(*device);
                    }
                    next += 1;
                }
            }
            plan.upto.push(u32::try_from(plan.order.len()).unwrap_or(u32::MAX));
        }
        Ok(plan)
    }
}

/// The members of one stratum with their places in the order of the hash.
type Stratum<'a> = Vec<([u8; 32], DeviceId, &'a Labels)>;

/// The place of a stratum's member in the order: the share of the stratum that comes before it, in 2⁻³² of it. The first one's is 0.
fn share(number: usize, size: usize) -> u64 {
    ((number as u64) << 32) / (size.max(1) as u64)
}

/// The population: one of each stratum, then each stratum by its share.
fn stratified<'a>(
    rollout: RolloutId,
    strata: &[String],
    population: impl IntoIterator<Item = (DeviceId, &'a Labels)>,
) -> Vec<(DeviceId, &'a Labels)> {
    let mut members: BTreeMap<Vec<&str>, Stratum<'a>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (device, labels) in population {
        if seen.insert(device) {
            let stratum = strata.iter().map(|key| labels.get(key).unwrap_or("")).collect();
            members.entry(stratum).or_default().push((order_key(rollout, device), device, labels));
        }
    }
    let mut turns = Vec::with_capacity(seen.len());
    for (stratum, mut devices) in members {
        let key = stratum_key(rollout, &stratum);
        let size = devices.len();
        devices.sort_unstable_by_key(|(order, device, _)| (*order, *device));
        let placed = devices.into_iter().enumerate();
        turns.extend(placed.map(|(number, (_, device, labels))| (share(number, size), key, device, labels)));
    }
    turns.sort_unstable_by_key(|(share, key, device, _)| (*share, *key, *device));
    turns.into_iter().map(|(_, _, device, labels)| (device, labels)).collect()
}

/// The order of the strata differs from rollout to rollout, so that not always the same one goes first.
fn stratum_key(rollout: RolloutId, values: &[&str]) -> [u8; 32] {
    let hash = values.iter().fold(Sha256::new().chain_update(rollout.0.as_bytes()), |hash, value| {
        hash.chain_update(value.as_bytes()).chain_update([0])
    });
    hash.finalize().into()
}

/// Refuses budgets that leave a group or the whole population no device to change.
fn check_places(spec: &RolloutSpec, population: u32, view: &FleetView) -> Result<(), PlanError> {
    let refuse = |limit: Limit, of: String, size: u32| {
        if size > 0 && limit.places(size) == 0 {
            return Err(PlanError::NoPlaces { limit: limit.to_string(), of, size });
        }
        Ok(())
    };
    refuse(spec.limit(), "of the population".to_owned(), population)?;
    for group in &spec.group_by {
        for (value, size) in view.group_sizes(&group.label) {
            refuse(group.limit(), format!("with {}={value}", group.label), size)?;
        }
    }
    Ok(())
}

impl Rollout {
    /// The waves as they would be if it started now with these devices. After the start, [`Rollout::members`] says who is where.
    pub fn plan(&self, view: &FleetView) -> Result<Plan, PlanError> {
        let population = view.eligible().filter_map(|device| Some((device, &view.get(device)?.labels)));
        let plan = Plan::new(self.id, &self.spec, population)?;
        check_places(&self.spec, u32::try_from(plan.order.len()).unwrap_or(u32::MAX), view)?;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::name::Name;
    use crate::rollout::spec::{Amount, GroupBudget, ReleaseRef, WaveSpec};
    use crate::rollout::view::DeviceView;

    const ROLLOUT: RolloutId = RolloutId(Uuid::from_u128(7));

    fn spec(waves: Vec<WaveSpec>) -> RolloutSpec {
        let name = |text| Name::new(text).unwrap();
        let release = ReleaseRef::Version { app: name("web"), version: "1.1".parse().unwrap() };
        RolloutSpec { waves, ..RolloutSpec::new(name("web"), name("prod"), release) }
    }

    fn device(number: u32) -> DeviceId {
        DeviceId(Uuid::from_u128(u128::from(number)))
    }

    /// Devices with a model and a location by number.
    fn fleet(count: u32, models: u32, locations: u32) -> Vec<(DeviceId, Labels)> {
        (0..count)
            .map(|number| {
                let labels = Labels::try_from([
                    ("model", format!("m{}", number % models)),
                    ("location", format!("l{}", number / models % locations)),
                    ("ring", (if number % 10 == 3 { "canary" } else { "wide" }).to_owned()),
                ]);
                (device(number), labels.unwrap())
            })
            .collect()
    }

    fn plan(spec: &RolloutSpec, fleet: &[(DeviceId, Labels)]) -> Result<Plan, PlanError> {
        Plan::new(ROLLOUT, spec, fleet.iter().map(|(device, labels)| (*device, labels)))
    }

    #[test]
    fn the_first_wave_meets_every_model_and_location_before_any_twice() {
        let fleet = fleet(120, 3, 4);
        let plan = plan(&spec(vec![WaveSpec::count(12), WaveSpec::percent(100)]), &fleet).unwrap();
        let first = plan.waves().next().unwrap();
        let met: BTreeSet<_> = fleet
            .iter()
            .filter(|(device, _)| first.contains(device))
            .map(|(_, labels)| (labels.get("model"), labels.get("location")))
            .collect();
        assert_eq!(met.len(), 12);
    }

    #[test]
    fn a_rare_model_is_in_the_first_wave() {
        let mut fleet = fleet(200, 1, 1);
        fleet.push((device(900), Labels::try_from([("model", "rare"), ("location", "l0")]).unwrap()));
        let plan = plan(&spec(vec![WaveSpec::percent(1), WaveSpec::percent(100)]), &fleet).unwrap();
        assert!(plan.waves().next().unwrap().contains(&device(900)));
    }

    #[test]
    fn a_wave_has_of_a_big_location_what_is_its_share() {
        let mut fleet = fleet(900, 1, 1);
        for small in 0..10_u32 {
            for number in 0..10 {
                let location = format!("small-{small}");
                let labels = Labels::try_from([("model", "m0"), ("location", location.as_str())]).unwrap();
                fleet.push((device(1_000 + small * 10 + number), labels));
            }
        }
        let plan = plan(&spec(vec![WaveSpec::percent(5), WaveSpec::percent(100)]), &fleet).unwrap();
        let first = plan.waves().next().unwrap();
        let of = |location: &str| {
            let there = |device: &&DeviceId| {
                fleet.iter().any(|(id, labels)| id == *device && labels.get("location") == Some(location))
            };
            first.iter().filter(there).count()
        };
        assert_eq!((first.len(), of("l0")), (50, 40), "one of each small one, the rest of the big one");
        assert!((0..10).all(|small| of(&format!("small-{small}")) == 1));
    }

    #[test]
    fn waves_are_cumulative_and_a_selector_takes_whoever_is_left() {
        let fleet = fleet(100, 2, 2);
        let canaries = WaveSpec::selector("ring=canary".parse().unwrap());
        let waves = vec![canaries, WaveSpec::percent(5), WaveSpec::percent(25), WaveSpec::percent(100)];
        let plan = plan(&spec(waves), &fleet).unwrap();
        let sizes: Vec<_> = plan.waves().map(<[_]>::len).collect();
        assert_eq!(sizes, [10, 0, 15, 75], "ten canaries are more than five percent already");
        let canary =
            |id: &DeviceId| fleet.iter().any(|(d, labels)| d == id && labels.get("ring") == Some("canary"));
        assert!(plan.waves().next().unwrap().iter().all(canary));
        assert!(!plan.waves().skip(1).flatten().any(canary));
    }

    #[test]
    fn a_wave_that_selects_nobody_is_refused_by_its_number() {
        let fleet = fleet(10, 1, 1);
        let wave = || WaveSpec::selector("ring=nobody".parse().unwrap());
        let error =
            plan(&spec(vec![WaveSpec::count(1), wave(), WaveSpec::percent(100)]), &fleet).unwrap_err();
        assert_eq!(
            error.to_string(),
            "wave 2 is empty: none of 10 devices matches \"ring in (nobody)\"; change its selector or take the wave out"
                .replace("ring in (nobody)", &wave().selector.unwrap().to_string())
        );
        let canary = || WaveSpec::selector("ring=canary".parse().unwrap());
        let error = plan(&spec(vec![canary(), canary(), WaveSpec::percent(100)]), &fleet).unwrap_err();
        assert!(error.to_string().contains("are in earlier waves"), "{error}");
    }

    #[test]
    fn a_budget_that_leaves_a_group_nothing_is_refused_by_its_group() {
        let mut spec = spec(vec![WaveSpec::percent(100)]);
        let budget = |min| GroupBudget {
            label: "location".to_owned(),
            max_unavailable: None,
            min_available: Some(min),
        };
        let view = FleetView::new(fleet(5, 1, 2).into_iter().map(|(id, labels)| {
            let mut device = DeviceView::new(id, Name::new("kiosk").unwrap());
            device.labels = labels;
            device
        }));
        spec.group_by = vec![budget(Amount::Count(1))];
        check_places(&spec, 5, &view).unwrap();
        spec.group_by = vec![budget(Amount::Count(2))];
        let error = check_places(&spec, 5, &view).unwrap_err().to_string();
        assert!(error.contains("minAvailable 2 leaves none of the 2 devices with location=l1"), "{error}");
        spec.group_by.clear();
        spec.min_available = Some(Amount::Count(5));
        assert!(check_places(&spec, 5, &view).is_err());
        check_places(&spec, 6, &view).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        /// Everybody is in one wave, the same for any order of the input; and who comes or goes moves others by little.
        #[test]
        fn membership_is_whole_deterministic_and_stable(
            count in 1_u32..200,
            models in 1_u32..5,
            locations in 1_u32..5,
            gone in 0_u32..200,
            percents in prop::collection::btree_set(1_u8..100, 0..5),
        ) {
            let fleet = fleet(count, models, locations);
            let waves: Vec<_> = percents.into_iter().chain([100]).map(WaveSpec::percent).collect();
            let spec = spec(waves);
            let all = plan(&spec, &fleet).unwrap();
            let mut everybody = all.order().to_vec();
            everybody.sort_unstable();
            prop_assert_eq!(everybody, fleet.iter().map(|(device, _)| *device).collect::<Vec<_>>());
            for (reach, wave) in all.reach().iter().zip(&spec.waves) {
                prop_assert_eq!(*reach, wave.reaches(count));
            }
            let mut backwards = fleet.clone();
            backwards.reverse();
            prop_assert_eq!(&plan(&spec, &backwards).unwrap(), &all);
            // Without one device the others of other strata keep their order, and all of the others of its own keep theirs.
            let left = device(gone % count);
            let labels = fleet.iter().find(|(device, _)| *device == left).unwrap().1.clone();
            let fewer: Vec<_> = fleet.iter().filter(|(device, _)| *device != left).cloned().collect();
            let without = plan(&spec, &fewer).unwrap();
            let stratum = |labels: &Labels| [labels.get("model"), labels.get("location")].map(|v| v.map(str::to_owned));
            let same: BTreeSet<_> =
                fleet.iter().filter(|(_, other)| stratum(other) == stratum(&labels)).map(|(device, _)| *device).collect();
            for of_the_same in [true, false] {
                let kept = |order: &[DeviceId]| -> Vec<DeviceId> {
                    order.iter().filter(|device| **device != left && same.contains(device) == of_the_same).copied().collect()
                };
                prop_assert_eq!(kept(all.order()), kept(without.order()));
            }
        }
    }
}
