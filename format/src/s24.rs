//! The encoding `s24`: rows of which four consecutive inputs, a *group*, have at most two that are not zero (2:4), three
//! groups in 16 bits, 1.33 bits a trit.
//!
//! There are 33 such groups. Their codes:
//!
//! ```text
//! 0                            no trit but zeros
//! 1 + 4 p + a + 2 b            two that are not zero, at the p-th of the pairs 01 02 03 12 13 23 of places;
//!                              a is 1 if the first is -1, b is 1 if the second is
//! 25 + 2 i + a                 one that is not zero, at place i; a is 1 if it is -1
//! ```
//!
//! A matrix is `[d_output, d_input]`, and `d_input` must be a multiple of 4. Rows are packed one by one, each into
//! `ceil(d_input / 12)` little-endian words of 16 bits. Word `j` is `c0 + 33 c1 + 1089 c2`, where `ci` is the code of group
//! `3j + i`. So a word is at most 35,936, and a file with a larger one is refused. In the last word of a row the codes past
//! the last group are 0, and a file in which one is not is refused: one model has one sequence of bytes.
//!
//! Example: the row `1, 0, -1, 0,  0, 0, 0, 0,  0, -1, 0, 0,  0, 1, 1, 0` has the codes `7, 0, 28, 13`.
//!
//! ```text
//! word 0 = 7 + 33 * 0 + 1089 * 28 = 30499 = 0x7723    bytes 23 77
//! word 1 = 13                             = 0x000D    bytes 0D 00    (one code, then two of padding)
//! ```

use crate::error::{Error, Result};
use crate::packed::Encoding;
use crate::rows;

/// Inputs of a group.
pub const GROUP: usize = 4;

/// Groups in a word.
const PER_WORD: usize = 3;

/// `33^i`: how many words there are of so many codes.
const POWERS: [u16; PER_WORD + 1] = [1, 33, 33 * 33, 33 * 33 * 33];

/// The groups by their codes.
pub const PATTERNS: [[i8; GROUP]; 33] = {
    let mut patterns = [[0; GROUP]; 33];
    let mut code = 1;
    let mut first = 0;
    while first < GROUP {
        let mut second = first + 1;
        while second < GROUP {
            let mut signs = 0;
            while signs < 4 {
                patterns[code][first] = 1 - 2 * (signs % 2);
                patterns[code][second] = 1 - 2 * (signs / 2);
                code += 1;
                signs += 1;
            }
            second += 1;
        }
        first += 1;
    }
    let mut place = 0;
    while place < GROUP {
        patterns[code][place] = 1;
        patterns[code + 1][place] = -1;
        code += 2;
        place += 1;
    }
    patterns
};

/// The code of each group by [`index`], and `NONE` where there is none.
const CODES: [u8; 81] = {
    let mut codes = [NONE; 81];
    let mut code = 0;
    while code < PATTERNS.len() {
        codes[index(&PATTERNS[code])] = code as u8;
        code += 1;
    }
    codes
};

const NONE: u8 = u8::MAX;

/// The trits as a number of base 3.
const fn index(&[a, b, c, d]: &[i8; GROUP]) -> usize {
    ((a + 1) + 3 * (b + 1) + 9 * (c + 1)) as usize + 27 * (d + 1) as usize
}

/// Bytes of one row: `2 ceil(d_input / 12)`.
pub const fn row_bytes(d_input: usize) -> usize {
    2 * d_input.div_ceil(PER_WORD * GROUP)
}

/// The codes of all groups of a matrix, row by row.
///
/// # Errors
///
/// [`Error::Width`]; [`Error::Group`] for the first group that has no code of at least `least`.
///
/// # Panics
///
/// If `d_input` does not divide the number of trits, or a value is not -1, 0 or 1.
pub(crate) fn codes(
    encoding: Encoding,
    trits: &[i8],
    d_input: usize,
    least: u8,
) -> Result<Vec<u8>> {
    check_width(encoding, d_input)?;
    rows::check_trits(trits, d_input);
    let mut codes = Vec::with_capacity(trits.len() / GROUP);
    for (g, group) in trits.as_chunks().0.iter().enumerate() {
        assert!(group.iter().all(|trit| (-1..=1).contains(trit)), "{group:?} are no trits");
        let code = CODES[index(group)];
        if code == NONE || code < least {
            let (row, column) = (g * GROUP / d_input, g * GROUP % d_input);
            let non_zeros = group.iter().filter(|&&trit| trit != 0).count();
            return Err(Error::Group { encoding: encoding.name(), row, column, non_zeros });
        }
        codes.push(code);
    }
    Ok(codes)
}

/// Refuses rows that end inside a group.
pub(crate) fn check_width(encoding: Encoding, d_input: usize) -> Result<()> {
    match d_input.is_multiple_of(GROUP) {
        true => Ok(()),
        false => Err(Error::Width { encoding: encoding.name(), d_input }),
    }
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
/// [`Error::Width`] where `d_input` is no multiple of 4; [`Error::Group`] with the first group of which more than two trits
/// are not zero.
///
/// # Panics
///
/// If `d_input` is 0 or does not divide the number of trits, or a value is not -1, 0 or 1.
pub fn pack(trits: &[i8], d_input: usize) -> Result<Vec<u8>> {
    let codes = codes(Encoding::S24, trits, d_input, 0)?;
    let mut bytes = Vec::with_capacity(trits.len() / d_input * row_bytes(d_input));
    for row in codes.chunks_exact(d_input / GROUP) {
        for codes in row.chunks(PER_WORD) {
            let word: u16 = codes.iter().zip(POWERS).map(|(&code, p)| u16::from(code) * p).sum();
            bytes.extend(word.to_le_bytes());
        }
    }
    Ok(bytes)
}

/// Checks that bytes are the rows of a matrix: their number, the words and the padding.
///
/// # Errors
///
/// [`Error::Width`], [`Error::Count`], [`Error::Word`] or [`Error::Padding`], with the place.
pub fn check(bytes: &[u8], d_output: usize, d_input: usize) -> Result<()> {
    check_width(Encoding::S24, d_input)?;
    rows::check_bytes(bytes, d_output, row_bytes(d_input))?;
    const LARGEST: u16 = POWERS[PER_WORD] - 1;
    let padded = d_input / GROUP % PER_WORD;
    for (row, bytes) in rows::packed(bytes, row_bytes(d_input)).enumerate() {
        let mut last = 0;
        for (j, word) in words(bytes).enumerate() {
            if word > LARGEST {
                let (found, most) = (word.into(), LARGEST.into());
                return Err(Error::Word { row, column: PER_WORD * GROUP * j, found, most });
            }
            last = word;
        }
        if padded != 0 && last >= POWERS[padded] {
            return Err(Error::Padding { row, d_input });
        }
    }
    Ok(())
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks().0.iter().map(|&word| u16::from_le_bytes(word))
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
        let codes = words(row).flat_map(|word| [word % 33, word / 33 % 33, word / 1089]);
        codes.flat_map(|code| PATTERNS[usize::from(code)])
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const ROW: [i8; 16] = [1, 0, -1, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 1, 1, 0];

    #[test]
    fn the_worked_example() {
        assert_eq!(pack(&ROW, 16).unwrap(), [0x23, 0x77, 0x0d, 0x00]);
        assert_eq!(unpack(&[0x23, 0x77, 0x0d, 0x00], 1, 16).unwrap(), ROW);
    }

    #[test]
    fn the_groups_are_those_with_at_most_two_that_are_not_zero() {
        let mut held = 0;
        for n in 0..81i8 {
            let group = [n % 3 - 1, n / 3 % 3 - 1, n / 9 % 3 - 1, n / 27 - 1];
            let non_zeros = group.iter().filter(|&&trit| trit != 0).count();
            match pack(&group, 4) {
                Ok(bytes) => {
                    assert!(non_zeros <= 2);
                    assert_eq!(unpack(&bytes, 1, 4).unwrap(), group);
                    held += 1;
                }
                Err(error) => assert!(
                    matches!(error, Error::Group { non_zeros: n, .. } if n == non_zeros && n > 2),
                    "{error}"
                ),
            }
        }
        assert_eq!(held, 33);
    }

    #[test]
    fn a_group_without_a_code_is_named() {
        let trits = [ROW, ROW.map(i8::abs)].concat();
        let at = |place: usize| {
            let mut trits = trits.clone();
            trits[place..][..3].fill(-1);
            pack(&trits, 16).unwrap_err().to_string()
        };
        assert_eq!(at(24), "row 1, columns 8 to 11: s24 has no code for 3 trits that are not zero");
        assert_eq!(at(0), "row 0, columns 0 to 3: s24 has no code for 3 trits that are not zero");
    }

    #[test]
    fn every_word_is_three_groups_or_refused_where_it_stands() {
        for word in 0..=u16::MAX {
            let bytes = [[0, 0, 0, 0], [0, 0, word.to_le_bytes()[0], word.to_le_bytes()[1]]];
            match unpack(bytes.as_flattened(), 2, 24) {
                Ok(trits) => assert_eq!(pack(&trits, 24).unwrap(), bytes.as_flattened()),
                Err(error) => assert!(
                    word > 35_936
                        && matches!(error, Error::Word { row: 1, column: 12, most: 35_936, .. }),
                    "{word}: {error}"
                ),
            }
        }
    }

    #[test]
    fn padding_and_other_widths_are_refused() {
        for (d_input, first) in [(4, 33), (8, 1089)] {
            for word in first..=35_936u16 {
                let error = check(&word.to_le_bytes(), 1, d_input).unwrap_err();
                assert!(matches!(error, Error::Padding { row: 0, .. }), "{word}: {error}");
            }
            assert!(check(&(first - 1).to_le_bytes(), 1, d_input).is_ok());
        }
        for d_input in [1, 2, 3, 5, 18] {
            for error in [check(&[0; 2], 1, d_input), pack(&vec![0; d_input], d_input).map(drop)] {
                let error = error.unwrap_err();
                assert!(matches!(error, Error::Width { encoding: "s24", .. }), "{error}");
            }
        }
    }
}
