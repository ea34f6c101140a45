//! The linear layer of BitNet: ternary weights, optionally eight-bit activations.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tern_format::config::{ActivationQuantizer, LinearShape, ModelConfig, Quantizer};

use crate::fused;
use crate::parameters::Init;

/// How a product quantizes its two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantizers {
    weights: Quantizer,
    activations: ActivationQuantizer,
}

impl Quantizers {
    /// Floats times floats.
    pub const NONE: Self =
        Self { weights: Quantizer::None, activations: ActivationQuantizer::None };

    /// Those of a model's ternary layers.
    pub fn new(config: &ModelConfig) -> Self {
        Self { weights: config.quantizer, activations: config.activation_quantizer }
    }

    /// `x * ternarize(latent)^T`, straight through to the latent weights (arXiv:2402.17764); a plain product without
    /// quantizers.
    ///
    /// # Shapes
    ///
    /// - `x`: `[rows, d_input]`
    /// - `latent`: `[d_output, d_input]`
    /// - returns `[rows, d_output]`
    pub fn product(self, x: Tensor<2>, latent: Tensor<2>) -> Tensor<2> {
        let extra_eps = self.weights.extra_eps();
        match (self.weights, self.activations) {
            (Quantizer::None, _) => fused::linear(x, latent),
            (Quantizer::MiniLm, activations) => {
                fused::minilm_linear(x, latent, activations == ActivationQuantizer::Int8)
            }
            (_, ActivationQuantizer::None) => {
                fused::linear(x, fused::fake_ternarize(latent, extra_eps))
            }
            (_, ActivationQuantizer::Int8) => fused::quantized_linear(x, latent, extra_eps),
        }
    }
}

/// `y = x * ternarize(weight)^T + bias`; with [`Quantizer::None`] a plain linear layer.
#[derive(Module, Debug)]
pub struct BitLinear {
    /// Latent weights, `[d_output, d_input]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_output]`, never quantized.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    quantizers: Quantizers,
}

impl BitLinear {
    /// A layer with normally distributed latent weights and a bias of zeros, where it has one.
    pub fn init(
        config: &ModelConfig,
        LinearShape { d_output, d_input, bias, .. }: LinearShape,
        init: &mut Init,
        device: &Device,
    ) -> Self {
        Self {
            weight: init.normal([d_output, d_input], config.initializer_range, device),
            bias: bias.then(|| Param::from_tensor(Tensor::zeros([d_output], device))),
            quantizers: Quantizers::new(config),
        }
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, d_input]`
    /// - returns `[rows, d_output]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.add_bias(self.quantizers.product(x, self.weight.val()))
    }

    /// What layers give that are one matrix to the quantizer, with one scale: one product, cut where its layers end.
    ///
    /// # Shapes
    ///
    /// - `x`: `[rows, d_input]`
    /// - returns `[rows, d_output]` of each
    pub fn forward_as_one<const N: usize>(layers: [&Self; N], x: Tensor<2>) -> [Tensor<2>; N] {
        let latents = layers.map(|layer| layer.weight.val());
        let widths = latents.each_ref().map(|latent| latent.dims()[0]);
        let all = layers[0].quantizers.product(x, Tensor::cat(latents.into(), 0));
        let mut start = 0;
        std::array::from_fn(|i| {
            let y = all.clone().narrow(1, start, widths[i]);
            start += widths[i];
            layers[i].add_bias(y)
        })
    }

    fn add_bias(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            None => y,
            Some(bias) => fused::add_bias(y, bias.val()),
        }
    }
}
