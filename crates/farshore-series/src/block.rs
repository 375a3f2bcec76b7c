//! The decoded form of a block, and how to gather one.

use std::collections::BTreeMap;

use crate::limits::{MAX_DECODED_BYTES, MAX_NAME_BYTES, MAX_ROWS, MAX_SERIES, decoded_bytes};

/// Samples of one stream in columns: `columns[s][r]` is the value of `series[s]` at `at_ms[r]`.
///
/// The fields are open so that a block can be taken apart without copying; [`Block::check`] says whether they
/// fit together, and [`encode`](crate::encode) and [`decode`](crate::decode) both hold to it.
/// Rows are kept in the order given: a device whose clock went back has timestamps that go back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// Names of the series, strictly ascending by bytes.
    pub series: Vec<String>,
    /// Unix milliseconds, one for each row.
    pub at_ms: Vec<i64>,
    /// One column for each series, one cell for each row; `None` where the series had no value.
    pub columns: Vec<Vec<Option<f64>>>,
}

/// Why fields do not make a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Too many timestamps.
    #[error("block has {rows} rows, more than {MAX_ROWS}")]
    TooManyRows {
        /// Rows given.
        rows: usize,
    },
    /// Too many series.
    #[error("block has {series} series, more than {MAX_SERIES}")]
    TooManySeries {
        /// Series given.
        series: usize,
    },
    /// More memory than a decoded block may take.
    #[error("block takes {bytes} bytes decoded, more than {MAX_DECODED_BYTES}")]
    TooLarge {
        /// Bytes that the block would take.
        bytes: usize,
    },
    /// A name is empty or longer than the cap.
    #[error("name of series {index} has {bytes} bytes; 1 to {MAX_NAME_BYTES} are allowed")]
    BadName {
        /// Position in `series`.
        index: usize,
        /// Length of the name.
        bytes: usize,
    },
    /// Names are out of order, or one is there twice.
    #[error("name of series {index} is not greater than the one before it")]
    NamesNotAscending {
        /// Position in `series` of the second of the two names.
        index: usize,
    },
    /// Names and columns differ in number.
    #[error("block names {series} series and has {columns} columns")]
    ColumnCount {
        /// Names given.
        series: usize,
        /// Columns given.
        columns: usize,
    },
    /// A column and the timestamps differ in length.
    #[error("column of series {index} has {cells} cells for {rows} rows")]
    ColumnLength {
        /// Position in `columns`.
        index: usize,
        /// Cells given.
        cells: usize,
        /// Rows of the block.
        rows: usize,
    },
}

impl Block {
    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.at_ms.len()
    }

    /// Whether the block has no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at_ms.is_empty()
    }

    /// Number of values that are present.
    #[must_use]
    pub fn points(&self) -> usize {
        self.columns.iter().map(|column| column.iter().flatten().count()).sum()
    }

    /// The column of the series with this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&[Option<f64>]> {
        let index = self.series.binary_search_by(|candidate| candidate.as_str().cmp(name)).ok()?;
        self.columns.get(index).map(Vec::as_slice)
    }

    /// Timestamps and values of one series, missing cells left out. Empty for a name that is not there.
    pub fn points_of(&self, name: &str) -> impl Iterator<Item = (i64, f64)> + '_ {
        let column = self.column(name).unwrap_or_default();
        self.at_ms.iter().zip(column).filter_map(|(at_ms, cell)| cell.map(|value| (*at_ms, value)))
    }

    /// For each series that has a value: its name, and timestamp and value of the last row that has one.
    pub fn latest(&self) -> impl Iterator<Item = (&str, i64, f64)> + '_ {
        self.series.iter().zip(&self.columns).filter_map(|(name, column)| {
            let (at_ms, value) =
                self.at_ms.iter().zip(column).rev().find_map(|(at_ms, cell)| Some((*at_ms, (*cell)?)))?;
            Some((name.as_str(), at_ms, value))
        })
    }

    /// Smallest and largest timestamp; `None` for a block without rows.
    #[must_use]
    pub fn span_ms(&self) -> Option<(i64, i64)> {
        Some((*self.at_ms.iter().min()?, *self.at_ms.iter().max()?))
    }

    /// Says whether the fields fit together and stay within the [`limits`](crate::limits).
    ///
    /// # Errors
    /// The first thing that is wrong, as a [`ShapeError`].
    pub fn check(&self) -> Result<(), ShapeError> {
        let rows = self.at_ms.len();
        if rows > MAX_ROWS {
            return Err(ShapeError::TooManyRows { rows });
        }
        check_names(&self.series)?;
        if self.series.len() != self.columns.len() {
            return Err(ShapeError::ColumnCount { series: self.series.len(), columns: self.columns.len() });
        }
        for (index, column) in self.columns.iter().enumerate() {
            if column.len() != rows {
                return Err(ShapeError::ColumnLength { index, cells: column.len(), rows });
            }
        }
        check_size(rows, &self.series)
    }
}

/// Checks number, length and order of the names.
pub(crate) fn check_names(series: &[String]) -> Result<(), ShapeError> {
    if series.len() > MAX_SERIES {
        return Err(ShapeError::TooManySeries { series: series.len() });
    }
    let mut before: Option<&str> = None;
    for (index, name) in series.iter().enumerate() {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(ShapeError::BadName { index, bytes: name.len() });
        }
        if before.is_some_and(|before| before >= name.as_str()) {
            return Err(ShapeError::NamesNotAscending { index });
        }
        before = Some(name);
    }
    Ok(())
}

/// Checks the memory that a block of this shape takes.
pub(crate) fn check_size(rows: usize, series: &[String]) -> Result<(), ShapeError> {
    let names: usize = series.iter().map(String::len).sum();
    let bytes = decoded_bytes(rows, series.len()).saturating_add(names);
    if bytes > MAX_DECODED_BYTES {
        return Err(ShapeError::TooLarge { bytes });
    }
    Ok(())
}

/// Gathers a [`Block`] sample by sample; series may come and go from one sample to the next.
///
/// ```
/// use farshore_series::BlockBuilder;
///
/// let mut builder = BlockBuilder::new();
/// builder.push(1_000, [("cpu", 0.25), ("uptime", 60.0)])?;
/// builder.push(2_000, [("cpu", 0.5)])?;
/// let block = builder.finish();
/// assert_eq!(block.column("uptime"), Some(&[Some(60.0), None][..]));
/// # Ok::<(), farshore_series::ShapeError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct BlockBuilder {
    at_ms: Vec<i64>,
    columns: BTreeMap<String, Vec<Option<f64>>>,
}

impl BlockBuilder {
    /// A builder without rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of rows so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.at_ms.len()
    }

    /// Whether no row was pushed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at_ms.is_empty()
    }

    /// Timestamp of the first row pushed, to judge the age of what is gathered.
    #[must_use]
    pub fn first_at_ms(&self) -> Option<i64> {
        self.at_ms.first().copied()
    }

    /// Adds one row. Where a name comes twice in one row, the last value counts.
    ///
    /// # Errors
    /// A [`ShapeError`] when the row would take the block beyond its limits or a name is unfit. The builder is
    /// then as it was before: finish the block and push the row to the next one.
    pub fn push<'n>(
        &mut self,
        at_ms: i64,
        values: impl IntoIterator<Item = (&'n str, f64)>,
    ) -> Result<(), ShapeError> {
        let rows = self.at_ms.len();
        if rows >= MAX_ROWS {
            return Err(ShapeError::TooManyRows { rows: rows + 1 });
        }
        let values: Vec<(&str, f64)> = values.into_iter().collect();
        let mut fresh: Vec<&str> = Vec::new();
        for (index, (name, _)) in values.iter().enumerate() {
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                return Err(ShapeError::BadName { index, bytes: name.len() });
            }
            if !self.columns.contains_key(*name) && !fresh.contains(name) {
                fresh.push(name);
                // Checked inside the loop so that an endless row stops early.
                let series = self.columns.len() + fresh.len();
                if series > MAX_SERIES {
                    return Err(ShapeError::TooManySeries { series });
                }
            }
        }
        let names: usize = self.columns.keys().map(String::len).sum::<usize>()
            + fresh.iter().map(|n| n.len()).sum::<usize>();
        let bytes = decoded_bytes(rows + 1, self.columns.len() + fresh.len()).saturating_add(names);
        if bytes > MAX_DECODED_BYTES {
            return Err(ShapeError::TooLarge { bytes });
        }

        for name in fresh {
            self.columns.insert(name.to_owned(), vec![None; rows]);
        }
        self.at_ms.push(at_ms);
        for column in self.columns.values_mut() {
            column.push(None);
        }
        for (name, value) in values {
            if let Some(cell) = self.columns.get_mut(name).and_then(|column| column.last_mut()) {
                *cell = Some(value);
            }
        }
        Ok(())
    }

    /// The block of everything pushed.
    #[must_use]
    pub fn finish(self) -> Block {
        let (series, columns) = self.columns.into_iter().unzip();
        Block { series, at_ms: self.at_ms, columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_that_comes_late_or_pauses_has_gaps() {
        let mut builder = BlockBuilder::new();
        builder.push(1, [("b", 1.0)]).unwrap();
        builder.push(2, [("a", 2.0)]).unwrap();
        builder.push(3, [("b", 3.0), ("b", 4.0)]).unwrap();
        builder.push(4, []).unwrap();
        let block = builder.finish();
        assert_eq!(block.check(), Ok(()));
        assert_eq!(block.series, ["a", "b"]);
        assert_eq!(block.column("a"), Some(&[None, Some(2.0), None, None][..]));
        assert_eq!(block.points_of("b").collect::<Vec<_>>(), [(1, 1.0), (3, 4.0)]);
        assert_eq!(block.points_of("c").count(), 0);
        assert_eq!(block.latest().collect::<Vec<_>>(), [("a", 2, 2.0), ("b", 3, 4.0)]);
        assert_eq!(block.span_ms(), Some((1, 4)));
        assert_eq!(block.points(), 3);
    }

    #[test]
    fn a_refused_row_leaves_the_builder_as_it_was() {
        let names: Vec<String> = (0..=MAX_SERIES).map(|n| format!("s{n:03}")).collect();
        let mut builder = BlockBuilder::new();
        builder.push(1, [("s000", 1.0)]).unwrap();
        let refused = builder.push(2, names.iter().map(|name| (name.as_str(), 0.0)));
        assert_eq!(refused, Err(ShapeError::TooManySeries { series: MAX_SERIES + 1 }));
        assert!(matches!(builder.push(2, [("", 0.0)]), Err(ShapeError::BadName { .. })));
        let block = builder.finish();
        assert_eq!((block.rows(), block.series.len()), (1, 1));
    }

    #[test]
    fn a_builder_that_is_full_says_so_and_its_block_is_sound() {
        let names: Vec<String> = (0..MAX_SERIES).map(|n| format!("s{n:03}")).collect();
        let mut builder = BlockBuilder::new();
        let refused = (0..).find_map(|at| {
            builder.push(at, names.iter().map(|name| (name.as_str(), 0.0))).err().map(|error| (at, error))
        });
        assert!(matches!(refused, Some((at, ShapeError::TooLarge { .. })) if at > 8_000), "{refused:?}");
        assert_eq!(builder.finish().check(), Ok(()));
    }
}
