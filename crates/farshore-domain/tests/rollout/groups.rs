//! Budgets of groups: never all tills of one store.

use farshore_domain::device::Lifecycle;
use farshore_domain::label::Labels;
use farshore_domain::rollout::{Amount, GroupBudget, Phase, Progress, WaveSpec};

use crate::fleet::{Fleet, Nature, device_id, one_wave, spec};

fn at_most(label: &str, count: u32) -> GroupBudget {
    GroupBudget { label: label.to_owned(), max_unavailable: Some(Amount::Count(count)), min_available: None }
}

fn at_least(label: &str, count: u32) -> GroupBudget {
    GroupBudget { label: label.to_owned(), max_unavailable: None, min_available: Some(Amount::Count(count)) }
}

/// Devices in stores of `per_store`.
fn stores(groups: Vec<GroupBudget>, natures: &[Nature], per_store: u32) -> Fleet {
    let mut spec = spec(one_wave());
    spec.group_by = groups;
    let mut fleet = Fleet::new(spec, natures);
    for number in 0..u32::try_from(natures.len()).unwrap() {
        let store = format!("store-{}", number / per_store);
        fleet.view.get_mut(device_id(number)).unwrap().labels =
            Labels::try_from([("location", store)]).unwrap();
    }
    fleet
}

fn flying(fleet: &Fleet, numbers: std::ops::Range<u32>) -> usize {
    numbers.filter(|n| fleet.rollout.member(device_id(*n)).unwrap().progress().is_in_flight()).count()
}

#[test]
fn never_all_tills_of_one_store_and_all_stores_at_once() {
    let mut fleet = stores(vec![at_most("location", 1)], &[Nature::Good; 12], 4);
    fleet.start();
    let mut most = 0;
    for _ in 0..200 {
        fleet.tick(1_000);
        for store in 0..3 {
            assert!(flying(&fleet, store * 4..store * 4 + 4) <= 1);
        }
        most = most.max(flying(&fleet, 0..12));
        if fleet.rollout.phase().is_final() {
            break;
        }
    }
    assert_eq!((fleet.rollout.phase(), most), (Phase::Succeeded, 3));
}

#[test]
fn a_permit_out_of_reach_and_the_load_of_others_take_the_places_of_their_group() {
    let mut fleet = stores(vec![at_most("location", 1)], &[Nature::Good; 4], 2);
    fleet.view.group_load.insert(("location".to_owned(), "store-1".to_owned()), 1);
    fleet.start();
    fleet.until(60, |fleet| flying(fleet, 0..2) == 1);
    let away = (0..2).find(|n| flying(&fleet, *n..*n + 1) == 1).unwrap();
    fleet.set_online(device_id(away), false);
    fleet.ticks(15);
    assert_eq!(flying(&fleet, 0..2), 1, "its permit may still be used");
    assert!(matches!(
        fleet.rollout.member(device_id(1 - away)).unwrap().progress(),
        Progress::Waiting { .. }
    ));
    assert_eq!(flying(&fleet, 2..4), 0, "something else keeps a device of that store down");
    let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    let said =
        |text: &str| waits.iter().any(|w| w.reason.code == "GroupBudget" && w.reason.message.contains(text));
    assert!(said("location=store-0") && said("location=store-1"), "{waits:?}");
    fleet.view.group_load.clear();
    fleet.set_online(device_id(away), true);
    fleet.until_phase(Phase::Succeeded);
}

#[test]
fn a_drained_device_takes_the_place_of_its_group() {
    let mut fleet = stores(vec![at_most("location", 1)], &[Nature::Good; 2], 2);
    fleet.start();
    fleet.view.get_mut(device_id(0)).unwrap().lifecycle = Lifecycle::Drained;
    fleet.ticks(40);
    assert_eq!(flying(&fleet, 0..2), 0);
    fleet.view.get_mut(device_id(0)).unwrap().lifecycle = Lifecycle::Claimed;
    fleet.until_phase(Phase::Succeeded);
}

#[test]
fn of_a_redundant_pair_one_stays_up_and_who_is_out_of_reach_is_not_up() {
    let mut fleet = stores(vec![at_least("location", 1)], &[Nature::Good; 2], 2);
    fleet.set_online(device_id(0), false);
    fleet.report(device_id(0));
    fleet.start();
    fleet.ticks(60);
    assert_eq!(flying(&fleet, 0..2), 0, "the one that is left must stay up");
    fleet.set_online(device_id(0), true);
    fleet.until_phase(Phase::Succeeded);
}

#[test]
fn a_pair_that_fails_goes_back_one_by_one_within_the_same_budget() {
    let mut fleet = stores(
        vec![at_least("location", 1)],
        &[Nature::GoesBad, Nature::GoesBad, Nature::Good, Nature::Good],
        2,
    );
    let mut spec = fleet.rollout.spec().clone();
    spec.waves = vec![WaveSpec::percent(100).soak(30)];
    spec.failure_threshold = 20;
    fleet.remake(spec);
    fleet.start();
    fleet.until(400, |fleet| fleet.rollout.phase() == Phase::RollingBack);
    while !fleet.rollout.phase().is_final() {
        fleet.tick(1_000);
        assert!(flying(&fleet, 0..2) <= 1 && flying(&fleet, 2..4) <= 1);
    }
    assert_eq!(fleet.rollout.phase(), Phase::Failed);
}

#[test]
fn a_group_that_can_never_spare_a_device_refuses_the_start_and_one_that_shrinks_later_says_what_it_waits_for()
{
    let fleet = stores(vec![at_least("location", 2)], &[Nature::Good; 4], 2);
    let refused =
        fleet.rollout.clone().start(None, &fleet.view, "ada", None, fleet.now).unwrap_err().to_string();
    assert!(
        refused.contains("minAvailable 2 leaves none of the 2 devices with location=store-0"),
        "{refused}"
    );
    let mut fleet = stores(vec![at_least("location", 1)], &[Nature::Good; 4], 2);
    fleet.start();
    fleet.away(device_id(0));
    fleet.ticks(100);
    let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    assert!(waits.iter().any(|w| w.reason.message.contains("location=store-0")), "{waits:?}");
    assert!(matches!(fleet.rollout.member(device_id(1)).unwrap().progress(), Progress::Waiting { .. }));
}

#[test]
fn min_available_over_the_population_counts_who_is_out_of_reach() {
    let mut spec = spec(vec![WaveSpec::percent(100).soak(0)]);
    spec.max_unavailable = None;
    spec.min_available = Some(Amount::Count(8));
    let mut fleet = Fleet::new(spec, &[Nature::Good; 10]);
    fleet.set_online(device_id(0), false);
    fleet.report(device_id(0));
    fleet.start();
    for _ in 0..100 {
        fleet.tick(1_000);
        assert!(fleet.rollout.in_flight() <= 1, "two may be down, and one is out of reach");
    }
    fleet.set_online(device_id(0), true);
    fleet.until_phase(Phase::Succeeded);
    assert!(fleet.most_live <= 2);
}

#[test]
fn the_budget_of_each_group_is_told_in_figures_with_who_is_down_because_of_what() {
    let mut fleet = stores(vec![at_most("location", 1)], &[Nature::Good; 8], 4);
    fleet.view.get_mut(device_id(7)).unwrap().busy_until = Some(fleet.now.plus_ms(3_600_000));
    fleet.start();
    fleet.until(20, |fleet| fleet.rollout.in_flight() == 1);
    let of = |fleet: &Fleet, store: &str| {
        let stands = fleet.rollout.group_stands(&fleet.view, fleet.now);
        assert!(
            stands.is_sorted_by_key(|stand| std::cmp::Reverse(stand.waiting)),
            "who keeps most waiting first"
        );
        stands.into_iter().find(|stand| stand.value == store).unwrap()
    };
    let here = of(&fleet, "store-0");
    assert_eq!(
        (here.size, here.budget, here.down, here.down_by_rollout, here.down_by_others),
        (4, 1, 1, 1, 0)
    );
    assert_eq!((here.waiting, here.full, here.down_unreachable, here.up), (3, true, 0, 3));
    let there = of(&fleet, "store-1");
    assert_eq!((there.size, there.down, there.down_by_rollout, there.down_by_others), (4, 1, 0, 1));
    assert!(there.full && there.waiting >= 3, "{there:?}");
    let flying = fleet.rollout.members().find(|(_, member)| member.progress().is_in_flight()).unwrap().0;
    fleet.set_online(flying, false);
    fleet.tick(1_000);
    let here = of(&fleet, "store-0");
    assert_eq!((here.down_by_rollout, here.down_unreachable), (1, 1), "its permit may still be used");
}
