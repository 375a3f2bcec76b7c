//! What the conditions of gates and tripwires speak of. Missing data makes a condition unknown, never false.

use super::judge::{self, Tally};
use super::member::{Member, Progress};
use super::state::Rollout;
use super::view::{DeviceView, FleetView, Reading};
use super::welch::{Estimate, Sample};
use crate::condition::device::{EVENTS, METRICS};
use crate::condition::{Condition, Facts, Missing, Param, Type, Value, Verdict, Vocabulary};

/// The vocabulary of gates and tripwires.
///
/// `devices.total`, `.reported`, `.succeeded`, `.failed`, `.unreachable` count the devices of the wave that runs, `rollout.…` those of all waves;
/// `failureRatio` is failed of reported in the wave (unknown without reports), `wave` its number. Of the devices that have the new release: `incidents` counts
/// what was opened since, `events("app.exited")` what they told since, `metric("cpu")` is the mean of their newest values.
/// `change("cpu")` is how much that differs from the same devices before, `diff("cpu")` from devices that do not have the new release yet;
/// `change_low`, `change_high`, `diff_low` and `diff_high` are the ends of the 95 % intervals.
#[must_use]
pub fn vocabulary() -> Vocabulary {
    let words = |words: &[&str]| vec![Param::OneOf(words.iter().map(|word| (*word).to_owned()).collect())];
    let counts = ["total", "reported", "succeeded", "failed", "unreachable"];
    let mut all = Vocabulary::new()
        .variable("wave", Type::Number)
        .variable("failureRatio", Type::Number)
        .variable("incidents", Type::Number)
        .function("events", words(EVENTS), Type::Number);
    for name in counts {
        all = all.variable(&format!("devices.{name}"), Type::Number);
        all = all.variable(&format!("rollout.{name}"), Type::Number);
    }
    for name in ["metric", "change", "change_low", "change_high", "diff", "diff_low", "diff_high"] {
        all = all.function(name, words(METRICS), Type::Number);
    }
    all
}

impl Rollout {
    /// What a condition says now.
    pub(super) fn evaluate(&self, view: &FleetView, text: &str) -> Verdict {
        match Condition::compile(text, &vocabulary()) {
            Ok(condition) => {
                condition.evaluate(&Context { rollout: self, view, tallies: judge::tallies(self) })
            }
            // Only a condition that another version accepted.
            Err(error) => Verdict::Unknown(error.to_string()),
        }
    }

    /// Whether its conditions speak of metrics, incidents or events: then [`super::DeviceView::signals`] has to be filled in.
    #[must_use]
    pub fn needs_signals(&self) -> bool {
        let spec = &self.spec;
        let of_waves = spec.waves.iter().filter_map(|wave| wave.gate.as_ref());
        let conditions = spec.gate.iter().chain(of_waves).chain(spec.tripwires.iter().map(|wire| &wire.when));
        conditions.into_iter().any(|text| {
            Condition::compile(text, &vocabulary()).is_ok_and(|condition| {
                !condition.calls().is_empty() || condition.variables().contains(&"incidents")
            })
        })
    }
}

struct Context<'a> {
    rollout: &'a Rollout,
    view: &'a FleetView,
    tallies: Vec<Tally>,
}

fn number(value: u32) -> Result<Value, Missing> {
    Ok(Value::from(value))
}

impl Context<'_> {
    /// The devices that have the new release for good, or those that have not got it yet.
    fn group(&self, updated: bool) -> impl Iterator<Item = &DeviceView> {
        let of_group = move |member: &Member| match member.progress {
            Progress::Updated { .. } => updated,
            Progress::Waiting { .. } => !updated && !member.touched,
            _ => false,
        };
        self.rollout
            .members
            .iter()
            .filter(move |(_, member)| of_group(member))
            .filter_map(|(device, _)| self.view.get(*device))
    }

    fn readings(&self, updated: bool, name: &str) -> impl Iterator<Item = Reading> {
        self.group(updated).filter_map(move |device| device.signals.as_ref()?.metrics.get(name).copied())
    }

    fn change(&self, name: &str) -> Sample {
        Sample::of(self.readings(true, name).filter_map(|reading| Some(reading.latest - reading.baseline?)))
    }

    /// The sum of something over the devices that have the new release; missing when it is known of none of them.
    fn sum(&self, what: &str, of: impl Fn(&super::view::Signals) -> u32) -> Result<Value, Missing> {
        let mut known = self.group(true).filter_map(|device| device.signals.as_deref()).peekable();
        if known.peek().is_none() {
            return Err(Missing(format!("no device with the new release has told of {what} yet")));
        }
        number(known.map(of).fold(0, u32::saturating_add))
    }

    fn count(&self, of: &str, tally: &Tally) -> Result<Value, Missing> {
        number(match of {
            "total" => tally.members,
            "reported" => tally.judged() + tally.acknowledged,
            "succeeded" => tally.succeeded,
            "failed" => tally.failed + tally.acknowledged,
            _ => tally.unreachable,
        })
    }

    fn current(&self) -> Tally {
        self.tallies.get(self.rollout.current as usize).copied().unwrap_or_default()
    }

    fn whole(&self) -> Tally {
        self.tallies.iter().fold(Tally::default(), |all, wave| Tally {
            members: all.members + wave.members,
            succeeded: all.succeeded + wave.succeeded + wave.set_aside,
            failed: all.failed + wave.failed,
            acknowledged: all.acknowledged + wave.acknowledged,
            unreachable: all.unreachable + wave.unreachable,
            ..all
        })
    }
}

impl Facts for Context<'_> {
    fn variable(&self, name: &str) -> Result<Value, Missing> {
        match name {
            "wave" => number(self.rollout.current + 1),
            "incidents" => self.sum("incidents", |signals| signals.incidents),
            "failureRatio" => {
                let ratio = self.current().failure_ratio().map(Value::from);
                ratio.ok_or_else(|| Missing("no device of this wave has reported yet".to_owned()))
            }
            _ => match name.split_once('.') {
                Some(("devices", of)) => self.count(of, &self.current()),
                Some(("rollout", of)) => self.count(of, &self.whole()),
                _ => Err(Missing(format!("{name} is not known"))),
            },
        }
    }

    fn call(&self, function: &str, arguments: &[Value]) -> Result<Value, Missing> {
        let Some(Value::Text(name)) = arguments.first() else {
            return Err(Missing(format!("{function} needs a name")));
        };
        if function == "events" {
            return self.sum("events", |signals| signals.events.get(name).copied().unwrap_or(0));
        }
        let latest = |updated| Sample::of(self.readings(updated, name).map(|reading| reading.latest));
        let estimate: Option<Estimate> = match function {
            "change_low" | "change_high" => self.change(name).estimate(),
            "diff_low" | "diff_high" => latest(true).less(&latest(false)),
            _ => None,
        };
        let value = match function {
            "metric" => latest(true).mean(),
            "change" => self.change(name).mean(),
            "diff" => latest(true).mean().zip(latest(false).mean()).map(|(new, old)| new - old),
            "change_low" | "diff_low" => estimate.map(|estimate| estimate.low),
            _ => estimate.map(|estimate| estimate.high),
        };
        value.map(Value::from).ok_or_else(|| {
            let whose = match function {
                "metric" => "too few devices with the new release have sent",
                "change" | "change_low" | "change_high" => {
                    "too few devices with the new release have sent, now and before it,"
                }
                _ => "too few devices with the new release, or too few without, have sent",
            };
            Missing(format!("{whose} {name}"))
        })
    }
}
