//! `journal inspect` and `journal fsck`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use farshore_journal::{AtRest, Config, Fault, JournalError, PartKind};
use serde::Serialize;

use super::ByHandError;
use crate::clock::rfc3339;

/// What lies in a journal. Times are Unix nanoseconds.
#[derive(Debug, Serialize)]
pub struct Inspection {
    pub journal: String,
    pub epoch: Option<String>,
    pub has_key: bool,
    pub streams: BTreeMap<String, StreamInspection>,
    /// Losses on record that the control plane was not told of yet.
    pub losses: Vec<LossInspection>,
    pub quarantine: Vec<FileInspection>,
}

#[derive(Debug, Default, Serialize)]
pub struct StreamInspection {
    pub segments: u64,
    pub batches: u64,
    pub thinned: u64,
    pub first_sequence: Option<u64>,
    pub last_sequence: Option<u64>,
    pub points: u64,
    pub bytes: u64,
    pub earliest_ns: Option<i64>,
    pub latest_ns: Option<i64>,
}

#[derive(Debug, Serialize)]
pub struct LossInspection {
    pub at_ns: i64,
    pub stream: String,
    pub reason: String,
    #[serde(flatten)]
    pub fields: BTreeMap<String, i64>,
}

#[derive(Debug, Serialize)]
pub struct FileInspection {
    pub file: String,
    pub bytes: u64,
}

/// Says what lies in a journal, in use or not. Changes nothing.
///
/// # Errors
/// When there is none, or what the disk says.
pub fn inspect(folder: &Path) -> Result<Inspection, ByHandError> {
    let rest = AtRest::open(folder)?;
    let mut streams: BTreeMap<String, StreamInspection> = BTreeMap::new();
    for part in rest.parts()? {
        // It may have been sealed or delivered since it was listed.
        let Some(part) = rest.look_into(&part)? else { continue };
        let stream = streams.entry(part.stream.to_string()).or_default();
        match part.kind {
            PartKind::Segment => stream.segments += 1,
            PartKind::Batch => stream.batches += 1,
            PartKind::Thinned => {
                stream.batches += 1;
                stream.thinned += 1;
            }
        }
        stream.first_sequence = Some(stream.first_sequence.map_or(part.sequence, |s| s.min(part.sequence)));
        stream.last_sequence = Some(stream.last_sequence.map_or(part.sequence, |s| s.max(part.sequence)));
        stream.points += part.points.unwrap_or(0);
        stream.bytes += part.bytes;
        if let Some((earliest, latest)) = part.span_ns {
            stream.earliest_ns = Some(stream.earliest_ns.map_or(earliest, |at| at.min(earliest)));
            stream.latest_ns = Some(stream.latest_ns.map_or(latest, |at| at.max(latest)));
        }
    }
    let losses = rest.losses()?.into_iter().map(|loss| LossInspection {
        at_ns: loss.at_ns,
        stream: loss.stream,
        reason: loss.reason,
        fields: loss.fields,
    });
    let quarantine = rest.quarantine()?.into_iter().map(|(file, bytes)| FileInspection { file, bytes });
    Ok(Inspection {
        journal: folder.display().to_string(),
        epoch: rest.epoch()?.map(|epoch| format!("{epoch:016x}")),
        has_key: rest.has_key(),
        streams,
        losses: losses.collect(),
        quarantine: quarantine.collect(),
    })
}

fn span(earliest_ns: Option<i64>, latest_ns: Option<i64>) -> String {
    match (earliest_ns, latest_ns) {
        (Some(earliest), Some(latest)) => format!("{} to {}", rfc3339(earliest), rfc3339(latest)),
        _ => "nothing".to_owned(),
    }
}

impl Inspection {
    /// To be read.
    #[must_use]
    pub fn text(&self) -> String {
        let epoch = self.epoch.as_deref().unwrap_or("damaged");
        let mut out = format!("journal {}, epoch {epoch}\n", self.journal);
        if !self.has_key {
            out.push_str("device.key is missing: only the control plane can open what is here\n");
        }
        for (name, stream) in &self.streams {
            let numbers = match (stream.first_sequence, stream.last_sequence) {
                (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
                (first, _) => first.unwrap_or_default().to_string(),
            };
            let thinned =
                if stream.thinned > 0 { format!(" ({} thinned)", stream.thinned) } else { String::new() };
            let _ = writeln!(
                out,
                "{name}: {} points in {} segments and {} batches{thinned}, numbers {numbers}, {} bytes, {}",
                stream.points,
                stream.segments,
                stream.batches,
                stream.bytes,
                span(stream.earliest_ns, stream.latest_ns)
            );
        }
        if self.streams.is_empty() {
            out.push_str("no stream yet\n");
        }
        for loss in &self.losses {
            let of = |name: &str| loss.fields.get(name).copied();
            let unknown =
                of("unknown_bytes").map_or(String::new(), |bytes| format!(" and more in {bytes} bytes"));
            let _ = writeln!(
                out,
                "lost ({}): {} points{unknown} of {}, batch {}, {}, noticed {}",
                loss.reason,
                of("points").unwrap_or(0),
                loss.stream,
                of("sequence").unwrap_or(0),
                span(of("earliest_ns"), of("latest_ns")),
                rfc3339(loss.at_ns)
            );
        }
        for file in &self.quarantine {
            let _ = writeln!(out, "set aside: quarantine/{} ({} bytes)", file.file, file.bytes);
        }
        out
    }
}

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Checked {
    pub files: u64,
    pub points: u64,
    /// Something is damaged, and still is.
    pub damaged: Vec<FaultInspection>,
    /// What was damaged and was set aside; the loss is on record.
    pub mended: Vec<FaultInspection>,
    /// What is worth knowing and costs nothing.
    pub told: Vec<FaultInspection>,
}

#[derive(Debug, Serialize)]
pub struct FaultInspection {
    pub file: String,
    pub what: String,
    pub points: u64,
    pub unknown_bytes: u64,
}

impl From<Fault> for FaultInspection {
    fn from(fault: Fault) -> Self {
        let Fault { file, what, points, unknown_bytes, .. } = fault;
        Self { file, what, points, unknown_bytes }
    }
}

/// Reads every file down to its last point. With `repair`, what is damaged is set aside first; no process may then have the journal open.
///
/// # Errors
/// When there is no journal; when it is in use and to be repaired; what the disk says.
pub fn check(folder: &Path, repair: bool) -> Result<Checked, ByHandError> {
    let mut checked =
        Checked { files: 0, points: 0, damaged: Vec::new(), mended: Vec::new(), told: Vec::new() };
    let mut why = BTreeMap::new();
    if repair {
        let config = Config { max_bytes: u64::MAX, max_streams: usize::MAX, ..Config::default() };
        let repaired = farshore_journal::repair(folder, config)?;
        checked.mended.extend(repaired.mended.into_iter().map(FaultInspection::from));
        why.extend(repaired.left.into_iter().map(|(fault, why)| (fault.file, why)));
    }
    let rest = AtRest::open(folder)?;
    let mut add = |fault: Fault| {
        let loss = fault.loss;
        let mut fault = FaultInspection::from(fault);
        if let Some(why) = why.get(&fault.file) {
            fault.what = format!("{}; it could not be set aside: {why}", fault.what);
        }
        if loss { checked.damaged.push(fault) } else { checked.told.push(fault) }
    };
    let of_file = |file: &str, what: &str, loss: bool| Fault {
        file: file.to_owned(),
        what: what.to_owned(),
        points: 0,
        unknown_bytes: 0,
        loss,
    };
    match rest.epoch() {
        Ok(Some(_)) => {}
        Ok(None) => {
            add(of_file("epoch", "it is damaged; a new epoch begins when the journal is opened", true))
        }
        Err(error @ JournalError::Io { .. }) => add(of_file("epoch", &error.to_string(), true)),
        Err(error) => return Err(error.into()),
    }
    if !rest.has_key() {
        add(of_file(
            "device.key",
            "it is missing: segments can't be sealed, and batches not be checked",
            true,
        ));
    }
    for part in rest.parts()? {
        let Some(contents) = rest.contents(&part)? else { continue };
        checked.files += 1;
        checked.points += contents.points.len() as u64;
        contents.faults.into_iter().for_each(&mut add);
    }
    rest.strangers()?.into_iter().for_each(&mut add);
    Ok(checked)
}

impl Checked {
    /// Whether nothing is damaged (any more).
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty()
    }

    /// To be read.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (word, faults) in [("damaged", &self.damaged), ("set aside", &self.mended), ("note", &self.told)]
        {
            for fault in faults {
                let mut lost = String::new();
                if fault.points > 0 {
                    let _ = write!(lost, ", {} points", fault.points);
                }
                if fault.unknown_bytes > 0 {
                    let _ = write!(lost, ", points unknown in {} bytes", fault.unknown_bytes);
                }
                let _ = writeln!(out, "{word}: {}: {}{lost}", fault.file, fault.what);
            }
        }
        let verdict = match (self.is_sound(), self.mended.is_empty()) {
            (true, true) => "sound",
            (true, false) => "mended; what was lost is on record",
            (false, _) => "damaged",
        };
        let _ = writeln!(out, "{} files with {} readable points: {verdict}", self.files, self.points);
        out
    }
}
