//! Incidents: something went wrong on a device, from the first sign until it stayed well for a while.
//!
//! [`observe`] decides which incident a sign opens or joins and when one ends. There is one open incident for each app and cause;
//! whatever comes while it is open joins it, so that flapping is one incident and not a hundred. The device keeps the [`Book`] and
//! tells the control plane the whole [`Incident`] with each change, so that the newest one told is always right.

use serde::{Deserialize, Serialize};

use crate::device::Health;
use crate::id::{IncidentId, ReleaseId, RolloutId};
use crate::name::Name;
use crate::reconcile::{DeviceView, Event, MonoMs, Now};
use crate::time::UnixMs;
use crate::version::Version;
use crate::word_enum;

/// At most this many incidents are open on a device; what comes then is only an event.
pub const MAX_OPEN: usize = 64;
/// At most this many entries in [`Incident::actions`]; the same action again and again is one entry.
pub const MAX_ACTIONS: usize = 50;
/// At most this many characters in each message.
pub const MAX_MESSAGE: usize = 1_000;

word_enum! {
    /// Whether it is over. A device resolves its incident when the app stayed well; a person may, too.
    IncidentState {
        Open = "open",
        Resolved = "resolved",
    }
}

word_enum! {
    /// What an incident is about.
    IncidentCause {
        /// A health check reached its threshold.
        HealthCheckFailed = "health-check-failed",
        /// The app's process ended by itself, once or again and again.
        ProcessExit = "process-exit",
        /// A release could not be started, or was not healthy in time.
        StartFailed = "start-failed",
        /// A condition of the device's policy was broken.
        PolicyBreach = "policy-breach",
    }
}

word_enum! {
    /// What the device did about it, by itself.
    ActionKind {
        AutoRestart = "auto-restart",
        /// Stopped, removed and set up anew.
        Recreate = "recreate",
        Rollback = "rollback",
        /// The release before is kept until somebody resumes the one that failed.
        Pin = "pin",
        /// The release before that may always be gone back to.
        SafeMode = "safe-mode",
        Reboot = "reboot",
        /// Nothing is tried any more; a person has to look.
        Hold = "hold",
    }
}

/// One thing that was done, or the same thing several times in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ActionTaken {
    pub kind: ActionKind,
    /// When it was done first.
    pub at: UnixMs,
    /// When it was done last.
    pub last_at: UnixMs,
    pub count: u32,
    pub message: String,
}

/// An incident as the device knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// `UUIDv7`, made on the device.
    pub uid: IncidentId,
    /// The app that is not well; `None` for the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
    pub cause: IncidentCause,
    /// The first sign, in words.
    pub message: String,
    /// The release that ran when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The rollout that brought that release, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    pub started_at: UnixMs,
    /// The newest sign.
    pub last_at: UnixMs,
    /// How many signs joined it, the first included.
    pub signs: u32,
    pub actions: Vec<ActionTaken>,
    /// Since when it is well again; only told once that lasted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<UnixMs>,
}

/// A sign that something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    pub app: Name,
    pub cause: IncidentCause,
    pub message: String,
    pub release: Option<ReleaseId>,
    pub version: Option<Version>,
    pub rollout: Option<RolloutId>,
    /// What is being done about it.
    pub actions: Vec<ActionKind>,
    /// It follows from what was seen before: it joins whatever is open for the app.
    pub follows: bool,
}

/// What the reconciler's events are signs of. `rollout_of` says which rollout brought a release, as far as the device knows.
#[must_use]
pub fn signs(events: &[&Event], rollout_of: impl Fn(&Name, ReleaseId) -> Option<RolloutId>) -> Vec<Sign> {
    let gives_up = |kind: &str| matches!(kind, "release.rolled-back" | "release.failed");
    events
        .iter()
        .enumerate()
        .filter_map(|(at, event)| {
            let given_up = events.iter().skip(at).any(|later| later.app == event.app && gives_up(later.kind));
            let step = event.healing.map(|healing| healing.step);
            let checked = match event.code.as_deref() {
                Some("PolicyBreach") => IncidentCause::PolicyBreach,
                _ => IncidentCause::HealthCheckFailed,
            };
            let (cause, actions, follows) = match event.kind {
                "app.exited" => (IncidentCause::ProcessExit, vec![ActionKind::AutoRestart], false),
                "health.failed" if given_up => (checked, Vec::new(), false),
                "health.failed" => (checked, vec![ActionKind::AutoRestart], false),
                "release.rolled-back" => (
                    cause_of(event.code.as_deref()),
                    vec![step.unwrap_or(ActionKind::Rollback), ActionKind::Pin],
                    true,
                ),
                "release.failed" => (cause_of(event.code.as_deref()), vec![ActionKind::Hold], true),
                "app.recreated" => (cause_of(event.code.as_deref()), vec![ActionKind::Recreate], true),
                "device.rebooting" => (cause_of(event.code.as_deref()), vec![ActionKind::Reboot], true),
                _ => return None,
            };
            Some(Sign {
                app: event.app.clone(),
                cause,
                message: event.message.chars().take(MAX_MESSAGE).collect(),
                release: event.release,
                version: event.version.clone(),
                rollout: event.release.and_then(|release| rollout_of(&event.app, release)),
                actions,
                follows,
            })
        })
        .collect()
}

pub(crate) fn cause_of(code: Option<&str>) -> IncidentCause {
    match code {
        Some("HealthCheckFailed") => IncidentCause::HealthCheckFailed,
        Some("RestartedTooOften") => IncidentCause::ProcessExit,
        Some("PolicyBreach") => IncidentCause::PolicyBreach,
        _ => IncidentCause::StartFailed,
    }
}

/// An incident that has not ended, with what only the device needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    pub incident: Incident,
    /// Since when its app is well, on this boot's clock and on the wall's.
    #[serde(default)]
    good_since: Option<(MonoMs, UnixMs)>,
    /// Parts of its evidence that are still to be taken.
    #[serde(default)]
    pub wanted: Vec<Part>,
}

word_enum! {
    /// When evidence was taken: the same app's log says something else when it is given up.
    Part {
        Opening = "opening",
        GivenUp = "given-up",
    }
}

/// The open incidents of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Book {
    pub open: Vec<Open>,
}

impl Book {
    /// The device booted: monotonic times of the last boot mean nothing now.
    pub fn rebooted(&mut self) {
        for open in &mut self.open {
            open.good_since = None;
        }
    }

    /// Evidence that is still to be taken.
    pub fn wanted(&self) -> impl Iterator<Item = (&Incident, Part)> {
        self.open.iter().flat_map(|open| open.wanted.iter().map(|part| (&open.incident, *part)))
    }

    /// Evidence was taken, or can't be.
    pub fn taken(&mut self, incident: IncidentId, part: Part) {
        for open in self.open.iter_mut().filter(|open| open.incident.uid == incident) {
            open.wanted.retain(|wanted| *wanted != part);
        }
    }

    fn position(&self, sign: &Sign) -> Option<usize> {
        let of_app = |open: &Open| open.incident.app.as_ref() == Some(&sign.app);
        let same = self.open.iter().position(|open| of_app(open) && open.incident.cause == sign.cause);
        same.or_else(|| sign.follows.then(|| self.open.iter().rposition(of_app)).flatten())
    }
}

/// Opens, joins and ends. Returns the next book and the incidents that changed, as they are now to be told.
///
/// `view` is how the device is now; an incident ends once its app was well for `settle_ms`, or is not there any more. `uid` makes
/// the names of new incidents.
#[must_use]
pub fn observe(
    mut book: Book,
    signs: &[Sign],
    view: &DeviceView,
    settle_ms: i64,
    now: Now,
    mut uid: impl FnMut() -> IncidentId,
) -> (Book, Vec<Incident>) {
    let mut changed: Vec<IncidentId> = Vec::new();
    for sign in signs {
        let at = match book.position(sign) {
            Some(at) => at,
            None if book.open.len() >= MAX_OPEN => continue,
            None => {
                book.open.push(open(sign, uid(), now));
                book.open.len() - 1
            }
        };
        let Some(open) = book.open.get_mut(at) else { continue };
        join(open, sign, now);
        changed.push(open.incident.uid);
    }
    let mut ended = Vec::new();
    book.open.retain_mut(|open| {
        let app = open.incident.app.as_ref().map(|name| view.apps.iter().find(|app| app.app == *name));
        let over = match app {
            // Nothing of it is left on the device.
            Some(None) => Some(now.wall),
            Some(Some(app)) if app.health == Health::Healthy => {
                let (since, wall) = *open.good_since.get_or_insert((now.mono, now.wall));
                (now.mono.since_ms(since) >= settle_ms).then_some(wall)
            }
            _ => {
                open.good_since = None;
                None
            }
        };
        let Some(at) = over.filter(|_| open.wanted.is_empty()) else { return true };
        ended.push(Incident { ended_at: Some(at.max(open.incident.started_at)), ..open.incident.clone() });
        false
    });
    let told = book.open.iter().filter(|open| changed.contains(&open.incident.uid));
    let mut told: Vec<Incident> = told.map(|open| open.incident.clone()).collect();
    told.extend(ended);
    (book, told)
}

fn open(sign: &Sign, uid: IncidentId, now: Now) -> Open {
    Open {
        incident: Incident {
            uid,
            app: Some(sign.app.clone()),
            cause: sign.cause,
            message: sign.message.clone(),
            release: sign.release,
            version: sign.version.clone(),
            rollout: sign.rollout,
            started_at: now.wall,
            last_at: now.wall,
            signs: 0,
            actions: Vec::new(),
            ended_at: None,
        },
        good_since: None,
        wanted: vec![Part::Opening],
    }
}

fn join(open: &mut Open, sign: &Sign, now: Now) {
    open.good_since = None;
    let incident = &mut open.incident;
    incident.last_at = now.wall;
    incident.signs = incident.signs.saturating_add(1);
    incident.rollout = incident.rollout.or(sign.rollout);
    for kind in &sign.actions {
        let full = incident.actions.len() >= MAX_ACTIONS;
        match incident.actions.last_mut() {
            Some(last) if last.kind == *kind => {
                last.count = last.count.saturating_add(1);
                last.last_at = now.wall;
                last.message.clone_from(&sign.message);
            }
            _ if full => {}
            _ => incident.actions.push(ActionTaken {
                kind: *kind,
                at: now.wall,
                last_at: now.wall,
                count: 1,
                message: sign.message.clone(),
            }),
        }
    }
    let gives_up = sign.actions.iter().any(|kind| matches!(kind, ActionKind::Rollback | ActionKind::Hold));
    if gives_up && !open.wanted.contains(&Part::GivenUp) && incident.signs > 1 {
        open.wanted.push(Part::GivenUp);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::device::{AppPhase, Conformance};
    use crate::reconcile::AppView;

    const SETTLE: i64 = 60_000;

    fn web() -> Name {
        Name::new("web").unwrap()
    }

    fn event(kind: &'static str, code: Option<&str>) -> Event {
        Event {
            kind,
            app: web(),
            message: format!("{kind} happened"),
            release: Some(ReleaseId(Uuid::from_u128(11))),
            version: Some("1.1".parse().unwrap()),
            code: code.map(str::to_owned),
            healing: None,
        }
    }

    struct Device {
        book: Book,
        health: Option<Health>,
        made: u128,
    }

    impl Device {
        fn new() -> Self {
            Self { book: Book::default(), health: Some(Health::Degraded), made: 0 }
        }

        fn at(&mut self, ms: i64, events: &[Event]) -> Vec<Incident> {
            let rollout = |_: &Name, _| Some(RolloutId(Uuid::from_u128(5)));
            let signs = signs(&events.iter().collect::<Vec<_>>(), rollout);
            let app = |health| AppView {
                app: web(),
                phase: AppPhase::Running,
                health,
                conformance: Conformance::Conforming,
                active: None,
                staged: None,
                previous: None,
                failed: None,
                refused: None,
                committed: true,
                permit: None,
                restarts: 0,
                resumed: 0,
                isolation: None,
                reasons: Vec::new(),
            };
            let view = DeviceView {
                health: Health::Degraded,
                conformance: Conformance::Conforming,
                reasons: Vec::new(),
                apps: self.health.map(app).into_iter().collect(),
            };
            let now = Now { mono: MonoMs(ms), wall: UnixMs(1_000_000 + ms) };
            let book = std::mem::take(&mut self.book);
            let (book, told) = observe(book, &signs, &view, SETTLE, now, || {
                self.made += 1;
                IncidentId(Uuid::from_u128(self.made))
            });
            self.book = book;
            told
        }

        fn take_evidence(&mut self) {
            let all: Vec<_> = self.book.wanted().map(|(incident, part)| (incident.uid, part)).collect();
            for (incident, part) in all {
                self.book.taken(incident, part);
            }
        }
    }

    #[test]
    fn restarts_and_a_rollback_are_one_incident_with_its_actions_in_order() {
        let mut device = Device::new();
        for n in 0..3 {
            let told = device.at(n * 1_000, &[event("app.exited", None)]);
            assert_eq!(told.len(), 1, "told with each sign");
        }
        let told = device.at(5_000, &[event("release.rolled-back", Some("RestartedTooOften"))]);
        let [incident] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((incident.cause, incident.signs), (IncidentCause::ProcessExit, 4));
        let actions: Vec<_> = incident.actions.iter().map(|a| (a.kind.word(), a.count)).collect();
        assert_eq!(actions, [("auto-restart", 3), ("rollback", 1), ("pin", 1)]);
        assert_eq!(incident.rollout, Some(RolloutId(Uuid::from_u128(5))));
        let wanted: Vec<_> = device.book.wanted().map(|(_, part)| part).collect();
        assert_eq!(wanted, [Part::Opening, Part::GivenUp]);
    }

    #[test]
    fn a_failing_check_that_ends_a_trial_is_no_restart() {
        let mut device = Device::new();
        let events = [
            event("health.failed", Some("HealthCheckFailed")),
            event("release.rolled-back", Some("HealthCheckFailed")),
        ];
        let told = device.at(0, &events);
        let [incident] = told.as_slice() else { panic!("{told:?}") };
        let actions: Vec<_> = incident.actions.iter().map(|a| a.kind.word()).collect();
        assert_eq!(actions, ["rollback", "pin"]);
    }

    #[test]
    fn two_causes_are_two_incidents_and_what_follows_joins_the_newest() {
        let mut device = Device::new();
        device.at(0, &[event("app.exited", None)]);
        let told = device.at(1_000, &[event("health.failed", None)]);
        assert_eq!(told[0].cause, IncidentCause::HealthCheckFailed);
        assert_eq!(device.book.open.len(), 2);
        let told = device.at(2_000, &[event("release.failed", Some("StartTimeout"))]);
        assert_eq!((told[0].cause, device.book.open.len()), (IncidentCause::HealthCheckFailed, 2));
        assert_eq!(told[0].actions.last().map(|a| a.kind), Some(ActionKind::Hold));
    }

    #[test]
    fn an_incident_ends_when_the_app_stayed_well_and_flapping_joins_it() {
        let mut device = Device::new();
        let first = device.at(0, &[event("health.failed", None)])[0].uid;
        device.take_evidence();
        for round in 1..20 {
            device.health = Some(Health::Healthy);
            assert_eq!(device.at(round * 50_000, &[]), [], "well, but not for long enough");
            device.health = Some(Health::Degraded);
            let told = device.at(round * 50_000 + 40_000, &[event("health.failed", None)]);
            assert_eq!((told.len(), told[0].uid, told[0].ended_at), (1, first, None));
        }
        device.health = Some(Health::Healthy);
        device.at(2_000_000, &[]);
        let told = device.at(2_000_000 + SETTLE, &[]);
        assert_eq!((told[0].uid, told[0].ended_at), (first, Some(UnixMs(3_000_000))));
        assert_eq!(told[0].actions, [ActionTaken { count: 20, ..told[0].actions[0].clone() }]);
        assert_eq!(device.book, Book::default());
        // What comes now is another one.
        assert_ne!(device.at(3_000_000, &[event("health.failed", None)])[0].uid, first);
    }

    #[test]
    fn an_incident_waits_for_its_evidence_and_ends_with_its_app() {
        let mut device = Device::new();
        device.at(0, &[event("app.exited", None)]);
        device.health = None;
        assert_eq!(device.at(1_000, &[]), [], "its evidence is not taken yet");
        device.take_evidence();
        assert!(device.at(2_000, &[])[0].ended_at.is_some());
    }

    #[test]
    fn a_reboot_starts_the_time_of_being_well_anew() {
        let mut device = Device::new();
        device.at(500_000, &[event("app.exited", None)]);
        device.take_evidence();
        device.health = Some(Health::Healthy);
        device.at(510_000, &[]);
        device.book.rebooted();
        assert_eq!(device.at(1_000, &[]), []);
        assert_eq!(device.at(1_000 + SETTLE, &[]).len(), 1);
    }

    #[test]
    fn no_more_than_so_many_are_open_and_unknown_words_are_read() {
        let mut device = Device::new();
        let other =
            |n: usize| Event { app: Name::new(format!("app-{n}")).unwrap(), ..event("app.exited", None) };
        device.health = Some(Health::Degraded);
        let events: Vec<Event> = (0..100).map(other).collect();
        let rollout = |_: &Name, _| None;
        let all = signs(&events.iter().collect::<Vec<_>>(), rollout);
        let view = DeviceView {
            health: Health::Unknown,
            conformance: Conformance::Unknown,
            reasons: Vec::new(),
            apps: Vec::new(),
        };
        let (book, told) =
            observe(Book::default(), &all, &view, SETTLE, Now::default(), || IncidentId(Uuid::from_u128(9)));
        assert_eq!((book.open.len(), told.len()), (MAX_OPEN, MAX_OPEN));
        let text = serde_json::to_string(&told[0]).unwrap().replace("process-exit", "meteor");
        assert_eq!(serde_json::from_str::<Incident>(&text).unwrap().cause, IncidentCause::Unknown);
    }
}
