//! Token embedding, and the head that may share its matrix.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use tern_format::config::ModelConfig;

use crate::fused;
use crate::parameters::Init;

/// A float matrix with one row a token.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab, hidden]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Normally distributed rows.
    pub fn init(config: &ModelConfig, init: &mut Init, device: &Device) -> Self {
        let shape = [config.vocab_size, config.hidden_size];
        Self { weight: init.normal(shape, config.initializer_range, device) }
    }

    /// Looks up the rows of tokens.
    ///
    /// # Shapes
    ///
    /// - `ids`: `[rows]`
    /// - returns `[rows, hidden]`
    pub fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        fused::embedding(self.weight.val(), ids)
    }

    /// Scores every token.
    ///
    /// # Shapes
    ///
    /// - `x`: `[rows, hidden]`
    /// - returns logits `[rows, vocab]`
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        fused::linear(x, self.weight.val())
    }
}
