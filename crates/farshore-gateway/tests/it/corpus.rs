//! Broken input for every decoder: a corpus of good bodies and of known tricks, changed at random, seeded and bounded. Each gives points or typed
//! errors, and what it gives is no more than was sent.

use std::io::Write as _;

use farshore_gateway::decode::body::{Encoding, unpack};
use farshore_gateway::decode::{Precision, json, line, otlp};
use farshore_gateway::limits::{MAX_BODY_BYTES, MAX_UNPACKED_BYTES};
use farshore_gateway::mqtt::codec::{Version, decode};

/// Rounds for each decoder.
const ROUNDS: usize = 4_000;

/// Small, seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end.max(1)
    }

    /// One to four changes: a byte set, a piece taken out, doubled, or put in from another body; the end cut off.
    fn change(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut body = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let (from, length) = (self.below(body.len() + 1), self.below(24));
            let to = (from + length).min(body.len());
            match self.below(5) {
                0 if from < body.len() => body[from] = u8::try_from(self.below(256)).expect("a byte"),
                1 => drop(body.drain(from..to)),
                2 => {
                    let piece = body[from..to].to_vec();
                    body.splice(from..from, piece.repeat(1 + self.below(20)));
                }
                3 => {
                    let other = &corpus[self.below(corpus.len())];
                    let at = self.below(other.len() + 1);
                    body.splice(from..to, other[at..(at + length).min(other.len())].iter().copied());
                }
                _ => body.truncate(from),
            }
        }
        body
    }
}

fn corpus(texts: &[&[u8]]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.to_vec()).collect()
}

#[test]
fn json_bodies() {
    let corpus = corpus(&[
        br#"{"sensor_id": "temp-01", "value": 23.5, "unit": "celsius", "tags": {"location": "warehouse-A"}, "timestamp": "2025-10-09T10:30:00Z"}"#,
        br#"[{"measurement": "climate", "tags": {"room": "a"}, "fields": {"temperature": 21.5, "window": true}, "time": 1760005800}]"#,
        b"{\"sensor_id\":\"a\",\"value\":1}\n{\"sensor_id\":\"b\",\"value\":\"x\"}\n",
        br#"{"sensor_id":"\ud83d\ude00","value":1e308,"fields":{"a":{"b":[[[[[1]]]]]},"c":null}}"#,
        br#"{"sensor_id":"a","value":123456789012345678901234567890,"timestamp":-9223372036854775808}"#,
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        b"\xef\xbb\xbf{\"sensor_id\":\"a\",\"value\":NaN}",
    ]);
    let mut random = Random(1);
    for _ in 0..ROUNDS {
        let body = random.change(&corpus);
        let mut points = 0;
        let outcome = json::decode(&body, &mut |point| {
            points += 1;
            assert!(!point.measurement.is_empty() && !point.fields.is_empty());
            Ok(())
        });
        assert_eq!(points, outcome.accepted, "{:?}", String::from_utf8_lossy(&body));
        assert!(outcome.accepted + outcome.rejected > 0 && outcome.accepted <= body.len());
    }
}

#[test]
fn line_protocol() {
    let corpus = corpus(&[
        b"temp,room=a,floor=2 value=21.5,open=true,n=3i,s=\"x \\\" y\" 1700000000\nhum value=40",
        b"a\\ b,c\\,d=e\\=f g\\ h=\"multi\nline\" -5\n# comment\n\n",
        b"m f=9223372036854775807i,g=18446744073709551615u,h=1e999 99999999999999999999",
        b"m,a=1,a=2 f=1\nm f=1,f=2\n,=, =\n=\"\n",
        b"m f=\"\xc3\xbcn\xff\"",
    ]);
    let mut random = Random(2);
    for _ in 0..ROUNDS {
        let body = random.change(&corpus);
        let mut points = 0;
        let outcome = line::decode(&body, Precision::Seconds, &mut |_| {
            points += 1;
            Ok(())
        });
        assert_eq!(points, outcome.accepted);
        assert!(outcome.accepted + outcome.rejected <= body.len() + 1);
    }
}

#[test]
fn otlp_in_both_forms() {
    let json = corpus(&[
        br#"{"resourceMetrics":[{"resource":{"attributes":[{"key":"host","value":{"stringValue":"a"}}]},"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[{"timeUnixNano":"1700000000000000000","asDouble":1.5},{"asInt":"7"}]}}]}]}]}"#,
        br#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"h","histogram":{"dataPoints":[{"count":"2","sum":3,"bucketCounts":["1","1"],"explicitBounds":[0.5]}]}}]}]}]}"#,
        br#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"e","exponentialHistogram":{"dataPoints":[{"count":1,"scale":20,"zeroCount":"0","positive":{"offset":-3,"bucketCounts":[1]}}]}}]}]}]}"#,
    ]);
    // A gauge with one point and an attribute.
    let protobuf = corpus(&[
        b"\x0a\x2b\x12\x29\x12\x27\x0a\x01m\x2a\x22\x0a\x20\x19\x00\x00\x7d\x3c\xd6\x36\x97\x17\x21\x00\x00\x00\x00\x00\x00\xf8\x3f\x3a\x0b\x0a\x01k\x12\x06\x0a\x04abcd",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x04\x12\x02\x12\x00\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ]);
    let mut random = Random(3);
    for _ in 0..ROUNDS {
        for (corpus, protobuf) in [(&json, false), (&protobuf, true)] {
            let body = random.change(corpus);
            let mut points = 0;
            let mut sink = |_: &farshore_gateway::Point<'_>| {
                points += 1;
                Ok(())
            };
            let result = if protobuf {
                otlp::decode_protobuf(&body, &mut sink)
            } else {
                otlp::decode_json(&body, &mut sink)
            };
            assert!(points <= body.len(), "{points} points from {} bytes", body.len());
            if let Ok(outcome) = result {
                assert_eq!(points, outcome.accepted);
            }
        }
    }
}

#[test]
fn mqtt_packets_of_both_versions() {
    let corpus = corpus(&[
        b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x3c\x00\x01c",
        b"\x10\x1c\x00\x04MQTT\x05\xc2\x00\x3c\x05\x11\x00\x00\x00\x0a\x00\x01c\x00\x04user\x00\x01p",
        b"\x32\x09\x00\x03a/b\x00\x0721\x32\x09\x00\x03a/b\x00\x0822",
        b"\x32\x0c\x00\x03a/b\x00\x07\x02\x01\x0121",
        b"\x82\x08\x00\x01\x00\x03a/#\x01\xa2\x07\x00\x02\x00\x03a/#",
        b"\xc0\x00\xe0\x00\xff\xff\xff\xff\x7f",
    ]);
    let mut random = Random(4);
    for _ in 0..ROUNDS {
        let body = random.change(&corpus);
        for version in [Version::V311, Version::V5] {
            let mut rest = body.as_slice();
            while let Ok(Some((_, length))) = decode(rest, version) {
                assert!((1..=rest.len()).contains(&length), "it goes on, and not beyond the end");
                rest = &rest[length..];
            }
        }
    }
}

#[test]
fn packed_bodies() {
    let text = b"temp,room=a value=21.5 1\n".repeat(200);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).expect("memory");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(&text).expect("memory");
    let zstd = zstd::encode_all(text.as_slice(), 3).expect("memory");
    let bomb = zstd::encode_all(vec![0_u8; 8 * 1024 * 1024].as_slice(), 1).expect("memory");
    let corpus = vec![gzip.finish().expect("memory"), zlib.finish().expect("memory"), zstd, bomb];
    let mut random = Random(5);
    for _ in 0..ROUNDS / 4 {
        let body = random.change(&corpus);
        assert!(body.len() <= MAX_BODY_BYTES);
        for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
            if let Ok(plain) = unpack(&body, encoding) {
                assert!(plain.len() <= MAX_UNPACKED_BYTES);
            }
        }
    }
}
