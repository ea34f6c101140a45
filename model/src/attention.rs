//! Causal self-attention with rotary positions and grouped key and value heads.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tern_format::config::{AttentionInitializer, ModelConfig};

use crate::bit_linear::BitLinear;
use crate::fused::{self, AttentionShape, RopeTables};
use crate::parameters::{Init, values};

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
        let mut attention = Self {
            q_proj: BitLinear::init(config, [query, config.hidden_size], init, device),
            k_proj: BitLinear::init(config, [key_value, config.hidden_size], init, device),
            v_proj: BitLinear::init(config, [key_value, config.hidden_size], init, device),
            o_proj: BitLinear::init(config, [config.hidden_size, query], init, device),
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            rope: rope.clone(),
        };
        if config.attention_initializer == AttentionInitializer::Copy {
            attention.o_proj.weight = attention.transposed_values(device);
        }
        attention
    }

    /// The value projection transposed, each key and value head once for every query head that it serves:
    /// `[hidden, heads * head_dim]`.
    fn transposed_values(&self, device: &Device) -> Param<Tensor<2>> {
        let [_, hidden] = self.v_proj.weight.dims();
        let values = values(self.v_proj.weight.val());
        let shared = self.heads / self.key_value_heads;
        let transposed: Vec<f32> = (0..hidden)
            .flat_map(|column| {
                let row = move |head: usize, i| (head / shared * self.head_dim + i) * hidden;
                (0..self.heads)
                    .flat_map(move |head| (0..self.head_dim).map(move |i| row(head, i) + column))
            })
            .map(|place| values[place])
            .collect();
        let shape = [hidden, self.heads * self.head_dim];
        Param::from_tensor(Tensor::from_data(TensorData::new(transposed, shape), device))
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

#[cfg(test)]
mod tests {
    use tern_format::config::Architecture;

    use super::*;

    #[test]
    fn the_output_starts_as_the_transposed_values() {
        let config = ModelConfig {
            hidden_size: 6,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 2,
            attention_initializer: AttentionInitializer::Copy,
            ..ModelConfig::preset(Architecture::Bitlm)
        };
        let device = Device::flex();
        let rope = RopeTables::new(8, 2, 1e4);
        let attention = Attention::init(&config, &rope, &mut Init::new(1), &device);
        let (v, o) = (values(attention.v_proj.weight.val()), values(attention.o_proj.weight.val()));
        for hidden in 0..6 {
            for head in 0..4 {
                for i in 0..2 {
                    let value = v[(head / 2 * 2 + i) * 6 + hidden];
                    assert_eq!(o[hidden * 8 + head * 2 + i], value);
                }
            }
        }
    }
}
