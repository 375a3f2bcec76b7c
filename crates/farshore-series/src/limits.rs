//! What one block may hold. The encoder refuses what the decoder would refuse.

/// Most rows (timestamps) in one block.
pub const MAX_ROWS: usize = 100_000;
/// Most series (columns) in one block.
pub const MAX_SERIES: usize = 256;
/// Longest name of a series, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 256;
/// Most memory that a decoded block takes (timestamps, cells and names), in bytes. Also the cap on the body
/// before compression.
pub const MAX_DECODED_BYTES: usize = 32 * 1024 * 1024;
/// Largest encoded block, in bytes. Incompressible bodies grow a little, hence the margin.
pub const MAX_ENCODED_BYTES: usize = MAX_DECODED_BYTES + 1024 * 1024;

/// Bytes of memory for a decoded block of this shape; names not counted.
pub(crate) fn decoded_bytes(rows: usize, series: usize) -> usize {
    let cell = size_of::<Option<f64>>();
    rows.saturating_mul(size_of::<i64>()).saturating_add(rows.saturating_mul(series).saturating_mul(cell))
}
