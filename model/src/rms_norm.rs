//! Root-mean-square layer normalization.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::fused;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis (arXiv:1910.07467).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Gain, `[hidden]`.
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl RmsNorm {
    /// A norm with gain 1.
    pub fn init(hidden: usize, eps: f64, device: &Device) -> Self {
        Self { weight: Param::from_tensor(Tensor::ones([hidden], device)), eps }
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, hidden]`
    /// - returns `[rows, hidden]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        fused::rms_norm(x, self.weight.val(), self.eps as f32)
    }
}
