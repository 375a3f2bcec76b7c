//! Incidents of this device and their evidence: kept, then told in order, once.
//!
//! What an event opens or joins is decided in `farshore_domain::incident`, in the same step that keeps the event. Evidence is the black
//! box: blocks of measurements that are kept for ten minutes (in the journal, so that they outlive the agent), the newest events,
//! and the end of the app's log, which is read beside the loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use farshore_domain::id::{IncidentId, ReleaseId, RolloutId};
use farshore_domain::incident::{self, Book, Incident, Part};
use farshore_domain::name::Name;
use farshore_domain::reconcile::{Action, DeviceView, Now};
use farshore_domain::time::{MINUTE_MS, UnixMs};
use farshore_protocol::{DeviceEvent, IncidentBatch, IncidentEvidence};
use farshore_series::{Block, decode};
use prost::Message;

use super::{Agent, AgentError, Done, to_json};
use crate::clock;
use crate::executor::{Executor, ExecutorError};
use crate::journal::{INCIDENTS, Journal};

/// The black box reaches this far back.
const BACK_MS: i64 = 10 * MINUTE_MS;
/// At most so many blocks and bytes of measurements, and so many events, are in it.
const MAX_BLOCKS: usize = 24;
const MAX_BLOCK_BYTES: usize = 256 * 1024;
const MAX_EVENTS: usize = 200;
/// So much of an app's log is evidence.
const LOG_BYTES: u32 = 128 * 1024;
/// A log that takes longer to read is missing.
const LOG_WITHIN: Duration = Duration::from_secs(10);
/// At most this many characters of an event's details are evidence.
const MAX_DETAIL: usize = 1_000;

/// What is remembered of the last minutes.
#[derive(Debug, Default)]
pub(super) struct BlackBox {
    /// Sealed blocks with the slot of the journal they are in and the time of their newest row.
    blocks: VecDeque<(usize, i64, Vec<u8>)>,
    events: VecDeque<DeviceEvent>,
}

fn key(slot: usize) -> String {
    format!("black-box/{slot}")
}

pub(super) fn newest(bytes: &[u8]) -> Option<i64> {
    decode(bytes).ok().as_ref().and_then(Block::span_ms).map(|(_, to)| to)
}

impl BlackBox {
    /// Reads what an earlier run left.
    pub(super) fn load(journal: &impl Journal) -> Result<Self, AgentError> {
        let mut blocks = Vec::new();
        for slot in 0..MAX_BLOCKS {
            if let Some(bytes) = journal.get(&key(slot))?
                && let Some(to) = newest(&bytes)
            {
                blocks.push((slot, to, bytes));
            }
        }
        blocks.sort_by_key(|(_, to, _)| *to);
        Ok(Self { blocks: blocks.into(), events: VecDeque::new() })
    }

    /// Takes a sealed block. Returns what to set in the journal for it.
    pub(super) fn take(&mut self, block: &[u8], now: UnixMs) -> Vec<(String, Option<Vec<u8>>)> {
        let Some(to) = newest(block) else { return Vec::new() };
        let mut changes = Vec::new();
        let mut drop_oldest = |blocks: &mut VecDeque<(usize, i64, Vec<u8>)>| {
            if let Some((slot, ..)) = blocks.pop_front() {
                changes.push((key(slot), None));
            }
        };
        let total =
            |blocks: &VecDeque<(usize, i64, Vec<u8>)>| blocks.iter().map(|b| b.2.len()).sum::<usize>();
        while self.blocks.front().is_some_and(|(_, to, _)| now.0.saturating_sub(*to) > BACK_MS)
            || self.blocks.len() >= MAX_BLOCKS
            || (!self.blocks.is_empty() && total(&self.blocks) + block.len() > MAX_BLOCK_BYTES)
        {
            drop_oldest(&mut self.blocks);
        }
        let free = (0..MAX_BLOCKS).find(|slot| self.blocks.iter().all(|(taken, ..)| taken != slot));
        if let Some(slot) = free.filter(|_| block.len() <= MAX_BLOCK_BYTES) {
            self.blocks.push_back((slot, to, block.to_vec()));
            changes.retain(|(other, _)| *other != key(slot));
            changes.push((key(slot), Some(block.to_vec())));
        }
        changes
    }

    /// Remembers what happened.
    pub(super) fn hear(&mut self, events: &[DeviceEvent]) {
        for event in events {
            if self.events.len() >= MAX_EVENTS {
                self.events.pop_front();
            }
            let detail_json =
                if event.detail_json.len() > MAX_DETAIL { String::new() } else { event.detail_json.clone() };
            self.events.push_back(DeviceEvent { detail_json, ..event.clone() });
        }
    }

    /// What happened last, oldest first, as far as it is remembered.
    pub(super) fn last_events(&self, count: usize) -> Vec<serde_json::Value> {
        let skip = self.events.len().saturating_sub(count);
        let show = |event: &DeviceEvent| serde_json::json!({ "at": event.at_ms, "kind": event.kind, "app": event.app, "message": event.message });
        self.events.iter().skip(skip).map(show).collect()
    }

    fn evidence(&self, now: UnixMs) -> (Vec<Vec<u8>>, Vec<DeviceEvent>) {
        let young = |at: i64| now.0.saturating_sub(at) <= BACK_MS;
        let blocks = self.blocks.iter().filter(|(_, to, _)| young(*to)).map(|(.., bytes)| bytes.clone());
        let events = self.events.iter().filter(|event| young(event.at_ms)).cloned();
        (blocks.collect(), events.collect())
    }
}

/// What a turn decided about incidents, to be kept with the rest of it.
#[derive(Debug)]
pub(super) struct Noted {
    book: Book,
    told: Vec<Incident>,
}

/// A batch without its number.
fn batch(incidents: &[Incident], evidence: Vec<IncidentEvidence>) -> Result<Vec<u8>, AgentError> {
    let json = |incident| {
        let bytes = to_json(incident, "an incident")?;
        String::from_utf8(bytes).map_err(|_| AgentError::Damaged("an incident"))
    };
    let incidents_json = incidents.iter().map(json).collect::<Result<_, AgentError>>()?;
    Ok(IncidentBatch { sequence: 0, incidents_json, evidence }.encode_to_vec())
}

/// A kept batch with its number; `None` when it is damaged.
pub(super) fn numbered(bytes: &[u8], sequence: u64) -> Option<IncidentBatch> {
    let mut batch = IncidentBatch::decode(bytes).ok()?;
    batch.sequence = sequence;
    Some(batch)
}

/// Evidence that a task beside the loop has gathered.
#[derive(Debug)]
pub(super) struct Gathered {
    incident: IncidentId,
    part: Part,
    log: Result<String, ExecutorError>,
}

impl<E: Executor, J: Journal> Agent<E, J> {
    /// What the decision's events mean for incidents; `None` when nothing changes.
    pub(super) fn incidents_of(&self, actions: &[Action], view: &DeviceView, now: Now) -> Option<Noted> {
        let events: Vec<_> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Emit(event) => Some(event),
                _ => None,
            })
            .collect();
        let signs = incident::signs(&events, |app, release| self.rollout_of(app, release));
        if signs.is_empty() && self.incidents.open.is_empty() {
            return None;
        }
        let settle = super::duration_ms(self.settings.incident_settle);
        let uid = || IncidentId(uuid::Uuid::now_v7());
        let (book, told) = incident::observe(self.incidents.clone(), &signs, view, settle, now, uid);
        (book != self.incidents || !told.is_empty()).then_some(Noted { book, told })
    }

    /// The rollout whose permit or wave brought a release here, as the desired state says.
    fn rollout_of(&self, app: &Name, release: ReleaseId) -> Option<RolloutId> {
        use farshore_domain::desired::Because;
        let desired = self.desired.as_ref()?.state.apps.iter().find(|desired| desired.app == *app)?;
        if desired.release.uid != release {
            return None;
        }
        match desired.because {
            Because::Rollout { rollout, .. } => Some(rollout),
            _ => desired.permit.and_then(|permit| permit.rollout),
        }
    }

    /// The values and batches that keep it.
    pub(super) fn noted(
        noted: &Noted,
        values: &mut Vec<(String, Option<Vec<u8>>)>,
        batches: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<(), AgentError> {
        values.push((INCIDENTS.to_owned(), Some(to_json(&noted.book, "the incidents")?)));
        if !noted.told.is_empty() {
            batches.push((INCIDENTS.to_owned(), batch(&noted.told, Vec::new())?));
        }
        Ok(())
    }

    /// It was kept: from here on it is so.
    pub(super) fn take_noted(&mut self, noted: Noted) {
        for incident in &noted.told {
            let app = incident.app.as_ref().map_or("", Name::as_str);
            let over = incident.ended_at.is_some();
            tracing::warn!(incident = %incident.uid, app, cause = %incident.cause, over, "incident: {}", incident.message);
        }
        self.incidents = noted.book;
    }

    /// Asks for the logs that evidence is missing of, each once.
    pub(super) fn gather(&mut self) -> Result<(), AgentError> {
        let wanted: Vec<_> = self
            .incidents
            .wanted()
            .map(|(incident, part)| (incident.uid, part, incident.app.clone()))
            .filter(|(uid, part, _)| !self.gathering.contains(&(*uid, *part)))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // What was measured until now belongs to it, and so does this moment.
        let now = clock::now();
        let values = self.sampler.sample(now.wall, now.mono);
        if !values.is_empty()
            && let Err(error) = self.samples.push(now.wall.0, values)
        {
            tracing::debug!(%error, "the block is full");
        }
        // Whether that can be kept or not: asked for again with each turn, it would push the minutes before out of the black box.
        let sealed = if self.samples.is_empty() { Ok(()) } else { self.seal() };
        for (incident, part, app) in wanted {
            self.gathering.insert((incident, part));
            let executor = Arc::clone(&self.executor);
            self.tasks.spawn(async move {
                let log = match app {
                    None => Ok(String::new()),
                    Some(app) => {
                        match tokio::time::timeout(LOG_WITHIN, executor.logs(app, LOG_BYTES)).await {
                            Ok(log) => log,
                            Err(_) => Err(ExecutorError {
                                code: "LogTimeout".to_owned(),
                                message: "the log was not read in time".to_owned(),
                                refused: false,
                                unreachable: true,
                            }),
                        }
                    }
                };
                Done::Evidence(Gathered { incident, part, log })
            });
        }
        sealed
    }

    /// Keeps evidence for the stream, and that it was taken.
    pub(super) fn keep_evidence(&mut self) -> Result<(), AgentError> {
        while let Some(gathered) = self.gathered.last() {
            let now = clock::wall();
            let (blocks, events) = self.black_box.evidence(now);
            let (log, log_missing) = match &gathered.log {
                Ok(log) => (tail(log, LOG_BYTES as usize), String::new()),
                Err(error) => (String::new(), error.to_string().chars().take(300).collect()),
            };
            let evidence = IncidentEvidence {
                incident: gathered.incident.to_string(),
                part: gathered.part.word().to_owned(),
                taken_at_ms: now.0,
                log,
                log_missing,
                blocks,
                events,
            };
            let (incident, part) = (gathered.incident, gathered.part);
            let mut book = self.incidents.clone();
            book.taken(incident, part);
            let values = vec![(INCIDENTS.to_owned(), Some(to_json(&book, "the incidents")?))];
            self.keep(values, vec![(INCIDENTS.to_owned(), batch(&[], vec![evidence])?)])?;
            self.incidents = book;
            self.gathering.remove(&(incident, part));
            self.gathered.pop();
        }
        Ok(())
    }
}

/// The end of a text, at most so many bytes.
fn tail(text: &str, bytes: usize) -> String {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use farshore_series::{BlockBuilder, encode};

    use super::*;
    use crate::journal::{Change, MemoryJournal};

    fn block(at: i64) -> Vec<u8> {
        let mut builder = BlockBuilder::new();
        builder.push(at, [("cpu", 0.5)]).unwrap();
        encode(&builder.finish()).unwrap()
    }

    #[test]
    fn the_black_box_holds_ten_minutes_and_outlives_the_agent() {
        let mut journal = MemoryJournal::new(1_000_000);
        let mut black_box = BlackBox::default();
        for minute in 0..60 {
            let at = minute * MINUTE_MS;
            let values = black_box.take(&block(at), UnixMs(at));
            journal.apply(Change { values, batches: Vec::new() }).unwrap();
        }
        let now = UnixMs(59 * MINUTE_MS);
        let (blocks, _) = black_box.evidence(now);
        assert_eq!(blocks.len(), 11, "from minute 49 to minute 59");
        assert_eq!(BlackBox::load(&journal).unwrap().evidence(now).0, blocks);
        let kept = (0..MAX_BLOCKS).filter(|slot| journal.get(&key(*slot)).unwrap().is_some()).count();
        assert_eq!(kept, 11, "nothing older stays in the journal");
        assert_eq!(black_box.evidence(UnixMs(90 * MINUTE_MS)).0.len(), 0);
    }

    #[test]
    fn the_black_box_is_bounded_however_fast_it_is_fed() {
        let mut black_box = BlackBox::default();
        for second in 0..500 {
            black_box.take(&block(second * 1_000), UnixMs(second * 1_000));
        }
        assert_eq!(black_box.blocks.len(), MAX_BLOCKS);
        let event = DeviceEvent { detail_json: "x".repeat(5_000), ..DeviceEvent::default() };
        black_box.hear(&vec![event; 500]);
        assert_eq!(black_box.events.len(), MAX_EVENTS);
        assert!(black_box.events.iter().all(|event| event.detail_json.is_empty()));
        assert_eq!(black_box.take(b"garbage", UnixMs(0)), []);
    }

    #[test]
    fn the_tail_of_a_text_begins_at_a_character() {
        assert_eq!(tail("añb", 2), "b");
        assert_eq!(tail("añb", 3), "ñb");
        assert_eq!(tail("ab", 10), "ab");
    }
}
