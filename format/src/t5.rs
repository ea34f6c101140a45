//! The encoding `t5`: five trits a byte, 1.6 bits a trit, for archives. It is base 3, which costs more to take apart than
//! [`crate::t2`] and gives the same products.
//!
//! A matrix is `[d_output, d_input]`; its rows are packed one by one, each into `ceil(d_input / 5)` bytes. Byte `j` is
//! `c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4`, where `ci` is the code of input `5j + i`, `trit + 1`. So a byte is at most 242, and a
//! file with a larger one is refused. In the last byte of a row the codes past `d_input` are 0, and a file in which one is
//! not is refused: one model has one sequence of bytes. (Code 0 would be the trit -1, so a reader must leave it out.)
//!
//! Example: the row `1, 0, -1, 0, -1, 1` has the codes `2, 1, 0, 1, 0, 2`.
//!
//! ```text
//! byte 0 = 2 + 3 * 1 + 9 * 0 + 27 * 1 + 81 * 0 = 32 = 0x20
//! byte 1 = 2                                        = 0x02    (one code, then four of padding)
//! ```

use crate::error::{Error, Result};
use crate::rows;

/// Trits in a byte.
const PER_BYTE: usize = 5;

/// `3^i`: how many bytes there are of so many codes.
const POWERS: [u8; PER_BYTE + 1] = [1, 3, 9, 27, 81, 243];

/// The trits of every byte.
const TRITS: [[i8; PER_BYTE]; POWERS[PER_BYTE] as usize] = {
    let mut table = [[0; PER_BYTE]; POWERS[PER_BYTE] as usize];
    let mut byte = 0;
    while byte < table.len() {
        let mut i = 0;
        while i < PER_BYTE {
            table[byte][i] = (byte / POWERS[i] as usize % 3) as i8 - 1;
            i += 1;
        }
        byte += 1;
    }
    table
};

/// Bytes of one row: `ceil(d_input / 5)`.
pub const fn row_bytes(d_input: usize) -> usize {
    d_input.div_ceil(PER_BYTE)
}

/// Packs the rows of a matrix.
///
/// # Shapes
///
/// - `trits`: `[d_output, d_input]`, flat
/// - returns `[d_output, row_bytes(d_input)]`, flat
///
/// # Panics
///
/// If `d_input` is 0 or does not divide the number of trits, or a value is not -1, 0 or 1.
pub fn pack(trits: &[i8], d_input: usize) -> Vec<u8> {
    rows::check_trits(trits, d_input);
    let mut bytes = Vec::with_capacity(trits.len() / d_input * row_bytes(d_input));
    for row in trits.chunks_exact(d_input) {
        for five in row.chunks(PER_BYTE) {
            bytes.push(five.iter().zip(POWERS).fold(0, |byte, (&trit, power)| {
                assert!((-1..=1).contains(&trit), "{trit} is no trit");
                byte + (trit + 1) as u8 * power
            }));
        }
    }
    bytes
}

/// Checks that bytes are the rows of a matrix: their number, the codes and the padding.
///
/// # Errors
///
/// [`Error::Count`], [`Error::Word`] or [`Error::Padding`], with the place.
pub fn check(bytes: &[u8], d_output: usize, d_input: usize) -> Result<()> {
    rows::check_bytes(bytes, d_output, row_bytes(d_input))?;
    const LARGEST: u8 = POWERS[PER_BYTE] - 1;
    for (row, bytes) in rows::packed(bytes, row_bytes(d_input)).enumerate() {
        if let Some(j) = bytes.iter().position(|&byte| byte > LARGEST) {
            let (found, most) = (bytes[j].into(), LARGEST.into());
            return Err(Error::Word { row, column: PER_BYTE * j, found, most });
        }
        let padded = d_input % PER_BYTE;
        if padded != 0 && bytes.last().is_some_and(|&byte| byte >= POWERS[padded]) {
            return Err(Error::Padding { row, d_input });
        }
    }
    Ok(())
}

/// Unpacks a matrix.
///
/// # Shapes
///
/// - `bytes`: `[d_output, row_bytes(d_input)]`, flat
/// - returns `[d_output, d_input]`, flat, every entry -1, 0 or 1
///
/// # Errors
///
/// Those of [`check`].
pub fn unpack(bytes: &[u8], d_output: usize, d_input: usize) -> Result<Vec<i8>> {
    check(bytes, d_output, d_input)?;
    Ok(rows::unpack(bytes, [d_output, d_input], row_bytes(d_input), |row| {
        row.iter().flat_map(|&byte| TRITS[usize::from(byte)])
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example() {
        assert_eq!(pack(&[1, 0, -1, 0, -1, 1], 6), [0x20, 0x02]);
        assert_eq!(unpack(&[0x20, 0x02], 1, 6).unwrap(), [1, 0, -1, 0, -1, 1]);
    }

    #[test]
    fn every_byte_is_five_trits_or_refused_where_it_stands() {
        for byte in 0..=255 {
            match unpack(&[0, 0, 0, byte], 2, 10) {
                Ok(trits) => assert_eq!(pack(&trits, 10), [0, 0, 0, byte]),
                Err(error) => assert!(
                    byte > 242 && matches!(error, Error::Word { row: 1, column: 5, most: 242, .. }),
                    "{byte}: {error}"
                ),
            }
        }
    }

    #[test]
    fn padding_is_refused() {
        for byte in 3..=242 {
            let error = unpack(&[0, 2, 0, byte], 2, 6).unwrap_err();
            assert!(matches!(error, Error::Padding { row: 1, d_input: 6 }), "{byte}: {error}");
        }
    }
}
