//! The linear layer of BitNet: ternary weights, optionally eight-bit activations.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tern_format::config::{ActivationQuantizer, LinearShape, ModelConfig, Quantizer};

use crate::fused;
use crate::parameters::Init;
use crate::precision::Precision;

/// How a product quantizes its two sides, and what it rounds them to.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    weights: Quantizer,
    activations: ActivationQuantizer,
    pub(crate) precision: Precision,
}

impl Product {
    /// Floats times floats.
    pub const FLOAT: Self = Self {
        weights: Quantizer::None,
        activations: ActivationQuantizer::None,
        precision: Precision::F32,
    };

    /// That of a model's ternary layers.
    pub fn ternary(config: &ModelConfig) -> Self {
        Self {
            weights: config.quantizer,
            activations: config.activation_quantizer,
            precision: Precision::F32,
        }
    }

    /// `x * ternarize(latent)^T`, straight through to the latent weights (arXiv:2402.17764); a plain product without
    /// quantizers.
    ///
    /// # Shapes
    ///
    /// - `x`: `[rows, d_input]`
    /// - `latent`: `[d_output, d_input]`
    /// - returns `[rows, d_output]`
    pub fn of(self, x: Tensor<2>, latent: Tensor<2>) -> Tensor<2> {
        let Self { weights, activations, precision } = self;
        let extra_eps = weights.extra_eps();
        match (weights, activations) {
            (Quantizer::None, _) => fused::linear(x, latent, precision),
            (Quantizer::MiniLm, activations) => {
                let int8 = activations == ActivationQuantizer::Int8;
                fused::minilm_linear(x, latent, int8, precision)
            }
            (_, ActivationQuantizer::None) => {
                fused::ternary_linear(x, latent, extra_eps, precision)
            }
            (_, ActivationQuantizer::Int8) => {
                fused::quantized_linear(x, latent, extra_eps, precision)
            }
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
    pub(crate) product: Product,
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
            product: Product::ternary(config),
        }
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, d_input]`
    /// - returns `[rows, d_output]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.add_bias(self.product.of(x, self.weight.val()))
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
        let all = layers[0].product.of(x, Tensor::cat(latents.into(), 0));
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
