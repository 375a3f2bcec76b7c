//! CRC-32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720 appendix B.4). It detects every error burst
//! of up to 32 bits, so every change to a single byte.

/// Row `n`: what a byte does that is followed by `n` zero bytes. Eight bytes are taken at once ("slicing by 8", Kounavis and
/// Berry 2005).
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x82F6_3B78 } else { value >> 1 };
            bit += 1;
        }
        tables[0][index] = value;
        index += 1;
    }
    let mut row = 1;
    while row < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[row - 1][index];
            tables[row][index] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            index += 1;
        }
        row += 1;
    }
    tables
}

/// The checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let at = |row: usize, byte: u8| TABLES[row][usize::from(byte)];
    let (eights, rest) = bytes.as_chunks::<8>();
    let crc = eights.iter().fold(!0u32, |crc, eight| {
        let [a, b, c, d] = crc.to_le_bytes();
        at(7, eight[0] ^ a)
            ^ at(6, eight[1] ^ b)
            ^ at(5, eight[2] ^ c)
            ^ at(4, eight[3] ^ d)
            ^ at(3, eight[4])
            ^ at(2, eight[5])
            ^ at(1, eight[6])
            ^ at(0, eight[7])
    });
    let crc = rest.iter().fold(crc, |crc, byte| at(0, crc as u8 ^ byte) ^ (crc >> 8));
    !crc
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn published_vectors_hold() {
        // RFC 3720 B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xff; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn eight_bytes_at_once_give_what_one_after_the_other_gives() {
        let bytes: Vec<u8> = (0..200u32).map(|n| (n * 167 + 13) as u8).collect();
        for end in 0..bytes.len() {
            let slow = bytes[..end].iter().fold(!0u32, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |value, _| {
                    if value & 1 == 1 { (value >> 1) ^ 0x82F6_3B78 } else { value >> 1 }
                })
            });
            assert_eq!(crc32c(&bytes[..end]), !slow, "{end}");
        }
    }
}
