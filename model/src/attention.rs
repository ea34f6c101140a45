//! Causal self-attention with rotary positions and grouped key and value heads.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tern_format::config::ModelConfig;

use crate::bit_linear::BitLinear;
use crate::fused::{self, AttentionShape, RopeTables};
use crate::parameters::Init;

/// `softmax(rope(q) rope(k)^T / sqrt(head_dim)) v`, causal (arXiv:1706.03762, arXiv:2104.09864, arXiv:2305.13245).
#[derive(Module, Debug)]
pub struct Attention {
    /// `[heads * head_dim, hidden]`
    pub q_proj: BitLinear,
    /// `[key_value_heads * head_dim, hidden]`
    pub k_proj: BitLinear,
    /// `[key_value_heads * head_dim, hidden]`
    pub v_proj: BitLinear,
    /// `[hidden, heads * head_dim]`
    pub o_proj: BitLinear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    key_value_heads: usize,
    #[module(skip)]
    head_dim: usize,
    #[module(skip)]
    rope: RopeTables,
}

impl Attention {
    /// Fresh weights; `rope` holds the model's longest sequence and is shared by its layers.
    pub fn init(config: &ModelConfig, rope: &RopeTables, init: &mut Init, device: &Device) -> Self {
        let query = config.num_attention_heads * config.head_dim;
        let key_value = config.num_key_value_heads * config.head_dim;
        Self {
            q_proj: BitLinear::init(config, [query, config.hidden_size], init, device),
            k_proj: BitLinear::init(config, [key_value, config.hidden_size], init, device),
            v_proj: BitLinear::init(config, [key_value, config.hidden_size], init, device),
            o_proj: BitLinear::init(config, [config.hidden_size, query], init, device),
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            rope: rope.clone(),
        }
    }

    /// # Shapes
    ///
    /// - `x`: `[batch * seq, hidden]`
    /// - returns `[batch * seq, hidden]`
    pub fn forward(&self, x: Tensor<2>, [batch, seq]: [usize; 2]) -> Tensor<2> {
        let q = self.q_proj.forward(x.clone()); // [batch * seq, heads * head_dim]
        let k = self.k_proj.forward(x.clone()); // [batch * seq, key_value_heads * head_dim]
        let v = self.v_proj.forward(x); // [batch * seq, key_value_heads * head_dim]
        let shape = AttentionShape {
            batch,
            seq,
            heads: self.heads,
            key_value_heads: self.key_value_heads,
            head_dim: self.head_dim,
        };
        self.o_proj.forward(fused::causal_attention(q, k, v, shape, &self.rope))
    }
}
