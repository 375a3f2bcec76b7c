//! What the engine remembers, on the disk: one file, replaced as a whole, encrypted as the journal is, with the places in the journal up to which it
//! counts. After a crash the points behind those places are read again, and nothing is counted twice.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use farshore_journal::{AtRest, JournalError, Part, PartKind, PointBatch, SeriesKey, StreamName};
use farshore_trust::sealed::{DEVICE_WRAP_BYTES, DataKey, DeviceKey, random_bytes};
use serde::{Deserialize, Serialize};

use super::engine::Saved;

const FILE: &str = "pipeline.state";
/// How often counting again was begun and not ended. A point that ends the whole process would end it at each start.
const REPLAYS: &str = "pipeline.replays";
const MOST_REPLAYS: u8 = 5;
const MAGIC: &[u8; 8] = b"FSPS\x01\0\0\0";
const NONCE_BYTES: usize = 24;
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Up to where a stream of the journal has been read: the segment, and how many of its points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) sequence: u64,
    pub(super) points: u64,
}

impl Position {
    /// So many points more, of this segment.
    pub(super) fn advance(&mut self, sequence: u64, points: u64) {
        if self.sequence == sequence {
            self.points += points;
        } else {
            *self = Self { sequence, points };
        }
    }
}

pub(super) type Positions = BTreeMap<StreamName, Position>;

/// Outputs that are in the journal already, and how often; they are not written again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Written(HashMap<(StreamName, SeriesKey, i64), u32>);

impl Written {
    fn add(&mut self, stream: &StreamName, series: &SeriesKey, at_ns: i64, times: u32) {
        *self.0.entry((stream.clone(), series.clone(), at_ns)).or_default() += times;
    }

    /// Whether this one is there; it then counts as told.
    pub(super) fn take(&mut self, stream: &StreamName, series: &SeriesKey, at_ns: i64) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let place = (stream.clone(), series.clone(), at_ns);
        match self.0.get_mut(&place) {
            None => false,
            Some(1) => {
                self.0.remove(&place);
                true
            }
            Some(times) => {
                *times -= 1;
                true
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The journal's life; in another one, nothing of this means anything.
    pub(super) epoch: u64,
    pub(super) positions: BTreeMap<String, Position>,
    /// Streams that the engine writes.
    pub(super) outputs: Vec<String>,
    written: Vec<(String, String, i64, u32)>,
    pub(super) engine: Saved,
}

impl Kept {
    pub(super) fn new(
        epoch: u64,
        positions: &Positions,
        outputs: &[StreamName],
        written: &Written,
        engine: Saved,
    ) -> Self {
        let written = written.0.iter().map(|((stream, series, at_ns), times)| {
            (stream.to_string(), STANDARD_NO_PAD.encode(series.as_bytes()), *at_ns, *times)
        });
        Self {
            epoch,
            positions: positions.iter().map(|(stream, position)| (stream.to_string(), *position)).collect(),
            outputs: outputs.iter().map(ToString::to_string).collect(),
            written: written.collect(),
            engine,
        }
    }

    fn written(&self) -> Written {
        let mut written = Written::default();
        for (stream, series, at_ns, times) in &self.written {
            let series =
                STANDARD_NO_PAD.decode(series).ok().and_then(|bytes| SeriesKey::from_bytes(&bytes).ok());
            if let (Ok(stream), Some(series)) = (stream.parse(), series) {
                written.add(&stream, &series, *at_ns, *times);
            }
        }
        written
    }
}

/// Why it can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error("the state of processing can't be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("the state of processing can't be encrypted: {0}")]
    Seal(#[from] farshore_trust::sealed::SealError),
    #[error("the state of processing has no form in JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the state of processing is damaged: {0}")]
    Damaged(&'static str),
    #[error("the journal can't be read: {0}")]
    Journal(#[from] JournalError),
}

/// The file in a gateway's folder.
#[derive(Debug)]
pub(super) struct StateFile {
    folder: PathBuf,
}

impl StateFile {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn key(&self) -> Result<DeviceKey, KeepError> {
        Ok(DeviceKey::open_or_create(&self.folder.join("device.key"))?)
    }

    /// Nothing when there is none.
    fn read(&self) -> Result<Option<Kept>, KeepError> {
        let path = self.folder.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if file.metadata()?.len() > MAX_BYTES {
            return Err(KeepError::Damaged("it is too large"));
        }
        let content = fs::read(&path)?;
        let short = KeepError::Damaged("it ends early");
        let rest = content.strip_prefix(MAGIC).ok_or(KeepError::Damaged("it begins otherwise"))?;
        let (wrapped, rest) = rest.split_first_chunk::<DEVICE_WRAP_BYTES>().ok_or(short)?;
        let (nonce, sealed) =
            rest.split_first_chunk::<NONCE_BYTES>().ok_or(KeepError::Damaged("it ends early"))?;
        let packed = self.key()?.unwrap(wrapped)?.decrypt(nonce, MAGIC, sealed)?;
        let json = zstd::stream::decode_all(packed.as_slice())?;
        Ok(Some(serde_json::from_slice(&json)?))
    }

    /// Puts a new state in the place of the old one; durable when this is done.
    pub(super) fn write(&self, kept: &Kept) -> Result<(), KeepError> {
        let json = serde_json::to_vec(kept)?;
        let packed = zstd::stream::encode_all(json.as_slice(), 1)?;
        let (data, nonce) = (DataKey::generate()?, random_bytes::<NONCE_BYTES>()?);
        let mut content = MAGIC.to_vec();
        content.extend_from_slice(&data.wrap_for_device(&self.key()?)?);
        content.extend_from_slice(&nonce);
        content.extend_from_slice(&data.encrypt(&nonce, MAGIC, &packed)?);
        replace(&self.folder, FILE, &content)?;
        Ok(())
    }

    /// Counting again what lies behind the state begins. Told before, so that the next start knows of it whatever happens.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn begin_replay(&self) -> io::Result<()> {
        let begun = self.replays().saturating_add(1);
        let mut file = create(&self.folder.join(REPLAYS))?;
        file.write_all(&[begun])?;
        file.sync_all()
    }

    /// It has ended.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn end_replay(&self) -> io::Result<()> {
        gone(&self.folder.join(REPLAYS))
    }

    fn replays(&self) -> u8 {
        fs::read(self.folder.join(REPLAYS)).ok().and_then(|content| content.first().copied()).unwrap_or(0)
    }

    /// Nothing is processed any more: what was remembered means nothing when it is again.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn remove(&self) -> io::Result<()> {
        gone(&self.folder.join(FILE))?;
        match File::open(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            folder => folder?.sync_all(),
        }
    }
}

/// Puts new content in the place of a file's, as a whole; durable when this is done. Nobody else may read it.
///
/// # Errors
/// What the disk says: the old content is there then.
pub(super) fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    let written = create(&new).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&new, folder.join(name))) {
        // Half a state would take the room that the journal needs; what can't be removed either is replaced by the next.
        _ = fs::remove_file(&new);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

/// Begins a file anew that nobody else may read.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Points that were not counted yet: a part of the journal without its first so many.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) stream: StreamName,
    pub(super) sequence: u64,
    pub(super) points: PointBatch,
    pub(super) skip: usize,
}

/// Where processing goes on.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    pub(super) epoch: Option<u64>,
    pub(super) positions: Positions,
    pub(super) engine: Saved,
    pub(super) written: Written,
    pub(super) unread: Vec<Unread>,
    /// Why what was remembered is not used.
    pub(super) fresh_because: Option<String>,
}

impl Recovery {
    /// Looks at the state and at the journal, before anybody opens that. Changes nothing. `remembers`: whether there is something to go on with;
    /// else what is in the journal counts as read.
    ///
    /// # Errors
    /// When the journal can't be read. A state that can't is given up, and that is told.
    pub(crate) fn read(folder: &Path, outputs: &[StreamName], remembers: bool) -> Result<Self, KeepError> {
        let rest = match AtRest::open(folder) {
            Ok(rest) => rest,
            Err(JournalError::NoJournal { .. }) => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        let mut recovery = Self { epoch: rest.epoch()?, ..Self::default() };
        let state = StateFile::new(folder);
        let kept = match state.read() {
            _ if !remembers => None,
            Ok(Some(_)) if state.replays() >= MOST_REPLAYS => {
                let why = format!(
                    "the gateway ended {MOST_REPLAYS} times while it counted again what lies behind it"
                );
                recovery.fresh_because = Some(why);
                None
            }
            Ok(Some(kept)) if Some(kept.epoch) == recovery.epoch => Some(kept),
            Ok(Some(_)) => {
                recovery.fresh_because = Some("the journal has a new life".to_owned());
                None
            }
            Ok(None) => None,
            Err(error) => {
                recovery.fresh_because = Some(error.to_string());
                None
            }
        };
        let parts = rest.parts()?;
        let Some(kept) = kept else {
            for part in parts {
                let points = match part.kind {
                    PartKind::Segment => rest.look_into(&part)?.and_then(|part| part.points),
                    PartKind::Batch | PartKind::Thinned => part.points,
                };
                let position = Position { sequence: part.sequence, points: points.unwrap_or(0) };
                let before = recovery.positions.entry(part.stream).or_default();
                *before = (*before).max(position);
            }
            return Ok(recovery);
        };
        recovery.written = kept.written();
        for (stream, position) in &kept.positions {
            if let Ok(stream) = stream.parse() {
                recovery.positions.insert(stream, *position);
            }
        }
        let is_output = |stream: &StreamName| {
            outputs.contains(stream) || kept.outputs.iter().any(|output| output == stream.as_str())
        };
        for part in parts {
            recovery.read_part(&rest, part, &is_output)?;
        }
        recovery.engine = kept.engine;
        Ok(recovery)
    }

    fn read_part(
        &mut self,
        rest: &AtRest,
        part: Part,
        is_output: &dyn Fn(&StreamName) -> bool,
    ) -> Result<(), KeepError> {
        let before = self.positions.get(&part.stream).copied().unwrap_or_default();
        if part.sequence < before.sequence {
            return Ok(());
        }
        let counted = if part.sequence == before.sequence { before.points } else { 0 };
        // Columns have another order. That happens only when somebody sealed by hand what was not counted to its end.
        if part.kind != PartKind::Segment && counted > 0 {
            let left = part.points.unwrap_or(0).saturating_sub(counted);
            if left > 0 {
                tracing::warn!(stream = %part.stream, points = left, "points were sealed before they were processed, and are not processed");
            }
            return Ok(());
        }
        let Some(contents) = rest.contents(&part)? else { return Ok(()) };
        let skip = usize::try_from(counted).unwrap_or(usize::MAX);
        if contents.points.len() <= skip {
            return Ok(());
        }
        if is_output(&part.stream) {
            for (series, at_ns, _) in contents.points.points().skip(skip) {
                self.written.add(&part.stream, series, at_ns, 1);
            }
        }
        self.unread.push(Unread {
            stream: part.stream,
            sequence: part.sequence,
            points: contents.points,
            skip,
        });
        Ok(())
    }
}

/// Forgets what was remembered, where nothing is processed.
pub(crate) fn forget(folder: &Path) {
    if let Err(error) = StateFile::new(folder).remove() {
        tracing::warn!(%error, "the state of processing can't be removed");
    }
}
