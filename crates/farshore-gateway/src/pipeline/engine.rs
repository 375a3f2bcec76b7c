//! The engine: points in, outputs out. It reads no clock and no disk; the same points at the same clock give the same outputs.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use farshore_journal::{PointBatch, SeriesKey, StreamName};
use serde::{Deserialize, Serialize};

use super::definition::{Definition, From};
use super::output::Output;
use super::series::{Context, Id, PerSeries, Table};
use super::step::{Now, Record, Remembered, Running, StepCounts, World};

/// Series that are silent for so long give way when there are too many.
const SILENT_NS: i64 = 3_600_000_000_000;
/// How often it is looked for such.
const TIDY_NS: i64 = 60_000_000_000;

/// Pipelines that run.
#[derive(Debug)]
pub struct Engine {
    pipelines: Vec<Line>,
    table: Table,
    context: Context,
    max_series: usize,
    counts: EngineCounts,
    /// Streams that pipelines write; nothing of them comes in.
    outputs: Vec<StreamName>,
    tidied_ns: Option<i64>,
    /// Ids of the batch that is read.
    ids: Vec<Option<Id>>,
}

/// One pipeline.
#[derive(Debug)]
struct Line {
    name: String,
    from: From,
    /// Whether points of a series come in, stream apart.
    accepts: PerSeries<bool>,
    steps: Vec<Running>,
}

/// What the engine has done since it was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EngineCounts {
    /// Points that came in.
    pub points: u64,
    /// Points of series for which there was no room.
    pub no_room: u64,
    /// What was remembered of series that were silent, and had to give way.
    pub evicted: u64,
}

/// A pipeline as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PipelineStatus {
    pub name: String,
    /// Rules that are raised, series by series.
    pub active_alerts: usize,
    pub steps: Vec<StepStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepStatus {
    pub kind: &'static str,
    #[serde(flatten)]
    pub counts: StepCounts,
    /// Windows that are open.
    pub open_windows: usize,
}

/// All that an engine remembers, to be kept over a restart or taken over by another definition.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    /// Canonical names, Base64.
    series: Vec<String>,
    /// By pipeline, then by what the step means.
    pipelines: BTreeMap<String, BTreeMap<String, Vec<(usize, Remembered)>>>,
}

impl Engine {
    #[must_use]
    pub fn new(definition: &Definition, context: Context, max_series: usize) -> Self {
        let line = |pipeline: &super::definition::Pipeline| Line {
            name: pipeline.name.0.clone(),
            from: pipeline.from.clone(),
            accepts: PerSeries::default(),
            steps: pipeline.steps.iter().cloned().map(Running::new).collect(),
        };
        Self {
            pipelines: definition.pipelines.iter().map(line).collect(),
            table: Table::new(max_series),
            context,
            max_series,
            counts: EngineCounts::default(),
            outputs: definition.outputs(),
            tidied_ns: None,
            ids: Vec::new(),
        }
    }

    /// Takes the points of a batch, in their order.
    pub fn feed(&mut self, stream: &StreamName, batch: &PointBatch, now: Now, out: &mut Vec<Output>) {
        self.feed_from(stream, batch, 0, now, out);
    }

    /// The same without the first so many points.
    pub(super) fn feed_from(
        &mut self,
        stream: &StreamName,
        batch: &PointBatch,
        skip: usize,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        if self.writes(stream) {
            return;
        }
        let Self { pipelines, table, context, counts, ids, .. } = self;
        let mut lines: Vec<&mut Line> =
            pipelines.iter_mut().filter(|line| line.from.takes_stream(stream)).collect();
        if lines.is_empty() {
            return;
        }
        ids.clear();
        for sample in batch.samples().iter().skip(skip) {
            counts.points += 1;
            let index = sample.series.index();
            if index >= ids.len() {
                // Ids of a batch are given in order.
                while ids.len() <= index {
                    ids.push(None);
                }
            }
            let Some(slot) = ids.get_mut(index) else { continue };
            let series = match slot {
                Some(id) => *id,
                None => {
                    let Some(id) = batch.key(sample.series).and_then(|key| table.id(key)) else {
                        counts.no_room += 1;
                        continue;
                    };
                    *slot = Some(id);
                    id
                }
            };
            let record = Record {
                series,
                at_ns: sample.at_ns,
                number: sample.value.number(),
                raw: Some(&sample.value),
            };
            for line in &mut lines {
                let Line { name, from, accepts, steps } = &mut **line;
                let accepted =
                    accepts.or_make(series, || table.key(series).is_some_and(|key| from.takes(key)));
                if accepted.is_some_and(|accepted| *accepted) {
                    pass(steps, &mut World { table, context, now, out, pipeline: name }, record);
                }
            }
        }
    }

    /// Time has passed: windows of silent series end, and alerts are raised and ended for which a rule has waited. To be called every second or so.
    pub fn tick(&mut self, now: Now, out: &mut Vec<Output>) {
        self.each_step(now, out, |step, world, next| step.tick(world, next));
        let due = self.tidied_ns.is_none_or(|before| now.mono_ns.saturating_sub(before) >= TIDY_NS);
        if due && self.table.is_nearly_full() {
            self.tidied_ns = Some(now.mono_ns);
            self.tidy(now);
        }
    }

    /// No more points will come: all windows end.
    pub fn finish(&mut self, now: Now, out: &mut Vec<Output>) {
        self.each_step(now, out, |step, world, next| step.finish(world, next));
    }

    fn each_step(
        &mut self,
        now: Now,
        out: &mut Vec<Output>,
        work: impl Fn(&mut Running, &mut World<'_>, &mut dyn FnMut(&mut World<'_>, Record<'_>)),
    ) {
        let Self { pipelines, table, context, .. } = self;
        for line in pipelines {
            let mut rest = line.steps.as_mut_slice();
            let mut world = World { table, context, now, out, pipeline: &line.name };
            while let Some((step, later)) = rest.split_first_mut() {
                work(step, &mut world, &mut |world, record| pass(later, world, record));
                rest = later;
            }
        }
    }

    /// Makes room: what was remembered of silent series goes.
    fn tidy(&mut self, now: Now) {
        let (saved, gone) = self.save_since(Some(now.mono_ns.saturating_sub(SILENT_NS)));
        self.table = Table::new(self.max_series);
        for line in &mut self.pipelines {
            line.accepts.clear();
            for step in &mut line.steps {
                let counts = step.counts;
                *step = Running::new(step.step.clone());
                step.counts = counts;
            }
        }
        self.load(&saved, now);
        self.counts.evicted += gone;
    }

    /// All that is remembered.
    #[must_use]
    pub fn save(&self) -> Saved {
        self.save_since(None).0
    }

    fn save_since(&self, before: Option<i64>) -> (Saved, u64) {
        let mut saved = Saved::default();
        let mut places: BTreeMap<Id, usize> = BTreeMap::new();
        let mut gone = 0;
        for line in &self.pipelines {
            let steps = saved.pipelines.entry(line.name.clone()).or_default();
            for (place, step) in Self::places(line) {
                let (remembered, let_go) = step.remembered(before);
                gone += let_go;
                let mut kept = Vec::with_capacity(remembered.len());
                for (id, remembered) in remembered {
                    let Some(key) = self.table.key(id) else { continue };
                    let place = *places.entry(id).or_insert_with(|| {
                        saved.series.push(STANDARD_NO_PAD.encode(key.as_bytes()));
                        saved.series.len() - 1
                    });
                    kept.push((place, remembered));
                }
                steps.insert(place, kept);
            }
        }
        (saved, gone)
    }

    /// The steps of a pipeline with what tells them apart: the same step may be there twice.
    fn places(line: &Line) -> Vec<(String, &Running)> {
        let mut places: Vec<(String, &Running)> = Vec::new();
        for step in &line.steps {
            let same = places.iter().filter(|(_, other)| other.fingerprint == step.fingerprint).count();
            places.push((format!("{}-{same}", step.fingerprint), step));
        }
        places
    }

    /// Takes over what steps that mean the same remembered.
    pub fn load(&mut self, saved: &Saved, now: Now) {
        let keys: Vec<Option<SeriesKey>> = saved
            .series
            .iter()
            .map(|text| SeriesKey::from_bytes(&STANDARD_NO_PAD.decode(text).ok()?).ok())
            .collect();
        for line in &mut self.pipelines {
            let Some(steps) = saved.pipelines.get(&line.name) else { continue };
            let places: Vec<String> = Self::places(line).into_iter().map(|(place, _)| place).collect();
            for (step, place) in line.steps.iter_mut().zip(places) {
                let Some(kept) = steps.get(&place) else { continue };
                for (series, remembered) in kept {
                    let id = keys.get(*series).and_then(Option::as_ref).and_then(|key| self.table.id(key));
                    match id {
                        Some(id) => step.remember(id, remembered.clone(), now.mono_ns),
                        None => self.counts.evicted += 1,
                    }
                }
            }
        }
    }

    /// The same memory under another definition: steps that mean the same go on where they were.
    #[must_use]
    pub fn redefined(&self, definition: &Definition, now: Now) -> Self {
        let mut new = Self::new(definition, self.context.clone(), self.max_series);
        new.load(&self.save(), now);
        new.counts = self.counts;
        for line in &mut new.pipelines {
            let before = self.pipelines.iter().find(|before| before.name == line.name);
            let counts: BTreeMap<String, StepCounts> = before
                .map(Self::places)
                .unwrap_or_default()
                .into_iter()
                .map(|(place, step)| (place, step.counts))
                .collect();
            let places: Vec<String> = Self::places(line).into_iter().map(|(place, _)| place).collect();
            for (step, place) in line.steps.iter_mut().zip(places) {
                step.counts = counts.get(&place).copied().unwrap_or_default();
            }
        }
        new
    }

    /// What is known of the device has changed.
    pub fn set_context(&mut self, context: Context) {
        if self.context == context {
            return;
        }
        self.context = context;
        for step in self.pipelines.iter_mut().flat_map(|line| &mut line.steps) {
            step.forget_names();
        }
    }

    /// Streams that pipelines write.
    #[must_use]
    pub fn outputs(&self) -> &[StreamName] {
        &self.outputs
    }

    pub(super) fn writes(&self, stream: &StreamName) -> bool {
        self.outputs.contains(stream)
    }

    #[must_use]
    pub fn counts(&self) -> EngineCounts {
        self.counts
    }

    /// How many series are known.
    #[must_use]
    pub fn series(&self) -> usize {
        self.table.len()
    }

    #[must_use]
    pub fn status(&self) -> Vec<PipelineStatus> {
        let step = |step: &Running| StepStatus {
            kind: step.step.kind(),
            counts: step.counts,
            open_windows: step.open(),
        };
        self.pipelines
            .iter()
            .map(|line| PipelineStatus {
                name: line.name.clone(),
                active_alerts: line.steps.iter().map(Running::active).sum(),
                steps: line.steps.iter().map(step).collect(),
            })
            .collect()
    }
}

/// Sends a point through the steps.
fn pass<'v>(steps: &mut [Running], world: &mut World<'_>, record: Record<'v>) {
    let Some((step, rest)) = steps.split_first_mut() else { return };
    step.take(world, record, &mut |world, record| pass(rest, world, record));
}

impl From {
    fn takes_stream(&self, stream: &StreamName) -> bool {
        self.streams.is_empty() || self.streams.iter().any(|pattern| pattern.matches(stream.as_str()))
    }

    fn takes(&self, key: &SeriesKey) -> bool {
        let fits = |patterns: &[super::definition::Pattern], name: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
        };
        fits(&self.measurements, key.measurement()) && fits(&self.fields, key.field())
    }
}
