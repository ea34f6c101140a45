//! The encoding `s24n`: as [`crate::s24`], but no group is all zeros, which leaves 32: five bits a group, 1.25 bits a trit.
//! That no group is all zeros is a promise which training must keep; whoever writes finds the first that breaks it.
//!
//! The code of a group is that of `s24` less one: `4 p + a + 2 b` for two trits that are not zero, `24 + 2 i + a` for one.
//!
//! A matrix is `[d_output, d_input]`, and `d_input` must be a multiple of 4. Rows are packed one by one, each into
//! `ceil(5 d_input / 32)` bytes: bits `5 g` to `5 g + 4` of the row, least significant bit and first byte first, hold the code
//! of group `g`. So 32 inputs take five bytes, and every byte is five bits of code or more. The bits past the last group are
//! zero, and a file in which one is set is refused: one model has one sequence of bytes. (Zero bits are the code of a group,
//! so a reader must leave them out.)
//!
//! Example: the row `1, 0, -1, 0,  0, -1, 0, 0,  0, 1, 1, 0` has the codes `6, 27, 12`.
//!
//! ```text
//! 6 | 27 << 5 | 12 << 10 = 0x3366    bytes 66 33    (15 bits, then one of padding)
//! ```

use crate::error::{Error, Result};
use crate::packed::Encoding;
use crate::rows;
use crate::s24::{self, GROUP, PATTERNS};

/// Bits of a code.
const BITS: usize = 5;

/// Bytes that hold eight codes.
const WORD: usize = BITS;

/// Bytes of one row: `ceil(5 d_input / 32)`.
pub const fn row_bytes(d_input: usize) -> usize {
    let groups = d_input.div_ceil(GROUP);
    // Without a product that could overflow.
    groups / 8 * BITS + (groups % 8 * BITS).div_ceil(8)
}

/// Packs the rows of a matrix.
///
/// # Shapes
///
/// - `trits`: `[d_output, d_input]`, flat
/// - returns `[d_output, row_bytes(d_input)]`, flat
///
/// # Errors
///
/// [`Error::Width`] where `d_input` is no multiple of 4; [`Error::Group`] with the first group of which none or more than two
/// trits are not zero.
///
/// # Panics
///
/// If `d_input` is 0 or does not divide the number of trits, or a value is not -1, 0 or 1.
pub fn pack(trits: &[i8], d_input: usize) -> Result<Vec<u8>> {
    let codes = s24::codes(Encoding::S24n, trits, d_input, 1)?;
    let mut bytes = Vec::with_capacity(trits.len() / d_input * row_bytes(d_input));
    for row in codes.chunks_exact(d_input / GROUP) {
        for codes in row.chunks(8) {
            let with = |word, (i, &code)| word | u64::from(code - 1) << (BITS * i);
            let word = codes.iter().enumerate().fold(0, with);
            bytes.extend(&word.to_le_bytes()[..(codes.len() * BITS).div_ceil(8)]);
        }
    }
    Ok(bytes)
}

/// Checks that bytes are the rows of a matrix: their number and the padding. All else is some matrix.
///
/// # Errors
///
/// [`Error::Width`], [`Error::Count`] or [`Error::Padding`], with the place.
pub fn check(bytes: &[u8], d_output: usize, d_input: usize) -> Result<()> {
    s24::check_width(Encoding::S24n, d_input)?;
    rows::check_bytes(bytes, d_output, row_bytes(d_input))?;
    let used = d_input / GROUP % 8 * BITS % 8;
    let padded = |row: &[u8]| used != 0 && row.last().is_some_and(|byte| byte >> used != 0);
    match rows::packed(bytes, row_bytes(d_input)).position(padded) {
        Some(row) => Err(Error::Padding { row, d_input }),
        None => Ok(()),
    }
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
        let codes = row.chunks(WORD).flat_map(|bytes| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            let word = u64::from_le_bytes(word);
            (0..8).map(move |i| word >> (BITS * i) & 31)
        });
        codes.flat_map(|code| PATTERNS[code as usize + 1])
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const ROW: [i8; 12] = [1, 0, -1, 0, 0, -1, 0, 0, 0, 1, 1, 0];

    #[test]
    fn the_worked_example() {
        assert_eq!(pack(&ROW, 12).unwrap(), [0x66, 0x33]);
        assert_eq!(unpack(&[0x66, 0x33], 1, 12).unwrap(), ROW);
    }

    #[test]
    fn a_group_without_a_code_is_named() {
        let of = |group: [i8; 4]| {
            let trits = [&ROW[..], &ROW[..4], &group, &ROW[..4]].concat();
            pack(&trits, 12).unwrap_err().to_string()
        };
        let place = "row 1, columns 4 to 7: s24n has no code for";
        assert_eq!(of([0; 4]), format!("{place} 0 trits that are not zero"));
        assert_eq!(of([1, 0, -1, 1]), format!("{place} 3 trits that are not zero"));
        assert_eq!(of([-1; 4]), format!("{place} 4 trits that are not zero"));
    }

    #[test]
    fn padding_and_other_widths_are_refused() {
        for groups in 1..20 {
            let d_input = groups * GROUP;
            let bytes = vec![0; 2 * row_bytes(d_input)];
            assert!(check(&bytes, 2, d_input).is_ok());
            for bit in groups * BITS..8 * row_bytes(d_input) {
                let mut bytes = bytes.clone();
                bytes[row_bytes(d_input) + bit / 8] |= 1 << (bit % 8);
                let error = check(&bytes, 2, d_input).unwrap_err();
                assert!(matches!(error, Error::Padding { row: 1, .. }), "bit {bit}: {error}");
            }
        }
        for d_input in [1, 2, 3, 5, 18] {
            let checked = check(&[0; 2], 1, d_input).unwrap_err();
            assert_eq!(
                checked.to_string(),
                format!("s24n has groups of four: d_input must be a multiple of 4, is {d_input}")
            );
            assert!(matches!(pack(&vec![1; d_input], d_input), Err(Error::Width { .. })));
        }
    }

    #[test]
    fn the_bytes_of_a_row_are_counted_without_overflow() {
        assert!(row_bytes(usize::MAX) > usize::MAX / 8);
    }
}
