//! One step as it runs: what it remembers of each series, and what it does with a point.

use std::collections::VecDeque;

use farshore_journal::{SeriesKey, Value};
use serde::{Deserialize, Serialize};

use super::bits;
use super::definition::{Action, Change, Deadband, Dedup, Enrich, Map, Rule, Step, Window};
use super::expr::{Prepared, Val};
use super::output::{Alert, AlertState, Output, render, render_payload, render_topic};
use super::rule::{Due, Turn, Watched};
use super::series::{Context, Id, PerSeries, Table};
use super::window::{Closed, Put, Windows, patience_ns};

/// Windows that a step holds open at once, all series together.
const MAX_OPEN: usize = 100_000;
/// Points of a series by which duplicates are known.
const MAX_RECENT: usize = 128;
/// Points further ahead of the clock than this open no window: one wrong time must not make all that comes after it late.
const MAX_AHEAD_NS: i64 = 300_000_000_000;
/// 2025-01-01: a clock that stands before knows nothing of the future.
const PLAUSIBLE_NS: i64 = 1_735_689_600_000_000_000;

/// What a step has done since it was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StepCounts {
    /// Points that came in.
    pub taken: u64,
    /// Points that went on: to the next step, or out.
    pub passed: u64,
    /// Points that came too late to count.
    pub late: u64,
    /// Points about which an expression could not say anything, or whose time is not plausible.
    pub unknown: u64,
    /// Points for which there was no room.
    pub no_room: u64,
    /// Windows that had to end before their time.
    pub cut: u64,
    /// Alerts that were raised.
    pub raised: u64,
}

/// The two clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Unix time.
    pub wall_ns: i64,
    /// Since some beginning; never goes back.
    pub mono_ns: i64,
}

/// A point on its way through the steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'v> {
    pub(super) series: Id,
    pub(super) at_ns: i64,
    pub(super) number: Option<f64>,
    /// As it came; nothing when a step made it.
    pub(super) raw: Option<&'v Value>,
}

impl<'v> Record<'v> {
    fn text(&self) -> Option<&'v str> {
        match self.raw {
            Some(Value::Text(text) | Value::Json(text)) => Some(text),
            _ => None,
        }
    }

    fn value(&self) -> Option<Value> {
        self.raw.cloned().or_else(|| self.number.map(Value::Float))
    }
}

/// What steps share.
#[derive(Debug)]
pub(super) struct World<'w> {
    pub(super) table: &'w mut Table,
    pub(super) context: &'w Context,
    pub(super) now: Now,
    pub(super) out: &'w mut Vec<Output>,
    pub(super) pipeline: &'w str,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) step: Step,
    pub(super) fingerprint: String,
    pub(super) counts: StepCounts,
    /// What follows from a series' name; can be made again.
    prepared: PerSeries<ForSeries>,
    state: State,
    open: usize,
}

/// What a step knows of a series from its name alone.
#[derive(Debug)]
enum ForSeries {
    Condition(Prepared),
    Map { value: Option<Prepared>, out: Option<Id> },
    Out(Option<Id>),
    Outs(Vec<Option<Id>>),
    Rule { raise: Prepared, clear: Option<Prepared> },
}

/// What a step remembers of each series.
#[derive(Debug)]
enum State {
    Nothing,
    Recent(PerSeries<Kept<Recent>>),
    Last(PerSeries<Kept<Last>>),
    Windows(PerSeries<Kept<Windows>>),
    Rules(PerSeries<Kept<Watched>>),
}

#[derive(Debug)]
struct Kept<T> {
    /// By the clock that never goes back.
    seen_ns: i64,
    it: T,
}

/// Times and hashes of the newest points.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Recent(VecDeque<(i64, u64)>);

/// What a deadband let through.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Last {
    #[serde(with = "bits")]
    value: f64,
    at_ns: i64,
}

/// What a step remembers of one series, to be kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Remembered {
    Recent(Recent),
    Last(Last),
    Windows(Windows),
    Rule(Watched),
}

impl Running {
    pub(super) fn new(step: Step) -> Self {
        let state = match &step {
            Step::Dedup(_) => State::Recent(PerSeries::default()),
            Step::Deadband(_) => State::Last(PerSeries::default()),
            Step::Window(_) => State::Windows(PerSeries::default()),
            Step::Rule(_) => State::Rules(PerSeries::default()),
            Step::Filter(_) | Step::Map(_) | Step::Enrich(_) | Step::Emit(_) => State::Nothing,
        };
        let fingerprint = step.fingerprint();
        Self {
            step,
            fingerprint,
            counts: StepCounts::default(),
            prepared: PerSeries::default(),
            state,
            open: 0,
        }
    }

    /// What follows from names is made again: the ids or the context have changed.
    pub(super) fn forget_names(&mut self) {
        self.prepared.clear();
    }

    /// Rules that are raised.
    pub(super) fn active(&self) -> usize {
        match &self.state {
            State::Rules(rules) => rules.iter().filter(|(_, kept)| kept.it.is_raised()).count(),
            _ => 0,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// What is worth keeping, and how many series are let go because they were silent since `before`.
    pub(super) fn remembered(&self, before: Option<i64>) -> (Vec<(Id, Remembered)>, u64) {
        let mut gone = 0;
        let mut stays = |seen_ns: i64, busy: bool| {
            let stays = busy || before.is_none_or(|before| seen_ns >= before);
            gone += u64::from(!stays);
            stays
        };
        let kept = match &self.state {
            State::Nothing => Vec::new(),
            State::Recent(all) => all
                .iter()
                .filter(|(_, kept)| stays(kept.seen_ns, false))
                .map(|(id, kept)| (id, Remembered::Recent(kept.it.clone())))
                .collect(),
            State::Last(all) => all
                .iter()
                .filter(|(_, kept)| stays(kept.seen_ns, false))
                .map(|(id, kept)| (id, Remembered::Last(kept.it)))
                .collect(),
            State::Windows(all) => all
                .iter()
                .filter(|(_, kept)| stays(kept.seen_ns, kept.it.open() > 0))
                .map(|(id, kept)| (id, Remembered::Windows(kept.it.clone())))
                .collect(),
            State::Rules(all) => all
                .iter()
                .filter(|(_, kept)| stays(kept.seen_ns, kept.it.is_raised() || kept.it.waits()))
                .map(|(id, kept)| (id, Remembered::Rule(kept.it.clone())))
                .collect(),
        };
        (kept, gone)
    }

    pub(super) fn remember(&mut self, id: Id, remembered: Remembered, seen_ns: i64) {
        match (&mut self.state, remembered) {
            (State::Recent(all), Remembered::Recent(it)) => all.put(id, Kept { seen_ns, it }),
            (State::Last(all), Remembered::Last(it)) => all.put(id, Kept { seen_ns, it }),
            (State::Windows(all), Remembered::Windows(it)) => {
                self.open += it.open();
                all.put(id, Kept { seen_ns, it });
            }
            (State::Rules(all), Remembered::Rule(it)) => all.put(id, Kept { seen_ns, it }),
            // Of a step of another kind: it means nothing here.
            _ => {}
        }
    }

    /// Takes a point; `next` gets what goes on.
    pub(super) fn take<'v>(
        &mut self,
        world: &mut World<'_>,
        record: Record<'v>,
        next: &mut dyn FnMut(&mut World<'_>, Record<'v>),
    ) {
        self.counts.taken += 1;
        let Self { step, prepared, counts, state, open, .. } = self;
        match (step, state) {
            (Step::Filter(condition), _) => {
                let made = prepared.or_make(record.series, || {
                    ForSeries::Condition(prepare(&condition.0, world, record.series))
                });
                let Some(ForSeries::Condition(condition)) = made else { return };
                match condition.is_true(record.number, record.text(), record.at_ns) {
                    Some(true) => {
                        counts.passed += 1;
                        next(world, record);
                    }
                    Some(false) => {}
                    None => counts.unknown += 1,
                }
            }
            (Step::Map(map), _) => {
                let made = prepared.or_make(record.series, || ForSeries::Map {
                    value: map.value.as_ref().map(|value| prepare(&value.0, world, record.series)),
                    out: mapped(map, world, record.series),
                });
                let Some(ForSeries::Map { value, out }) = made else { return };
                let Some(series) = *out else {
                    counts.no_room += 1;
                    return;
                };
                let record = match value {
                    None => Record { series, ..record },
                    Some(value) => match value.eval(record.number, record.text(), record.at_ns) {
                        Some(Val::Number(number)) => {
                            Record { series, number: Some(number), raw: None, ..record }
                        }
                        _ => {
                            counts.unknown += 1;
                            return;
                        }
                    },
                };
                counts.passed += 1;
                next(world, record);
            }
            (Step::Enrich(enrich), _) => {
                let made = prepared
                    .or_make(record.series, || ForSeries::Out(enriched(enrich, world, record.series)));
                let Some(ForSeries::Out(Some(series))) = made else {
                    counts.no_room += 1;
                    return;
                };
                counts.passed += 1;
                next(world, Record { series: *series, ..record });
            }
            (Step::Dedup(dedup), State::Recent(all)) => {
                let seen_ns = world.now.mono_ns;
                let Some(kept) = all.or_make(record.series, || Kept { seen_ns, it: Recent::default() })
                else {
                    return;
                };
                kept.seen_ns = seen_ns;
                if kept.it.is_new(dedup, &record) {
                    counts.passed += 1;
                    next(world, record);
                }
            }
            (Step::Deadband(band), State::Last(all)) => {
                let Some(value) = record.number else {
                    counts.unknown += 1;
                    return;
                };
                let seen_ns = world.now.mono_ns;
                let now = Last { value, at_ns: record.at_ns };
                let mut passes = false;
                let made = all.or_make(record.series, || {
                    passes = true;
                    Kept { seen_ns, it: now }
                });
                let Some(kept) = made else { return };
                kept.seen_ns = seen_ns;
                if passes || leaves(band, kept.it, now) {
                    kept.it = now;
                    counts.passed += 1;
                    next(world, record);
                }
            }
            (Step::Window(window), State::Windows(all)) => {
                let Some(value) = record.number else {
                    counts.unknown += 1;
                    return;
                };
                let now = world.now;
                if now.wall_ns > PLAUSIBLE_NS && record.at_ns > now.wall_ns.saturating_add(MAX_AHEAD_NS) {
                    counts.unknown += 1;
                    return;
                }
                let made =
                    all.or_make(record.series, || Kept { seen_ns: now.mono_ns, it: Windows::default() });
                let Some(kept) = made else { return };
                kept.seen_ns = now.mono_ns;
                let before = kept.it.open();
                let mut closed = Vec::new();
                if kept.it.put(window, record.at_ns, value, &mut closed) == Put::Late {
                    counts.late += 1;
                }
                *open = *open + kept.it.open() - before;
                if *open > MAX_OPEN {
                    let before = kept.it.open();
                    kept.it.close_oldest(window, &mut closed);
                    *open = *open + kept.it.open() - before;
                    counts.cut += 1;
                }
                if !closed.is_empty() {
                    tell(window, prepared, counts, world, record.series, closed, next);
                }
            }
            (Step::Rule(rule), State::Rules(all)) => {
                let made = prepared.or_make(record.series, || ForSeries::Rule {
                    raise: prepare(&rule.raise.0, world, record.series),
                    clear: rule.clear.as_ref().map(|clear| prepare(&clear.0, world, record.series)),
                });
                let Some(ForSeries::Rule { raise, clear }) = made else { return };
                let holds = raise.is_true(record.number, record.text(), record.at_ns);
                // A series that a rule can never speak of is not watched.
                if matches!(raise, Prepared::Always(false)) {
                    counts.passed += 1;
                    next(world, record);
                    return;
                }
                let over = match clear {
                    Some(clear) => clear.is_true(record.number, record.text(), record.at_ns),
                    None => holds.map(|holds| !holds),
                };
                if holds.is_none() {
                    counts.unknown += 1;
                }
                let seen_ns = world.now.mono_ns;
                let made = all.or_make(record.series, || Kept { seen_ns, it: Watched::default() });
                let Some(kept) = made else { return };
                kept.seen_ns = seen_ns;
                let ns = |span: Option<super::time::Span>| span.map_or(0, |span| span.ns);
                let turn = kept.it.judge(record.at_ns, holds, over, ns(rule.hold), ns(rule.clear_for));
                if turn != Turn::Late {
                    kept.it.keep(record.number, record.text());
                }
                match turn {
                    Turn::Nothing => {}
                    Turn::Late => counts.late += 1,
                    Turn::Raised => {
                        counts.raised += 1;
                        say(rule, world, &record, AlertState::Raised, record.at_ns);
                    }
                    Turn::Cleared(raised_ns) => say(rule, world, &record, AlertState::Cleared, raised_ns),
                }
                counts.passed += 1;
                next(world, record);
            }
            (Step::Emit(emit), _) => {
                let (Some(series), Some(value)) = (world.table.key(record.series), record.value()) else {
                    return;
                };
                counts.passed += 1;
                world.out.push(Output::Point {
                    stream: emit.stream.clone(),
                    series: series.clone(),
                    at_ns: record.at_ns,
                    value,
                });
                next(world, record);
            }
            _ => {}
        }
    }

    /// Time has passed: windows of series that are silent end, and what the last point of one has begun may have held for long enough.
    pub(super) fn tick<'v>(
        &mut self,
        world: &mut World<'_>,
        next: &mut dyn FnMut(&mut World<'_>, Record<'v>),
    ) {
        self.judge_silence(world);
        self.end_windows(world, next);
    }

    fn judge_silence(&mut self, world: &mut World<'_>) {
        let Self { step: Step::Rule(rule), counts, state: State::Rules(all), .. } = self else { return };
        let ns = |span: Option<super::time::Span>| span.map_or(0, |span| span.ns);
        let mut turned: Vec<(Id, Due)> = Vec::new();
        for (id, kept) in all.iter_mut() {
            let silence_ns = world.now.mono_ns.saturating_sub(kept.seen_ns);
            let due = kept.it.silent(silence_ns, ns(rule.hold), ns(rule.clear_for));
            turned.extend(due.map(|due| (id, due)));
        }
        for (series, due) in turned {
            let record = Record { series, at_ns: due.at_ns, number: due.number, raw: due.text.as_ref() };
            match due.turn {
                Turn::Raised => {
                    counts.raised += 1;
                    say(rule, world, &record, AlertState::Raised, record.at_ns);
                }
                Turn::Cleared(raised_ns) => say(rule, world, &record, AlertState::Cleared, raised_ns),
                Turn::Nothing | Turn::Late => {}
            }
        }
    }

    fn end_windows<'v>(&mut self, world: &mut World<'_>, next: &mut dyn FnMut(&mut World<'_>, Record<'v>)) {
        let Self { step: Step::Window(window), prepared, counts, state: State::Windows(all), open, .. } =
            self
        else {
            return;
        };
        let Some(patience) = patience_ns(window) else { return };
        let mut ended: Vec<(Id, Vec<Closed>)> = Vec::new();
        for (id, kept) in all.iter_mut() {
            if kept.it.open() > 0 && world.now.mono_ns.saturating_sub(kept.seen_ns) >= patience {
                let before = kept.it.open();
                let mut closed = Vec::new();
                kept.it.close_all(window, &mut closed);
                *open = *open + kept.it.open() - before;
                ended.push((id, closed));
            }
        }
        for (id, closed) in ended {
            tell(window, prepared, counts, world, id, closed, next);
        }
    }

    /// Ends all windows: no more points will come.
    pub(super) fn finish<'v>(
        &mut self,
        world: &mut World<'_>,
        next: &mut dyn FnMut(&mut World<'_>, Record<'v>),
    ) {
        let later = Now { mono_ns: i64::MAX, ..world.now };
        let now = std::mem::replace(&mut world.now, later);
        self.end_windows(world, next);
        world.now = now;
    }
}

/// Passes on what closed windows say.
fn tell<'v>(
    window: &Window,
    prepared: &mut PerSeries<ForSeries>,
    counts: &mut StepCounts,
    world: &mut World<'_>,
    series: Id,
    closed: Vec<Closed>,
    next: &mut dyn FnMut(&mut World<'_>, Record<'v>),
) {
    let made = prepared.or_make(series, || {
        let of = |aggregate: &super::definition::Aggregate| {
            let key = world.table.key(series)?;
            let suffix = aggregate.suffix();
            let field = if key.field().is_empty() { suffix } else { format!("{}_{suffix}", key.field()) };
            let key = key.with_field(&field).ok()?;
            world.table.id(&key)
        };
        ForSeries::Outs(window.aggregates.iter().map(of).collect())
    });
    let Some(ForSeries::Outs(outs)) = made else { return };
    for (at_ns, gathered) in closed {
        for (aggregate, out) in window.aggregates.iter().zip(&*outs) {
            let Some(number) = gathered.says(*aggregate) else { continue };
            let Some(series) = *out else {
                counts.no_room += 1;
                continue;
            };
            counts.passed += 1;
            next(world, Record { series, at_ns, number: Some(number), raw: None });
        }
    }
}

fn prepare(expression: &super::expr::Expression, world: &World<'_>, series: Id) -> Prepared {
    let key = world.table.key(series);
    expression.prepare(&|source| world.context.known(key?, source))
}

/// The series that a map makes of one.
fn mapped(map: &Map, world: &mut World<'_>, series: Id) -> Option<Id> {
    let key = world.table.key(series)?;
    let kept = key.tags().filter(|(name, _)| map.tags.iter().all(|(changed, _)| changed.0 != *name));
    let new = map.tags.iter().filter_map(|(name, value)| Some((name.0.as_str(), value.as_ref()?.0.as_str())));
    let measurement = map.measurement.as_ref().map_or(key.measurement(), |name| &name.0);
    let field = map.field.as_ref().map_or(key.field(), |name| &name.0);
    let key = SeriesKey::new(measurement, field, kept.chain(new)).ok()?;
    world.table.id(&key)
}

/// The series with what is known of the device; its own tags win.
fn enriched(enrich: &Enrich, world: &mut World<'_>, series: Id) -> Option<Id> {
    let key = world.table.key(series)?;
    let mut more: Vec<(&str, String)> = Vec::new();
    for label in &enrich.labels {
        more.extend(world.context.labels.get(&label.0).map(|value| (label.0.as_str(), value.clone())));
    }
    for (tag, path) in &enrich.twin {
        more.extend(world.context.twin_text(&path.0).map(|value| (tag.0.as_str(), value)));
    }
    more.sort();
    more.dedup_by(|a, b| a.0 == b.0);
    let new = more.iter().map(|(name, value)| (*name, value.as_str()));
    let new = new.filter(|(name, value)| !value.is_empty() && key.tag(name).is_none());
    let key = SeriesKey::new(key.measurement(), key.field(), key.tags().chain(new)).ok()?;
    world.table.id(&key)
}

impl Recent {
    fn is_new(&mut self, dedup: &Dedup, record: &Record<'_>) -> bool {
        let point = (record.at_ns, hash(record));
        if self.0.contains(&point) {
            return false;
        }
        while self.0.len() >= MAX_RECENT
            || self.0.front().is_some_and(|(at_ns, _)| record.at_ns.saturating_sub(*at_ns) > dedup.within.ns)
        {
            self.0.pop_front();
        }
        self.0.push_back(point);
        true
    }
}

/// FNV-1a: the same in every process.
fn hash(record: &Record<'_>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match (record.number, record.text()) {
        (Some(number), _) => add(&number.to_bits().to_le_bytes()),
        (None, Some(text)) => add(text.as_bytes()),
        (None, None) => {}
    }
    hash
}

fn leaves(band: &Deadband, last: Last, now: Last) -> bool {
    let change = (now.value - last.value).abs();
    let far = match band.change {
        Change::By(by) => change >= by && (change > 0.0 || by == 0.0),
        Change::Percent(percent) => change > 0.0 && change >= last.value.abs() * percent / 100.0,
    };
    far || band.at_least_every.is_some_and(|every| now.at_ns.saturating_sub(last.at_ns) >= every.ns)
}

/// A rule has changed its mind: the alert, and what is to be done.
fn say(rule: &Rule, world: &mut World<'_>, record: &Record<'_>, state: AlertState, raised_ns: i64) {
    let Some(key) = world.table.key(record.series).cloned() else { return };
    let raised = state == AlertState::Raised;
    let context = world.context;
    let known = |name: &str| -> Option<String> {
        Some(match name {
            "value" => {
                record.number.map(|number| number.to_string()).or_else(|| record.text().map(str::to_owned))?
            }
            "measurement" => key.measurement().to_owned(),
            "field" => key.field().to_owned(),
            "rule" => rule.name.0.clone(),
            "severity" => rule.severity.as_str().to_owned(),
            "state" => if raised { "raised" } else { "cleared" }.to_owned(),
            "time" => crate::clock::rfc3339(record.at_ns),
            other => match other.split_once('.')? {
                ("tags", tag) => key.tag(tag)?.to_owned(),
                ("labels", label) => context.labels.get(label)?.clone(),
                ("twin", path) => context.twin_text(path)?,
                _ => return None,
            },
        })
    };
    let message = match &rule.message {
        Some(message) => render(&message.0, &known),
        None => render(&format!("{}: {{measurement}} {{field}} is {{value}}", rule.name.0), &known),
    };
    let alert = Alert {
        id: Alert::id(world.pipeline, &rule.name.0, &key, raised_ns),
        state,
        pipeline: world.pipeline.to_owned(),
        rule: rule.name.0.clone(),
        severity: rule.severity,
        message: message.chars().take(1024).collect(),
        series: key.to_string(),
        value: record.number,
        at_ns: record.at_ns,
        key: key.clone(),
    };
    // Always has a form in JSON.
    let json = serde_json::to_string(&alert).unwrap_or_default();
    let actions = if raised { &rule.on_raise } else { &rule.on_clear };
    for action in &actions.0 {
        world.out.push(match action {
            Action::Publish { topic, payload } => Output::Publish {
                topic: render_topic(topic, &known),
                payload: payload
                    .as_ref()
                    .map_or_else(|| json.clone(), |payload| render_payload(payload, &known)),
            },
            Action::Webhook { url } => Output::Webhook { url: url.clone(), body: json.clone() },
        });
    }
    world.out.push(Output::Alert(Box::new(alert)));
}
