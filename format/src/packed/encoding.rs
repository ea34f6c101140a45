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
