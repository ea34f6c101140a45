//! The linear layer of BitNet: ternary weights, optionally eight-bit activations, no bias.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tern_format::config::{ActivationQuantizer, ModelConfig, Quantizer};

use crate::fused;
use crate::parameters::Init;

/// `y = x * ternarize(weight)^T`, straight through to the latent weights (arXiv:2402.17764).
///
/// With [`Quantizer::None`] it is a plain linear layer.
#[derive(Module, Debug)]
pub struct BitLinear {
    /// Latent weights, `[d_output, d_input]`.
    pub weight: Param<Tensor<2>>,
    #[module(skip)]
    quantizer: Quantizer,
    #[module(skip)]
    activation_quantizer: ActivationQuantizer,
}

impl BitLinear {
    /// A layer with normally distributed latent weights.
    pub fn init(
        config: &ModelConfig,
        [d_output, d_input]: [usize; 2],
        init: &mut Init,
        device: &Device,
    ) -> Self {
        Self {
            weight: init.normal([d_output, d_input], config.initializer_range, device),
            quantizer: config.quantizer,
            activation_quantizer: config.activation_quantizer,
        }
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, d_input]`
    /// - returns `[rows, d_output]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let latent = self.weight.val();
        let extra_eps = self.quantizer.extra_eps();
        match (self.quantizer, self.activation_quantizer) {
            (Quantizer::None, _) => fused::linear(x, latent),
            (_, ActivationQuantizer::None) => {
                fused::linear(x, fused::fake_ternarize(latent, extra_eps))
            }
            (_, ActivationQuantizer::Int8) => fused::quantized_linear(x, latent, extra_eps),
        }
    }
}
