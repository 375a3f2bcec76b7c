//! `journal export` and `journal import`.
//!
//! An export holds sealed batches one after another, byte for byte as they lie on disk and go over the wire, or points as JSON, one a line:
//!
//! ```json
//! {"stream":"data/a","measurement":"temp","field":"value","tags":{"room":"a"},"time_ns":1700000000000000000,"kind":"float","value":21.5}
//! ```
//!
//! What JSON has no number for (NaN and the infinities) is written as text, `"0x7ff8000000000000"`, so that every bit comes back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use farshore_journal::{AtRest, Config, Journal, JournalError, PartKind, PointBatch, StreamName, Value};
use farshore_trust::sealed::{Batch, DeviceKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ByHandError;

/// The stream that says what was lost: what it says holds for the journal it comes from only.
const LOSSES: &str = "journal/losses";
/// Points that are appended at once.
const AT_ONCE: usize = 20_000;
const MAX_LINE_BYTES: u64 = 2 * 1024 * 1024;

/// What an export is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Sealed batches: encrypted. Segments are sealed first, so no process may have the journal open.
    Batches,
    /// Points as JSON, in the clear. Changes nothing; the journal may be in use.
    Points,
}

/// What was taken out.
#[derive(Debug, Default, Serialize)]
pub struct Exported {
    pub batches: u64,
    pub points: u64,
    pub bytes: u64,
    /// Points that could not be read.
    pub damaged_points: u64,
}

/// What was put in.
#[derive(Debug, Default, Serialize)]
pub struct Imported {
    pub batches: u64,
    pub points: u64,
    pub streams: Vec<String>,
    /// Points about losses, which are left out.
    pub left_out: u64,
    pub epoch: String,
}

fn everything() -> Config {
    // Nothing is dropped or changed on the way.
    Config {
        max_bytes: u64::MAX,
        max_streams: usize::MAX,
        max_ahead: std::time::Duration::MAX,
        ..Config::default()
    }
}

/// Counts what goes through.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a journal's points to a file that must not be there yet (0600, synced), or to standard output (`-`). Nothing is removed
/// from the journal. No stream named: all.
///
/// # Errors
/// When the journal can't be read, is in use (batches) or damaged (batches), or the file can't be written.
pub fn export(
    folder: &Path,
    form: Form,
    streams: &[StreamName],
    out: &Path,
) -> Result<Exported, ByHandError> {
    let wrote = |source| ByHandError::File { action: "write", path: out.to_owned(), source };
    // Seals and locks before anything is written, and keeps the lock until all is.
    let journal = match form {
        Form::Batches => {
            AtRest::open(folder)?;
            let journal = Journal::open(folder, everything())?;
            journal.seal_all()?;
            Some(journal)
        }
        Form::Points => None,
    };
    let rest = AtRest::open(folder)?;
    let exported = if out == Path::new("-") {
        let mut out = Counted { out: BufWriter::new(io::stdout().lock()), bytes: 0 };
        let exported = write(&rest, form, streams, &mut out, &wrote)?;
        out.flush().map_err(wrote)?;
        Exported { bytes: out.bytes, ..exported }
    } else {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).map_err(wrote)?;
        let mut counted = Counted { out: BufWriter::new(file), bytes: 0 };
        let exported = write(&rest, form, streams, &mut counted, &wrote)?;
        counted.flush().map_err(wrote)?;
        counted.out.get_ref().sync_all().map_err(wrote)?;
        Exported { bytes: counted.bytes, ..exported }
    };
    drop(journal);
    Ok(exported)
}

fn write(
    rest: &AtRest,
    form: Form,
    streams: &[StreamName],
    out: &mut dyn Write,
    wrote: &dyn Fn(io::Error) -> ByHandError,
) -> Result<Exported, ByHandError> {
    let mut exported = Exported::default();
    for part in rest.parts()? {
        if !streams.is_empty() && !streams.contains(&part.stream) {
            continue;
        }
        match form {
            Form::Batches if part.kind == PartKind::Segment => {}
            Form::Batches => {
                let Some(bytes) = rest.bytes(&part)? else { continue };
                let damaged =
                    || ByHandError::Damaged { stream: part.stream.to_string(), sequence: part.sequence };
                let batch = Batch::read(&bytes).map_err(|_| damaged())?;
                exported.points += u64::from(batch.header().points);
                exported.batches += 1;
                out.write_all(&bytes).map_err(wrote)?;
            }
            Form::Points => {
                let Some(contents) = rest.contents(&part)? else { continue };
                exported.damaged_points += contents.faults.iter().map(|fault| fault.points).sum::<u64>();
                for (key, time_ns, value) in contents.points.points() {
                    let line = Line {
                        stream: Cow::Borrowed(part.stream.as_str()),
                        measurement: Cow::Borrowed(key.measurement()),
                        field: Cow::Borrowed(key.field()),
                        tags: key.tags().map(|(key, value)| (key.into(), value.into())).collect(),
                        time_ns,
                        kind: Kind::of(value),
                        value: json_of(value),
                    };
                    serde_json::to_writer(&mut *out, &line).map_err(|error| wrote(error.into()))?;
                    out.write_all(b"\n").map_err(wrote)?;
                    exported.points += 1;
                }
            }
        }
    }
    Ok(exported)
}

#[derive(Serialize)]
struct Line<'a> {
    stream: Cow<'a, str>,
    measurement: Cow<'a, str>,
    field: Cow<'a, str>,
    tags: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    time_ns: i64,
    kind: Kind,
    value: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadLine<'a> {
    stream: String,
    measurement: String,
    field: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    time_ns: i64,
    kind: Kind,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Float,
    Integer,
    Boolean,
    Text,
    Json,
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Float(_) => Self::Float,
            Value::Integer(_) => Self::Integer,
            Value::Boolean(_) => Self::Boolean,
            Value::Text(_) => Self::Text,
            Value::Json(_) => Self::Json,
        }
    }
}

fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::Float(number) if !number.is_finite() => format!("0x{:016x}", number.to_bits()).into(),
        Value::Float(number) => (*number).into(),
        Value::Integer(number) => (*number).into(),
        Value::Boolean(flag) => (*flag).into(),
        // JSON stays text here: it is kept as it was written.
        Value::Text(text) | Value::Json(text) => text.as_str().into(),
    }
}

fn value_of(kind: Kind, raw: &RawValue) -> Result<Value, String> {
    let text = || serde_json::from_str::<String>(raw.get()).map_err(|error| error.to_string());
    let bad = |what: &str| format!("the value is no {what}");
    Ok(match kind {
        Kind::Float if raw.get().starts_with('"') => {
            let text = text()?;
            let bits = text.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
            Value::Float(f64::from_bits(bits.ok_or_else(|| bad("number"))?))
        }
        Kind::Float => Value::Float(raw.get().parse().map_err(|_| bad("number"))?),
        Kind::Integer => Value::Integer(raw.get().parse().map_err(|_| bad("whole number"))?),
        Kind::Boolean => Value::Boolean(raw.get().parse().map_err(|_| bad("true or false"))?),
        Kind::Text => Value::Text(text()?),
        Kind::Json => Value::Json(text()?),
    })
}

/// Gathers points by stream and appends them.
struct Importer {
    journal: Journal,
    waiting: BTreeMap<StreamName, PointBatch>,
    gathered: usize,
    imported: Imported,
}

impl Importer {
    fn add(&mut self, stream: &StreamName, batch: &PointBatch) -> Result<(), JournalError> {
        if stream.as_str() == LOSSES {
            self.imported.left_out += batch.len() as u64;
            return Ok(());
        }
        self.waiting.entry(stream.clone()).or_default().extend(batch)?;
        self.gathered += batch.len();
        if self.gathered >= AT_ONCE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), JournalError> {
        for (stream, batch) in std::mem::take(&mut self.waiting) {
            self.journal.append(&stream, &batch).wait()?;
            self.imported.points += batch.len() as u64;
            if !self.imported.streams.iter().any(|known| known == stream.as_str()) {
                self.imported.streams.push(stream.to_string());
            }
        }
        self.gathered = 0;
        Ok(())
    }
}

/// Puts the points of an export into a journal, which is made when it is not there. They get new numbers in a new epoch: whatever was delivered
/// before is not taken for delivered, and nothing that is imported for something that was. `key`: the file of the device's key with which
/// batches were sealed; nothing: the journal's own.
///
/// # Errors
/// When the file is no export, the key another, the journal in use, or the disk fails. What was appended until then stays.
pub fn import(folder: &Path, file: &Path, key: Option<&Path>) -> Result<Imported, ByHandError> {
    let read = |source| ByHandError::File { action: "read", path: file.to_owned(), source };
    let mut input = BufReader::new(File::open(file).map_err(read)?);
    let begin = input.fill_buf().map_err(read)?;
    if begin.is_empty() {
        return Err(ByHandError::NoExport { path: file.to_owned(), what: "it is empty".to_owned() });
    }
    let sealed = begin.starts_with(b"FSB1");
    let journal = Journal::open(folder, everything())?;
    drop(journal);
    let path = key.map_or_else(|| folder.join("device.key"), Path::to_owned);
    if !path.is_file() {
        let source = io::ErrorKind::NotFound.into();
        return Err(ByHandError::File { action: "open the key", path, source });
    }
    let device =
        DeviceKey::open_or_create(&path).map_err(|source| ByHandError::Key { path: path.clone(), source })?;
    let epoch = farshore_journal::new_epoch(folder)?;
    let mut importer = Importer {
        journal: Journal::open(folder, everything())?,
        waiting: BTreeMap::new(),
        gathered: 0,
        imported: Imported { epoch: format!("{epoch:016x}"), ..Imported::default() },
    };
    if sealed {
        batches(&mut input, file, &device, &mut importer)?;
    } else {
        lines(&mut input, file, &mut importer)?;
    }
    importer.flush()?;
    importer.journal.close();
    Ok(importer.imported)
}

fn batches(
    input: &mut BufReader<File>,
    file: &Path,
    device: &DeviceKey,
    importer: &mut Importer,
) -> Result<(), ByHandError> {
    let read = |source| ByHandError::File { action: "read", path: file.to_owned(), source };
    let no_export = |what: String| ByHandError::NoExport { path: file.to_owned(), what };
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        // The longest header says how long the rest is.
        let mut wanted = 6;
        let length = loop {
            let missing = wanted - bytes.len();
            let got = input.by_ref().take(missing as u64).read_to_end(&mut bytes).map_err(read)?;
            if bytes.is_empty() {
                return Ok(());
            }
            let place = importer.imported.batches + 1;
            if got < missing {
                return Err(no_export(format!("batch {place} of it ends early")));
            }
            match farshore_journal::batch_length(&bytes) {
                Ok(Some(length)) => break length,
                Ok(None) => {
                    let head = bytes.get(4..6).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes);
                    wanted = usize::from(head.unwrap_or_default()).max(bytes.len() + 1);
                }
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    let why = why.unwrap_or_else(|| error.to_string());
                    return Err(no_export(format!("batch {place} of it: {why}")));
                }
            }
        };
        let missing = length.saturating_sub(bytes.len());
        let got = input.by_ref().take(missing as u64).read_to_end(&mut bytes).map_err(read)?;
        let place = importer.imported.batches + 1;
        if got < missing {
            return Err(no_export(format!("batch {place} of it ends early")));
        }
        let batch =
            Batch::read(&bytes).map_err(|error| no_export(format!("batch {place} of it: {error}")))?;
        let header = batch.header();
        let other = ByHandError::OtherKey { stream: header.stream.clone(), sequence: header.sequence };
        let contents = batch.open_on_device(device).map_err(|_| other)?;
        let stream: StreamName =
            header.stream.parse().map_err(|error| no_export(format!("batch {place} of it: {error}")))?;
        let points = farshore_journal::points_of(&contents)
            .map_err(|error| no_export(format!("batch {place} of it: {error}")))?;
        importer.add(&stream, &points)?;
        importer.imported.batches += 1;
    }
}

fn lines(input: &mut BufReader<File>, file: &Path, importer: &mut Importer) -> Result<(), ByHandError> {
    let read = |source| ByHandError::File { action: "read", path: file.to_owned(), source };
    let (mut line, mut found) = (Vec::new(), false);
    for place in 1_u64.. {
        line.clear();
        if input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(read)? == 0 {
            break;
        }
        let no_export = |what: String| ByHandError::NoExport {
            path: file.to_owned(),
            what: format!("line {place}: {what}"),
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let line: ReadLine<'_> =
            serde_json::from_slice(&line).map_err(|error| no_export(error.to_string()))?;
        let stream: StreamName = line
            .stream
            .parse()
            .map_err(|error: farshore_journal::StreamNameError| no_export(error.to_string()))?;
        let value = value_of(line.kind, line.value).map_err(no_export)?;
        let mut batch = PointBatch::new();
        let tags = line.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        batch
            .series(&line.measurement, &line.field, tags)
            .and_then(|series| batch.push(series, line.time_ns, value))
            .map_err(|error| no_export(error.to_string()))?;
        importer.add(&stream, &batch)?;
        found = true;
    }
    match found {
        true => Ok(()),
        false => Err(ByHandError::NoExport { path: file.to_owned(), what: "it has no point".to_owned() }),
    }
}
