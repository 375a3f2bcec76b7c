//! The codec's promises, on blocks of every kind.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use farshore_series::limits::{MAX_ROWS, MAX_SERIES};
use farshore_series::{Block, BlockBuilder, DecodeError, EncodeError, ShapeError, decode, encode};
use proptest::prelude::*;

/// Equality by bits: NaN equals itself, and 0.0 is not -0.0.
fn assert_same(left: &Block, right: &Block) {
    let bits = |block: &Block| -> Vec<Vec<Option<u64>>> {
        block
            .columns
            .iter()
            .map(|column| column.iter().map(|cell| cell.map(f64::to_bits)).collect())
            .collect()
    };
    assert_eq!(left.series, right.series);
    assert_eq!(left.at_ms, right.at_ms);
    assert_eq!(bits(left), bits(right));
}

fn check_round_trip(block: &Block) -> usize {
    let encoded = encode(block).unwrap();
    let decoded = decode(&encoded).unwrap();
    assert_same(&decoded, block);
    encoded.len()
}

/// A small deterministic generator, so that sizes are the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One column of each kind, with gaps; also what the golden file of version 1 holds.
fn sample() -> Block {
    let start = 1_795_132_800_000;
    let row = |n: i64| {
        let x = n as f64;
        [
            ("cpu", Some(((n * 37) % 100) as f64 / 10_000.0)),
            ("excepted", Some(if n == 17 { -0.0 } else { x / 2.0 })),
            ("gap", (n % 3 == 0).then_some(x)),
            ("irrational", Some((x + 1.0).sqrt())),
            ("never", None),
            (
                "odd",
                [Some(f64::NAN), Some(-0.0), Some(f64::NEG_INFINITY), Some(f64::MIN_POSITIVE)]
                    [n as usize % 4],
            ),
            ("temperature", Some((2137 + n % 5) as f64 / 100.0)),
            ("uptime", Some(86_400.0 + 10.0 * x)),
        ]
    };
    let series = row(0).map(|(name, _)| name.to_owned()).to_vec();
    let columns = (0..series.len()).map(|s| (0..40).map(|n| row(n)[s].1).collect()).collect();
    let at_ms = (0..40).map(|n| start + n * 10_000 + n % 7 - if n > 30 { 5_000 } else { 0 }).collect();
    Block { series, at_ms, columns }
}

#[test]
fn version_1_decodes_for_ever() {
    let golden = std::fs::read(format!("{}/tests/golden/v1.block", env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert_eq!(golden[0], 1);
    let decoded = decode(&golden).unwrap();
    assert_same(&decoded, &sample());
}

/// Writes a new golden file. Only for a new version: an existing file must never change.
/// `cargo test -p farshore-series --test codec -- --ignored write_golden`
#[test]
#[ignore = "writes a file of the repository"]
fn write_golden() {
    let path =
        format!("{}/tests/golden/v{}.block", env!("CARGO_MANIFEST_DIR"), farshore_series::CODEC_VERSION);
    let mut file = std::fs::File::create_new(path).unwrap();
    std::io::Write::write_all(&mut file, &encode(&sample()).unwrap()).unwrap();
}

#[test]
fn encoding_is_deterministic() {
    assert_eq!(encode(&sample()).unwrap(), encode(&sample()).unwrap());
}

#[test]
fn every_change_to_a_single_byte_is_an_error() {
    let encoded = encode(&sample()).unwrap();
    let mut damaged = encoded.clone();
    for index in 0..encoded.len() {
        for change in 1..=255u8 {
            damaged[index] = encoded[index] ^ change;
            assert!(decode(&damaged).is_err(), "byte {index} ^ {change:#04x}");
        }
        damaged[index] = encoded[index];
    }
    assert!(decode(&damaged).is_ok());
}

#[test]
fn every_truncation_and_any_appended_byte_is_an_error() {
    let encoded = encode(&sample()).unwrap();
    for length in 0..encoded.len() {
        assert!(decode(&encoded[..length]).is_err(), "cut at {length}");
    }
    let mut longer = encoded.clone();
    longer.push(0);
    assert!(matches!(decode(&longer), Err(DecodeError::Checksum)));
}

#[test]
fn empty_and_extreme_blocks_round_trip() {
    check_round_trip(&Block::default());
    check_round_trip(&Block { series: vec!["a".into()], at_ms: vec![], columns: vec![vec![]] });
    check_round_trip(&Block {
        series: vec![],
        at_ms: vec![i64::MIN, i64::MAX, 0, -1, i64::MIN],
        columns: vec![],
    });
    let none = Block { series: vec!["a".into()], at_ms: vec![0; 9], columns: vec![vec![None; 9]] };
    check_round_trip(&none);
}

#[test]
fn blocks_at_the_limits_round_trip_and_beyond_are_refused() {
    let mut noise = Noise(7);
    let tall = Block {
        series: vec!["a".into()],
        at_ms: (0..MAX_ROWS as i64).collect(),
        columns: vec![(0..MAX_ROWS).map(|_| Some(f64::from_bits(noise.next()))).collect()],
    };
    check_round_trip(&tall);
    let wide = Block {
        series: (0..MAX_SERIES).map(|n| format!("s{n:03}")).collect(),
        at_ms: vec![1, 2],
        columns: vec![vec![Some(1.0), None]; MAX_SERIES],
    };
    check_round_trip(&wide);

    let refused = |block: &Block| match encode(block) {
        Err(EncodeError::Shape(error)) => error,
        other => panic!("{other:?}"),
    };
    let mut taller = tall;
    taller.at_ms.push(0);
    taller.columns[0].push(None);
    assert_eq!(refused(&taller), ShapeError::TooManyRows { rows: MAX_ROWS + 1 });
    let mut wider = wide.clone();
    wider.series.push("z".into());
    wider.columns.push(vec![None, None]);
    assert_eq!(refused(&wider), ShapeError::TooManySeries { series: MAX_SERIES + 1 });
    let mut ragged = wide.clone();
    ragged.columns[3].pop();
    assert_eq!(refused(&ragged), ShapeError::ColumnLength { index: 3, cells: 1, rows: 2 });
    let mut unsorted = wide;
    unsorted.series.swap(0, 1);
    assert_eq!(refused(&unsorted), ShapeError::NamesNotAscending { index: 1 });
}

/// Bytes per value of a sensor with two decimals that wanders, sampled each second with jitter.
fn bytes_per_reading(steps: u64) -> f64 {
    let mut noise = Noise(42);
    let mut builder = BlockBuilder::new();
    let mut readings = [2137i64, 101_325, 4_500, 23_000];
    let names = ["temperature", "pressure", "humidity", "voltage"];
    let mut at_ms = 1_795_132_800_000i64;
    for _ in 0..3600 {
        at_ms += 998 + noise.below(5) as i64;
        for reading in &mut readings {
            *reading += noise.below(steps) as i64 - (steps / 2) as i64;
        }
        let values = names.iter().zip(readings).map(|(name, reading)| (*name, reading as f64 / 100.0));
        builder.push(at_ms, values).unwrap();
    }
    let block = builder.finish();
    check_round_trip(&block) as f64 / block.points() as f64
}

#[test]
fn readings_with_two_decimals_take_little_more_than_their_entropy() {
    // The entropy of a step is log2(steps) bits: 0.40 bytes for 9, 0.67 for 41, 1.08 for 401.
    for (steps, most) in [(9, 0.60), (41, 0.90), (401, 1.60)] {
        let bytes = bytes_per_reading(steps);
        println!("two decimals, {steps} possible steps: {bytes:.3} bytes a reading");
        assert!(bytes < most, "{steps}: {bytes}");
    }
}

fn any_value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        1 => Just(None),
        2 => any::<u64>().prop_map(|bits| Some(f64::from_bits(bits))),
        3 => (any::<i32>(), 0..8).prop_map(|(n, k)| Some(f64::from(n) / 10f64.powi(k))),
        2 => any::<i64>().prop_map(|n| Some(n as f64)),
        1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, 0.1 + 0.2]).prop_map(Some),
    ]
}

/// Columns of one kind of value, as real ones are, and mixed ones.
fn any_column(rows: usize) -> impl Strategy<Value = Vec<Option<f64>>> {
    let decimals = (0..7, any::<bool>()).prop_flat_map(move |(k, gaps)| {
        let value = (-5_000_000i64..5_000_000).prop_map(move |n| Some(n as f64 / 10f64.powi(k)));
        let cell = if gaps { prop_oneof![Just(None), value.clone()].boxed() } else { value.boxed() };
        prop::collection::vec(cell, rows)
    });
    prop_oneof![decimals, prop::collection::vec(any_value(), rows)]
}

fn any_block() -> impl Strategy<Value = Block> {
    (0usize..60, prop::collection::btree_set("[a-z_/é]{1,12}", 0..6)).prop_flat_map(|(rows, names)| {
        let at_ms = prop_oneof![
            prop::collection::vec(any::<i64>(), rows),
            prop::collection::vec(-50i64..50, rows).prop_map(|jitter| (0..)
                .zip(jitter)
                .map(|(n, j)| 1_795_132_800_000 + 1000 * n + j)
                .collect()),
        ];
        let columns: Vec<_> = names.iter().map(|_| any_column(rows)).collect();
        (Just(names), at_ms, columns).prop_map(|(names, at_ms, columns)| Block {
            series: names.into_iter().collect(),
            at_ms,
            columns,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn every_block_comes_back_bit_for_bit(block in any_block()) {
        check_round_trip(&block);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), version in 0u8..3) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        prop_assert!(decode(&bytes).is_err());
    }
}
