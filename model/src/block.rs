//! One pre-norm block of the decoder.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tern_format::config::ModelConfig;

use crate::attention::Attention;
use crate::bit_linear::BitLinear;
use crate::fused::RopeTables;
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::parameters::Init;

/// `x += attention(norm(x)); x += mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub input_layernorm: Norm,
    /// Causal self-attention.
    pub self_attn: Attention,
    /// Before the feed-forward block.
    pub post_attention_layernorm: Norm,
    /// Feed-forward.
    pub mlp: Mlp,
}

impl Block {
    /// Fresh weights; `rope` as in [`Attention::init`].
    pub fn init(
        config: &ModelConfig,
        rope: Option<&RopeTables>,
        init: &mut Init,
        device: &Device,
    ) -> Self {
        let norm = || Norm::init(config.norm, config.hidden_size, config, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::init(config, rope, init, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::init(config, init, device),
        }
    }

    /// # Shapes
    ///
    /// - `x`: `[batch * seq, hidden]`
    /// - returns `[batch * seq, hidden]`
    pub fn forward(&self, x: Tensor<2>, shape: [usize; 2]) -> Tensor<2> {
        let attended = self.self_attn.forward(self.input_layernorm.forward(x.clone()), shape);
        let x = x + attended;
        let fed = self.mlp.forward(self.post_attention_layernorm.forward(x.clone()));
        x + fed
    }

    /// All linear layers.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut BitLinear> {
        let (attention, mlp) = (&mut self.self_attn, &mut self.mlp);
        [&mut attention.q_proj, &mut attention.k_proj, &mut attention.v_proj, &mut attention.o_proj]
            .into_iter()
            .chain(&mut mlp.gate_proj)
            .chain([&mut mlp.up_proj, &mut mlp.down_proj])
    }
}
