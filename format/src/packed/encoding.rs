//! The ways in which trits become bytes. A file has one.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{s24, s24n, t2, t5};

/// How trits become bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Four trits a byte ([`crate::t2`]).
    T2,
    /// Five trits a byte ([`crate::t5`]).
    T5,
    /// Of four trits at most two are not zero ([`crate::s24`]).
    S24,
    /// Of four trits one or two are not zero ([`crate::s24n`]).
    S24n,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::T2, Self::T5, Self::S24, Self::S24n];

    /// What a file and the command line call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::T2 => "t2",
            Self::T5 => "t5",
            Self::S24 => "s24",
            Self::S24n => "s24n",
        }
    }

    /// Bytes of one row.
    ///
    /// # Errors
    ///
    /// [`Error::Width`] if there are no rows of this width in it.
    pub fn row_bytes(self, d_input: usize) -> Result<usize> {
        match self {
            Self::T2 => return Ok(t2::row_bytes(d_input)),
            Self::T5 => return Ok(t5::row_bytes(d_input)),
            Self::S24 | Self::S24n => s24::check_width(self, d_input)?,
        }
        Ok(if self == Self::S24 { s24::row_bytes(d_input) } else { s24n::row_bytes(d_input) })
    }

    /// Packs the rows of a matrix.
    ///
    /// # Shapes
    ///
    /// - `trits`: `[d_output, d_input]`, flat
    ///
    /// # Errors
    ///
    /// [`Error::Width`] or [`Error::Group`], where the encoding cannot hold these trits.
    ///
    /// # Panics
    ///
    /// As [`t2::pack`].
    pub fn pack(self, trits: &[i8], d_input: usize) -> Result<Vec<u8>> {
        match self {
            Self::T2 => Ok(t2::pack(trits, d_input)),
            Self::T5 => Ok(t5::pack(trits, d_input)),
            Self::S24 => s24::pack(trits, d_input),
            Self::S24n => s24n::pack(trits, d_input),
        }
    }

    /// Checks that bytes are the rows of a matrix.
    ///
    /// # Errors
    ///
    /// What is wrong with them, and where.
    pub fn check(self, bytes: &[u8], d_output: usize, d_input: usize) -> Result<()> {
        let check = match self {
            Self::T2 => t2::check,
            Self::T5 => t5::check,
            Self::S24 => s24::check,
            Self::S24n => s24n::check,
        };
        check(bytes, d_output, d_input)
    }

    /// Unpacks a matrix, `[d_output, d_input]`, flat.
    ///
    /// # Errors
    ///
    /// Those of [`Self::check`].
    pub fn unpack(self, bytes: &[u8], d_output: usize, d_input: usize) -> Result<Vec<i8>> {
        let unpack = match self {
            Self::T2 => t2::unpack,
            Self::T5 => t5::unpack,
            Self::S24 => s24::unpack,
            Self::S24n => s24n::unpack,
        };
        unpack(bytes, d_output, d_input)
    }
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|encoding| encoding.name() == name);
        found.ok_or_else(|| Error::Encoding { found: name.into() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::s24::{GROUP, PATTERNS};

    /// Rows of trits that an encoding holds, made of numbers, and `[d_output, d_input]`.
    fn matrix(encoding: Encoding, numbers: &[usize], width: usize) -> (Vec<i8>, [usize; 2]) {
        let d_output = numbers.len() / width;
        let numbers = &numbers[..d_output * width];
        let groups = |least: usize| {
            let patterns = &PATTERNS[least..];
            numbers.iter().flat_map(|n| patterns[n % patterns.len()]).collect()
        };
        match encoding {
            Encoding::T2 | Encoding::T5 => {
                (numbers.iter().map(|n| (n % 3) as i8 - 1).collect(), [d_output, width])
            }
            Encoding::S24 => (groups(0), [d_output, width * GROUP]),
            Encoding::S24n => (groups(1), [d_output, width * GROUP]),
        }
    }

    #[test]
    fn a_wrong_number_of_bytes_is_counted_and_nothing_is_allocated() {
        for encoding in Encoding::ALL {
            let error = encoding.unpack(&[0; 3], 2, 8).unwrap_err();
            assert!(matches!(error, Error::Count { expected: 4, found: 3, .. }), "{error}");
            assert!(encoding.unpack(&[0; 3], 1 << 30, 1 << 30).is_err());
            assert!(encoding.unpack(&[], 5, 0).unwrap().is_empty());
        }
    }

    proptest! {
        #[test]
        fn trits_come_back(numbers in vec(0..1000usize, 0..400), width in 1..70usize) {
            for encoding in Encoding::ALL {
                let (trits, [d_output, d_input]) = matrix(encoding, &numbers, width);
                let bytes = encoding.pack(&trits, d_input).unwrap();
                prop_assert_eq!(bytes.len(), d_output * encoding.row_bytes(d_input).unwrap());
                prop_assert_eq!(encoding.unpack(&bytes, d_output, d_input).unwrap(), trits);
            }
        }

        #[test]
        fn what_is_read_is_written_again(bytes in vec(any::<u8>(), 0..60), d_input in 1..48usize) {
            for encoding in Encoding::ALL {
                let Ok(row_bytes) = encoding.row_bytes(d_input) else { continue };
                let rows = bytes.len() / row_bytes;
                let bytes = &bytes[..rows * row_bytes];
                if let Ok(trits) = encoding.unpack(bytes, rows, d_input) {
                    prop_assert_eq!(encoding.pack(&trits, d_input).unwrap(), bytes);
                }
            }
        }
    }
}
