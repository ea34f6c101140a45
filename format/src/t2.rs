//! The encoding `t2`: four trits a byte.
//!
//! A matrix is `[d_output, d_input]`; its rows are packed one by one, each into `ceil(d_input / 4)`
//! bytes, so a row begins at a byte and kernels can take rows apart. Bits `2i` and `2i + 1` (least
//! significant first) of byte `j` hold the code of input `4j + i`, which is `trit + 1`: 0, 1 or 2.
//! Code 3 is no trit: a file that holds one is refused. The bits of the last byte of a row past
//! `d_input` are zero, and a file in which one is set is refused: one model has one sequence of
//! bytes. (Zero bits read as a code would be the trit -1, so a kernel must leave them out.)
//!
//! Example: the row `1, 0, -1, 0, -1` has the codes `2, 1, 0, 1, 0`.
//!
//! ```text
//! byte 0 = 2 | 1 << 2 | 0 << 4 | 1 << 6 = 0x46
//! byte 1 = 0                            = 0x00    (one code, then six bits of padding)
//! ```
//!
//! The layout knows nothing of CPUs: a kernel that wants another order repacks when it loads.

use crate::error::{Error, Result};
use crate::rows;

/// Trits in a byte.
const PER_BYTE: usize = 4;

/// The trits of every byte, so that a byte costs one load. Code 3 reads as 2, and is refused first.
const TRITS: [[i8; PER_BYTE]; 256] = {
    let mut table = [[0; PER_BYTE]; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut i = 0;
        while i < PER_BYTE {
            table[byte][i] = (byte >> (2 * i) & 3) as i8 - 1;
            i += 1;
        }
        byte += 1;
    }
    table
};

/// Bytes of one row: `ceil(d_input / 4)`.
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
        for group in row.chunks(PER_BYTE) {
            bytes.push(group.iter().enumerate().fold(0, |byte, (i, &trit)| {
                assert!((-1..=1).contains(&trit), "{trit} is no trit");
                byte | ((trit + 1) as u8) << (2 * i)
            }));
        }
    }
    bytes
}

/// Checks that bytes are the rows of a matrix: their number, the codes and the padding.
///
/// # Errors
///
/// [`Error::Count`], [`Error::Code`] or [`Error::Padding`], with the place.
pub fn check(bytes: &[u8], d_output: usize, d_input: usize) -> Result<()> {
    rows::check_bytes(bytes, d_output, row_bytes(d_input))?;
    let padded = d_input % PER_BYTE;
    for (row, codes) in rows::packed(bytes, row_bytes(d_input)).enumerate() {
        // Rows without a code 3 are passed quickly.
        let threes = codes.iter().fold(0, |threes, byte| threes | byte & byte >> 1 & 0b0101_0101);
        for (j, byte) in codes.iter().enumerate().filter(|_| threes != 0) {
            let threes = byte & byte >> 1 & 0b0101_0101;
            let column = j * PER_BYTE + threes.trailing_zeros() as usize / 2;
            if threes != 0 && column < d_input {
                return Err(Error::Code { row, column });
            }
        }
        if padded != 0 && codes.last().is_some_and(|byte| byte >> (2 * padded) != 0) {
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
        assert_eq!(pack(&[1, 0, -1, 0, -1], 5), [0x46, 0x00]);
        assert_eq!(unpack(&[0x46, 0x00], 1, 5).unwrap(), [1, 0, -1, 0, -1]);
    }

    #[test]
    fn every_width_comes_back() {
        for d_input in 1..=67 {
            for d_output in [0, 1, 3] {
                let trits: Vec<i8> =
                    (0..d_output * d_input).map(|i| (i * 7 % 11 % 3) as i8 - 1).collect();
                let bytes = pack(&trits, d_input);
                assert_eq!(bytes.len(), d_output * row_bytes(d_input));
                assert_eq!(unpack(&bytes, d_output, d_input).unwrap(), trits);
            }
        }
    }

    #[test]
    fn every_code_three_is_found_where_it_stands() {
        let (d_output, d_input) = (3, 6);
        for row in 0..d_output {
            for column in 0..d_input {
                let mut bytes = pack(&vec![-1; d_output * d_input], d_input);
                bytes[row * row_bytes(d_input) + column / 4] |= 3 << (column % 4 * 2);
                let error = check(&bytes, d_output, d_input).unwrap_err();
                assert!(
                    matches!(error, Error::Code { row: r, column: c } if (r, c) == (row, column)),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn every_bit_of_padding_is_refused() {
        for bit in 2..8 {
            let error = unpack(&[0x46, 0x00, 0x46, 1 << bit], 2, 5).unwrap_err();
            assert!(matches!(error, Error::Padding { row: 1, d_input: 5 }), "bit {bit}: {error}");
        }
        // A code 3 in the padding is padding, not a code.
        assert!(matches!(check(&[0, 0b1100_0000], 1, 5), Err(Error::Padding { row: 0, .. })));
    }
}
