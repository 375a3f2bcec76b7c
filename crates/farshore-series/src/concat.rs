//! Several blocks of one stream put together in one.

use std::collections::{BTreeMap, BTreeSet};

use crate::block::Block;
use crate::columns::{Columns, SeriesColumn, Values};
use crate::key::SeriesKey;
use crate::points::Kind;

impl Block {
    /// All rows of these blocks, in their order. Whether they fit into one block, [`encode`](crate::encode) says.
    #[must_use]
    pub fn concat(blocks: &[Self]) -> Self {
        let names: BTreeSet<&String> = blocks.iter().flat_map(|block| &block.series).collect();
        let columns = names
            .iter()
            .map(|name| {
                let cells = blocks.iter().flat_map(|block| match block.column(name) {
                    Some(column) => column.to_vec(),
                    None => vec![None; block.rows()],
                });
                cells.collect()
            })
            .collect();
        let at_ms = blocks.iter().flat_map(|block| block.at_ms.iter().copied()).collect();
        Self { series: names.into_iter().cloned().collect(), at_ms, columns }
    }
}

impl Columns {
    /// All points of these columns, series by series in their order. Whether they fit into one block, [`encode_columns`](crate::encode_columns) says.
    #[must_use]
    pub fn concat(all: Vec<Self>) -> Self {
        let mut gathered: BTreeMap<(SeriesKey, Kind), (Vec<i64>, Values)> = BTreeMap::new();
        for column in all.into_iter().flat_map(|columns| columns.columns) {
            let kind = column.values.kind();
            match gathered.get_mut(&(column.key.clone(), kind)) {
                Some((times, values)) => {
                    times.extend_from_slice(&column.times_ns);
                    values.append(column.values);
                }
                None => {
                    drop(gathered.insert((column.key, kind), (column.times_ns.to_vec(), column.values)));
                }
            }
        }
        let columns = gathered
            .into_iter()
            .map(|((key, _), (times, values))| SeriesColumn { key, times_ns: times.into(), values })
            .collect();
        Self { columns }
    }
}

impl Values {
    /// Takes further values of the same kind; others are left out.
    fn append(&mut self, further: Self) {
        match (self, further) {
            (Self::Float(values), Self::Float(further)) => values.extend(further),
            (Self::Integer(values), Self::Integer(further)) => values.extend(further),
            (Self::Boolean(values), Self::Boolean(further)) => values.extend(further),
            (Self::Text(values), Self::Text(further)) | (Self::Json(values), Self::Json(further)) => {
                values.extend(further);
            }
            // Both were looked up by their kind.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockBuilder, PointBatch, Value, decode, decode_columns, encode, encode_columns};

    #[test]
    fn rows_stay_in_order_and_series_may_come_and_go() {
        let mut first = BlockBuilder::new();
        first.push(1, [("a", 1.0), ("b", 2.0)]).unwrap();
        let mut second = BlockBuilder::new();
        second.push(5, [("b", 3.0), ("c", 4.0)]).unwrap();
        second.push(3, [("c", 5.0)]).unwrap();
        let all = Block::concat(&[first.finish(), second.finish()]);
        assert_eq!(all.at_ms, [1, 5, 3]);
        assert_eq!(all.column("b").unwrap(), [Some(2.0), Some(3.0), None]);
        assert_eq!(all.column("c").unwrap(), [None, Some(4.0), Some(5.0)]);
        assert_eq!(decode(&encode(&all).unwrap()).unwrap(), all);
        assert!(Block::concat(&[]).is_empty());
    }

    #[test]
    fn a_series_that_changes_its_kind_keeps_a_column_for_each() {
        let block = |at: i64, value: Value| {
            let mut batch = PointBatch::new();
            let series = batch.series("t", "v", []).unwrap();
            batch.push(series, at, value).unwrap();
            Columns::of(&batch)
        };
        let all = Columns::concat(vec![
            block(9, Value::Float(1.5)),
            block(4, Value::Text("x".into())),
            block(5, Value::Float(2.5)),
        ]);
        assert_eq!(all.columns.len(), 2);
        assert_eq!(&*all.columns[0].times_ns, [9, 5]);
        assert_eq!(all.columns[0].values, Values::Float(vec![1.5, 2.5]));
        assert_eq!(decode_columns(&encode_columns(&all, 1).unwrap()).unwrap(), all);
    }
}
