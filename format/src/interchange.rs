//! What writers of other formats need of a packed model.

use crate::error::{Error, Result};
use crate::packed::Tensor;

/// The values of a tensor as the model computes with them, row-major.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    match tensor {
        Tensor::Float(float) => Ok(float.values()),
        Tensor::Ternary(ternary) => {
            Ok(ternary.trits()?.into_iter().map(|trit| f32::from(trit) * ternary.scale).collect())
        }
    }
}

/// A part of the architecture that a format lacks.
pub(crate) fn lacks(key: &'static str, rule: impl Into<String>) -> Error {
    Error::Config { key, rule: rule.into() }
}
