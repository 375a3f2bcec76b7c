//! Points in Parquet files: `parquet/<tenant>/<sink>/date=2026-11-29/hour=07/part-00000012.parquet` in the folder of artifacts, by the hour of the points.
//!
//! What is written in one round has one number: the round's, or the next that no file has, where the database was set back behind the files. A marker
//! names the round under way until it is on record. A crash before that writes the round again, over the files that the marker names and no others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_domain::time::{DAY_MS, HOUR_MS, UnixMs};
use farshore_series::{Columns, Value};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;

use crate::series::stored::hour_of;

/// Rows of a row group; they are in memory while it is written.
const ROWS: usize = 50_000;

pub(super) const SCHEMA: &str = "
message points {
  REQUIRED INT64 time (TIMESTAMP(NANOS,true));
  REQUIRED BYTE_ARRAY device (STRING);
  REQUIRED BYTE_ARRAY device_name (STRING);
  REQUIRED BYTE_ARRAY location (STRING);
  REQUIRED BYTE_ARRAY stream (STRING);
  REQUIRED BYTE_ARRAY measurement (STRING);
  REQUIRED BYTE_ARRAY field (STRING);
  REQUIRED BYTE_ARRAY tags (JSON);
  OPTIONAL DOUBLE value;
  OPTIONAL INT64 integer;
  OPTIONAL BYTE_ARRAY text (STRING);
}";

/// Why files were not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("the file {0} can't be written")]
    Io(PathBuf, #[source] io::Error),
    #[error("points can't be written as Parquet")]
    Parquet(#[from] ParquetError),
}

/// Points of one stream.
#[derive(Debug)]
pub(super) struct OfStream {
    pub(super) device: String,
    pub(super) device_name: String,
    pub(super) location: String,
    pub(super) stream: String,
    pub(super) columns: Columns,
}

/// `date=2026-11-29/hour=07`
fn place(hour_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(hour_ms).map_or_else(
        |_| "date=unknown/hour=00".to_owned(),
        |time| time.strftime("date=%Y-%m-%d/hour=%H").to_string(),
    )
}

/// The times of points that are written, in Unix nanoseconds: what is kept, and a clock that is a day fast. Anything else would be files that nobody
/// expects and nobody deletes.
pub(super) fn window(keep_days: u32, now: UnixMs) -> Range<i64> {
    let ns = |at: UnixMs| at.0.saturating_mul(1_000_000);
    ns(now.plus_ms(-i64::from(keep_days) * DAY_MS))..ns(now.plus_ms(DAY_MS))
}

/// The file that names the round under way, and the number of its files.
const MARKER: &str = ".round";

/// The number for the files of a round. What a crash left of the round goes: it is written anew, from other batches perhaps.
fn begin(folder: &Path, round: i64) -> io::Result<i64> {
    let marker = folder.join(MARKER);
    let left = match fs::read_to_string(&marker) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let left = left
        .trim()
        .split_once(' ')
        .and_then(|(round, number)| Some((round.parse::<i64>().ok()?, number.parse::<i64>().ok()?)));
    if let Some((_, number)) = left.filter(|(left, _)| *left == round) {
        forget(folder, number)?;
        return Ok(number);
    }
    let number = round.max(greatest(folder)?.saturating_add(1));
    let new = folder.join(".round.new");
    fs::write(&new, format!("{round} {number}\n"))?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, &marker)?;
    File::open(folder)?.sync_all()?;
    Ok(number)
}

/// The round is on record.
pub(super) fn end(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(MARKER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The folders of a sink's hours, whatever files others may have left beside them.
fn hours(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for day in folders(folder)? {
        found.extend(folders(&day)?);
    }
    Ok(found)
}

fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The greatest number that a file has.
fn greatest(folder: &Path) -> io::Result<i64> {
    let mut greatest = 0;
    for hour in hours(folder)? {
        for file in fs::read_dir(hour)? {
            let name = file?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok());
            greatest = number.unwrap_or(0).max(greatest);
        }
    }
    Ok(greatest)
}

/// Deletes the files of this number.
fn forget(folder: &Path, round: i64) -> io::Result<()> {
    for hour in hours(folder)? {
        let path = hour.join(format!("part-{round:08}.parquet"));
        for left in [path.with_extension("part"), path] {
            match fs::remove_file(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Writes the points in the window, a file for each hour. Returns how many points there were.
pub(super) fn write(
    folder: &Path,
    round: i64,
    measurements: &[String],
    all: &[OfStream],
    window: Range<i64>,
) -> Result<u64, FileError> {
    let hour = |at_ns: i64| hour_of(at_ns.div_euclid(1_000_000));
    let wanted =
        |measurement: &str| measurements.is_empty() || measurements.iter().any(|one| one == measurement);
    // Where the points of each hour are.
    let mut hours: BTreeMap<i64, Vec<(usize, usize, usize)>> = BTreeMap::new();
    for (stream, of) in all.iter().enumerate() {
        for (number, column) in of.columns.columns.iter().enumerate() {
            if !wanted(column.key.measurement()) {
                continue;
            }
            for (index, at) in column.times_ns.iter().enumerate().filter(|(_, at)| window.contains(at)) {
                hours.entry(hour(*at)).or_default().push((stream, number, index));
            }
        }
    }
    let io = |error| FileError::Io(folder.to_owned(), error);
    fs::create_dir_all(folder).map_err(io)?;
    let number = begin(folder, round).map_err(io)?;
    let schema: TypePtr = Arc::new(parse_message_type(SCHEMA)?);
    let properties: WriterPropertiesPtr = Arc::new(
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build(),
    );
    let mut points = 0;
    for (this, places) in hours {
        let folder = folder.join(place(this));
        fs::create_dir_all(&folder).map_err(|error| FileError::Io(folder.clone(), error))?;
        let path = folder.join(format!("part-{number:08}.parquet"));
        let part = path.with_extension("part");
        let file = File::create(&part).map_err(|error| FileError::Io(part.clone(), error))?;
        let synced = file.try_clone().map_err(|error| FileError::Io(part.clone(), error))?;
        let mut writer = SerializedFileWriter::new(file, Arc::clone(&schema), Arc::clone(&properties))?;
        let mut rows = Rows::default();
        let mut shared: Option<((usize, usize), Shared)> = None;
        for (stream, number, index) in places {
            let Some(of) = all.get(stream) else { continue };
            let Some(column) = of.columns.columns.get(number) else { continue };
            let (Some(at), Some(value)) = (column.times_ns.get(index), column.values.get(index)) else {
                continue;
            };
            let (_, of_column) = match shared.take() {
                Some(same) if same.0 == (stream, number) => shared.insert(same),
                _ => shared.insert(((stream, number), Shared::of(of, &column.key))),
            };
            rows.push(of_column, *at, value);
            if rows.times.len() >= ROWS {
                points += rows.write(writer.next_row_group()?)?;
            }
        }
        if !rows.times.is_empty() {
            points += rows.write(writer.next_row_group()?)?;
        }
        writer.close()?;
        let last = || -> io::Result<()> {
            synced.sync_all()?;
            fs::rename(&part, &path)?;
            File::open(&folder)?.sync_all()?;
            // The folders on the way to it may be new.
            for above in folder.ancestors().skip(1).take(3) {
                File::open(above)?.sync_all()?;
            }
            Ok(())
        };
        last().map_err(|error| FileError::Io(path.clone(), error))?;
    }
    Ok(points)
}

/// What the rows of a series have in common.
struct Shared {
    device: ByteArray,
    device_name: ByteArray,
    location: ByteArray,
    stream: ByteArray,
    measurement: ByteArray,
    field: ByteArray,
    tags: ByteArray,
}

impl Shared {
    fn of(of: &OfStream, key: &farshore_series::SeriesKey) -> Self {
        let text = |text: &str| ByteArray::from(text.as_bytes().to_vec());
        let tags: serde_json::Map<String, serde_json::Value> =
            key.tags().map(|(name, value)| (name.to_owned(), value.into())).collect();
        Self {
            device: text(&of.device),
            device_name: text(&of.device_name),
            location: text(&of.location),
            stream: text(&of.stream),
            measurement: text(key.measurement()),
            field: text(key.field()),
            tags: text(&serde_json::Value::from(tags).to_string()),
        }
    }
}

/// Rows of a row group, column by column.
#[derive(Default)]
struct Rows {
    times: Vec<i64>,
    texts: [Vec<ByteArray>; 7],
    values: (Vec<f64>, Vec<i16>),
    integers: (Vec<i64>, Vec<i16>),
    text: (Vec<ByteArray>, Vec<i16>),
}

impl Rows {
    fn push(&mut self, shared: &Shared, at: i64, value: Value) {
        self.times.push(at);
        let all = [
            &shared.device,
            &shared.device_name,
            &shared.location,
            &shared.stream,
            &shared.measurement,
            &shared.field,
            &shared.tags,
        ];
        for (column, text) in self.texts.iter_mut().zip(all) {
            column.push(text.clone());
        }
        #[expect(clippy::cast_precision_loss, reason = "the column beside it has every digit")]
        let (number, integer, text) = match value {
            Value::Float(value) => (Some(value), None, None),
            Value::Integer(value) => (Some(value as f64), Some(value), None),
            Value::Boolean(value) => (Some(f64::from(u8::from(value))), Some(i64::from(value)), None),
            Value::Text(text) | Value::Json(text) => (None, None, Some(ByteArray::from(text.into_bytes()))),
        };
        fn put<T>(column: &mut (Vec<T>, Vec<i16>), value: Option<T>) {
            column.1.push(i16::from(value.is_some()));
            column.0.extend(value);
        }
        put(&mut self.values, number);
        put(&mut self.integers, integer);
        put(&mut self.text, text);
    }

    /// Writes the rows in the order of the schema's columns, and is empty afterwards.
    fn write(&mut self, mut group: SerializedRowGroupWriter<'_, File>) -> Result<u64, ParquetError> {
        let rows = std::mem::take(self);
        let count = rows.times.len() as u64;
        let missing = || ParquetError::General("the schema has fewer columns than rows have".to_owned());
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<Int64Type>().write_batch(&rows.times, None, None)?;
        column.close()?;
        for texts in &rows.texts {
            let mut column = group.next_column()?.ok_or_else(missing)?;
            column.typed::<ByteArrayType>().write_batch(texts, None, None)?;
            column.close()?;
        }
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<DoubleType>().write_batch(&rows.values.0, Some(&rows.values.1), None)?;
        column.close()?;
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<Int64Type>().write_batch(&rows.integers.0, Some(&rows.integers.1), None)?;
        column.close()?;
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<ByteArrayType>().write_batch(&rows.text.0, Some(&rows.text.1), None)?;
        column.close()?;
        group.close()?;
        Ok(count)
    }
}

/// Deletes the days that are no longer kept.
pub(super) fn clean(folder: &Path, keep_days: u32, now: UnixMs) -> io::Result<()> {
    let first = now.plus_ms(-i64::from(keep_days) * DAY_MS);
    let first = place(first.0.div_euclid(HOUR_MS) * HOUR_MS);
    let (first, _) = first.split_once('/').unwrap_or_default();
    let days = match fs::read_dir(folder) {
        Ok(days) => days,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for day in days {
        let day = day?;
        // Names of days sort as the days do.
        let is_old = day
            .file_name()
            .to_str()
            .is_some_and(|name| name.len() == first.len() && name.starts_with("date=") && name < first);
        if is_old {
            fs::remove_dir_all(day.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use farshore_series::PointBatch;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::RowAccessor as _;

    use super::*;

    fn of(points: &[(i64, Value)]) -> OfStream {
        let mut batch = PointBatch::new();
        for (at, value) in points {
            let series = batch.series("temp", "value", [("room", "a\"b")]).unwrap();
            batch.push(series, *at, value.clone()).unwrap();
        }
        OfStream {
            device: "d".into(),
            device_name: "gw".into(),
            location: "Riga".into(),
            stream: "data/a".into(),
            columns: Columns::of(&batch),
        }
    }

    const H: i64 = 3_600_000_000_000;

    #[test]
    fn files_lie_by_the_hour_of_their_points_and_are_written_over_by_the_same_round() {
        let folder = tempfile::tempdir().unwrap();
        let all = [of(&[
            (H + 1, Value::Float(1.5)),
            (2 * H - 1, Value::Integer(i64::MAX)),
            (H + 5, Value::Text("on".into())),
            (30 * H, Value::Boolean(true)),
        ])];
        for _ in 0..2 {
            assert_eq!(write(folder.path(), 7, &[], &all, 0..i64::MAX).unwrap(), 4);
        }
        let path = folder.path().join("date=1970-01-01/hour=01/part-00000007.parquet");
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        assert_eq!(
            names,
            [
                "time",
                "device",
                "device_name",
                "location",
                "stream",
                "measurement",
                "field",
                "tags",
                "value",
                "integer",
                "text"
            ]
        );
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].get_double(8).unwrap(), 1.5);
        let whole = rows.iter().find(|row| row.get_long(9).is_ok()).unwrap();
        assert_eq!(whole.get_long(9).unwrap(), i64::MAX);
        let text = rows.iter().find(|row| row.get_string(10).is_ok()).unwrap();
        assert_eq!(text.get_string(10).unwrap(), "on");
        assert!(folder.path().join("date=1970-01-02/hour=06/part-00000007.parquet").exists());
        assert_eq!(write(folder.path(), 8, &["none".to_owned()], &all, 0..i64::MAX).unwrap(), 0);
        clean(folder.path(), 1, UnixMs(2 * DAY_MS)).unwrap();
        assert!(!path.exists() && folder.path().join("date=1970-01-02").exists());
    }

    #[test]
    fn a_round_that_comes_again_after_the_database_was_set_back_deletes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let all = [of(&[(H, Value::Integer(1))])];
        let files = || {
            let hour = folder.path().join("date=1970-01-01/hour=01");
            let mut found: Vec<_> = fs::read_dir(hour)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            found
        };
        for round in [3, 4] {
            write(folder.path(), round, &[], &all, 0..i64::MAX).unwrap();
            end(folder.path()).unwrap();
        }
        let before = ["part-00000003.parquet", "part-00000004.parquet"];
        assert_eq!(files(), before);
        // The database says that round 3 is the next one; it is cut off, too, and written anew.
        for _ in 0..2 {
            write(folder.path(), 3, &[], &all, 0..i64::MAX).unwrap();
            assert_eq!(files(), [before[0], before[1], "part-00000005.parquet"]);
        }
        end(folder.path()).unwrap();
        end(folder.path()).unwrap();
        write(folder.path(), 4, &[], &all, 0..i64::MAX).unwrap();
        assert_eq!(files().len(), 4);
    }

    #[test]
    fn files_of_others_among_the_folders_hold_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let all = [of(&[(H, Value::Integer(1))])];
        write(folder.path(), 1, &[], &all, 0..i64::MAX).unwrap();
        for name in ["_SUCCESS", "date=1970-01-01/_SUCCESS", "date=1970-01-01/hour=01/_SUCCESS"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(write(folder.path(), 2, &[], &all, 0..i64::MAX).unwrap(), 1);
        clean(folder.path(), 1, UnixMs(9 * DAY_MS)).unwrap();
        assert!(!folder.path().join("date=1970-01-01").exists() && folder.path().join("_SUCCESS").exists());
    }

    #[test]
    fn what_a_crash_left_of_a_round_goes_and_times_that_nobody_keeps_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let files = || {
            let mut found = Vec::new();
            for hour in ["date=1970-01-01/hour=01", "date=1970-01-01/hour=02"] {
                found.extend(
                    fs::read_dir(folder.path().join(hour))
                        .into_iter()
                        .flatten()
                        .map(|file| format!("{hour}/{}", file.unwrap().file_name().to_string_lossy())),
                );
            }
            found.sort();
            found
        };
        let first = [of(&[(H, Value::Integer(1))])];
        assert_eq!(write(folder.path(), 1, &[], &first, 0..i64::MAX).unwrap(), 1);
        end(folder.path()).unwrap();
        assert_eq!(write(folder.path(), 2, &[], &first, 0..i64::MAX).unwrap(), 1);
        // Round 2 is not on record, and another gateway has come in before the first.
        let second = [of(&[(2 * H, Value::Integer(2)), (-5, Value::Integer(3)), (3 * H, Value::Integer(4))])];
        assert_eq!(write(folder.path(), 2, &[], &second, 0..3 * H).unwrap(), 1);
        let left = [
            "date=1970-01-01/hour=01/part-00000001.parquet",
            "date=1970-01-01/hour=02/part-00000002.parquet",
        ];
        assert_eq!(files(), left);
        let now = UnixMs(100 * DAY_MS);
        let kept = window(10, now);
        assert_eq!((kept.start, kept.end), (90 * DAY_MS * 1_000_000, 101 * DAY_MS * 1_000_000));
    }
}
