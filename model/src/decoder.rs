//! The decoder: every architecture is a choice of its parts.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use tern_format::config::{ModelConfig, Position};

use crate::bit_linear::Product;
use crate::block::Block;
use crate::embedding::Embedding;
use crate::fused::{self, RopeTables};
use crate::norm::Norm;
use crate::parameters::Init;
use crate::precision::Precision;

/// Embedding, blocks and final norm; named as in Hugging Face's LLaMA.
#[derive(Module, Debug)]
pub struct Trunk {
    /// `[vocab, hidden]`
    pub embed_tokens: Embedding,
    /// `[max_position_embeddings, hidden]`, where positions are learned.
    pub embed_positions: Option<Embedding>,
    /// The blocks, first to last.
    pub layers: Vec<Block>,
    /// The final norm.
    pub norm: Norm,
}

/// A causal language model.
#[derive(Module, Debug)]
pub struct Decoder {
    /// All but the head.
    pub model: Trunk,
    /// The head, unless it is the embedding.
    pub lm_head: Option<Embedding>,
    #[module(skip)]
    head: Product,
}

impl Decoder {
    /// Fresh weights: matrices and embeddings normally distributed, gains 1, biases 0; a pure function of `seed`.
    pub fn init(config: &ModelConfig, seed: u64, device: &Device) -> Self {
        let init = &mut Init::new(seed);
        let positions = config.max_position_embeddings;
        let is_rotary = config.position == Position::Rope;
        let rope =
            is_rotary.then(|| RopeTables::new(positions, config.head_dim, config.rope_theta));
        let hidden = config.hidden_size;
        Self {
            model: Trunk {
                embed_tokens: Embedding::init(config.vocab_size, config, init, device),
                embed_positions: (!is_rotary)
                    .then(|| Embedding::init(positions, config, init, device)),
                layers: (0..config.num_hidden_layers)
                    .map(|_| Block::init(config, rope.as_ref(), init, device))
                    .collect(),
                norm: Norm::init(config.final_norm, hidden, config, device),
            },
            lm_head: (!config.tie_word_embeddings)
                .then(|| Embedding::init(config.vocab_size, config, init, device)),
            head: if config.ternary_head { Product::ternary(config) } else { Product::FLOAT },
        }
    }

    /// The same model with products of this precision; those of the attention scores stay f32.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.head.precision = precision;
        for linear in self.model.layers.iter_mut().flat_map(Block::linears_mut) {
            linear.product.precision = precision;
        }
        self
    }

    /// # Shapes
    ///
    /// - `ids`: `[batch, seq]`
    /// - returns logits `[batch * seq, vocab]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        let shape = ids.dims();
        let [batch, seq] = shape;
        let mut x = self.model.embed_tokens.forward(ids.clone().flatten(0, 1));
        if let Some(positions) = &self.model.embed_positions {
            let places = Tensor::<1, Int>::arange(0..seq as i64, &ids.device());
            x = x + positions.forward(places.repeat_dim(0, batch));
        }
        for block in &self.model.layers {
            x = block.forward(x, shape);
        }
        let head = self.lm_head.as_ref().unwrap_or(&self.model.embed_tokens);
        self.head.of(self.model.norm.forward(x), head.weight.val())
    }

    /// Mean cross-entropy of the next tokens, nats per token.
    ///
    /// # Shapes
    ///
    /// - `ids`, `targets`: `[batch, seq]`
    /// - returns `[1]`
    pub fn loss(&self, ids: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        fused::cross_entropy(self.forward(ids), targets.flatten(0, 1))
    }
}
