//! Rows of a float matrix, looked up by number: tokens and learned positions.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use tern_format::config::ModelConfig;

use crate::fused;
use crate::parameters::Init;

/// A float matrix with one row a token or a position.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, hidden]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Normally distributed rows.
    pub fn init(rows: usize, config: &ModelConfig, init: &mut Init, device: &Device) -> Self {
        let shape = [rows, config.hidden_size];
        Self { weight: init.normal(shape, config.initializer_range, device) }
    }

    /// # Shapes
    ///
    /// - `ids`: `[tokens]`, each below `rows`
    /// - returns `[tokens, hidden]`
    pub fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        fused::embedding(self.weight.val(), ids)
    }
}
