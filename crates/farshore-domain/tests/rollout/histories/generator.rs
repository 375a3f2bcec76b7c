//! Arbitrary plans, fleets and histories.

use farshore_domain::rollout::RolloutSpec;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fleet::{Nature, release};

/// A history: what is planned, for whom, and what happens.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) spec: RolloutSpec,
    pub(super) devices: Vec<Seed>,
    pub(super) steps: Vec<Step>,
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "plan: {}", serde_json::to_string(&self.spec).unwrap())?;
        writeln!(f, "devices: vec!{:?}", self.devices)?;
        writeln!(f, "steps: vec!{:?}", self.steps)
    }
}

/// One device at the beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed {
    pub(super) nature: Nature,
    pub(super) site: u8,
    pub(super) model: u8,
    /// Whether it runs the old release; otherwise it runs nothing.
    pub(super) runs: bool,
}

/// What a device says that is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// It has the new release for good.
    New,
    /// It has the old one.
    Old,
    /// It went back from the new release.
    WentBack,
    /// It runs nothing.
    Nothing,
    /// It waits for its permit.
    Staged,
    /// It was resumed many times.
    Resumed,
}

/// One thing that happens. Devices are named by number, modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Time passes.
    Seconds(u32),
    /// The control plane's clock jumps; nothing else has had this time.
    ClockJumps(i32),
    /// The device's clock runs behind.
    SlowClock(u8, u32),
    Online(u8, bool),
    Site(u8, bool),
    /// What it reports arrives late.
    Mute(u8, u32),
    /// What it is told arrives late: a permit may be lost.
    Deaf(u8, u32),
    Lies(u8, Option<Lie>),
    /// An earlier report arrives again.
    OldReport(u8, u8),
    /// An earlier desired state arrives again.
    OldDesired(u8),
    /// The last report arrives twice.
    SameReport,
    Join(Seed),
    Leave(u8),
    Return(u8),
    Pin(u8, bool),
    Cordon(u8, bool),
    /// Something else keeps it down on purpose for so many seconds.
    Busy(u8, u32),
    Label(u8, u8),
    /// Somebody repaired it and resumes the app on it.
    Repair(u8),
    /// The driver decides although nothing has happened.
    DecideAgain,
    /// Another replica takes over from what is stored.
    Reload,
    Pause,
    Resume,
    /// By one of three people.
    Approve(u8),
    Reject,
    SkipWave,
    RetryFailed,
    Rollback,
    Abort(bool),
    Supersede,
}

pub(super) fn nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        12 => Just(Nature::Good),
        4 => Just(Nature::Bad),
        1 => Just(Nature::Stuck),
        1 => Just(Nature::Refuses),
        1 => Just(Nature::GoesBad),
        1 => Just(Nature::Terse),
    ]
}

fn seed() -> impl Strategy<Value = Seed> {
    (nature(), 0_u8..3, 0_u8..2, prop::bool::weighted(0.95)).prop_map(|(nature, site, model, runs)| Seed {
        nature,
        site,
        model,
        runs,
    })
}

/// Fleets: mostly mixed, some all of one kind, some where one site or model only has the fault.
fn devices() -> impl Strategy<Value = Vec<Seed>> {
    let mixed = prop::collection::vec(seed(), 0..20);
    let alike = (prop::collection::vec(seed(), 1..16), nature()).prop_map(|(mut fleet, nature)| {
        fleet.iter_mut().for_each(|seed| seed.nature = nature);
        fleet
    });
    let local = (prop::collection::vec(seed(), 4..20), any::<bool>()).prop_map(|(mut fleet, by_model)| {
        for seed in &mut fleet {
            let hit = if by_model { seed.model == 0 } else { seed.site == 0 };
            seed.nature = if hit { Nature::Bad } else { Nature::Good };
        }
        fleet
    });
    prop_oneof![6 => mixed.boxed(), 1 => alike.boxed(), 1 => local.boxed()]
}

fn any_device() -> impl Strategy<Value = u8> {
    0_u8..24
}

fn lie() -> impl Strategy<Value = Option<Lie>> {
    prop::option::weighted(
        0.7,
        prop::sample::select(vec![
            Lie::New,
            Lie::Old,
            Lie::WentBack,
            Lie::Nothing,
            Lie::Staged,
            Lie::Resumed,
        ]),
    )
}

/// What an honest world does: everything but lies, reports out of order and clocks that are wrong.
fn fate() -> impl Strategy<Value = Step> {
    let device = any_device;
    prop_oneof![
        20 => (1_u32..12).prop_map(Step::Seconds),
        6 => (12_u32..120).prop_map(Step::Seconds),
        4 => (120_u32..900).prop_map(Step::Seconds),
        10 => (device(), prop::bool::weighted(0.6)).prop_map(|(device, online)| Step::Online(device, online)),
        2 => (0_u8..3, any::<bool>()).prop_map(|(site, online)| Step::Site(site, online)),
        2 => (device(), 5_u32..400).prop_map(|(device, seconds)| Step::Deaf(device, seconds)),
        1 => device().prop_map(Step::OldDesired),
        2 => Just(Step::SameReport),
        2 => seed().prop_map(Step::Join),
        1 => device().prop_map(Step::Leave),
        1 => device().prop_map(Step::Return),
        1 => (device(), any::<bool>()).prop_map(|(device, on)| Step::Pin(device, on)),
        1 => (device(), any::<bool>()).prop_map(|(device, on)| Step::Cordon(device, on)),
        2 => (device(), 1_u32..200).prop_map(|(device, seconds)| Step::Busy(device, seconds)),
        2 => (device(), 0_u8..3).prop_map(|(device, site)| Step::Label(device, site)),
        1 => device().prop_map(Step::Repair),
        1 => Just(Step::DecideAgain),
        1 => Just(Step::Reload),
    ]
}

/// What goes wrong beyond that.
fn malice() -> impl Strategy<Value = Step> {
    let device = any_device;
    prop_oneof![
        2 => (device(), lie()).prop_map(|(device, lie)| Step::Lies(device, lie)),
        2 => (device(), any::<u8>()).prop_map(|(device, back)| Step::OldReport(device, back)),
        2 => (device(), 5_u32..400).prop_map(|(device, seconds)| Step::Mute(device, seconds)),
        1 => (device(), 1_u32..100).prop_map(|(device, seconds)| Step::SlowClock(device, seconds)),
        1 => (-20_i32..900).prop_map(Step::ClockJumps),
        1 => (3_600_i32..100_000).prop_map(Step::ClockJumps),
    ]
}

/// What a person does.
fn verb() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Pause),
        12 => Just(Step::Resume),
        10 => (0_u8..3).prop_map(Step::Approve),
        1 => Just(Step::Reject),
        3 => Just(Step::SkipWave),
        4 => Just(Step::RetryFailed),
        1 => Just(Step::Rollback),
        2 => any::<bool>().prop_map(Step::Abort),
        4 => Just(Step::Supersede),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let alone = prop::collection::vec(fate(), 0..40);
    let operated = prop::collection::vec(prop_oneof![8 => fate().boxed(), 2 => verb().boxed()], 0..50);
    let hostile = prop::collection::vec(
        prop_oneof![7 => fate().boxed(), 3 => malice().boxed(), 1 => verb().boxed()],
        0..50,
    );
    // A device comes back after a week.
    let week = (prop::collection::vec(fate(), 1..30), any_device()).prop_map(|(mut steps, device)| {
        let at = steps.len() / 2;
        steps.insert(at, Step::Online(device, false));
        steps.push(Step::Seconds(7 * 24 * 3600));
        steps.push(Step::Online(device, true));
        steps
    });
    prop_oneof![10 => alone.boxed(), 10 => operated.boxed(), 10 => hostile.boxed(), 1 => week.boxed()]
}

fn waves() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!([{"percent": 100, "soakSeconds": 0}])),
        Just(json!([{"percent": 100, "soakSeconds": 30}])),
        Just(json!([
            {"count": 1, "soakSeconds": 5},
            {"percent": 40, "soakSeconds": 20},
            {"percent": 100, "soakSeconds": 10},
        ])),
        Just(json!([5, 10, 25, 50, 100].map(|percent| json!({"percent": percent, "soakSeconds": 3})))),
        Just(
            json!([{"count": 3, "soakSeconds": 0}, {"count": 7, "soakSeconds": 0}, {"percent": 100, "soakSeconds": 0}])
        ),
    ]
}

fn budget() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => (1_u32..6).prop_map(|count| json!({"maxUnavailable": count})),
        3 => (1_u32..=100).prop_map(|percent| json!({"maxUnavailable": format!("{percent}%")})),
    ]
}

fn groups() -> impl Strategy<Value = Value> {
    let location = json!([{"label": "location", "maxUnavailable": 1}]);
    let both =
        json!([{"label": "location", "maxUnavailable": "40%"}, {"label": "model", "maxUnavailable": 2}]);
    let promise = json!([{"label": "location", "minAvailable": 1}]);
    prop_oneof![
        5 => Just(json!([])),
        2 => Just(location),
        1 => Just(both),
        1 => Just(promise),
    ]
    .prop_map(|groups| json!({"groupBy": groups}))
}

fn judging() -> impl Strategy<Value = Value> {
    let on_failure = prop_oneof![6 => Just("rollback"), 2 => Just("pause"), 1 => Just("rollback-wave")];
    let inconclusive = prop_oneof![6 => Just("pause"), 1 => Just("rollback"), 1 => Just("continue")];
    let small = prop_oneof![3 => Just("halt"), 1 => Just("pause"), 1 => Just("retry-elsewhere")];
    let approval = prop_oneof![6 => Just("automatic"), 1 => Just("one-person"), 1 => Just("two-people")];
    let words = (on_failure, inconclusive, small, approval, any::<bool>());
    let times = prop_oneof![Just((20, 60, 600)), Just((5, 40, 60)), Just((120, 300, 900))];
    (words, 5_u32..90, prop::option::of(1_u32..5), times).prop_map(
        |(
            (on_failure, inconclusive, small, approval, slow),
            threshold,
            min_reports,
            (permit, device, gate),
        )| {
            let mut spec = json!({
                "onFailure": on_failure,
                "onInconclusive": inconclusive,
                "onSmallWave": small,
                "approval": approval,
                "slowStart": slow,
                "failureThreshold": threshold,
                "permitSeconds": permit,
                "deviceTimeoutSeconds": device,
                "gateTimeoutSeconds": gate,
                "operatorTimeoutSeconds": 3600,
            });
            if let Some(min_reports) = min_reports {
                spec["minReports"] = min_reports.into();
            }
            spec
        },
    )
}

fn merge(parts: impl IntoIterator<Item = Value>) -> RolloutSpec {
    let mut spec = json!({"app": "web", "channel": "prod", "release": release(1).uid});
    for part in parts {
        for (field, value) in part.as_object().unwrap() {
            spec[field] = value.clone();
        }
    }
    let text = spec.to_string();
    serde_json::from_value(spec).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn spec() -> impl Strategy<Value = RolloutSpec> {
    let waves = waves().prop_map(|waves| json!({"waves": waves}));
    (waves, budget(), groups(), judging())
        .prop_map(|(waves, budget, groups, judging)| merge([waves, budget, groups, judging]))
}

pub(super) fn histories() -> impl Strategy<Value = History> {
    (spec(), devices(), steps()).prop_map(|(spec, devices, steps)| History { spec, devices, steps })
}
