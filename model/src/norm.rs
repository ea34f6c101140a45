//! RMSNorm and LayerNorm.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tern_format::config::{self, ModelConfig};

use crate::fused;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis (RMSNorm, arXiv:1910.07467), or with a bias
/// `(x - mean) / sqrt(variance + eps) * weight + bias` (LayerNorm, arXiv:1607.06450).
#[derive(Module, Debug)]
pub struct Norm {
    /// Gain, `[hidden]`.
    pub weight: Param<Tensor<1>>,
    /// `[hidden]`, of a LayerNorm.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    eps: f64,
}

impl Norm {
    /// A norm with gain 1 and bias 0.
    pub fn init(kind: config::Norm, hidden: usize, config: &ModelConfig, device: &Device) -> Self {
        let weight = Param::from_tensor(Tensor::ones([hidden], device));
        match kind {
            config::Norm::Rms => Self { weight, bias: None, eps: config.rms_norm_eps },
            config::Norm::Layer => {
                let bias = Some(Param::from_tensor(Tensor::zeros([hidden], device)));
                Self { weight, bias, eps: config.layer_norm_eps }
            }
        }
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, hidden]`
    /// - returns `[rows, hidden]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (gain, eps) = (self.weight.val(), self.eps as f32);
        match &self.bias {
            None => fused::rms_norm(x, gain, eps),
            Some(bias) => fused::layer_norm(x, gain, bias.val(), eps),
        }
    }
}
