//! The linear layer of BitNet: ternary weights, optionally eight-bit activations, no bias.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tern_format::config::{ActivationQuantizer, ModelConfig, Quantizer};

use crate::fused;
use crate::parameters::Init;
use crate::quantizer::{quantize_int8, straight_through, ternarize};

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
        match self.activation_quantizer {
            ActivationQuantizer::None => fused::linear(x, self.effective_weight()),
            ActivationQuantizer::Int8 => self.forward_int8(x),
        }
    }

    /// The weight that the product sees: `scale * trits`, or the latent weight of a float layer; `[d_output, d_input]`.
    pub fn effective_weight(&self) -> Tensor<2> {
        let latent = self.weight.val();
        if self.quantizer == Quantizer::None {
            return latent;
        }
        let (trits, scale) = ternarize(latent.clone(), self.quantizer);
        straight_through(latent, trits.mul(scale))
    }

    /// Multiplies codes by trits first and scales after, so that the product is an exact sum of integers in any order:
    /// at most 127 * d_input, below 2^24 for every shape that [`ModelConfig::validate`] lets through.
    fn forward_int8(&self, x: Tensor<2>) -> Tensor<2> {
        let (codes, scale_x) = quantize_int8(x.clone());
        let (trits, scale_w) = ternarize(self.weight.val(), self.quantizer);
        let (scale_x, scale_w) = (scale_x.detach(), scale_w.detach());
        // The identity gradient of `scale * code` is a gradient of 1 / scale at the code.
        let codes = straight_through(x.div(scale_x.clone()), codes);
        let trits = straight_through(self.weight.val().div(scale_w.clone()), trits);
        fused::linear(codes, trits).mul(scale_x).mul(scale_w)
    }
}
