//! What is taken from outside at most.

/// Bytes of a request's body as sent.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a body after it was unpacked.
pub const MAX_UNPACKED_BYTES: usize = 32 * 1024 * 1024;
/// How many times larger than sent a body may get when it is unpacked, once it is larger than [`FREE_UNPACKED_BYTES`].
pub const MAX_UNPACK_RATIO: usize = 200;
/// Bytes that a body may have unpacked whatever its ratio: many equal points pack very well.
pub const FREE_UNPACKED_BYTES: usize = 1024 * 1024;
/// Bytes of a name: measurement, tag key, tag value, field key.
pub const MAX_NAME_BYTES: usize = 256;
/// Tags of a point.
pub const MAX_TAGS: usize = 32;
/// Fields of a point.
pub const MAX_FIELDS: usize = 256;
/// Bytes of a value that is text or JSON.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Bytes of one line of the line protocol or of NDJSON.
pub const MAX_LINE_BYTES: usize = 256 * 1024;
/// Rejected points of one body that are told one by one; the others are counted.
pub const MAX_REJECTIONS_TOLD: usize = 16;
/// Values of one body: each field of a point is one. In memory a value takes many times the few bytes in which it may be written.
pub const MAX_VALUES: usize = 500_000;
/// Series that one body names.
pub const MAX_BODY_SERIES: usize = 100_000;
/// Bytes of the names of all series of one body: each field of a line repeats the line's tags.
pub const MAX_NAMES_BYTES: usize = 8 * 1024 * 1024;
/// Data points of one OTLP request.
pub const MAX_OTLP_POINTS: usize = 500_000;
/// Buckets of a histogram.
pub const MAX_BUCKETS: usize = 512;
/// Bytes of an MQTT packet, its fixed header not counted.
pub const MAX_PACKET_BYTES: usize = 1024 * 1024;
/// Bytes of the first MQTT packet, of a client of whom nothing is known: its id, user, password and will.
pub const MAX_CONNECT_BYTES: usize = 16 * 1024;
/// Topic filters of one SUBSCRIBE.
pub const MAX_FILTERS: usize = 64;
