//! Elements of files as floats.

use crate::error::{Error, Result};

/// The elements of a tensor, one after the other; bytes behind the last whole one are left.
pub(crate) fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&element| value(element)).collect()
}

/// Values of which every one is a number; else the place of the first that is none, stored as `dtype`.
pub(crate) fn finite(values: Vec<f32>, dtype: &'static str) -> Result<Vec<f32>> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::NotFinite { index, dtype, value: values[index] }),
        None => Ok(values),
    }
}
