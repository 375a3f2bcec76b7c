//! Random fleets, outages, duplicate and late reports, clock jumps and operators. Every decision is checked (see `fleet::Fleet::decide`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use farshore_domain::device::Lifecycle;
use farshore_domain::id::DeviceId;
use farshore_domain::rollout::{
    Action, Amount, Approval, Exclusion, FailureKind, GroupBudget, Member, Offline, OfflinePolicy, OnFailure,
    OnInconclusive, OnSmallWave, Phase, Progress, RolloutSpec, WaveSpec, WaveState,
};
use farshore_domain::schedule::{WindowKind, WindowSpec};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::fleet::{Fleet, Nature, device_id, name, release, rollout_id, spec};

#[derive(Clone, Debug)]
enum Step {
    Ticks(u32),
    /// Several ticks of twenty seconds: long enough to be offline, to lose a permit, to be stuck.
    Minutes(u32),
    Jump(i64),
    Online(u32, bool),
    SiteDown,
    SiteUp,
    Join(Nature, bool),
    Leave(u32),
    Return(u32),
    Pin(u32, bool),
    Cordon(u32, bool),
    OldReport(u32),
    DecideAgain,
    Pause,
    Resume,
    Approve(bool),
    Reject,
    SkipWave,
    RetryFailed,
    Rollback,
    Abort(bool),
    Supersede,
}

fn nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        10 => Just(Nature::Good),
        3 => Just(Nature::Bad),
        1 => Just(Nature::Stuck),
        1 => Just(Nature::Refuses),
        1 => Just(Nature::GoesBad),
        1 => Just(Nature::Terse),
    ]
}

/// What the world does.
fn fate() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (1_u32..12).prop_map(Step::Ticks),
        3 => (10_000_i64..900_000).prop_map(Step::Jump),
        4 => (5_u32..40).prop_map(Step::Minutes),
        8 => (0_u32..30, any::<bool>()).prop_map(|(device, online)| Step::Online(device, online)),
        2 => Just(Step::SiteDown),
        2 => Just(Step::SiteUp),
        2 => (nature(), any::<bool>()).prop_map(|(nature, empty)| Step::Join(nature, empty)),
        1 => (0_u32..30).prop_map(Step::Leave),
        1 => (0_u32..30).prop_map(Step::Return),
        1 => (0_u32..30, any::<bool>()).prop_map(|(device, pinned)| Step::Pin(device, pinned)),
        1 => (0_u32..30, any::<bool>()).prop_map(|(device, cordoned)| Step::Cordon(device, cordoned)),
        3 => (0_u32..30).prop_map(Step::OldReport),
        2 => Just(Step::DecideAgain),
    ]
}

/// What a person does.
fn verb() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Pause),
        6 => Just(Step::Resume),
        1 => any::<bool>().prop_map(Step::Abort),
        6 => any::<bool>().prop_map(Step::Approve),
        1 => Just(Step::Reject),
        2 => Just(Step::SkipWave),
        3 => Just(Step::RetryFailed),
        1 => Just(Step::Rollback),
        1 => Just(Step::Supersede),
    ]
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let alone = prop::collection::vec(fate(), 0..60);
    let operated = prop::collection::vec(prop_oneof![8 => fate().boxed(), 2 => verb().boxed()], 0..80);
    prop_oneof![alone.boxed(), operated.boxed()]
}

fn plan() -> impl Strategy<Value = RolloutSpec> {
    let waves = prop_oneof![
        Just(vec![WaveSpec::percent(100).soak(0)]),
        Just(vec![
            WaveSpec::count(1).soak(5),
            WaveSpec::percent(40).soak(20),
            WaveSpec::percent(100).soak(10)
        ]),
        Just([5, 10, 25, 50, 100].map(|percent| WaveSpec::percent(percent).soak(3)).to_vec()),
    ];
    let budget = prop_oneof![(1_u32..6).prop_map(Amount::Count), (1_u8..=100).prop_map(Amount::Percent)];
    let on_failure = prop_oneof![
        3 => Just(OnFailure::Rollback),
        1 => Just(OnFailure::Pause),
        1 => Just(OnFailure::RollbackWave),
    ];
    let inconclusive = prop_oneof![
        4 => Just(OnInconclusive::Pause),
        1 => Just(OnInconclusive::Rollback),
        1 => Just(OnInconclusive::Continue),
    ];
    let small = prop_oneof![
        4 => Just(OnSmallWave::Halt),
        1 => Just(OnSmallWave::Pause),
        1 => Just(OnSmallWave::RetryElsewhere),
    ];
    let approval = prop_oneof![5 => Just(Approval::Automatic), 1 => Just(Approval::TwoPeople)];
    let numbers = (5_u8..90, prop::option::of(1_u32..4), any::<bool>());
    (waves, budget, on_failure, numbers, inconclusive, small, approval, placing()).prop_map(
        |(waves, max_unavailable, on_failure, numbers, on_inconclusive, on_small_wave, approval, placing)| {
            let (failure_threshold, min_reports, slow_start) = numbers;
            RolloutSpec {
                waves,
                max_unavailable: placing.min_available.is_none().then_some(max_unavailable),
                on_failure,
                failure_threshold,
                min_reports,
                slow_start,
                on_inconclusive,
                on_small_wave,
                approval,
                operator_timeout_seconds: 3_000,
                ..placing
            }
        },
    )
}

/// Groups, promises, windows and what becomes of devices that are away.
fn placing() -> impl Strategy<Value = RolloutSpec> {
    let group = |max_unavailable, min_available| {
        vec![GroupBudget { label: "location".to_owned(), max_unavailable, min_available }]
    };
    let groups = prop_oneof![
        2 => Just(Vec::new()),
        1 => (1_u32..3).prop_map(move |count| group(Some(Amount::Count(count)), None)),
        1 => (20_u8..80).prop_map(move |percent| group(None, Some(Amount::Percent(percent)))),
    ];
    let window = |kind, cron: &str, duration_seconds| WindowSpec {
        kind,
        cron: cron.to_owned(),
        duration_seconds,
        time_zone: None,
    };
    let hours = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![window(WindowKind::Maintenance, "*/10 * * * *", 200)]),
        1 => Just(vec![window(WindowKind::Maintenance, "*/6 * * * *", 120), window(WindowKind::Download, "*/7 * * * *", 60)]),
    ];
    let policy =
        prop_oneof![Just(OfflinePolicy::Wait), Just(OfflinePolicy::Skip), Just(OfflinePolicy::Defer)];
    let offline =
        (policy, 60_u32..1_000).prop_map(|(policy, deadline_seconds)| Offline { policy, deadline_seconds });
    let promise = prop::option::weighted(0.2, (10_u8..90).prop_map(Amount::Percent));
    (groups, hours, offline, promise).prop_map(|(group_by, windows, offline, min_available)| RolloutSpec {
        group_by,
        windows,
        offline,
        min_available,
        ..spec(Vec::new())
    })
}

fn pick(fleet: &Fleet, number: u32) -> Option<DeviceId> {
    let count = u32::try_from(fleet.devices.len()).unwrap();
    number.checked_rem(count).map(device_id)
}

fn apply(fleet: &mut Fleet, step: &Step) {
    match *step {
        Step::Ticks(count) => fleet.ticks(count),
        Step::Minutes(count) => (0..count).for_each(|_| fleet.tick(20_000)),
        Step::Jump(ms) => fleet.tick(ms),
        Step::Online(number, online) => {
            if let Some(id) = pick(fleet, number) {
                fleet.set_online(id, online);
            }
        }
        Step::SiteDown | Step::SiteUp => {
            for number in (0..u32::try_from(fleet.devices.len()).unwrap()).step_by(2) {
                fleet.set_online(device_id(number), matches!(step, Step::SiteUp));
            }
        }
        Step::Join(nature, empty) => {
            fleet.join(nature, (!empty).then(|| release(0).uid));
            fleet.decide();
        }
        Step::Leave(number) => {
            if let Some(id) = pick(fleet, number) {
                fleet.away(id);
                fleet.decide();
            }
        }
        Step::Return(number) => {
            if let Some(id) = pick(fleet, number) {
                fleet.come_back(id);
                fleet.decide();
            }
        }
        Step::Pin(number, pinned) => {
            if let Some(known) = pick(fleet, number).and_then(|id| fleet.view.get_mut(id)) {
                known.pinned = pinned;
            }
        }
        Step::Cordon(number, cordoned) => {
            if let Some(known) = pick(fleet, number).and_then(|id| fleet.view.get_mut(id)) {
                known.lifecycle = if cordoned { Lifecycle::Cordoned } else { Lifecycle::Claimed };
            }
        }
        Step::OldReport(number) => {
            if let Some(id) = pick(fleet, number) {
                fleet.repeat_report(id);
                fleet.decide();
            }
        }
        Step::DecideAgain => fleet.decide(),
        Step::Pause => fleet.verb(|rollout, now| rollout.pause("ada", None, now).unwrap_or_default()),
        Step::Resume => fleet.verb(|rollout, now| rollout.resume("ada", None, now).unwrap_or_default()),
        Step::Approve(first) => {
            let who = if first { "ada" } else { "grace" };
            fleet.verb(|rollout, now| rollout.approve(who, None, now).unwrap_or_default());
        }
        Step::Reject => fleet.verb(|rollout, now| rollout.reject("ada", None, now).unwrap_or_default()),
        Step::SkipWave => fleet.verb(|rollout, now| rollout.skip_wave("ada", None, now).unwrap_or_default()),
        Step::RetryFailed => {
            fleet.verb(|rollout, now| rollout.retry_failed("ada", None, now).unwrap_or_default());
        }
        Step::Rollback => fleet.verb(|rollout, now| rollout.rollback("ada", None, now).unwrap_or_default()),
        Step::Abort(back) => {
            fleet.verb(|rollout, now| rollout.abort("ada", None, back, now).unwrap_or_default());
        }
        Step::Supersede => fleet.verb(|rollout, now| {
            rollout.supersede(rollout_id(2), &name("web-1.2"), "ada", now).unwrap_or_default()
        }),
    }
}

/// Everybody is reachable, claimed, unpinned and in the channel again.
fn calm(fleet: &mut Fleet) {
    let ids: Vec<_> = fleet.devices.keys().copied().collect();
    for id in ids {
        fleet.come_back(id);
        fleet.set_online(id, true);
        if let Some(known) = fleet.view.get_mut(id) {
            known.pinned = false;
            known.lifecycle = Lifecycle::Claimed;
        }
    }
}

/// How many histories came by each of these, so that the test can't quietly stop testing something.
#[derive(Debug, Default)]
struct Coverage {
    histories: u32,
    succeeded: u32,
    rolled_back: u32,
    aborted: u32,
    superseded: u32,
    paused: u32,
    inconclusive: u32,
    full_budget: u32,
    unreachable_with_permit: u32,
    renewed_or_lost_permits: u32,
    stragglers: u32,
    late: u32,
    stuck: u32,
    /// Members waited for a place of their group.
    full_group: u32,
    /// Members waited for a window.
    shut: u32,
    skipped: u32,
}

impl Coverage {
    fn add(&mut self, fleet: &Fleet) {
        let happened = |what: &str| fleet.rollout.history().iter().any(|entry| entry.what == what);
        let said = |text: &str| fleet.rollout.history().iter().any(|entry| entry.message.contains(text));
        let any = |of: &dyn Fn(&Member) -> bool| fleet.rollout.members().any(|(_, member)| of(member));
        let kind =
            |of: FailureKind| any(&|member| member.failure().is_some_and(|failure| failure.kind == of));
        let mut permits = BTreeMap::new();
        for action in &fleet.log {
            if let Action::Permit { device, forward: true, .. } = action {
                *permits.entry(*device).or_insert(0) += 1;
            }
        }
        self.histories += 1;
        self.succeeded += u32::from(happened("RolloutSucceeded"));
        self.rolled_back += u32::from(happened("RolloutRolledBack"));
        self.aborted += u32::from(happened("RolloutAborted"));
        self.superseded += u32::from(happened("RolloutSuperseded"));
        self.paused += u32::from(happened("RolloutPaused"));
        self.inconclusive += u32::from(said("is inconclusive"));
        self.full_budget += u32::from(fleet.most_live == fleet.rollout.budget() as usize);
        self.unreachable_with_permit += u32::from(fleet.permit_out_of_reach);
        self.renewed_or_lost_permits += u32::from(permits.values().any(|count| *count > 1));
        self.stragglers += u32::from(any(&|member| {
            !member.is_late() && member.wave() > fleet.rollout.wave_of(member.rank())
        }));
        self.late += u32::from(any(&Member::is_late));
        self.stuck += u32::from(kind(FailureKind::Stuck));
        self.full_group += u32::from(fleet.waited_for.contains("GroupBudget"));
        self.shut += u32::from(fleet.waited_for.contains("MaintenanceWindow"));
        self.skipped += u32::from(any(&|member| {
            matches!(member.progress(), Progress::Excluded { why: Exclusion::Skipped, .. })
        }));
    }

    fn check(&self) {
        let least = self.histories / 128;
        for (what, seen) in [
            ("succeeded", self.succeeded),
            ("rolled back", self.rolled_back),
            ("aborted", self.aborted),
            ("superseded", self.superseded),
            ("paused", self.paused),
            ("inconclusive", self.inconclusive),
            ("full budget", self.full_budget),
            ("permit out of reach", self.unreachable_with_permit),
            ("permit issued again", self.renewed_or_lost_permits),
            ("stragglers", self.stragglers),
            ("late joiners", self.late),
            ("stuck", self.stuck),
            ("full group", self.full_group),
            ("shut windows", self.shut),
            ("skipped", self.skipped),
        ] {
            assert!(seen >= least, "{what} in {seen} of {} histories only: {self:?}", self.histories);
        }
    }
}

fn awaits_approval(fleet: &Fleet) -> bool {
    let wave = fleet.rollout.waves().get(fleet.rollout.current_wave() as usize);
    fleet.rollout.phase() == Phase::Running
        && wave.is_some_and(|wave| wave.state() == WaveState::AwaitingApproval)
}

fn run(plan: RolloutSpec, natures: &[Nature], steps: &[Step]) -> Result<Fleet, TestCaseError> {
    let mut fleet = Fleet::new(plan, natures);
    if fleet.rollout.plan(&fleet.view).is_err() {
        // A promise that leaves a store nobody to change is refused; the history goes on without it.
        let easy = RolloutSpec { group_by: Vec::new(), min_available: None, ..fleet.rollout.spec().clone() };
        fleet.remake(easy);
    }
    fleet.start();
    for step in steps {
        apply(&mut fleet, step);
    }
    calm(&mut fleet);
    // With everybody reachable it ends, or pauses for a person, who ends it.
    for _ in 0..50 {
        fleet.until(8_000, |fleet| {
            let phase = fleet.rollout.phase();
            phase.is_final() || phase == Phase::Paused || awaits_approval(fleet)
        });
        if !awaits_approval(&fleet) {
            break;
        }
        for who in ["ada", "grace"] {
            fleet.verb(|rollout, now| rollout.approve(who, None, now).unwrap_or_default());
        }
    }
    if fleet.rollout.phase() == Phase::Paused {
        fleet.verb(|rollout, now| rollout.abort("ada", None, true, now).unwrap());
        fleet.until(4_000, |fleet| fleet.rollout.phase().is_final());
    }
    // What the channel says reaches everybody who can take it.
    fleet.ticks(150);
    let (old, new) = (release(0).uid, release(1).uid);
    let phase = fleet.rollout.phase();
    for (id, device) in &fleet.devices {
        let runs = device.app.active;
        let good = match (phase, device.nature) {
            (Phase::Failed, _) => runs == Some(old) || device.nature == Nature::Stuck,
            (Phase::Succeeded, Nature::Good | Nature::Terse) => runs == Some(new),
            _ => true,
        };
        prop_assert!(good, "{id} ({:?}) runs {runs:?} after the rollout has {phase}", device.nature);
        let refuses = device.nature == Nature::Refuses;
        prop_assert!(!refuses || !device.ran.contains(&new), "it ran what it refuses");
    }
    Ok(fleet)
}

/// `PROPTEST_CASES` makes it longer than its 256 histories.
#[test]
fn any_history_keeps_the_invariants_and_ends() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let coverage = RefCell::new(Coverage::default());
    let histories = (plan(), prop::collection::vec(nature(), 0..24), history());
    let result = TestRunner::new(config).run(&histories, |(plan, natures, steps)| {
        coverage.borrow_mut().add(&run(plan, &natures, &steps)?);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    println!("{:?}", coverage.borrow());
    coverage.borrow().check();
}

#[test]
fn regression_a_stuck_device_is_pinned_in_flight_and_half_the_site_goes_down() {
    let plan = RolloutSpec {
        failure_threshold: 51,
        max_unavailable: Some(Amount::Count(2)),
        ..spec(vec![
            WaveSpec::count(1).soak(5),
            WaveSpec::percent(40).soak(20),
            WaveSpec::percent(100).soak(10),
        ])
    };
    let mut natures = [Nature::Good; 10];
    natures[4] = Nature::Stuck;
    let steps = [Step::Ticks(11), Step::Pin(24, true), Step::SiteDown, Step::Jump(300_000)];
    run(plan, &natures, &steps).unwrap();
}
