//! A journal that is looked at from outside: read without being opened, so that it may be in use meanwhile, and checked down to the last point.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_series::{PointBatch, decode_columns};
use farshore_trust::sealed::{Batch, DeviceKey, MAX_BATCH_BYTES, SealError};

use crate::core::{BatchName, LOSSES, MAX_FILE_BYTES, QUARANTINE, epoch_of};
use crate::error::JournalError;
use crate::files::{Files as _, RealFiles};
use crate::frame::{self, Found, Frames, Span};
use crate::key::KeySource;
use crate::stream::StreamName;

/// What a part of a journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartKind {
    /// Points as they were appended.
    Segment,
    /// Points in columns, as they are sent.
    Batch,
    /// The same, with summaries in place of points.
    Thinned,
}

/// A segment or a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its stream.
    pub stream: StreamName,
    /// Its number.
    pub sequence: u64,
    /// What it is.
    pub kind: PartKind,
    /// Bytes on disk.
    pub bytes: u64,
    /// Its file, from the journal's folder.
    pub file: String,
    /// How many points it says it has; nothing for a segment whose frames have not been read.
    pub points: Option<u64>,
    /// The earliest and latest time it says.
    pub span_ns: Option<(i64, i64)>,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which file, from the journal's folder.
    pub file: String,
    /// What is wrong.
    pub what: String,
    /// Points that can't be read, as far as they can be counted.
    pub points: u64,
    /// Bytes that held further points.
    pub unknown_bytes: u64,
    /// Whether something is lost by it. Otherwise it is only told: what a crash left, or what another key can open.
    pub loss: bool,
}

/// What could be read of a part, and what not.
#[derive(Debug, Default)]
pub struct PartContents {
    /// Its points.
    pub points: PointBatch,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// A loss that the journal has on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedLoss {
    /// When it was noticed, Unix nanoseconds.
    pub at_ns: i64,
    /// The stream that lost points.
    pub stream: String,
    /// Why.
    pub reason: String,
    /// Its other fields: `points`, `sequence`, `earliest_ns`, `latest_ns`, perhaps `unknown_bytes`.
    pub fields: BTreeMap<String, i64>,
}

/// What the bytes of a segment say that they hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentLook {
    /// Points of frames whose checksums hold.
    pub points: u64,
    /// Points of frames that are damaged.
    pub damaged: u64,
    /// Bytes that held points, nobody knows how many.
    pub unknown_bytes: u64,
}

/// Looks through the bytes of a segment. It takes no key; whether they can be decrypted is another question.
#[must_use]
pub fn look_at_segment(content: &[u8]) -> SegmentLook {
    let mut look = SegmentLook::default();
    for found in Frames::new(frame::after_head(content)) {
        look.unknown_bytes += found.unknown_bytes();
        match found {
            Found::Frame(header, _) => look.points += u64::from(header.span.points),
            Found::Damaged(header) | Found::Tail(Some(header), _) => {
                look.damaged += u64::from(header.span.points)
            }
            Found::Gap(_) | Found::Tail(None, _) => {}
        }
    }
    look
}

/// A journal's folder, open for reading only.
#[derive(Debug)]
pub struct AtRest {
    files: RealFiles,
    root: PathBuf,
    device: Option<DeviceKey>,
}

impl AtRest {
    /// Looks at a folder. It is neither locked nor changed; a process may have it open.
    ///
    /// # Errors
    /// [`JournalError::NoJournal`] when it is none, or what the disk says.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, JournalError> {
        let root = root.as_ref().to_owned();
        if !root.join("epoch").is_file() || !root.join("streams").is_dir() {
            return Err(JournalError::NoJournal { path: root });
        }
        let device = KeySource::of(&root).find()?;
        Ok(Self { files: RealFiles::look(&root), root, device })
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the device's key is there, without which only the control plane can open what was sealed for it.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.device.is_some()
    }

    /// The journal's life; nothing when its file is damaged.
    ///
    /// # Errors
    /// What the disk says.
    pub fn epoch(&self) -> Result<Option<u64>, JournalError> {
        let text = self.files.read("epoch", 64).map_err(|e| JournalError::io("read its epoch", e))?;
        Ok(epoch_of(&text))
    }

    /// Files that were set aside, with their sizes.
    ///
    /// # Errors
    /// What the disk says.
    pub fn quarantine(&self) -> Result<Vec<(String, u64)>, JournalError> {
        let mut files =
            self.files.list(QUARANTINE).map_err(|e| JournalError::io("list what was set aside", e))?;
        files.sort();
        Ok(files)
    }

    /// All parts, by stream and number. Where a segment was sealed and a crash left both, only the batch is told.
    ///
    /// # Errors
    /// What the disk says.
    pub fn parts(&self) -> Result<Vec<Part>, JournalError> {
        let io = |e| JournalError::io("list its streams", e);
        let mut parts: BTreeMap<(StreamName, u64), Part> = BTreeMap::new();
        for folder in self.files.folders("streams").map_err(io)? {
            let Some(stream) = StreamName::of_folder(&folder) else { continue };
            for (name, bytes) in self.files.list(&format!("streams/{folder}")).map_err(io)? {
                let file = format!("streams/{folder}/{name}");
                let part = if let Some(batch) = BatchName::read(&name) {
                    let span = batch.span;
                    let kind = if batch.thinned { PartKind::Thinned } else { PartKind::Batch };
                    let (sequence, points) = (batch.sequence, Some(u64::from(span.points)));
                    let span_ns = Some((span.earliest_ns, span.latest_ns));
                    Part { stream: stream.clone(), sequence, kind, bytes, file, points, span_ns }
                } else if let Some(sequence) = segment_number(&name) {
                    let kind = PartKind::Segment;
                    let (points, span_ns) = (None, None);
                    Part { stream: stream.clone(), sequence, kind, bytes, file, points, span_ns }
                } else {
                    continue;
                };
                let place = (stream.clone(), part.sequence);
                if parts.get(&place).is_none_or(|other| other.kind < part.kind) {
                    parts.insert(place, part);
                }
            }
        }
        Ok(parts.into_values().collect())
    }

    /// What a part's own headers say: fills in what a segment's name does not tell. Nothing when it has gone meanwhile.
    ///
    /// # Errors
    /// What the disk says.
    pub fn look_into(&self, part: &Part) -> Result<Option<Part>, JournalError> {
        if part.kind != PartKind::Segment {
            return Ok(Some(part.clone()));
        }
        let Some(content) = self.content(part)? else { return Ok(None) };
        let mut span = Span::EMPTY;
        for found in Frames::new(frame::after_head(&content)) {
            if let Found::Frame(header, _) | Found::Damaged(header) | Found::Tail(Some(header), _) = found {
                span.add(header.span);
            }
        }
        let span_ns = (span.points > 0).then_some((span.earliest_ns, span.latest_ns));
        Ok(Some(Part { points: Some(u64::from(span.points)), span_ns, ..part.clone() }))
    }

    fn content(&self, part: &Part) -> Result<Option<Vec<u8>>, JournalError> {
        match self.files.read(&part.file, MAX_FILE_BYTES) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(JournalError::io("read a file of the journal", error)),
        }
    }

    /// The sealed bytes of a batch, unchecked. Nothing when it has gone meanwhile.
    ///
    /// # Errors
    /// What the disk says.
    pub fn bytes(&self, part: &Part) -> Result<Option<Vec<u8>>, JournalError> {
        self.content(part)
    }

    /// Reads a part down to its points and checks all of it. Nothing when it has gone meanwhile: sealed, delivered or dropped.
    ///
    /// # Errors
    /// What the disk says; a file that can't be read is a fault, not an error.
    pub fn contents(&self, part: &Part) -> Result<Option<PartContents>, JournalError> {
        let content = match self.content(part) {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(None),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let what = format!("it can't be read: {}", source.unwrap_or_else(|| error.to_string()));
                let points = part.points.unwrap_or(0);
                let unknown_bytes = if part.points.is_none() { part.bytes } else { 0 };
                let fault = Fault { file: part.file.clone(), what, points, unknown_bytes, loss: true };
                return Ok(Some(PartContents { faults: vec![fault], ..PartContents::default() }));
            }
        };
        Ok(Some(match part.kind {
            PartKind::Segment => self.segment(part, &content),
            PartKind::Batch | PartKind::Thinned => self.batch(part, &content),
        }))
    }

    fn segment(&self, part: &Part, content: &[u8]) -> PartContents {
        let mut contents = PartContents::default();
        let fault = |what: &str, span: Span, unknown_bytes: u64, loss: bool| Fault {
            file: part.file.clone(),
            what: what.to_owned(),
            points: u64::from(span.points),
            unknown_bytes,
            loss,
        };
        let Some(device) = &self.device else {
            contents.faults.push(fault("the device's key is missing", Span::EMPTY, 0, false));
            return contents;
        };
        let opened = match frame::open(device, content) {
            Ok(opened) => opened,
            Err(missing) if missing.span.points == 0 && missing.unknown_bytes == 0 => {
                // A crash while it was begun: no point was ever in it.
                contents.faults.push(fault("it was begun and not used", Span::EMPTY, 0, false));
                return contents;
            }
            Err(missing) => {
                let what = "its head is damaged, or of another device";
                contents.faults.push(fault(what, missing.span, missing.unknown_bytes, true));
                return contents;
            }
        };
        for missing in &opened.lost {
            let what = match missing.reason {
                crate::stats::LossReason::TornTail => "it ends within a write",
                _ => "frames are damaged",
            };
            contents.faults.push(fault(what, missing.span, missing.unknown_bytes, true));
        }
        if opened.damaged && opened.lost.is_empty() {
            contents.faults.push(fault("it ends with the beginning of a write", Span::EMPTY, 0, false));
        }
        for (rows, span) in opened.rows.iter().zip(&opened.spans) {
            let mut one = PointBatch::new();
            let read = one.read_rows(rows).is_ok() && one.len() == span.points as usize;
            if !read || contents.points.extend(&one).is_err() {
                contents.faults.push(fault("a frame holds no points that can be read", *span, 0, true));
            }
        }
        contents
    }

    fn batch(&self, part: &Part, content: &[u8]) -> PartContents {
        let mut contents = PartContents::default();
        let points = part.points.unwrap_or(0);
        let mut fault = |what: String, loss: bool| {
            let points = if loss { points } else { 0 };
            contents.faults.push(Fault { file: part.file.clone(), what, points, unknown_bytes: 0, loss });
        };
        let batch = match Batch::read(content) {
            Ok(batch) => batch,
            Err(error) => {
                fault(error.to_string(), true);
                return contents;
            }
        };
        let header = batch.header();
        let said = (part.stream.as_str(), part.sequence, part.points, part.span_ns);
        let held = (
            header.stream.as_str(),
            header.sequence,
            Some(u64::from(header.points)),
            Some((header.earliest_ns, header.latest_ns)),
        );
        if said != held {
            fault(
                format!("it is batch {} of stream {}, under another name", header.sequence, header.stream),
                true,
            );
            return contents;
        }
        let Some(device) = &self.device else {
            fault("the device's key is missing".to_owned(), false);
            return contents;
        };
        let Ok(columns) = batch.open_on_device(device) else {
            let what =
                "it was sealed with another device's key; only the control plane may be able to open it";
            fault(what.to_owned(), false);
            return contents;
        };
        match points_of(&columns) {
            Ok(points) if points.len() == header.points as usize => contents.points = points,
            Ok(points) => fault(format!("it holds {} points and says {}", points.len(), header.points), true),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                fault(format!("it can't be read: {}", source.unwrap_or_else(|| error.to_string())), true);
            }
        }
        contents
    }

    /// Losses that are still on record here: those that the control plane has not been told of yet.
    ///
    /// # Errors
    /// What the disk says.
    pub fn losses(&self) -> Result<Vec<RecordedLoss>, JournalError> {
        let mut losses: Vec<RecordedLoss> = Vec::new();
        for part in self.parts()?.iter().filter(|part| part.stream.as_str() == LOSSES) {
            let Some(contents) = self.contents(part)? else { continue };
            for (key, at_ns, value) in contents.points.points() {
                let (Some(stream), Some(reason)) = (key.tag("stream"), key.tag("reason")) else { continue };
                let farshore_series::Value::Integer(value) = value else { continue };
                let field = key.field().to_owned();
                let same = |loss: &&mut RecordedLoss| {
                    (loss.at_ns, loss.stream.as_str(), loss.reason.as_str()) == (at_ns, stream, reason)
                        && !loss.fields.contains_key(&field)
                };
                match losses.iter_mut().find(same) {
                    Some(loss) => {
                        loss.fields.insert(field, *value);
                    }
                    None => losses.push(RecordedLoss {
                        at_ns,
                        stream: stream.to_owned(),
                        reason: reason.to_owned(),
                        fields: BTreeMap::from([(field, *value)]),
                    }),
                }
            }
        }
        losses.sort_by(|a, b| (a.at_ns, &a.stream).cmp(&(b.at_ns, &b.stream)));
        Ok(losses)
    }

    /// Files that a crash left, or that are none of the journal's.
    ///
    /// # Errors
    /// What the disk says.
    pub fn strangers(&self) -> Result<Vec<Fault>, JournalError> {
        let io = |e| JournalError::io("list its streams", e);
        let mut strangers = Vec::new();
        for folder in self.files.folders("streams").map_err(io)? {
            let known = StreamName::of_folder(&folder).is_some();
            for (name, _) in self.files.list(&format!("streams/{folder}")).map_err(io)? {
                let what = match () {
                    () if !known => "its folder names no stream",
                    () if name.ends_with(".new") => "it is unfinished; it goes when the journal is opened",
                    () if BatchName::read(&name).is_none() && segment_number(&name).is_none() => {
                        "it is no file of a journal"
                    }
                    () => continue,
                };
                strangers.push(Fault {
                    file: format!("streams/{folder}/{name}"),
                    what: what.to_owned(),
                    points: 0,
                    unknown_bytes: 0,
                    loss: false,
                });
            }
        }
        Ok(strangers)
    }
}

/// How long the batch is that begins here, where batches follow one another. Nothing: more bytes are needed to know.
///
/// # Errors
/// [`JournalError::Seal`] when none begins here.
pub fn batch_length(bytes: &[u8]) -> Result<Option<usize>, JournalError> {
    let damaged = |what| Err(JournalError::seal(SealError::Damaged { what }));
    // "FSB1", u16 length of the header, …, u32 length of the body; then the body and a SHA-256.
    let begins = bytes.len().min(4);
    if bytes.get(..begins) != b"FSB1".get(..begins) {
        return damaged("no batch of version 1 begins here");
    }
    let Some(length) = bytes.get(4..6).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes) else {
        return Ok(None);
    };
    let length = usize::from(length);
    if !(10..=1024).contains(&length) {
        return damaged("the header has an impossible length");
    }
    let Some(body) = bytes.get(..length).and_then(|head| head.last_chunk::<4>()) else { return Ok(None) };
    let all = length + u32::from_le_bytes(*body) as usize + 32;
    if all > MAX_BATCH_BYTES { Err(JournalError::seal(SealError::TooLarge)) } else { Ok(Some(all)) }
}

/// The points of a batch that was opened.
///
/// # Errors
/// [`JournalError::Decode`], [`JournalError::Point`].
pub fn points_of(contents: &[u8]) -> Result<PointBatch, JournalError> {
    let columns = decode_columns(contents).map_err(|error| JournalError::Decode(Arc::new(error)))?;
    let mut points = PointBatch::new();
    for (key, at_ns, value) in columns.points() {
        let series = points.series_of(key)?;
        points.push(series, at_ns, value)?;
    }
    Ok(points)
}

fn segment_number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".open")?, 16).ok()
}
