//! What writers of other formats need of a packed model.

use crate::error::{Error, Result};
use crate::packed::{Tensor, TernaryTensor};

/// The values of a tensor as the model computes with them, row-major.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    match tensor {
        Tensor::Float(float) => Ok(float.values()),
        Tensor::Ternary(ternary) => {
            let scale = one_scale(ternary)?;
            Ok(ternary.trits()?.into_iter().map(|trit| f32::from(trit) * scale).collect())
        }
    }
}

/// The scale of a matrix, of which there must be one: no format here holds more, and one in the place of many would be
/// another model.
pub(crate) fn one_scale(ternary: &TernaryTensor) -> Result<f32> {
    match ternary.scales[..] {
        [scale] => Ok(scale),
        ref scales => {
            let found = scales.len() as u64;
            Err(Error::Count { unit: "scales", expected: 1, found })
        }
    }
}

/// A part of the architecture that a format lacks.
pub(crate) fn lacks(key: &'static str, rule: impl Into<String>) -> Error {
    Error::Config { key, rule: rule.into() }
}
