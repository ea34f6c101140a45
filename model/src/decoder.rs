//! The decoder: every architecture is a choice of its parts.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use tern_format::config::ModelConfig;

use crate::block::Block;
use crate::embedding::Embedding;
use crate::fused::{self, RopeTables};
use crate::parameters::Init;
use crate::rms_norm::RmsNorm;

/// Embedding, blocks and final norm; named as in Hugging Face's LLaMA.
#[derive(Module, Debug)]
pub struct Trunk {
    /// `[vocab, hidden]`
    pub embed_tokens: Embedding,
    /// The blocks, first to last.
    pub layers: Vec<Block>,
    /// The final norm.
    pub norm: RmsNorm,
}

/// A causal language model.
#[derive(Module, Debug)]
pub struct Decoder {
    /// All but the head.
    pub model: Trunk,
    /// The head, unless it is the embedding.
    pub lm_head: Option<Embedding>,
}

impl Decoder {
    /// Fresh weights: matrices and embeddings normally distributed, gains 1; a pure function of `seed`.
    pub fn init(config: &ModelConfig, seed: u64, device: &Device) -> Self {
        let init = &mut Init::new(seed);
        let rope =
            RopeTables::new(config.max_position_embeddings, config.head_dim, config.rope_theta);
        Self {
            model: Trunk {
                embed_tokens: Embedding::init(config, init, device),
                layers: (0..config.num_hidden_layers)
                    .map(|_| Block::init(config, &rope, init, device))
                    .collect(),
                norm: RmsNorm::init(config.hidden_size, config.rms_norm_eps, device),
            },
            lm_head: (!config.tie_word_embeddings).then(|| Embedding::init(config, init, device)),
        }
    }

    /// # Shapes
    ///
    /// - `ids`: `[batch, seq]`
    /// - returns logits `[batch * seq, vocab]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        let shape = ids.dims();
        let mut x = self.model.embed_tokens.forward(ids.flatten(0, 1));
        for block in &self.model.layers {
            x = block.forward(x, shape);
        }
        let x = self.model.norm.forward(x);
        self.lm_head.as_ref().unwrap_or(&self.model.embed_tokens).logits(x)
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
